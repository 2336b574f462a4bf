//! The life of a domain thread: `run/thread.rs` and `kernel/seam.rs`, as a task of the simulated
//! machine, and `bpf/domain_thread.bpf.h`.
//!
//! A round is the real [`Scheduler::round`](crate::domains::scheduler::Scheduler::round), at the
//! moment it begins. The kernel sees its decisions one after the other, by the costs of draining,
//! deciding and submitting.
//!
//! Simplified: a thread that loses its CPU in the middle of a round still submits in time. A thread
//! that spins on a CPU of its own, with tasks that it cannot decide yet, polls them every
//! [`SPIN_NS`].
//!
//! Invariant: a thread with notices in its ring is awake, or has been woken.

use super::Machine;
use super::cpu::Leaving;
use super::enqueue::{decision_room, notice_bytes, notice_ring_bytes};
use crate::abi;
use crate::cpuset::CpuSet;
use crate::domains::scheduler::Left;
use crate::ids::{CpuId, DomainId};
use crate::simulator::Who;
use crate::simulator::events::Event;
use crate::topology::Domain;
use std::collections::VecDeque;

/// The state of a domain thread, as BPF sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadState {
    Asleep,
    Parked,
    Running,
    Preempted,
}

/// Where it is in fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whereabouts {
    Asleep,
    /// On the DSQ THREAD.
    Queue,
    /// On a CPU, or first on its local queue.
    Cpu,
}

/// What it does with its CPU time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// On its way to the next round.
    Coming,
    /// In a round, after which this is left.
    Round(Left),
    /// It polls on a CPU of its own, with nothing to do.
    Spinning,
}

/// How often a thread that spins polls tasks that it could not decide.
const SPIN_NS: u64 = 1000;
/// Longer than any run: a thread spins until [`Machine::interrupt_spin`].
const FOR_EVER_NS: u64 = u64::MAX / 4;

/// A decision on its way.
#[derive(Clone, Copy)]
pub struct Submitted {
    /// When the thread began to decide it.
    pub begun_ns: u64,
    /// When the kernel begins to see it.
    at_ns: u64,
    pub decision: abi::decision,
}

/// A domain thread and its pair of queues.
pub struct Thread {
    pub state: ThreadState,
    pub state_since_ns: u64,
    whereabouts: Whereabouts,
    pub cpu: CpuId,
    /// It has a CPU to itself, to which it is bound.
    dedicated: bool,
    pub left_ns: u64,
    pub slice_left_ns: u64,
    doing: Doing,
    /// It sleeps, and no notice has been sent since.
    pub sleeping: bool,
    /// When a notice woke it last.
    pub called_ns: u64,
    /// Its bell was rung.
    bell: bool,
    /// The bytes of the notices in the ring.
    pub notice_bytes: usize,
    pub ring_locked_until_ns: u64,
    /// Decisions that no CPU has carried out.
    submitted: VecDeque<Submitted>,
    pub draining_until_ns: u64,
}

impl Thread {
    /// The thread of a domain: it sleeps until its first notice, or is about to spin on the CPU
    /// that is dedicated to it.
    pub fn new(domain: &Domain, dedicated: Option<CpuId>) -> Thread {
        Thread {
            state: ThreadState::Asleep,
            state_since_ns: super::START_NS,
            whereabouts: Whereabouts::Asleep,
            cpu: dedicated.or(domain.cpus.first()).expect("a domain has a CPU"),
            dedicated: dedicated.is_some(),
            left_ns: 0,
            slice_left_ns: 0,
            doing: Doing::Coming,
            sleeping: dedicated.is_none(),
            called_ns: 0,
            bell: false,
            notice_bytes: 0,
            ring_locked_until_ns: 0,
            submitted: VecDeque::new(),
            draining_until_ns: 0,
        }
    }

    /// Whether it is on the DSQ THREAD.
    pub fn is_on_queue(&self) -> bool {
        self.whereabouts == Whereabouts::Queue
    }

    /// Whether it may run on a CPU of its domain.
    pub fn may_use(&self, cpu: CpuId) -> bool {
        !self.dedicated || self.cpu == cpu
    }

    /// It moves to a CPU, or to its local queue.
    pub fn go_to(&mut self, cpu: CpuId) {
        self.whereabouts = Whereabouts::Cpu;
        self.cpu = cpu;
    }

    /// Whether there are decisions that were submitted by a moment.
    pub fn has_undrained(&self, at_ns: u64) -> bool {
        self.submitted.front().is_some_and(|submitted| submitted.at_ns <= at_ns)
    }

    /// Pops the first decision that was submitted by a moment.
    pub fn next_decision(&mut self, at_ns: u64) -> Option<Submitted> {
        self.has_undrained(at_ns).then(|| self.submitted.pop_front()).flatten()
    }
}

impl Machine<'_> {
    pub(super) fn set_thread_state(&mut self, d: usize, state: ThreadState) {
        let at_ns = self.at();
        let thread = &mut self.domains[d].thread;
        thread.state = state;
        thread.state_since_ns = at_ns;
    }

    /// Puts the threads that have CPUs of their own there.
    pub(super) fn start_dedicated_threads(&mut self) {
        for d in 0..self.domains.len() {
            let thread = &mut self.domains[d].thread;
            if thread.dedicated {
                let cpu = thread.cpu;
                thread.go_to(cpu);
                thread.slice_left_ns = self.limits.slice_ns;
                self.cpus[cpu.index()].local.push_back(Who::Thread(DomainId(d as u32)));
                self.kick(cpu);
            }
        }
    }

    /// Ends the spinning of a domain's thread, which has something to do from `at_ns` on.
    pub(super) fn interrupt_spin(&mut self, d: usize, at_ns: u64) {
        let thread = &mut self.domains[d].thread;
        if thread.doing == Doing::Spinning {
            thread.doing = Doing::Coming;
            let seen_ns = at_ns + self.costs.step;
            self.events.at(seen_ns, Event::ThreadWake(DomainId(d as u32)));
        }
    }

    /// The thread of a domain wakes up: ops.select_cpu and ops.enqueue for it. A dedicated thread
    /// only sees that it has work.
    pub(super) fn wake_thread(&mut self, domain: DomainId) {
        let d = domain.index();
        let thread = &self.domains[d].thread;
        if thread.dedicated {
            let cpu = thread.cpu;
            if thread.state == ThreadState::Running && thread.doing == Doing::Coming {
                self.account(cpu);
                self.domains[d].thread.left_ns = 0;
                self.plan(cpu);
            }
            return;
        }
        if self.domains[d].thread.whereabouts != Whereabouts::Asleep {
            return;
        }
        self.domains[d].thread.bell = false;
        self.spend(self.costs.wake);
        let prev = self.domains[d].thread.cpu;
        match self.claim_idle(None, d, prev) {
            Some(cpu) => {
                let slice_ns = self.limits.slice_ns;
                let thread = &mut self.domains[d].thread;
                thread.go_to(cpu);
                thread.slice_left_ns = slice_ns;
                self.cpus[cpu.index()].local.push_back(Who::Thread(domain));
                self.kick(cpu);
            }
            None => self.park_thread(d, prev),
        }
    }

    /// Parks a thread that has found no idle CPU, has yielded, or has used up its slice.
    pub(super) fn park_thread(&mut self, d: usize, cpu: CpuId) {
        self.set_thread_state(d, ThreadState::Parked);
        self.domains[d].thread.whereabouts = Whereabouts::Queue;
        self.domains[d].thread.slice_left_ns = self.limits.slice_ns;
        self.kick_if_idle(cpu);
    }

    /// ops.running of a thread.
    pub(super) fn thread_running(&mut self, d: usize, cpu: CpuId) {
        self.measures.scheduling_events += 1;
        self.set_thread_state(d, ThreadState::Running);
        self.domains[d].counts.activations += 1;
        self.domains[d].ready = self.ready[d].len();
        let round_ns = self.costs.round;
        let thread = &mut self.domains[d].thread;
        thread.cpu = cpu;
        thread.sleeping = false;
        if thread.left_ns == 0 {
            thread.doing = Doing::Coming;
            thread.left_ns = round_ns;
        } else if thread.doing == Doing::Spinning {
            self.come_again(d);
        }
    }

    /// The thread has finished what it was doing.
    pub(super) fn thread_goes_on(&mut self, d: usize, cpu: CpuId) {
        let who = Who::Thread(DomainId(d as u32));
        match self.domains[d].thread.doing {
            _ if self.domains[d].thread.dedicated => self.spin(d, cpu),
            Doing::Coming | Doing::Spinning => self.round(d, cpu),
            Doing::Round(Left::Waiting) => self.yield_thread(d, cpu),
            Doing::Round(Left::Nothing) => {
                let thread = &mut self.domains[d].thread;
                let rung = std::mem::take(&mut thread.bell);
                if thread.notice_bytes > 0 || rung {
                    self.come_again(d);
                    self.plan(cpu);
                } else {
                    thread.sleeping = true;
                    thread.whereabouts = Whereabouts::Asleep;
                    self.schedule(cpu, Leaving::Blocked(who));
                }
            }
        }
    }

    /// A pass through the loop of a thread that has a CPU of its own. It never sleeps, and yields
    /// the CPU only to make the kernel drain its decisions.
    fn spin(&mut self, d: usize, cpu: CpuId) {
        let thread = &self.domains[d].thread;
        if let Doing::Round(_) = thread.doing {
            if thread.has_undrained(self.now_ns) {
                return self.yield_thread(d, cpu);
            }
            self.come_again(d);
            return self.plan(cpu);
        }
        let has_notices = thread.notice_bytes > 0;
        let scheduler = &self.schedulers[d];
        if has_notices || scheduler.is_waiting() || scheduler.is_called() {
            return self.round(d, cpu);
        }
        let thread = &mut self.domains[d].thread;
        thread.doing = Doing::Spinning;
        thread.left_ns = FOR_EVER_NS;
        self.plan(cpu);
    }

    fn yield_thread(&mut self, d: usize, cpu: CpuId) {
        self.domains[d].thread.slice_left_ns = 0;
        self.come_again(d);
        self.schedule(cpu, Leaving::Runnable(Who::Thread(DomainId(d as u32))));
    }

    fn come_again(&mut self, d: usize) {
        let step_ns = self.costs.step;
        let thread = &mut self.domains[d].thread;
        thread.doing = Doing::Coming;
        thread.left_ns = step_ns;
    }

    /// A round of the domain's scheduler.
    fn round(&mut self, d: usize, cpu: CpuId) {
        let dom = &self.domains[d];
        let room = decision_room(dom.cpus.len()).saturating_sub(dom.thread.submitted.len());
        let (idle_here, ready, vtime, since_ns): (CpuSet, usize, u64, u64) =
            (dom.idle, dom.ready, dom.policy_vtime, dom.thread.state_since_ns);
        let nr_queued = dom.nr_queued;
        let scheduler = &mut self.schedulers[d];
        let queues = scheduler.seam();
        queues.idle_elsewhere.copy_from_slice(&self.idle_counts);
        queues.room = room;
        queues.idle = idle_here;
        queues.ready = ready;
        queues.vtime = vtime;
        queues.nr_queued = nr_queued;
        queues.now_ns = since_ns;
        // A notice is there from the moment at which the path through the kernel writes it.
        let now_ns = self.now_ns;
        let (there, later): (VecDeque<_>, VecDeque<_>) =
            queues.sent.drain(..).partition(|notice| notice.notice().at_ns <= now_ns);
        let drained = there.len();
        queues.sent = there;
        let left = scheduler.round();
        let queues = scheduler.seam();
        let later_bytes = later.iter().map(notice_bytes).sum();
        queues.sent = later;
        let decided = std::mem::take(&mut queues.decided);
        let called = queues.called.take();

        // The thread drains all notices, then decides one by one.
        let begun_ns = self.now_ns;
        let mut at_ns = begun_ns + drained as u64 * self.costs.consume;
        let decide_ns = self.costs.decide_among(decided.len()) + self.costs.submit;
        for decision in &decided {
            let begun_ns = at_ns;
            at_ns += decide_ns;
            let submitted = Submitted { begun_ns, at_ns, decision: *decision };
            self.domains[d].thread.submitted.push_back(submitted);
        }
        at_ns += called.len() as u64 * self.costs.bell;
        at_ns += self.costs.step;
        for thief in called {
            self.domains[thief.index()].thread.bell = true;
            if self.domains[thief.index()].thread.whereabouts == Whereabouts::Asleep {
                // It waits for its bell and for notices.
                self.events.at(at_ns + self.costs.thread_wake, Event::ThreadWake(thief));
            }
            self.interrupt_spin(thief.index(), at_ns);
        }
        let in_vain = drained == 0 && decided.is_empty();
        if self.domains[d].thread.dedicated && in_vain {
            at_ns = begun_ns + SPIN_NS;
        } else {
            let first_ns = begun_ns + drained as u64 * self.costs.consume;
            self.trace_round(d, begun_ns..at_ns, &decided, first_ns, decide_ns);
        }
        self.measures.domains[d].rounds += 1;
        self.measures.scheduling_events += drained as u64;
        debug_assert!(
            self.domains[d].thread.notice_bytes <= notice_ring_bytes(self.domains[d].cpus.len())
        );
        let thread = &mut self.domains[d].thread;
        thread.notice_bytes = later_bytes;
        thread.doing = Doing::Round(left);
        thread.left_ns = at_ns - begun_ns;
        self.plan(cpu);
    }
}
