//! The signals that ask a run to end, whichever thread of the program the kernel gives them to.
//!
//! A handler catches them, not a signalfd for blocked signals. A program that uses the library may
//! have threads of its own that block nothing, and a signal to one of those would end the program.
//! The handler only writes to a descriptor, which is allowed in any handler.
//!
//! Invariant: while a [`Signals`] exists, SIGINT, SIGTERM and SIGHUP end nothing and wake the
//! thread that polls it. Afterwards they do what they did before.

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicI32, Ordering};

/// The signals that ask a run to end.
pub const ASK_TO_END: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// The descriptor that the handler writes to; negative if there is none.
static BELL: AtomicI32 = AtomicI32::new(-1);

/// Catches the signals while it exists.
pub struct Signals {
    bell: EventFd,
    before: Vec<(Signal, SigAction)>,
}

impl Signals {
    /// Catches the signals from now on, and unblocks them in the calling thread.
    ///
    /// # Errors
    /// If another [`Signals`] exists: a process has one run at a time.
    pub fn catch() -> Result<Signals> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let bell = EventFd::from_flags(flags).context("cannot create an eventfd")?;
        let installed = BELL.compare_exchange(
            -1,
            bell.as_fd().as_raw_fd(),
            Ordering::Release,
            Ordering::Relaxed,
        );
        ensure!(installed.is_ok(), "cannot attach: this process schedules the machine already");
        let mut signals = Signals { bell, before: Vec::with_capacity(ASK_TO_END.len()) };
        let action =
            SigAction::new(SigHandler::Handler(ring), SaFlags::SA_RESTART, SigSet::empty());
        for signal in ASK_TO_END {
            // SAFETY: the handler makes one system call that is safe in any handler.
            let before = unsafe { sigaction(signal, &action) }
                .with_context(|| format!("cannot catch {signal}"))?;
            signals.before.push((signal, before));
        }
        let caught: SigSet = ASK_TO_END.into_iter().collect();
        caught.thread_unblock().context("cannot let signals through")?;
        Ok(signals)
    }

    /// Readable once a signal has come.
    pub fn came(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Whether a signal has come.
    pub fn have_come(&self) -> bool {
        let mut sources = [PollFd::new(self.came(), PollFlags::POLLIN)];
        matches!(poll(&mut sources, PollTimeout::ZERO), Ok(1..))
    }

    /// Blocks the signals in the calling thread, so that another thread of the program gets them.
    ///
    /// # Errors
    /// If the kernel refuses, which it has no known reason to.
    pub fn leave_to_others() -> Result<()> {
        let signals: SigSet = ASK_TO_END.into_iter().collect();
        signals.thread_block().context("cannot block signals")
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for (signal, before) in &self.before {
            // SAFETY: this is the action that was in force before.
            let _ = unsafe { sigaction(*signal, before) };
        }
        BELL.store(-1, Ordering::Release);
    }
}

extern "C" fn ring(_: c_int) {
    let bell = BELL.load(Ordering::Acquire);
    if bell < 0 {
        return;
    }
    let one = 1u64.to_ne_bytes();
    let errno = nix::errno::Errno::last_raw();
    // SAFETY: write(2) may be called in a handler, and reads eight bytes that are there. If the
    // descriptor was closed meanwhile it fails.
    unsafe { libc::write(bell, one.as_ptr().cast(), one.len()) };
    nix::errno::Errno::set_raw(errno);
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::raise;

    #[test]
    fn a_signal_rings_ends_nothing_and_is_let_go_again() {
        let before = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        // SAFETY: ignoring a signal runs no code.
        unsafe { sigaction(Signal::SIGHUP, &before) }.unwrap();
        let signals = Signals::catch().unwrap();
        assert!(Signals::catch().is_err(), "one run at a time");
        assert!(!signals.have_come());
        raise(Signal::SIGHUP).unwrap();
        assert!(signals.have_come());
        drop(signals);
        // SAFETY: as above.
        let after = unsafe { sigaction(Signal::SIGHUP, &before) }.unwrap();
        assert!(matches!(after.handler(), SigHandler::SigIgn));
        assert!(!Signals::catch().unwrap().have_come(), "a new run has been asked nothing");
    }
}
