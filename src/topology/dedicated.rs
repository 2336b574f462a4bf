//! Which CPU of its domain a domain thread keeps to itself, with `--dedicate`.
//!
//! Invariant: a domain keeps at least one CPU for tasks.

use crate::cpuset::CpuSet;
use crate::ids::CpuId;
use crate::topology::{Domain, Domains};
use anyhow::{Context, Result};

/// The CPU for a domain's thread, which is its last one of `usable`, the CPUs that the thread may
/// use. `None` if there is none, or if it is the only one of the domain.
pub fn dedicated_cpu(domain: &Domain, usable: &CpuSet) -> Option<CpuId> {
    domain.cpus.intersection(usable).iter().last().filter(|_| domain.cpus.len() > 1)
}

/// The CPUs for the threads of all domains.
///
/// # Errors
/// If a domain has one CPU only.
pub fn dedicated_cpus(domains: &Domains) -> Result<CpuSet> {
    let cpu_of = |domain: &Domain| {
        dedicated_cpu(domain, &domain.cpus).with_context(|| {
            format!(
                "cannot dedicate a CPU of domain {}: it has only CPU {}; choose a coarser --domain \
                 or leave --dedicate out",
                domain.id, domain.cpus
            )
        })
    };
    domains.iter().map(cpu_of).collect()
}
