//! What a policy's choice becomes: a decision, as the kernel's side reads it.

use super::scheduler::Scheduler;
use super::seam::Seam;
use crate::abi;
use crate::policy::{Affinity, Choice};

impl<S: Seam> Scheduler<S> {
    /// The decision for a choice, with the next number of the sequence.
    #[inline]
    pub(super) fn decision(&mut self, choice: &Choice) -> abi::decision {
        let task = &choice.task;
        let (cpu, flags) = self.cpu_for(choice);
        self.sequence += 1;
        abi::decision {
            seq: task.seq,
            slice_ns: u64::try_from(choice.slice.as_nanos()).unwrap_or(u64::MAX),
            vtime: choice.key.unwrap_or(self.sequence),
            pid: task.pid.0 as u32,
            cpu,
            flags: flags | self.standing_flag(choice) | self.overtaking_flag(),
            domain: self.context.domain.0,
            vtime_rate: choice.vtime_rate.per_ns(task.weight),
            unused: 0,
            max_lag: choice.max_lag.unwrap_or(0),
            carried: abi::carried {
                memo: task.memo,
                used_ns: task.totals.used_ns,
                switches: task.totals.switches,
                at_ns: task.runnable_at_ns,
            },
        }
    }

    /// The CPU for a task and the flags that go with it: the CPU it is bound to, else the one that
    /// the policy chose, else an idle one, else none.
    #[inline]
    fn cpu_for(&mut self, choice: &Choice) -> (u32, u32) {
        let task = &choice.task;
        match (task.affinity, choice.cpu) {
            (Affinity::One(cpu), _) | (_, Some(cpu)) if choice.preempt => {
                (cpu.0, abi::decision_flags_DECISION_PREEMPT)
            }
            (Affinity::One(cpu), _) | (_, Some(cpu)) => (cpu.0, 0),
            _ => match self.placement.take(task.prev_cpu, self.context.part(task.affinity)) {
                Some(cpu) => (cpu.0, abi::decision_flags_DECISION_IDLE),
                None => (abi::none_NO_CPU, 0),
            },
        }
    }

    /// The flag of decisions whose tasks running ones may give way to.
    #[inline]
    fn overtaking_flag(&self) -> u32 {
        match self.wakeups_preempt {
            true => abi::decision_flags_DECISION_OVERTAKES,
            false => 0,
        }
    }

    /// The flag of a choice that stands, where a choice may.
    #[inline]
    fn standing_flag(&self, choice: &Choice) -> u32 {
        match choice.max_lag {
            Some(_) if !choice.preempt && !self.decides_late => abi::decision_flags_DECISION_STANDS,
            _ => 0,
        }
    }
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;
