//! Which CPUs a task may use, and a table of fixed size for the sets of tasks that may use some
//! only.
//!
//! Invariant: a slot and a tag either lead to the set they were made for or to nothing. A set that
//! another replaced is no loss: the kernel's side checks each decision against the task itself.

use crate::cpuset::CpuSet;
use crate::ids::CpuId;
#[cfg(doc)]
use crate::policy::Context;
use std::hash::{DefaultHasher, Hash, Hasher};

/// How many sets the table keeps. Few are in use at once: cpusets of containers, `taskset`.
const SLOTS: usize = 256;

/// Which CPUs of its domain a task may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// Every CPU of the domain.
    Whole,
    /// One CPU only.
    One(CpuId),
    /// Some of them; ask [`Context::cpus_of`].
    Part {
        /// The set's position in the table.
        slot: u16,
        /// Tells the set from another that has replaced it.
        tag: u32,
    },
}

/// The table of sets, indexed by hash: half of a set's hash is its slot, half its tag.
#[derive(Clone, Debug)]
pub(super) struct Affinities {
    slots: Box<[(u32, CpuSet)]>,
}

impl Affinities {
    /// An empty table.
    pub fn new() -> Self {
        Self { slots: vec![(0, CpuSet::EMPTY); SLOTS].into_boxed_slice() }
    }

    /// Remembers a set; the [`Affinity::Part`] that leads to it.
    pub fn remember(&mut self, cpus: CpuSet) -> Affinity {
        let mut hasher = DefaultHasher::new();
        cpus.hash(&mut hasher);
        let hash = hasher.finish();
        let slot = hash as usize % SLOTS;
        let tag = (hash >> 32) as u32;
        self.slots[slot] = (tag, cpus);
        Affinity::Part { slot: slot as u16, tag }
    }

    /// The set at a slot, unless another has replaced it. The empty set is that of a task that may
    /// use no CPU of this domain.
    pub fn recall(&self, slot: u16, tag: u32) -> Option<&CpuSet> {
        self.slots.get(slot as usize).filter(|(kept, _)| *kept == tag).map(|(_, cpus)| cpus)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recall(table: &Affinities, key: Affinity) -> Option<CpuSet> {
        match key {
            Affinity::Part { slot, tag } => table.recall(slot, tag).copied(),
            _ => panic!("a set was remembered"),
        }
    }

    #[test]
    fn recalls_what_it_remembers() {
        let mut table = Affinities::new();
        let low: CpuSet = (0..3).map(CpuId).collect();
        let high: CpuSet = (9..12).map(CpuId).collect();
        let (low_key, high_key) = (table.remember(low), table.remember(high));
        assert_eq!(recall(&table, low_key), Some(low));
        assert_eq!(recall(&table, high_key), Some(high));
        assert_eq!(table.remember(low), low_key);
    }

    #[test]
    fn never_confuses_two_sets() {
        let mut table = Affinities::new();
        let keys: Vec<_> = (0..5000u32)
            .map(|n| {
                let set: CpuSet = (0..16).filter(|bit| n & (1 << bit) != 0).map(CpuId).collect();
                (table.remember(set), set)
            })
            .collect();
        let kept = keys.iter().filter(|(key, set)| match recall(&table, *key) {
            Some(found) => {
                assert_eq!(found, *set);
                true
            }
            None => false,
        });
        assert!(kept.count() >= 100, "the table drops sets that it has room for");
    }
}
