//! Which CPUs the threads of this process may use.
//!
//! A domain thread asks for all CPUs, and BPF runs it in its domain while it can. A set of CPUs
//! that is asked for lasts: whenever a cpuset changes, the kernel lets the thread use what both have in
//! common. With its domain's CPUs alone a thread could be left without any.
//!
//! Invariant: what is asked for here does not depend on the cpuset of the moment.

use crate::cpuset::CpuSet;
use crate::ids::CpuId;
use crate::topology::Domains;
use anyhow::{Context, Result, anyhow};
use nix::sched::{sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Lets the calling thread use all CPUs that its cpuset leaves, and returns those.
///
/// # Errors
/// If the kernel refuses.
pub(super) fn use_all() -> Result<CpuSet> {
    let this = Pid::from_raw(0);
    let mut all = nix::sched::CpuSet::new();
    for cpu in 0..nix::sched::CpuSet::count() {
        all.set(cpu)?;
    }
    sched_setaffinity(this, &all).context("cannot let it use all CPUs")?;
    of_this_thread()
}

/// The CPUs that the calling thread may use.
///
/// # Errors
/// If the kernel refuses.
pub(super) fn of_this_thread() -> Result<CpuSet> {
    let usable = sched_getaffinity(Pid::from_raw(0)).context("cannot ask which CPUs it may use")?;
    let cpus = (0..nix::sched::CpuSet::count()).filter(|&cpu| usable.is_set(cpu) == Ok(true));
    Ok(cpus.map(|cpu| CpuId(cpu as u32)).collect())
}

/// The CPUs that a domain thread started now would be able to use. The affinity of the calling
/// thread does not change.
///
/// # Errors
/// If the kernel refuses.
pub(super) fn usable() -> Result<CpuSet> {
    let asked = std::thread::Builder::new().name("manyland".into()).spawn(use_all);
    asked
        .context("cannot start a thread")?
        .join()
        .map_err(|_| anyhow!("a thread that asks for its CPUs panicked"))?
}

/// The line for the user if some domain threads may not use any CPU of their domain.
pub(super) fn confined(domains: &Domains, usable: &CpuSet) -> Option<String> {
    let outside: Vec<_> = domains.iter().filter(|it| !it.cpus.intersects(usable)).collect();
    let cpus = outside.iter().fold(CpuSet::EMPTY, |cpus, it| cpus.union(&it.cpus));
    (!outside.is_empty()).then(|| {
        format!(
            "a cpuset keeps this process off CPUs {cpus}; \
             their {} domain thread{} on CPUs {usable}",
            outside.len(),
            if outside.len() == 1 { " runs" } else { "s run" },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Granularity, Source, Topology};

    #[test]
    fn a_line_names_the_domains_whose_cpus_are_out_of_reach() {
        let machine = Topology::load(&Source::Synthetic("L3Cache:4 Core:2 PU:1".into())).unwrap();
        let domains = machine.partition(Granularity::L3).unwrap();
        let usable = |cpus: &[u32]| cpus.iter().map(|&cpu| CpuId(cpu)).collect();
        assert_eq!(confined(&domains, &usable(&[0, 2, 5, 7])), None);
        assert_eq!(
            confined(&domains, &usable(&[0, 1, 2, 4])).unwrap(),
            "a cpuset keeps this process off CPUs 6-7; their 1 domain thread runs on CPUs 0-2,4"
        );
        assert_eq!(
            confined(&domains, &usable(&[0, 1])).unwrap(),
            "a cpuset keeps this process off CPUs 2-7; their 3 domain threads run on CPUs 0-1"
        );
    }
}
