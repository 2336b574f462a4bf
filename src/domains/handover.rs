//! User space's half of stealing: how waiting tasks go from an overloaded domain to an idle one.
//!
//! Each domain has a public deque. Its own thread (the owner) publishes tasks there that it cannot
//! get run soon, and calls an idle domain by ringing its bell. The called thread (a thief) wakes and
//! steals from the nearest deques. At the start of its next round the owner takes back whatever
//! nobody stole.
//!
//! A bell is rung once until the thief has answered: `called` is set by the first caller and cleared
//! by the thief *before* it looks at the deques. So a task published after that look finds the flag
//! clear and rings again, and a task published before it is seen by the look.
//!
//! Invariant: every waiting task is in exactly one place: in its policy's queue, in one deque, or
//! with the one thread that took it from there. The deque hands each task to one taker only; an
//! owner that has published does not sleep before it has taken back.
//!
//! The protocol is model-checked with loom (`tests/handover_loom.rs` includes this very file with
//! loom's types in place of the real ones).

use super::sync::{AtomicBool, Deque, Ordering, Thieves};

/// What the domains see of each other's deques.
pub struct Exchange<T> {
    thieves: Box<[Thieves<T>]>,
    called: Box<[AtomicBool]>,
}

impl<T: Send> Exchange<T> {
    /// The deques of `count` domains: what all share, and each owner's end.
    pub fn new(count: usize) -> (Self, Vec<Deque<T>>) {
        let owners: Vec<Deque<T>> = (0..count).map(|_| Deque::new()).collect();
        let thieves = owners.iter().map(Deque::thieves).collect();
        let called = (0..count).map(|_| AtomicBool::new(false)).collect();
        (Self { thieves, called }, owners)
    }

    /// Calls the thread of domain `thief`; `ring` rings its bell, unless it has been called already
    /// and has not answered.
    pub fn call(&self, thief: usize, ring: impl FnOnce()) {
        // AcqRel: what the caller has published comes first; pairs with `answer`.
        if !self.called[thief].swap(true, Ordering::AcqRel) {
            ring();
        }
    }

    /// Whether the thread of domain `thief` has been called and has not answered.
    pub fn is_called(&self, thief: usize) -> bool {
        self.called[thief].load(Ordering::Acquire)
    }

    /// The thread of domain `thief` is about to look at the deques.
    pub fn answer(&self, thief: usize) {
        // AcqRel: what was published before the call is seen by the looks that follow.
        self.called[thief].swap(false, Ordering::AcqRel);
    }

    /// Takes the task that has been longest in the deque of domain `victim`.
    pub fn steal(&self, victim: usize) -> Option<T> {
        self.thieves[victim].steal()
    }
}
