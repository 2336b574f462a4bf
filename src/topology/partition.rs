//! Cuts a machine into domains.
//!
//! Each object of the wanted level becomes a domain. The machine may have none, or CPUs outside all
//! of them. Such CPUs become domains of the next finer level that covers them, down the ladder
//! machine, package, numa, l3, l2, core. A CPU that not even a core covers is a domain of its own.
//!
//! Invariant: see [`Domains`]. It holds by construction, because each step uses only the CPUs that
//! are left, even where objects of a level overlap as NUMA nodes may.

use super::{Granularity, Kind, MAX_DOMAINS, Topology, nearest};
use crate::cpuset::{CpuSet, MAX_CPUS};
use crate::ids::{CpuId, DomainId};
use anyhow::{Result, bail};
use std::ops::Index;

/// A set of CPUs that one scheduling thread serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Its number, which is its index among the domains.
    pub id: DomainId,
    /// Its CPUs; never empty.
    pub cpus: CpuSet,
    /// What it was made of: the granularity asked for, or a finer one where the machine had no
    /// such object for these CPUs.
    pub level: Granularity,
    /// The operating system's number of the closest NUMA node that is local to all of its CPUs;
    /// `None` if there is none, as for a domain that spans nodes.
    pub numa_node: Option<u32>,
    /// Its kinds of core, fastest first; every CPU of the domain is in exactly one.
    pub kinds: Vec<Kind>,
    /// Its cores by lowest CPU, each the SMT siblings that are in the domain; every CPU of the
    /// domain is in exactly one.
    pub cores: Vec<CpuSet>,
    /// All other domains, nearest first.
    pub nearest: Vec<DomainId>,
}

impl Domain {
    /// Whether some core has more than one CPU.
    pub fn has_smt(&self) -> bool {
        self.cores.iter().any(|core| core.len() > 1)
    }

    /// The next CPU of the same core; after the last comes the first again. It is `cpu` itself if
    /// that has no SMT siblings in this domain.
    ///
    /// ```
    /// use scx_manyland::ids::CpuId;
    /// use scx_manyland::topology::{Granularity, Source, Topology};
    /// let machine = Topology::load(&Source::Synthetic("Core:2 PU:2".into()))?;
    /// let domains = machine.partition(Granularity::Machine)?;
    /// let next = |cpu| domains.as_slice()[0].next_sibling(CpuId(cpu));
    /// assert_eq!([next(2), next(3)], [CpuId(3), CpuId(2)]);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn next_sibling(&self, cpu: CpuId) -> CpuId {
        let Some(core) = self.cores.iter().find(|core| core.contains(cpu)) else { return cpu };
        core.iter().find(|&other| other > cpu).or(core.first()).unwrap_or(cpu)
    }
}

/// The domains of a machine.
///
/// Every online CPU is in exactly one domain. Domains are numbered from 0, sorted by their lowest
/// CPU. There is at least one and there are at most [`MAX_DOMAINS`].
#[derive(Clone, Debug)]
pub struct Domains {
    granularity: Granularity,
    domains: Vec<Domain>,
    domain_of: Box<[Option<DomainId>; MAX_CPUS]>,
}

impl Domains {
    /// The granularity that was asked for.
    pub fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// How many domains there are.
    #[allow(clippy::len_without_is_empty, reason = "there is always a domain")]
    pub fn len(&self) -> usize {
        self.domains.len()
    }

    /// The domains, by number.
    pub fn iter(&self) -> std::slice::Iter<'_, Domain> {
        self.domains.iter()
    }

    /// The domains, by number.
    pub fn as_slice(&self) -> &[Domain] {
        &self.domains
    }

    /// The domain that a CPU belongs to; `None` if the CPU is not online.
    pub fn domain_of(&self, cpu: CpuId) -> Option<DomainId> {
        self.domain_of.get(cpu.index()).copied().flatten()
    }
}

/// # Panics
/// If there is no domain of this number.
impl Index<DomainId> for Domains {
    type Output = Domain;

    fn index(&self, id: DomainId) -> &Domain {
        &self.domains[id.index()]
    }
}

impl<'a> IntoIterator for &'a Domains {
    type Item = &'a Domain;
    type IntoIter = std::slice::Iter<'a, Domain>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Topology {
    /// Cuts the machine into domains.
    ///
    /// # Errors
    /// If that gives more than [`MAX_DOMAINS`] domains.
    pub fn partition(&self, granularity: Granularity) -> Result<Domains> {
        let groups = self.groups(granularity);
        if groups.len() > MAX_DOMAINS {
            let coarser = granularity.coarser().unwrap_or(Granularity::Machine);
            bail!(
                "cannot cut the machine by {granularity}: that makes {} domains and at most \
                 {MAX_DOMAINS} are supported; choose a coarser one (--domain {coarser})",
                groups.len()
            );
        }
        let mut domain_of = Box::new([None; MAX_CPUS]);
        let mut domains = Vec::with_capacity(groups.len());
        for (id, Group { level, cpus }) in (0..).map(DomainId).zip(groups) {
            for cpu in cpus.iter() {
                domain_of[cpu.index()] = Some(id);
            }
            domains.push(Domain {
                id,
                cpus,
                level,
                numa_node: self.numa_node_of(&cpus),
                kinds: self.kinds_within(&cpus),
                cores: self.cores_within(cpus),
                nearest: Vec::new(),
            });
        }
        nearest::sort_by_distance(self, &mut domains);
        Ok(Domains { granularity, domains, domain_of })
    }

    /// The CPUs of each domain, by lowest CPU.
    fn groups(&self, granularity: Granularity) -> Vec<Group> {
        let mut groups = Vec::new();
        let mut rest = self.cpus;
        for level in std::iter::successors(Some(granularity), |level| level.finer()) {
            for object in self.objects(level) {
                let cpus = object.intersection(&rest);
                rest = rest.difference(&cpus);
                if !cpus.is_empty() {
                    groups.push(Group { level, cpus });
                }
            }
        }
        let alone = |cpu| Group { level: Granularity::Core, cpus: CpuSet::from_iter([cpu]) };
        groups.extend(rest.iter().map(alone));
        if granularity == Granularity::Kind {
            groups = groups.iter().flat_map(|group| self.split_by_kind(group)).collect();
        }
        groups.sort_by_key(|group| group.cpus.first());
        groups
    }

    fn objects(&self, level: Granularity) -> Vec<CpuSet> {
        match level {
            Granularity::Machine => vec![self.cpus],
            Granularity::Package => self.packages.clone(),
            Granularity::Numa => self.numa_nodes.iter().map(|node| node.cpus).collect(),
            Granularity::L3 | Granularity::Kind => self.l3_caches.clone(),
            Granularity::L2 => self.l2_caches.clone(),
            Granularity::Core => self.cores.clone(),
        }
    }

    fn split_by_kind(&self, group: &Group) -> impl Iterator<Item = Group> {
        let level = group.level;
        self.kinds_within(&group.cpus).into_iter().map(move |kind| Group { level, cpus: kind.cpus })
    }

    fn kinds_within(&self, cpus: &CpuSet) -> Vec<Kind> {
        self.kinds
            .iter()
            .map(|kind| Kind { rank: kind.rank, cpus: kind.cpus.intersection(cpus) })
            .filter(|kind| !kind.cpus.is_empty())
            .collect()
    }

    fn cores_within(&self, cpus: CpuSet) -> Vec<CpuSet> {
        let mut rest = cpus;
        let mut cores = Vec::new();
        for core in &self.cores {
            let siblings = core.intersection(&rest);
            if !siblings.is_empty() {
                rest = rest.difference(&siblings);
                cores.push(siblings);
            }
        }
        cores.extend(rest.iter().map(|cpu| CpuSet::from_iter([cpu])));
        cores.sort_by_key(CpuSet::first);
        cores
    }
}

/// The CPUs of a domain, and what it is made of.
struct Group {
    level: Granularity,
    cpus: CpuSet,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::hwloc::{Facts, Words};
    use clap::ValueEnum;
    use proptest::prelude::*;

    fn words(cpus: impl IntoIterator<Item = u32>) -> Words {
        *cpus.into_iter().map(CpuId).collect::<CpuSet>().words()
    }

    fn bare(cpus: impl IntoIterator<Item = u32>) -> Facts {
        Facts {
            cpus: words(cpus),
            packages: vec![],
            numa_nodes: vec![],
            l3_caches: vec![],
            l2_caches: vec![],
            cores: vec![],
            kinds: vec![],
            numa_distances: vec![],
        }
    }

    fn shown(domains: &Domains) -> Vec<(String, Granularity)> {
        domains.iter().map(|domain| (domain.cpus.to_string(), domain.level)).collect()
    }

    fn check(topology: &Topology, domains: &Domains) {
        let mut seen = CpuSet::EMPTY;
        for (i, domain) in domains.iter().enumerate() {
            assert_eq!(domain.id.index(), i);
            assert!(!domain.cpus.is_empty() && !domain.cpus.intersects(&seen));
            assert!(i == 0 || domains.as_slice()[i - 1].cpus.first() < domain.cpus.first());
            seen = seen.union(&domain.cpus);
            assert!(domain.cpus.iter().all(|cpu| domains.domain_of(cpu) == Some(domain.id)));
            is_partition(&domain.cpus, domain.cores.iter().copied());
            is_partition(&domain.cpus, domain.kinds.iter().map(|kind| kind.cpus));
            assert!(domain.kinds.is_sorted_by(|a, b| a.rank >= b.rank));
            let mut others = domain.nearest.clone();
            others.push(domain.id);
            others.sort();
            assert!(others.into_iter().eq((0..domains.len() as u32).map(DomainId)));
        }
        assert_eq!(seen, *topology.cpus());
        let offline = (0..MAX_CPUS as u32).map(CpuId).find(|&cpu| !topology.cpus().contains(cpu));
        assert_eq!(offline.and_then(|cpu| domains.domain_of(cpu)), None);
    }

    fn is_partition(whole: &CpuSet, parts: impl Iterator<Item = CpuSet>) {
        let rest = parts.fold(*whole, |rest, part| {
            assert!(!part.is_empty() && part.is_subset(&rest));
            rest.difference(&part)
        });
        assert!(rest.is_empty());
    }

    #[test]
    fn cpus_outside_of_all_objects_go_down_the_ladder() {
        let machine = Topology::from_facts(Facts {
            l3_caches: vec![words(4..8)],
            l2_caches: vec![words(4..6), words(6..8), words([0, 1])],
            cores: vec![words([2, 3])],
            ..bare(0..10)
        });
        let domains = machine.partition(Granularity::L3).unwrap();
        check(&machine, &domains);
        let expected = [
            ("0-1", Granularity::L2),
            ("2-3", Granularity::Core),
            ("4-7", Granularity::L3),
            ("8", Granularity::Core),
            ("9", Granularity::Core),
        ];
        assert_eq!(shown(&domains), expected.map(|(cpus, level)| (cpus.to_string(), level)));
    }

    #[test]
    fn kind_splits_what_the_ladder_gives() {
        let machine = Topology::from_facts(Facts {
            l3_caches: vec![words(0..4)],
            l2_caches: vec![words(4..6)],
            kinds: vec![(0, words([2, 3, 4])), (5, words([0, 1, 5]))],
            ..bare(0..6)
        });
        let domains = machine.partition(Granularity::Kind).unwrap();
        check(&machine, &domains);
        let cpus = domains.iter().map(|domain| domain.cpus.to_string()).collect::<Vec<_>>();
        assert_eq!(cpus, ["0-1", "2-3", "4", "5"]);
        assert_eq!(domains.iter().map(|d| d.kinds[0].rank).collect::<Vec<_>>(), [5, 0, 0, 5]);
    }

    #[test]
    fn a_large_node_over_small_ones_gets_what_they_leave() {
        let machine = Topology::from_facts(Facts {
            numa_nodes: vec![
                (0, words(0..8)),
                (1, words(0..3)),
                (2, words(3..6)),
                (3, words(0..3)),
            ],
            ..bare(0..8)
        });
        let domains = machine.partition(Granularity::Numa).unwrap();
        check(&machine, &domains);
        let nodes = domains.iter().map(|d| (d.cpus.to_string(), d.numa_node)).collect::<Vec<_>>();
        let expected = [("0-2", Some(1)), ("3-5", Some(2)), ("6-7", Some(0))];
        assert_eq!(nodes, expected.map(|(cpus, node)| (cpus.to_string(), node)));
    }

    #[test]
    fn nearest_is_shared_cache_then_package_then_node_then_distance() {
        let machine = Topology::from_facts(Facts {
            packages: vec![words(0..8), words(8..10), words(10..12), words(12..14)],
            numa_nodes: vec![
                (0, words(0..6)),
                (1, words(6..8)),
                (2, words(8..10)),
                (3, words(10..14)),
            ],
            l3_caches: vec![words([0, 1, 4, 5]), words([2, 3]), words([6, 7])],
            l2_caches: (0..7).map(|i| words([2 * i, 2 * i + 1])).collect(),
            numa_distances: vec![(0, 2, 30), (0, 3, 20)],
            ..bare(0..14)
        });
        let domains = machine.partition(Granularity::L2).unwrap();
        check(&machine, &domains);
        assert_eq!(domains[DomainId(0)].nearest, [2, 1, 3, 5, 6, 4].map(DomainId));
        assert_eq!(domains[DomainId(5)].nearest, [6, 0, 1, 2, 3, 4].map(DomainId));
    }

    #[test]
    fn too_many_domains_are_refused() {
        let machine = |cpus| Topology::from_facts(bare(0..cpus));
        assert_eq!(machine(512).partition(Granularity::Core).unwrap().len(), 512);
        let error = machine(513).partition(Granularity::L3).unwrap_err().to_string();
        assert!(error.contains("513 domains") && error.contains("--domain numa"), "{error}");
    }

    /// Sets of CPUs that need not agree with each other, as a broken firmware might report them.
    fn any_facts() -> impl Strategy<Value = Facts> {
        let any_set = || {
            let holes = proptest::collection::btree_set(0..MAX_CPUS as u32, 1..12);
            let range = (0..200_u32, 1..80_u32).prop_map(|(first, n)| (first..first + n).collect());
            prop_oneof![holes, range].prop_map(words)
        };
        let sets = move || proptest::collection::vec(any_set(), 0..8);
        let ranked = move || proptest::collection::vec((0..4_u32, any_set()), 0..8);
        let distances = proptest::collection::vec((0..4_u32, 0..4_u32, 10..50_u64), 0..16);
        (any_set(), sets(), ranked(), sets(), sets(), sets(), ranked(), distances).prop_map(
            |(cpus, packages, numa_nodes, l3_caches, l2_caches, cores, kinds, numa_distances)| {
                Facts {
                    cpus,
                    packages,
                    numa_nodes,
                    l3_caches,
                    l2_caches,
                    cores,
                    kinds,
                    numa_distances,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn every_cpu_is_in_exactly_one_domain_whatever_the_facts(facts in any_facts()) {
            let machine = Topology::from_facts(facts);
            for &granularity in Granularity::value_variants() {
                check(&machine, &machine.partition(granularity).unwrap());
            }
        }
    }
}
