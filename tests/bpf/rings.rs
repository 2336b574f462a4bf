//! The kernel's side of a pair of queues: its own ring buffers, and BPF programs
//! (`bpf/test/rings_test.bpf.c`) that write notices and read decisions.
//!
//! Guest tests use this, and a benchmark.

use libbpf_rs::{Map, MapCore, Object, ObjectBuilder, ProgramInput};
use scx_manyland::kernel::rings::{DecisionRing, NoticeRing};
use std::os::fd::AsFd;

/// The size that `bpf/test/rings_test.bpf.c` gives both rings.
pub const RING_BYTES: u32 = 1 << 16;

/// The BPF side, loaded.
pub struct Kernel {
    object: Object,
}

impl Kernel {
    /// Loads it, which takes root.
    pub fn load() -> Self {
        let code = include_bytes!(concat!(env!("OUT_DIR"), "/rings_test.bpf.o"));
        let object = ObjectBuilder::default().open_memory(code).expect("the object can be read");
        let object = object.load().expect("a kernel with BPF (CONFIG_BPF_SYSCALL) takes the rings");
        Self { object }
    }

    /// Runs a program for up to `count` records from number `first` on, and answers how many it
    /// dealt with and how many of those were wrong (`struct errand` of the programs).
    pub fn run(&self, name: &str, first: u64, count: u64) -> (u64, u64) {
        let program = self.object.progs_mut().find(|program| program.name() == name);
        let program = program.expect("the program is in the object");
        let mut errand = [first, count, 0, 0].map(u64::to_ne_bytes);
        let context_in = Some(errand.as_flattened_mut());
        program
            .test_run(ProgramInput { context_in, ..Default::default() })
            .expect("the kernel runs the program");
        let [_, _, done, wrong] = errand.map(u64::from_ne_bytes);
        (done, wrong)
    }

    /// A map of its programs.
    pub fn map(&self, name: &str) -> Map<'_> {
        self.object.maps().find(|map| map.name() == name).expect("the map is in the object")
    }

    /// User space's end of the ring that the programs write.
    pub fn notices(&self) -> NoticeRing {
        let ring = self.map("notices").as_fd().try_clone_to_owned().expect("a descriptor");
        NoticeRing::new(ring, RING_BYTES).expect("the ring can be mapped")
    }

    /// User space's end of the ring that the programs read.
    pub fn decisions(&self) -> DecisionRing {
        let ring = self.map("decisions").as_fd().try_clone_to_owned().expect("a descriptor");
        DecisionRing::new(ring, RING_BYTES).expect("the ring can be mapped")
    }
}
