//! A dispatch queue (DSQ) of the kernel.
//!
//! Invariant: of two tasks of the same vtime the one that was inserted first comes first. A task
//! inserted without a vtime has vtime 0, so a queue of such tasks is first in, first out.

use crate::simulator::TaskId;
use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};

/// A task's position in a queue. Virtual times start at 0, and any two differ by less than half of
/// the range of `u64`, so signed numbers compare as they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The key.
    pub vtime: i64,
    /// The number of the insertion (`dsq_seq` of the kernel).
    pub seq: u64,
}

/// A queue.
#[derive(Default)]
pub struct Dsq {
    tasks: BTreeSet<(Position, TaskId)>,
    /// The number of the last insertion.
    pub seq: u64,
    /// When its lock becomes free.
    pub locked_until_ns: u64,
}

impl Dsq {
    /// Inserts a task.
    pub fn insert(&mut self, task: TaskId, vtime: u64) -> Position {
        self.seq += 1;
        let position = Position { vtime: vtime as i64, seq: self.seq };
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

    /// The task after a position, or before it, or at the end; only of those that were inserted up
    /// to number `seq`.
    pub fn next(
        &self,
        from: Option<Position>,
        backwards: bool,
        seq: u64,
    ) -> Option<(Position, TaskId)> {
        let is_old = |(position, _): &&(Position, TaskId)| position.seq <= seq;
        let (least, most) = (TaskId(0), TaskId(u32::MAX));
        match (from, backwards) {
            (None, false) => self.tasks.iter().find(is_old),
            (None, true) => self.tasks.iter().rev().find(is_old),
            (Some(at), false) => self.tasks.range((Excluded((at, most)), Unbounded)).find(is_old),
            (Some(at), true) => {
                self.tasks.range((Unbounded, Excluded((at, least)))).rev().find(is_old)
            }
        }
        .copied()
    }

    /// How many tasks there are.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }
}
