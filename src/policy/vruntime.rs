//! The default policy: weighted virtual run time, and an earlier turn for tasks that give up the
//! CPU of their own accord.
//!
//! How tasks share the CPU is told in `fair.rs`. On top of it, a task that often waits for something
//! (a frame, a packet, a key) is likely to wait again soon, so it costs the others little to let it
//! go first and it gains much. How often is the average rate of its voluntary context switches, over
//! about 100 ms; it is turned into a boost, a key before the vruntime. The idea is
//! scx_rustland's (Andrea Righi, 2024), where the boost is a part of what the task pays.
//!
//! Waiting for a CPU is no part of that time: tasks that have waited would otherwise have the smaller
//! boosts, and wait on. And N tasks with a boost keep one without it waiting for N boosts together,
//! so boosts are in inverse proportion to the number of waiting tasks from a crowd on, as credits are: eight base slices for each CPU
//! together at most.
//!
//! Invariant: the boost moves the key and never the vruntime, and by one base slice at most. So who
//! gives way often runs earlier and gets no larger share; one that starts to hog the CPU has used
//! up its lead after one base slice.

use crate::policy::fair::{FairQueue, NOTE};
use crate::policy::{Choice, Context, Policy, Slices, Task};

/// The span of the average of voluntary context switches: long enough for a game's frame to count
/// several times, short enough to notice a change before a person does.
const WINDOW_NS: u64 = 100_000_000;

/// The average rate from which on the boost is full: giving way every 10 ms (millihertz).
const FULL_RATE_MHZ: u64 = 100_000;

/// Runs the task with the smallest weighted virtual run time, less its boost.
pub struct Vruntime {
    fair: FairQueue,
}

impl Vruntime {
    /// A policy with these slices.
    ///
    /// ```
    /// use scx_manyland::policy::{Policy, Slices, vruntime::Vruntime};
    /// use std::time::Duration;
    /// let slices = Slices { base: Duration::from_millis(20), min: Duration::from_millis(1) };
    /// assert_eq!(Vruntime::new(slices).virtual_time(), 0);
    /// ```
    pub fn new(slices: Slices) -> Vruntime {
        Vruntime { fair: FairQueue::new(slices, 0) }
    }
}

impl Policy for Vruntime {
    fn enqueue(&mut self, mut task: Task, context: &Context) {
        let vruntime = self.fair.charge(&mut task, context);
        let rate_mhz = average(task.memo[1] & NOTE, task.voluntary_switches, task.since_last_ns);
        task.memo[1] = task.memo[1] & !NOTE | rate_mhz;
        (task.voluntary_switches, task.since_last_ns) = (0, 0);

        let (waiting, few) = self.fair.crowd(context);
        let boost_ns = self.fair.base_ns() * rate_mhz / FULL_RATE_MHZ * few / waiting.max(few);
        let boost = self.fair.favour(boost_ns, task.weight);
        self.fair.push(vruntime.wrapping_sub(boost), task);
    }

    fn next(&mut self, context: &Context) -> Option<Choice> {
        let choice = self.fair.next(context)?;
        let (waiting, few) = self.fair.crowd(context);
        // The boost it has got is too large for the next time, then.
        let stands = choice.max_lag.filter(|_| waiting <= few);
        Some(Choice { max_lag: stands, ..choice })
    }

    fn waiting(&self) -> usize {
        self.fair.len()
    }

    fn virtual_time(&self) -> u64 {
        self.fair.vtime()
    }

    fn give_away(&mut self, may: &mut dyn FnMut(&Task) -> bool) -> Option<Task> {
        self.fair.give_away(may)
    }

    fn adopt(&mut self, task: &mut Task, source: u64) {
        self.fair.adopt(task, source);
    }
}

/// The exponential average of a rate (millihertz, at most [`FULL_RATE_MHZ`]) after so many events in
/// so long a time: the old average weighs as much as [`WINDOW_NS`] of observation would.
fn average(rate_mhz: u64, events: u32, elapsed_ns: u64) -> u64 {
    const MHZ_NS: u64 = 1_000_000_000_000;
    let seen = u64::from(events.min(1_000_000)) * MHZ_NS + rate_mhz.min(FULL_RATE_MHZ) * WINDOW_NS;
    (seen / WINDOW_NS.saturating_add(elapsed_ns)).min(FULL_RATE_MHZ)
}

#[cfg(test)]
#[path = "vruntime_tests.rs"]
mod tests;
