//! What is going to happen, in the order of virtual time.
//!
//! Invariant: of two events at the same time the one that was planned first happens first, so a run is the same every
//! time.

use super::TaskId;
use crate::ids::{CpuId, DomainId};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Something that happens at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// The next task that is there from the start is created.
    Start(TaskId),
    /// A task has slept long enough.
    Alarm(TaskId),
    /// What a CPU was doing is done, or its tick ends a slice; void if the CPU has been at something else since.
    Due { cpu: CpuId, plan: u64 },
    /// A CPU that was kicked looks for work.
    Kicked(CpuId),
    /// A domain thread that was asleep is woken.
    ThreadWake(DomainId),
    /// The kernel's side looks after what was forgotten.
    Heartbeat,
    /// The machine is looked over for CPUs that are idle beside waiting tasks.
    Inspect,
}

/// The events that are planned.
#[derive(Default)]
pub struct Events {
    heap: BinaryHeap<Reverse<(u64, u64, Event)>>,
    planned: u64,
}

impl Events {
    /// Plans an event.
    pub fn at(&mut self, time_ns: u64, event: Event) {
        self.planned += 1;
        self.heap.push(Reverse((time_ns, self.planned, event)));
    }

    /// The next one and its time.
    pub fn pop(&mut self) -> Option<(u64, Event)> {
        self.heap.pop().map(|Reverse((time_ns, _, event))| (time_ns, event))
    }
}
