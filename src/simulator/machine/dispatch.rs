//! A CPU asks for work: `bpf/dispatch.bpf.h`, step by step, with `bpf/safety_net.bpf.h` and
//! `bpf/steal.bpf.h`.

use super::Machine;
use super::cpu::Leaving;
use super::thread::ThreadState;
use crate::abi;
use crate::ids::{CpuId, DomainId};
use crate::simulator::dsq::DsqId;
use crate::simulator::{TaskId, Who, before};

impl Machine<'_> {
    /// Moves the first task of a queue that may run on a CPU to its local queue:
    /// `scx_bpf_dsq_move_to_local()`.
    fn run_from(&mut self, cpu: CpuId, id: DsqId) -> bool {
        if !self.has_tasks(id) {
            return false;
        }
        let may_run = |task: &TaskId| self.tasks[task.index()].may_use(cpu);
        let first = self.dsq(id).iter().find(may_run);
        let Some(task) = first else { return false };
        self.remove(task);
        if self.tasks[task.index()].cpu != cpu {
            self.spend(self.costs.take_over);
            self.tasks[task.index()].cpu = cpu;
        }
        self.cpus[cpu.index()].local.push_back(Who::Task(task));
        true
    }

    fn run_thread(&mut self, cpu: CpuId, d: usize) -> bool {
        if !self.domains[d].thread.is_on_queue() || !self.domains[d].thread.may_use(cpu) {
            return false;
        }
        self.domains[d].thread.go_to(cpu);
        self.cpus[cpu.index()].local.push_back(Who::Thread(DomainId(d as u32)));
        true
    }

    fn head_is_before(&self, id: DsqId, vtime: u64) -> bool {
        self.dsq(id).head().is_some_and(|head| before(head, vtime))
    }

    fn head_is_before_head(&self, id: DsqId, other: DsqId) -> bool {
        self.dsq(other).head().is_none_or(|vtime| self.head_is_before(id, vtime))
    }

    fn run_from_either(&mut self, cpu: CpuId, a: DsqId, b: DsqId, a_first: bool) -> bool {
        let (first, second) = if a_first { (a, b) } else { (b, a) };
        self.run_from(cpu, first) || self.run_from(cpu, second)
    }

    /// Whether the parked thread has kept notices waiting for longer than its patience.
    fn thread_is_due(&self, d: usize) -> bool {
        let thread = &self.domains[d].thread;
        let parked_ns = self.at().saturating_sub(thread.state_since_ns);
        thread.state == ThreadState::Parked
            && parked_ns >= self.limits.patience_ns
            && (parked_ns > abi::PARKED_MAX_NS || thread.notice_bytes > 0)
    }

    /// Step 4: whether waiting tasks run without a decision.
    fn net_is_open(&mut self, d: usize) -> bool {
        let at_ns = self.at();
        let dom = &mut self.domains[d];
        if dom.starved_since_ns == 0 {
            dom.starved_since_ns = at_ns;
        }
        let starved_ns = at_ns.saturating_sub(dom.starved_since_ns);
        let patience_ns = self.limits.patience_ns;
        if self.limits.strict {
            return starved_ns > abi::STALL_NS;
        }
        match self.domains[d].thread.state {
            // It sleeps, and no CPU is about to carry out its decisions.
            ThreadState::Asleep if self.is_away(d) && !self.is_undrained(d) => true,
            // A round ends soon.
            ThreadState::Running => starved_ns > patience_ns * u64::from(abi::WORK_PATIENCES),
            _ => starved_ns > patience_ns,
        }
    }

    /// Whether the thread does not run, although its patience has passed since it was called and
    /// since it last left its CPU.
    fn is_away(&self, d: usize) -> bool {
        let thread = &self.domains[d].thread;
        let out_of_patience =
            |since_ns: u64| self.at().saturating_sub(since_ns) > self.limits.patience_ns;
        match thread.state {
            ThreadState::Running => false,
            ThreadState::Asleep => out_of_patience(thread.called_ns),
            _ => out_of_patience(thread.state_since_ns) && out_of_patience(thread.called_ns),
        }
    }

    fn run_waiting(&mut self, cpu: CpuId, d: usize) -> bool {
        let (bound, waiting) = (DsqId::Bound(cpu.0), DsqId::Waiting(d as u32));
        if self.cpus[cpu.index()].dedicated {
            return self.run_from(cpu, bound);
        }
        if !self.has_tasks(bound) {
            return self.run_from(cpu, waiting);
        }
        let bound_first = self.head_is_before_head(bound, waiting);
        self.run_from_either(cpu, bound, waiting, bound_first)
    }

    /// While tasks wait of which no thread was notified, the safety net runs every second time.
    fn run_unnotified(&mut self, cpu: CpuId, d: usize) -> bool {
        let dom = &self.domains[d];
        if dom.unnotified == 0 {
            return false;
        }
        let unnotified_ns = self.at().saturating_sub(dom.unnotified_since_ns);
        if self.limits.strict && unnotified_ns < abi::STALL_NS {
            return false;
        }
        let net_next = &mut self.cpus[cpu.index()].net_next;
        *net_next = !*net_next;
        *net_next && self.run_waiting(cpu, d)
    }

    /// Runs the tasks that go before all others whatever their keys: those for which a decision
    /// preempted the running task, and starved ones.
    fn run_first(&mut self, cpu: CpuId, d: usize) -> bool {
        let c = &mut self.cpus[cpu.index()];
        if c.own_boosts > 0 {
            c.own_boosts -= 1;
            return self.run_from(cpu, DsqId::Own(cpu.0));
        }
        let boosts = &mut self.domains[d].ready_boosts;
        if c.dedicated || *boosts == 0 {
            return false;
        }
        *boosts -= 1;
        self.run_from(cpu, DsqId::Ready(d as u32))
    }

    /// Whether the thread responds: it runs, or it sleeps and no call has gone unanswered for
    /// longer than its patience.
    fn is_at_hand(&self, d: usize) -> bool {
        let thread = &self.domains[d].thread;
        match thread.state {
            ThreadState::Running => true,
            ThreadState::Asleep => {
                thread.sleeping
                    || self.at().saturating_sub(thread.called_ns) <= self.limits.patience_ns
            }
            _ => false,
        }
    }

    /// Asks the thread of domain `d` to decide for the first waiting task of domain `other` that
    /// may run on `cpu` and for which no thread was asked yet. False if there is none.
    fn ask_for(&mut self, other: usize, d: usize, cpu: CpuId) -> bool {
        let may_ask = |task: &TaskId| {
            let t = &self.tasks[task.index()];
            t.bpf.asked_seq != t.bpf.seq && t.may_use(cpu)
        };
        let waiting = DsqId::Waiting(other as u32);
        let Some(task) = self.dsq(waiting).iter().take(abi::ASKS_MAX as usize).find(may_ask) else {
            return false;
        };
        let wakeup = self.tasks[task.index()].bpf.burst_ns == 0;
        let asked = self.notify(task, d, wakeup, false);
        if asked {
            let t = &mut self.tasks[task.index()].bpf;
            t.asked_seq = t.seq;
        }
        asked
    }

    /// Step 5: the kernel's half of stealing.
    fn run_from_others(&mut self, cpu: CpuId, d: usize) -> bool {
        for i in 0..self.domains[d].nearest.len() {
            let other = self.domains[d].nearest[i];
            self.spend(self.costs.look);
            self.drain_decisions(other.index(), cpu);
            if self.run_from(cpu, DsqId::Ready(other.0)) {
                return true;
            }
            let waiting = DsqId::Waiting(other.0);
            let other = other.index();
            if !self.has_tasks(waiting)
                || self.domains[other].thread.state == ThreadState::Running
                || self.is_undrained(other)
            {
                continue;
            }
            if self.is_at_hand(d) {
                if self.ask_for(other, d, cpu) {
                    break;
                }
            } else if self.is_away(other) && self.run_from(cpu, waiting) {
                return true;
            }
        }
        false
    }

    /// Whether the running task, its slice used up, still has the smallest key of its policy.
    fn goes_on(&mut self, prev: TaskId, cpu: CpuId, d: usize) -> bool {
        let t = &self.tasks[prev.index()];
        if !t.may_use(cpu) || t.bpf.by_net || t.bpf.vtime_rate == 0 || t.bpf.decided_by != d as u32
        {
            return false;
        }
        let (own, ready) = (DsqId::Own(cpu.0), DsqId::Ready(d as u32));
        if !self.has_tasks(own) && !self.has_tasks(ready) {
            return false;
        }
        self.charge(prev);
        let t = &mut self.tasks[prev.index()].bpf;
        t.free = false;
        let used = (t.used_ns - t.policy_vtime_used_ns).wrapping_mul(u64::from(t.vtime_rate));
        let vtime = t.policy_vtime.wrapping_add(used / u64::from(abi::limits_VTIME_RATE_ONE));
        let slice_ns = t.slice_ns;
        if self.head_is_before(own, vtime) || self.head_is_before(ready, vtime) {
            return false;
        }
        self.tasks[prev.index()].slice_left_ns = slice_ns;
        self.domains[d].counts.extended += 1;
        true
    }

    /// Whether a task waits for a decision that this CPU may then run.
    fn is_awaited(&self, cpu: CpuId, d: usize) -> bool {
        let dedicated = self.cpus[cpu.index()].dedicated;
        !dedicated && self.has_tasks(DsqId::Waiting(d as u32))
            || self.has_tasks(DsqId::Bound(cpu.0))
    }

    /// Runs a decided task: from the CPU's own queue or, unless it is dedicated, from the domain's.
    fn run_decided(&mut self, cpu: CpuId, d: usize) -> bool {
        let (own, ready) = (DsqId::Own(cpu.0), DsqId::Ready(d as u32));
        let c = &self.cpus[cpu.index()];
        if c.dedicated {
            return self.run_from(cpu, own);
        }
        let own_first = !before(self.domains[d].ready_vtime, c.own_vtime);
        self.run_from_either(cpu, own, ready, own_first)
    }

    fn run_next(&mut self, cpu: CpuId, d: usize, prev: Option<TaskId>) -> bool {
        self.drain_decisions(d, cpu);
        if self.thread_is_due(d) && self.run_thread(cpu, d) {
            return true;
        }
        if self.run_first(cpu, d)
            || self.run_unnotified(cpu, d)
            || prev.is_some_and(|prev| self.goes_on(prev, cpu, d))
        {
            return true;
        }
        if self.run_decided(cpu, d) {
            self.domains[d].ready = self.ready[d].len();
            self.domains[d].starved_since_ns = 0;
            return true;
        }
        self.domains[d].ready = 0;
        if self.domains[d].thread.state == ThreadState::Parked && self.run_thread(cpu, d) {
            return true;
        }
        let dedicated = self.cpus[cpu.index()].dedicated;
        if self.is_awaited(cpu, d) {
            if self.net_is_open(d) && self.run_waiting(cpu, d) {
                return true;
            }
        } else if !dedicated {
            self.domains[d].starved_since_ns = 0;
        }
        !self.limits.strict && !self.limits.no_steal && !dedicated && self.run_from_others(cpu, d)
    }

    /// ops.dispatch. Afterwards the CPU's local queue has a task, or `leaving` has a slice, or
    /// there is nothing to do.
    pub(super) fn dispatch(&mut self, cpu: CpuId, leaving: Leaving) {
        self.measures.scheduling_events += 1;
        self.spend(self.costs.dispatch);
        let prev = match leaving {
            Leaving::Runnable(Who::Task(task)) => Some(task),
            _ => None,
        };
        if self.run_next(cpu, self.domain_of(cpu), prev) {
            return;
        }
        // The CPU has found nothing, so the task or thread that had it goes on. Its run is free if
        // no task waits.
        let slice_ns = self.limits.slice_ns;
        match leaving {
            Leaving::Runnable(Who::Task(task)) if self.tasks[task.index()].may_use(cpu) => {
                let is_awaited = self.is_awaited(cpu, self.domain_of(cpu));
                self.tasks[task.index()].slice_left_ns = slice_ns;
                self.charge(task);
                self.tasks[task.index()].bpf.free = !is_awaited;
            }
            Leaving::Runnable(Who::Thread(domain)) => {
                self.domains[domain.index()].thread.slice_left_ns = slice_ns;
            }
            _ => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::Setup;
    use crate::simulator::workload::Workload;
    use crate::topology::{Granularity, Source, Topology};

    /// `goes_on()` of `bpf/dispatch.bpf.h`: only a run by a decision goes on by that decision.
    #[test]
    fn a_task_that_ran_undecided_does_not_go_on_by_an_old_decision() {
        let topology = Topology::load(&Source::Synthetic("L3Cache:1 PU:1".into())).unwrap();
        let domains = topology.partition(Granularity::L3).unwrap();
        let workload = Workload::load("hackbench").unwrap();
        let setup = Setup::default();
        let mut machine = Machine::new(&topology, &domains, &workload, &setup, None).unwrap();
        let (runs, waits) = (TaskId(0), TaskId(1));
        machine.ready[0].insert(waits, 1_000_000_000, 0);
        for (by_net, goes_on) in [(false, true), (true, false)] {
            let task = &mut machine.tasks[runs.index()].bpf;
            (task.decided_by, task.vtime_rate, task.slice_ns) = (0, 1, 1_000_000);
            task.by_net = by_net;
            assert_eq!(machine.goes_on(runs, CpuId(0), 0), goes_on, "by the safety net: {by_net}");
        }
    }
}
