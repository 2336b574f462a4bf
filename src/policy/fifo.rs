//! First in, first out: the smallest complete policy, and the one to start a new policy from.
//!
//! The task that became runnable first runs first, each for the same slice; the policy knows
//! neither weights nor sleepers. This is the kernel's `SCHED_RR` (POSIX.1) with a single priority.
//!
//! Invariant: of two waiting tasks, the one that was enqueued first is decided first.

use crate::policy::{Choice, Context, Policy, Task, run_queue::RESERVED};
use std::collections::VecDeque;
use std::time::Duration;

/// Runs the task first that became runnable first.
pub struct Fifo {
    waiting: VecDeque<Task>,
    slice: Duration,
}

impl Fifo {
    /// A policy that lets every task run for `slice`.
    ///
    /// ```
    /// use scx_manyland::policy::{Policy, fifo::Fifo};
    /// let fifo = Fifo::new(std::time::Duration::from_millis(5));
    /// assert_eq!(fifo.waiting(), 0);
    /// ```
    pub fn new(slice: Duration) -> Fifo {
        Fifo { waiting: VecDeque::with_capacity(RESERVED), slice }
    }
}

impl Policy for Fifo {
    fn enqueue(&mut self, task: Task, _: &Context) {
        self.waiting.push_back(task);
    }

    fn next(&mut self, _: &Context) -> Option<Choice> {
        self.waiting.pop_front().map(|task| task.run_for(self.slice))
    }

    fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Pid;
    use crate::policy::testing::idle;
    use proptest::prelude::*;

    proptest! {
        /// However arrivals and decisions alternate.
        #[test]
        fn decides_in_exact_order_of_arrival(arrives in prop::collection::vec(any::<bool>(), 0..500)) {
            let mut fifo = Fifo::new(Duration::from_millis(5));
            let idle = idle();
            let (mut arrived, mut decided) = (0, 0);
            for arrives in arrives {
                if arrives {
                    fifo.enqueue(Task::new(Pid(arrived)), &idle);
                    arrived += 1;
                } else if let Some(choice) = fifo.next(&idle) {
                    prop_assert_eq!(choice.task.pid, Pid(decided));
                    prop_assert_eq!((choice.slice, choice.key), (fifo.slice, None));
                    decided += 1;
                } else {
                    prop_assert_eq!(arrived, decided);
                }
                prop_assert_eq!(fifo.waiting(), (arrived - decided) as usize);
            }
        }
    }
}
