//! The machine: which CPUs there are, what they share, and how to cut them into domains.
//!
//! A [`Topology`] is loaded once, from the live machine or a description of one ([`Source`]). There
//! is one code path for both:
//!
//! 1. hwloc reads the machine in a child process (`guard`) and hands over plain facts (`hwloc`);
//! 2. [`Topology`] sorts them;
//! 3. [`Topology::partition`] forms the domains.
//!
//! What a scheduler derives from the machine has a file each: [`preference`] (which idle CPU
//! first), [`dedicated`] (which CPUs `--dedicate` reserves) and [`power`] (mains or battery). Of the
//! live machine, [`isolated`] CPUs are left out.
//!
//! Invariant: every set of a [`Topology`] holds online CPUs only and is not empty; its kinds
//! partition the online CPUs. [`Domains`] says what the domains promise.

pub mod dedicated;
mod granularity;
mod guard;
mod hwloc;
pub mod isolated;
mod nearest;
mod partition;
pub mod power;
pub mod preference;
mod print;

pub use granularity::Granularity;
pub use partition::{Domain, Domains};

use crate::abi;
use crate::cpuset::CpuSet;
use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The largest number of domains a machine may be cut into.
pub const MAX_DOMAINS: usize = abi::limits_MAX_DOMAINS as usize;

/// The largest number of NUMA nodes a machine may have (the kernel's own limit).
const MAX_NUMA_NODES: usize = 1024;

/// The largest XML file that is read. That of a machine with 1,024 CPUs has about 1 MiB.
const MAX_XML_BYTES: u64 = 64 << 20;

/// Where to read a machine from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The machine this program runs on.
    Live,
    /// A file that `lstopo FILE.xml` of hwloc 2 wrote. Its contents are checked, not trusted.
    XmlFile(PathBuf),
    /// A synthetic description, such as `Package:2 L3Cache:4 Core:8 PU:2`.
    Synthetic(String),
}

/// CPUs of one kind of core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Kind {
    /// Higher is faster. Between kinds of equal rank no difference of speed is known.
    pub rank: u32,
    /// The CPUs.
    pub cpus: CpuSet,
}

/// A NUMA node that has CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumaNode {
    /// The operating system's number (`nodeN` in `/sys/devices/system/node`).
    pub number: u32,
    /// The CPUs that this memory is local to.
    pub cpus: CpuSet,
}

/// A machine.
///
/// ```
/// use scx_manyland::topology::{Granularity, Source, Topology};
/// let source = Source::Synthetic("Package:2 L3Cache:4 Core:8 PU:2".to_string());
/// let machine = Topology::load(&source)?;
/// assert_eq!(machine.cpus().len(), 128);
/// assert_eq!(machine.partition(Granularity::L3)?.len(), 8);
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Topology {
    cpus: CpuSet,
    packages: Vec<CpuSet>,
    numa_nodes: Vec<NumaNode>,
    l3_caches: Vec<CpuSet>,
    l2_caches: Vec<CpuSet>,
    cores: Vec<CpuSet>,
    kinds: Vec<Kind>,
    numa_distances: HashMap<(u32, u32), u64>,
}

impl Topology {
    /// Loads a machine.
    ///
    /// hwloc works in a child process, one at a time. Call this before the program has locked much
    /// memory, and not from a signal handler.
    ///
    /// # Errors
    /// If the source cannot be read, is no description of a machine, or has more CPUs than
    /// [`MAX_CPUS`](crate::cpuset::MAX_CPUS).
    pub fn load(source: &Source) -> Result<Topology> {
        let facts = match source {
            Source::Live => return Topology::load_live(),
            Source::XmlFile(path) => xml_facts(path).with_context(|| {
                format!("cannot load {path:?}, which must be a file that `lstopo FILE.xml` wrote")
            }),
            Source::Synthetic(text) => synthetic_facts(text)
                .with_context(|| format!("cannot load the synthetic machine {text:?}")),
        }?;
        Ok(Topology::from_facts(facts))
    }

    /// Loads this machine without its isolated CPUs.
    fn load_live() -> Result<Topology> {
        let facts = guard::in_child(|| hwloc::read(&hwloc::Input::Live))
            .context("cannot read the topology of this machine")?;
        Ok(Topology::from_facts(facts).without(&isolated::IsolatedCpus::open().read()))
    }

    /// The machine without some CPUs; with them, if it has no others.
    #[must_use]
    pub fn without(self, gone: &CpuSet) -> Topology {
        let cpus = self.cpus.difference(gone);
        if cpus.is_empty() {
            return self;
        }
        let rest = |sets: Vec<CpuSet>| {
            let sets = sets.iter().map(|set| set.intersection(&cpus));
            sets.filter(|set| !set.is_empty()).collect::<Vec<_>>()
        };
        let nodes = self
            .numa_nodes
            .into_iter()
            .map(|node| NumaNode { cpus: node.cpus.intersection(&cpus), ..node });
        let kinds =
            self.kinds.into_iter().map(|kind| Kind { cpus: kind.cpus.intersection(&cpus), ..kind });
        Topology {
            cpus,
            packages: rest(self.packages),
            numa_nodes: nodes.filter(|node| !node.cpus.is_empty()).collect(),
            l3_caches: rest(self.l3_caches),
            l2_caches: rest(self.l2_caches),
            cores: rest(self.cores),
            kinds: kinds.filter(|kind| !kind.cpus.is_empty()).collect(),
            numa_distances: self.numa_distances,
        }
    }

    /// The CPUs that are online and not isolated.
    pub fn cpus(&self) -> &CpuSet {
        &self.cpus
    }

    /// The packages (sockets), by lowest CPU.
    pub fn packages(&self) -> &[CpuSet] {
        &self.packages
    }

    /// The NUMA nodes that have CPUs, the smallest first, then by number.
    ///
    /// Nodes may overlap: fast and large memory of the same CPUs are two nodes.
    pub fn numa_nodes(&self) -> &[NumaNode] {
        &self.numa_nodes
    }

    /// The CPUs of each L3 cache, by lowest CPU.
    pub fn l3_caches(&self) -> &[CpuSet] {
        &self.l3_caches
    }

    /// The CPUs of each L2 cache, by lowest CPU.
    pub fn l2_caches(&self) -> &[CpuSet] {
        &self.l2_caches
    }

    /// The cores, each with its SMT siblings, by lowest CPU.
    pub fn cores(&self) -> &[CpuSet] {
        &self.cores
    }

    /// The kinds of core, fastest first. Every online CPU is in exactly one.
    pub fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    /// How far the memory of node `to` is from the CPUs of node `from`, in the units of the
    /// firmware, where 10 is local; `None` if unknown.
    pub fn numa_distance(&self, from: u32, to: u32) -> Option<u64> {
        self.numa_distances.get(&(from, to)).copied()
    }

    /// The number of the NUMA node that is local to all of these CPUs: the smallest one if there
    /// are several, `None` if there is none.
    pub fn numa_node_of(&self, cpus: &CpuSet) -> Option<u32> {
        self.numa_nodes.iter().find(|node| cpus.is_subset(&node.cpus)).map(|node| node.number)
    }

    fn from_facts(facts: hwloc::Facts) -> Topology {
        let cpus = CpuSet::from_words(facts.cpus);
        let online = |words| CpuSet::from_words(words).intersection(&cpus);
        let by_lowest_cpu = |objects: Vec<hwloc::Words>| {
            let sets = objects.into_iter().map(online).filter(|set| !set.is_empty());
            let mut sets = sets.collect::<Vec<_>>();
            sets.sort_by_key(CpuSet::first);
            sets
        };
        let mut numa_nodes = facts
            .numa_nodes
            .into_iter()
            .map(|(number, words)| NumaNode { number, cpus: online(words) })
            .filter(|node| !node.cpus.is_empty())
            .collect::<Vec<_>>();
        numa_nodes.sort_by_key(|node| (node.cpus.len(), node.number));
        Topology {
            cpus,
            packages: by_lowest_cpu(facts.packages),
            numa_nodes,
            l3_caches: by_lowest_cpu(facts.l3_caches),
            l2_caches: by_lowest_cpu(facts.l2_caches),
            cores: by_lowest_cpu(facts.cores),
            kinds: disjoint_kinds(facts.kinds, cpus),
            numa_distances: facts
                .numa_distances
                .into_iter()
                .map(|(from, to, distance)| ((from, to), distance))
                .collect(),
        }
    }
}

/// The kinds as a partition of the CPUs: what is in no kind forms one of rank 0.
fn disjoint_kinds(kinds: Vec<(u32, hwloc::Words)>, cpus: CpuSet) -> Vec<Kind> {
    let mut rest = cpus;
    let mut disjoint = Vec::new();
    let sets = kinds.into_iter().map(|(rank, words)| (rank, CpuSet::from_words(words)));
    for (rank, set) in sets.chain([(0, cpus)]) {
        let cpus = set.intersection(&rest);
        rest = rest.difference(&cpus);
        if !cpus.is_empty() {
            disjoint.push(Kind { rank, cpus });
        }
    }
    disjoint.sort_by_key(|kind| (std::cmp::Reverse(kind.rank), kind.cpus.first()));
    disjoint
}

fn synthetic_facts(text: &str) -> Result<hwloc::Facts> {
    hwloc::check_count(hwloc::synthetic_cpus(text))?;
    guard::in_child(|| hwloc::read(&hwloc::Input::Synthetic(text)))
}

fn xml_facts(path: &Path) -> Result<hwloc::Facts> {
    let text = read_text(path)?;
    guard::in_child(|| hwloc::read(&hwloc::Input::Xml(&text)))
}

fn read_text(path: &Path) -> Result<String> {
    let file = File::open(path)?;
    let mut bytes = Vec::new();
    file.take(MAX_XML_BYTES + 1).read_to_end(&mut bytes)?;
    ensure!(!bytes.is_empty(), "it is empty");
    if bytes.len() as u64 > MAX_XML_BYTES {
        bail!("it is larger than {} MiB", MAX_XML_BYTES >> 20);
    }
    ensure!(!bytes.contains(&0), "it is not a text file");
    String::from_utf8(bytes).context("it is not UTF-8 text")
}
