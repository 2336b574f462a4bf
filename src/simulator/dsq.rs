//! A dispatch queue of the kernel (DSQ), ordered by vtime.
//!
//! Invariant: of two tasks of the same vtime the one that was inserted first comes first.

use super::TaskId;
use std::collections::BTreeSet;

/// The name of a queue, as in `bpf/state.bpf.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DsqId {
    /// Decided, for this CPU.
    Own(u32),
    /// Waiting, may run on this CPU only.
    Bound(u32),
    /// Decided, for any CPU of the domain.
    Ready(u32),
    /// Waiting.
    Waiting(u32),
}

/// A task's position in a queue. Virtual times start at 0, and any two differ by less than half of
/// the range of `u64`, so signed numbers compare as they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    vtime: i64,
    inserted: u64,
}

/// A queue.
#[derive(Default)]
pub struct Dsq {
    tasks: BTreeSet<(Position, TaskId)>,
    /// When its lock becomes free.
    pub locked_until_ns: u64,
}

impl Dsq {
    /// Inserts a task; `inserted` counts all insertions of the machine.
    pub fn insert(&mut self, task: TaskId, vtime: u64, inserted: u64) -> Position {
        let position = Position { vtime: vtime as i64, inserted };
        self.tasks.insert((position, task));
        position
    }

    /// Removes a task, which must be there.
    pub fn remove(&mut self, task: TaskId, position: Position) {
        let was_there = self.tasks.remove(&(position, task));
        debug_assert!(was_there, "{task:?} is not where it should be");
    }

    /// The tasks, first to last.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = TaskId> + '_ {
        self.tasks.iter().map(|&(_, task)| task)
    }

    /// The vtime of the first task.
    pub fn head(&self) -> Option<u64> {
        self.tasks.first().map(|(position, _)| position.vtime as u64)
    }

    /// How many tasks there are.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }
}
