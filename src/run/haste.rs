//! Going before other tasks until the scheduler can attach.
//!
//! To read the machine and to have the kernel verify the BPF programs needs a second or more of one
//! CPU's time. Until then the kernel's own scheduler has the machine, and its tasks may be many: after
//! a CPU has come or gone, those that this scheduler had a moment ago.
//!
//! Invariant: the thread has its niceness of before when its [`Haste`] is dropped.

use nix::errno::Errno;

/// The niceness of what goes first.
const FIRST: libc::c_int = -20;

/// The calling thread goes before other ordinary tasks until this is dropped, if it may. Threads and
/// processes that it starts meanwhile inherit that.
#[derive(Debug)]
pub struct Haste {
    /// The niceness of before, if it is another one now.
    before: Option<libc::c_int>,
}

impl Haste {
    /// Begins. Without CAP_SYS_NICE nothing changes.
    pub fn begin() -> Haste {
        let before = niceness().filter(|_| set_niceness(FIRST).is_ok());
        Haste { before }
    }
}

impl Drop for Haste {
    fn drop(&mut self) {
        if let Some(before) = self.before
            && let Err(error) = set_niceness(before)
        {
            log::warn!("the main thread keeps a niceness of {FIRST}: {error}");
        }
    }
}

/// The calling thread's niceness.
fn niceness() -> Option<libc::c_int> {
    // It may be -1, which is an error's value too.
    Errno::clear();
    // SAFETY: the call has no pointers.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    (nice != -1 || Errno::last_raw() == 0).then_some(nice)
}

/// Sets the calling thread's niceness.
fn set_niceness(nice: libc::c_int) -> nix::Result<()> {
    // SAFETY: the call has no pointers.
    Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_over_when_it_is_dropped() {
        let before = niceness().unwrap();
        let haste = Haste::begin();
        let during = niceness().unwrap();
        assert!(during == FIRST || haste.before.is_none(), "{during}");
        drop(haste);
        assert_eq!(niceness(), Some(before));
    }
}
