//! Sees that a detachment does not wait for tasks that cannot run.
//!
//! The kernel detaches a scheduler in steps: it waits for grace periods of RCU, and then moves task by
//! task to its own class. Tasks that start meanwhile are of that class already, and come before all
//! that are still of sched_ext. Where they fill the CPUs, a task that they have preempted within a
//! section that reads under RCU does not leave it, so the grace period does not end, nor do the tasks
//! of sched_ext run. Linux 7.0 has a server that lets these run for a part of the time.
//!
//! The process that watches the scheduler's is a real-time task. If the kernel detaches for long, it
//! has the kernel move the tasks that can run, one by one, by a change of their policy and back.
//!
//! Invariant: a task has the policy afterwards that it had before.

use crate::kernel::{probe, threads};
use crate::run::class_change::{SCHED_EXT, policy_of, set_policy};
use std::time::Duration;

/// The time between two checks whether the kernel detaches. A detachment that both see lasts longer.
pub const INTERVAL: Duration = Duration::from_secs(2);

/// What was seen of a detachment.
#[derive(Debug, Default)]
pub struct Detachment {
    was_under_way: bool,
}

impl Detachment {
    /// To be called once in an [`INTERVAL`]: if a detachment was under way the last time too, the tasks
    /// that can run are moved.
    pub fn see(&mut self, state: &probe::State) {
        let is_under_way = state.is("disabling");
        if is_under_way && self.was_under_way {
            let moved = threads::runnable().into_iter().filter(|&task| move_task(task)).count();
            log::info!(
                "the kernel still detaches the scheduler: {moved} runnable tasks were moved to its own"
            );
        }
        self.was_under_way = is_under_way;
    }
}

/// Changes the policy of an ordinary task and changes it back, so that the kernel finds out anew of which
/// class the task is. Answers whether it has.
fn move_task(task: libc::pid_t) -> bool {
    let Ok(policy) = policy_of(task) else {
        return false;
    };
    let flags = policy & libc::SCHED_RESET_ON_FORK;
    let other = match policy & !flags {
        libc::SCHED_OTHER | libc::SCHED_IDLE | SCHED_EXT => libc::SCHED_BATCH,
        libc::SCHED_BATCH => libc::SCHED_OTHER,
        _ => return false,
    };
    set_policy(task, other | flags, 0).is_ok() && set_policy(task, policy, 0).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_keeps_its_policy() {
        // SAFETY: the calls have no pointers.
        let niceness = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        let before = (policy_of(0), niceness());
        assert!(move_task(0));
        assert_eq!((policy_of(0), niceness()), before);
        assert!(!move_task(libc::pid_t::MAX), "there is no such task");
    }

    #[test]
    fn nothing_is_under_way_where_nothing_is_attached() {
        let mut seen = Detachment::default();
        seen.see(&probe::State::open());
        assert!(!seen.was_under_way);
    }
}
