//! A domain thread's scheduler as the benchmarks drive it, on any seam.

use scx_manyland::cpuset::CpuSet;
use scx_manyland::domains::board::Board;
use scx_manyland::domains::scheduler::{Left, Scheduler};
use scx_manyland::domains::seam::Seam;
use scx_manyland::domains::sync::Deque;
use scx_manyland::options::RunOptions;
use scx_manyland::policy::Task;
use scx_manyland::policy::kind::PolicyKind;
use scx_manyland::topology::preference::{Place, Preferences};
use scx_manyland::topology::{Domain, Domains, Granularity, Source, Topology};
use std::sync::Arc;

/// `l3s` domains of an L3 cache each, with eight CPUs, two to a core.
pub fn domains(l3s: usize) -> Domains {
    let source = Source::Synthetic(format!("L3Cache:{l3s} Core:4 PU:2"));
    let machine = Topology::load(&source).expect("hwloc knows the machine");
    machine.partition(Granularity::L3).expect("the machine can be cut")
}

/// The preference among a domain's CPUs.
pub fn places(domains: &Domains, domain: &Domain) -> Vec<Place> {
    let prefer = scx_manyland::topology::preference::Prefer::None;
    Preferences::new(domains, prefer, &CpuSet::EMPTY).within(domain)
}

/// A scheduler of a domain with the default slices.
pub fn scheduler<S: Seam>(
    seam: S,
    domains: &Domains,
    domain: &Domain,
    policy: PolicyKind,
    board: Arc<Board>,
    deque: Deque<Task>,
) -> Scheduler<S> {
    let policy = policy.build(RunOptions::default().slices());
    Scheduler::new(seam, domain, &places(domains, domain), domain.cpus, policy, board, deque)
}

/// Decides for all tasks that wait.
pub fn decide_all<S: Seam>(scheduler: &mut Scheduler<S>) {
    while scheduler.round() == Left::Waiting {}
}
