//! Latencies: percentiles of an interval, from a histogram that the kernel's side fills.
//!
//! Invariant: a latency is known to within a quarter, and counts in exactly one interval.

use crate::abi;
use crate::abi::statistics::Percentiles;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many buckets divide each power of two.
const PARTS: usize = abi::limits_LATENCY_PARTS as usize;

/// How many buckets there are.
pub const BUCKETS: usize = abi::limits_LATENCY_BUCKETS as usize;

/// The counts at one moment.
pub struct Snapshot {
    counts: Box<[u64]>,
}

impl Clone for Snapshot {
    fn clone(&self) -> Self {
        Self { counts: self.counts.clone() }
    }

    /// Without an allocation.
    fn clone_from(&mut self, source: &Self) {
        self.counts.copy_from_slice(&source.counts);
    }
}

/// The largest value (nanoseconds) that falls into a bucket.
fn upper_bound(bucket: usize) -> u64 {
    let (power, part) = (bucket / PARTS, bucket % PARTS);
    let step = (1u128 << power) / PARTS as u128;
    u64::try_from((1u128 << power) + step * (part as u128 + 1) - 1).unwrap_or(u64::MAX)
}

impl Default for Snapshot {
    fn default() -> Self {
        Self::empty()
    }
}

impl Snapshot {
    /// Nothing counted.
    pub fn empty() -> Self {
        Self { counts: vec![0; BUCKETS].into() }
    }

    /// Forgets what was counted.
    pub fn clear(&mut self) {
        self.counts.fill(0);
    }

    /// Adds the counts of all buckets.
    pub fn add(&mut self, counts: impl IntoIterator<Item = u64>) {
        for (to, from) in self.counts.iter_mut().zip(counts) {
            *to += from;
        }
    }

    /// Copies the counts of this moment.
    pub fn copy_from(&mut self, counts: &[AtomicU64; BUCKETS]) {
        self.clear();
        self.add(counts.iter().map(|count| count.load(Ordering::Relaxed)));
    }

    /// How many latencies were shorter than `2^power` nanoseconds.
    pub fn below_power(&self, power: u32) -> u64 {
        self.counts.iter().take(power as usize * PARTS).sum()
    }

    /// The sum of all latencies in nanoseconds, each rounded up to the bound of its bucket.
    pub fn sum_ns(&self) -> u64 {
        let sums = self.counts.iter().enumerate();
        let sums = sums.map(|(bucket, count)| count.saturating_mul(upper_bound(bucket)));
        sums.fold(0, u64::saturating_add)
    }

    /// The `percentile` (0 to 100) of the latencies counted since `earlier`, in nanoseconds,
    /// rounded up to the bound of its bucket; `None` if there were none.
    pub fn percentile_since(&self, earlier: &Snapshot, percentile: u64) -> Option<u64> {
        let since = || self.counts.iter().zip(&earlier.counts).map(|(now, then)| now - then);
        let total: u64 = since().sum();
        if total == 0 {
            return None;
        }
        let rank = (total * percentile).div_ceil(100).max(1);
        let mut seen = 0;
        since()
            .position(|count| {
                seen += count;
                seen >= rank
            })
            .map(upper_bound)
    }

    /// The percentiles of the statistics, of the latencies counted since `earlier`.
    pub fn percentiles_since(&self, earlier: &Snapshot) -> Percentiles {
        let us = |percentile| {
            let ns = self.percentile_since(earlier, percentile)?;
            Some((ns as f64 / 100.0).round() / 10.0)
        };
        Percentiles { p50: us(50), p99: us(99) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bucket of a latency, as the kernel's side computes it.
    fn bucket(ns: u64) -> usize {
        let ns = ns.max(PARTS as u64);
        let power = ns.ilog2() as usize;
        power * PARTS + (ns >> (power - 2)) as usize % PARTS
    }

    #[test]
    fn every_value_lies_in_its_bucket() {
        for ns in (4..10_000).chain([u64::MAX / 3, u64::MAX]) {
            let bound = upper_bound(bucket(ns));
            assert!(ns <= bound && bound - ns <= ns / 4, "{ns} ended below {bound}");
        }
    }

    #[test]
    fn a_latency_is_below_each_higher_power() {
        let counts = [const { AtomicU64::new(0) }; BUCKETS];
        for ns in [1023, 1024, 2047, 2048, u64::MAX] {
            counts[bucket(ns)].fetch_add(1, Ordering::Relaxed);
        }
        let mut snapshot = Snapshot::empty();
        snapshot.copy_from(&counts);
        let below = [10, 11, 12, 63, 64].map(|power| snapshot.below_power(power));
        assert_eq!(below, [1, 3, 4, 4, 5]);
        assert_eq!(snapshot.sum_ns(), u64::MAX);
        counts[bucket(u64::MAX)].store(0, Ordering::Relaxed);
        snapshot.copy_from(&counts);
        let sum = 1023 + 1024 + 2047 + 2048;
        assert!((sum..sum * 5 / 4).contains(&snapshot.sum_ns()), "{}", snapshot.sum_ns());
    }

    #[test]
    fn percentiles_are_of_the_interval_only() {
        let counts = [const { AtomicU64::new(0) }; BUCKETS];
        let record = |ns| counts[bucket(ns)].fetch_add(1, Ordering::Relaxed);
        let (mut before, mut after) = (Snapshot::empty(), Snapshot::empty());
        record(1_000_000);
        before.copy_from(&counts);
        for us in 1..=100 {
            record(us * 1000);
        }
        after.copy_from(&counts);
        let median = after.percentile_since(&before, 50).unwrap();
        assert!((50_000..63_000).contains(&median), "{median}");
        let p99 = after.percentile_since(&before, 99).unwrap();
        assert!((99_000..125_000).contains(&p99), "{p99}");
        assert_eq!(after.percentile_since(&after, 50), None);
    }
}
