//! What a policy is made with: its domain and the slices of the user.

#[cfg(doc)]
use crate::policy::Context;
use crate::topology::Domain;
use std::time::Duration;

/// The options that every policy has. A slice is the time for which a task runs before it is asked
/// to give way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slices {
    /// The slice of a task while no other waits (`--slice-us`).
    pub base: Duration,
    /// The shortest slice (`--slice-min-us`).
    pub min: Duration,
}

/// What a policy is made for.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Setup<'a> {
    /// The domain whose tasks it will decide for: its CPUs, cores, kinds of core and NUMA node.
    /// With `--dedicate` one of these CPUs belongs to the thread alone; [`Context::cpus`] leaves it
    /// out.
    pub domain: &'a Domain,
    /// The slices that the user has chosen.
    pub slices: Slices,
}

impl<'a> Setup<'a> {
    /// For a domain, with these slices.
    pub fn new(domain: &'a Domain, slices: Slices) -> Setup<'a> {
        Setup { domain, slices }
    }
}

impl Slices {
    /// The slice for a task while `waiting` others wait: `base / (waiting + 1)`, at least `min`.
    pub fn shared_by(&self, waiting: usize) -> Duration {
        let parts = u32::try_from(waiting).unwrap_or(u32::MAX - 1).saturating_add(1);
        (self.base / parts).max(self.min)
    }
}
