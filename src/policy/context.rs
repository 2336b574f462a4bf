//! What a policy may ask of its domain.

use crate::cpuset::CpuSet;
use crate::ids::DomainId;
use crate::policy::Task;
use std::time::Duration;

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
