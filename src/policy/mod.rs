//! What a scheduling policy is: the one trait between a domain thread and the order in which the
//! tasks of its domain run.
//!
//! A domain thread tells its policy of every task that became runnable and found no idle CPU
//! ([`Policy::enqueue`]) and asks it for the next one to run and for how long ([`Policy::next`]).
//! There is one instance for each domain; instances share nothing. The kernel holds every task all
//! along, so a policy can lose nothing: a task that it forgets is run late, by the safety net.
//!
//! Invariant: a [`Task`] handed to a policy describes one stay in the waiting state. Once decided
//! (or once it has run, moved or died without being asked), the handle is stale, and a decision for
//! it is dropped by the kernel's side and counted.

pub mod deadline;
mod fair;
pub mod fifo;
pub mod kind;
pub mod run_queue;
#[cfg(test)]
pub(crate) mod testing;
pub mod vruntime;

use crate::connector::abi;
use crate::cpuset::CpuSet;
use crate::ids::{CpuId, DomainId, Pid};
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
    /// Share of the CPU it is entitled to: 1 to 10,000, 100 for nice 0.
    pub weight: u32,
    /// The CPU it ran on last.
    pub prev_cpu: CpuId,
    /// Which CPUs it may use; ask [`Context::cpus_of`].
    pub affinity: Affinity,
    /// When it became runnable.
    pub queued_at_ns: u64,
    /// CPU time it used since the policy was last told of it (nanoseconds), but for what it used
    /// while nobody else wanted the CPU.
    pub used_ns: u64,
    /// CPU time it used since it last slept (nanoseconds).
    pub burst_ns: u64,
    /// Voluntary context switches since the policy was last told of it.
    pub voluntary_switches: u32,
    /// Time since the policy was last told of it (nanoseconds); 0 the first time.
    pub since_last_ns: u64,
    /// Whether it may run on every CPU of the machine, so that another domain may take it.
    pub anywhere: bool,
    /// Whether it woke up (or was just created), rather than used up its slice.
    pub wakeup: bool,
    /// The policy's own memory of the task: what it left here with its last decision comes back
    /// with the next [`Policy::enqueue`], in whatever domain that is. Zero for a new task.
    pub memo: Memo,
    /// The kernel's totals at this message; the framework's, to tell what is new in the next.
    pub told: Told,
}

/// The kernel's totals of a task when its domain was told of it. Opaque to a policy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told {
    pub(crate) used_ns: u64,
    pub(crate) switches: u64,
}

/// What a policy wants to remember of a task between two decisions.
pub type Memo = [u64; 2];

/// Which CPUs of its domain a task may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// Every CPU of the domain.
    Whole,
    /// One CPU only.
    One(CpuId),
    /// Some of them; the key of [`Context::cpus_of`].
    Part {
        /// Where the set is remembered.
        slot: u16,
        /// Tells whether it still is.
        tag: u32,
    },
}

impl Task {
    /// A new, nameless task of nice 0 that may use the whole domain and has used nothing yet: the
    /// start for tests and simulations, which set the fields that matter to them.
    pub fn new(pid: Pid) -> Task {
        Task {
            pid,
            seq: 0,
            comm: [0; 16],
            weight: DEFAULT_WEIGHT,
            prev_cpu: CpuId(0),
            affinity: Affinity::Whole,
            queued_at_ns: 0,
            used_ns: 0,
            burst_ns: 0,
            voluntary_switches: 0,
            since_last_ns: 0,
            anywhere: true,
            wakeup: true,
            memo: Memo::default(),
            told: Told::default(),
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

    /// A decision to run this task for a time, with everything else left to the framework.
    pub fn run_for(self, slice: Duration) -> Choice {
        Choice { task: self, slice, order: None, pace: Pace::default(), cpu: None }
    }
}

/// A policy's answer: run this task next.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// The task, with the memo to be kept for it.
    pub task: Task,
    /// How long it may run before it is asked to give way.
    pub slice: Duration,
    /// Its place among the ready tasks of the domain: lower runs earlier (compared as the kernel
    /// compares time stamps, so that it may wrap around). `None`: in the order of the decisions.
    /// A policy uses either all `Some` or all `None`.
    pub order: Option<u64>,
    /// What happens at the end of the slice while others are ready.
    pub pace: Pace,
    /// The CPU the policy wants it on. `None`: the framework looks for an idle one.
    pub cpu: Option<CpuId>,
}

/// How a task's place in the order changes while it runs. A task whose place is still before that
/// of every ready task when its slice ends gets the same slice again, without a new decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// Unknown: at the end of its slice the task gives way to whoever is ready.
    #[default]
    GivesWay,
    /// [`Choice::order`] is virtual time: it grows by 100 over the task's weight for each
    /// nanosecond.
    VirtualTime,
}

impl Pace {
    /// The growth of the order for each nanosecond, in units of 1 over [`abi::limits_PACE_ONE`].
    pub(crate) fn per_ns(self, weight: u32) -> u32 {
        match self {
            Pace::GivesWay => 0,
            Pace::VirtualTime => abi::limits_PACE_ONE * DEFAULT_WEIGHT / weight.max(1),
        }
    }
}

impl Choice {
    /// The same choice with a place among the ready tasks.
    pub fn ordered_by(self, order: u64) -> Choice {
        Choice { order: Some(order), ..self }
    }

    /// The same choice with its place in the order being virtual time, which passes while it runs.
    pub fn at_virtual_time(self, order: u64) -> Choice {
        Choice { pace: Pace::VirtualTime, ..self.ordered_by(order) }
    }

    /// The same choice on a preferred CPU.
    pub fn on(self, cpu: CpuId) -> Choice {
        Choice { cpu: Some(cpu), ..self }
    }
}

/// The options that every policy has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slices {
    /// The slice of a task that nobody waits behind.
    pub base: Duration,
    /// No slice is shorter.
    pub min: Duration,
}

impl Slices {
    /// The slice for a task while `waiting` others wait: `base / (waiting + 1)`, at least `min`.
    pub fn shared_by(&self, waiting: usize) -> Duration {
        let parts = u32::try_from(waiting).unwrap_or(u32::MAX - 1).saturating_add(1);
        (self.base / parts).max(self.min)
    }
}

/// What a policy may ask of its domain while it enqueues or decides.
pub trait Context {
    /// The domain.
    fn domain(&self) -> DomainId;
    /// The CPUs of the domain.
    fn cpus(&self) -> &CpuSet;
    /// The CPUs of the domain that the task may use. Where a set had to be forgotten, that is all
    /// CPUs of the domain; the kernel's side checks every decision.
    fn cpus_of(&self, task: &Task) -> CpuSet;
    /// Now, on the clock of [`Task::queued_at_ns`]: the time of the newest message, or of the domain
    /// thread's last activation if that is later.
    fn now_ns(&self) -> u64;
    /// How many tasks of the domain are decided and not yet running.
    fn ready(&self) -> usize;
}

/// An order of execution.
///
/// All methods are called on the domain's own thread, which is what keeps a domain's tasks waiting:
/// they must not block, and must not allocate without bound (memory comes from a fixed arena of the
/// domain). A policy that does is late, and the kernel's safety net runs tasks meanwhile.
pub trait Policy: Send {
    /// A task became runnable and waits for a decision.
    fn enqueue(&mut self, task: Task, context: &dyn Context);

    /// The task to run next, or `None` if none waits (or if the policy wants to hold them back; it
    /// is asked again soon).
    fn next(&mut self, context: &dyn Context) -> Option<Choice>;

    /// How many tasks wait for a decision of this policy.
    fn waiting(&self) -> usize;

    /// Whether the policy wants to choose at the last moment: it is then asked for no more tasks
    /// than the CPUs can take soon. Otherwise everything that waits is decided at once, and the
    /// ready tasks are kept in the order of [`Choice::order`].
    fn decides_late(&self) -> bool {
        false
    }

    /// Where the domain's virtual time stands; published, so that a task that comes from another
    /// domain can be placed relative to both. A policy without virtual time leaves it 0.
    fn virtual_time(&self) -> u64 {
        0
    }

    /// Gives up a waiting task that `may` accepts, preferably the one it would run last: another
    /// domain has an idle CPU for it. `None` if there is none, or if the policy keeps its tasks.
    fn give_away(&mut self, _may: &mut dyn FnMut(&Task) -> bool) -> Option<Task> {
        None
    }

    /// A task last decided in another domain, whose virtual time is `source`, arrives in this one,
    /// or one that was given away there undecided: mend its memo. Called before [`Policy::enqueue`].
    fn adopt(&mut self, _task: &mut Task, _source: u64) {}
}
