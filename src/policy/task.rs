//! A task that waits for a decision.

use crate::ids::{CgroupId, CpuId, Pid};
use crate::policy::{Affinity, Choice, VtimeRate};
#[cfg(doc)]
use crate::policy::{Context, Policy};
use std::time::Duration;

/// The weight of a task of nice 0. The kernel's sched_ext weights go from 1 to 10,000.
pub const DEFAULT_WEIGHT: u32 = 100;

/// A task that waits for a decision, as its domain thread knows it.
///
/// Times are in nanoseconds of the kernel's scheduling clock.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    /// The task's number.
    pub pid: Pid,
    /// Tells this stay in the waiting state from any other of the same pid. Opaque.
    pub seq: u64,
    /// The first 15 bytes of the task's name and a zero, as in `/proc/PID/comm`.
    pub comm: [u8; 16],
    /// The cgroup it is in.
    pub cgroup: CgroupId,
    /// Share of the CPU it is entitled to: 1 to 10,000, 100 ([`DEFAULT_WEIGHT`]) for nice 0.
    pub weight: u32,
    /// The CPU it ran on last.
    pub prev_cpu: CpuId,
    /// Which CPUs it may use; ask [`Context::cpus_of`].
    pub affinity: Affinity,
    /// When it became runnable; [`Context::waited`] tells how long ago that is.
    pub runnable_at_ns: u64,
    /// CPU time it used since the policy was last told of it (nanoseconds), but for what it used
    /// while nobody else wanted the CPU.
    pub used_ns: u64,
    /// CPU time it used since it last slept (nanoseconds).
    pub burst_ns: u64,
    /// Voluntary context switches (it went to sleep) since the policy was last told of it; 0 the
    /// first time. [`Task::voluntary_switch_rate`] has it by the second.
    pub voluntary_switches: u32,
    /// Time since the policy was last told of it, but for what it has waited for a CPU: in which it
    /// ran or slept (nanoseconds); 0 the first time.
    pub since_last_ns: u64,
    /// Whether it may run on every CPU of the machine, so that another domain may take it.
    pub anywhere: bool,
    /// Whether it woke up (or was just created), rather than used up its slice.
    pub wakeup: bool,
    /// The policy's own memory of the task: what it left here with its last decision comes back
    /// with the next [`Policy::enqueue`], in whatever domain that is. Zero for a new task.
    pub memo: Memo,
    /// The kernel's totals at this message; the framework's, to tell what is new in the next.
    #[doc(hidden)]
    pub totals: Totals,
}

/// The kernel's totals of a task when its domain was told of it. Opaque to a policy.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub(crate) used_ns: u64,
    pub(crate) switches: u64,
}

/// What a policy wants to remember of a task between two decisions.
pub type Memo = [u64; 2];

impl Task {
    /// A new, nameless task of nice 0 that may use the whole domain and has used nothing yet: the
    /// start for tests and simulations, which set the fields that matter to them.
    pub fn new(pid: Pid) -> Task {
        Task {
            pid,
            seq: 0,
            comm: [0; 16],
            cgroup: CgroupId(0),
            weight: DEFAULT_WEIGHT,
            prev_cpu: CpuId(0),
            affinity: Affinity::Whole,
            runnable_at_ns: 0,
            used_ns: 0,
            burst_ns: 0,
            voluntary_switches: 0,
            since_last_ns: 0,
            anywhere: true,
            wakeup: true,
            memo: Memo::default(),
            totals: Totals::default(),
        }
    }

    /// The task's name, as in `/proc/PID/comm`; bytes that are not UTF-8 end it.
    pub fn name(&self) -> &str {
        let end = self.comm.iter().position(|&b| b == 0).unwrap_or(self.comm.len());
        match std::str::from_utf8(&self.comm[..end]) {
            Ok(name) => name,
            Err(e) => std::str::from_utf8(&self.comm[..e.valid_up_to()]).unwrap_or_default(),
        }
    }

    /// Voluntary context switches a second since the policy was last told of the task; 0 for a new
    /// one. It covers the time since then only: a policy that wants an average keeps it in the
    /// [`Memo`], as [`vruntime`](crate::policy::vruntime) does.
    ///
    /// ```
    /// use scx_manyland::{ids::Pid, policy::Task};
    /// let mut task = Task::new(Pid(1));
    /// assert_eq!(task.voluntary_switch_rate(), 0.0);
    /// (task.voluntary_switches, task.since_last_ns) = (3, 500_000_000);
    /// assert_eq!(task.voluntary_switch_rate(), 6.0);
    /// ```
    pub fn voluntary_switch_rate(&self) -> f64 {
        match self.since_last_ns {
            0 => 0.0,
            ns => f64::from(self.voluntary_switches) * 1e9 / ns as f64,
        }
    }

    /// A decision to run this task for a time, with everything else left to the framework. The
    /// kernel takes slices of 1 ns to 1 s and bounces others; it looks at a slice's end at its ticks
    /// (every 1 to 10 ms, by its configuration) and whenever something else happens on the CPU.
    pub fn run_for(self, slice: Duration) -> Choice {
        Choice {
            task: self,
            slice,
            key: None,
            vtime_rate: VtimeRate::default(),
            cpu: None,
            preempt: false,
            max_lag: None,
        }
    }
}
