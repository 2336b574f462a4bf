//! Many times, and their percentiles.

use crate::cli::bench::reading::Reading;
use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use std::time::Duration;

/// Times, each exact to a thousandth.
pub struct Latencies(Histogram<u64>);

/// The unit of a reading.
#[derive(Clone, Copy)]
pub enum Unit {
    Microseconds,
    Milliseconds,
}

impl Latencies {
    /// # Errors
    /// None in practice: the bounds are fixed.
    pub fn new() -> Result<Self> {
        const LONGEST: Duration = Duration::from_secs(3600);
        let histogram = Histogram::new_with_max(LONGEST.as_nanos() as u64, 3);
        Ok(Self(histogram.context("cannot make a histogram")?))
    }

    /// Counts a time. A time of more than an hour counts as an hour.
    pub fn record(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds the times that `other` has counted.
    ///
    /// # Errors
    /// None in practice: all have the same bounds.
    pub fn add(&mut self, other: &Latencies) -> Result<()> {
        self.0.add(&other.0).context("cannot add histograms")
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The mean, in microseconds.
    pub fn mean_us(&self) -> f64 {
        self.0.mean() / 1e3
    }

    /// The percentiles (0 to 100) as readings named `NAME p99` and so on; 100 is `NAME max`.
    ///
    /// # Errors
    /// If nothing was counted.
    pub fn readings(&self, name: &str, percentiles: &[f64], unit: Unit) -> Result<Vec<Reading>> {
        ensure!(self.count() > 0, "no {name} was seen; give it more --seconds");
        let reading = |&percentile: &f64| {
            let label = match percentile {
                100.0 => format!("{name} max"),
                _ => format!("{name} p{percentile}"),
            };
            let ns = self.0.value_at_percentile(percentile) as f64;
            match unit {
                Unit::Microseconds => Reading::lower(label, "us", ns / 1e3),
                Unit::Milliseconds => Reading::lower(label, "ms", ns / 1e6),
            }
        };
        Ok(percentiles.iter().map(reading).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut latencies = Latencies::new().unwrap();
        for us in 1..=1000 {
            latencies.record(Duration::from_micros(us));
        }
        let mut both = Latencies::new().unwrap();
        both.add(&latencies).unwrap();
        both.record(Duration::from_secs(7200));
        assert_eq!(both.count(), 1001);
        let readings = both.readings("request", &[50.0, 99.9, 100.0], Unit::Microseconds).unwrap();
        let names = readings.iter().map(|reading| reading.name.as_str()).collect::<Vec<_>>();
        assert_eq!(names, ["request p50", "request p99.9", "request max"]);
        assert!((readings[0].value - 501.0).abs() < 1.0, "{readings:?}");
        assert!((readings[1].value - 1000.0).abs() < 2.0, "{readings:?}");
        assert!(readings[2].value > 3.5e9, "{readings:?}");
        let ms = latencies.readings("request", &[100.0], Unit::Milliseconds).unwrap();
        assert!((ms[0].value - 1.0).abs() < 0.01, "{ms:?}");
    }

    #[test]
    fn nothing_has_no_percentiles() {
        let none = Latencies::new().unwrap();
        assert!(none.readings("request", &[50.0], Unit::Microseconds).is_err());
    }
}
