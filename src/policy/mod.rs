//! What a scheduling policy is: the trait between a domain thread and the choice of the task that
//! runs next.
//!
//! # The life of a policy
//!
//! Each domain has one instance. The domain's own thread (`manyland/0`, `manyland/1` ...) makes it,
//! calls it and drops it, so a policy needs no locks, and instances share nothing. The thread
//! sleeps until tasks wait; then it makes a round:
//!
//! ```text
//! adopt ─► enqueue      for each task that became runnable and found no idle CPU
//! give_away             while this domain is overloaded and another has idle CPUs
//! next                  until it returns None (with `decides_late`: for as many as the CPUs
//!                       will start soon)
//! virtual_time, waiting at the end
//! ```
//!
//! The thread then yields if `waiting` is not 0, and sleeps otherwise.
//!
//! # What it sees and what it decides
//!
//! - A [`Task`] is what the policy sees of a waiting task: pid, name, cgroup and weight; what it
//!   used and how often it gave up the CPU; where it ran and where it may run; since when it waits.
//! - A [`Context`] is what the policy sees of its domain: CPUs, time, counts, virtual time,
//!   and the cgroups of tasks, if it wants them ([`Policy::wants_groups`]).
//! - A [`Choice`] is the answer: which task runs next, for how long, at which key, on which CPU,
//!   and whether the task on that CPU gives way at once.
//! - A [`Memo`] is what the policy wants to remember of the task. It is the only state that moves
//!   with a task to another domain.
//!
//! # What it cannot break
//!
//! The kernel holds every task all along and checks each decision.
//!
//! - A CPU that the task's affinity forbids: the kernel bounces the decision (counter `bounced`),
//!   the task waits on, and the policy is notified of it again.
//! - A second decision for a task, or one for a task that has gone: the kernel drops it (counter
//!   `stale`).
//! - A slow policy, or one that forgets a task: the safety net helps out. A CPU of the domain that
//!   has had no decided task for longer than the domain thread's patience (`--patience-us`, 1000
//!   microseconds by default) runs waiting tasks by itself, the one with the least run time for its
//!   weight first (counter `late`).
//! - A policy that starves a task while CPUs always have something decided: a task that has waited
//!   for about three seconds runs for one slice, whatever the policy says. Otherwise the kernel's
//!   watchdog would end the scheduler.
//!
//! Invariant: a [`Task`] that is handed to a policy describes one generation: from the moment the
//! task became runnable until it runs, moves or dies. After that the handle is stale: the kernel's
//! side drops a decision for it and counts it.

mod affinity;
mod choice;
mod context;
pub mod deadline;
mod fair;
pub mod fifo;
mod group;
pub mod kind;
pub mod run_queue;
mod setup;
mod task;
#[cfg(test)]
pub(crate) mod testing;
pub mod vruntime;

pub use affinity::Affinity;
pub use choice::{Choice, VtimeRate};
pub use context::Context;
pub use group::{Group, Limit};
pub use setup::{Setup, Slices};
#[doc(hidden)]
pub use task::Totals;
pub use task::{DEFAULT_WEIGHT, Memo, Task};

use std::sync::Arc;

/// Makes the policy of a domain, on the domain's thread.
pub(crate) type MakePolicy = Arc<dyn Fn(&Setup<'_>) -> Box<dyn Policy> + Send + Sync>;

/// A scheduling policy: which of the waiting tasks of a domain runs next.
///
/// The domain's own thread calls all methods, in the sequence that the [module](self) shows, while
/// tasks of the domain wait. So for all of them:
///
/// - No blocking: no lock that another thread may hold, no file, no sleep, no printing, no system
///   call. News from elsewhere come through something that is read without waiting (an atomic, a
///   triple buffer).
/// - No allocation without bound. Memory comes from an arena of 2 MiB that the domain has, locked
///   and touched before anything is scheduled: collections are best made with their capacity, and
///   may grow to thousands of tasks. What the arena has no room for comes from the program's common
///   heap, behind a lock.
/// - Work in proportion to the logarithm of the number of tasks, not to the number.
///
/// A policy that breaks these rules is slow. The safety net then runs the waiting tasks by itself;
/// the statistics count them as `late`, and the decisions that come afterwards as `stale`.
///
/// # Panics
/// A panic in a policy ends the program with its message; the kernel's own scheduler is then back.
///
/// The shortest complete policy is in the [documentation of the crate](crate).
pub trait Policy: Send {
    /// A task became runnable, found no idle CPU, and waits for a decision. The policy keeps it
    /// until it decides or gives it away. If the safety net has run the task meanwhile, it can
    /// become runnable again while the policy still keeps it from before: the same pid, another
    /// [`Task::seq`]. A decision for the older one does no harm.
    fn enqueue(&mut self, task: Task, context: &Context);

    /// The task to run next. `None` if none waits, or if the policy holds its tasks back: the
    /// thread asks again soon.
    fn next(&mut self, context: &Context) -> Option<Choice>;

    /// How many tasks wait for a decision of this policy. While it is not 0 the domain thread asks
    /// again and again; when it is, the thread sleeps until the next task comes.
    fn waiting(&self) -> usize;

    /// Whether the policy wants to choose at the last moment: the thread then asks for no more
    /// tasks than the CPUs will start soon. Otherwise it asks for everything that waits, and the
    /// kernel's side keeps the ready tasks sorted by [`Choice::key`]. Asked once.
    fn decides_late(&self) -> bool {
        false
    }

    /// Whether a task that wakes up may make a running one give way, if its key comes before the key
    /// that the running one has come to. The kernel's side compares the two by itself, for tasks
    /// whose last [`Choice`] was [at a virtual time](Choice::at_virtual_time): at once if the
    /// decision still [stands](Choice::standing), otherwise as soon as the domain thread has decided,
    /// for which it then has a CPU at once.
    ///
    /// A policy says so if its keys tell who needs the CPU more at any moment, not only when a slice
    /// ends: `vruntime` and `deadline` do, `fifo` does not. What gives way keeps the rest of its
    /// slice. It does so after a protected run, for tasks that run briefly, and as often as a budget
    /// allows; with `--no-preempt` it never does. Asked once.
    fn wakeups_preempt(&self) -> bool {
        false
    }

    /// Whether [`Context::group_of`] tells of the cgroups of tasks. What it tells is read for each
    /// task, so it costs a policy that does not ask nothing.
    fn wants_groups(&self) -> bool {
        false
    }

    /// The domain's virtual time, in the units of [`Choice::key`]. The scheduler publishes it, so
    /// that [`Policy::adopt`] can convert the memo of a task that comes from another domain. A
    /// policy without virtual time leaves it 0.
    fn virtual_time(&self) -> u64 {
        0
    }

    /// Gives up a waiting task that `may` accepts, preferably the one it would run last: another
    /// domain has an idle CPU for it. `None` if there is none, or if the policy keeps its tasks. An
    /// idle CPU of another domain can still run what is decided here and ready.
    fn give_away(&mut self, _may: &mut dyn FnMut(&Task) -> bool) -> Option<Task> {
        None
    }

    /// Converts the memo of a task that arrives from another domain, whose virtual time is
    /// `source`. The other domain either decided for the task last, or gave it away undecided. The
    /// scheduler calls it before [`Policy::enqueue`].
    fn adopt(&mut self, _task: &mut Task, _source: u64) {}
}
