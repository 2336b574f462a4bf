//! A host with too little for its guests: it takes all CPUs of a guest away again and again, and
//! the guest's clock goes on.
//!
//! Invariant: the guest runs when a [`Stutter`] is gone.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long the CPUs are there, in turn: were it always the same, a timer that once was late could
/// be in step with the host from then on, and in time.
const GIVEN_MS: [u64; 3] = [50, 90, 140];
/// How long they then are not.
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
            for given_ms in GIVEN_MS.into_iter().cycle() {
                let given = Duration::from_millis(given_ms);
                if stopped.recv_timeout(given) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
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
