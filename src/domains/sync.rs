//! The parts of the hand-over of tasks between domains. A model checker replaces them by its own.
//!
//! The deque is crossbeam's (Chase and Lev, "Dynamic circular work-stealing deque", 2005).
//!
//! Invariant: a deque never holds more than [`Deque::CAPACITY`] tasks, so it never grows.

use crossbeam_deque::{Steal, Stealer, Worker};
pub use std::sync::atomic::{AtomicBool, Ordering};

/// The owner's end of a deque. First in, first out, for the owner as for the thieves.
pub struct Deque<T>(Worker<T>);

impl<T: Send> Deque<T> {
    /// How many tasks a crossbeam deque holds in its smallest buffer.
    pub const CAPACITY: usize = 64;

    /// An empty deque.
    #[allow(clippy::new_without_default, reason = "a deque belongs to an exchange")]
    pub fn new() -> Self {
        Self(Worker::new_fifo())
    }

    /// The thieves' end.
    pub fn thieves(&self) -> Thieves<T> {
        Thieves(self.0.stealer())
    }

    /// Publishes a task.
    ///
    /// # Panics
    /// If the deque is full.
    pub fn publish(&self, task: T) {
        assert!(self.0.len() < Self::CAPACITY, "a deque must not grow");
        self.0.push(task);
    }

    /// Reclaims the task that has been there longest.
    pub fn take_back(&self) -> Option<T> {
        self.0.pop()
    }

    /// How many tasks are published.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is published.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The thieves' end of a deque.
pub struct Thieves<T>(Stealer<T>);

impl<T: Send> Thieves<T> {
    /// Steals the task that has been there longest.
    pub fn steal(&self) -> Option<T> {
        loop {
            match self.0.steal() {
                Steal::Success(task) => return Some(task),
                Steal::Empty => return None,
                // Another thread was quicker, so there has been progress.
                Steal::Retry => std::hint::spin_loop(),
            }
        }
    }
}
