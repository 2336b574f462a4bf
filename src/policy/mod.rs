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

mod affinity;
mod choice;
mod context;
pub mod deadline;
mod fair;
pub mod fifo;
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
pub use setup::{Setup, Slices};
#[doc(hidden)]
pub use task::Totals;
pub use task::{DEFAULT_WEIGHT, Memo, Task};

use std::sync::Arc;

/// Makes the policy of a domain, on the domain's thread.
pub(crate) type MakePolicy = Arc<dyn Fn(&Setup<'_>) -> Box<dyn Policy> + Send + Sync>;

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
    fn enqueue(&mut self, task: Task, context: &Context);

    /// The task to run next, or `None` if none waits (or if the policy wants to hold them back; it
    /// is asked again soon).
    fn next(&mut self, context: &Context) -> Option<Choice>;

    /// How many tasks wait for a decision of this policy. While it is not 0 the domain thread asks
    /// again and again; when it is, the thread sleeps until the next task comes.
    fn waiting(&self) -> usize;

    /// Whether the policy wants to choose at the last moment: it is then asked for no more tasks
    /// than the CPUs can take soon. Otherwise everything that waits is decided at once, and the
    /// ready tasks are kept in the order of [`Choice::key`].
    fn decides_late(&self) -> bool {
        false
    }

    /// Where the domain's virtual time stands, in the units of [`Choice::key`]; published, so that
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
