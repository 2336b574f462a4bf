//! Which idle CPUs a task gets first where a machine has several kinds of core.
//!
//! The preference is a list of steps for each domain, computed here and nowhere else. Two readers
//! walk it:
//!
//! - BPF, for a task that wakes up (`bpf/core_kinds.bpf.h`), over all domains, beginning with the
//!   task's home;
//! - a domain thread, the part that lies in its own domain ([`Preferences::within`],
//!   `domains::placement`).
//!
//! The steps for `performance`:
//! 1. a whole idle core of the fastest kind, of the next kind, ... of the slowest kind;
//! 2. an idle CPU with a busy SMT sibling, of the fastest kind, ... of the slowest kind.
//!
//! The steps for `efficiency`:
//! 1. a whole idle core of the slowest kind, then any idle CPU of that kind;
//! 2. the same of the next kind, ... of the fastest kind.
//!
//! Each step tries the home domain first, then the other domains, nearest first.
//!
//! Invariant: in each domain's list every CPU that tasks may use is in a step for a whole core. It
//! is also in a step for any idle CPU, if its kind has SMT siblings there. Dedicated CPUs are in no
//! step.

use crate::cpuset::{CpuSet, MAX_CPUS};
use crate::ids::{CpuId, DomainId};
use crate::topology::power::Supply;
use crate::topology::{Domain, Domains};
use clap::ValueEnum;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// Which kind of core goes first.
///
/// ```
/// use scx_manyland::topology::{power::Supply, preference::Prefer};
/// assert_eq!(Prefer::on(Supply::Unknown).to_string(), "performance");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Prefer {
    /// The fastest, whole idle cores before SMT siblings
    Performance,
    /// The slowest, until they are full
    Efficiency,
    /// None: as if all cores were of one kind
    None,
}

impl Prefer {
    /// What is preferred unless the user says otherwise.
    pub fn on(supply: Supply) -> Prefer {
        match supply {
            Supply::Mains | Supply::Unknown => Prefer::Performance,
            Supply::Battery => Prefer::Efficiency,
        }
    }
}

impl fmt::Display for Prefer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Prefer::Performance => "performance",
            Prefer::Efficiency => "efficiency",
            Prefer::None => "none",
        })
    }
}

/// The CPUs of one kind in one domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindSet {
    /// The domain.
    pub domain: DomainId,
    /// The rank of the kind among those of the machine; 0 is the slowest.
    pub rank: u16,
    /// The CPUs that tasks may use; never empty.
    pub cpus: CpuSet,
    /// Whether a core here has more than one CPU. Otherwise an idle CPU is a whole idle core.
    smt: bool,
}

/// A step of the preference of one domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The number of the set to search for an idle CPU.
    pub set: usize,
    /// Whether the SMT siblings of the CPU must be idle too.
    pub whole_core: bool,
}

/// A step within one domain, for its own thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The CPUs to search for an idle one.
    pub cpus: CpuSet,
    /// Whether the SMT siblings of the CPU must be idle too.
    pub whole_core: bool,
}

/// The preference of every domain.
pub struct Preferences {
    prefer: Prefer,
    sets: Vec<KindSet>,
    /// The steps of each domain; all domains have equally many.
    steps: Vec<Vec<Step>>,
    set_of: Box<[Option<u16>; MAX_CPUS]>,
}

impl Preferences {
    /// Whether the topology shows cores of different speed.
    pub fn has_kinds(domains: &Domains) -> bool {
        let mut ranks = domains.iter().flat_map(|domain| &domain.kinds).map(|kind| kind.rank);
        let first = ranks.next();
        ranks.any(|rank| Some(rank) != first)
    }

    /// The preference for the CPUs of `domains`, except those `dedicated` to domain threads.
    ///
    /// ```
    /// use scx_manyland::cpuset::CpuSet;
    /// use scx_manyland::topology::preference::{Prefer, Preferences};
    /// use scx_manyland::topology::{Granularity, Source, Topology};
    /// let machine = Topology::load(&Source::Synthetic("L3Cache:2 Core:4 PU:2".into()))?;
    /// let domains = machine.partition(Granularity::L3)?;
    /// let preferences = Preferences::new(&domains, Prefer::Performance, &CpuSet::EMPTY);
    /// assert!(!preferences.by_kind(), "all cores are alike");
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn new(domains: &Domains, prefer: Prefer, dedicated: &CpuSet) -> Preferences {
        let sets = match prefer != Prefer::None && Self::has_kinds(domains) {
            true => kind_sets(domains, dedicated),
            false => Vec::new(),
        };
        let mut set_of = Box::new([None; MAX_CPUS]);
        for (number, set) in sets.iter().enumerate() {
            for cpu in set.cpus.iter() {
                set_of[cpu.index()] = Some(number as u16);
            }
        }
        let steps = domains.iter().map(|home| steps_of(home, &sets, prefer)).collect();
        Preferences { prefer, sets, steps, set_of }
    }

    /// Whether the preference depends on the kind of core. If not there are no steps at all.
    pub fn by_kind(&self) -> bool {
        !self.sets.is_empty()
    }

    /// What is preferred.
    pub fn prefer(&self) -> Prefer {
        self.prefer
    }

    /// How many sets of CPUs there are.
    pub fn set_count(&self) -> usize {
        self.sets.len()
    }

    /// The set of a number.
    ///
    /// # Panics
    /// If there is none.
    pub fn set(&self, number: usize) -> &KindSet {
        &self.sets[number]
    }

    /// The number of the set that a CPU is in, and its rank; `None` if no step searches for it.
    pub fn set_of(&self, cpu: CpuId) -> Option<(usize, u16)> {
        let number = usize::from(self.set_of.get(cpu.index()).copied().flatten()?);
        Some((number, self.sets[number].rank))
    }

    /// The steps of a task whose home is `home`, the best one first.
    ///
    /// # Panics
    /// If there is no such domain.
    pub fn steps(&self, home: DomainId) -> &[Step] {
        &self.steps[home.index()]
    }

    /// The steps of all domains, those of one after those of another.
    pub fn all_steps(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().flatten()
    }

    /// The steps from `home` through all domains, each with its CPUs.
    ///
    /// # Panics
    /// If there is no such domain.
    pub fn places(&self, home: DomainId) -> impl Iterator<Item = (DomainId, Place)> {
        self.steps(home).iter().map(|step| {
            let KindSet { domain, cpus, .. } = self.sets[step.set];
            (domain, Place { cpus, whole_core: step.whole_core })
        })
    }

    /// The steps that lie in `domain` itself. Without kinds they are a whole idle core, then any
    /// idle CPU.
    pub fn within(&self, domain: &Domain) -> Vec<Place> {
        if !self.by_kind() {
            return [true, false].map(|whole_core| Place { cpus: domain.cpus, whole_core }).into();
        }
        let own = self.places(domain.id).filter(|&(other, _)| other == domain.id);
        own.map(|(_, place)| place).collect()
    }
}

/// The CPUs of each kind in each domain. Kinds of equal rank count as one.
fn kind_sets(domains: &Domains, dedicated: &CpuSet) -> Vec<KindSet> {
    let kinds = domains.iter().flat_map(|domain| &domain.kinds);
    let mut ranks: Vec<u32> = kinds.map(|kind| kind.rank).collect();
    ranks.sort_unstable();
    ranks.dedup();
    let mut sets = Vec::new();
    for domain in domains {
        let mut by_rank = BTreeMap::<u32, CpuSet>::new();
        for kind in &domain.kinds {
            let cpus = by_rank.entry(kind.rank).or_default();
            *cpus = cpus.union(&kind.cpus);
        }
        sets.extend(by_rank.into_iter().map(|(rank, cpus)| KindSet {
            domain: domain.id,
            rank: ranks.partition_point(|&other| other < rank) as u16,
            cpus: cpus.difference(dedicated),
            smt: domain.cores.iter().any(|core| core.len() > 1 && core.intersects(&cpus)),
        }));
    }
    sets.retain(|set| !set.cpus.is_empty());
    sets
}

fn steps_of(home: &Domain, sets: &[KindSet], prefer: Prefer) -> Vec<Step> {
    let distance = |domain| home.nearest.iter().position(|&other| other == domain).map(|i| i + 1);
    let mut steps: Vec<Step> = (0..sets.len())
        .flat_map(|set| [true, false].map(|whole_core| Step { set, whole_core }))
        .filter(|step| step.whole_core || sets[step.set].smt)
        .collect();
    steps.sort_by_cached_key(|step| {
        let set = &sets[step.set];
        let far = distance(set.domain).unwrap_or(0);
        match prefer {
            Prefer::Efficiency => (set.rank, u16::from(!step.whole_core), far),
            _ => (u16::from(!step.whole_core), u16::MAX - set.rank, far),
        }
    });
    steps
}
