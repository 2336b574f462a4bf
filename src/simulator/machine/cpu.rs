//! A CPU: what runs on it, for how long, and what comes next. It models the kernel's `__schedule()`
//! and tick, and the callbacks of `bpf/task.bpf.h`.
//!
//! As in the kernel, a slice ends at a tick. A CPU whose task has used up its slice calls
//! ops.dispatch while the task is still there. Only if that finds another task does the first one
//! stop and go to ops.enqueue.
//!
//! Invariant: a CPU that has something to run has exactly one planned event ([`Event::Due`]) that
//! is not void.

use super::Machine;
use super::enqueue::Cause;
use super::thread::ThreadState;
use crate::cpuset::CpuSet;
use crate::ids::CpuId;
use crate::policy::DEFAULT_WEIGHT;
use crate::simulator::dsq::DsqId;
use crate::simulator::events::Event;
use crate::simulator::task::State;
use crate::simulator::{TaskId, Who, before};
use crate::topology::{Domains, Topology};
use std::collections::VecDeque;

/// A CPU.
pub struct Cpu {
    pub domain: usize,
    /// Kept free of tasks for the thread of its domain.
    pub dedicated: bool,
    /// It and its SMT siblings.
    pub siblings: CpuSet,
    /// The CPUs under its L3; without one, those of its domain.
    pub l3: CpuSet,
    /// The CPUs of its NUMA node.
    pub node: CpuSet,
    /// The task or thread that runs.
    pub current: Option<Who>,
    /// The moment up to which its run is accounted for.
    pub since_ns: u64,
    /// When it was switched in.
    pub started_ns: u64,
    /// The trace's flow of the wait that led to this run, if there was one.
    pub flow: Option<u64>,
    /// The number of the planned event that is not void.
    plan: u64,
    /// When its current path through the kernel ends, if nothing runs.
    pub in_kernel_until_ns: u64,
    /// Whether it was kicked while idle and the kick has not arrived.
    pub kick_pending: bool,
    /// The kernel's local queue.
    pub local: VecDeque<Who>,
    /// When it last became idle.
    pub idle_since_ns: u64,
    pub own_vtime: u64,
    pub weight: u32,
    pub net_next: bool,
    /// The number of tasks from its own queue that run before all others.
    pub own_boosts: u32,
}

impl Cpu {
    /// The CPUs below number `count`, all of them idle.
    pub fn all(
        topology: &Topology,
        domains: &Domains,
        dedicated: &CpuSet,
        count: usize,
    ) -> Vec<Cpu> {
        let around = |sets: &[CpuSet], cpu| sets.iter().find(|set| set.contains(cpu)).copied();
        let cpu = |number| {
            let cpu = CpuId(number);
            let domain = domains.domain_of(cpu);
            let own = domain.map_or(CpuSet::EMPTY, |domain| domains[domain].cpus);
            let nodes: Vec<_> = topology.numa_nodes().iter().map(|node| node.cpus).collect();
            Cpu {
                domain: domain.map_or(usize::MAX, |domain| domain.index()),
                dedicated: dedicated.contains(cpu),
                siblings: around(topology.cores(), cpu)
                    .unwrap_or_else(|| [cpu].into_iter().collect()),
                l3: around(topology.l3_caches(), cpu).unwrap_or(own),
                node: around(&nodes, cpu).unwrap_or(*topology.cpus()),
                current: None,
                since_ns: 0,
                started_ns: 0,
                flow: None,
                plan: 0,
                in_kernel_until_ns: 0,
                kick_pending: false,
                local: VecDeque::new(),
                idle_since_ns: super::START_NS,
                own_vtime: 0,
                weight: 0,
                net_next: false,
                own_boosts: 0,
            }
        };
        (0..count as u32).map(cpu).collect()
    }
}

/// What has the CPU when it schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// It was idle.
    Idle,
    /// It blocks or ends.
    Blocked(Who),
    /// It could go on.
    Runnable(Who),
}

impl Machine<'_> {
    fn slice_left(&mut self, who: Who) -> &mut u64 {
        match who {
            Who::Task(task) => &mut self.tasks[task.index()].slice_left_ns,
            Who::Thread(domain) => &mut self.domains[domain.index()].thread.slice_left_ns,
        }
    }

    pub(super) fn left(&mut self, who: Who) -> &mut u64 {
        match who {
            Who::Task(task) => &mut self.tasks[task.index()].left_ns,
            Who::Thread(domain) => &mut self.domains[domain.index()].thread.left_ns,
        }
    }

    /// Accounts for what runs on a CPU, up to this moment.
    pub(super) fn account(&mut self, cpu: CpuId) {
        let now_ns = self.now_ns;
        let c = &mut self.cpus[cpu.index()];
        let Some(who) = c.current else { return };
        let ran_ns = now_ns.saturating_sub(c.since_ns);
        c.since_ns = c.since_ns.max(now_ns);
        let left = self.left(who);
        *left = left.saturating_sub(ran_ns);
        let slice_left = self.slice_left(who);
        *slice_left = slice_left.saturating_sub(ran_ns);
        self.measures.busy_ns += ran_ns;
        match who {
            Who::Task(task) => self.tasks[task.index()].account.ran_ns += ran_ns,
            Who::Thread(domain) => self.measures.domains[domain.index()].thread_ns += ran_ns,
        }
    }

    /// Plans the next event of a CPU: the end of a run, or the tick that ends its slice.
    pub(super) fn plan(&mut self, cpu: CpuId) {
        let Some(who) = self.cpus[cpu.index()].current else { return };
        let since_ns = self.cpus[cpu.index()].since_ns;
        let end_ns = since_ns + *self.left(who);
        let slice_end_ns = since_ns + *self.slice_left(who);
        let tick_ns = slice_end_ns.next_multiple_of(self.costs.tick);
        let c = &mut self.cpus[cpu.index()];
        c.plan += 1;
        self.events.at(end_ns.min(tick_ns).max(self.now_ns), Event::Due { cpu, plan: c.plan });
    }

    /// The end of an interrupt on a CPU, which delays what the CPU did before.
    pub(super) fn end_interrupt(&mut self, cpu: CpuId) {
        self.account(cpu);
        let at_ns = self.at();
        let c = &mut self.cpus[cpu.index()];
        let begun_ns = c.in_kernel_until_ns.max(c.since_ns).max(self.now_ns);
        c.in_kernel_until_ns = at_ns;
        self.measures.overhead_ns += at_ns.saturating_sub(begun_ns);
        if c.current.is_some() {
            c.since_ns = at_ns;
            self.plan(cpu);
        }
    }

    /// The planned event of a CPU.
    pub(super) fn due(&mut self, cpu: CpuId, plan: u64) {
        let c = &self.cpus[cpu.index()];
        let (true, Some(who)) = (c.plan == plan, c.current) else { return };
        self.account(cpu);
        self.here = Some(cpu);
        if *self.left(who) == 0 {
            match who {
                Who::Task(task) => self.go_on(task, cpu),
                Who::Thread(domain) => self.thread_goes_on(domain.index(), cpu),
            }
        } else if *self.slice_left(who) == 0 {
            self.schedule(cpu, Leaving::Runnable(who));
        } else {
            self.plan(cpu);
        }
    }

    /// Finds what a CPU runs next.
    pub(super) fn schedule(&mut self, cpu: CpuId, leaving: Leaving) {
        if let Leaving::Blocked(who) = leaving {
            self.stopping(who, false);
            self.leave(cpu, who);
        }
        if self.keeps_cpu(leaving, cpu) {
            return;
        }
        if self.cpus[cpu.index()].local.is_empty() {
            self.dispatch(cpu, leaving);
            if self.keeps_cpu(leaving, cpu) {
                return;
            }
        }
        let next = self.cpus[cpu.index()].local.pop_front();
        if let Leaving::Runnable(who) = leaving {
            self.stopping(who, true);
            self.leave(cpu, who);
            match who {
                Who::Task(task) => {
                    self.leave_forbidden_cpu(task);
                    self.become_runnable(task);
                    self.enqueue(task, Cause::Preempted);
                }
                Who::Thread(domain) => self.park_thread(domain.index(), cpu),
            }
        }
        match next {
            Some(who) => self.switch_to(cpu, who),
            None => self.go_idle(cpu, leaving),
        }
    }

    /// Whether what has the CPU keeps it: it has a slice, and its affinity allows the CPU.
    fn keeps_cpu(&mut self, leaving: Leaving, cpu: CpuId) -> bool {
        let Leaving::Runnable(who) = leaving else { return false };
        let allowed = match who {
            Who::Task(task) => self.tasks[task.index()].may_use(cpu),
            Who::Thread(_) => true,
        };
        if !allowed || *self.slice_left(who) == 0 {
            return false;
        }
        let at_ns = self.at();
        self.cpus[cpu.index()].since_ns = at_ns;
        self.measures.overhead_ns += self.spent_ns;
        self.plan(cpu);
        true
    }

    fn leave(&mut self, cpu: CpuId, who: Who) {
        debug_assert_eq!(self.cpus[cpu.index()].current, Some(who));
        self.trace_run(cpu);
        self.cpus[cpu.index()].current = None;
        if let Who::Task(task) = who {
            let t = &mut self.tasks[task.index()];
            if t.state == State::Running {
                t.state = State::Runnable;
            }
        }
    }

    /// Moves a task that may no longer use its CPU to another, as the kernel's migration thread
    /// does.
    pub(super) fn leave_forbidden_cpu(&mut self, task: TaskId) {
        let t = &mut self.tasks[task.index()];
        if let Some(cpus) = t.cpus.filter(|cpus| !cpus.contains(t.cpu)) {
            t.cpu = cpus.first().expect("a task may use a CPU of the machine");
            self.spend(self.costs.take_over);
        }
    }

    fn go_idle(&mut self, cpu: CpuId, leaving: Leaving) {
        let at_ns = self.at();
        self.measures.overhead_ns += self.spent_ns;
        self.mark_idle(cpu, true);
        let c = &mut self.cpus[cpu.index()];
        c.in_kernel_until_ns = at_ns;
        if leaving == Leaving::Idle {
            // It was idle all along, so the kernel does not call ops.update_idle. It may have been
            // claimed for a task that came to its local queue meanwhile.
            return;
        }
        c.idle_since_ns = at_ns;
        self.update_idle(cpu, true);
    }

    fn switch_to(&mut self, cpu: CpuId, who: Who) {
        self.mark_idle(cpu, false);
        self.update_idle(cpu, false);
        self.spend(self.costs.switch);
        self.measures.overhead_ns += self.spent_ns;
        self.measures.switches += 1;
        let at_ns = self.at();
        let c = &mut self.cpus[cpu.index()];
        c.current = Some(who);
        c.since_ns = at_ns;
        c.started_ns = at_ns;
        match who {
            Who::Task(task) => self.running(task, cpu),
            Who::Thread(domain) => {
                self.cpus[cpu.index()].flow = None;
                self.thread_running(domain.index(), cpu);
            }
        }
        self.plan(cpu);
    }

    /// ops.running of a task, and the cost of its move.
    fn running(&mut self, task: TaskId, cpu: CpuId) {
        self.measures.scheduling_events += 1;
        let at_ns = self.at();
        let t = &mut self.tasks[task.index()];
        t.state = State::Running;
        let delay_ns = at_ns - t.account.runnable_since_ns;
        t.account.waited_ns += delay_ns;
        self.measures.groups[t.group].run_delay.record(delay_ns);
        self.pay_for_move(task, cpu);

        let here = self.domain_of(cpu);
        let t = &mut self.tasks[task.index()].bpf;
        t.started_ns = at_ns;
        let (notified, dsq_vtime, vtime, ready_on) =
            (t.notified as usize, t.dsq_vtime, t.vtime, t.ready_on);
        let undecided_on = t.waits_on.filter(|_| t.decided_seq != t.seq);
        t.by_net = undecided_on.is_some();
        if let Some(waited_on) = undecided_on {
            let slice = self.limits.slices.shared_by(self.dsq(waited_on).len());
            self.tasks[task.index()].slice_left_ns = slice.as_nanos() as u64;
            let dom = &mut self.domains[notified];
            dom.counts.late += 1;
            if ready_on.is_none() && before(dom.net_vtime, vtime) {
                dom.net_vtime = vtime;
            }
            self.note_theft(notified, here);
        } else {
            match ready_on {
                Some(DsqId::Own(_)) => {
                    self.cpus[cpu.index()].own_vtime = dsq_vtime;
                    self.domains[here].advance_policy_vtime(dsq_vtime);
                }
                Some(DsqId::Ready(domain)) => {
                    self.domains[domain as usize].ready_vtime = dsq_vtime;
                    self.domains[domain as usize].advance_policy_vtime(dsq_vtime);
                    self.note_theft(domain as usize, here);
                }
                _ => (),
            }
        }
        self.settle_unnotified(task);
        let t = &mut self.tasks[task.index()];
        if t.bpf.waits_on.is_some() && t.bpf.carried.at_ns != 0 {
            t.bpf.carried.at_ns += at_ns - t.bpf.runnable_ns;
        }
        self.cpus[cpu.index()].flow = t.bpf.waits_on.map(|_| t.account.flow);
        t.bpf.waits_on = None;
        t.bpf.ready_on = None;
        self.cpus[cpu.index()].weight = t.weight;
        self.note_run_domain(task, here);
    }

    /// A task that ran on another CPU finds its caches cold.
    fn pay_for_move(&mut self, task: TaskId, cpu: CpuId) {
        let ran_on = self.tasks[task.index()].account.ran_on.replace(cpu);
        let Some(from) = ran_on.filter(|&from| from != cpu) else { return };
        let c = &self.cpus[cpu.index()];
        let moves = &mut self.measures.moves;
        let cost_ns = if c.siblings.contains(from) {
            moves.in_core += 1;
            0
        } else if c.l3.contains(from) {
            moves.in_l3 += 1;
            self.costs.move_core
        } else if c.node.contains(from) {
            moves.in_node += 1;
            self.costs.move_l3
        } else {
            moves.between_nodes += 1;
            self.costs.move_node
        };
        self.tasks[task.index()].left_ns += cost_ns;
    }

    /// ops.stopping.
    fn stopping(&mut self, who: Who, runnable: bool) {
        self.measures.scheduling_events += 1;
        match who {
            Who::Task(task) => {
                self.charge(task);
                if !runnable {
                    self.end_burst(task);
                }
                let cpu = self.tasks[task.index()].cpu;
                self.cpus[cpu.index()].weight = 0;
            }
            Who::Thread(domain) => {
                let state = if runnable { ThreadState::Preempted } else { ThreadState::Asleep };
                self.set_thread_state(domain.index(), state);
            }
        }
    }

    /// As `end_burst()` of `bpf/vtime.bpf.h`.
    fn end_burst(&mut self, task: TaskId) {
        let slice_ns = self.limits.slice_ns;
        let t = &mut self.tasks[task.index()].bpf;
        t.usual_ns = t.usual_ns / 4 * 3 + t.burst_ns.min(slice_ns) / 4;
        t.burst_ns = 0;
    }

    /// As `charge()` of `bpf/vtime.bpf.h`.
    pub(super) fn charge(&mut self, task: TaskId) {
        let now_ns = self.now_ns;
        let t = &mut self.tasks[task.index()];
        let used_ns = now_ns.saturating_sub(t.bpf.started_ns);
        t.bpf.started_ns = t.bpf.started_ns.max(now_ns);
        if !t.bpf.free {
            t.bpf.used_ns += used_ns;
        }
        t.bpf.burst_ns += used_ns;
        let nice_0 = u64::from(DEFAULT_WEIGHT);
        t.bpf.vtime = t.bpf.vtime.wrapping_add(used_ns * nice_0 / u64::from(t.weight));
        let dom = &mut self.domains[self.cpus[t.cpu.index()].domain];
        let served_ns = (used_ns * nice_0).checked_div(dom.weight).unwrap_or(0);
        if !t.bpf.by_net {
            dom.net_vtime = dom.net_vtime.wrapping_add(served_ns);
        } else if dom.keeps_vtime && !t.bpf.free {
            dom.policy_vtime = dom.policy_vtime.wrapping_add(served_ns);
        }
    }
}
