//! The times that the kernel has ended the scheduler for what may be over by now: how often a run
//! attaches again.
//!
//! Invariant: a run attaches again as often as [`LIMITS`] allows at most, and says why each time.

use crate::run::crew::HAS_ENDED;
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// A minute and an hour (seconds), and how often a run attaches again within each. A fault that
/// comes at once meets the first, a stall that comes back after each watchdog the second.
const LIMITS: [(&str, u64, usize); 2] = [("minute", 60, 3), ("hour", 3600, 10)];

/// The evictions of the last hour.
#[derive(Debug, Default)]
pub struct Evictions(Vec<Instant>);

impl Evictions {
    /// Says that the kernel has ended the scheduler, and why.
    ///
    /// # Errors
    /// If that has happened too often, with the reason.
    pub fn note(&mut self, why: &str) -> Result<()> {
        self.note_at(Instant::now(), why)?;
        log::warn!("{HAS_ENDED}: {why}; attaching again");
        Ok(())
    }

    fn note_at(&mut self, now: Instant, why: &str) -> Result<()> {
        for (name, seconds, most) in LIMITS {
            let within = Duration::from_secs(seconds);
            if self.0.iter().filter(|&&then| now - then < within).count() == most {
                bail!(
                    "{HAS_ENDED} {} times within one {name}, now because of this: {why}; its own \
                     scheduler is back",
                    most + 1
                );
            }
        }
        let longest = Duration::from_secs(LIMITS[LIMITS.len() - 1].1);
        self.0.retain(|&then| now - then < longest);
        self.0.push(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_attaches_again_three_times_a_minute() {
        let mut evictions = Evictions::default();
        let start = Instant::now();
        let mut after = |seconds| {
            evictions.note_at(start + Duration::from_secs(seconds), "a task failed to run")
        };
        for seconds in [0, 10, 20] {
            after(seconds).unwrap();
        }
        let error = after(59).unwrap_err().to_string();
        assert!(error.contains("4 times within one minute"), "{error}");
        assert!(error.contains("a task failed to run"), "{error}");
        after(60).unwrap();
        after(65).unwrap_err();
        after(71).unwrap();
    }

    #[test]
    fn a_stall_that_comes_back_ends_a_run() {
        let mut evictions = Evictions::default();
        let start = Instant::now();
        let mut after = |seconds| {
            evictions.note_at(start + Duration::from_secs(seconds), "a task failed to run")
        };
        for stall in 0..10 {
            after(stall * 35).unwrap();
        }
        let error = after(3599).unwrap_err().to_string();
        assert!(error.contains("11 times within one hour"), "{error}");
        after(3600).unwrap();
        after(3605).unwrap_err();
    }
}
