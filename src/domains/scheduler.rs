//! One domain's scheduler: takes what was queued, lets the policy decide, places each task, submits.
//!
//! ```text
//! take back, take, steal ──► policy.enqueue       for every message
//! share ──► public deque                          while another domain has idle CPUs
//! policy.next ──► place ──► submit for as many as the policy decides now
//! ```
//!
//! Nothing here makes a system call or allocates. Nothing here knows whether the machine below the
//! [`Seam`] is real.
//!
//! Invariant: a task that was taken is in the policy, or in the public deque (or stolen from there),
//! or decided and submitted, or (one at most) held here because the queue was full.

use super::handover::Exchange;
use super::lookahead::Lookahead;
use super::placement::Placement;
use super::seam::Seam;
use super::sync::Deque;
use crate::abi;
use crate::cpuset::CpuSet;
use crate::domains::seam::Message;
use crate::ids::{CgroupId, CpuId, DomainId, Pid};
use crate::policy::{Affinity, Choice, Context, Policy, Task, Told};
use crate::topology::Domain;
use crate::topology::preference::Place;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the schedulers of all domains let each other see.
pub struct Board {
    /// Where each domain's virtual time stands.
    virtual_times: Box<[AtomicU64]>,
    /// The public deques; `None` where domains do not steal.
    exchange: Option<Exchange<Task>>,
}

impl Board {
    /// For so many domains, which steal from each other or not; and the deque of each.
    pub fn new(domains: usize, steal: bool) -> (Arc<Self>, Vec<Deque<Task>>) {
        let (exchange, deques) = Exchange::new(domains);
        let board = Self {
            virtual_times: (0..domains).map(|_| AtomicU64::new(0)).collect(),
            exchange: (steal && domains > 1).then_some(exchange),
        };
        (Arc::new(board), deques)
    }

    fn virtual_time(&self, domain: DomainId) -> Option<u64> {
        Some(self.virtual_times.get(domain.index())?.load(Ordering::Relaxed))
    }
}

/// What is left after a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// No task waits for a decision: the thread may sleep.
    Nothing,
    /// Tasks wait that could not or should not be decided now: look again soon.
    Waiting,
}

/// The scheduler of one domain.
pub struct Scheduler<S> {
    seam: S,
    policy: Box<dyn Policy>,
    /// What the policy sees.
    context: Context,
    placement: Placement,
    lookahead: Lookahead,
    board: Arc<Board>,
    deque: Deque<Task>,
    nearest: Box<[DomainId]>,
    /// Whether the thread leaves its CPU to tasks when it has nothing to do.
    shares_cpu: bool,
    /// Counts decisions: the order of those whose policy gives none.
    sequence: u64,
    /// A decision that found the queue full.
    held: Option<abi::decided>,
}

/// The task that a message tells of.
fn task(message: &Message<'_>, context: &mut Context) -> Task {
    let queued = message.queued();
    let carried = &queued.carried;
    let cpu = CpuId(queued.cpu);
    let affinity = match message {
        Message::Part(part) => context.restrict_to(&CpuSet::from_words(part.cpus)),
        Message::Plain(_) if has(queued.flags, abi::queued_flags_QUEUED_BOUND) => {
            Affinity::One(cpu)
        }
        Message::Plain(_) => Affinity::Whole,
    };
    let known = carried.at_ns != 0;
    Task {
        pid: Pid(queued.pid as i32),
        seq: queued.seq,
        comm: queued.comm.map(|c| c as u8),
        cgroup: CgroupId(queued.cgroup),
        weight: queued.weight,
        prev_cpu: cpu,
        affinity,
        queued_at_ns: queued.at_ns,
        used_ns: queued.used_ns.wrapping_sub(carried.used_ns),
        burst_ns: queued.burst_ns,
        voluntary_switches: match known {
            true => queued.switches.wrapping_sub(carried.switches) as u32,
            false => 0,
        },
        since_last_ns: match known {
            true => queued.at_ns.saturating_sub(carried.at_ns),
            false => 0,
        },
        anywhere: has(queued.flags, abi::queued_flags_QUEUED_ANYWHERE),
        wakeup: has(queued.flags, abi::queued_flags_QUEUED_WAKEUP),
        memo: carried.memo,
        told: Told { used_ns: queued.used_ns, switches: queued.switches },
    }
}

fn has(flags: u16, flag: u32) -> bool {
    u32::from(flags) & flag != 0
}

impl<S: Seam> Scheduler<S> {
    /// A scheduler for `domain` that offers tasks the CPUs `usable` (all of the domain's, but for
    /// one that its thread keeps to itself) in the order of `places`.
    pub fn new(
        seam: S,
        domain: &Domain,
        places: &[Place],
        usable: CpuSet,
        policy: Box<dyn Policy>,
        board: Arc<Board>,
        deque: Deque<Task>,
    ) -> Self {
        Self {
            seam,
            policy,
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

    /// Whether a task waits for a decision that could be taken without a new message.
    pub fn is_waiting(&self) -> bool {
        self.held.is_some() || self.policy.waiting() > 0 || !self.deque.is_empty()
    }

    /// Whether another domain has called this one to steal.
    pub fn is_called(&self) -> bool {
        let me = self.context.domain.index();
        self.board.exchange.as_ref().is_some_and(|exchange| exchange.is_called(me))
    }

    /// Takes all messages and decides. Answers what is left to do.
    pub fn round(&mut self) -> Left {
        self.observe();
        let left_over = self.take_back();
        self.take();
        self.steal();
        if !self.submit_held() {
            return Left::Waiting;
        }
        self.decide(!left_over);
        self.board.virtual_times[self.context.domain.index()]
            .store(self.policy.virtual_time(), Ordering::Relaxed);
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
        context.front = seam.front();
        context.queued = seam.queued().max(context.ready + seam.pending());
    }

    fn take(&mut self) {
        let Self { seam, policy, context, board, .. } = self;
        seam.take(|message| {
            let mut task = task(&message, context);
            context.now_ns = context.now_ns.max(task.queued_at_ns);
            let decided_by = message.queued().decided_by;
            if decided_by != abi::none_NO_DOMAIN as u16 {
                let source = DomainId(u32::from(decided_by));
                if source != context.domain
                    && let Some(time) = board.virtual_time(source)
                {
                    policy.adopt(&mut task, time);
                }
            }
            policy.enqueue(task, context);
        });
    }

    /// Takes back what was published and nobody has stolen; whether there was any.
    fn take_back(&mut self) -> bool {
        let mut any = false;
        while let Some(task) = self.deque.take_back() {
            self.policy.enqueue(task, &self.context);
            any = true;
        }
        any
    }

    /// Takes tasks of other domains, nearest first, for CPUs that have nothing to do here.
    fn steal(&mut self) {
        let Some(exchange) = &self.board.exchange else { return };
        let me = self.context.domain.index();
        if !exchange.is_called(me) {
            return;
        }
        exchange.answer(me);
        let idle = self.seam.idle().intersection(&self.context.cpus).len();
        // The CPU that this thread is on will be idle too, unless something is ready for it.
        let own = usize::from(self.shares_cpu && self.context.ready == 0);
        let mut room = (idle + own).saturating_sub(self.policy.waiting());
        for &victim in &self.nearest {
            let source = self.board.virtual_times[victim.index()].load(Ordering::Relaxed);
            while room > 0
                && let Some(mut task) = exchange.steal(victim.index())
            {
                room -= 1;
                self.policy.adopt(&mut task, source);
                self.policy.enqueue(task, &self.context);
            }
        }
    }

    /// Publishes tasks that find no idle CPU here for domains that have one, and calls those.
    fn share(&mut self) {
        let Some(exchange) = &self.board.exchange else { return };
        let mut surplus = self.policy.waiting().saturating_sub(self.placement.idle_count());
        for &thief in &self.nearest {
            if surplus == 0 {
                return;
            }
            let idle = self.seam.idle_in(thief);
            let mut published = 0;
            while published < idle.min(surplus)
                && self.deque.len() < Deque::<Task>::CAPACITY
                && let Some(task) = self.policy.give_away(&mut |task| task.anywhere)
            {
                self.deque.publish(task);
                published += 1;
            }
            if published > 0 {
                exchange.call(thief.index(), || self.seam.call(thief));
            } else if idle > 0 {
                return;
            }
            surplus -= published;
        }
    }

    /// Places and submits what the policy decides now. Where nobody came for what was published last
    /// time, nothing is published again: those thieves may be stopped, and the tasks have waited.
    fn decide(&mut self, may_share: bool) {
        let waiting = self.policy.waiting();
        if waiting == 0 {
            return;
        }
        self.placement.start_batch(self.seam.idle().intersection(&self.context.cpus));
        if may_share {
            self.share();
        }
        let late = self.policy.decides_late();
        let mut budget = match late {
            true => self.lookahead.budget(self.context.ready, self.placement.idle_count()),
            false => waiting,
        };
        while budget > 0
            && let Some(choice) = self.policy.next(&self.context)
        {
            budget -= 1;
            let decision = self.place(&choice);
            self.context.ready += usize::from(decision.cpu == abi::none_NO_CPU);
            self.held = Some(decision);
            if !self.submit_held() {
                break;
            }
        }
        if late {
            self.lookahead.note(self.context.ready);
        }
    }

    /// Turns a choice into a decision with a CPU, if there is an idle one.
    fn place(&mut self, choice: &Choice) -> abi::decided {
        let task = &choice.task;
        let allowed = self.context.part(task.affinity);
        let preempt = if choice.preempt { abi::decided_flags_DECIDED_PREEMPT } else { 0 };
        let stands = match choice.reach {
            Some(_) if !choice.preempt && !self.policy.decides_late() => {
                abi::decided_flags_DECIDED_STANDS
            }
            _ => 0,
        };
        let (cpu, flags) = match (task.affinity, choice.cpu) {
            (Affinity::One(cpu), _) | (_, Some(cpu)) => (cpu.0, preempt),
            _ => match self.placement.take(task.prev_cpu, allowed) {
                Some(cpu) => (cpu.0, abi::decided_flags_DECIDED_IDLE),
                None => (abi::none_NO_CPU, 0),
            },
        };
        self.sequence += 1;
        abi::decided {
            seq: task.seq,
            slice_ns: u64::try_from(choice.slice.as_nanos()).unwrap_or(u64::MAX),
            order: choice.order.unwrap_or(self.sequence),
            pid: task.pid.0 as u32,
            cpu,
            flags: flags | stands,
            domain: self.context.domain.0,
            pace: choice.pace.per_ns(task.weight),
            unused: 0,
            reach: choice.reach.unwrap_or(0),
            carried: abi::carried {
                memo: task.memo,
                used_ns: task.told.used_ns,
                switches: task.told.switches,
                at_ns: task.queued_at_ns,
            },
        }
    }

    /// Submits the held decision, if there is one; `false` if the queue is still full.
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
