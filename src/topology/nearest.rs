//! Sorts, for each domain, all the others from near to far. Domains steal from the nearest first.
//!
//! These decide which of two domains is nearer, the first first:
//!
//! 1. a shared L3 cache (for domains finer than one),
//! 2. a shared package,
//! 3. a shared NUMA node,
//! 4. a small NUMA distance, where the firmware gives one,
//! 5. a low number.
//!
//! Invariant: the list of a domain is a permutation of the others.

use super::{Domain, Topology};
use crate::cpuset::CpuSet;
use crate::ids::DomainId;

/// What a domain touches: indices into the lists of the topology.
struct Surroundings {
    l3_caches: Vec<usize>,
    packages: Vec<usize>,
    numa_nodes: Vec<usize>,
    /// The node that distances are measured from and to.
    home_node: Option<u32>,
}

/// Fills in [`Domain::nearest`].
pub(super) fn sort_by_distance(topology: &Topology, domains: &mut [Domain]) {
    let surroundings =
        domains.iter().map(|domain| surroundings(topology, &domain.cpus)).collect::<Vec<_>>();
    for domain in domains.iter_mut() {
        let here = &surroundings[domain.id.index()];
        let mut others = (0..surroundings.len() as u32)
            .map(DomainId)
            .filter(|&other| other != domain.id)
            .collect::<Vec<_>>();
        others.sort_by_cached_key(|other| {
            (distance(topology, here, &surroundings[other.index()]), *other)
        });
        domain.nearest = others;
    }
}

fn surroundings(topology: &Topology, cpus: &CpuSet) -> Surroundings {
    let touched = |sets: &mut dyn Iterator<Item = &CpuSet>| {
        sets.enumerate().filter(|(_, set)| set.intersects(cpus)).map(|(i, _)| i).collect()
    };
    let first = cpus.iter().take(1).collect();
    Surroundings {
        l3_caches: touched(&mut topology.l3_caches.iter()),
        packages: touched(&mut topology.packages.iter()),
        numa_nodes: touched(&mut topology.numa_nodes.iter().map(|node| &node.cpus)),
        home_node: topology.numa_node_of(cpus).or_else(|| topology.numa_node_of(&first)),
    }
}

/// Compares as the distance between two domains; `true` is farther than `false`.
fn distance(
    topology: &Topology,
    from: &Surroundings,
    to: &Surroundings,
) -> (bool, bool, bool, u64) {
    let apart = |a: &[usize], b: &[usize]| !a.iter().any(|i| b.binary_search(i).is_ok());
    let numa_distance = from
        .home_node
        .zip(to.home_node)
        .and_then(|(from, to)| topology.numa_distance(from, to))
        .unwrap_or(u64::MAX);
    (
        apart(&from.l3_caches, &to.l3_caches),
        apart(&from.packages, &to.packages),
        apart(&from.numa_nodes, &to.numa_nodes),
        numa_distance,
    )
}
