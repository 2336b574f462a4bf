//! The seam of a test: what a domain's scheduler sees of a machine that the test plays.
//!
//! Invariant: nothing happens here by itself. The test sets what was sent, how much room there is
//! and which CPUs are idle, and fetches what was decided.

use crate::abi;
use crate::cpuset::CpuSet;
use crate::domains::seam::{Message, Seam};
use crate::ids::DomainId;
use std::cell::RefCell;
use std::collections::VecDeque;

/// A message on its way.
#[derive(Clone)]
pub enum Sent {
    /// For a task that may run everywhere or, by its flags, on one CPU.
    Plain(abi::notice),
    /// For a task that may use some CPUs.
    Part(Box<abi::notice_part>),
}

/// The messages and decisions of one domain, and the state of its CPUs.
#[derive(Default)]
pub struct Queues {
    /// Messages that the scheduler has not drained.
    pub sent: VecDeque<Sent>,
    /// Decisions that the machine has not fetched.
    pub decided: Vec<abi::decision>,
    /// How many more decisions find room.
    pub room: usize,
    /// The idle CPUs.
    pub idle: CpuSet,
    /// How many tasks are decided and not yet running.
    pub ready: usize,
    /// The domain's virtual time.
    pub vtime: u64,
    /// How many tasks were ready or waiting when the machine last counted them.
    pub nr_queued: usize,
    /// How many CPUs are idle in each domain.
    pub idle_elsewhere: Vec<usize>,
    /// The domains whose bells were rung.
    pub called: RefCell<Vec<DomainId>>,
    /// When the thread was last switched in.
    pub now_ns: u64,
}

impl Seam for Queues {
    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn pending(&self) -> usize {
        self.sent.len()
    }

    fn drain(&mut self, mut receive: impl FnMut(Message<'_>)) -> usize {
        for message in &self.sent {
            receive(match message {
                Sent::Plain(notice) => Message::Plain(notice),
                Sent::Part(part) => Message::Part(part),
            });
        }
        let drained = self.sent.len();
        self.sent.clear();
        drained
    }

    fn idle_in(&self, domain: DomainId) -> usize {
        self.idle_elsewhere.get(domain.index()).copied().unwrap_or(0)
    }

    fn call(&self, domain: DomainId) {
        self.called.borrow_mut().push(domain);
    }

    fn submit(&mut self, decision: &abi::decision) -> bool {
        let Some(room) = self.room.checked_sub(1) else { return false };
        self.room = room;
        self.decided.push(*decision);
        true
    }

    fn idle(&self) -> CpuSet {
        self.idle
    }

    fn ready(&self) -> usize {
        self.ready
    }

    fn vtime(&self) -> u64 {
        self.vtime
    }

    fn nr_queued(&self) -> usize {
        self.nr_queued
    }
}
