//! The progress of a benchmark, on standard error. A terminal gets one line that is rewritten,
//! anything else a line for each run.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// The progress of a benchmark.
pub struct Progress {
    runs: usize,
    begun: usize,
    start: Instant,
    terminal: bool,
}

impl Progress {
    pub fn new(runs: usize) -> Self {
        let terminal = io::stderr().is_terminal();
        Self { runs, begun: 0, start: Instant::now(), terminal }
    }

    /// A run begins.
    pub fn begin(&mut self, round: u32, workload: &str, contender: &str) {
        let left = left(self.start.elapsed(), self.begun, self.runs);
        self.begun += 1;
        let line = format!(
            "round {round}: {workload} under {contender} ({} of {}{left})",
            self.begun, self.runs
        );
        self.show(&line);
    }

    /// Removes the line.
    pub fn end(&self) {
        if self.terminal {
            self.show("");
        }
    }

    /// A closed standard error does not stop the benchmark.
    fn show(&self, line: &str) {
        const CLEAR: &str = "\r\x1b[K";
        let mut stderr = io::stderr().lock();
        let _ = match self.terminal {
            true => write!(stderr, "{CLEAR}{line}").and_then(|()| stderr.flush()),
            false => writeln!(stderr, "{line}"),
        };
    }
}

/// The estimated time until the end, in words; empty until a run is over.
fn left(elapsed: Duration, over: usize, runs: usize) -> String {
    if over == 0 {
        return String::new();
    }
    let seconds = elapsed.as_secs_f64() / over as f64 * runs.saturating_sub(over) as f64;
    match seconds {
        seconds if seconds < 90.0 => format!(", some {seconds:.0} s left"),
        seconds => format!(", some {:.0} minutes left", seconds / 60.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_from_the_runs_so_far() {
        assert_eq!(left(Duration::from_secs(9), 0, 10), "");
        assert_eq!(left(Duration::from_secs(10), 2, 10), ", some 40 s left");
        assert_eq!(left(Duration::from_secs(100), 2, 10), ", some 7 minutes left");
        assert_eq!(left(Duration::from_secs(10), 10, 10), ", some 0 s left");
    }
}
