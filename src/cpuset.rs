//! A set of CPUs of fixed size, so that it can be copied and kept without allocation.
//!
//! Invariant: only bits below [`MAX_CPUS`] exist. Every CPU number is checked where it enters the
//! program (topology, messages of the kernel), so a larger one is a bug of the caller, and
//! inserting it panics.

use crate::abi;
use crate::ids::CpuId;
use serde::{Serialize, Serializer};
use std::fmt;

/// How many CPUs a machine may have; their numbers go from 0 to `MAX_CPUS - 1`.
pub const MAX_CPUS: usize = abi::limits_MAX_CPUS as usize;

const WORDS: usize = MAX_CPUS / 64;

/// A set of CPUs.
///
/// ```
/// use scx_manyland::{cpuset::CpuSet, ids::CpuId};
/// let set: CpuSet = [CpuId(3), CpuId(0)].into_iter().collect();
/// assert_eq!(set.len(), 2);
/// assert_eq!(set.to_string(), "0,3");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CpuSet {
    words: [u64; WORDS],
}

impl CpuSet {
    /// The set of no CPU.
    pub const EMPTY: CpuSet = CpuSet { words: [0; WORDS] };

    /// A set from the words of a kernel cpumask, the CPU `i` being bit `i % 64` of word `i / 64`.
    pub const fn from_words(words: [u64; WORDS]) -> Self {
        Self { words }
    }

    /// A set from the kernel's list format: `0-3,8`. `None`: the text is no such list. CPUs past the
    /// largest number are left out.
    pub fn from_list(list: &str) -> Option<Self> {
        let mut set = CpuSet::EMPTY;
        for range in list.trim().split(',').filter(|range| !range.is_empty()) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
            (first..=last.min(MAX_CPUS as u32 - 1)).for_each(|cpu| set.insert(CpuId(cpu)));
        }
        Some(set)
    }

    /// The words of the set, laid out as in [`CpuSet::from_words`].
    pub const fn words(&self) -> &[u64; WORDS] {
        &self.words
    }

    /// Adds a CPU.
    ///
    /// # Panics
    /// If the CPU's number is [`MAX_CPUS`] or more.
    pub fn insert(&mut self, cpu: CpuId) {
        self.words[cpu.index() / 64] |= 1 << (cpu.index() % 64);
    }

    /// Removes a CPU; nothing happens if it is not in.
    pub fn remove(&mut self, cpu: CpuId) {
        if cpu.index() < MAX_CPUS {
            self.words[cpu.index() / 64] &= !(1 << (cpu.index() % 64));
        }
    }

    /// Whether a CPU is in the set.
    pub fn contains(&self, cpu: CpuId) -> bool {
        cpu.index() < MAX_CPUS && self.words[cpu.index() / 64] & (1 << (cpu.index() % 64)) != 0
    }

    /// How many CPUs are in the set.
    pub fn len(&self) -> usize {
        self.words.iter().map(|w| w.count_ones() as usize).sum()
    }

    /// Whether no CPU is in the set.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&w| w == 0)
    }

    /// The CPU with the lowest number.
    pub fn first(&self) -> Option<CpuId> {
        let word = self.words.iter().position(|&w| w != 0)?;
        Some(CpuId(word as u32 * 64 + self.words[word].trailing_zeros()))
    }

    /// The CPUs, lowest number first.
    pub fn iter(&self) -> impl Iterator<Item = CpuId> + '_ {
        self.words.iter().enumerate().flat_map(|(i, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                (rest != 0).then(|| {
                    let bit = rest.trailing_zeros();
                    rest &= rest - 1;
                    CpuId(i as u32 * 64 + bit)
                })
            })
        })
    }

    /// The CPUs that are in both sets.
    pub fn intersection(&self, other: &CpuSet) -> CpuSet {
        CpuSet { words: std::array::from_fn(|i| self.words[i] & other.words[i]) }
    }

    /// The CPUs that are in either set.
    pub fn union(&self, other: &CpuSet) -> CpuSet {
        CpuSet { words: std::array::from_fn(|i| self.words[i] | other.words[i]) }
    }

    /// The CPUs that are in this set and not in the other.
    pub fn difference(&self, other: &CpuSet) -> CpuSet {
        CpuSet { words: std::array::from_fn(|i| self.words[i] & !other.words[i]) }
    }

    /// Whether the two sets share a CPU.
    pub fn intersects(&self, other: &CpuSet) -> bool {
        !self.intersection(other).is_empty()
    }

    /// Whether every CPU of this set is in the other.
    pub fn is_subset(&self, other: &CpuSet) -> bool {
        self.difference(other).is_empty()
    }
}

impl FromIterator<CpuId> for CpuSet {
    fn from_iter<I: IntoIterator<Item = CpuId>>(cpus: I) -> Self {
        let mut set = CpuSet::EMPTY;
        for cpu in cpus {
            set.insert(cpu);
        }
        set
    }
}

/// The kernel's list format: `0-3,8`.
impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if(|next| next.0 == last.0 + 1) {
                last = next;
            }
            match last.0 - first.0 {
                0 => write!(f, "{separator}{first}")?,
                _ => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

/// Serialised as the list of CPU numbers, ascending.
impl Serialize for CpuSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_in_the_kernels_list_format() {
        let set: CpuSet = [0, 1, 2, 3, 8, 63, 64, 1023].map(CpuId).into_iter().collect();
        assert_eq!(set.to_string(), "0-3,8,63-64,1023");
        assert_eq!(CpuSet::EMPTY.to_string(), "");
    }

    #[test]
    fn reads_the_kernels_list_format() {
        for list in ["", "0-3,8,63-64,1023", "5"] {
            assert_eq!(CpuSet::from_list(list).unwrap().to_string(), list);
        }
        assert_eq!(CpuSet::from_list("1022-4095\n").unwrap().to_string(), "1022-1023");
        for text in ["one", "1-", "-1", "3;4"] {
            assert_eq!(CpuSet::from_list(text), None, "{text}");
        }
    }

    #[test]
    fn iterates_in_ascending_order_across_words() {
        let cpus = [5, 64, 700, 1023].map(CpuId);
        let set: CpuSet = cpus.into_iter().rev().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), cpus);
        assert_eq!(set.first(), Some(CpuId(5)));
        assert_eq!(set.len(), 4);
    }

    #[test]
    fn knows_its_algebra() {
        let low: CpuSet = (0..8).map(CpuId).collect();
        let even: CpuSet = (0..8).step_by(2).map(CpuId).collect();
        assert!(even.is_subset(&low) && !low.is_subset(&even));
        assert_eq!(low.difference(&even).to_string(), "1,3,5,7");
        assert_eq!(low.intersection(&even), even);
        assert_eq!(low.union(&even), low);
    }

    #[test]
    #[should_panic]
    fn refuses_a_number_beyond_the_largest() {
        CpuSet::EMPTY.clone().insert(CpuId(MAX_CPUS as u32));
    }
}
