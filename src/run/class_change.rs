//! What attaching and detaching need of the real-time class.
//!
//! A scheduler attaches or detaches by moving all tasks from one scheduling class to another. Tasks
//! that start meanwhile, and when it attaches those that are still to be moved, belong to the kernel's
//! own class, whose tasks come before all of sched_ext. Where they fill the CPUs, all others wait for
//! them. Among these are
//!
//! - the threads of RCU, for whose grace periods the kernel waits several times. They become
//!   real-time tasks when a scheduler attaches, and remain so until the run is over, since it may be
//!   at any moment. So they are on PREEMPT_RT, and with `rcutree.kthread_prio=1`;
//! - the thread that attaches. It is a real-time task while it does so. Linux 7.0 has one for that.
//!
//! Invariant: the thread that was made a real-time task by [`attaching`] is none any more when that has
//! returned, and RCU's threads when [`RcuThreads`] is dropped. After SIGKILL these remain real-time
//! tasks.

use crate::kernel::threads;
use crate::run::session::Attachment;
use anyhow::{Context, Result, ensure};
use nix::errno::Errno;

/// `SCHED_EXT` of `<linux/sched.h>`.
pub const SCHED_EXT: libc::c_int = 7;

/// The lowest priority of the real-time class.
const PRIORITY: libc::c_int = 1;

/// RCU's threads that are ordinary tasks, and are so again when this is dropped.
#[derive(Debug)]
pub struct RcuThreads {
    ordinary: Vec<libc::pid_t>,
}

impl RcuThreads {
    /// Notes what they are, before anything attaches.
    pub fn as_they_are() -> RcuThreads {
        let mut ordinary = threads_of_rcu();
        ordinary.retain(|&pid| policy_of(pid) == Ok(libc::SCHED_OTHER));
        RcuThreads { ordinary }
    }
}

impl Drop for RcuThreads {
    fn drop(&mut self) {
        for &pid in &self.ordinary {
            if policy_of(pid) == Ok(libc::SCHED_FIFO)
                && let Err(error) = set_policy(pid, libc::SCHED_OTHER, 0)
            {
                log::warn!("RCU's thread {pid} remains a real-time task: {error}");
            }
        }
    }
}

/// Calls `attach` with RCU's threads and the calling one as real-time tasks. If this process may not
/// make them so, or does not see those of RCU, it warns the first time, and attaches all the same.
pub fn attaching<T>(attachment: Attachment, attach: impl FnOnce() -> T) -> T {
    if let Err(error) = raise_rcu()
        && attachment == Attachment::First
    {
        log::warn!(
            "{error:#}; if many tasks start at the moment it attaches or detaches, both may wait \
             until these sleep"
        );
    }
    as_real_time_task(attach)
}

/// Calls `f` with the calling thread as a real-time task, if it may be one.
pub fn as_real_time_task<T>(f: impl FnOnce() -> T) -> T {
    let raised = raise(0).unwrap_or(false);
    let result = f();
    if raised && let Err(error) = set_policy(0, libc::SCHED_OTHER, 0) {
        log::warn!("this process remains a real-time task: {error}");
    }
    result
}

/// Makes the calling thread an ordinary task: the process that started it may be none.
///
/// # Errors
/// If this process may not.
pub fn be_ordinary() -> Result<()> {
    if policy_of(0) != Ok(libc::SCHED_FIFO) {
        return Ok(());
    }
    set_policy(0, libc::SCHED_OTHER, 0).context("cannot be an ordinary task")
}

fn raise_rcu() -> Result<()> {
    let threads = threads_of_rcu();
    ensure!(!threads.is_empty(), "RCU's threads are not to be seen from this pid namespace");
    for pid in threads {
        raise(pid).with_context(|| {
            format!(
                "cannot make RCU's thread {pid} a real-time task; CAP_SYS_NICE is needed, and a service \
                 without RestrictRealtime"
            )
        })?;
    }
    Ok(())
}

/// Makes a thread a real-time task if it is an ordinary one, and answers whether it was.
///
/// # Errors
/// If this process may not, or the thread is gone.
fn raise(pid: libc::pid_t) -> nix::Result<bool> {
    if policy_of(pid)? != libc::SCHED_OTHER {
        return Ok(false);
    }
    set_policy(pid, libc::SCHED_FIFO, PRIORITY).map(|()| true)
}

/// The scheduling policy of a thread, with `SCHED_RESET_ON_FORK`; 0 is the calling one.
///
/// # Errors
/// If the thread is gone.
pub fn policy_of(pid: libc::pid_t) -> nix::Result<libc::c_int> {
    // SAFETY: the call has no pointers.
    Errno::result(unsafe { libc::sched_getscheduler(pid) })
}

/// Sets the scheduling policy of a thread; 0 is the calling one.
///
/// # Errors
/// If this process may not, or the thread is gone.
pub fn set_policy(pid: libc::pid_t, policy: libc::c_int, priority: libc::c_int) -> nix::Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the parameters outlive the call.
    Errno::result(unsafe { libc::sched_setscheduler(pid, policy, &raw const parameters) }).map(drop)
}

/// The threads of RCU that a grace period waits for: the one that moves grace periods on, and where
/// callbacks are offloaded those that hand these out.
fn threads_of_rcu() -> Vec<libc::pid_t> {
    threads::named(is_of_rcu)
}

fn is_of_rcu(name: &str) -> bool {
    matches!(name, "rcu_preempt" | "rcu_sched") || name.starts_with("rcuog/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_threads_of_rcu_and_no_others() {
        assert!(["rcu_preempt", "rcu_sched", "rcuog/0"].into_iter().all(is_of_rcu));
        assert!(!is_of_rcu("rcuop/0"), "it runs other code's callbacks");
        assert!(!is_of_rcu("a) (rcu_preempt"));
    }

    #[test]
    fn a_real_time_task_is_none_afterwards() {
        let during = as_real_time_task(|| policy_of(0));
        assert!([Ok(libc::SCHED_FIFO), Ok(libc::SCHED_OTHER)].contains(&during), "{during:?}");
        assert_eq!(policy_of(0), Ok(libc::SCHED_OTHER));
    }
}
