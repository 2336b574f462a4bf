//! Which CPU a decided task is offered: its previous one if that is idle, then a whole idle core,
//! then any idle CPU, then none (the task goes to READY, for the first CPU that has nothing to do).
//!
//! Invariant: within one batch of decisions a CPU is offered once.

use crate::cpuset::{CpuSet, MAX_CPUS};
use crate::ids::CpuId;
use crate::topology::Domain;

/// The cores of a domain and, for one batch, the CPUs that are still to be given away.
pub struct Placement {
    cores: Box<[CpuSet]>,
    /// For each CPU the index of its core; `NO_CORE` outside the domain.
    core_of: Box<[u16; MAX_CPUS]>,
    /// Whether a core has more than one CPU. Otherwise an idle CPU is an idle core.
    smt: bool,
    idle: CpuSet,
}

const NO_CORE: u16 = u16::MAX;

impl Placement {
    /// For the CPUs and cores of a domain.
    pub fn new(domain: &Domain) -> Self {
        let mut core_of = Box::new([NO_CORE; MAX_CPUS]);
        for (index, core) in domain.cores.iter().enumerate() {
            for cpu in core.iter() {
                core_of[cpu.index()] = index as u16;
            }
        }
        let cores: Box<[CpuSet]> = domain.cores.clone().into();
        let smt = cores.iter().any(|core| core.len() > 1);
        Self { cores, core_of, smt, idle: CpuSet::EMPTY }
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
        let cpu = match candidates.contains(prev) && self.core_is_idle(prev) {
            true => prev,
            false => self
                .first_of_idle_core(&candidates)
                .or_else(|| candidates.contains(prev).then_some(prev))
                .or_else(|| candidates.first())?,
        };
        self.idle.remove(cpu);
        Some(cpu)
    }

    fn core_is_idle(&self, cpu: CpuId) -> bool {
        let core = self.core_of[cpu.index()];
        !self.smt || (core != NO_CORE && self.cores[core as usize].is_subset(&self.idle))
    }

    fn first_of_idle_core(&self, candidates: &CpuSet) -> Option<CpuId> {
        if !self.smt {
            return candidates.first();
        }
        let core = self.cores.iter().find(|core| {
            !core.is_empty() && core.is_subset(&self.idle) && core.intersects(candidates)
        })?;
        core.intersection(candidates).first()
    }
}
