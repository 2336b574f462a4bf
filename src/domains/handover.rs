//! How waiting tasks go from an overloaded domain to an idle one: user space's half of stealing.
//!
//! Each domain has a public **deque**. The domain's own thread is its **owner**, the others are
//! **thieves**. Each thread has a **bell** that wakes it, and a flag `called`: the bell was rung,
//! and the thread has not answered yet.
//!
//! 1. The owner publishes tasks that it cannot get run soon in its deque.
//! 2. It calls the thread of an idle domain: it sets that thread's `called`, and rings the bell if
//!    the flag was clear.
//! 3. The thief wakes, answers (clears `called`), and only then steals from the nearest deques.
//! 4. At the start of its next round the owner reclaims the tasks that no thief has stolen.
//!
//! Step 3 clears the flag *before* it polls the deques. So a task that is published after the poll
//! finds the flag clear, and the bell rings again; a task that was published earlier is seen by the
//! poll.
//!
//! Invariant: every waiting task is held exactly once: by its policy's queue, by one deque, or by
//! the one thread that removed it from there. The deque hands each task to one thread only, and an
//! owner that has published does not sleep before it has reclaimed.
//!
//! `tests/handover_loom.rs` model-checks the protocol with loom: it includes this very file, with
//! loom's types instead of the real ones.

use super::sync::{AtomicBool, Deque, Ordering, Thieves};

/// The thieves' ends of all deques, and which threads have been called.
pub struct Exchange<T> {
    thieves: Box<[Thieves<T>]>,
    called: Box<[AtomicBool]>,
}

impl<T: Send> Exchange<T> {
    /// The deques of `count` domains: the exchange, which all share, and each owner's end.
    pub fn new(count: usize) -> (Self, Vec<Deque<T>>) {
        let owners: Vec<Deque<T>> = (0..count).map(|_| Deque::new()).collect();
        let thieves = owners.iter().map(Deque::thieves).collect();
        let called = (0..count).map(|_| AtomicBool::new(false)).collect();
        (Self { thieves, called }, owners)
    }

    /// Calls the thread of domain `thief`: `ring` rings its bell, unless an earlier call has not
    /// been answered yet.
    pub fn call(&self, thief: usize, ring: impl FnOnce()) {
        // AcqRel: orders the caller's pushes before the flag; pairs with the swap in `answer`.
        if !self.called[thief].swap(true, Ordering::AcqRel) {
            ring();
        }
    }

    /// Whether the thread of domain `thief` has been called and has not answered.
    pub fn is_called(&self, thief: usize) -> bool {
        self.called[thief].load(Ordering::Acquire)
    }

    /// The thread of domain `thief` answers its call: it is about to poll the deques.
    pub fn answer(&self, thief: usize) {
        // AcqRel: the polls that follow see what was pushed before the call; pairs with the swap in
        // `call`.
        self.called[thief].swap(false, Ordering::AcqRel);
    }

    /// Steals the task that has been longest in the deque of domain `victim`.
    pub fn steal(&self, victim: usize) -> Option<T> {
        self.thieves[victim].steal()
    }
}
