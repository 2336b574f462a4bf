//! Runs on a CPU: when they end, what is accounted for, and the switch to the next one.
//!
//! As in the kernel, a slice ends at a tick.
//!
//! Invariant: a CPU that has something to run has exactly one planned event ([`Event::Due`]) that
//! is not void.

use super::{CpuId, Leaving, M};
use crate::simulator::TaskId;
use crate::simulator::events::Event;
use crate::simulator::kernel::schedule::Next;
use crate::simulator::task::State;
use anyhow::Result;

/// What a CPU runs, or has run last.
#[derive(Default)]
pub struct Run {
    /// When it was switched in.
    pub started_ns: u64,
    /// The trace's flow of the wait that led to it, if there was one.
    pub flow: Option<u64>,
    /// The number of the planned event that is not void.
    plan: u64,
}

impl M<'_> {
    /// Accounts for what runs on a CPU, up to this moment.
    pub(super) fn account(mut self, cpu: CpuId) {
        let ran_ns = self.kernel.update_current(cpu);
        let Some(task) = self.kernel.cpus[cpu.index()].current else { return };
        let is_thread = self.is_thread(task);
        let t = &mut self.tasks[task.index()];
        t.left_ns = t.left_ns.saturating_sub(ran_ns);
        t.account.ran_ns += ran_ns;
        self.measures.busy_ns += ran_ns;
        if is_thread {
            self.measures.domains[task.index()].thread_ns += ran_ns;
        }
    }

    /// Plans the next event of a CPU: the end of a run, or a tick, which may end its slice.
    pub(super) fn plan(mut self, cpu: CpuId) {
        let Some(task) = self.kernel.cpus[cpu.index()].current else { return };
        let since_ns = self.kernel.cpus[cpu.index()].since_ns;
        let end_ns = since_ns + self.tasks[task.index()].left_ns;
        let slice_end_ns = since_ns + self.kernel.task(task).c.scx.slice;
        let tick = self.kernel.costs.tick;
        let tick_ns =
            slice_end_ns.next_multiple_of(tick).min((since_ns + 1).next_multiple_of(tick));
        let plan = self.runs[cpu.index()].plan + 1;
        self.runs[cpu.index()].plan = plan;
        let at_ns = end_ns.min(tick_ns).max(self.kernel.now_ns);
        self.kernel.plan(at_ns, Event::Due { cpu, plan });
    }

    /// The beginning of an interrupt on a CPU.
    pub(super) fn begin_interrupt(self, cpu: CpuId) {
        self.kernel.enter_cpu(cpu);
        self.account(cpu);
    }

    /// The end of an interrupt on a CPU, which delays what the CPU did before.
    pub(super) fn end_interrupt(mut self, cpu: CpuId) {
        let at_ns = self.kernel.at();
        let now_ns = self.kernel.path_ns;
        let mut kernel = self.kernel;
        let c = &mut kernel.cpus[cpu.index()];
        let begun_ns = c.in_kernel_until_ns.max(c.since_ns).max(now_ns);
        c.in_kernel_until_ns = at_ns;
        self.measures.overhead_ns += at_ns.saturating_sub(begun_ns);
        if c.current.is_some() {
            c.since_ns = at_ns;
            self.plan(cpu);
        }
    }

    /// The planned event of a CPU.
    pub(super) fn due(mut self, cpu: CpuId, plan: u64) -> Result<()> {
        let current = self.kernel.cpus[cpu.index()].current;
        let (true, Some(task)) = (self.runs[cpu.index()].plan == plan, current) else {
            return Ok(());
        };
        self.account(cpu);
        self.kernel.here = cpu;
        if self.kernel.now_ns.is_multiple_of(self.kernel.costs.tick) {
            self.kernel.tick(task);
        }
        if self.tasks[task.index()].left_ns == 0 {
            match self.is_thread(task) {
                true => self.thread_goes_on(task.index(), cpu),
                false => self.go_on(task, cpu)?,
            }
        } else if self.kernel.task(task).c.scx.slice == 0 {
            self.schedule(cpu, Leaving::Runnable(task));
        } else {
            self.plan(cpu);
        }
        Ok(())
    }

    /// A kick arrives at its CPU, which schedules if it is idle or if the kick says so.
    pub(super) fn kicked(mut self, cpu: CpuId) {
        if self.kernel.receive_kick(cpu) {
            self.account(cpu);
            self.kernel.enter_cpu(cpu);
            let current = self.kernel.cpus[cpu.index()].current;
            self.schedule(cpu, current.map_or(Leaving::Idle, Leaving::Runnable));
        }
    }

    /// A wake-up that another CPU has handed over. An idle CPU then schedules at once.
    pub(super) fn handed_over(self, task: TaskId, cpu: CpuId) {
        self.begin_interrupt(cpu);
        self.kernel.receive_wake_up(task);
        self.end_interrupt(cpu);
        if self.kernel.cpus[cpu.index()].current.is_none() {
            self.schedule(cpu, Leaving::Idle);
        }
    }

    /// Finds what a CPU runs next, and switches to that.
    pub(super) fn schedule(mut self, cpu: CpuId, leaving: Leaving) {
        self.note_happenings();
        let next = self.kernel.schedule(cpu, leaving);
        let at_ns = self.kernel.at();
        let spent_ns = at_ns - self.kernel.path_ns;
        self.measures.overhead_ns += spent_ns;
        if next == Next::Same {
            self.kernel.cpus[cpu.index()].since_ns = at_ns;
            return self.plan(cpu);
        }
        if let Leaving::Blocked(task) | Leaving::Runnable(task) = leaving {
            self.trace_run(cpu, task);
            self.leave(task);
        }
        if let Next::Task(task) = next {
            self.begin_run(cpu, task);
        }
    }

    /// A task has left its CPU.
    pub(super) fn leave(mut self, task: TaskId) {
        let at_ns = self.kernel.at();
        let t = &mut self.tasks[task.index()];
        if t.state == State::Running {
            t.state = State::Runnable;
            t.account.runnable_since_ns = at_ns;
        }
    }

    /// A task has got a CPU.
    fn begin_run(mut self, cpu: CpuId, task: TaskId) {
        self.measures.switches += 1;
        let at_ns = self.kernel.at();
        let account = &self.tasks[task.index()].account;
        let waited = self.kernel.cpus[cpu.index()].waited;
        let flow = waited.filter(|&seq| seq == account.flow_seq).map(|_| account.flow);
        let run = &mut self.runs[cpu.index()];
        (run.started_ns, run.flow) = (at_ns, flow);
        if self.is_thread(task) {
            self.tasks[task.index()].state = State::Running;
            self.thread_running(task.index());
        } else {
            let t = &mut self.tasks[task.index()];
            t.state = State::Running;
            let delay_ns = at_ns.saturating_sub(t.account.runnable_since_ns);
            t.account.waited_ns += delay_ns;
            let group = t.group;
            self.measures.groups[group].run_delay.record(delay_ns);
            self.pay_for_move(task, cpu);
        }
        self.plan(cpu);
    }

    /// A task that ran on another CPU finds its caches cold.
    fn pay_for_move(mut self, task: TaskId, cpu: CpuId) {
        let ran_on = self.tasks[task.index()].account.ran_on.replace(cpu);
        let Some(from) = ran_on.filter(|&from| from != cpu) else { return };
        let kernel = self.kernel;
        let (c, costs) = (&kernel.cpus[cpu.index()], &kernel.costs);
        let moves = &mut self.measures.moves;
        let cost_ns = if c.siblings.contains(from) {
            moves.in_core += 1;
            0
        } else if c.l3.contains(from) {
            moves.in_l3 += 1;
            costs.move_core
        } else if c.node.contains(from) {
            moves.in_node += 1;
            costs.move_l3
        } else {
            moves.between_nodes += 1;
            costs.move_node
        };
        self.tasks[task.index()].left_ns += cost_ns;
    }
}
