//! Weighted virtual time: what the policies that share the CPU in the ratio of weights have in
//! common. They differ only in the key under which a task waits.
//!
//! A task's vruntime is the CPU time it has used, times 100, over its weight, so that tasks whose
//! vruntimes advance together use CPU time in the ratio of their weights: stride scheduling
//! (Waldspurger and Weihl, 1995), as in the kernel's CFS. A policy may order tasks by a key
//! somewhat before or behind the vruntime. As the key is only where a task waits, and the vruntime
//! is what it pays, that moves *when* a task runs and not how much.
//!
//! The domain's virtual time, its front, is the largest key of all tasks that have started to run
//! (start-time fair queueing; Goyal, Vin and Cheng, 1996), which the kernel's side tells ([`Context::vtime`]). "Started"
//! rather than "decided" matters with look-ahead: a light task's key lies far ahead, and were the front to follow it on its
//! decision, the heavy tasks that run before it would return behind the front and lose what they
//! are owed. What tasks use without a decision, while the thread is late or stopped, moves the front as well, by the share
//! of it that each would have got. Otherwise those who were there would wait afterwards for as long as that took, behind
//! those who came when it was over.
//!
//! A decision for a task that has just woken up stands ([`Choice::standing`]): on its next wake-ups the kernel's side moves
//! the key on by what the task has used, and keeps it within the same distance of the front as is done here.
//!
//! Invariant: a task waits with a vruntime in a window around the front,
//!
//! ```text
//!   front - latest - credit - overtaken  <=  vruntime  <=  front + lead
//! ```
//!
//! - `credit`: who sleeps is owed one base slice at most, however long the sleep was. In a crowd it is less, in inverse proportion to
//!   the number of waiting tasks: whoever has none waits for the credits of all that have one, each used up in many turns.
//! - `latest`: how far behind its vruntime the policy may put a key at most. A task that never
//!   slept may wait that far behind the front with nothing owed to it.
//! - `overtaken`: two base slices and a tick of virtual time for a task that has not slept since the policy was
//!   told of it last, nothing for others. While it ran on one CPU of several, others of a larger key may have started,
//!   since tasks that run are not in the queue when the next one is chosen; what it is owed for that is no sleeper's
//!   credit. (Without it, tasks of more than average weight lose up to a tenth of their share on four CPUs.)
//! - `lead`: two base slices and a tick, for the task's weight, and once more for the lightest weight
//!   there is. While others wait nobody runs further ahead in one go: a task goes on
//!   ([`VtimeRate::VirtualTime`]) until it has passed the first that is ready, which may be a light one
//!   that has just run. The kernel's side does not charge what is used while nobody waits.
//!
//! So a task with key `k` waits until the others have moved past `k`, for which each has at most
//! `credit + overtaken + lead` (and the policy's own shift of keys) left: the wait is bounded in proportion to
//! the number of tasks, whatever they did before. And all keys lie within a few hundred base slices
//! of each other, so that virtual time may wrap around.
//!
//! A new task starts one minimal slice behind the front, whatever it has run without a decision before, and its first slice is a
//! minimal one: it has paid beforehand for what it gets. Without that a chain of tasks, each of which creates the
//! next and ends, would stay at the front for ever and starve everybody; with it the chain moves
//! the front like one task that goes on, and a storm of new tasks is like so many old ones.

use crate::abi;
#[cfg(doc)]
use crate::policy::VtimeRate;
use crate::policy::run_queue::{Cyclic, RESERVED, RunQueue};
use crate::policy::{Choice, Context, DEFAULT_WEIGHT, Slices, Task};
use std::time::Duration;

/// The longest tick of a kernel (HZ=100): how much longer than its slice a task may run.
const TICK_NS: u64 = 10_000_000;

/// The smallest weight of a task.
const LIGHTEST: u32 = 1;

/// From so many waiting tasks for each CPU on they are a crowd.
pub(super) const CROWD_PER_CPU: u64 = abi::limits_CROWD_PER_CPU as u64;

/// No slice counts as longer, which keeps all sums far from overflow.
const LONGEST: Duration = Duration::from_secs(100);

/// In the second word of the memo: the first word is a vruntime.
const KNOWN: u64 = 1 << 63;
/// In the second word of the memo: the task has not been decided since it was created.
const NEW: u64 = 1 << 62;
/// The bits of the second word of the memo that are the policy's.
pub(super) const NOTE: u64 = NEW - 1;

/// The waiting tasks of a domain and the account of what each has used.
///
/// It keeps the first word of a task's [`Memo`](crate::policy::Memo) (the vruntime) and the two
/// highest bits of the second; the rest, [`NOTE`], belongs to the policy.
pub(super) struct FairQueue {
    waiting: RunQueue,
    vtime: u64,
    latest_ns: u64,
    slices: Slices,
}

impl FairQueue {
    /// An empty queue of a policy whose keys lie at most `latest_ns` of virtual time behind the
    /// vruntime.
    pub fn new(slices: Slices, latest_ns: u64) -> FairQueue {
        FairQueue { waiting: RunQueue::with_capacity(RESERVED), vtime: 0, latest_ns, slices }
    }

    /// The same queue with its virtual time somewhere else.
    #[cfg(test)]
    pub fn starting_at(self, vtime: u64) -> FairQueue {
        FairQueue { vtime, ..self }
    }

    /// Charges the task for what it used, brings its vruntime into the window around the front and
    /// returns it. What is charged is zeroed, so that a task that moves to another domain while it
    /// waits does not pay twice.
    pub fn charge(&mut self, task: &mut Task, context: &Context) -> u64 {
        self.follow(context);
        if task.memo[1] & KNOWN == 0 {
            let head_start = virtual_ns(nanos(self.slices.min).max(1), task.weight);
            task.memo = [self.vtime.wrapping_add(head_start), KNOWN | NEW];
            // It may have lived for long: that was before this front, which has gone on meanwhile.
            task.used_ns = 0;
        }
        let lead_ns = 2 * nanos(self.slices.base.max(self.slices.min)) + TICK_NS;
        let lead = virtual_ns(lead_ns, task.weight) + virtual_ns(lead_ns, LIGHTEST);
        let used = virtual_ns(std::mem::take(&mut task.used_ns), task.weight).min(lead);
        let vruntime = task.memo[0].wrapping_add(used);
        let slept = task.wakeup || task.voluntary_switches > 0;
        let overtaken = if slept { 0 } else { lead_ns };
        let credit = match slept {
            true => self.credit(task.weight, context),
            false => self.favour(self.base_ns(), task.weight),
        };
        let behind = self.latest_ns + credit + overtaken;
        let least = self.vtime.wrapping_sub(behind);
        let most = self.vtime.wrapping_add(lead);
        task.memo[0] = Cyclic(vruntime).max(Cyclic(least)).min(Cyclic(most)).0;
        task.memo[0]
    }

    /// Lets a charged task wait at a key.
    pub fn push(&mut self, key: u64, task: Task) {
        self.waiting.push(key, task);
    }

    /// The task with the smallest key and its slice. All that are ready wait for the CPU as much as
    /// those that wait for a decision do, so they shorten the slice too.
    pub fn next(&mut self, context: &Context) -> Option<Choice> {
        self.follow(context);
        let (key, mut task) = self.waiting.pop_min()?;
        let slice = if task.memo[1] & NEW != 0 {
            task.memo[1] &= !NEW;
            self.slices.min
        } else {
            self.slices.shared_by(self.waiting.len() + context.ready)
        };
        let choice = task.run_for(slice).at_virtual_time(key);
        // Who wakes up often soon does again; who uses up slices has the policy look at it each time.
        Some(match task.wakeup {
            true => choice
                .standing(self.latest_ns + self.credit(task.weight, context) + boost(&task, key)),
            false => choice,
        })
    }

    /// The task with the largest key that `may` accepts.
    pub fn give_away(&mut self, may: &mut dyn FnMut(&Task) -> bool) -> Option<Task> {
        self.waiting.take_last(may).map(|(_, task)| task)
    }

    /// How many tasks wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The domain's virtual time.
    pub fn vtime(&self) -> u64 {
        self.vtime
    }

    /// Takes a task over from a domain whose front is at `source`.
    pub fn adopt(&self, task: &mut Task, source: u64) {
        if task.memo[1] & KNOWN != 0 {
            task.memo[0] = task.memo[0].wrapping_sub(source).wrapping_add(self.vtime);
        }
    }

    /// A time as a shift of a key that is no more than this time, neither in virtual time (so a
    /// light task is not shifted past everybody) nor in CPU time of the task (so a heavy task is
    /// not either).
    pub fn favour(&self, ns: u64, weight: u32) -> u64 {
        virtual_ns(ns, weight.max(DEFAULT_WEIGHT))
    }

    /// One base slice (nanoseconds).
    pub fn base_ns(&self) -> u64 {
        nanos(self.slices.base)
    }

    /// How many tasks wait for a CPU, and from how many on they are a crowd.
    pub fn crowd(&self, context: &Context) -> (u64, u64) {
        let few = CROWD_PER_CPU * context.cpus.len().max(1) as u64;
        ((self.len() + context.ready) as u64, few)
    }

    /// How far before the front the vruntime of a task that has slept may lie, but for what the policy adds. When many
    /// messages come at once, the first of them are of the crowd that the last ones make, so those that are yet to come count as well:
    /// the first would be owed more, and go before whoever wakes up a little later.
    fn credit(&self, weight: u32, context: &Context) -> u64 {
        let (waiting, few) = self.crowd(context);
        let waiting = waiting.max(context.nr_queued as u64);
        self.favour(self.base_ns() * few / waiting.max(few), weight)
    }

    fn follow(&mut self, context: &Context) {
        self.vtime = Cyclic(context.vtime).max(Cyclic(self.vtime)).0;
    }
}

/// How far before its vruntime a task waits.
fn boost(task: &Task, key: u64) -> u64 {
    (task.memo[0].wrapping_sub(key) as i64).max(0) as u64
}

/// CPU time of a task of a weight as virtual time, which is CPU time of a task of nice 0.
fn virtual_ns(ns: u64, weight: u32) -> u64 {
    ns.saturating_mul(u64::from(DEFAULT_WEIGHT)) / u64::from(weight.max(1))
}

/// A slice in nanoseconds.
pub(super) fn nanos(slice: Duration) -> u64 {
    slice.min(LONGEST).as_nanos() as u64
}
