//! A domain at a standstill, for the tests of a policy.
//!
//! Invariant: nothing in it changes unless its owner changes it.

use crate::cpuset::CpuSet;
use crate::ids::{CpuId, DomainId};
use crate::policy::{Affinity, Context, Task};

/// A context that answers what its fields say: what a policy's own tests hand to it in place of a
/// running domain.
///
/// ```
/// use scx_manyland::ids::Pid;
/// use scx_manyland::policy::{Choice, Context, FixedContext, Policy, Task, fifo::Fifo};
/// use std::time::Duration;
///
/// let four_cpus = FixedContext::with_cpus(4);
/// let mut policy = Fifo::new(Duration::from_millis(5));
/// policy.enqueue(Task::new(Pid(1)), &four_cpus);
/// assert_eq!(policy.next(&four_cpus).map(|choice| choice.task.pid), Some(Pid(1)));
/// ```
#[derive(Clone, Debug)]
pub struct FixedContext {
    /// The number of the domain.
    pub domain: DomainId,
    /// Its CPUs.
    pub cpus: CpuSet,
    /// The time (nanoseconds).
    pub now_ns: u64,
    /// How many tasks are decided and not yet running.
    pub ready: usize,
    /// The largest place in the order of those that have begun to run.
    pub front: u64,
    /// How many tasks were ready or waiting at the last look.
    pub queued: usize,
}

impl FixedContext {
    /// Domain 0, of the CPUs 0 to `count` - 1, with nothing ready, at time 0.
    ///
    /// # Panics
    /// If `count` is more than [`MAX_CPUS`](crate::cpuset::MAX_CPUS).
    pub fn with_cpus(count: u32) -> FixedContext {
        let cpus = (0..count).map(CpuId).collect();
        FixedContext { domain: DomainId(0), cpus, now_ns: 0, ready: 0, front: 0, queued: 0 }
    }
}

impl Context for FixedContext {
    fn domain(&self) -> DomainId {
        self.domain
    }

    fn cpus(&self) -> &CpuSet {
        &self.cpus
    }

    /// That one CPU for a task that is bound to one, and otherwise all.
    fn cpus_of(&self, task: &Task) -> CpuSet {
        match task.affinity {
            Affinity::One(cpu) => [cpu].into_iter().collect(),
            Affinity::Whole | Affinity::Part { .. } => self.cpus,
        }
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn ready(&self) -> usize {
        self.ready
    }

    fn front(&self) -> u64 {
        self.front
    }

    fn queued(&self) -> usize {
        self.queued
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Pid;
    use std::time::Duration;

    #[test]
    fn answers_what_its_fields_say() {
        let mut context = FixedContext::with_cpus(3);
        context.now_ns = 5_000;
        let mut task = Task::new(Pid(1));
        task.queued_at_ns = 2_000;
        assert_eq!(context.waited(&task), Duration::from_nanos(3_000));
        assert_eq!(context.cpus_of(&task).len(), 3);
        task.affinity = Affinity::One(CpuId(2));
        assert_eq!(context.cpus_of(&task), [CpuId(2)].into_iter().collect());
        task.queued_at_ns = 9_000;
        assert_eq!(context.waited(&task), Duration::ZERO);
    }
}
