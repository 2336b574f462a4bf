//! The default policy: weighted virtual run time, with a boost for tasks that give up the CPU of
//! their own accord.
//!
//! `fair.rs` says how tasks share the CPU. A task that often waits for something (a frame, a
//! packet, a key press) is likely to wait again soon. To run it first costs the others little and
//! helps the task much. The policy averages the rate of the task's voluntary context switches over
//! about 100 ms, and makes a boost of it: the distance of the key before the vruntime. The idea
//! is scx_rustland's (Andrea Righi, 2024), where the boost is a part of what the task pays.
//!
//! - The time of the average leaves out the task's waits for a CPU. Otherwise tasks that have
//!   waited would have smaller boosts, and wait on.
//! - In a crowd the boosts shrink in inverse proportion to the number of waiting tasks, as credits
//!   do. Otherwise a task without a boost would wait for those of all others together; now that is
//!   eight base slices for each CPU at most.
//!
//! Invariant: the boost moves the key and never the vruntime, and by one base slice at most. So a
//! task that gives way often runs earlier and gets no larger share. A task that starts to hog the
//! CPU has used up its boost after one base slice.

use crate::policy::fair::{FairQueue, NOTE};
use crate::policy::{Choice, Context, Policy, Slices, Task};

/// The span of the average of voluntary context switches: long enough for a game's frame to count
/// several times, short enough to notice a change before a person does.
const WINDOW_NS: u64 = 100_000_000;

/// The lowest average rate with a full boost (millihertz): a task that gives way every 10 ms.
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
        // In a crowd the boost of this decision would be too large for the next wake-up.
        let max_lag = choice.max_lag.filter(|_| waiting <= few);
        Some(Choice { max_lag, ..choice })
    }

    fn waiting(&self) -> usize {
        self.fair.len()
    }

    fn wakeups_preempt(&self) -> bool {
        true
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

/// The exponential average of a rate (millihertz, at most [`FULL_RATE_MHZ`]) after some events in
/// some time. The old average weighs as much as [`WINDOW_NS`] of observation.
fn average(rate_mhz: u64, events: u32, elapsed_ns: u64) -> u64 {
    const MHZ_NS: u64 = 1_000_000_000_000;
    let seen = u64::from(events.min(1_000_000)) * MHZ_NS + rate_mhz.min(FULL_RATE_MHZ) * WINDOW_NS;
    (seen / WINDOW_NS.saturating_add(elapsed_ns)).min(FULL_RATE_MHZ)
}

#[cfg(test)]
#[path = "vruntime_tests.rs"]
mod tests;
