//! One domain's scheduler: takes what was queued, lets the policy decide, places each task, submits.
//!
//! ```text
//! take ──► policy.enqueue          for every message
//! policy.next ──► place ──► submit for as many as the policy decides now
//! ```
//!
//! Nothing here makes a system call or allocates. Nothing here knows whether the machine below the
//! [`Seam`] is real.
//!
//! Invariant: a task that was taken is in the policy, or decided and submitted, or (one at most)
//! held here because the queue was full.

use super::affinity::Affinities;
use super::lookahead::Lookahead;
use super::placement::Placement;
use super::preference::Place;
use super::seam::Seam;
use crate::connector::abi;
use crate::connector::rings::Message;
use crate::cpuset::CpuSet;
use crate::ids::{CpuId, DomainId, Pid};
use crate::policy::{Affinity, Choice, Context, Policy, Task, Told};
use crate::topology::Domain;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the schedulers of all domains let each other see.
pub struct Board {
    /// Where each domain's virtual time stands.
    virtual_times: Box<[AtomicU64]>,
}

impl Board {
    /// For so many domains.
    pub fn new(domains: usize) -> Arc<Self> {
        Arc::new(Self { virtual_times: (0..domains).map(|_| AtomicU64::new(0)).collect() })
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
    view: View,
    placement: Placement,
    lookahead: Lookahead,
    board: Arc<Board>,
    /// Counts decisions: the order of those whose policy gives none.
    sequence: u64,
    /// A decision that found the queue full.
    held: Option<abi::decided>,
}

/// What a policy may see of its domain.
struct View {
    domain: DomainId,
    cpus: CpuSet,
    affinities: Affinities,
    now_ns: u64,
    ready: usize,
}

impl Context for View {
    fn domain(&self) -> DomainId {
        self.domain
    }

    fn cpus(&self) -> &CpuSet {
        &self.cpus
    }

    fn cpus_of(&self, task: &Task) -> CpuSet {
        match task.affinity {
            Affinity::Whole => self.cpus,
            Affinity::One(cpu) => [cpu].into_iter().collect(),
            Affinity::Part { slot, tag } => {
                self.affinities.recall(slot, tag).copied().unwrap_or(self.cpus)
            }
        }
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn ready(&self) -> usize {
        self.ready
    }
}

impl View {
    /// The task that a message tells of.
    fn task(&mut self, message: &Message<'_>) -> Task {
        let queued = message.queued();
        let carried = &queued.carried;
        let cpu = CpuId(queued.cpu);
        let affinity = match message {
            Message::Part(part) => {
                self.affinities.remember(CpuSet::from_words(part.cpus).intersection(&self.cpus))
            }
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
            wakeup: has(queued.flags, abi::queued_flags_QUEUED_WAKEUP),
            memo: carried.memo,
            told: Told { used_ns: queued.used_ns, switches: queued.switches },
        }
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
    ) -> Self {
        Self {
            seam,
            policy,
            view: View {
                domain: domain.id,
                cpus: usable,
                affinities: Affinities::new(),
                now_ns: 0,
                ready: 0,
            },
            placement: Placement::new(domain, places),
            lookahead: Lookahead::new(usable.len()),
            board,
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
        self.held.is_some() || self.policy.waiting() > 0
    }

    /// Takes all messages and decides. Answers what is left to do.
    pub fn round(&mut self) -> Left {
        self.view.now_ns = self.view.now_ns.max(self.seam.now_ns());
        self.view.ready = self.seam.ready();
        self.take();
        if !self.submit_held() {
            return Left::Waiting;
        }
        self.decide();
        self.board.virtual_times[self.view.domain.index()]
            .store(self.policy.virtual_time(), Ordering::Relaxed);
        match self.is_waiting() {
            true => Left::Waiting,
            false => Left::Nothing,
        }
    }

    fn take(&mut self) {
        let Self { seam, policy, view, board, .. } = self;
        seam.take(|message| {
            let mut task = view.task(&message);
            view.now_ns = view.now_ns.max(task.queued_at_ns);
            let decided_by = message.queued().decided_by;
            if decided_by != abi::none_NO_DOMAIN as u16 {
                let source = DomainId(u32::from(decided_by));
                if source != view.domain
                    && let Some(time) = board.virtual_time(source)
                {
                    policy.adopt(&mut task, time);
                }
            }
            policy.enqueue(task, view);
        });
    }

    fn decide(&mut self) {
        let waiting = self.policy.waiting();
        if waiting == 0 {
            return;
        }
        self.placement.start_batch(self.seam.idle().intersection(&self.view.cpus));
        let late = self.policy.decides_late();
        let mut budget = match late {
            true => self.lookahead.budget(self.view.ready, self.placement.idle_count()),
            false => waiting,
        };
        while budget > 0
            && let Some(choice) = self.policy.next(&self.view)
        {
            budget -= 1;
            let decision = self.place(&choice);
            self.view.ready += usize::from(decision.cpu == abi::none_NO_CPU);
            self.held = Some(decision);
            if !self.submit_held() {
                break;
            }
        }
        if late {
            self.lookahead.note(self.view.ready);
        }
    }

    /// Turns a choice into a decision with a CPU, if there is an idle one.
    fn place(&mut self, choice: &Choice) -> abi::decided {
        let task = &choice.task;
        let allowed = match task.affinity {
            Affinity::Part { slot, tag } => self.view.affinities.recall(slot, tag),
            _ => None,
        };
        let (cpu, flags) = match (task.affinity, choice.cpu) {
            (Affinity::One(cpu), _) => (cpu.0, 0),
            (_, Some(cpu)) => (cpu.0, 0),
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
            flags,
            domain: self.view.domain.0,
            pace: choice.pace.per_ns(task.weight),
            unused: 0,
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
