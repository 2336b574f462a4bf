//! Which CPU a decided task is offered.
//!
//! 1. The steps of the domain's preference ([`crate::topology::preference`]) come one after the
//!    other. The first that has an idle CPU for the task decides.
//! 2. Within a step the task's previous CPU comes first.
//! 3. Without an idle CPU the task goes to READY, for the first CPU that has nothing to do.
//!
//! Invariant: within one batch of decisions a CPU is offered once.

use crate::cpuset::{CpuSet, MAX_CPUS};
use crate::ids::CpuId;
use crate::topology::Domain;
use crate::topology::preference::Place;

/// The cores of a domain and, for one batch, the idle CPUs that no task has been offered yet.
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
    /// For the CPUs and cores of a domain, with the steps of its preference.
    pub fn new(domain: &Domain, places: &[Place]) -> Self {
        let mut core_of = Box::new([NO_CORE; MAX_CPUS]);
        for (index, core) in domain.cores.iter().enumerate() {
            for cpu in core.iter() {
                core_of[cpu.index()] = index as u16;
            }
        }
        let cores: Box<[CpuSet]> = domain.cores.clone().into();
        let smt = domain.has_smt();
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

    /// Claims the best idle CPU for a task that ran on `prev` and may use `allowed` (`None`: every
    /// CPU of the domain). `None` if the task may use none of those that are left.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domains::testing::{cpus, domains, places};
    use crate::topology::{Domains, Granularity};
    use proptest::prelude::*;

    /// Two L3s of four cores of two CPUs each.
    const MACHINE: &str = "L3Cache:2 Core:4 PU:2";

    fn placement(domain: &Domain) -> Placement {
        Placement::new(domain, &places(domain))
    }

    /// hwloc's synthetic machines number the CPUs of a core in a row: 8-9, 10-11, 12-13, 14-15.
    fn second_l3() -> (Domains, Placement) {
        let domains = domains(MACHINE, Granularity::L3);
        let placement = placement(domains.iter().nth(1).unwrap());
        (domains, placement)
    }

    /// What tasks that ran on `prev` are offered one after the other when `idle` are idle.
    fn offers(idle: &[u32], prev: u32, allowed: Option<CpuSet>) -> Vec<u32> {
        let (_, mut placement) = second_l3();
        placement.start_batch(cpus(idle.iter().copied()));
        std::iter::from_fn(|| placement.take(CpuId(prev), allowed.as_ref()))
            .map(|cpu| cpu.0)
            .collect()
    }

    #[test]
    fn the_previous_cpu_comes_first_if_its_core_is_idle() {
        assert_eq!(offers(&[8, 9, 12, 13], 13, None)[0], 13);
        // Then a whole core rather than the sibling of the one just offered.
        assert_eq!(offers(&[8, 9, 12, 13], 13, None), [13, 8, 9, 12]);
    }

    #[test]
    fn a_whole_idle_core_comes_before_the_sibling_of_a_busy_cpu() {
        assert_eq!(offers(&[9, 14, 15], 9, None), [14, 9, 15]);
        assert_eq!(offers(&[9, 14, 15], 10, None), [14, 9, 15]);
    }

    #[test]
    fn any_idle_cpu_will_do_then_none() {
        assert_eq!(offers(&[9, 11, 13], 13, None), [13, 9, 11]);
        assert_eq!(offers(&[9, 11, 13], 2, None), [9, 11, 13]);
        assert_eq!(offers(&[], 13, None), [0; 0]);
    }

    #[test]
    fn a_previous_cpu_outside_the_domain_is_never_offered() {
        assert_eq!(offers(&[12], 3, None), [12]);
        assert_eq!(offers(&[12], MAX_CPUS as u32 - 1, None), [12]);
    }

    #[test]
    fn one_cpu_to_a_core_means_that_an_idle_cpu_is_an_idle_core() {
        let domains = domains("Core:4 PU:1", Granularity::Machine);
        let mut placement = placement(domains.iter().next().unwrap());
        placement.start_batch(cpus([1, 3]));
        assert_eq!(placement.take(CpuId(3), None), Some(CpuId(3)));
        assert_eq!(placement.take(CpuId(3), None), Some(CpuId(1)));
    }

    proptest! {
        /// Whatever is idle, and whatever the tasks may use.
        #[test]
        fn a_batch_offers_each_idle_cpu_once_and_only_to_a_task_that_may_use_it(
            idle in any::<u8>(),
            tasks in prop::collection::vec((0..20u32, prop::option::of(any::<u8>())), 0..20),
        ) {
            let of = |bits: u8| cpus((0..8).filter(|bit| bits & 1 << bit != 0).map(|bit| 8 + bit));
            let (domains, mut placement) = second_l3();
            let cores = &domains.iter().nth(1).unwrap().cores;
            let mut left = of(idle);
            placement.start_batch(left);
            for (prev, allowed) in tasks {
                let prev = CpuId(prev);
                let allowed = allowed.map(of);
                let may = left.intersection(&allowed.unwrap_or(left));
                let whole = |cpu| cores.iter().any(|c| c.contains(cpu) && c.is_subset(&left));
                let offer = placement.take(prev, allowed.as_ref());
                prop_assert_eq!(offer.is_none(), may.is_empty());
                let Some(cpu) = offer else { continue };
                prop_assert!(may.contains(cpu));
                if may.contains(prev) && whole(prev) {
                    prop_assert_eq!(cpu, prev);
                } else if may.iter().any(whole) {
                    prop_assert!(whole(cpu));
                } else if may.contains(prev) {
                    prop_assert_eq!(cpu, prev);
                }
                left.remove(cpu);
                prop_assert_eq!(placement.idle_count(), left.len());
            }
        }
    }
}
