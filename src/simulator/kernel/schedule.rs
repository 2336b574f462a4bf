//! What a CPU does when it schedules: the kernel's `__schedule()` with sched_ext's `balance_one()`
//! and `put_prev_task_scx()`.
//!
//! A task whose slice is used up is still on the CPU when ops.dispatch is called. Only if that
//! finds another task does the first one stop and go to ops.enqueue.
//!
//! Invariant: after [`Kernel::schedule`] the CPU's `current` is what it runs, and all callbacks of
//! the change were called in the kernel's sequence.

use super::frequency::Frequency;
use super::native;
use super::task::{On, TASK_INTERRUPTIBLE};
use super::{K, Kernel};
use crate::cpuset::CpuSet;
use crate::ids::CpuId;
use crate::simulator::TaskId;
use crate::topology::{Domains, Topology};
use std::collections::VecDeque;

/// A CPU.
pub struct Cpu {
    /// Its domain.
    pub domain: usize,
    /// It and its SMT siblings.
    pub siblings: CpuSet,
    /// The CPUs under its L3; without one, those of its domain.
    pub l3: CpuSet,
    /// The CPUs of its NUMA node.
    pub node: CpuSet,
    /// The task that runs.
    pub current: Option<TaskId>,
    /// The generation of the wait that led to its run; `None`: it found a CPU without waiting.
    pub waited: Option<u64>,
    /// The moment up to which its run is accounted for.
    pub since_ns: u64,
    /// When its current path through the kernel ends, if nothing runs.
    pub in_kernel_until_ns: u64,
    /// When it last became idle.
    pub idle_since_ns: u64,
    /// By how much its clock is behind until the next tick.
    pub behind_ns: u64,
    /// The kernel's local queue.
    pub local: VecDeque<TaskId>,
    /// The runnable tasks whose run queue is this CPU's.
    pub nr_running: u32,
    /// The CPUs that bpf/ wants kicked from here, and whether they schedule even if busy.
    pub(super) to_kick: Vec<(CpuId, bool)>,
    /// A kick is on its way.
    pub(super) kicked: bool,
    /// It is not only for an idle CPU.
    pub(super) kicked_anyway: bool,
    /// It is in the middle of [`Kernel::schedule`].
    pub(super) in_balance: bool,
    /// The last CPU that a search from here has found.
    pub(super) distributed: u32,
    /// What is asked of its frequency.
    pub frequency: Frequency,
}

impl Cpu {
    /// The CPUs below number `count`, on which nothing runs.
    pub fn all(topology: &Topology, domains: &Domains, count: usize, now_ns: u64) -> Vec<Cpu> {
        let around = |sets: &[CpuSet], cpu| sets.iter().find(|set| set.contains(cpu)).copied();
        let nodes: Vec<_> = topology.numa_nodes().iter().map(|node| node.cpus).collect();
        let cpu = |number| {
            let cpu = CpuId(number);
            let domain = domains.domain_of(cpu);
            let own = domain.map_or(CpuSet::EMPTY, |domain| domains[domain].cpus);
            let alone = [cpu].into_iter().collect();
            Cpu {
                domain: domain.map_or(usize::MAX, |domain| domain.index()),
                siblings: around(topology.cores(), cpu).unwrap_or(alone),
                l3: around(topology.l3_caches(), cpu).unwrap_or(own),
                node: around(&nodes, cpu).unwrap_or(*topology.cpus()),
                current: None,
                waited: None,
                since_ns: 0,
                in_kernel_until_ns: 0,
                idle_since_ns: now_ns,
                behind_ns: 0,
                local: VecDeque::new(),
                nr_running: 0,
                to_kick: Vec::new(),
                kicked: false,
                kicked_anyway: false,
                in_balance: false,
                distributed: number,
                frequency: Frequency::of(cpu, domains),
            }
        };
        (0..count as u32).map(cpu).collect()
    }
}

/// What has the CPU when it schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// Nothing: it was idle.
    Idle,
    /// A thread of the kernel's own that is done.
    Other,
    /// A task that blocks or ends.
    Blocked(TaskId),
    /// A task that could go on.
    Runnable(TaskId),
}

/// What it has afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The same task.
    Same,
    /// Another task, or the same one anew.
    Task(TaskId),
    /// Nothing.
    Idle,
}

impl Kernel {
    /// Accounts for what runs on a CPU, up to this moment: the time that it has run since the last
    /// call.
    pub fn update_current(&mut self, cpu: CpuId) -> u64 {
        let now_ns = self.now_ns;
        let c = &mut self.cpus[cpu.index()];
        let Some(current) = c.current else { return 0 };
        let ran_ns = now_ns.saturating_sub(c.since_ns);
        c.since_ns = c.since_ns.max(now_ns);
        let jump_ns = std::mem::take(&mut c.behind_ns);
        let c = &mut self.task_mut(current).c;
        c.scx.slice = c.scx.slice.saturating_sub(ran_ns + jump_ns);
        c.se.sum_exec_runtime += ran_ns + jump_ns;
        ran_ns
    }
}

impl K {
    /// Finds what a CPU runs next, and switches to that.
    pub fn schedule(mut self, cpu: CpuId, leaving: Leaving) -> Next {
        self.here = cpu;
        self.lock_run_queue(cpu);
        self.rq_clock_ns = self.at();
        self.cpus[cpu.index()].in_balance = true;
        if let Leaving::Blocked(task) = leaving {
            self.task_mut(task).c.__state = TASK_INTERRUPTIBLE;
        }
        match leaving {
            Leaving::Blocked(task) if self.task(task).real_time > 0 => {
                self.cpus[cpu.index()].nr_running -= 1;
            }
            Leaving::Blocked(task) => {
                self.stopping(task, false);
                self.dequeue(task);
            }
            Leaving::Idle | Leaving::Other | Leaving::Runnable(_) => (),
        }
        let next = self.pick(cpu, leaving);
        self.cpus[cpu.index()].in_balance = false;
        match next {
            Next::Same => (),
            Next::Task(task) if self.task(task).real_time > 0 => {
                self.switch_to_real_time(cpu, task, leaving);
            }
            Next::Task(task) => self.switch_to(cpu, task, leaving),
            Next::Idle => self.go_idle(cpu, leaving),
        }
        self.unlock_run_queue(cpu);
        next
    }

    /// As `balance_one()`, then `put_prev_task_scx()`.
    fn pick(mut self, cpu: CpuId, leaving: Leaving) -> Next {
        let runnable = match leaving {
            Leaving::Runnable(task) => Some(task),
            Leaving::Idle | Leaving::Other | Leaving::Blocked(_) => None,
        };
        let running = runnable.map_or(0, |task| self.task(task).real_time);
        if let Some(next) = self.take_real_time(cpu, running) {
            self.give_way(cpu, leaving);
            return Next::Task(next);
        }
        if running > 0 {
            return Next::Same;
        }
        if runnable.is_some_and(|task| self.task(task).c.scx.slice > 0) {
            return Next::Same;
        }
        if self.cpus[cpu.index()].local.is_empty() {
            self.dispatch(cpu, leaving);
            if runnable.is_some_and(|task| self.task(task).c.scx.slice > 0) {
                return Next::Same;
            }
        }
        let next = self.cpus[cpu.index()].local.front().copied();
        if let Some(task) = runnable {
            if next.is_none() && self.flags & native::SCX_OPS_ENQ_LAST == 0 {
                self.task_mut(task).c.scx.slice = native::SCX_SLICE_DFL;
                return Next::Same;
            }
            self.put_previous(task, next.is_none());
        }
        next.map_or(Next::Idle, Next::Task)
    }

    /// What has the CPU gives way to a real-time task. sched_ext is asked for work before, unless the
    /// task could go on; what it then puts into the local queue waits there.
    fn give_way(mut self, cpu: CpuId, leaving: Leaving) {
        match leaving {
            Leaving::Runnable(task) if self.task(task).real_time > 0 => {
                self.cpus[cpu.index()].nr_running -= 1;
            }
            Leaving::Runnable(task) => {
                if self.task(task).c.scx.slice == 0 && self.cpus[cpu.index()].local.is_empty() {
                    self.dispatch(cpu, leaving);
                }
                self.put_previous(task, false);
            }
            Leaving::Idle | Leaving::Other | Leaving::Blocked(_) => {
                if self.cpus[cpu.index()].local.is_empty() {
                    self.dispatch(cpu, leaving);
                }
            }
        }
    }

    /// A runnable task leaves its CPU, which has nothing else to run if it is the `last`.
    pub(super) fn put_previous(mut self, task: TaskId, last: bool) {
        self.stopping(task, true);
        if self.task(task).c.scx.slice > 0 {
            let cpu = self.task(task).cpu();
            self.cpus[cpu.index()].local.push_front(task);
            self.task_mut(task).on = On::Local;
        } else {
            self.enqueue(task, if last { native::SCX_ENQ_LAST } else { 0 });
        }
    }

    fn dispatch(mut self, cpu: CpuId, leaving: Leaving) {
        self.scheduling_events += 1;
        self.spend(self.costs.dispatch);
        let previous = match leaving {
            Leaving::Blocked(task) | Leaving::Runnable(task) if self.task(task).real_time == 0 => {
                self.pointer(task)
            }
            _ => std::ptr::null_mut(),
        };
        self.walked = 0;
        self.call(|ops| {
            let dispatch = ops.dispatch.expect("bpf/main.bpf.c has it");
            // SAFETY: as in call(); the task outlives the callback.
            unsafe { dispatch(cpu.0 as i32, previous) }
        });
        self.longest_walk = self.longest_walk.max(self.walked);
    }

    /// ops.running.
    pub(super) fn running(mut self, task: TaskId) {
        self.scheduling_events += 1;
        let p = self.pointer(task);
        self.call(|ops| {
            let running = ops.running.expect("bpf/main.bpf.c has it");
            // SAFETY: as in call(); the task outlives the callback.
            unsafe { running(p) }
        });
    }

    /// ops.stopping.
    pub(super) fn stopping(mut self, task: TaskId, runnable: bool) {
        self.scheduling_events += 1;
        let p = self.pointer(task);
        self.call(|ops| {
            let stopping = ops.stopping.expect("bpf/main.bpf.c has it");
            // SAFETY: as in call(); the task outlives the callback.
            unsafe { stopping(p, runnable) }
        });
    }

    /// The tick of a CPU on which the task runs: `task_tick_scx()`.
    pub fn tick(mut self, task: TaskId) {
        if self.task(task).real_time > 0 {
            return;
        }
        self.here = self.task(task).cpu();
        self.rq_clock_ns = self.at();
        let p = self.pointer(task);
        self.call(|ops| {
            if let Some(tick) = ops.tick {
                // SAFETY: as in call(); the task outlives the callback.
                unsafe { tick(p) }
            }
        });
    }

    /// sched_yield() by the task that runs on a CPU, before that schedules: `yield_task_scx()`.
    pub fn yield_task(mut self, task: TaskId) {
        if self.task(task).real_time > 0 {
            return;
        }
        let cpu = self.task(task).cpu();
        self.here = cpu;
        self.lock_run_queue(cpu);
        self.rq_clock_ns = self.at();
        self.scheduling_events += 1;
        let p = self.pointer(task);
        self.call(|ops| {
            let yield_ = ops.yield_.expect("bpf/main.bpf.c has it");
            // SAFETY: as in call(); the task outlives the callback.
            unsafe { yield_(p, std::ptr::null_mut()) }
        });
        self.unlock_run_queue(cpu);
    }

    /// The CPU is done with the task that it leaves.
    pub(super) fn leave(mut self, leaving: Leaving) {
        let at_ns = self.at();
        if let Leaving::Blocked(task) | Leaving::Runnable(task) = leaving {
            let task = self.task_mut(task);
            task.c.on_cpu = false;
            task.leaves_cpu_ns = at_ns;
        }
    }

    fn go_idle(mut self, cpu: CpuId, leaving: Leaving) {
        self.leave(leaving);
        let c = &mut self.cpus[cpu.index()];
        c.current = None;
        if leaving == Leaving::Idle {
            // It was idle all along, so only the kernel's masks change: it may have been claimed.
            self.mark_idle(cpu, true);
        } else {
            self.update_idle(cpu, true);
        }
        let at_ns = self.at();
        let c = &mut self.cpus[cpu.index()];
        c.in_kernel_until_ns = at_ns;
        if leaving != Leaving::Idle {
            c.idle_since_ns = at_ns;
        }
    }

    fn switch_to(mut self, cpu: CpuId, task: TaskId, leaving: Leaving) {
        self.leave(leaving);
        if leaving == Leaving::Idle {
            let behind_ns = self.idle_clock_is_behind(&self.cpus[cpu.index()]);
            self.cpus[cpu.index()].behind_ns = behind_ns;
            self.update_idle(cpu, false);
        }
        let c = &mut self.cpus[cpu.index()];
        let first = c.local.pop_front();
        debug_assert_eq!(first, Some(task));
        let t = self.task(task);
        assert!(t.may_run_on(cpu), "{task:?} may not run on {cpu:?}");
        let c = &mut self.cpus[cpu.index()];
        c.current = Some(task);
        let ctx = self.task(task).ctx();
        self.cpus[cpu.index()].waited = (ctx.waits_on != 0).then_some(ctx.seq);
        let t = self.task_mut(task);
        t.on = On::Nothing;
        t.c.on_cpu = true;
        if t.c.scx.slice == 0 {
            t.c.scx.slice = native::SCX_SLICE_DFL;
        }
        self.running(task);
        self.spend(self.costs.switch);
        let at_ns = self.at();
        self.cpus[cpu.index()].since_ns = at_ns;
    }
}
