//! A task becomes runnable, and its domain thread is notified: `bpf/select_cpu.bpf.h`,
//! `bpf/enqueue.bpf.h`, `bpf/standing.bpf.h` and `bpf/notify.bpf.h`.
//!
//! Invariant: after [`Machine::enqueue`] the task is on exactly one queue.

use super::Machine;
use crate::abi;
use crate::domains::queues::Sent;
use crate::ids::{CpuId, DomainId};
use crate::kernel::load::ring_bytes;
use crate::policy::DEFAULT_WEIGHT;
use crate::simulator::dsq::DsqId;
use crate::simulator::events::Event;
use crate::simulator::task::{NO_DOMAIN, State, TaskCtx};
use crate::simulator::{TaskId, Who, before};

/// A task's key in the safety net.
fn net_key(t: &TaskCtx, weight: u32, credit_ns: u64) -> u64 {
    let burst_ns = t.usual_ns.max(t.burst_ns).min(credit_ns);
    let nice_0 = u64::from(DEFAULT_WEIGHT);
    t.vtime.wrapping_add(burst_ns * nice_0 / nice_0.max(u64::from(weight)))
}

/// How a task came to be runnable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It woke up; ops.select_cpu has searched for an idle CPU.
    Wakeup,
    /// It was created; ops.select_cpu has searched for an idle CPU.
    Fork,
    /// It was preempted, or may no longer use the CPU that it was on.
    Preempted,
}

/// The bytes of a record of a ring, with its header.
fn record_bytes<T>() -> usize {
    size_of::<T>() + 8
}

/// The bytes of a notice in its ring.
pub fn notice_bytes(notice: &Sent) -> usize {
    match notice {
        Sent::Plain(_) => record_bytes::<abi::notice>(),
        Sent::Part(_) => record_bytes::<abi::notice_part>(),
    }
}

/// The bytes of notices for which a domain of `cpus` CPUs has room.
pub fn notice_ring_bytes(cpus: usize) -> usize {
    ring_bytes(cpus, size_of::<abi::notice>()) as usize
}

/// The decisions of a domain of `cpus` CPUs that can wait for a drain.
pub fn decision_room(cpus: usize) -> usize {
    ring_bytes(cpus, size_of::<abi::decision>()) as usize / record_bytes::<abi::decision>()
}

impl Machine<'_> {
    /// A blocked task becomes runnable: the kernel's try_to_wake_up(). `waker` is the task that
    /// runs on the CPU of the wake-up, even if an interrupt wakes the task.
    pub(super) fn wake(&mut self, task: TaskId, waker: Option<TaskId>) {
        debug_assert_eq!(self.tasks[task.index()].state, State::Blocked);
        self.spend(self.costs.wake);
        self.become_runnable(task);
        let t = &mut self.tasks[task.index()];
        let (cpu, bound) = (t.cpu, t.bound_to().is_some());
        let chosen = match bound {
            true => None,
            false => {
                self.note_waker(task, waker);
                self.select_cpu(task, cpu, Cause::Wakeup)
            }
        };
        match chosen {
            Some(idle) => self.bypass(task, idle),
            None => self.enqueue(task, Cause::Wakeup),
        }
    }

    pub(super) fn become_runnable(&mut self, task: TaskId) {
        let at_ns = self.at();
        let t = &mut self.tasks[task.index()];
        t.state = State::Runnable;
        t.account.runnable_since_ns = at_ns;
    }

    /// ops.select_cpu: claims an idle CPU for a task, at home or elsewhere.
    pub(super) fn select_cpu(&mut self, task: TaskId, prev: CpuId, cause: Cause) -> Option<CpuId> {
        self.measures.scheduling_events += 1;
        let home = self.home_of(task);
        if self.must_queue(prev, home) {
            return None;
        }
        if let Some(cpu) = self.claim_idle(Some(task), home, prev) {
            return Some(cpu);
        }
        if self.limits.strict || self.limits.no_steal {
            return None;
        }
        let cpu = self.claim_idle_elsewhere(task, home, prev)?;
        if cause == Cause::Fork {
            self.set_home(task, self.domain_of(cpu));
        }
        Some(cpu)
    }

    /// Claims an idle CPU for a task for which the kernel has not called ops.select_cpu: it was
    /// preempted, or may no longer use its CPU.
    fn claim_again(&mut self, task: TaskId, home: usize, prev: CpuId) -> Option<CpuId> {
        let elsewhere = !self.limits.strict && !self.limits.no_steal;
        self.claim_idle(Some(task), home, prev)
            .or_else(|| elsewhere.then(|| self.claim_idle_elsewhere(task, home, prev)).flatten())
    }

    /// Whether a task must wait behind others although a CPU is idle.
    fn must_queue(&self, cpu: CpuId, d: usize) -> bool {
        let here = [
            DsqId::Waiting(d as u32),
            DsqId::Ready(d as u32),
            DsqId::Bound(cpu.0),
            DsqId::Own(cpu.0),
        ];
        self.limits.strict && here.into_iter().any(|id| self.has_tasks(id))
    }

    /// Runs a task on a CPU that was claimed for it, without a decision.
    pub(super) fn bypass(&mut self, task: TaskId, cpu: CpuId) {
        let slice_ns = self.limits.slice_ns;
        let t = &mut self.tasks[task.index()];
        t.bpf.waits_on = None;
        t.bpf.ready_on = None;
        t.bpf.vtime_rate = 0;
        t.bpf.free = true;
        t.slice_left_ns = slice_ns;
        t.cpu = cpu;
        let home = t.bpf.home as usize;
        self.domains[home].counts.bypassed += 1;
        self.cpus[cpu.index()].local.push_back(Who::Task(task));
        self.kick(cpu);
    }

    /// ops.enqueue.
    pub(super) fn enqueue(&mut self, task: TaskId, cause: Cause) {
        self.measures.scheduling_events += 1;
        let t = &self.tasks[task.index()];
        let (cpu, bound) = (t.cpu, t.bound_to());
        if bound.is_none() {
            self.maybe_balance(task, cause != Cause::Preempted);
        }
        let d = match bound {
            Some(cpu) => self.domain_of(cpu),
            None => self.home_of(task),
        };
        let cpu = bound.unwrap_or(cpu);
        self.tasks[task.index()].cpu = cpu;

        let idle = match bound {
            _ if self.must_queue(cpu, d) => None,
            Some(cpu) => self.claim(cpu).then_some(cpu),
            None if cause == Cause::Preempted => self.claim_again(task, d, cpu),
            None => None,
        };
        if let Some(idle) = idle {
            self.bypass(task, idle);
            return;
        }

        if cause == Cause::Wakeup && bound.is_none() && self.stands(task, d) {
            self.stand(task, d);
            self.kick_if_idle(cpu);
            return;
        }

        let (at_ns, slice_ns) = (self.at(), self.limits.slice_ns);
        self.settle_unnotified(task);
        let credit_ns = self.sleepers_credit_ns(d);
        let floor = self.domains[d].net_vtime.wrapping_sub(credit_ns);
        let ceiling = self.domains[d].net_vtime.wrapping_add(4 * slice_ns);
        let id = match bound {
            Some(cpu) => DsqId::Bound(cpu.0),
            None => DsqId::Waiting(d as u32),
        };
        self.flows += 1;
        let flow = self.flows;
        let t = &mut self.tasks[task.index()];
        if before(t.bpf.vtime, floor) {
            t.bpf.vtime = floor;
        } else if before(ceiling, t.bpf.vtime) {
            t.bpf.vtime = ceiling;
        }
        t.bpf.seq += 1;
        t.bpf.free = false;
        t.bpf.runnable_ns = at_ns;
        t.bpf.notified = d as u32;
        t.bpf.waits_on = Some(id);
        t.bpf.ready_on = None;
        t.slice_left_ns = slice_ns;
        t.account.flow = flow;
        let key = net_key(&t.bpf, t.weight, credit_ns);
        t.bpf.dsq_vtime = key;
        let wakeup = cause != Cause::Preempted;
        let started_ns = self.at();
        if self.notify(task, d, wakeup, bound.is_some()) {
            self.domains[d].counts.queued += 1;
            self.trace_notice(task, started_ns);
        } else {
            self.note_unnotified(task, d);
        }
        self.insert(task, id, key);
        self.kick_if_idle(cpu);
    }

    /// Whether the last decision for a task stands for this wake-up too.
    fn stands(&self, task: TaskId, d: usize) -> bool {
        let t = &self.tasks[task.index()];
        let since_ns = self.at().saturating_sub(t.bpf.stands_since_ns);
        t.bpf.stands > 0
            && !self.limits.strict
            && t.bpf.decided_by == d as u32
            && t.bpf.stands_weight == t.weight
            && since_ns < abi::STANDING_NS
    }

    /// Makes a task ready at once, by a decision that stands.
    fn stand(&mut self, task: TaskId, d: usize) {
        self.settle_unnotified(task);
        self.flows += 1;
        let (at_ns, flow, vtime) = (self.at(), self.flows, self.domains[d].policy_vtime);
        let id = DsqId::Ready(d as u32);
        let t = &mut self.tasks[task.index()];
        let b = &mut t.bpf;
        b.stands -= 1;
        b.seq += 1;
        b.decided_seq = b.seq;
        let used_ns = b.used_ns.wrapping_sub(b.policy_vtime_used_ns);
        let passed =
            used_ns * u64::from(b.stands_vtime_rate) / u64::from(abi::limits_VTIME_RATE_ONE);
        b.policy_vtime = b.policy_vtime.wrapping_add(passed);
        let earliest = vtime.wrapping_sub(b.stands_max_lag);
        if before(b.policy_vtime, earliest) {
            b.policy_vtime = earliest;
        }
        b.policy_vtime_used_ns = b.used_ns;
        b.vtime_rate = b.stands_vtime_rate;
        b.free = false;
        b.runnable_ns = at_ns;
        b.notified = d as u32;
        b.waits_on = None;
        b.ready_on = Some(id);
        b.dsq_vtime = b.policy_vtime;
        let vtime = b.policy_vtime;
        t.slice_left_ns = b.slice_ns;
        t.account.flow = flow;
        self.domains[d].counts.standing += 1;
        self.insert(task, id, vtime);
    }

    fn notice(&self, task: TaskId, wakeup: bool, bound: bool) -> abi::notice {
        let t = &self.tasks[task.index()];
        let flag = |set: bool, flag: u32| if set { flag as u16 } else { 0 };
        let mut comm = [0; 16];
        let name = self.workload.groups[t.group].name.bytes();
        for (to, byte) in comm[..15].iter_mut().zip(name) {
            *to = byte as _;
        }
        abi::notice {
            pid: task.pid(),
            cpu: t.cpu.0,
            seq: t.bpf.seq,
            at_ns: t.bpf.runnable_ns,
            used_ns: t.bpf.used_ns,
            burst_ns: t.bpf.burst_ns,
            switches: t.account.switches,
            weight: t.weight,
            flags: flag(wakeup, abi::notice_flags_NOTICE_WAKEUP)
                | flag(bound, abi::notice_flags_NOTICE_BOUND)
                | flag(
                    t.cpus.is_none_or(|cpus| cpus == self.online),
                    abi::notice_flags_NOTICE_ANYWHERE,
                ),
            decided_by: t.bpf.decided_by as u16,
            comm,
            cgroup: 1,
            carried: t.bpf.carried,
        }
    }

    /// Notifies the thread of domain `d` that a task waits; false if its ring has no room.
    pub(super) fn notify(&mut self, task: TaskId, d: usize, wakeup: bool, bound: bool) -> bool {
        let started_ns = self.at();
        let t = &self.tasks[task.index()];
        let part =
            !bound && t.cpus.as_ref().is_some_and(|cpus| !self.domains[d].cpus.is_subset(cpus));
        let bytes = match part {
            true => record_bytes::<abi::notice_part>(),
            false => record_bytes::<abi::notice>(),
        };
        let room = notice_ring_bytes(self.domains[d].cpus.len());
        if self.domains[d].thread.notice_bytes + bytes > room {
            return false;
        }
        // A CPU that reserves a record holds the ring's lock meanwhile.
        let wait_ns = self.domains[d].thread.ring_locked_until_ns.saturating_sub(started_ns);
        self.spend(wait_ns + self.costs.queue);
        let mut notice = self.notice(task, wakeup, bound);
        let sent = match part {
            true => {
                notice.flags |= abi::notice_flags_NOTICE_PART as u16;
                let cpus = *self.tasks[task.index()].cpus.unwrap_or(self.online).words();
                Sent::Part(Box::new(abi::notice_part { notice, cpus }))
            }
            false => Sent::Plain(notice),
        };
        self.schedulers[d].seam().sent.push_back(sent);
        let at_ns = self.at();
        let thread_wake_ns = self.costs.thread_wake;
        let dom = &mut self.domains[d];
        dom.thread.notice_bytes += bytes;
        dom.thread.ring_locked_until_ns = at_ns;
        if std::mem::take(&mut dom.thread.sleeping) {
            dom.thread.called_ns = at_ns;
            self.events.at(at_ns + thread_wake_ns, Event::ThreadWake(DomainId(d as u32)));
        }
        self.interrupt_spin(d, at_ns);
        true
    }

    /// The most credit that a sleeper has in the safety net.
    fn sleepers_credit_ns(&self, d: usize) -> u64 {
        let (slice_ns, dom) = (self.limits.slice_ns, &self.domains[d]);
        let few = u64::from(abi::limits_CROWD_PER_CPU) * dom.cpus.len() as u64;
        slice_ns * few / few.max(dom.nr_queued as u64)
    }

    pub(super) fn note_unnotified(&mut self, task: TaskId, d: usize) {
        let at_ns = self.at();
        let dom = &mut self.domains[d];
        dom.counts.congested += 1;
        if std::mem::replace(&mut self.tasks[task.index()].bpf.unnotified, true) {
            return;
        }
        if dom.unnotified == 0 {
            dom.unnotified_since_ns = at_ns;
        }
        dom.unnotified += 1;
    }

    pub(super) fn settle_unnotified(&mut self, task: TaskId) {
        let t = &mut self.tasks[task.index()];
        if std::mem::take(&mut t.bpf.unnotified) {
            self.domains[t.bpf.notified as usize].unnotified -= 1;
        }
    }

    /// Creates a task on CPU `cpu`; the home of its creator is domain `home`.
    pub(super) fn create(&mut self, task: TaskId, cpu: CpuId, home: usize) {
        let at_ns = self.at();
        let t = &mut self.tasks[task.index()];
        t.cpu = cpu;
        t.account.born_ns = at_ns;
        debug_assert_eq!(t.bpf.home, NO_DOMAIN);
        self.prepare_program(task);
        self.leave_forbidden_cpu(task);
        self.set_home(task, home);
        let (vtime, slice_ns) = (self.domains[home].net_vtime, self.limits.slice_ns);
        let t = &mut self.tasks[task.index()].bpf;
        (t.vtime, t.usual_ns) = (vtime, slice_ns);
        self.become_runnable(task);
        match self.select_cpu(task, cpu, Cause::Fork) {
            Some(idle) => self.bypass(task, idle),
            None => self.enqueue(task, Cause::Fork),
        }
    }
}
