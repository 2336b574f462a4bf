//! Ctrl-C, SIGTERM and SIGHUP while a benchmark runs.
//!
//! Invariant: every wait of the benchmark goes through [`Interrupt::pause`], so a signal ends it at
//! once. The way out is that of any error: owners stop what they have started.

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use scx_manyland::run::signals::ASK_TO_END;
use std::fmt;
use std::os::fd::AsFd;
use std::time::Duration;

/// The signals that end a benchmark, caught.
pub struct Interrupt(SignalFd);

/// The error of a wait that was ended by a signal.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

impl Interrupt {
    /// Catches the signals from now on, in this thread and those that it starts.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn catch() -> Result<Self> {
        let signals: SigSet = ASK_TO_END.into_iter().collect();
        signals.thread_block().context("cannot block signals")?;
        let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC);
        Ok(Self(signals.context("cannot wait for signals")?))
    }

    /// Waits for `time`. A signal remains pending, so that every later wait ends at once too.
    ///
    /// # Errors
    /// [`Interrupted`], if there was a signal.
    pub fn pause(&self, time: Duration) -> Result<()> {
        let limit = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], limit) {
            Ok(0) | Err(Errno::EINTR) => Ok(()),
            Ok(_) => bail!(Interrupted),
            Err(error) => Err(error).context("cannot wait for signals"),
        }
    }
}
