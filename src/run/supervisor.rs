//! A run whose attachments each have a process of their own, and the process that starts them.
//!
//! The scheduler gives up its privileges once it is attached, and attaching again needs them. So
//! the first process keeps them:
//!
//! 1. It starts another process, which schedules.
//! 2. It passes signals on to it.
//! 3. It is a real-time task, and sees that a detachment does not wait for tasks that cannot run, and
//!    that neither it nor an attachment waits for a lock whose owner waits for a fork.
//! 4. It starts the next process when the machine has changed, or the kernel has ended the scheduler.
//! 5. It removes the statistics socket at the end.
//!
//! It accepts two things from the scheduler's process: the exit code, and a line for the user if
//! that says an error or that the kernel has ended it.
//!
//! Invariant: the scheduler's process does not outlive this one, however this one ends.

use crate::kernel::probe;
use crate::logger;
use crate::run::builder::Builder;
use crate::run::class_change::{self, RcuThreads};
use crate::run::deadlock::Deadlock;
use crate::run::detachment::{self, Detachment};
use crate::run::evictions::Evictions;
use crate::run::notify;
use crate::run::session::{self, Attachment, Ended};
use crate::run::signals::ASK_TO_END;
use crate::run::socket;
use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::time::TimeSpec;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::path::Path;
use std::time::Duration;

/// The exit codes of the scheduler's process.
const ASKED: i32 = 0;
const FAILED: i32 = 1;
const MACHINE_CHANGED: i32 = 2;
const EVICTED: i32 = 3;

/// The longest line that is read from it, in bytes.
const LINE_BYTES: u64 = 4096;

/// The environment variables that a program with privileges honours. They say how much to print of a
/// panic, and where a service manager waits for its word. Others would have hwloc read another
/// machine's files, or load plugins.
const HONOURED: [&str; 3] = ["RUST_BACKTRACE", "RUST_LIB_BACKTRACE", notify::VARIABLE];

/// [`Builder::run_confined`].
pub fn run(builder: &Builder) -> Result<()> {
    builder.options.check()?;
    logger::install(builder.options.log_level());
    let threads = std::fs::read_dir("/proc/self/task").context("cannot count the threads")?.count();
    ensure!(threads == 1, "cannot start the scheduler's process: this one has {threads} threads");
    forget_environment();
    let signals: SigSet = ASK_TO_END.into_iter().chain([Signal::SIGCHLD]).collect();
    signals.thread_block().context("cannot block signals")?;
    // The scheduler's process makes them real-time tasks, and cannot undo that.
    let _rcu = RcuThreads::as_they_are();
    let result = class_change::as_real_time_task(|| attach_again_and_again(builder, &signals));
    // A confined process cannot remove it.
    socket::remove_left(Path::new(socket::PATH));
    signals.thread_unblock().context("cannot let signals through")?;
    result
}

/// Starts a process for each attachment, until one ends because it was asked to.
fn attach_again_and_again(builder: &Builder, signals: &SigSet) -> Result<()> {
    let mut attachment = Attachment::First;
    let mut evictions = Evictions::default();
    loop {
        let (from_child, to_parent) = pipe().context("cannot create a pipe")?;
        let parent = getpid();
        // SAFETY: this process has one thread, so the child may do all that its parent may.
        let ended = match unsafe { fork() }.context("cannot start the scheduler's process")? {
            ForkResult::Child => {
                drop(from_child);
                be_the_scheduler(parent, builder, attachment, to_parent)
            }
            ForkResult::Parent { child } => {
                drop(to_parent);
                watch(child, signals, from_child)
            }
        };
        match ended? {
            Ended::Asked => return Ok(()),
            Ended::MachineChanged => {}
            Ended::Evicted(why) => evictions.note(&why)?,
        }
        attachment = Attachment::Again;
    }
}

/// Removes all variables that are not [`HONOURED`]. The process has one thread.
fn forget_environment() {
    for (name, _) in std::env::vars_os() {
        if !HONOURED.iter().any(|honoured| name == *honoured) {
            // SAFETY: this process has one thread, so no other reads the environment.
            unsafe { std::env::remove_var(name) };
        }
    }
}

/// The life of the scheduler's process.
fn be_the_scheduler(
    parent: Pid,
    builder: &Builder,
    attachment: Attachment,
    mut to_parent: PipeWriter,
) -> ! {
    let (code, words) = match schedule(parent, builder, attachment) {
        Ok(Ended::Asked) => (ASKED, String::new()),
        Ok(Ended::MachineChanged) => (MACHINE_CHANGED, String::new()),
        Ok(Ended::Evicted(why)) => (EVICTED, why),
        Err(error) => (FAILED, format!("{error:#}")),
    };
    // If the parent is gone there is no reader.
    let _ = to_parent.write_all(words.as_bytes());
    std::process::exit(code)
}

fn schedule(parent: Pid, builder: &Builder, attachment: Attachment) -> Result<Ended> {
    class_change::be_ordinary()?;
    prctl::set_pdeathsig(Signal::SIGKILL).context("cannot bind its life to its parent's")?;
    ensure!(getppid() == parent, "the process that started the scheduler is gone");
    session::run_once(builder, attachment)
}

/// Waits for the end of the scheduler's process, and passes on the signals that ask for it. That
/// process may be about to end because the machine has changed, and then it ignores the signal. So
/// this process remembers it.
fn watch(child: Pid, signals: &SigSet, from_child: PipeReader) -> Result<Ended> {
    let mut asked = false;
    let state = probe::State::open();
    let (mut detachment, mut deadlock) = (Detachment::default(), Deadlock::default());
    loop {
        match waitpid(child, Some(WaitPidFlag::WNOHANG)).context("cannot wait for the scheduler")? {
            WaitStatus::Exited(_, MACHINE_CHANGED) if !asked => return Ok(Ended::MachineChanged),
            WaitStatus::Exited(_, EVICTED) if !asked => {
                return Ok(Ended::Evicted(last_words(from_child)));
            }
            WaitStatus::Exited(_, ASKED | MACHINE_CHANGED | EVICTED) => return Ok(Ended::Asked),
            WaitStatus::Exited(..) => return Err(anyhow!(last_words(from_child))),
            WaitStatus::Signaled(_, signal, _) => {
                bail!("the scheduler was killed by {signal}; the kernel's own is back")
            }
            _ => {}
        }
        match wait(signals, detachment::INTERVAL) {
            Err(Errno::EAGAIN) => {
                detachment.see(&state);
                deadlock.see(&state);
            }
            Ok(Signal::SIGCHLD) | Err(Errno::EINTR) => {}
            Ok(signal) => {
                asked = true;
                // It may have ended already, which the next `waitpid` shows.
                let _ = kill(child, signal);
            }
            Err(error) => return Err(error).context("cannot wait for signals"),
        }
    }
}

/// Waits for one of the signals.
///
/// # Errors
/// EAGAIN if none came in that time, EINTR if another one did.
fn wait(signals: &SigSet, most: Duration) -> nix::Result<Signal> {
    let most = TimeSpec::from_duration(most);
    // SAFETY: both pointers are valid for the call, and it accepts NULL for what it would tell.
    let signal =
        unsafe { libc::sigtimedwait(signals.as_ref(), std::ptr::null_mut(), most.as_ref()) };
    Errno::result(signal).and_then(Signal::try_from)
}

/// The line of a process that has ended with an error, or because the kernel ended the scheduler.
fn last_words(from_child: PipeReader) -> String {
    let mut bytes = Vec::new();
    match from_child.take(LINE_BYTES).read_to_end(&mut bytes) {
        Ok(1..) => String::from_utf8_lossy(&bytes).replace(char::is_control, " "),
        _ => "the scheduler failed without a word".to_owned(),
    }
}
