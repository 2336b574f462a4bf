//! BPF programs that only tests and benchmarks load. Loading them takes root and a kernel with BPF.

pub mod rings;

/// Another sched_ext scheduler, the smallest there is: `bpf/test/other_test.bpf.c`.
pub const OTHER_SCHEDULER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/other_test.bpf.o"));
