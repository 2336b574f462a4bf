//! How CPUs carry out decisions: `bpf/decisions.bpf.h`.
//!
//! Not modelled: a decision that overtakes its own task's ops.enqueue, which is one step here; and
//! decisions with wrong values, which the schedulers do not make. A decision whose CPU is not one
//! of the task and of the domain is bounced.

use super::Machine;
use super::thread::Submitted;
use crate::abi;
use crate::ids::CpuId;
use crate::simulator::dsq::DsqId;
use crate::simulator::events::Event;
use crate::simulator::{TaskId, Who, before};

fn preempts(decision: &abi::decision) -> bool {
    decision.flags & abi::decision_flags_DECISION_PREEMPT != 0
}

impl Machine<'_> {
    /// Whether there are decisions that no CPU has carried out to the end.
    pub(super) fn is_undrained(&self, d: usize) -> bool {
        let (thread, at_ns) = (&self.domains[d].thread, self.at());
        thread.has_undrained(at_ns) || thread.draining_until_ns > at_ns
    }

    /// Step 1 of ops.dispatch: drains the decisions and carries them out.
    pub(super) fn drain_decisions(&mut self, d: usize, cpu: CpuId) {
        if !self.domains[d].thread.has_undrained(self.at()) {
            return;
        }
        // One CPU drains at a time; the others go on without.
        if self.domains[d].thread.draining_until_ns > self.at() {
            return;
        }
        for _ in 0..abi::DRAINS_MAX {
            let mut any = false;
            loop {
                let at_ns = self.at();
                let Some(submitted) = self.domains[d].thread.next_decision(at_ns) else { break };
                any = true;
                self.spend(self.costs.drain);
                self.carry_out(d, &submitted, cpu);
            }
            if !any {
                break;
            }
        }
        let (at_ns, ready) = (self.at(), self.ready[d].len());
        let dom = &mut self.domains[d];
        dom.thread.draining_until_ns = at_ns;
        dom.ready = ready;
        if std::mem::take(&mut dom.carried_out) > 0 {
            dom.starved_since_ns = 0;
        }
        let to_ready = std::mem::take(&mut dom.to_ready);
        if to_ready > 1 {
            self.kick_idle(d, to_ready - 1);
        }
    }

    fn is_sound(&self, task: TaskId, decision: &abi::decision) -> bool {
        let t = &self.tasks[task.index()];
        let cpu = CpuId(decision.cpu);
        let sound_cpu = match decision.cpu {
            abi::none_NO_CPU => !preempts(decision),
            _ => {
                self.online.contains(cpu)
                    && t.may_use(cpu)
                    && (!self.cpus[cpu.index()].dedicated || t.bound_to().is_some())
                    && self.domain_of(cpu) == decision.domain as usize
            }
        };
        sound_cpu
            && (decision.domain == t.bpf.notified
                || self.may_run_in(task, decision.domain as usize))
    }

    /// The queue that a sound decision names, and the CPU that is to check it.
    fn destination(&mut self, waits_on: DsqId, decision: &abi::decision) -> (DsqId, Option<CpuId>) {
        if let DsqId::Bound(cpu) = waits_on {
            return (DsqId::Own(cpu), Some(CpuId(cpu)));
        }
        let cpu = CpuId(decision.cpu);
        let hint = decision.flags & abi::decision_flags_DECISION_IDLE != 0;
        if decision.cpu == abi::none_NO_CPU || hint && !self.claim(cpu) {
            return (DsqId::Ready(decision.domain), None);
        }
        (DsqId::Own(cpu.0), Some(cpu))
    }

    fn bounce(&mut self, task: TaskId, d: usize) {
        self.domains[d].counts.bounced += 1;
        let t = &self.tasks[task.index()].bpf;
        let (notified, bound) = (t.notified as usize, matches!(t.waits_on, Some(DsqId::Bound(_))));
        let wakeup = t.burst_ns == 0;
        if !self.notify(task, notified, wakeup, bound) {
            self.note_unnotified(task, notified);
        }
    }

    fn carry_out(&mut self, d: usize, submitted: &Submitted, cpu: CpuId) {
        let decision = &submitted.decision;
        self.measures.scheduling_events += 1;
        let task = TaskId::of_pid(decision.pid);
        let t = &self.tasks[task.index()].bpf;
        let (Some(waits_on), true, false) =
            (t.waits_on, t.seq == decision.seq, t.decided_seq == decision.seq)
        else {
            self.domains[d].counts.stale += 1;
            return;
        };
        if !self.is_sound(task, decision) {
            self.bounce(task, d);
            return;
        }
        if self.tasks[task.index()].on.is_none_or(|(id, _)| id != waits_on) {
            self.domains[d].counts.stale += 1;
            return;
        }
        let (to, kick) = self.destination(waits_on, decision);
        let at_ns = self.at();
        let t = &mut self.tasks[task.index()];
        t.bpf.decided_seq = decision.seq;
        t.bpf.carried = decision.carried;
        t.bpf.decided_by = decision.domain;
        t.bpf.slice_ns = decision.slice_ns;
        t.bpf.policy_vtime = decision.vtime;
        t.bpf.policy_vtime_used_ns = t.bpf.used_ns;
        t.bpf.vtime_rate = decision.vtime_rate;
        let stands =
            decision.flags & abi::decision_flags_DECISION_STANDS != 0 && decision.vtime_rate != 0;
        t.bpf.stands = if stands { self.limits.standing } else { 0 };
        t.bpf.stands_vtime_rate = decision.vtime_rate;
        t.bpf.stands_weight = t.weight;
        t.bpf.stands_max_lag = decision.max_lag;
        t.bpf.stands_since_ns = at_ns;
        t.bpf.ready_on = Some(to);
        self.domains[decision.domain as usize].keeps_vtime |= decision.vtime_rate != 0;
        let t = &mut self.tasks[task.index()];
        t.slice_left_ns = decision.slice_ns;
        let (notified, runnable_ns) = (t.bpf.notified, t.bpf.runnable_ns);
        self.remove(task);
        // A preempting task goes before the head, even if the head's key is smaller.
        let vtime = match self.dsq(to).head() {
            Some(head) if preempts(decision) && !before(decision.vtime, head) => {
                head.wrapping_sub(1)
            }
            _ => decision.vtime,
        };
        self.tasks[task.index()].bpf.dsq_vtime = vtime;
        self.insert(task, to, vtime);
        let latency_ns = self.at() - runnable_ns;
        self.measures.domains[d].decision.record(latency_ns);
        self.trace_carried_out(d, task, submitted.begun_ns);
        let dom = &mut self.domains[d];
        dom.counts.decided += 1;
        dom.carried_out += 1;
        if decision.domain != notified {
            self.note_theft(notified as usize, decision.domain as usize);
            // A task for which an idle CPU has asked keeps its home.
            if self.tasks[task.index()].bpf.asked_seq != decision.seq {
                self.set_home(task, decision.domain as usize);
            }
        }
        match kick {
            None => self.domains[d].to_ready += 1,
            Some(other) if preempts(decision) => self.preempt(d, other, cpu),
            Some(other) if other != cpu => self.kick(other),
            Some(_) => (),
        }
    }

    /// The task that runs on a CPU gives way to the new head of the CPU's own queue.
    fn preempt(&mut self, d: usize, cpu: CpuId, here: CpuId) {
        self.cpus[cpu.index()].own_boosts += 1;
        if cpu == here {
            return;
        }
        let Some(Who::Task(running)) = self.cpus[cpu.index()].current else {
            return self.kick(cpu);
        };
        self.domains[d].counts.preempted += 1;
        self.tasks[running.index()].slice_left_ns = 0;
        self.events.at(self.at() + self.costs.kick, Event::Kicked(cpu));
    }

    /// A task that waited in domain `from` moves to domain `to`, which may be the same.
    pub(super) fn note_theft(&mut self, from: usize, to: usize) {
        if from != to {
            self.domains[from].counts.stolen_out += 1;
            self.domains[to].counts.stolen_in += 1;
        }
    }
}
