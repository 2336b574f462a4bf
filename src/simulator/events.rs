//! The events that are planned, sorted by virtual time.
//!
//! Invariant: of two events at the same time the one that was planned first happens first, so every
//! run of a seed is the same.

use super::TaskId;
use crate::ids::{CpuId, DomainId};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

/// Something that happens at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A task of the initial ones is created.
    Start(TaskId),
    /// A task has slept long enough.
    Alarm(TaskId),
    /// A CPU's current work ends, or its tick ends a slice; void if the CPU has changed its plan.
    Due { cpu: CpuId, plan: u64 },
    /// A kick arrives at its CPU.
    Kicked(CpuId),
    /// A wake-up that another CPU has handed over arrives.
    HandedOver { task: TaskId, cpu: CpuId },
    /// A domain thread is woken by what a CPU has done.
    ThreadWake { domain: DomainId, cpu: CpuId },
    /// A timer of the BPF side fires on a CPU; void if it was started anew.
    Timer { cpu: CpuId, number: usize, started: u64 },
    /// A path through the kernel that has paused goes on.
    Resume(usize),
    /// The machine is checked for CPUs that are idle while tasks wait.
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

    /// The next one and its time, if it comes before `end_ns`.
    pub fn pop_before(&mut self, end_ns: u64) -> Option<(u64, Event)> {
        let next = self.heap.peek_mut().filter(|next| next.0.0 < end_ns)?;
        let Reverse((time_ns, _, event)) = PeekMut::pop(next);
        Some((time_ns, event))
    }
}
