//! The round of one domain's scheduler: it drains the messages, lets the policy decide, finds a CPU
//! for each decided task, and submits.
//!
//! ```text
//! reclaim, drain, steal ──► policy.enqueue        for every message and every task from a deque
//! give_away ──► public deque                      while another domain has idle CPUs
//! policy.next ──► decision ──► submit             for as many tasks as the policy decides now
//! ```
//!
//! Nothing here makes a system call or allocates. Nothing here knows whether the machine below the
//! [`Seam`] is real.
//!
//! Invariant: a task whose message was drained is in the policy, or in the public deque (or stolen
//! from there), or decided and submitted. At most one is decided and held here, because the ring
//! was full.

use super::board::Board;
use super::lookahead::Lookahead;
use super::message;
use super::placement::Placement;
use super::seam::{ReadGroup, Seam};
use super::sync::Deque;
use crate::abi;
use crate::cpuset::CpuSet;
use crate::ids::DomainId;
use crate::policy::{Context, Policy, Task};
use crate::topology::Domain;
use crate::topology::preference::Place;
use std::sync::Arc;

/// What is left after a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// No task waits for a decision: the thread may sleep.
    Nothing,
    /// Tasks wait that could not or should not be decided now: make another round soon.
    Waiting,
}

/// The scheduler of one domain.
pub struct Scheduler<S> {
    pub(super) seam: S,
    pub(super) policy: Box<dyn Policy>,
    /// [`Policy::decides_late`] and [`Policy::wakeups_preempt`], which never change.
    pub(super) decides_late: bool,
    pub(super) wakeups_preempt: bool,
    /// What the policy sees.
    pub(super) context: Context,
    /// Reads the groups of tasks, if the policy wants them.
    read_group: Option<ReadGroup>,
    pub(super) placement: Placement,
    pub(super) lookahead: Lookahead,
    pub(super) board: Arc<Board>,
    pub(super) deque: Deque<Task>,
    pub(super) nearest: Box<[DomainId]>,
    /// Whether the thread leaves its CPU to tasks when it sleeps.
    pub(super) shares_cpu: bool,
    /// Counts decisions: the key of those whose policy gives none.
    pub(super) sequence: u64,
    /// A decision that found the ring full.
    pub(super) held: Option<abi::decision>,
}

impl<S: Seam> Scheduler<S> {
    /// A scheduler for `domain` that offers tasks the CPUs `usable`, by the steps of `places`.
    /// Those are all CPUs of the domain except one that its thread keeps to itself.
    pub fn new(
        seam: S,
        domain: &Domain,
        places: &[Place],
        usable: CpuSet,
        policy: Box<dyn Policy>,
        board: Arc<Board>,
        deque: Deque<Task>,
    ) -> Self {
        let read_group = policy.wants_groups().then(|| seam.groups());
        Self {
            seam,
            decides_late: policy.decides_late(),
            wakeups_preempt: policy.wakeups_preempt(),
            policy,
            read_group,
            context: Context::new(domain.id, usable),
            placement: Placement::new(domain, places),
            lookahead: Lookahead::new(usable.len()),
            board,
            deque,
            nearest: domain.nearest.clone().into(),
            shares_cpu: usable == domain.cpus,
            sequence: 0,
            held: None,
        }
    }

    /// The machine below.
    pub fn seam(&mut self) -> &mut S {
        &mut self.seam
    }

    /// Whether a task waits that can be decided without a new message.
    pub fn is_waiting(&self) -> bool {
        self.held.is_some() || self.policy.waiting() > 0 || !self.deque.is_empty()
    }

    /// Whether another domain has called this one to steal.
    pub fn is_called(&self) -> bool {
        let me = self.context.domain.index();
        self.board.exchange.as_ref().is_some_and(|exchange| exchange.is_called(me))
    }

    /// Drains all messages and decides. Returns what is left to do.
    pub fn round(&mut self) -> Left {
        self.observe();
        let left_over = self.reclaim();
        self.drain();
        self.steal();
        if !self.submit_held() {
            return Left::Waiting;
        }
        self.decide(!left_over);
        self.board.publish_virtual_time(self.context.domain, self.policy.virtual_time());
        match self.is_waiting() {
            true => Left::Waiting,
            false => Left::Nothing,
        }
    }

    /// Fills the policy's view of the domain.
    fn observe(&mut self) {
        let Self { seam, context, .. } = self;
        context.now_ns = context.now_ns.max(seam.now_ns());
        context.ready = seam.ready();
        context.vtime = seam.vtime();
        context.nr_queued = seam.nr_queued().max(context.ready + seam.pending());
    }

    /// Hands the task of every message to the policy.
    fn drain(&mut self) {
        let Self { seam, policy, context, board, read_group, .. } = self;
        seam.drain(|message| {
            let mut task = message::task(&message, context);
            context.now_ns = context.now_ns.max(task.runnable_at_ns);
            if let Some(read) = read_group
                && let Some(group) = read(task.group_slot)
            {
                context.remember_group(task.group_slot, group);
            }
            if let Some(source) = message::decided_by(&message)
                && source != context.domain
                && let Some(time) = board.virtual_time(source)
            {
                policy.adopt(&mut task, time);
            }
            policy.enqueue(task, context);
        });
    }

    /// Submits what the policy decides now. If no thief came for what was published last time
    /// (`may_give_away` is false), nothing is published again: those thieves may be stopped, and
    /// the tasks have waited.
    fn decide(&mut self, may_give_away: bool) {
        let waiting = self.policy.waiting();
        if waiting == 0 {
            return;
        }
        self.placement.start_batch(self.seam.idle().intersection(&self.context.cpus));
        if may_give_away {
            self.give_away();
        }
        if self.decides_late {
            let idle = self.placement.idle_count();
            self.decide_up_to(self.lookahead.budget(self.context.ready, idle));
            self.lookahead.note(self.context.ready);
        } else {
            self.decide_up_to(waiting);
        }
    }

    /// Submits as many decisions as the policy makes and the ring has room for.
    #[inline]
    fn decide_up_to(&mut self, budget: usize) {
        for _ in 0..budget {
            let Some(choice) = self.policy.next(&self.context) else { return };
            let decision = self.decision(&choice);
            self.context.ready += usize::from(decision.cpu == abi::none_NO_CPU);
            self.held = Some(decision);
            if !self.submit_held() {
                return;
            }
        }
    }

    /// Submits the held decision, if there is one; `false` if the ring is still full.
    fn submit_held(&mut self) -> bool {
        let submitted = self.held.as_ref().is_none_or(|decision| self.seam.submit(decision));
        if submitted {
            self.held = None;
        }
        submitted
    }
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
