//! Ends a deadlock of the kernel between an attachment, or a detachment, and a change of cgroups.
//!
//! The kernel attaches and detaches a scheduler with forks held up, and then waits for the lock of all
//! cgroups. A process that removes or changes an isolated partition of cpusets has that lock, and may
//! wait for a new thread of the kernel. That is a fork. So neither goes on, and from then on no process
//! of the machine can start another one (seen on Linux 6.18 and 7.3;
//! `docs/decisions/0103-a-deadlock-with-cgroups.md`).
//!
//! SIGKILL ends the wait for the thread. The process that watches the scheduler's sends it: it needs no
//! fork, and the alternative is to reboot.
//!
//! Invariant: only what has waited so in [`CHECKS`] checks in a row is killed.

use crate::kernel::{probe, threads};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// In how many checks in a row, which are `detachment::INTERVAL` apart, a thread waits before it is
/// killed. The kernel starts a thread within milliseconds.
const CHECKS: u32 = 3;

/// After how many checks in a row a user learns what to do, if no such thread can be seen.
const UNKNOWN_CHECKS: u32 = 15;

/// What was seen while the kernel attached or detached a scheduler.
#[derive(Debug, Default)]
pub struct Deadlock {
    /// How many checks in a row.
    checks: u32,
    /// The threads that wait, and in how many checks in a row they did.
    waiting: Vec<(libc::pid_t, u32)>,
}

impl Deadlock {
    /// To be called once in an interval.
    pub fn see(&mut self, state: &probe::State) {
        if !state.is("enabling") && !state.is("disabling") {
            *self = Deadlock::default();
            return;
        }
        self.checks += 1;
        let threads = threads::uninterruptible().into_iter();
        let waiting = threads.filter(|&it| holds_up_forks(&threads::kernel_stack(it)));
        for thread in self.lasting(waiting.collect()) {
            log::warn!(
                "the kernel waits for {thread}, which waits for a fork and has the lock of cgroups: \
                 that process is killed, since no other could start"
            );
            if let Err(error) = kill(Pid::from_raw(thread), Signal::SIGKILL) {
                log::error!("cannot kill {thread}: {error}; kill it by hand (kill -9 {thread})");
            }
        }
        if self.checks == UNKNOWN_CHECKS {
            log::warn!(
                "the kernel still attaches or detaches the scheduler; if no process can start, one \
                 that changes an isolated cpuset may hold that up: kill -9 ends it (a shell has that \
                 built in)"
            );
        }
    }

    /// Those that have waited in [`CHECKS`] checks in a row, this one included.
    fn lasting(&mut self, waiting: Vec<libc::pid_t>) -> Vec<libc::pid_t> {
        let before = std::mem::take(&mut self.waiting);
        let checks = |thread| before.iter().find(|it| it.0 == thread).map_or(0, |it| it.1);
        self.waiting = waiting.into_iter().map(|thread| (thread, checks(thread) + 1)).collect();
        self.waiting.iter().filter(|it| it.1 >= CHECKS).map(|it| it.0).collect()
    }
}

/// Whether a thread that waits there in the kernel waits for a fork, and has the lock of cgroups.
fn holds_up_forks(stack: &str) -> bool {
    stack.contains("kthread_create_on_node") && stack.contains("cgroup")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_long_is_found() {
        const NONE: [libc::pid_t; 0] = [];
        let mut seen = Deadlock::default();
        assert_eq!(seen.lasting(vec![7, 8]), NONE);
        assert_eq!(seen.lasting(vec![8, 9]), NONE);
        assert_eq!(seen.lasting(vec![9, 8]), [8]);
        assert_eq!(seen.lasting(vec![7, 9]), [9], "7 has not waited in a row");
        assert_eq!(seen.lasting(vec![]), NONE);
        assert_eq!(seen.lasting(vec![9]), NONE);
    }

    #[test]
    fn is_known_by_where_it_waits() {
        let holds = "[<0>] __kthread_create_on_node+0x10a/0x180\n[<0>] create_worker+0x102/0x200\n\
                     [<0>] update_prstate+0x38a/0x5e0\n[<0>] cpuset_css_killed+0x32/0x50\n\
                     [<0>] cgroup_destroy_locked+0xcc/0x1e0\n";
        assert!(holds_up_forks(holds));
        // A mount waits for the same fork, and holds up nothing.
        assert!(!holds_up_forks(
            "[<0>] __kthread_create_on_node+0x10a/0x180\n[<0>] path_mount+0x1\n"
        ));
        assert!(!holds_up_forks("[<0>] do_rmdir+0x10d/0x1b0\n[<0>] cgroup_file_write+0x1/0x2\n"));
        assert!(!holds_up_forks(""));
    }

    #[test]
    fn nothing_is_seen_where_nothing_is_attached() {
        let mut seen = Deadlock { checks: 3, waiting: vec![(7, 2)] };
        seen.see(&probe::State::open());
        assert!(seen.checks == 0 && seen.waiting.is_empty());
    }
}
