//! Weighted virtual time: the account of CPU time that the policies share which divide the CPU in
//! the ratio of weights. They differ only in the key at which a task waits.
//!
//! A task's **vruntime** is the CPU time it has used, times 100, over its weight. Tasks whose
//! vruntimes advance together use CPU time in the ratio of their weights: stride scheduling
//! (Waldspurger and Weihl, 1995), as in the kernel's CFS. A policy may put a task at a key somewhat
//! before or behind its vruntime. The key is only where the task waits, and the vruntime is what it
//! pays. So a shifted key moves *when* the task runs and not how much.
//!
//! The domain's **virtual time** is the largest key of all tasks that have started to run:
//! start-time fair queueing (SFQ; Goyal, Vin and Cheng, 1996). The kernel's side keeps it
//! ([`Context::vtime`]).
//!
//! - "Started" rather than "decided" matters with lookahead. A light task's key lies far ahead. If
//!   the virtual time followed the light task at its decision, the heavy tasks that run before it
//!   would come back behind the virtual time and lose their lag.
//! - CPU time without a decision, while the domain thread is slow or stopped, advances the virtual
//!   time too, by the share of it that each task would have got. Otherwise the tasks that were
//!   there would afterwards wait just as long, behind those that came when it was over.
//!
//! Tasks that may use some CPUs of the domain only have a virtual time of their own ([`Task::vtime`]),
//! kept in the same way. It lags behind the domain's where many of them crowd on these CPUs. By the
//! domain's, all of them would have the most lag there is, and their weights would count for nothing.
//!
//! A decision for a task that has just woken up stands ([`Choice::standing`]). On the task's next
//! wake-ups the kernel's side advances the key by what the task has used, and keeps it within the
//! same distance of the virtual time as this file does.
//!
//! Invariant: a task waits with a vruntime in a window around the virtual time,
//!
//! ```text
//!   vtime - latest - credit - overtaken  <=  vruntime  <=  vtime + lead
//! ```
//!
//! - `credit`: a sleeper has one base slice of lag at most, however long it slept. (SFQ allows it
//!   none.) In a crowd the credit is in inverse proportion to the number of waiting tasks: a task
//!   without credit waits for the credits of all that have one, each used up in many runs.
//! - `latest`: how far behind its vruntime the policy may put a key at most. A task that never
//!   slept may wait that far behind the virtual time, without lag.
//! - `overtaken`: two base slices and a tick of virtual time for a task that has not slept since
//!   its last decision, nothing for others. While it ran on one of several CPUs, others with larger
//!   keys may have started, since a running task is not in the queue when the next one is chosen.
//!   Its lag from that is no sleeper's credit. Without this term, tasks of more than average weight
//!   lose up to a tenth of their share on four CPUs.
//! - `lead`: two base slices and a tick, for the task's weight, and once more for the lightest
//!   weight there is. While others wait no task runs further ahead in one go. A task continues
//!   ([`VtimeRate::VirtualTime`]) until its key has passed that of the first ready task, which may
//!   be a light one that has just run. The kernel's side does not charge what a task uses while no
//!   other waits.
//!
//! So a task with key `k` waits until the others have moved past `k`. Each of them has at most
//! `credit + overtaken + lead`, and the policy's own shift of keys, left until then. The wait is
//! bounded in proportion to the number of tasks, whatever they did before. All keys lie within a
//! few hundred base slices of each other, so virtual time may wrap around.
//!
//! A new task starts one minimal slice behind the virtual time, whatever it has run without a
//! decision before, and its first slice is a minimal one: it has paid in advance for what it gets.
//! Without that, a chain of tasks, each of which creates the next and ends, would always run at the
//! virtual time and starve all others. With it the chain advances the virtual time like one task
//! that continues, and a storm of new tasks is like as many old ones.

use crate::abi;
#[cfg(doc)]
use crate::policy::VtimeRate;
use crate::policy::run_queue::{Cyclic, RESERVED, RunQueue};
use crate::policy::{Choice, Context, DEFAULT_WEIGHT, Slices, Task};
use std::time::Duration;

/// How much longer than its slice a task may run: the longest tick of a kernel (HZ=100).
const TICK_NS: u64 = 10_000_000;

/// The smallest weight of a task.
const LIGHTEST: u32 = 1;

/// How many waiting tasks for each CPU make a crowd.
pub(super) const CROWD_PER_CPU: u64 = abi::limits_CROWD_PER_CPU as u64;

/// The longest slice that counts: it keeps all sums far from overflow.
const LONGEST: Duration = Duration::from_secs(100);

/// A bit of the memo's second word: the first word is a vruntime.
const KNOWN: u64 = 1 << 63;
/// A bit of the memo's second word: no decision has been made for the task yet.
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

    /// The same queue at another virtual time.
    #[cfg(test)]
    pub fn starting_at(self, vtime: u64) -> FairQueue {
        FairQueue { vtime, ..self }
    }

    /// Charges the task for what it used, brings its vruntime into the window around the virtual
    /// time and returns it. It zeroes what it charges, so that a task that moves to another domain
    /// while it waits does not pay twice.
    pub fn charge(&mut self, task: &mut Task, context: &Context) -> u64 {
        self.advance(context);
        if task.memo[1] & KNOWN == 0 {
            self.introduce(task);
        }
        let lead = virtual_ns(self.lead_ns(), task.weight) + virtual_ns(self.lead_ns(), LIGHTEST);
        let used = virtual_ns(std::mem::take(&mut task.used_ns), task.weight).min(lead);
        let vruntime = Cyclic(task.memo[0].wrapping_add(used));
        let vtime = self.vtime_for(task);
        let least = Cyclic(vtime.wrapping_sub(self.behind(task, context)));
        let most = Cyclic(vtime.wrapping_add(lead));
        task.memo[0] = vruntime.max(least).min(most).0;
        task.memo[0]
    }

    /// Starts a new task one minimal slice behind the virtual time.
    fn introduce(&self, task: &mut Task) {
        let head_start = virtual_ns(nanos(self.slices.min).max(1), task.weight);
        task.memo = [self.vtime_for(task).wrapping_add(head_start), KNOWN | NEW];
        // What it used before is of no account here: the virtual time has grown meanwhile.
        task.used_ns = 0;
    }

    /// How far a task may run ahead in one go (nanoseconds): two base slices and a tick.
    fn lead_ns(&self) -> u64 {
        2 * nanos(self.slices.base.max(self.slices.min)) + TICK_NS
    }

    /// How far before the virtual time a task's vruntime may lie.
    fn behind(&self, task: &Task, context: &Context) -> u64 {
        let slept = task.wakeup || task.voluntary_switches > 0;
        self.latest_ns
            + match slept {
                true => self.credit(task.weight, context),
                false => self.favour(self.base_ns(), task.weight) + self.lead_ns(),
            }
    }

    /// Queues a charged task at a key.
    pub fn push(&mut self, key: u64, task: Task) {
        self.waiting.push(key, task);
    }

    /// The task with the smallest key and its slice. Ready tasks wait for a CPU just as those do
    /// that wait for a decision, so they shorten the slice too.
    pub fn next(&mut self, context: &Context) -> Option<Choice> {
        self.advance(context);
        let (key, mut task) = self.waiting.pop_min()?;
        let slice = if task.memo[1] & NEW != 0 {
            task.memo[1] &= !NEW;
            self.slices.min
        } else {
            self.slices.shared_by(self.waiting.len() + context.ready)
        };
        let choice = task.run_for(slice).at_virtual_time(key);
        // A task that wakes up often soon does again. One that uses up its slices gets a new
        // decision each time.
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

    /// Converts the vruntime of a task that comes from a domain whose virtual time is `source`.
    pub fn adopt(&self, task: &mut Task, source: u64) {
        if task.memo[1] & KNOWN != 0 {
            task.memo[0] = task.memo[0].wrapping_sub(source).wrapping_add(self.vtime);
        }
    }

    /// A time (nanoseconds) as a shift of a key. The shift is at most this time, both in virtual
    /// time, so that a light task does not pass all others, and in the task's CPU time, so that a
    /// heavy task does not either.
    pub fn favour(&self, ns: u64, weight: u32) -> u64 {
        virtual_ns(ns, weight.max(DEFAULT_WEIGHT))
    }

    /// One base slice (nanoseconds).
    pub fn base_ns(&self) -> u64 {
        nanos(self.slices.base)
    }

    /// How many tasks wait for a CPU, and how many make a crowd.
    pub fn crowd(&self, context: &Context) -> (u64, u64) {
        let few = CROWD_PER_CPU * context.cpus.len().max(1) as u64;
        ((self.len() + context.ready) as u64, few)
    }

    /// How far before the virtual time the vruntime of a task that has slept may lie, without what
    /// the policy adds. Messages that are still in the ring count as well. When many come at once,
    /// the first would otherwise get more credit than the last, and run before tasks that wake up a
    /// little later.
    fn credit(&self, weight: u32, context: &Context) -> u64 {
        let (waiting, few) = self.crowd(context);
        let waiting = waiting.max(context.nr_queued as u64);
        self.favour(self.base_ns() * few / waiting.max(few), weight)
    }

    /// The virtual time of the tasks that this one competes with.
    fn vtime_for(&self, task: &Task) -> u64 {
        task.vtime.unwrap_or(self.vtime)
    }

    /// Advances the virtual time to that of the kernel's side.
    fn advance(&mut self, context: &Context) {
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
