//! What can be chosen for a run of the scheduler, in plain types.
//!
//! Invariant: options that passed [`RunOptions::check`] are within the ranges below, which are
//! also those of the command line.

pub use crate::topology::preference::Prefer;

use crate::policy::Slices;
use crate::topology::Granularity;
use anyhow::{Result, ensure};
use clap::ValueEnum;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Allowed base slices, in microseconds.
pub const SLICE_US: RangeInclusive<u64> = 100..=1_000_000;
/// Allowed shortest slices, in microseconds; besides, none may exceed the base slice.
pub const SLICE_MIN_US: RangeInclusive<u64> = 10..=1_000_000;
/// Allowed patience, in microseconds.
pub const PATIENCE_US: RangeInclusive<u64> = 10..=1_000_000;
/// For how many wake-ups a decision may stand.
pub const STANDING: RangeInclusive<u64> = 0..=1000;
/// Allowed time between two statistics, in seconds.
pub const STATS_SECONDS: RangeInclusive<u64> = 1..=3600;

/// The form of what is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// How often statistics are printed, and in what form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatsOptions {
    /// Time between two of them.
    pub every: Duration,
    /// Their form.
    pub format: Format,
}

/// The options of a run.
///
/// ```
/// use scx_manyland::options::RunOptions;
/// use scx_manyland::topology::Granularity;
/// let options = RunOptions { domain: Granularity::L2, ..RunOptions::default() };
/// options.check()?;
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunOptions {
    /// What a domain is made of.
    pub domain: Granularity,
    /// How long a task may run at a time.
    pub slices: Slices,
    /// How long a task may wait undecided before the kernel runs it by itself.
    pub patience: Duration,
    /// For how many of a task's next wake-ups a decision may stand, where its policy lets it
    /// ([`Choice::standing`](crate::policy::Choice::standing)); 0: the policy decides for each anew.
    pub standing: u32,
    /// Decisions only: the safety net and the kernel's half of stealing stay off until a thread
    /// stalls.
    pub strict: bool,
    /// Domains do not help each other: no stealing, no spilling to another domain's idle CPUs, and
    /// homes stay where they are.
    pub no_steal: bool,
    /// Schedule only the tasks that chose the scheduling class SCHED_EXT themselves.
    pub partial: bool,
    /// Each domain thread keeps one CPU of its domain to itself, spinning.
    pub dedicate: bool,
    /// Which kind of core goes first on a machine that has several; `None` asks the power supply
    /// ([`crate::topology::power`]): performance on mains power or where that is unknown, else efficiency.
    pub prefer: Option<Prefer>,
    /// Print statistics.
    pub stats: Option<StatsOptions>,
    /// Say more of what is being done.
    pub verbose: bool,
}

impl Default for RunOptions {
    fn default() -> Self {
        RunOptions {
            domain: Granularity::default(),
            slices: Slices { base: Duration::from_micros(5000), min: Duration::from_micros(500) },
            patience: Duration::from_micros(1000),
            standing: 7,
            strict: false,
            no_steal: false,
            partial: false,
            dedicate: false,
            prefer: None,
            stats: None,
            verbose: false,
        }
    }
}

impl RunOptions {
    /// Checks that every option is within its range.
    ///
    /// # Errors
    /// Names the first one that is not, and its range.
    pub fn check(&self) -> Result<()> {
        let Slices { base, min } = self.slices;
        within("the slice", base, SLICE_US, "us", Duration::from_micros)?;
        within("the shortest slice", min, SLICE_MIN_US, "us", Duration::from_micros)?;
        ensure!(
            min <= base,
            "the shortest slice ({} us) must not be longer than the slice ({} us)",
            min.as_micros(),
            base.as_micros()
        );
        within("the patience", self.patience, PATIENCE_US, "us", Duration::from_micros)?;
        ensure!(
            STANDING.contains(&u64::from(self.standing)),
            "a decision is to stand for {} wake-ups, which must be between {} and {}",
            self.standing,
            STANDING.start(),
            STANDING.end()
        );
        if let Some(stats) = self.stats {
            let what = "the time between statistics";
            within(what, stats.every, STATS_SECONDS, "s", Duration::from_secs)?;
        }
        Ok(())
    }
}

fn within(
    what: &str,
    value: Duration,
    range: RangeInclusive<u64>,
    unit: &str,
    to_duration: fn(u64) -> Duration,
) -> Result<()> {
    let (low, high) = (*range.start(), *range.end());
    ensure!(
        (to_duration(low)..=to_duration(high)).contains(&value),
        "{what} is {value:?} and must be between {low} and {high} {unit}"
    );
    Ok(())
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Format::Text => "text",
            Format::Json => "json",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_within_range() {
        RunOptions::default().check().unwrap();
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let us = Duration::from_micros;
        let slices = |base, min| RunOptions {
            slices: Slices { base: us(base), min: us(min) },
            ..RunOptions::default()
        };
        let every = Duration::from_millis(10);
        let stats = Some(StatsOptions { every, format: Format::Text });
        for (options, expected) in [
            (slices(99, 10), "the slice is 99µs and must be between 100 and 1000000 us"),
            (slices(100, 9), "the shortest slice is 9µs"),
            (slices(100, 101), "(101 us) must not be longer than the slice (100 us)"),
            (RunOptions { patience: us(1_000_001), ..RunOptions::default() }, "the patience is"),
            (RunOptions { standing: 1001, ..RunOptions::default() }, "stand for 1001 wake-ups"),
            (RunOptions { stats, ..RunOptions::default() }, "between 1 and 3600 s"),
        ] {
            let error = options.check().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
