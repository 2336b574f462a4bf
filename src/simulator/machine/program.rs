//! What tasks do: the steps of their group's phases, and how they wait for each other.
//!
//! Simplified: a mutex goes to the task that has waited longest, where the kernel's futexes let
//! other tasks in between. Unlocking a mutex that a task does not hold does nothing.
//!
//! Invariant: a blocked task has an alarm, or stands in exactly one line of [`Meetings`].

use super::{Leaving, M};
use crate::ids::CpuId;
use crate::simulator::TaskId;
use crate::simulator::events::Event;
use crate::simulator::kernel::groups::{GroupId, ROOT};
use crate::simulator::kernel::native;
use crate::simulator::kernel::task::Birth;
use crate::simulator::kernel::wakeup::Wake;
use crate::simulator::task::{Program, SimTask, State, passes_left};
use crate::simulator::workload::{Meeting, Phase, Priority, Step, Timer, TimerStep, Workload};
use anyhow::Result;
use std::collections::VecDeque;

/// The cost up to which steps without a run happen at one moment.
const AT_ONCE_NS: u64 = 10_000;

#[derive(Default)]
struct Mutex {
    owner: Option<TaskId>,
    line: VecDeque<TaskId>,
}

#[derive(Default)]
struct Condition {
    /// The tasks that wait, and the mutex that each wants back.
    line: VecDeque<(TaskId, Option<usize>)>,
}

#[derive(Default)]
struct Semaphore {
    count: u64,
    line: VecDeque<TaskId>,
}

#[derive(Default)]
struct Barrier {
    line: Vec<TaskId>,
}

/// Where tasks wait for each other.
pub struct Meetings {
    mutexes: Vec<Mutex>,
    conditions: Vec<Condition>,
    semaphores: Vec<Semaphore>,
    barriers: Vec<Barrier>,
    /// The next beat of each shared timer.
    timers: Vec<Option<u64>>,
}

impl Meetings {
    /// The meetings of a workload, with no task in line.
    pub fn new(workload: &Workload) -> Meetings {
        fn some<T: Default>(count: usize) -> Vec<T> {
            std::iter::repeat_with(T::default).take(count).collect()
        }
        Meetings {
            mutexes: some(workload.mutexes),
            conditions: some(workload.conditions),
            semaphores: some(workload.semaphores),
            barriers: some(workload.barriers.len()),
            timers: some(workload.timers),
        }
    }
}

/// The outcome of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// The next step.
    GoOn,
    /// The task uses the CPU for this time.
    Run(u64),
    /// Sleep until this moment.
    SleepUntil(u64),
    /// Wait for another task.
    Block,
    /// Yield the CPU.
    Yield,
}

impl<'a> M<'a> {
    /// Creates the next of the initial tasks on the first CPU, where the program that starts them
    /// runs.
    pub(super) fn start(self, task: TaskId) -> Result<()> {
        let cpu = self.kernel.online.first().expect("a machine has a CPU");
        self.begin_interrupt(cpu);
        self.create(task, cpu, ROOT)?;
        let next = TaskId(task.0 + 1);
        let initial =
            self.workload.groups.iter().map(|group| u64::from(group.instances)).sum::<u64>();
        if u64::from(next.0) < initial + self.threads.len() as u64 {
            let at_ns = self.kernel.now_ns + self.kernel.costs.fork;
            self.kernel.plan(at_ns, Event::Start(next));
        }
        self.end_interrupt(cpu);
        Ok(())
    }

    /// Creates a task on a CPU; what runs there is its parent, which is in a cgroup.
    fn create(mut self, task: TaskId, cpu: CpuId, parent: GroupId) -> Result<()> {
        let group = self.tasks[task.index()].group;
        let phase = &self.workload.groups[group].phases[0];
        let online = self.kernel.online;
        let cpus = phase.cpus.map_or(online, |cpus| cpus.intersection(&online));
        let cpu = if cpus.contains(cpu) { cpu } else { cpus.first().unwrap_or(cpu) };
        let weight = phase.priority.map_or(crate::policy::DEFAULT_WEIGHT, |it| it.weight());
        let name = &self.workload.groups[group].name;
        let flags = if self.kernel_threads[group] { native::PF_KTHREAD as u32 } else { 0 };
        let real_time = phase.priority.map_or(0, Priority::real_time);
        let group = phase.cgroup.map_or(parent, |number| self.cgroups[number]);
        let birth = Birth { flags, name, cpu, cpus: &cpus, weight, real_time, group };
        self.kernel.create(task, &birth, None)?;
        self.kernel.task_mut(task).c.policy = phase.priority.map_or(0, Priority::class);
        self.tasks[task.index()].account.born_ns = self.kernel.at();
        self.prepare_program(task);
        self.wake(task, Wake::New);
        Ok(())
    }

    /// A task that sleeps, or is new, becomes runnable.
    fn wake(mut self, task: TaskId, wake: Wake) {
        if wake != Wake::New {
            debug_assert_eq!(self.tasks[task.index()].state, State::Blocked);
            self.kernel.spend(self.kernel.costs.wake);
        }
        let at_ns = self.kernel.at();
        let t = &mut self.tasks[task.index()];
        t.state = State::Runnable;
        t.account.runnable_since_ns = at_ns;
        self.kernel.wake_up(task, wake);
    }

    /// A task's sleep ends, by an interrupt on the CPU where it ran last.
    pub(super) fn alarm(self, task: TaskId) {
        let cpu = self.kernel.task(task).cpu();
        self.begin_interrupt(cpu);
        self.wake(task, Wake::Up);
        self.end_interrupt(cpu);
    }

    pub(super) fn prepare_program(mut self, task: TaskId) {
        let workload = self.workload;
        let t = &mut self.tasks[task.index()];
        let group = &workload.groups[t.group];
        t.program = Program {
            phase_left: passes_left(group.phases[0].loops),
            loops_left: passes_left(group.loops),
            timers: vec![None; group.own_timers],
            delay_ns: group.delay_ns,
            ..Program::default()
        };
        self.enter_phase(task);
    }

    fn phase(self, task: TaskId) -> &'a Phase {
        let t = &self.tasks[task.index()];
        &self.workload.groups[t.group].phases[t.program.phase]
    }

    /// Sets the CPUs, the cgroup and the priority of a phase. True if the task may remain on its CPU.
    fn enter_phase(mut self, task: TaskId) -> bool {
        let (cpus, priority) = (self.phase(task).cpus, self.phase(task).priority);
        let online = self.kernel.online;
        let cpus = cpus.map_or(online, |cpus| cpus.intersection(&online));
        let t = &mut self.tasks[task.index()];
        t.program.entered = true;
        // On a machine of one CPU every task is bound to it.
        let restricted = (cpus != online || cpus.len() == 1).then_some(cpus);
        let moves = std::mem::replace(&mut t.cpus, restricted) != restricted;
        if let Some(priority) = priority {
            t.weight = priority.weight();
        }
        if t.state == State::Unborn {
            return true;
        }
        let weight = t.weight;
        if let Some(number) = self.phase(task).cgroup {
            self.kernel.move_to_group(task, self.cgroups[number]);
        }
        self.kernel.set_weight(task, weight);
        if let Some(priority) = priority {
            self.kernel.set_class(task, priority.real_time());
            self.kernel.task_mut(task).c.policy = priority.class();
        }
        !moves || self.kernel.set_cpus_allowed(task, &cpus)
    }

    /// Moves on to the next step; false if the task has ended.
    fn next_step(mut self, task: TaskId) -> bool {
        let groups = &self.workload.groups;
        let t = &mut self.tasks[task.index()];
        let (group, program) = (&groups[t.group], &mut t.program);
        program.step += 1;
        if program.step < group.phases[program.phase].steps.len() {
            return true;
        }
        program.step = 0;
        let number = t.group;
        self.measures.groups[number].passes += 1;
        let program = &mut self.tasks[task.index()].program;
        match &mut program.phase_left {
            None => return true,
            Some(0) => (),
            Some(left) => {
                *left -= 1;
                return true;
            }
        }
        program.phase += 1;
        if program.phase == group.phases.len() {
            program.phase = 0;
            match &mut program.loops_left {
                None => (),
                Some(0) => return false,
                Some(left) => *left -= 1,
            }
        }
        program.phase_left = passes_left(group.phases[program.phase].loops);
        program.entered = group.phases.len() == 1;
        true
    }

    /// The program of a task goes on, on its CPU.
    ///
    /// # Errors
    /// If the kernel's side refuses a task that it forks.
    pub(super) fn go_on(mut self, task: TaskId, cpu: CpuId) -> Result<()> {
        loop {
            if self.tasks[task.index()].program.ended {
                match self.kernel.task(task).is_exiting() {
                    true => self.exit(task, cpu),
                    false => self.begin_exit(task, cpu),
                }
                return Ok(());
            }
            let delay_ns = std::mem::take(&mut self.tasks[task.index()].program.delay_ns);
            if delay_ns > 0 {
                let at_ns = self.kernel.at() + delay_ns;
                self.kernel.plan(at_ns, Event::Alarm(task));
                self.block(task, cpu);
                return Ok(());
            }
            if !self.tasks[task.index()].program.entered && !self.enter_phase(task) {
                self.migrate(task, cpu);
                return Ok(());
            }
            if self.kernel.at() - self.kernel.path_ns >= AT_ONCE_NS {
                self.run_for(task, cpu, 0);
                return Ok(());
            }
            let t = &self.tasks[task.index()];
            let step = self.workload.groups[t.group].phases[t.program.phase].steps[t.program.step];
            let after = self.do_step(task, step)?;
            if !self.next_step(task) {
                self.tasks[task.index()].program.ended = true;
            }
            match after {
                After::GoOn => (),
                After::Run(ns) => {
                    self.run_for(task, cpu, ns);
                    return Ok(());
                }
                After::SleepUntil(time_ns) => {
                    let at_ns = time_ns.max(self.kernel.at());
                    self.kernel.plan(at_ns, Event::Alarm(task));
                    self.block(task, cpu);
                    return Ok(());
                }
                After::Block => {
                    self.block(task, cpu);
                    return Ok(());
                }
                After::Yield => {
                    self.kernel.yield_task(task);
                    self.schedule(cpu, Leaving::Runnable(task));
                    return Ok(());
                }
            }
        }
    }

    /// Uses the CPU for a time and for the costs of the steps before.
    fn run_for(mut self, task: TaskId, cpu: CpuId, ns: u64) {
        let since_ns = self.kernel.cpus[cpu.index()].since_ns;
        self.tasks[task.index()].left_ns = ns + self.kernel.at().saturating_sub(since_ns);
        self.plan(cpu);
    }

    fn block(mut self, task: TaskId, cpu: CpuId) {
        self.kernel.task_mut(task).c.nvcsw += 1;
        self.tasks[task.index()].state = State::Blocked;
        self.schedule(cpu, Leaving::Blocked(task));
    }

    /// A task begins to end, as `do_exit()`: it gives its memory back.
    fn begin_exit(mut self, task: TaskId, cpu: CpuId) {
        self.kernel.task_mut(task).c.flags |= native::PF_EXITING as u32;
        self.run_for(task, cpu, self.kernel.costs.exit);
    }

    /// A task has ended.
    fn exit(mut self, task: TaskId, cpu: CpuId) {
        self.tasks[task.index()].state = State::Dead;
        self.schedule(cpu, Leaving::Blocked(task));
        self.kernel.exit(task);
        self.alive -= 1;
    }

    /// A task leaves a CPU that it may no longer use, by the kernel's migration thread.
    fn migrate(self, task: TaskId, cpu: CpuId) {
        self.kernel.migrate(task);
        self.trace_run(cpu, task);
        self.leave(task);
        self.schedule(cpu, Leaving::Other);
    }

    fn jittered(mut self, ns: u64) -> u64 {
        let by = 1.0 + self.jitter * (2.0 * self.random.f64() - 1.0);
        (ns as f64 * by) as u64
    }

    fn do_step(mut self, task: TaskId, step: Step) -> Result<After> {
        if let Step::Run(ns) = step {
            return Ok(After::Run(self.jittered(ns)));
        }
        self.kernel.spend(self.kernel.costs.step);
        match step {
            Step::Run(ns) => return Ok(After::Run(ns)),
            Step::Sleep(ns) => {
                return Ok(After::SleepUntil(self.kernel.at() + self.jittered(ns)));
            }
            Step::Timer(timer) => return Ok(self.wait_for_timer(task, timer)),
            Step::Lock(mutex) => return Ok(self.lock_mutex(task, mutex)),
            Step::Unlock(mutex) => self.unlock_mutex(task, mutex),
            Step::Wait(meeting) => return Ok(self.wait_at(task, meeting)),
            Step::Sync(meeting) => {
                self.signal(meeting.condition);
                return Ok(self.wait_at(task, meeting));
            }
            Step::Signal(condition) => drop(self.signal(condition)),
            Step::Broadcast(condition) => while self.signal(condition) {},
            Step::Suspend(condition) => {
                self.meetings.conditions[condition].line.push_back((task, None));
                return Ok(After::Block);
            }
            Step::Barrier(barrier) => return Ok(self.meet(task, barrier)),
            Step::Post(semaphore) => self.post(semaphore, Wake::Up),
            Step::Write(semaphore) => self.post(semaphore, Wake::Sync),
            Step::Take(semaphore) => {
                let semaphore = &mut self.meetings.semaphores[semaphore];
                if semaphore.count == 0 {
                    semaphore.line.push_back(task);
                    return Ok(After::Block);
                }
                semaphore.count -= 1;
            }
            Step::Yield => return Ok(After::Yield),
            Step::Fork(group) => self.fork(task, group)?,
        }
        Ok(After::GoOn)
    }

    /// As rt-app: the first use sets the timer's first beat one period ahead; a relative timer that
    /// was missed goes on from now.
    fn wait_for_timer(mut self, task: TaskId, step: TimerStep) -> After {
        let at_ns = self.kernel.at();
        let first_ns = self.tasks[task.index()].account.born_ns;
        let beat = match step.timer {
            Timer::Shared(timer) => &mut self.meetings.timers[timer],
            Timer::Own(timer) => &mut self.tasks[task.index()].program.timers[timer],
        };
        let next_ns = beat.unwrap_or(first_ns) + step.period_ns;
        *beat = Some(next_ns);
        if at_ns < next_ns {
            return After::SleepUntil(next_ns);
        }
        if !step.absolute {
            *beat = Some(at_ns);
        }
        After::GoOn
    }

    fn lock_mutex(mut self, task: TaskId, mutex: usize) -> After {
        let mutex = &mut self.meetings.mutexes[mutex];
        if mutex.owner.is_some() {
            mutex.line.push_back(task);
            return After::Block;
        }
        mutex.owner = Some(task);
        After::GoOn
    }

    fn unlock_mutex(mut self, task: TaskId, number: usize) {
        let mutex = &mut self.meetings.mutexes[number];
        if mutex.owner != Some(task) {
            return;
        }
        mutex.owner = mutex.line.pop_front();
        if let Some(next) = mutex.owner {
            self.wake(next, Wake::Up);
        }
    }

    fn wait_at(mut self, task: TaskId, meeting: Meeting) -> After {
        self.unlock_mutex(task, meeting.mutex);
        self.meetings.conditions[meeting.condition].line.push_back((task, Some(meeting.mutex)));
        After::Block
    }

    /// Wakes the first task that waits for a condition, or puts it in line for its mutex if another
    /// task holds that. False if no task waits.
    fn signal(mut self, condition: usize) -> bool {
        let Some((next, mutex)) = self.meetings.conditions[condition].line.pop_front() else {
            return false;
        };
        if let Some(mutex) = mutex {
            let mutex = &mut self.meetings.mutexes[mutex];
            if mutex.owner.is_some() {
                mutex.line.push_back(next);
                return true;
            }
            mutex.owner = Some(next);
        }
        self.wake(next, Wake::Up);
        true
    }

    fn meet(mut self, task: TaskId, number: usize) -> After {
        let expected = self.workload.barriers[number] as usize;
        let barrier = &mut self.meetings.barriers[number];
        if barrier.line.len() + 1 < expected {
            barrier.line.push(task);
            return After::Block;
        }
        for other in std::mem::take(&mut barrier.line) {
            self.wake(other, Wake::Up);
        }
        After::GoOn
    }

    fn post(mut self, number: usize, wake: Wake) {
        let semaphore = &mut self.meetings.semaphores[number];
        match semaphore.line.pop_front() {
            Some(next) => self.wake(next, wake),
            None => semaphore.count += 1,
        }
    }

    fn fork(mut self, parent: TaskId, group: usize) -> Result<()> {
        self.kernel.spend(self.kernel.costs.fork);
        let child = TaskId(self.tasks.len() as u32);
        self.tasks.push(SimTask::unborn(group));
        self.alive += 1;
        let parent = self.kernel.task(parent);
        self.create(child, parent.cpu(), parent.group)
    }
}
