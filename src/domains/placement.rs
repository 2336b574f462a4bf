//! Which CPU a decided task is offered: the first of the places in the domain's order
//! ([`super::preference`]) that has an idle one, there the task's previous CPU if it can be that one,
//! or else none (the task goes to READY, for the first CPU that has nothing to do).
//!
//! Invariant: within one batch of decisions a CPU is offered once.

use super::preference::Place;
use crate::cpuset::{CpuSet, MAX_CPUS};
use crate::ids::CpuId;
use crate::topology::Domain;

/// The cores of a domain and, for one batch, the CPUs that are still to be given away.
pub struct Placement {
    places: Box<[Place]>,
    cores: Box<[CpuSet]>,
    /// For each CPU the index of its core; `NO_CORE` outside the domain.
    core_of: Box<[u16; MAX_CPUS]>,
    /// Whether a core has more than one CPU. Otherwise an idle CPU is an idle core.
    smt: bool,
    idle: CpuSet,
}

const NO_CORE: u16 = u16::MAX;

impl Placement {
    /// For the CPUs and cores of a domain, in the order of its places.
    pub fn new(domain: &Domain, places: &[Place]) -> Self {
        let mut core_of = Box::new([NO_CORE; MAX_CPUS]);
        for (index, core) in domain.cores.iter().enumerate() {
            for cpu in core.iter() {
                core_of[cpu.index()] = index as u16;
            }
        }
        let cores: Box<[CpuSet]> = domain.cores.clone().into();
        let smt = cores.iter().any(|core| core.len() > 1);
        Self { places: places.into(), cores, core_of, smt, idle: CpuSet::EMPTY }
    }

    /// Starts a batch with the CPUs that are idle now.
    pub fn start_batch(&mut self, idle: CpuSet) {
        self.idle = idle;
    }

    /// How many CPUs are left in this batch.
    pub fn idle_count(&self) -> usize {
        self.idle.len()
    }

    /// Takes the best idle CPU for a task that ran on `prev` and may use `allowed` (`None`: every
    /// CPU of the domain).
    pub fn take(&mut self, prev: CpuId, allowed: Option<&CpuSet>) -> Option<CpuId> {
        if self.idle.is_empty() {
            return None;
        }
        let candidates = match allowed {
            Some(allowed) => self.idle.intersection(allowed),
            None => self.idle,
        };
        let cpu = self.places.iter().find_map(|place| self.best_of(place, &candidates, prev))?;
        self.idle.remove(cpu);
        Some(cpu)
    }

    fn best_of(&self, place: &Place, candidates: &CpuSet, prev: CpuId) -> Option<CpuId> {
        let candidates = candidates.intersection(&place.cpus);
        let whole_core = place.whole_core && self.smt;
        if candidates.contains(prev) && (!whole_core || self.core_is_idle(prev)) {
            return Some(prev);
        }
        match whole_core {
            true => self.first_of_idle_core(&candidates),
            false => candidates.first(),
        }
    }

    fn core_is_idle(&self, cpu: CpuId) -> bool {
        let core = self.core_of[cpu.index()];
        core != NO_CORE && self.cores[core as usize].is_subset(&self.idle)
    }

    fn first_of_idle_core(&self, candidates: &CpuSet) -> Option<CpuId> {
        let core = self.cores.iter().find(|core| {
            !core.is_empty() && core.is_subset(&self.idle) && core.intersects(candidates)
        })?;
        core.intersection(candidates).first()
    }
}
