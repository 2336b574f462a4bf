//! How the CPUs of a described machine fill with tasks.
//!
//! Tables and choices come from the code that runs live: [`Preferences`] computes the table that
//! BPF walks, and [`Placement`] walks it here. [`Machine::wake`] walks all of it, as BPF does for a
//! task that wakes up; [`Machine::decide`] walks the part of one domain, as its thread does.

use scx_manyland::cpuset::CpuSet;
use scx_manyland::domains::placement::Placement;
use scx_manyland::ids::{CpuId, DomainId};
use scx_manyland::topology::preference::{Place, Prefer, Preferences};
use scx_manyland::topology::{Domain, Domains, Granularity, Source, Topology};
use std::path::PathBuf;

pub struct Machine {
    pub domains: Domains,
    /// The machine as one domain, for its cores.
    pub whole: Domain,
    pub preferences: Preferences,
    pub usable: CpuSet,
}

impl Machine {
    pub fn load(
        path: PathBuf,
        granularity: Granularity,
        prefer: Prefer,
        dedicated: &[u32],
    ) -> Machine {
        let machine = Topology::load(&Source::XmlFile(path)).unwrap();
        let dedicated = set(dedicated);
        let domains = machine.partition(granularity).unwrap();
        let preferences = Preferences::new(&domains, prefer, &dedicated);
        let whole = machine.partition(Granularity::Machine).unwrap().as_slice()[0].clone();
        Machine { domains, whole, preferences, usable: machine.cpus().difference(&dedicated) }
    }

    pub fn places(&self, home: u32) -> Vec<Place> {
        self.preferences.places(DomainId(home)).map(|(_, place)| place).collect()
    }

    /// The CPUs that tasks get one after the other which wake up at `home`, having run on `prev`.
    pub fn wake(&self, home: u32, prev: u32, idle: CpuSet) -> Vec<u32> {
        fill(Placement::new(&self.whole, &self.places(home)), prev, idle)
    }

    /// The same for tasks that the thread of a domain decides for.
    pub fn decide(&self, domain: u32, prev: u32, idle: CpuSet) -> Vec<u32> {
        let domain = &self.domains[DomainId(domain)];
        let order = self.preferences.within(domain);
        fill(Placement::new(domain, &order), prev, idle.intersection(&domain.cpus))
    }
}

fn fill(mut placement: Placement, prev: u32, idle: CpuSet) -> Vec<u32> {
    placement.start_batch(idle);
    std::iter::from_fn(|| placement.take(CpuId(prev), None)).map(|cpu| cpu.0).collect()
}

pub fn set(cpus: &[u32]) -> CpuSet {
    cpus.iter().copied().map(CpuId).collect()
}
