//! What the scheduler may do, and how it gives that up once it is attached.
//!
//! Attaching needs [`NEEDED`]. From then on a process needs none of it: its rings and its shared
//! memory are mapped, and closing a descriptor detaches. So
//!
//! - each domain thread gives up its capabilities as soon as it is bound and has its memory;
//! - the main thread gives them up once the scheduler is attached;
//! - a filter of system calls keeps all threads from opening, starting or tracing anything; they
//!   accept connections to the statistics socket, and to no other.
//!
//! A sandbox may forbid seccomp(2), by which one thread filters all of them. Then each thread of the
//! scheduler filters itself, by prctl(2). It may forbid to lock memory as well ([`alloc::may_lock`]).
//!
//! Invariant: a process cannot get back what it has given up, not by starting a program either
//! (`no_new_privs`). A new process attaches again.

use crate::alloc;
use anyhow::{Context, Result, bail};
use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::sys::prctl;
use seccompiler::{
    BpfProgram, BpfProgramRef, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};
use std::os::fd::RawFd;

/// The capabilities that attaching needs: to load the BPF side, to let it read the kernel's data,
/// to lock memory, and to read what only root may read (the maps of the arenas, the limits). Without
/// CAP_SYS_NICE it does less (`class_change`).
pub const NEEDED: [Capability; 3] =
    [Capability::CAP_BPF, Capability::CAP_PERFMON, Capability::CAP_IPC_LOCK];

/// What a process that schedules does with its privileges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privileges {
    /// It keeps them, because it has other work or attaches again.
    Keep,
    /// It gives them up once it is attached.
    GiveUp,
}

/// Checks that this process may attach.
///
/// # Errors
/// If it lacks a capability of [`NEEDED`]; the message names those that are missing. Where no memory
/// can be locked the capability to do so is of no use, and may be missing.
pub fn check() -> Result<()> {
    let held = caps::read(None, CapSet::Effective).context("cannot read the capabilities")?;
    let is_of_use = |it: &&Capability| **it != Capability::CAP_IPC_LOCK || alloc::may_lock();
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|it| !held.contains(it))
        .filter(is_of_use)
        .map(Capability::to_string)
        .collect();
    if !missing.is_empty() {
        bail!("cannot attach: not root (it has no {}); start it with sudo", missing.join(", "));
    }
    Ok(())
}

impl Privileges {
    /// The calling thread gives up its capabilities, with [`Privileges::GiveUp`].
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn settle_thread(self) -> Result<()> {
        if self == Privileges::GiveUp {
            // The kernel keeps each set within the next, so the ambient capabilities go first and
            // the permitted ones last.
            for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted]
            {
                caps::clear(None, set)
                    .with_context(|| format!("cannot give up the {set:?} capabilities"))?;
            }
        }
        Ok(())
    }

    /// The main thread gives up its capabilities, and the process all system calls except those
    /// that wait, count, print and end, and those that answer who connects to `listener`. Nothing
    /// after this call may need privileges.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn settle_process(self, listener: Option<RawFd>) -> Result<()> {
        self.settle_thread()?;
        if self == Privileges::GiveUp {
            let program = compiled(listener)?;
            match may_filter_all() {
                true => seccompiler::apply_filter_all_threads(&program)
                    .context("cannot filter the system calls of the process")?,
                false => filter_thread(&program)?,
            }
        }
        Ok(())
    }

    /// The filter that a domain thread has to give itself once it begins, by [`filter_thread`];
    /// none if the main thread gives it one.
    ///
    /// # Errors
    /// If it cannot be compiled.
    pub fn filter_of_domain_thread(self) -> Result<Option<BpfProgram>> {
        let gives_itself = self == Privileges::GiveUp && !may_filter_all();
        gives_itself.then(|| compiled(None)).transpose()
    }
}

fn compiled(listener: Option<RawFd>) -> Result<BpfProgram> {
    filter(listener)?.try_into().context("cannot compile the filter")
}

/// Whether seccomp(2) is allowed, by a question that changes nothing.
fn may_filter_all() -> bool {
    const GET_ACTION_AVAIL: libc::c_uint = 2;
    let action = libc::SECCOMP_RET_ALLOW;
    // SAFETY: the call reads the action, which outlives it.
    let answer =
        unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAIL, 0, &raw const action) };
    answer == 0 || Errno::last() != Errno::EPERM
}

/// Filters the system calls of the calling thread, without seccomp(2).
///
/// # Errors
/// If the kernel refuses.
pub fn filter_thread(program: BpfProgramRef<'_>) -> Result<()> {
    prctl::set_no_new_privs().context("cannot renounce new privileges")?;
    let program = libc::sock_fprog {
        len: program.len().try_into().context("the filter is too long")?,
        filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: the kernel copies the instructions, whose form is that of the kernel's own header, and
    // writes nothing.
    let result = unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program, 0, 0)
    };
    Errno::result(result).context("cannot filter the system calls of a thread")?;
    Ok(())
}

/// The system calls of an attached scheduler. Any other fails with EPERM. It does not kill the
/// process, which may only want to print something, such as where it panicked.
const CALLS: [i64; 37] = [
    // Waiting, and waking.
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_restart_syscall,
    // Printing.
    libc::SYS_write,
    libc::SYS_writev,
    // Counting: time, page faults, resident memory.
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_getrusage,
    libc::SYS_pread64,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getcpu,
    libc::SYS_sched_getaffinity,
    // Memory.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_madvise,
    libc::SYS_mprotect,
    libc::SYS_mlock,
    libc::SYS_munlock,
    libc::SYS_getrandom,
    // Detaching, and the end of a thread and of the process.
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_fstat,
    libc::SYS_lseek,
    libc::SYS_fcntl,
];

/// `BPF_PROG_TEST_RUN` of `<linux/bpf.h>`: the statistics ask a BPF program how many tasks wait.
const BPF_PROG_TEST_RUN: u64 = 10;

fn filter(listener: Option<RawFd>) -> Result<SeccompFilter> {
    let is_test_run =
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, BPF_PROG_TEST_RUN)?;
    let mut rules: Vec<(i64, Vec<SeccompRule>)> =
        CALLS.iter().map(|&call| (call, Vec::new())).collect();
    rules.push((libc::SYS_bpf, vec![SeccompRule::new(vec![is_test_run])?]));
    // abort() signals the own process. A process that is still root's could kill any other.
    let this = u64::from(std::process::id());
    let is_own = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, this)?;
    rules.push((libc::SYS_tgkill, vec![SeccompRule::new(vec![is_own])?]));
    // Sockets are written to without waiting, and those that are connected only.
    let is_connected = SeccompCondition::new(4, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    rules.push((libc::SYS_sendto, vec![SeccompRule::new(vec![is_connected])?]));
    if let Some(listener) = listener {
        let number = u64::try_from(listener).context("the listener is closed")?;
        let is_it = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, number)?;
        rules.push((libc::SYS_accept4, vec![SeccompRule::new(vec![is_it])?]));
        rules.push((libc::SYS_recvfrom, Vec::new()));
    }
    SeccompFilter::new(
        rules.into_iter().collect(),
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into().context("no filter for this architecture")?,
    )
    .context("cannot make a filter of system calls")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    /// Whether this process may signal another. No signal is sent.
    fn may_signal(pid: nix::unistd::Pid) -> bool {
        // SAFETY: signal 0 only checks the permission.
        unsafe { libc::syscall(libc::SYS_tgkill, pid.as_raw(), pid.as_raw(), 0) == 0 }
    }

    /// Connects to one's own listener, and whether the other end comes out of it.
    fn serves(listener: &UnixListener) -> bool {
        listener.accept().and_then(|(mut stream, _)| stream.write_all(b"x")).is_ok()
    }

    #[test]
    fn a_process_that_has_settled_can_open_start_and_signal_nothing() {
        is_confined(|| {});
    }

    /// As in a sandbox without systemd's group of calls `@sandbox`.
    #[test]
    fn the_same_holds_where_seccomp_is_forbidden() {
        is_confined(|| {
            let forbidden = [(libc::SYS_seccomp, Vec::new())];
            let filter = SeccompFilter::new(
                forbidden.into_iter().collect(),
                SeccompAction::Allow,
                SeccompAction::Errno(libc::EPERM as u32),
                std::env::consts::ARCH.try_into().unwrap(),
            );
            let filter: BpfProgram = filter.unwrap().try_into().unwrap();
            seccompiler::apply_filter(&filter).unwrap();
            assert!(!may_filter_all());
        });
    }

    /// Checks it in a child process, so that the test keeps its own privileges.
    fn is_confined(prepare: impl Fn()) {
        let parent = nix::unistd::getpid();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listeners = [path.clone(), folder.path().join("other")]
            .map(|path| UnixListener::bind(path).unwrap());
        let _reader = UnixStream::connect(&path).unwrap();
        let _other = UnixStream::connect(folder.path().join("other")).unwrap();
        // SAFETY: the child only calls what the filter allows and `_exit`.
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => {
                prepare();
                let settled =
                    Privileges::GiveUp.settle_process(Some(listeners[0].as_raw_fd())).is_ok();
                let opened = File::open("/proc/self/status").is_ok();
                let started = std::process::Command::new("/bin/true").spawn().is_ok();
                let signals = may_signal(parent);
                let aborts = may_signal(nix::unistd::getpid());
                let [served, other] = listeners.each_ref().map(serves);
                let connected = UnixStream::connect(&path).is_ok();
                let faults =
                    [!settled, opened, started, signals, !aborts, !served, other, connected];
                let code = faults.iter().rev().fold(0, |code, &fault| 2 * code + i32::from(fault));
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(code) }
            }
            nix::unistd::ForkResult::Parent { child } => {
                let status = nix::sys::wait::waitpid(child, None).unwrap();
                assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
            }
        }
    }

    #[test]
    fn what_is_kept_is_kept() {
        Privileges::Keep.settle_process(None).unwrap();
        File::open("/proc/self/status").unwrap();
    }
}
