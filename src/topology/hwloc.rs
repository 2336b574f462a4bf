//! The only file that knows hwloc: reads a machine into plain facts.
//!
//! Invariant: nothing of hwloc leaves [`read`], which may crash on a hostile description and is
//! therefore called in a child process (see `guard`).

use super::MAX_NUMA_NODES;
use crate::cpuset::{CpuSet, MAX_CPUS};
use crate::ids::CpuId;
use anyhow::{Context, Result, bail, ensure};
use hwlocality::Topology as Hwloc;
use hwlocality::object::TopologyObject;
use hwlocality::object::distance::DistancesKind;
use hwlocality::object::types::ObjectType;
use hwlocality::topology::builder::BuildFlags;
use serde::{Deserialize, Serialize};

/// What hwloc reads a machine from, with the contents of the file where there is one.
pub(super) enum Input<'a> {
    Live,
    Xml(&'a str),
    Synthetic(&'a str),
}

const NOT_HWLOC_XML: &str = "its contents are damaged, or not the XML of hwloc";
const NOT_SYNTHETIC: &str = "hwloc does not understand it; write for example \
    \"Package:2 L3Cache:4 Core:8 PU:2\" (see hwloc(7), Synthetic topologies)";

/// The words of a [`CpuSet`].
pub(super) type Words = [u64; MAX_CPUS / 64];

/// What the program wants to know of a machine, in the form that passes a pipe.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Facts {
    /// The online CPUs.
    pub cpus: Words,
    pub packages: Vec<Words>,
    /// The operating system's number of each NUMA node, and its CPUs.
    pub numa_nodes: Vec<(u32, Words)>,
    pub l3_caches: Vec<Words>,
    pub l2_caches: Vec<Words>,
    pub cores: Vec<Words>,
    /// Rank and CPUs.
    pub kinds: Vec<(u32, Words)>,
    /// From node, to node, distance.
    pub numa_distances: Vec<(u32, u32, u64)>,
}

/// Reads a machine.
///
/// `INCLUDE_DISALLOWED` keeps the CPUs outside of this process's own cpuset, because a scheduler
/// schedules all that are online. Offline CPUs are only in hwloc's complete cpuset, which is not
/// read here.
pub(super) fn read(input: &Input) -> Result<Facts> {
    let builder = Hwloc::builder().with_flags(BuildFlags::INCLUDE_DISALLOWED)?;
    let builder = match input {
        Input::Live => builder,
        Input::Xml(text) => builder.from_xml(text).or_else(|_| bail!(NOT_HWLOC_XML))?,
        Input::Synthetic(text) => builder.from_synthetic(text).or_else(|_| bail!(NOT_SYNTHETIC))?,
    };
    let machine = match (builder.build(), input) {
        (Ok(machine), _) => machine,
        (Err(_), Input::Xml(_)) => bail!(NOT_HWLOC_XML),
        (Err(_), Input::Synthetic(_)) => bail!(NOT_SYNTHETIC),
        (Err(error), Input::Live) => return Err(error).context("hwloc cannot read it"),
    };
    if matches!(input, Input::Live) && !machine.is_this_system() {
        bail!("an environment variable makes hwloc show another machine; unset HWLOC_*");
    }
    facts(&machine)
}

/// How many CPUs a synthetic description has: the product of the numbers of its levels. hwloc can
/// only count them after it has built them all.
pub(super) fn synthetic_cpus(text: &str) -> u64 {
    let mut depth = 0_u32;
    let levels = text.chars().filter(|&c| {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            _ => return depth == 0,
        }
        false
    });
    let levels: String = levels.collect();
    let numbers = levels.split_whitespace().map(|level| match level.rsplit_once(':') {
        Some((_, number)) => number.parse().unwrap_or(1),
        None => level.parse().unwrap_or(1),
    });
    numbers.fold(1, u64::saturating_mul)
}

fn facts(machine: &Hwloc) -> Result<Facts> {
    let cpus = online(machine)?;
    let sets = |object_type| {
        let objects = machine.objects_with_type(object_type);
        objects.filter_map(|object| words_of(object, &cpus)).collect()
    };
    let numa_nodes = machine
        .objects_with_type(ObjectType::NUMANode)
        .filter_map(|node| Some((number(node)?, words_of(node, &cpus)?)))
        .collect::<Vec<_>>();
    if numa_nodes.len() > MAX_NUMA_NODES {
        bail!("it has {} NUMA nodes; at most {MAX_NUMA_NODES} are supported", numa_nodes.len());
    }
    Ok(Facts {
        cpus: *cpus.words(),
        packages: sets(ObjectType::Package),
        numa_nodes,
        l3_caches: sets(ObjectType::L3Cache),
        l2_caches: sets(ObjectType::L2Cache),
        cores: sets(ObjectType::Core),
        kinds: kinds(machine, &cpus),
        numa_distances: numa_distances(machine),
    })
}

fn online(machine: &Hwloc) -> Result<CpuSet> {
    let set = machine.cpuset();
    match set.weight() {
        Some(0) => bail!("it has no online CPU"),
        Some(count) => check_count(count as u64)?,
        None => bail!("it claims to have infinitely many CPUs; at most {MAX_CPUS} are supported"),
    }
    let highest = set.last_set().map_or(0, usize::from);
    if highest >= MAX_CPUS {
        bail!("it has a CPU of number {highest}; the largest supported is {}", MAX_CPUS - 1);
    }
    Ok(set.iter_set().map(|cpu| CpuId(usize::from(cpu) as u32)).collect())
}

/// Checks that a machine of `cpus` CPUs is supported.
pub(super) fn check_count(cpus: u64) -> Result<()> {
    ensure!(cpus <= MAX_CPUS as u64, "it has {cpus} CPUs; at most {MAX_CPUS} are supported");
    Ok(())
}

/// The online CPUs of an object, if it has any; `within` bounds what a set may claim.
fn words_of(object: &TopologyObject, within: &CpuSet) -> Option<Words> {
    let set = object.cpuset()?;
    let cpus: CpuSet = within.iter().filter(|cpu| set.is_set(cpu.index())).collect();
    (!cpus.is_empty()).then_some(*cpus.words())
}

fn number(object: &TopologyObject) -> Option<u32> {
    object.os_index().and_then(|index| u32::try_from(index).ok())
}

/// The kinds of core. Where hwloc cannot tell which is faster, all have rank 0.
fn kinds(machine: &Hwloc, within: &CpuSet) -> Vec<(u32, Words)> {
    let Ok(kinds) = machine.cpu_kinds() else { return Vec::new() };
    kinds
        .map(|kind| {
            let rank = kind.efficiency.map_or(0, |e| u32::try_from(e).unwrap_or(u32::MAX));
            let cpus: CpuSet =
                within.iter().filter(|cpu| kind.cpuset.is_set(cpu.index())).collect();
            (rank, *cpus.words())
        })
        .collect()
}

/// The first matrix of latencies between NUMA nodes, if the machine has one.
fn numa_distances(machine: &Hwloc) -> Vec<(u32, u32, u64)> {
    let latencies = Some(DistancesKind::MEANS_LATENCY);
    let Ok(matrices) = machine.distances_with_type(latencies, ObjectType::NUMANode) else {
        return Vec::new();
    };
    let Some(matrix) = matrices.first().filter(|m| m.num_objects() <= MAX_NUMA_NODES) else {
        return Vec::new();
    };
    matrix
        .object_distances()
        .filter_map(|((from, to), distance)| Some((number(from?)?, number(to?)?, distance)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_cpus_of_a_description() {
        for (text, cpus) in [
            ("Package:2 NUMANode:1 L3Cache:4 Core:8 PU:2", 128),
            ("2 4 8", 64),
            ("Package:2 [NUMANode(memory=1GB indexes=1,0)] Core:4(note=9 9) PU:2", 16),
            ("Package:1000000000 Core:1000000000 PU:1000000000", u64::MAX),
            ("nonsense", 1),
            ("", 1),
        ] {
            assert_eq!(synthetic_cpus(text), cpus, "{text}");
        }
    }
}
