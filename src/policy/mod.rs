//! What a scheduling policy is: the one trait between a domain thread and the order in which the
//! tasks of its domain run.
//!
//! # The life of a policy
//!
//! There is one instance for each domain, made, used and dropped on that domain's own thread
//! (`manyland/0`, `manyland/1` ...), so a policy needs no locks, and instances share nothing. The
//! thread sleeps until tasks wait; then it makes a round:
//!
//! ```text
//! adopt ─► enqueue      for each task that became runnable and found no idle CPU
//! give_away             while this domain is overloaded and another has idle CPUs
//! next                  until it answers None (with `decides_late`: for as many as the CPUs take soon)
//! virtual_time, waiting at the end
//! ```
//!
//! and yields if `waiting` is not 0, or sleeps.
//!
//! # What it sees and what it decides
//!
//! A [`Task`] tells who waits (pid, name, cgroup, weight), what it used and how often it gave up the
//! CPU, where it ran, where it may run, and since when it waits. A [`Choice`] says which task runs
//! next, for how long, in which place of the order, on which CPU, and whether what runs there is to
//! give way at once. What is to be known of a task later goes into its [`Memo`]: that travels with
//! the task, also to another domain, and is the only thing that does.
//!
//! # What it cannot break
//!
//! The kernel holds every task all along and checks each decision: a task runs on a CPU that its
//! affinity allows or it is not carried out (counted as `bounced`; the task waits on and the policy is
//! told of it again). A task that is decided for twice, or after it has gone, makes a decision that is
//! dropped (counted as `stale`). A policy that is slow, or that forgets a task, is helped out by the
//! safety net: a CPU of the domain that has nothing decided to run for longer than the domain
//! thread's patience (`--patience-us`, 1000 microseconds by default) runs the waiting tasks by itself,
//! least run time for its weight first (counted as `late`). Where CPUs always have something decided
//! the net is not asked; there a task that has waited for some three seconds goes first for one slice,
//! whatever the policy says, because the kernel's watchdog ends a scheduler that lets one starve.
//!
//! Invariant: a [`Task`] handed to a policy describes one stay in the waiting state. Once decided
//! (or once it has run, moved or died without being asked), the handle is stale, and a decision for
//! it is dropped by the kernel's side and counted.

pub mod deadline;
mod fair;
pub mod fifo;
mod fixed;
pub mod kind;
pub mod run_queue;
#[cfg(test)]
pub(crate) mod testing;
pub mod vruntime;

pub use fixed::FixedContext;

use crate::abi;
use crate::cpuset::CpuSet;
use crate::ids::{CgroupId, CpuId, DomainId, Pid};
use crate::topology::Domain;
use std::sync::Arc;
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
    pub queued_at_ns: u64,
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
    pub told: Told,
}

/// The kernel's totals of a task when its domain was told of it. Opaque to a policy.
#[doc(hidden)]
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
            cgroup: CgroupId(0),
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

    /// Voluntary context switches a second since the policy was last told of the task; 0 for a new
    /// one. It covers the time since then only: a policy that wants an average keeps it in the
    /// [`Memo`], as [`vruntime`] does.
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
            order: None,
            pace: Pace::default(),
            cpu: None,
            preempt: false,
            reach: None,
        }
    }
}

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
    pub order: Option<u64>,
    /// What happens at the end of the slice while others are ready.
    pub pace: Pace,
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
    pub reach: Option<u64>,
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
    /// the one it had, moved on by what it has used since, and not more than `reach` before
    /// [`Context::front`]; its slice is the same. So it may wake up for some times (`--standing`, 7 by default) within 100 ms
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
    /// assert_eq!(choice.reach, Some(5_000_000));
    /// ```
    pub fn standing(self, reach: u64) -> Choice {
        Choice { reach: Some(reach), ..self }
    }
}

/// The options that every policy has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slices {
    /// The slice of a task that nobody waits behind (`--slice-us`).
    pub base: Duration,
    /// No slice is shorter (`--slice-min-us`).
    pub min: Duration,
}

/// What a policy is made for.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Setup<'a> {
    /// The domain whose tasks it will decide for: its CPUs, cores, kinds of core and NUMA node. With
    /// `--dedicate` one of these CPUs is the thread's own; [`Context::cpus`] leaves it out.
    pub domain: &'a Domain,
    /// The slices that the user has chosen.
    pub slices: Slices,
}

impl<'a> Setup<'a> {
    /// For a domain, with these slices.
    pub fn new(domain: &'a Domain, slices: Slices) -> Setup<'a> {
        Setup { domain, slices }
    }
}

impl Slices {
    /// The slice for a task while `waiting` others wait: `base / (waiting + 1)`, at least `min`.
    pub fn shared_by(&self, waiting: usize) -> Duration {
        let parts = u32::try_from(waiting).unwrap_or(u32::MAX - 1).saturating_add(1);
        (self.base / parts).max(self.min)
    }
}

/// Makes the policy of a domain, on the domain's thread.
pub(crate) type MakePolicy = Arc<dyn Fn(&Setup<'_>) -> Box<dyn Policy> + Send + Sync>;

/// What a policy may ask of its domain while it enqueues or decides. Nothing here makes a system
/// call. [`FixedContext`] is one for tests.
pub trait Context {
    /// The domain.
    fn domain(&self) -> DomainId;
    /// The CPUs of the domain that tasks may be put on.
    fn cpus(&self) -> &CpuSet;
    /// The CPUs of the domain that the task may use. Where a set had to be forgotten, that is all
    /// CPUs of the domain; the kernel's side checks every decision.
    fn cpus_of(&self, task: &Task) -> CpuSet;
    /// Now, on the clock of [`Task::queued_at_ns`]: the time of the newest message, or of the domain
    /// thread's last activation if that is later.
    fn now_ns(&self) -> u64;
    /// How many tasks of the domain are decided and not yet running.
    fn ready(&self) -> usize;
    /// The domain's front: the largest place in the order ([`Choice::order`]) of all tasks that have begun to run by a
    /// decision, as time stamps compare; 0 while none has. Under a policy that keeps virtual time ([`Pace::VirtualTime`]) it moves on as
    /// well by what tasks used that ran late, without a decision: divided by the weights of all that wanted to run.
    fn front(&self) -> u64;
    /// How many tasks of the domain were ready or waiting when the kernel's side looked last, which it does five times a second,
    /// or, if those are more, how many are ready now or have messages that the policy is yet to be told of.
    fn queued(&self) -> usize;
    /// How long the task has waited in this stay.
    fn waited(&self, task: &Task) -> Duration {
        Duration::from_nanos(self.now_ns().saturating_sub(task.queued_at_ns))
    }
}

/// An order of execution.
///
/// All methods are called on the domain's own thread, in the order that the [module](self) tells,
/// while tasks of the domain wait. So in all of them:
///
/// - No blocking: no lock that another thread may hold, no file, no sleep, no printing, no system
///   call. News from elsewhere come through something that is read without waiting (an atomic, a
///   triple buffer).
/// - No allocation without bound. Memory comes from an arena of 2 MiB that the domain has, locked and
///   touched before anything is scheduled: collections are best made with their capacity, and may
///   grow to thousands of tasks. What the arena has no room for comes from the program's common heap,
///   behind a lock.
/// - Work in proportion to the logarithm of the number of tasks, not to the number.
///
/// A policy that does otherwise is late: the kernel's safety net runs the tasks that wait meanwhile,
/// without the policy's order, and the statistics count them as `late` and the decisions that come
/// afterwards as `stale`. A panic ends the program with its message; the kernel's own scheduler is
/// then back.
///
/// The shortest complete policy is in the [documentation of the crate](crate).
pub trait Policy: Send {
    /// A task became runnable, found no idle CPU, and waits for a decision: the policy keeps it until
    /// it decides or gives it away. If the safety net has run a task meanwhile, it can become
    /// runnable again while the policy still has it from before: the same pid, another
    /// [`Task::seq`]. Deciding for the older one does no harm.
    fn enqueue(&mut self, task: Task, context: &dyn Context);

    /// The task to run next, or `None` if none waits (or if the policy wants to hold them back; it
    /// is asked again soon).
    fn next(&mut self, context: &dyn Context) -> Option<Choice>;

    /// How many tasks wait for a decision of this policy. While it is not 0 the domain thread asks
    /// again and again; when it is, the thread sleeps until the next task comes.
    fn waiting(&self) -> usize;

    /// Whether the policy wants to choose at the last moment: it is then asked for no more tasks
    /// than the CPUs can take soon. Otherwise everything that waits is decided at once, and the
    /// ready tasks are kept in the order of [`Choice::order`].
    fn decides_late(&self) -> bool {
        false
    }

    /// Where the domain's virtual time stands, in the units of [`Choice::order`]; published, so that
    /// a task that comes from another domain can be placed relative to both. A policy without
    /// virtual time leaves it 0.
    fn virtual_time(&self) -> u64 {
        0
    }

    /// Gives up a waiting task that `may` accepts, preferably the one it would run last: another
    /// domain has an idle CPU for it. `None` if there is none, or if the policy keeps its tasks: then
    /// an idle CPU of another domain can still run what is decided here and ready.
    fn give_away(&mut self, _may: &mut dyn FnMut(&Task) -> bool) -> Option<Task> {
        None
    }

    /// A task last decided in another domain, whose virtual time is `source`, arrives in this one,
    /// or one that was given away there undecided: mend its memo. Called before [`Policy::enqueue`].
    fn adopt(&mut self, _task: &mut Task, _source: u64) {}
}
