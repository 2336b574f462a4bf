//! The life of a domain thread: `run/thread.rs` and `kernel/seam.rs`, as a task of the simulated
//! machine.
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

use super::{CpuId, Leaving, M, TaskId};
use crate::domains::scheduler::Left;
use crate::ids::DomainId;
use crate::simulator::events::Event;
use crate::simulator::kernel::rings::Made;
use crate::simulator::kernel::wakeup::Wake;
use crate::simulator::task::State;

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

/// A domain thread.
pub struct Thread {
    /// The CPU that it has to itself, to which it is bound.
    dedicated: Option<CpuId>,
    doing: Doing,
    /// Its bell was rung.
    bell: bool,
}

impl Thread {
    /// The thread of a domain: it sleeps until its first notice, or is about to spin on the CPU
    /// that is dedicated to it.
    pub fn new(dedicated: Option<CpuId>) -> Thread {
        Thread { dedicated, doing: Doing::Coming, bell: false }
    }
}

impl M<'_> {
    /// Puts the threads that have CPUs of their own there.
    pub(super) fn start_dedicated_threads(self) {
        for (d, thread) in self.threads.iter().enumerate() {
            if let Some(cpu) = thread.dedicated {
                let at_ns = super::START_NS;
                let domain = DomainId(d as u32);
                self.kernel.plan(at_ns, Event::ThreadWake { domain, cpu });
            }
        }
    }

    /// Ends the spinning of a domain's thread, which has something to do from `at_ns` on.
    pub(super) fn interrupt_spin(mut self, d: usize, at_ns: u64) {
        let thread = &mut self.threads[d];
        if let (Doing::Spinning, Some(cpu)) = (thread.doing, thread.dedicated) {
            thread.doing = Doing::Coming;
            let (domain, seen_ns) = (DomainId(d as u32), at_ns + self.kernel.costs.step);
            self.kernel.plan(seen_ns, Event::ThreadWake { domain, cpu });
        }
    }

    /// The thread of a domain wakes up by what `cpu` has done. One that spins only sees that it has
    /// work.
    pub(super) fn wake_thread(mut self, domain: DomainId, cpu: CpuId) {
        let d = domain.index();
        let task = TaskId(domain.0);
        if self.tasks[d].state != State::Blocked {
            if self.tasks[d].state == State::Running
                && self.threads[d].doing == Doing::Coming
                && let Some(cpu) = self.threads[d].dedicated
            {
                self.account(cpu);
                self.tasks[d].left_ns = 0;
                self.plan(cpu);
            }
            return;
        }
        self.threads[d].bell = false;
        self.kernel.here = cpu;
        self.kernel.spend(self.kernel.costs.wake);
        self.tasks[d].state = State::Runnable;
        self.kernel.wake_up(task, Wake::Up);
    }

    /// A thread was switched in.
    pub(super) fn thread_running(mut self, d: usize) {
        self.kernel.set_sleeping(d, false);
        if self.tasks[d].left_ns == 0 {
            self.threads[d].doing = Doing::Coming;
            self.tasks[d].left_ns = self.kernel.costs.round;
        } else if self.threads[d].dedicated.is_some()
            && matches!(self.threads[d].doing, Doing::Spinning | Doing::Coming)
        {
            // What it was to see while it spun may have come while it was switched out.
            self.come_again(d);
        }
    }

    /// Whether its ring holds notices, even incomplete ones.
    fn has_notices(self, d: usize) -> bool {
        self.kernel.channel(d).notices.borrow().bytes() > 0
    }

    /// The thread has finished what it was doing.
    pub(super) fn thread_goes_on(mut self, d: usize, cpu: CpuId) {
        match self.threads[d].doing {
            _ if self.threads[d].dedicated.is_some() && !self.kernel.shares_cpu(d) => {
                self.spin(d, cpu);
            }
            Doing::Coming | Doing::Spinning => self.round(d, cpu),
            Doing::Round(Left::Waiting) => self.yield_thread(d, cpu),
            Doing::Round(Left::Nothing) => {
                let rung = std::mem::take(&mut self.threads[d].bell);
                self.kernel.set_sleeping(d, true);
                if self.has_notices(d) || rung {
                    self.kernel.set_sleeping(d, false);
                    self.come_again(d);
                    self.plan(cpu);
                } else {
                    self.tasks[d].state = State::Blocked;
                    self.schedule(cpu, Leaving::Blocked(TaskId(d as u32)));
                }
            }
        }
    }

    /// A pass through the loop of a thread that has a CPU of its own. It never sleeps, and yields
    /// the CPU only to make the kernel drain its decisions.
    fn spin(mut self, d: usize, cpu: CpuId) {
        if let Doing::Round(_) = self.threads[d].doing {
            if self.kernel.channel(d).decisions.borrow().has_visible() {
                return self.yield_thread(d, cpu);
            }
            self.come_again(d);
            return self.plan(cpu);
        }
        let scheduler = &self.schedulers[d];
        if self.has_notices(d) || scheduler.is_waiting() || scheduler.is_called() {
            return self.round(d, cpu);
        }
        self.threads[d].doing = Doing::Spinning;
        self.tasks[d].left_ns = FOR_EVER_NS;
        self.plan(cpu);
    }

    fn yield_thread(self, d: usize, cpu: CpuId) {
        let task = TaskId(d as u32);
        self.kernel.yield_task(task);
        self.come_again(d);
        self.schedule(cpu, Leaving::Runnable(task));
    }

    fn come_again(mut self, d: usize) {
        self.threads[d].doing = Doing::Coming;
        self.tasks[d].left_ns = self.kernel.costs.step;
    }

    /// A round of the domain's scheduler.
    fn round(mut self, d: usize, cpu: CpuId) {
        let channel = self.kernel.channel(d).clone();
        let begun_ns = self.kernel.now_ns;
        channel.now_ns.set(begun_ns);
        channel.drained.set(0);
        let left = self.schedulers[d].round();
        let drained = channel.drained.get() as u64;
        let decided = std::mem::take(&mut channel.decisions.borrow_mut().fresh);
        let called = channel.called.take();

        // The thread drains all notices, then decides one by one.
        let costs = &self.kernel.costs;
        let first_ns = begun_ns + drained * costs.consume;
        let decide_ns = costs.decide_among(decided.len()) + costs.submit;
        let mut at_ns = first_ns;
        for _ in &decided {
            let begun_ns = at_ns;
            at_ns += decide_ns;
            channel.decisions.borrow_mut().time(Made { begun_ns, at_ns });
        }
        at_ns += called.len() as u64 * costs.bell;
        at_ns += costs.step;
        let thread_wake_ns = costs.thread_wake;
        self.kernel.submitted(d);
        for thief in called {
            self.threads[thief.index()].bell = true;
            if self.tasks[thief.index()].state == State::Blocked {
                // It waits for its bell and for notices.
                self.kernel.here = cpu;
                self.kernel.wake_thread_at(at_ns + thread_wake_ns, thief.index());
            }
            self.interrupt_spin(thief.index(), at_ns);
        }
        if self.threads[d].dedicated.is_some() && drained == 0 && decided.is_empty() {
            at_ns = begun_ns + SPIN_NS;
        } else {
            self.trace_round(d, begun_ns..at_ns, &decided, first_ns, decide_ns);
        }
        self.measures.domains[d].rounds += 1;
        self.measures.scheduling_events += drained;
        self.threads[d].doing = Doing::Round(left);
        self.tasks[d].left_ns = at_ns - begun_ns;
        self.plan(cpu);
    }
}
