//! Runs a piece of work in a child process that it cannot leave, and reads its result from a pipe.
//!
//! libhwloc and libxml2 read unchecked files here. They assert, they trust sizes, and they write to
//! stderr as they like. In a child, all of that ends as an error here.
//!
//! Invariant: the caller gets a value or one error, in bounded time. It keeps its own memory, CPU
//! binding and stderr. This holds whatever the work does: crash, abort, panic, spin, use up memory,
//! write to stderr.

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use std::fs::File;
use std::io::{PipeWriter, Read, Write, pipe};
use std::os::fd::AsRawFd;

/// What the work may add to the address space of the process.
const MEMORY_LIMIT_BYTES: u64 = 2 << 30;
/// CPU time of the work.
const CPU_LIMIT_SECONDS: u64 = 30;
/// Wall-clock time of the work.
const WALL_LIMIT_SECONDS: u32 = 60;

/// One child at a time: otherwise a child of another thread could be forked while this one's pipe
/// is open, and hold it open.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs `work` in a child process and returns what it returned.
///
/// `work` runs in a copy of this process that has only the calling thread; it must not need a lock
/// that another thread may hold.
pub(super) fn in_child<T, W>(work: W) -> Result<T>
where
    T: Serialize + DeserializeOwned,
    W: FnOnce() -> Result<T>,
{
    let _guard = ONE_AT_A_TIME.lock();
    let (mut from_child, to_parent) = pipe().context("cannot create a pipe")?;
    // SAFETY: the child runs `work` and `_exit`s. It acquires only two kinds of locks: those of the
    // C library, which fork() leaves usable, and those of libhwloc and libxml2, which this process
    // only ever enters here, in a child. If it waited for any other, its alarm would end it.
    match unsafe { fork() }.context("cannot fork to read the topology in a child process")? {
        ForkResult::Child => {
            drop(from_child);
            be_the_child(to_parent, work)
        }
        ForkResult::Parent { child } => {
            drop(to_parent);
            let mut message = Vec::new();
            let read = from_child.read_to_end(&mut message);
            let status = loop {
                match waitpid(child, None) {
                    Err(nix::Error::EINTR) => continue,
                    status => break status,
                }
            };
            read.context("cannot read the result of the child process")?;
            match serde_json::from_slice::<Result<T, String>>(&message) {
                Ok(result) => result.map_err(|error| anyhow!(error)),
                Err(_) => bail!("hwloc crashed on it or exceeded a limit ({})", death(status)),
            }
        }
    }
}

/// How the child ended, in words. There is no status where the program ignores SIGCHLD.
fn death(status: nix::Result<WaitStatus>) -> String {
    match status {
        Ok(WaitStatus::Signaled(_, signal, _)) => format!("{signal} in its child process"),
        _ => "its child process gave no result".to_string(),
    }
}

/// The child's life: silence, limits, work, one message, end.
fn be_the_child<T: Serialize>(mut to_parent: PipeWriter, work: impl FnOnce() -> Result<T>) -> ! {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        restrict();
        let result = work().map_err(|error| format!("{error:#}"));
        let message = serde_json::to_vec(&result).ok()?;
        to_parent.write_all(&message).ok()
    }));
    let code = if matches!(outcome, Ok(Some(()))) { 0 } else { 1 };
    // SAFETY: ends the child at once, without the exit handlers and buffers it shares with the
    // parent.
    unsafe { libc::_exit(code) }
}

/// Best effort: a limit that cannot be set leaves the child as free as its parent.
fn restrict() {
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        // SAFETY: both are descriptors; only this process's stderr changes.
        unsafe { libc::dup2(null.as_raw_fd(), libc::STDERR_FILENO) };
    }
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    let _ = setrlimit(Resource::RLIMIT_CPU, CPU_LIMIT_SECONDS, CPU_LIMIT_SECONDS);
    if let Some(used) = address_space_bytes() {
        let limit = used.saturating_add(MEMORY_LIMIT_BYTES);
        let _ = setrlimit(Resource::RLIMIT_AS, limit, limit);
    }
    // A crash in here concerns no crash reporter or fuzzer that watches the program.
    let crashes = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGABRT];
    // SAFETY: both only concern this process, and SIG_DFL is a valid disposition.
    unsafe {
        for signal in crashes.into_iter().chain([libc::SIGALRM]) {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::alarm(WALL_LIMIT_SECONDS);
    }
}

fn address_space_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').next()?.parse().ok()?;
    let page_size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    pages.checked_mul(u64::try_from(page_size).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{Signal, raise};

    #[test]
    fn returns_what_the_work_returned() {
        assert_eq!(in_child(|| Ok(vec![1, 2, 3])).unwrap(), [1, 2, 3]);
        let error = in_child::<(), _>(|| bail!("no such luck")).unwrap_err();
        assert_eq!(error.to_string(), "no such luck");
    }

    #[test]
    fn a_crash_is_an_error() {
        let error = in_child::<(), _>(|| std::process::abort()).unwrap_err();
        assert!(error.to_string().contains("(SIGABRT in its child process)"), "{error}");
    }

    #[test]
    fn a_crash_does_not_run_handlers_of_the_program() {
        extern "C" fn report(_: libc::c_int) {
            // SAFETY: ends a child that would otherwise die of the signal.
            unsafe { libc::_exit(0) }
        }
        // SAFETY: the handler makes one system call; no other code here raises SIGFPE.
        let before = unsafe { libc::signal(libc::SIGFPE, report as *const () as usize) };
        let error = in_child::<(), _>(|| Ok(raise(Signal::SIGFPE)?)).unwrap_err();
        // SAFETY: this is what was there before.
        unsafe { libc::signal(libc::SIGFPE, before) };
        assert!(error.to_string().contains("(SIGFPE in its child process)"), "{error}");
    }

    #[test]
    fn a_panic_is_an_error() {
        in_child::<(), _>(|| panic!("in the child")).unwrap_err();
    }

    #[test]
    fn memory_is_limited() {
        in_child(|| {
            let mut hoard: Vec<Vec<u8>> = Vec::new();
            for _ in 0..4 {
                hoard.push(vec![0; 1 << 30]);
            }
            Ok(hoard.len())
        })
        .unwrap_err();
    }

    #[test]
    fn a_long_result_passes_the_pipe() {
        let long = in_child(|| Ok("x".repeat(1 << 20))).unwrap();
        assert_eq!(long.len(), 1 << 20);
    }
}
