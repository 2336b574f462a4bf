//! How long decisions take: a histogram that one thread writes and another reads.
//!
//! Invariant: recording is one addition to a counter of the writer's own; a reader sees every count
//! sooner or later and none twice.

use std::sync::atomic::{AtomicU64, Ordering};

/// Each power of two is divided in so many buckets: a value is known to within a quarter.
const PARTS: usize = 4;
const BUCKETS: usize = 64 * PARTS;

/// Counts of durations in nanoseconds, in buckets that grow with the value.
pub struct Latency {
    counts: Box<[AtomicU64]>,
}

/// The counts at one moment.
#[derive(Clone)]
pub struct Snapshot {
    counts: Box<[u64]>,
}

fn bucket(ns: u64) -> usize {
    let ns = ns.max(PARTS as u64);
    let power = ns.ilog2() as usize;
    let part = (ns >> (power - PARTS.ilog2() as usize)) as usize % PARTS;
    power * PARTS + part
}

/// The largest value that falls into a bucket.
fn upper_bound(bucket: usize) -> u64 {
    let (power, part) = (bucket / PARTS, bucket % PARTS);
    let step = (1u128 << power) / PARTS as u128;
    u64::try_from((1u128 << power) + step * (part as u128 + 1) - 1).unwrap_or(u64::MAX)
}

impl Latency {
    /// No durations yet.
    pub fn new() -> Self {
        Self { counts: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Counts one duration. Only one thread may record.
    pub fn record(&self, ns: u64) {
        let count = &self.counts[bucket(ns)];
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Copies the counts into `snapshot`, which comes from [`Snapshot::empty`].
    pub fn read(&self, snapshot: &mut Snapshot) {
        for (to, from) in snapshot.counts.iter_mut().zip(&self.counts) {
            *to = from.load(Ordering::Relaxed);
        }
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self::new()
    }
}

impl Snapshot {
    /// Nothing counted.
    pub fn empty() -> Self {
        Self { counts: vec![0; BUCKETS].into() }
    }

    /// The `percentile` (0 to 100) of what was recorded since `earlier`, in nanoseconds, rounded up
    /// to the bound of its bucket; `None` if nothing was.
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        for ns in (4..10_000).chain([u64::MAX / 3, u64::MAX]) {
            let bound = upper_bound(bucket(ns));
            assert!(ns <= bound && bound - ns <= ns / 4, "{ns} ended below {bound}");
        }
    }

    #[test]
    fn percentiles_are_of_the_interval_only() {
        let latency = Latency::new();
        let (mut before, mut after) = (Snapshot::empty(), Snapshot::empty());
        latency.record(1_000_000);
        latency.read(&mut before);
        for ns in 1..=100 {
            latency.record(ns * 1000);
        }
        latency.read(&mut after);
        let median = after.percentile_since(&before, 50).unwrap();
        assert!((50_000..63_000).contains(&median), "{median}");
        let p99 = after.percentile_since(&before, 99).unwrap();
        assert!((99_000..125_000).contains(&p99), "{p99}");
        assert_eq!(after.percentile_since(&after, 50), None);
    }
}
