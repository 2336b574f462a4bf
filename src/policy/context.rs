//! What a policy sees of its domain.
//!
//! Invariant: a context is plain data. The domain's scheduler fills it before it calls the policy,
//! and nothing in it changes during the call.

use super::affinity::Affinities;
use super::group::Groups;
use crate::cpuset::CpuSet;
use crate::ids::{CpuId, DomainId};
use crate::policy::{Affinity, Group, Task};
#[cfg(doc)]
use crate::policy::{Choice, Policy, VtimeRate};
use std::time::Duration;

/// A domain as a policy sees it while it enqueues or decides. The tests of a policy make one of
/// their own and set the fields that matter to them:
///
/// ```
/// use scx_manyland::ids::Pid;
/// use scx_manyland::policy::{Choice, Context, Policy, Task, fifo::Fifo};
/// use std::time::Duration;
///
/// let mut four_cpus = Context::with_cpus(4);
/// four_cpus.ready = 3;
/// let mut policy = Fifo::new(Duration::from_millis(5));
/// policy.enqueue(Task::new(Pid(1)), &four_cpus);
/// assert_eq!(policy.next(&four_cpus).map(|choice| choice.task.pid), Some(Pid(1)));
/// ```
#[derive(Clone, Debug)]
pub struct Context {
    /// The number of the domain.
    pub domain: DomainId,
    /// The CPUs of the domain that tasks may use.
    pub cpus: CpuSet,
    /// Now, in nanoseconds, on the clock of [`Task::runnable_at_ns`]: the time of the newest
    /// message, or of the domain thread's last activation if that is later. It never goes back.
    pub now_ns: u64,
    /// How many tasks of the domain are decided and not yet running. A hint.
    pub ready: usize,
    /// The domain's virtual time: the largest [`Choice::key`] of all tasks that have begun to run
    /// by a decision, as time stamps compare; 0 while none has.
    ///
    /// Under a policy that keeps virtual time ([`VtimeRate::VirtualTime`]) it also grows by what
    /// tasks used without a decision, divided by the weights of all that wanted to run.
    pub vtime: u64,
    /// How many tasks of the domain were ready or waiting when the kernel's side last counted them,
    /// which it does five times a second. If more are ready or have messages in the ring now, it is
    /// their number. A hint.
    pub nr_queued: usize,
    /// The CPU sets of tasks that may use some CPUs only.
    affinities: Affinities,
    /// The groups of tasks.
    groups: Groups,
}

impl Context {
    /// A domain that has these CPUs, at time 0, in which no task is ready.
    pub fn new(domain: DomainId, cpus: CpuSet) -> Context {
        let affinities = Affinities::new();
        let groups = Groups::new();
        Context { domain, cpus, now_ns: 0, ready: 0, vtime: 0, nr_queued: 0, affinities, groups }
    }

    /// Domain 0 with the CPUs 0 to `count` - 1, at time 0, in which no task is ready.
    ///
    /// # Panics
    /// If `count` is more than [`MAX_CPUS`](crate::cpuset::MAX_CPUS).
    pub fn with_cpus(count: u32) -> Context {
        Context::new(DomainId(0), (0..count).map(CpuId).collect())
    }

    /// The CPUs of the domain that the task may use. It is all of them where the table of sets had
    /// no room for the task's; the kernel's side checks every decision.
    pub fn cpus_of(&self, task: &Task) -> CpuSet {
        match task.affinity {
            Affinity::One(cpu) => [cpu].into_iter().collect(),
            _ => self.part(task.affinity).copied().unwrap_or(self.cpus),
        }
    }

    /// How long the task has waited since it became runnable.
    pub fn waited(&self, task: &Task) -> Duration {
        Duration::from_nanos(self.now_ns.saturating_sub(task.runnable_at_ns))
    }

    /// The [`Task::affinity`] of a task that may use `cpus` only, as far as they are in the domain.
    /// The set replaces another where the table has no room.
    pub fn restrict_to(&mut self, cpus: &CpuSet) -> Affinity {
        self.affinities.remember(cpus.intersection(&self.cpus))
    }

    /// The cgroup of a task, as it was at the last message of one of its tasks. `None` if the policy
    /// does not [want it](Policy::wants_groups), if the cgroup is gone, or if the table of cgroups
    /// had no room for all that have tasks.
    pub fn group_of(&self, task: &Task) -> Option<&Group> {
        self.groups.recall(task.group_slot)
    }

    /// From now on, tasks with this [`Task::group_slot`] are of a cgroup. The domain's scheduler calls
    /// it; a policy's tests do so too.
    pub fn remember_group(&mut self, slot: u32, group: Group) {
        self.groups.remember(slot, group);
    }

    /// The set of an [`Affinity::Part`], unless another set has replaced it.
    #[inline]
    pub(crate) fn part(&self, affinity: Affinity) -> Option<&CpuSet> {
        match affinity {
            Affinity::Part { slot, tag } => self.affinities.recall(slot, tag),
            Affinity::Whole | Affinity::One(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Pid;

    #[test]
    fn tells_how_long_a_task_has_waited() {
        let mut context = Context::with_cpus(3);
        context.now_ns = 5_000;
        let mut task = Task::new(Pid(1));
        task.runnable_at_ns = 2_000;
        assert_eq!(context.waited(&task), Duration::from_nanos(3_000));
        task.runnable_at_ns = 9_000;
        assert_eq!(context.waited(&task), Duration::ZERO);
    }

    #[test]
    fn tells_which_cpus_a_task_may_use() {
        let mut context = Context::with_cpus(3);
        let mut task = Task::new(Pid(1));
        assert_eq!(context.cpus_of(&task), context.cpus);
        task.affinity = Affinity::One(CpuId(2));
        assert_eq!(context.cpus_of(&task), [CpuId(2)].into_iter().collect());
        task.affinity = context.restrict_to(&[CpuId(1), CpuId(2), CpuId(7)].into_iter().collect());
        assert_eq!(context.cpus_of(&task), [CpuId(1), CpuId(2)].into_iter().collect());
        task.affinity = Affinity::Part { slot: 0, tag: 1 };
        assert_eq!(context.cpus_of(&task), context.cpus, "another set has replaced it");
    }
}
