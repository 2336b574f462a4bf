//! What bpf/ asks of a CPU's frequency. Nothing runs faster or slower by it.
//!
//! Invariant: a request is within the range of the kernel's, which ends a scheduler otherwise.

use super::native;
use crate::ids::CpuId;
use crate::topology::Domains;

/// The frequency of a CPU.
pub struct Frequency {
    /// What the CPU can do at most, compared with the fastest kind of core.
    pub capacity: u32,
    /// What was asked for last. At attach the kernel asks for the highest.
    pub target: u32,
    /// When that was.
    set_ns: Option<u64>,
    /// The shortest time between two requests.
    pub shortest_ns: u64,
}

impl Frequency {
    /// The frequency of a CPU. The capacity of a kind of core follows its rank.
    pub fn of(cpu: CpuId, domains: &Domains) -> Frequency {
        const ONE: u32 = native::SCX_CPUPERF_ONE as u32;
        let kinds = || domains.iter().flat_map(|domain| &domain.kinds);
        let highest = kinds().map(|kind| kind.rank).max().unwrap_or(0);
        let rank = kinds().find(|kind| kind.cpus.contains(cpu)).map_or(highest, |kind| kind.rank);
        let capacity = ONE * (rank + 1) / (highest + 1);
        Frequency { capacity, target: ONE, set_ns: None, shortest_ns: u64::MAX }
    }

    /// As `scx_bpf_cpuperf_set()`.
    pub fn set(&mut self, target: u32, at_ns: u64) {
        assert!(target <= native::SCX_CPUPERF_ONE as u32, "{target} is out of range");
        if let Some(set_ns) = self.set_ns.replace(at_ns) {
            self.shortest_ns = self.shortest_ns.min(at_ns - set_ns);
        }
        self.target = target;
    }
}
