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
    /// How long it may run before it is asked to give way, up to a second.
    pub slice: Duration,
    /// Its place among the ready tasks of the domain: lower runs earlier (compared as the kernel
    /// compares time stamps, so that it may wrap around). `None`: in the order of the decisions.
    /// A policy uses either all `Some` or all `None`.
    pub key: Option<u64>,
    /// What happens at the end of the slice while others are ready.
    pub vtime_rate: VtimeRate,
    /// The CPU the policy wants it on, which is to be one of [`Context::cpus_of`]: the task waits
    /// for this CPU, in its place of the order, even if others are idle (but if the CPU asks for no
    /// task for some 0.2 s, because something real-time has taken it, say, whichever comes first
    /// gets the task). `None`: the framework takes an idle CPU, or else the first that has nothing
    /// to do. A task that may use one CPU only gets that one, whatever is said here.
    pub cpu: Option<CpuId>,
    /// Whether what runs on that CPU is to give way at once, rather than at the end of its slice, and
    /// the task to go before all that are decided already. What gave way comes back to its policy
    /// like a task that has used up its slice. Without effect where the CPU is
    /// idle, or runs a domain thread or a task that is not ours to schedule, and where there is
    /// neither a CPU in `cpu` nor one that the task is bound to.
    pub preempt: bool,
    /// Whether the decision stands: whether it holds for the task's next wake-ups as well ([`Choice::standing`]).
    pub max_lag: Option<u64>,
}

/// How a task's place in the order changes while it runs. A task whose place is still before that
/// of every ready task when its slice ends gets the same slice again, without a new decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VtimeRate {
    /// Unknown: at the end of its slice the task gives way to whoever is ready.
    #[default]
    GivesWay,
    /// [`Choice::key`] is virtual time: it grows by 100 over the task's weight for each
    /// nanosecond.
    VirtualTime,
}

impl VtimeRate {
    /// The growth of the order for each nanosecond, in units of 1 over [`abi::limits_PACE_ONE`].
    pub(crate) fn per_ns(self, weight: u32) -> u32 {
        match self {
            VtimeRate::GivesWay => 0,
            VtimeRate::VirtualTime => abi::limits_PACE_ONE * DEFAULT_WEIGHT / weight.max(1),
        }
    }
}

impl Choice {
    /// The same choice with a place among the ready tasks.
    pub fn with_key(self, key: u64) -> Choice {
        Choice { key: Some(key), ..self }
    }

    /// The same choice with its place in the order being virtual time, which passes while it runs.
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
}

impl Choice {
    /// The same choice, which stands: if the task goes to sleep within its slice and finds no idle CPU when it wakes up
    /// again, it is ready at once, without a message to the policy and a wait for its answer. Its place in the order is then
    /// the one it had, moved on by what it has used since, and not more than `max_lag` before
    /// [`Context::vtime`]; its slice is the same. So it may wake up for some times (`--standing`, 7 by default) within 100 ms
    /// of the decision, until it uses up its slice, moves to another domain, or changes its weight or affinity; then the policy
    /// is told of it again, with all that it has used meanwhile.
    ///
    /// It takes a choice [at a virtual time](Self::at_virtual_time), without a CPU of its own, and a policy that does not
    /// [decide late](Policy::decides_late); with others it has no effect, and with `--strict` neither.
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
