//! A task that waits for a decision.

use crate::abi;
use crate::ids::{CgroupId, CpuId, Pid};
use crate::policy::{Affinity, Choice, VtimeRate};
#[cfg(doc)]
use crate::policy::{Context, Policy};
use std::time::Duration;

/// The weight of a task of nice 0. The kernel's sched_ext weights go from 1 to 10,000.
pub const DEFAULT_WEIGHT: u32 = abi::WEIGHT_NICE_0;

/// A task that waits for a decision, as its domain thread knows it.
///
/// Times are in nanoseconds of the kernel's scheduling clock. What is "new" covers the time since
/// the last decision for the task that the kernel's side carried out.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    /// The task's number.
    pub pid: Pid,
    /// The generation: tells this wait from every other wait of the same pid. Opaque.
    pub seq: u64,
    /// The first 15 bytes of the task's name and a zero, as in `/proc/PID/comm`.
    pub comm: [u8; 16],
    /// The cgroup it is in.
    pub cgroup: CgroupId,
    /// Its share of the CPU, in proportion to the weights of others: 100 ([`DEFAULT_WEIGHT`]) for
    /// nice 0, 1 to 10,000 where there are no cgroups, up to 1,000,000 where there are. It is an
    /// effective weight then: its own one, times what makes those of all tasks of its group add up
    /// to the group's share (`docs/cgroups.md`).
    pub weight: u32,
    /// The CPU it ran on last.
    pub prev_cpu: CpuId,
    /// Which CPUs it may use; ask [`Context::cpus_of`].
    pub affinity: Affinity,
    /// The virtual time of the tasks that may use the same CPUs only, if it may not use all of the
    /// domain's; as [`Context::vtime`] otherwise, and never ahead of that.
    pub vtime: Option<u64>,
    /// When it became runnable; [`Context::waited`] tells how long ago that is.
    pub runnable_at_ns: u64,
    /// New CPU time (nanoseconds), without what it used while no other task wanted the CPU. In
    /// cgroups the weight may not be exact, and this is larger or smaller by as much.
    pub used_ns: u64,
    /// CPU time it used since it last slept (nanoseconds).
    pub burst_ns: u64,
    /// New voluntary context switches (it went to sleep); 0 the first time.
    /// [`Task::voluntary_switch_rate`] is the same per second.
    pub voluntary_switches: u32,
    /// How long it ran or slept since the last decision, without its waits for a CPU (nanoseconds);
    /// 0 the first time.
    pub since_last_ns: u64,
    /// Whether it may run on every CPU of the machine, so that another domain may steal it.
    pub anywhere: bool,
    /// Whether it woke up (or was just created), rather than used up its slice.
    pub wakeup: bool,
    /// The policy's own memory of the task: what it left here with its last decision comes back
    /// with the next [`Policy::enqueue`], in whatever domain that is. Zero for a new task.
    pub memo: Memo,
    /// The kernel's totals at this message. The framework carries them along with the decision, and
    /// subtracts them from the totals of the next message.
    #[doc(hidden)]
    pub totals: Totals,
    /// Where the kernel's side keeps its cgroup; ask [`Context::group_of`].
    pub group_slot: u32,
}

/// The kernel's totals of a task at a message. Opaque to a policy.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub(crate) used_ns: u64,
    pub(crate) switches: u64,
}

/// What a policy wants to remember of a task between two decisions.
pub type Memo = [u64; abi::limits_MEMO_WORDS as usize];

impl Task {
    /// A new, nameless task of nice 0 that may use the whole domain and has used nothing yet. Tests
    /// and simulations start from it and set the fields that matter to them.
    pub fn new(pid: Pid) -> Task {
        Task {
            pid,
            seq: 0,
            comm: [0; 16],
            cgroup: CgroupId(0),
            weight: DEFAULT_WEIGHT,
            prev_cpu: CpuId(0),
            affinity: Affinity::Whole,
            vtime: None,
            runnable_at_ns: 0,
            used_ns: 0,
            burst_ns: 0,
            voluntary_switches: 0,
            since_last_ns: 0,
            anywhere: true,
            wakeup: true,
            memo: Memo::default(),
            totals: Totals::default(),
            group_slot: 0,
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

    /// Voluntary context switches per second since the last decision for the task; 0 for a new
    /// task. A policy that wants an average over a longer time keeps it in the [`Memo`], as
    /// [`vruntime`](crate::policy::vruntime) does.
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

    /// A choice to run this task for a time, with everything else left to the framework.
    ///
    /// The kernel's side accepts slices of 1 ns to 1 s and bounces others. The kernel checks the
    /// end of a slice at its ticks (every 1 to 10 ms, by its configuration) and whenever something
    /// else happens on the CPU.
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
