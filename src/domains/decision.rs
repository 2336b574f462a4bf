//! What a policy's choice becomes: a decision, as the kernel's side reads it.

use super::scheduler::Scheduler;
use super::seam::Seam;
use crate::abi;
use crate::policy::{Affinity, Choice};

impl<S: Seam> Scheduler<S> {
    /// Turns a choice into a decision with a CPU, if there is an idle one.
    pub(super) fn place(&mut self, choice: &Choice) -> abi::decided {
        let task = &choice.task;
        let allowed = self.context.part(task.affinity);
        let preempt = if choice.preempt { abi::decided_flags_DECIDED_PREEMPT } else { 0 };
        let stands = match choice.reach {
            Some(_) if !choice.preempt && !self.policy.decides_late() => {
                abi::decided_flags_DECIDED_STANDS
            }
            _ => 0,
        };
        let (cpu, flags) = match (task.affinity, choice.cpu) {
            (Affinity::One(cpu), _) | (_, Some(cpu)) => (cpu.0, preempt),
            _ => match self.placement.take(task.prev_cpu, allowed) {
                Some(cpu) => (cpu.0, abi::decided_flags_DECIDED_IDLE),
                None => (abi::none_NO_CPU, 0),
            },
        };
        self.sequence += 1;
        abi::decided {
            seq: task.seq,
            slice_ns: u64::try_from(choice.slice.as_nanos()).unwrap_or(u64::MAX),
            order: choice.order.unwrap_or(self.sequence),
            pid: task.pid.0 as u32,
            cpu,
            flags: flags | stands,
            domain: self.context.domain.0,
            pace: choice.pace.per_ns(task.weight),
            unused: 0,
            reach: choice.reach.unwrap_or(0),
            carried: abi::carried {
                memo: task.memo,
                used_ns: task.told.used_ns,
                switches: task.told.switches,
                at_ns: task.queued_at_ns,
            },
        }
    }
}
