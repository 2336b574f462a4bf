//! A task becomes runnable: the kernel's `try_to_wake_up()`, `wake_up_new_task()` and
//! `do_enqueue_task()`; and what changes a task that is runnable.
//!
//! Invariant: a task whose wake-up is handed over to another CPU is on no queue until that CPU has
//! carried it out.

use super::native;
use super::task::{On, TASK_RUNNING};
use super::{K, Kernel};
use crate::cpuset::CpuSet;
use crate::ids::CpuId;
use crate::simulator::TaskId;
use crate::simulator::events::Event;

/// How a task comes to be runnable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// It has slept.
    Up,
    /// It has slept, and its waker says that it is about to sleep.
    Sync,
    /// It is new.
    New,
}

impl K {
    /// A task that sleeps, or is new, becomes runnable by what this CPU does.
    pub fn wake_up(mut self, id: TaskId, wake: Wake) {
        self.try_to_wake_up(id, wake);
        self.make_kicks();
    }

    fn try_to_wake_up(mut self, id: TaskId, wake: Wake) {
        while self.interleaving.is_some() && self.task(id).c.on_cpu {
            self.spin();
        }
        let (cpu, leaves_ns) = (self.task(id).cpu(), self.task(id).leaves_cpu_ns);
        if leaves_ns > self.at() && cpu != self.here && wake != Wake::New {
            // It is still on its way off its CPU, which wakes it up itself, or is waited for.
            if self.hands_over(cpu) {
                return self.events.at(leaves_ns, Event::HandedOver { task: id, cpu });
            }
            self.spend(leaves_ns - self.at());
        }
        self.rq_clock_ns = self.at();
        if self.task(id).real_time > 0 {
            self.task_mut(id).c.__state = TASK_RUNNING;
            return self.line_up(id, false);
        }
        let flags = match wake {
            Wake::Up => native::SCX_WAKE_TTWU,
            Wake::Sync => native::SCX_WAKE_TTWU | native::SCX_WAKE_SYNC,
            Wake::New => native::SCX_WAKE_FORK,
        };
        let (cpu, selected) = self.select_run_queue(id, flags);
        self.task_mut(id).c.cpu = cpu.0 as i32;
        if wake == Wake::New {
            return self.activate(id, 0);
        }
        if self.hands_over(cpu) {
            let at_ns = self.at() + self.costs.kick;
            return self.events.at(at_ns, Event::HandedOver { task: id, cpu });
        }
        let selected = if selected { native::SCX_ENQ_CPU_SELECTED } else { 0 };
        self.activate(id, native::SCX_ENQ_WAKEUP | selected);
    }

    /// Whether a wake-up for a CPU is carried out there, by an interrupt: `ttwu_queue_cond()`.
    fn hands_over(self, cpu: CpuId) -> bool {
        if self.flags & native::SCX_OPS_ALLOW_QUEUED_WAKEUP == 0 {
            return false;
        }
        let c = &self.cpus[cpu.index()];
        !c.l3.contains(self.here) || cpu != self.here && c.nr_running == 0
    }

    /// A wake-up that was handed over arrives at its CPU.
    pub fn receive_wake_up(self, id: TaskId) {
        self.activate(id, native::SCX_ENQ_WAKEUP);
    }

    /// The CPU on whose run queue a task goes, and whether ops.select_cpu has said so.
    fn select_run_queue(mut self, id: TaskId, wake_flags: u64) -> (CpuId, bool) {
        let task = self.task(id);
        let prev = task.cpu();
        if task.c.nr_cpus_allowed == 1 {
            let allowed = task.c.cpus_mask;
            let only = super::idle::cpus_of(&allowed).first();
            return (only.expect("a task may use a CPU"), false);
        }
        if task.migration_disabled {
            return (prev, false);
        }
        self.scheduling_events += 1;
        self.inserting = Some(id);
        let p = self.pointer(id);
        let chosen = self.call(|ops| {
            let select_cpu = ops.select_cpu.expect("bpf/main.bpf.c has it");
            // SAFETY: as in call(); the task outlives the callback.
            unsafe { select_cpu(p, prev.0 as i32, wake_flags) }
        });
        self.inserting = None;
        let chosen = CpuId(chosen as u32);
        if self.online.contains(chosen) && self.task(id).may_use(chosen) {
            return (chosen, true);
        }
        let allowed = self.task(id).c.cpus_mask;
        (self.distribute(&allowed, &allowed).expect("a task may use a CPU"), true)
    }

    /// Puts a task on the run queue of its CPU: `activate_task()`, `wakeup_preempt()`.
    fn activate(mut self, id: TaskId, enq_flags: u64) {
        let cpu = self.task(id).cpu();
        self.lock_run_queue(cpu);
        self.rq_clock_ns = self.at();
        self.task_mut(id).set_queued(true);
        self.cpus[cpu.index()].nr_running += 1;
        self.enqueue(id, enq_flags);
        self.task_mut(id).c.__state = TASK_RUNNING;
        if self.cpus[cpu.index()].current.is_none() {
            self.kick(cpu, false);
        }
        self.unlock_run_queue(cpu);
    }

    /// Removes a task from its run queue.
    pub(super) fn dequeue(mut self, id: TaskId) {
        self.unlink(id);
        let cpu = self.task(id).cpu();
        let task = self.task_mut(id);
        task.set_queued(false);
        task.c.scx.ddsp_dsq_id = native::SCX_DSQ_INVALID;
        self.cpus[cpu.index()].nr_running -= 1;
    }

    /// As `do_enqueue_task()`: ops.enqueue says on which queue the task goes, and the insertion
    /// comes after it.
    pub(super) fn enqueue(mut self, id: TaskId, enq_flags: u64) {
        let task = self.task(id);
        let is_exiting = task.is_exiting() && self.flags & native::SCX_OPS_ENQ_EXITING == 0;
        let is_decided = task.c.scx.ddsp_dsq_id != native::SCX_DSQ_INVALID;
        if !is_decided {
            if is_exiting || task.migration_disabled {
                self.task_mut(id).c.scx.slice = native::SCX_SLICE_DFL;
                return self.insert_local(id);
            }
            self.scheduling_events += 1;
            self.inserting = Some(id);
            let p = self.pointer(id);
            self.call(|ops| {
                let enqueue = ops.enqueue.expect("bpf/main.bpf.c has it");
                // SAFETY: as in call(); the task outlives the callback.
                unsafe { enqueue(p, enq_flags) }
            });
            self.inserting = None;
            self.pause();
        }
        self.carry_out_insertion(id);
    }

    /// Puts a task on the queue that ops.select_cpu or ops.enqueue has named.
    fn carry_out_insertion(mut self, id: TaskId) {
        let scx = &mut self.task_mut(id).c.scx;
        let dsq = std::mem::replace(&mut scx.ddsp_dsq_id, native::SCX_DSQ_INVALID);
        let vtime = scx.dsq_vtime;
        let preempts = scx.ddsp_enq_flags & native::SCX_ENQ_PREEMPT != 0;
        match dsq {
            native::SCX_DSQ_INVALID => panic!("bpf/enqueue.bpf.h puts every task on a queue"),
            native::SCX_DSQ_LOCAL if preempts => self.preempt(id),
            native::SCX_DSQ_LOCAL => self.insert_local(id),
            _ => self.insert(id, dsq, vtime),
        }
    }

    fn insert_local(mut self, id: TaskId) {
        let cpu = self.task(id).cpu();
        self.task_mut(id).on = On::Local;
        let c = &mut self.cpus[cpu.index()];
        c.local.push_back(id);
        if c.current.is_none() && !c.in_balance {
            self.kick(cpu, false);
        }
    }

    /// A task goes before the others of its CPU's local queue, and what runs there gives way: as
    /// `dispatch_enqueue()` with SCX_ENQ_PREEMPT.
    fn preempt(mut self, id: TaskId) {
        let cpu = self.task(id).cpu();
        self.insert_local(id);
        self.cpus[cpu.index()].local.rotate_right(1);
        let Some(current) = self.cpus[cpu.index()].current else { return };
        if current != id && self.task(current).real_time == 0 {
            self.task_mut(current).c.scx.slice = 0;
            self.kick(cpu, true);
        }
    }

    /// A task may use other CPUs from now on. If it runs it remains where it is for now, as the
    /// answer says.
    pub fn set_cpus_allowed(mut self, id: TaskId, cpus: &CpuSet) -> bool {
        let runs = self.take_aside(id);
        self.task_mut(id).set_cpus(cpus);
        if self.task(id).real_time > 0 {
            // The scheduler hears of it when the task comes back to it.
            return self.task(id).may_use(self.task(id).cpu());
        }
        let p = self.pointer(id);
        let mask = &raw const self.task(id).c.cpus_mask;
        self.call(|ops| {
            let set_cpumask = ops.set_cpumask.expect("bpf/main.bpf.c has it");
            // SAFETY: as in call(); the task and its mask outlive the callback.
            unsafe { set_cpumask(p, mask) }
        });
        self.put_back(id, runs);
        self.task(id).may_use(self.task(id).cpu())
    }

    /// A task has another weight from now on.
    pub fn set_weight(mut self, id: TaskId, weight: u32) {
        if self.task(id).c.scx.weight == weight {
            return;
        }
        let runs = self.take_aside(id);
        self.task_mut(id).c.scx.weight = weight;
        self.put_back(id, runs);
    }

    /// Dequeues a task for a change of its attributes, and answers whether it runs.
    pub(super) fn take_aside(mut self, id: TaskId) -> bool {
        let runs = self.task(id).c.on_cpu && self.task(id).real_time == 0;
        if runs {
            self.lock_run_queue(self.task(id).cpu());
            self.rq_clock_ns = self.at();
            self.stopping(id, false);
            self.dequeue(id);
        }
        runs
    }

    pub(super) fn put_back(mut self, id: TaskId, runs: bool) {
        if runs {
            let cpu = self.task(id).cpu();
            self.task_mut(id).set_queued(true);
            self.cpus[cpu.index()].nr_running += 1;
            self.running(id);
            self.unlock_run_queue(cpu);
        }
    }

    /// The kernel's migration thread moves a running task off a CPU that it may no longer use.
    pub fn migrate(mut self, id: TaskId) {
        self.rq_clock_ns = self.at();
        let from = self.task(id).cpu();
        self.here = from;
        if self.task(id).real_time > 0 {
            return self.migrate_real_time(id);
        }
        self.lock_run_queue(from);
        self.put_previous(id, false);
        let at_ns = self.at();
        let c = &mut self.cpus[from.index()];
        c.current = None;
        c.idle_since_ns = at_ns;
        self.dequeue(id);
        self.unlock_run_queue(from);
        let allowed = self.task(id).c.cpus_mask;
        let to = self.distribute(&allowed, &allowed).expect("a task may use a CPU");
        self.spend(self.costs.take_over);
        let at_ns = self.at();
        let task = self.task_mut(id);
        task.c.cpu = to.0 as i32;
        task.c.on_cpu = false;
        task.leaves_cpu_ns = at_ns;
        self.activate(id, 0);
    }
}

impl Kernel {
    /// Removes a task from the queue that it is on.
    pub(super) fn unlink(&mut self, id: TaskId) {
        let cpu = self.task(id).cpu();
        match std::mem::replace(&mut self.task_mut(id).on, On::Nothing) {
            On::Nothing => (),
            On::Local => self.cpus[cpu.index()].local.retain(|&other| other != id),
            On::Dsq(dsq, position) => {
                self.lock(dsq);
                self.dsq_mut(dsq).remove(id, position);
            }
        }
    }

    /// Puts a task on a DSQ, which orders it by `vtime`.
    pub(super) fn insert(&mut self, id: TaskId, dsq: u64, vtime: u64) {
        self.lock(dsq);
        let position = self.dsq_mut(dsq).insert(id, vtime);
        let task = self.task_mut(id);
        debug_assert_eq!(task.on, On::Nothing);
        task.on = On::Dsq(dsq, position);
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::super::groups::ROOT;
    use super::super::task::Birth;
    use super::*;
    use crate::ids::DomainId;
    use crate::kernel::options::RunOptions;
    use crate::simulator::costs::Costs;
    use crate::topology::preference::{Prefer, Preferences};
    use crate::topology::{Granularity, Source, Topology};

    /// A kernel of two CPUs, which are idle: its domain thread is task 0, and tasks 1 and 2 sleep.
    pub fn kernel() -> K {
        let machine = Source::Synthetic("L3Cache:1 Core:2 PU:1".to_owned());
        let machine = Topology::load(&machine).unwrap();
        let domains = machine.partition(Granularity::L3).unwrap();
        let (options, none) = (RunOptions::default(), CpuSet::EMPTY);
        let preferences = Preferences::new(&domains, Prefer::None, &none);
        let costs = Costs::default();
        let kernel =
            Kernel::load(&machine, &domains, &options, &preferences, &none, costs, 1).unwrap();
        kernel.attach(&domains).unwrap();
        for (id, thread_of) in [(0, Some(DomainId(0))), (1, None), (2, None)] {
            let (name, cpus) = ("task", machine.cpus());
            let birth = Birth {
                flags: 0,
                name,
                cpu: CpuId(0),
                cpus,
                weight: 100,
                real_time: 0,
                group: ROOT,
            };
            kernel.create(TaskId(id), &birth, thread_of).unwrap();
        }
        kernel
    }
}

#[cfg(test)]
mod tests {
    use super::super::schedule::{Leaving, Next};
    use super::testing::kernel;
    use super::*;

    /// The CPU on which task 2 wakes up, which ran on CPU 0 last, while task 1 runs there.
    fn woken_on(wake: Wake) -> CpuId {
        let mut kernel = kernel();
        kernel.here = CpuId(0);
        kernel.wake_up(TaskId(1), Wake::Up);
        assert_eq!(kernel.schedule(CpuId(0), Leaving::Idle), Next::Task(TaskId(1)));
        kernel.wake_up(TaskId(2), wake);
        let cpu = kernel.task(TaskId(2)).cpu();
        // SAFETY: no handle is used any more.
        unsafe { kernel.free() };
        cpu
    }

    #[test]
    fn a_waker_that_is_about_to_sleep_gives_its_cpu() {
        assert_eq!(woken_on(Wake::Up), CpuId(1));
        assert_eq!(woken_on(Wake::Sync), CpuId(0));
    }

    /// In a guest whose host stops a CPU at this point, the time until the insertion has no bound.
    #[test]
    fn a_task_is_found_that_is_inserted_long_after_it_was_sent() {
        let mut kernel = kernel();
        kernel.here = CpuId(0);
        kernel.wake_up(TaskId(1), Wake::Up);
        assert_eq!(kernel.schedule(CpuId(0), Leaving::Idle), Next::Task(TaskId(1)));
        let (task, idle) = (TaskId(2), CpuId(1));
        kernel.task_mut(task).set_queued(true);
        kernel.cpus[0].nr_running += 1;
        kernel.inserting = Some(task);
        let p = kernel.pointer(task);
        kernel.call(|ops| {
            let enqueue = ops.enqueue.unwrap();
            // SAFETY: as in call(); the task outlives the callback.
            unsafe { enqueue(p, native::SCX_ENQ_WAKEUP) }
        });
        let sent_to = u64::from(native::DSQ_OWN) | u64::from(idle.0);
        assert_eq!(kernel.task(task).c.scx.ddsp_dsq_id, sent_to);
        assert_eq!(kernel.cpus[0].to_kick, [(idle, false)]);
        for _ in 0..10 {
            assert_eq!(kernel.schedule(idle, Leaving::Idle), Next::Idle);
        }
        kernel.carry_out_insertion(task);
        assert_eq!(kernel.schedule(idle, Leaving::Idle), Next::Task(task));
        // SAFETY: no handle is used any more.
        unsafe { kernel.free() };
    }
}
