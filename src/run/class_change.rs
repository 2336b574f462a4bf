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
//! Invariant: who was made a real-time task by [`attaching`] is none any more when that has returned
//! or, of RCU's threads, when [`RcuThreads`] is dropped. After SIGKILL these remain real-time tasks.

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use std::fs;
use std::path::Path;

/// The lowest priority of the real-time class.
const PRIORITY: libc::c_int = 1;

/// The flag of the kernel's own threads in `/proc/PID/stat`.
const PF_KTHREAD: u32 = 0x0020_0000;

/// RCU's threads that are ordinary tasks, and are so again when this is dropped.
#[derive(Debug)]
pub struct RcuThreads {
    ordinary: Vec<libc::pid_t>,
}

impl RcuThreads {
    /// Notes what they are, before anything attaches.
    pub fn as_they_are() -> RcuThreads {
        let mut ordinary = threads_of_rcu(Path::new("/proc"));
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
/// make them so, or does not see those of RCU, it warns, and attaches all the same.
pub fn attaching<T>(attach: impl FnOnce() -> T) -> T {
    if let Err(error) = raise_rcu() {
        log::warn!(
            "{error:#}; if many tasks start at the moment it attaches or detaches, both may wait \
             until these sleep"
        );
    }
    as_real_time_task(attach)
}

/// Calls `f` with the calling thread as a real-time task, if it may be one.
fn as_real_time_task<T>(f: impl FnOnce() -> T) -> T {
    let raised = raise(0).unwrap_or(false);
    let result = f();
    if raised && let Err(error) = set_policy(0, libc::SCHED_OTHER, 0) {
        log::warn!("the main thread remains a real-time task: {error}");
    }
    result
}

fn raise_rcu() -> Result<()> {
    let threads = threads_of_rcu(Path::new("/proc"));
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

fn policy_of(pid: libc::pid_t) -> nix::Result<libc::c_int> {
    // SAFETY: the call has no pointers.
    Errno::result(unsafe { libc::sched_getscheduler(pid) })
}

fn set_policy(pid: libc::pid_t, policy: libc::c_int, priority: libc::c_int) -> nix::Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the parameters outlive the call.
    Errno::result(unsafe { libc::sched_setscheduler(pid, policy, &raw const parameters) }).map(drop)
}

/// The threads of RCU that a grace period waits for: the one that moves grace periods on, and where
/// callbacks are offloaded those that hand these out.
fn threads_of_rcu(proc: &Path) -> Vec<libc::pid_t> {
    let processes = fs::read_dir(proc).into_iter().flatten().flatten();
    let mut pids: Vec<_> = processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            is_of_rcu(&stat).then_some(pid)
        })
        .collect();
    pids.sort_unstable();
    pids
}

/// Whether a line of `/proc/PID/stat` is that of such a thread. Any task may have its name, but not its
/// flag.
fn is_of_rcu(stat: &str) -> bool {
    const FLAGS: usize = 6;
    let Some((name, rest)) = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')'))
    else {
        return false;
    };
    let named = matches!(name, "rcu_preempt" | "rcu_sched") || name.starts_with("rcuog/");
    let flags = rest.split_whitespace().nth(FLAGS).and_then(|flags| flags.parse::<u32>().ok());
    named && flags.is_some_and(|flags| flags & PF_KTHREAD != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_threads_of_rcu_and_no_others_of_their_name() {
        let stat = |name: &str, flags: u32| format!("17 ({name}) I 2 0 0 0 -1 {flags} 0 0 0 0 0");
        for name in ["rcu_preempt", "rcu_sched", "rcuog/0"] {
            assert!(is_of_rcu(&stat(name, 0x0020_8040)), "{name}");
            assert!(!is_of_rcu(&stat(name, 0x0040_0040)), "a program called {name}");
        }
        assert!(!is_of_rcu(&stat("rcuop/0", 0x0020_8040)), "it runs other code's callbacks");
        assert!(!is_of_rcu(&stat("a) (rcu_preempt", 0x0020_8040)));
        assert!(!is_of_rcu(""));
        assert!(!is_of_rcu("17 (rcu_preempt) I 2"));
    }

    #[test]
    fn finds_threads_by_their_files() {
        let folder = tempfile::tempdir().unwrap();
        for (pid, name) in
            [("9", "rcu_preempt"), ("x", "rcu_preempt"), ("7", "rcuog/1"), ("8", "sh")]
        {
            let process = folder.path().join(pid);
            fs::create_dir(&process).unwrap();
            let stat = format!("{pid} ({name}) I 2 0 0 0 -1 {} 0", PF_KTHREAD);
            fs::write(process.join("stat"), stat).unwrap();
        }
        fs::create_dir(folder.path().join("10")).unwrap();
        assert_eq!(threads_of_rcu(folder.path()), [7, 9]);
        assert_eq!(threads_of_rcu(&folder.path().join("none")), [] as [libc::pid_t; 0]);
    }

    #[test]
    fn a_real_time_task_is_none_afterwards() {
        let during = as_real_time_task(|| policy_of(0));
        assert!([Ok(libc::SCHED_FIFO), Ok(libc::SCHED_OTHER)].contains(&during), "{during:?}");
        assert_eq!(policy_of(0), Ok(libc::SCHED_OTHER));
    }
}
