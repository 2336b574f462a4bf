//! The real-time class (SCHED_FIFO): its tasks get a CPU before any task of sched_ext, and the kernel
//! moves them to where none of at least their priority runs.
//!
//! Simplified: tasks wait in one line for all CPUs. In the kernel each CPU has one, and pushes and
//! pulls them with the same effect.
//!
//! Invariant: a real-time task is in the line, runs or sleeps, and is never on a queue of sched_ext.

use super::native;
use super::schedule::Leaving;
use super::{K, Kernel};
use crate::ids::CpuId;
use crate::simulator::TaskId;

impl Kernel {
    /// The real-time priority of what runs on a CPU; 0: none does.
    fn real_time_on(&self, cpu: CpuId) -> u8 {
        self.cpus[cpu.index()].current.map_or(0, |task| self.task(task).real_time)
    }

    /// The CPU that a task preempts: its last one if no task of its priority runs there, or else
    /// that of the lowest priority, an idle one first.
    fn to_preempt(&self, id: TaskId) -> Option<CpuId> {
        let task = self.task(id);
        let allowed =
            |&cpu: &CpuId| task.may_run_on(cpu) && self.real_time_on(cpu) < task.real_time;
        let busy =
            |cpu: &CpuId| (self.real_time_on(*cpu), self.cpus[cpu.index()].current.is_some(), *cpu);
        Some(task.cpu())
            .filter(allowed)
            .or_else(|| self.online.iter().filter(allowed).min_by_key(busy))
    }

    /// Removes from the line the task that a CPU runs before all others, if there is one of a higher
    /// priority than `than`.
    pub(super) fn take_real_time(&mut self, cpu: CpuId, than: u8) -> Option<TaskId> {
        let may_run = |&at: &usize| {
            let task = self.task(self.real_time[at]);
            task.real_time > than && task.may_run_on(cpu)
        };
        // Of equal ones the first has waited longest.
        let priority = |at: &usize| std::cmp::Reverse(self.task(self.real_time[*at]).real_time);
        let at = (0..self.real_time.len()).filter(may_run).min_by_key(priority)?;
        Some(self.real_time.remove(at))
    }
}

impl K {
    /// A real-time task waits for a CPU, behind others of its priority or before them.
    pub(super) fn line_up(mut self, id: TaskId, first: bool) {
        let at = if first { 0 } else { self.real_time.len() };
        self.real_time.insert(at, id);
        if let Some(cpu) = self.to_preempt(id) {
            self.kick(cpu, true);
        }
    }

    /// A real-time task gets a CPU. `switch_class()`: if a task of sched_ext leaves, ops.cpu_release
    /// says so.
    pub(super) fn switch_to_real_time(mut self, cpu: CpuId, task: TaskId, leaving: Leaving) {
        self.leave(leaving);
        if leaving == Leaving::Idle {
            self.update_idle(cpu, false);
        }
        let c = &mut self.cpus[cpu.index()];
        c.current = Some(task);
        c.waited = None;
        c.nr_running += 1;
        let t = self.task_mut(task);
        assert!(t.may_run_on(cpu), "{task:?} may not run on {cpu:?}");
        t.c.cpu = cpu.0 as i32;
        t.c.on_cpu = true;
        if let Leaving::Blocked(left) | Leaving::Runnable(left) = leaving
            && self.task(left).real_time == 0
        {
            let mut args = native::scx_cpu_release_args { task: self.pointer(task) };
            self.call(|ops| {
                let release = ops.cpu_release.expect("bpf/main.bpf.c has it");
                // SAFETY: as in call(); the arguments outlive the callback.
                unsafe { release(cpu.0 as i32, &raw mut args) }
            });
        }
        self.spend(self.costs.switch);
        let at_ns = self.at();
        self.cpus[cpu.index()].since_ns = at_ns;
        if let Leaving::Runnable(left) = leaving
            && self.task(left).real_time > 0
        {
            self.line_up(left, true);
        }
    }

    /// A real-time task leaves a CPU that it may no longer use.
    pub(super) fn migrate_real_time(mut self, id: TaskId) {
        let cpu = self.task(id).cpu();
        let at_ns = self.at();
        let c = &mut self.cpus[cpu.index()];
        c.current = None;
        c.nr_running -= 1;
        c.idle_since_ns = at_ns;
        let task = self.task_mut(id);
        task.c.on_cpu = false;
        task.leaves_cpu_ns = at_ns;
        self.line_up(id, false);
    }

    /// A task that runs on this CPU changes its class, or only its real-time priority.
    pub fn set_class(mut self, id: TaskId, real_time: u8) {
        let was = self.task(id).real_time;
        if was == real_time {
            return;
        }
        let cpu = self.task(id).cpu();
        self.lock_run_queue(cpu);
        self.rq_clock_ns = self.at();
        let p = self.pointer(id);
        if was == 0 {
            self.stopping(id, false);
            self.dequeue(id);
            self.cpus[cpu.index()].nr_running += 1;
            self.call(|ops| {
                let disable = ops.disable.expect("bpf/main.bpf.c has it");
                // SAFETY: as in call(); the task outlives the callback.
                unsafe { disable(p) }
            });
        }
        self.task_mut(id).set_class(real_time);
        if real_time == 0 {
            let mask = &raw const self.task(id).c.cpus_mask;
            self.call(|ops| {
                let (enable, set_cpumask) = (ops.enable, ops.set_cpumask);
                let (enable, set_cpumask) =
                    enable.zip(set_cpumask).expect("bpf/main.bpf.c has them");
                // SAFETY: as above; the mask is the task's.
                unsafe {
                    enable(p);
                    set_cpumask(p, mask);
                }
            });
            self.task_mut(id).set_queued(true);
            self.running(id);
        }
        // Another one may go before it now.
        self.kick(cpu, true);
        self.unlock_run_queue(cpu);
    }
}
