//! A policy's answer: which task runs next, and how.

use crate::abi;
use crate::ids::CpuId;
#[cfg(doc)]
use crate::policy::{Context, Policy};
use crate::policy::{DEFAULT_WEIGHT, Task};
use std::time::Duration;

/// A policy's answer: run this task next.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// The task, with the memo to be kept for it.
    pub task: Task,
    /// How long it may run before it is asked to give way: 1 ns to 1 s.
    pub slice: Duration,
    /// Its key among the ready tasks of the domain: the lowest runs first. Keys may wrap around, as
    /// the kernel's time stamps do, and are compared alike. `None`: ready tasks run in the sequence
    /// of their decisions. A policy uses either all `Some` or all `None`.
    pub key: Option<u64>,
    /// What happens at the end of the slice while others are ready.
    pub vtime_rate: VtimeRate,
    /// The CPU the policy wants it on, one of [`Context::cpus_of`]. The task waits for this CPU, at
    /// its key, even if others are idle. `None`: the framework chooses an idle CPU, or else the
    /// first CPU that has nothing to do.
    ///
    /// Another CPU may run the task if the chosen one asks for none for about 0.2 s, for instance
    /// because a real-time task holds it. A task that is bound to one CPU gets that one, whatever
    /// is said here.
    pub cpu: Option<CpuId>,
    /// Whether what runs on that CPU gives way at once, rather than at the end of its slice, and
    /// the task goes before all that are decided already. The policy is notified of the task that
    /// gave way as if that had used up its slice.
    ///
    /// It has no effect where the CPU is idle, or runs a domain thread or a task of another
    /// scheduling class. Neither has it one without a CPU in `cpu` for a task that is not bound.
    pub preempt: bool,
    /// Whether the decision stands, that is, holds for the task's next wake-ups as well; and the
    /// task's maximum lag at each of them, in the units of `key` ([`Choice::standing`]).
    pub max_lag: Option<u64>,
}

/// How a task's key grows while it runs. A task whose key is still before that of every ready task
/// when its slice ends gets the same slice again, without a new decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VtimeRate {
    /// Unknown: at the end of its slice the task gives way to any that is ready.
    #[default]
    GivesWay,
    /// [`Choice::key`] is virtual time: it grows by 100 over the task's weight for each nanosecond
    /// of CPU time.
    VirtualTime,
}

impl VtimeRate {
    /// The growth of the key for each nanosecond, in units of 1 over
    /// [`abi::limits_VTIME_RATE_ONE`].
    pub(crate) fn per_ns(self, weight: u32) -> u32 {
        match self {
            VtimeRate::GivesWay => 0,
            VtimeRate::VirtualTime => abi::limits_VTIME_RATE_ONE * DEFAULT_WEIGHT / weight.max(1),
        }
    }
}

impl Choice {
    /// The same choice with a key among the ready tasks.
    pub fn with_key(self, key: u64) -> Choice {
        Choice { key: Some(key), ..self }
    }

    /// The same choice with a key that is virtual time, which grows while the task runs.
    pub fn at_virtual_time(self, key: u64) -> Choice {
        Choice { vtime_rate: VtimeRate::VirtualTime, ..self.with_key(key) }
    }

    /// The same choice on a preferred CPU.
    pub fn on(self, cpu: CpuId) -> Choice {
        Choice { cpu: Some(cpu), ..self }
    }

    /// The same choice, with what runs on its CPU giving way at once.
    ///
    /// ```
    /// use scx_manyland::{ids::{CpuId, Pid}, policy::Task};
    /// use std::time::Duration;
    /// let task = Task::new(Pid(1));
    /// let choice = task.run_for(Duration::from_millis(1)).on(CpuId(3)).preempting();
    /// assert_eq!((choice.cpu, choice.preempt), (Some(CpuId(3)), true));
    /// ```
    pub fn preempting(self) -> Choice {
        Choice { preempt: true, ..self }
    }

    /// The same choice, standing: it holds for the task's next wake-ups as well.
    ///
    /// If the task goes to sleep within its slice and finds no idle CPU when it wakes up, it is
    /// ready at once; no message goes to the policy. Its slice is the same. Its key is the one it
    /// had, plus what it has used since, and at most `max_lag` before [`Context::vtime`].
    ///
    /// The decision stands for some wake-ups (`--standing`, 7 by default) within 100 ms. It ends
    /// when the task uses up its slice, moves to another domain, or changes its weight or affinity.
    /// Then the policy is notified of the task again, with all that it has used meanwhile.
    ///
    /// It needs a choice [at a virtual time](Self::at_virtual_time) without a CPU of its own, and a
    /// policy whose [`Policy::decides_late`] is false. With others, and with `--strict`, it has no
    /// effect.
    ///
    /// ```
    /// use scx_manyland::{ids::Pid, policy::Task};
    /// use std::time::Duration;
    /// let slice = Duration::from_millis(5);
    /// let choice = Task::new(Pid(1)).run_for(slice).at_virtual_time(700).standing(5_000_000);
    /// assert_eq!(choice.max_lag, Some(5_000_000));
    /// ```
    pub fn standing(self, max_lag: u64) -> Choice {
        Choice { max_lag: Some(max_lag), ..self }
    }
}
