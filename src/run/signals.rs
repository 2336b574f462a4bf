//! The signals that ask a run to end, whichever thread of the program the kernel gives them to.
//!
//! A handler and not a blocked signal with a signalfd: a program that uses the library may have
//! threads of its own by then, which block nothing, and one of those would be ended with the whole
//! program. The handler does the one thing that is always allowed in one: it writes to a descriptor.
//!
//! Invariant: while a [`Signals`] exists, SIGINT, SIGTERM and SIGHUP end nothing but wake whoever
//! polls it; afterwards they do what they did before.

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicI32, Ordering};

/// The signals that ask a run to end.
pub const ASK_TO_END: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// Where the handler writes; negative: nowhere.
static BELL: AtomicI32 = AtomicI32::new(-1);

/// That the signals are caught.
pub struct Signals {
    bell: EventFd,
    before: Vec<(Signal, SigAction)>,
}

impl Signals {
    /// Catches them from now on, in the calling thread even if it had blocked them.
    ///
    /// # Errors
    /// If they are caught already: a process schedules its machine once at a time.
    pub fn catch() -> Result<Signals> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let bell = EventFd::from_flags(flags).context("cannot create an eventfd")?;
        let taken = BELL.compare_exchange(
            -1,
            bell.as_fd().as_raw_fd(),
            Ordering::Release,
            Ordering::Relaxed,
        );
        ensure!(taken.is_ok(), "cannot attach: this process schedules the machine already");
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

    /// Keeps the signals away from the calling thread, if the program has another one for them.
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
