//! How long tasks waited for a CPU after their wake-ups: a histogram for each CPU, filled by BPF.
//!
//! Invariant: every access is atomic, and nothing here is written.

use super::mapping::{Access, Mapping};
use crate::abi;
use crate::cpuset::CpuSet;
use crate::domains::latency::{BUCKETS, Snapshot};
use anyhow::{Context, Result};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};

/// The mapped histograms of all CPUs.
pub struct RunDelays(Mapping);

impl RunDelays {
    /// Maps the array of `nr_cpus` histograms.
    ///
    /// # Errors
    /// If the kernel refuses the mapping.
    ///
    /// # Panics
    /// If `nr_cpus` is 0.
    pub fn new(map: BorrowedFd<'_>, nr_cpus: u32) -> Result<RunDelays> {
        let mapping = Mapping::of_values::<abi::run_delays>(map, nr_cpus as usize, Access::Read);
        Ok(RunDelays(mapping.context("cannot map the histograms of run delays")?))
    }

    /// Copies the counts since attach of all these CPUs together.
    pub fn read(&self, cpus: &CpuSet, snapshot: &mut Snapshot) {
        snapshot.clear();
        for cpu in cpus.iter() {
            let Some(of_cpu) = self.0.value::<abi::run_delays>(cpu.index()) else { continue };
            // SAFETY: the array lies in the mapping, is aligned, and is only accessed atomically; the
            // type of one of its words is that of an AtomicU64.
            let counts: &[AtomicU64; BUCKETS] =
                unsafe { &*(&raw const (*of_cpu.as_ptr()).counts).cast() };
            snapshot.add(counts.iter().map(|count| count.load(Ordering::Relaxed)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, SeekFrom, Write};
    use std::os::fd::AsFd;

    #[test]
    fn the_delays_of_cpus_are_summed() {
        const BUCKET: usize = 40;
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(3 * size_of::<abi::run_delays>() as u64).unwrap();
        for (cpu, count) in [(0, 5_u64), (1, 100), (2, 7)] {
            let at = cpu * size_of::<abi::run_delays>() + BUCKET * size_of::<u64>();
            file.seek(SeekFrom::Start(at as u64)).unwrap();
            file.write_all(&count.to_ne_bytes()).unwrap();
        }
        let delays = RunDelays::new(file.as_fd(), 3).unwrap();
        let mut snapshot = Snapshot::empty();
        // Read again, the counts are the same.
        for _ in 0..2 {
            delays.read(&CpuSet::from_list("0,2,7").unwrap(), &mut snapshot);
            assert_eq!(snapshot.below_power(u64::BITS), 12);
            assert_eq!(snapshot.below_power(10), 0);
        }
    }
}
