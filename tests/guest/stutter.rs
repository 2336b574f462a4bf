//! A host with too little for its guests: it takes all CPUs of a guest away again and again, and
//! the guest's clock goes on.
//!
//! Invariant: the guest runs when a [`Stutter`] is gone.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long the CPUs are there, and then are not.
const GIVEN: Duration = Duration::from_millis(100);
const TAKEN: Duration = Duration::from_millis(100);

/// The CPUs of a guest come and go while this lives.
pub struct Stutter {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Stutter {
    /// Of the guest whose processes are this group, none of which is reaped while this lives.
    pub fn start(guest: Pid) -> Stutter {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            while stopped.recv_timeout(GIVEN) == Err(RecvTimeoutError::Timeout) {
                // That it has ended shows elsewhere.
                let _ = killpg(guest, Signal::SIGSTOP);
                thread::sleep(TAKEN);
                let _ = killpg(guest, Signal::SIGCONT);
            }
        });
        Stutter { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Stutter {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
