//! The times that the kernel has ended the scheduler for what may be over by now: how often a run
//! attaches again.
//!
//! Invariant: a run attaches again [`PER_MINUTE`] times a minute at most, and says why each time.

use super::session::report;
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// How often a run attaches again in a minute.
const PER_MINUTE: usize = 3;

/// The evictions of the last minute.
#[derive(Debug, Default)]
pub struct Evictions(Vec<Instant>);

impl Evictions {
    /// Says that the kernel has ended the scheduler, and why.
    ///
    /// # Errors
    /// If that has happened too often, with the reason.
    pub fn note(&mut self, why: &str) -> Result<()> {
        self.note_at(Instant::now(), why)?;
        let (count, most) = (self.0.len(), PER_MINUTE);
        report(&format!(
            "the kernel has ended the scheduler: {why}; attaching again ({count} of {most} times \
             in a minute)\n"
        ));
        Ok(())
    }

    fn note_at(&mut self, now: Instant, why: &str) -> Result<()> {
        self.0.retain(|&then| now - then < Duration::from_secs(60));
        if self.0.len() == PER_MINUTE {
            bail!(
                "the kernel has ended the scheduler {} times within a minute, now because of this: \
                 {why}; its own scheduler is back",
                PER_MINUTE + 1
            );
        }
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
        assert!(error.contains("4 times within a minute"), "{error}");
        assert!(error.contains("a task failed to run"), "{error}");
        after(60).unwrap();
        after(65).unwrap_err();
        after(71).unwrap();
    }
}
