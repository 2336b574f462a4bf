//! Virtual run time plus the run time since the last sleep: tasks that sleep often run earlier.
//!
//! `fair.rs` says how tasks share the CPU. The key is the vruntime plus the CPU time that the task
//! has used since it last slept. A task that just woke up waits at its vruntime; the longer it runs
//! without a sleep, the more it gives way to tasks that need the CPU briefly. So of two tasks that
//! have used as much, the one with the shorter burst runs first, whatever it sleeps for.
//!
//! The model is earliest eligible virtual deadline first (EEVDF; Stoica and Abdel-Wahab, 1995),
//! also the kernel's. It differs in two points: the length of the request is guessed from the
//! current burst, as scx_bpfland does (Andrea Righi, 2024), and every waiting task is eligible.
//!
//! Invariant: the burst moves the key and never the vruntime, and by two base slices at most. So
//! the keys follow the bursts and the shares follow the weights.

use crate::policy::fair::{FairQueue, nanos};
use crate::policy::{Choice, Context, Policy, Slices, Task};

/// The longest burst that counts (base slices). No person at a screen waits for a task that runs
/// longer than this without a sleep.
const LONGEST_BURST: u64 = 2;

/// Runs the task with the smallest sum of weighted virtual run time and current burst.
pub struct Deadline {
    fair: FairQueue,
}

impl Deadline {
    /// A policy with these slices.
    ///
    /// ```
    /// use scx_manyland::policy::{Policy, Slices, deadline::Deadline};
    /// use std::time::Duration;
    /// let slices = Slices { base: Duration::from_millis(20), min: Duration::from_millis(1) };
    /// assert_eq!(Deadline::new(slices).virtual_time(), 0);
    /// ```
    pub fn new(slices: Slices) -> Deadline {
        Deadline { fair: FairQueue::new(slices, LONGEST_BURST * nanos(slices.base)) }
    }
}

impl Policy for Deadline {
    fn enqueue(&mut self, mut task: Task, context: &Context) {
        let vruntime = self.fair.charge(&mut task, context);
        let burst_ns = task.burst_ns.min(LONGEST_BURST * self.fair.base_ns());
        let burst = self.fair.favour(burst_ns, task.weight);
        self.fair.push(vruntime.wrapping_add(burst), task);
    }

    fn next(&mut self, context: &Context) -> Option<Choice> {
        self.fair.next(context)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Pid;
    use crate::policy::testing::{Behaviour, Decide, MS, SLICES, Simulation, decide_alone, idle};
    use proptest::prelude::*;

    fn base_ns() -> u64 {
        SLICES.base.as_nanos() as u64
    }

    #[test]
    fn of_two_tasks_that_used_as_much_the_shorter_burst_goes_first() {
        let mut policy = Deadline::new(SLICES);
        let known = decide_alone(&mut policy, Task::new(Pid(0))).task;
        for (pid, burst_ns) in [(1, 9 * MS), (2, 3 * MS), (3, u64::MAX), (4, 0)] {
            policy.enqueue(Task { pid: Pid(pid), burst_ns, ..known }, &idle());
        }
        let pids: Vec<i32> =
            std::iter::from_fn(|| policy.next(&idle())).map(|choice| choice.task.pid.0).collect();
        assert_eq!(pids, [4, 2, 1, 3]);
    }

    #[test]
    fn a_mostly_sleeping_task_runs_before_hogs() {
        for decide in Decide::ALL {
            let mut cpu = Simulation::new(Deadline::new(SLICES), decide);
            for _ in 0..8 {
                cpu.spawn(100, Behaviour::Hog);
            }
            let sleeper =
                cpu.spawn(100, Behaviour::Periodic { run_ns: MS / 10, sleep_ns: 50 * MS });
            cpu.run_for(1000 * MS);
            cpu.forget_waits();
            cpu.run_for(10_000 * MS);
            assert!(cpu.longest_wait_ns(sleeper) <= base_ns() / 8, "{decide:?}");
        }
    }

    #[test]
    fn a_sleeper_banks_a_bounded_credit() {
        let mut policy = Deadline::new(SLICES);
        let sleeper = decide_alone(&mut policy, Task::new(Pid(1))).task;
        policy.fair = policy.fair.starting_at(1_000_000 * MS);
        let key = decide_alone(&mut policy, sleeper).key.unwrap();
        assert_eq!(key, 1_000_000 * MS - (LONGEST_BURST + 1) * base_ns());
    }

    #[test]
    fn a_fork_storm_does_not_starve_an_old_hog() {
        const CHAINS: u64 = 50;
        for decide in Decide::ALL {
            let mut cpu = Simulation::new(Deadline::new(SLICES), decide);
            let hog = cpu.spawn(100, Behaviour::Hog);
            cpu.run_for(1000 * MS);
            let used_before = cpu.used_ns(hog);
            for _ in 0..CHAINS {
                cpu.spawn(100, Behaviour::ForkAndEnd { run_ns: MS });
            }
            cpu.run_for(20_000 * MS);
            // Its key is one base slice and the longest burst behind the virtual time.
            let bound = ((1 + LONGEST_BURST) * base_ns() / MS + 1) * (CHAINS + 1) * MS;
            assert!(cpu.longest_wait_ns(hog) <= bound, "{} {decide:?}", cpu.longest_wait_ns(hog));
            let share = (cpu.used_ns(hog) - used_before) as f64 / (20_000 * MS) as f64;
            assert!(share > 0.8 / (CHAINS + 1) as f64, "{share} {decide:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// From any virtual time, so also across its wrap, in each way of deciding.
        #[test]
        fn shares_follow_any_weights_from_any_virtual_time(
            weights in prop::collection::vec(10..2000u32, 2..8),
            before_wrap in 0..20_000 * MS,
            way in 0..3usize,
        ) {
            let mut policy = Deadline::new(SLICES);
            policy.fair = policy.fair.starting_at(0u64.wrapping_sub(before_wrap));
            let decide = Decide::ALL[way];
            let mut cpu = Simulation::new(policy, decide);
            let tasks: Vec<_> = weights.iter().map(|&w| cpu.spawn(w, Behaviour::Hog)).collect();
            cpu.run_for(120_000 * MS);
            let sum: u32 = weights.iter().sum();
            for (&task, &weight) in tasks.iter().zip(&weights) {
                let fair_ns = 120_000.0 * MS as f64 * f64::from(weight) / f64::from(sum);
                // Two percent, and what the longest burst delays.
                let off = (cpu.used_ns(task) as f64 - fair_ns).abs();
                let delay_ns = (LONGEST_BURST + 1) * base_ns();
                prop_assert!(off < 0.02 * fair_ns + delay_ns as f64, "{weights:?} {weight} {off}");
            }
        }
    }
}
