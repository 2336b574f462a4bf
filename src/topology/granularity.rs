//! How finely a machine is cut into domains.
//!
//! Invariant: [`Granularity::finer`] leads from every granularity down to [`Granularity::Core`], so
//! a loop that follows it always ends.

use clap::ValueEnum;
use serde::Serialize;
use std::fmt;

/// What a domain is made of.
///
/// ```
/// use scx_manyland::topology::Granularity;
/// assert_eq!(Granularity::default().to_string(), "l3");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Granularity {
    /// The whole machine as one domain
    Machine,
    /// One domain for each package (socket)
    Package,
    /// One domain for each NUMA node
    Numa,
    /// One domain for each last-level (L3) cache
    #[default]
    #[value(alias = "llc")]
    L3,
    /// One domain for each L2 cache
    L2,
    /// Like l3, with each domain split by kind of core (fast, dense, ...)
    Kind,
    /// One domain for each core, with its SMT siblings
    Core,
}

impl Granularity {
    /// The name on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Granularity::Machine => "machine",
            Granularity::Package => "package",
            Granularity::Numa => "numa",
            Granularity::L3 => "l3",
            Granularity::L2 => "l2",
            Granularity::Kind => "kind",
            Granularity::Core => "core",
        }
    }

    /// The next finer one, which serves the CPUs that no object of this one covers.
    pub fn finer(self) -> Option<Granularity> {
        match self {
            Granularity::Machine => Some(Granularity::Package),
            Granularity::Package => Some(Granularity::Numa),
            Granularity::Numa => Some(Granularity::L3),
            Granularity::L3 | Granularity::Kind => Some(Granularity::L2),
            Granularity::L2 => Some(Granularity::Core),
            Granularity::Core => None,
        }
    }

    /// The next coarser one, to suggest where a machine has too many domains of this one.
    pub(super) fn coarser(self) -> Option<Granularity> {
        match self {
            Granularity::Machine => None,
            Granularity::Package => Some(Granularity::Machine),
            Granularity::Numa => Some(Granularity::Package),
            Granularity::L3 => Some(Granularity::Numa),
            Granularity::L2 | Granularity::Kind => Some(Granularity::L3),
            Granularity::Core => Some(Granularity::L2),
        }
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_everywhere() {
        for &granularity in Granularity::value_variants() {
            let name = granularity.name();
            assert_eq!(granularity.to_possible_value().unwrap().get_name(), name);
            assert_eq!(serde_json::to_string(&granularity).unwrap(), format!("\"{name}\""));
        }
        assert_eq!(Granularity::from_str("llc", false), Ok(Granularity::L3));
    }

    #[test]
    fn the_ladder_ends_at_core() {
        for &start in Granularity::value_variants() {
            let steps = std::iter::successors(Some(start), |g| g.finer()).collect::<Vec<_>>();
            assert_eq!(steps.last(), Some(&Granularity::Core));
        }
    }
}
