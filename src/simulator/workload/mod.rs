//! What the tasks of a workload do: the plain result of reading a file in rt-app's format.
//!
//! `json` reads the text, `parse` checks it and numbers the names, `shipped` are the workloads that
//! come with the program. The simulator runs a [`Workload`] in virtual time; `tools/play.rs` runs
//! the same one with real threads.
//!
//! Invariant: every number in a [`Step`] (a mutex, a condition, a group, ...) is below the count
//! that its [`Workload`] states, and a phase has at least one step.

mod json;
mod parse;
mod shipped;

pub use shipped::SHIPPED;

use crate::cpuset::CpuSet;
use anyhow::{Context, Result};
use std::path::Path;
use std::time::Duration;

/// The largest number of tasks that a workload may start with.
pub const MAX_TASKS: i64 = 1_000_000;

/// What runs on a machine.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The kinds of task, as the file lists them.
    pub groups: Vec<Group>,
    /// Its cgroups, parents first. The root is none of them.
    pub cgroups: Vec<Cgroup>,
    /// The time it runs; `None`: until all tasks have ended.
    pub duration: Option<Duration>,
    /// How many mutexes its steps name.
    pub mutexes: usize,
    /// How many conditions its steps name.
    pub conditions: usize,
    /// How many semaphores its steps name.
    pub semaphores: usize,
    /// How many shared timers its steps name.
    pub timers: usize,
    /// The number of tasks that meet at each barrier.
    pub barriers: Vec<u32>,
}

/// Tasks that do the same: a thread object of rt-app.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its key.
    pub name: String,
    /// How many tasks there are from the start; others may be forked.
    pub instances: u32,
    /// How long each sleeps before it begins, in nanoseconds.
    pub delay_ns: u64,
    /// How often each runs through its phases.
    pub loops: Loops,
    /// What each does.
    pub phases: Vec<Phase>,
    /// How many timers of its own each task has.
    pub own_timers: usize,
}

/// A cgroup with the CPU controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Its path, which begins with a slash.
    pub path: String,
    /// The number of its parent; `None`: the root.
    pub parent: Option<usize>,
    /// cpu.weight.
    pub weight: u32,
    /// cpu.idle.
    pub idle: bool,
    /// cpu.max and cpu.max.burst, if it has a limit.
    pub max: Option<Max>,
}

/// A limit of CPU time, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Max {
    /// How much CPU time there is in each period.
    pub quota_us: u64,
    /// How long a period is.
    pub period_us: u64,
    /// How much of what was not used may be used later.
    pub burst_us: u64,
}

/// How often a task repeats a phase or all phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loops {
    /// This many times, at least once.
    Times(u64),
    /// Until the end of the run.
    Forever,
}

/// A part of a task's life.
#[derive(Clone, Debug)]
pub struct Phase {
    /// How often the task runs through its steps.
    pub loops: Loops,
    /// The CPUs that the task may use from here on; `None`: no change.
    pub cpus: Option<CpuSet>,
    /// The task's share of the CPU from here on; `None`: no change.
    pub priority: Option<Priority>,
    /// The number of the cgroup that the task is in from here on; `None`: no change.
    pub cgroup: Option<usize>,
    /// What the task does.
    pub steps: Vec<Step>,
}

/// The share of the CPU that a task is entitled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// `SCHED_OTHER` with a nice value, -20 to 19.
    Nice(i8),
    /// `SCHED_IDLE`.
    Idle,
    /// `SCHED_FIFO`, with a priority from 1 to 99: it runs before all tasks of the scheduler.
    RealTime(u8),
}

/// The kernel's weights of the nice values -20 to 19 (`sched_prio_to_weight`, kernel/sched/core.c).
const NICE_WEIGHTS: [u32; 40] = [
    88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916, 9548, 7620, 6100, 4904,
    3906, 3121, 2501, 1991, 1586, 1277, 1024, 820, 655, 526, 423, 335, 272, 215, 172, 137, 110, 87,
    70, 56, 45, 36, 29, 23, 18, 15,
];
/// The weight of a task in `SCHED_IDLE` (`WEIGHT_IDLEPRIO`).
const IDLE_WEIGHT: u32 = 3;

impl Priority {
    /// The real-time priority; 0: it has none.
    pub fn real_time(self) -> u8 {
        match self {
            Priority::RealTime(priority) => priority,
            Priority::Nice(_) | Priority::Idle => 0,
        }
    }

    /// The number of its scheduling class for the kernel.
    pub(crate) fn class(self) -> u32 {
        const SCHED_OTHER: u32 = 0;
        const SCHED_FIFO: u32 = 1;
        const SCHED_IDLE: u32 = 5;
        match self {
            Priority::Nice(_) => SCHED_OTHER,
            Priority::RealTime(_) => SCHED_FIFO,
            Priority::Idle => SCHED_IDLE,
        }
    }

    /// The weight that the kernel gives a task in sched_ext: 100 for nice 0, at least 1.
    ///
    /// ```
    /// use scx_manyland::simulator::workload::Priority;
    /// assert_eq!(Priority::Nice(0).weight(), 100);
    /// assert_eq!(Priority::Nice(10).weight(), 11);
    /// ```
    pub fn weight(self) -> u32 {
        let weight = match self {
            Priority::Nice(nice) => NICE_WEIGHTS[(i32::from(nice) + 20).clamp(0, 39) as usize],
            Priority::Idle => IDLE_WEIGHT,
            // It has no part in the shares.
            Priority::RealTime(_) => NICE_WEIGHTS[20],
        };
        ((weight * 100 + 512) / 1024).clamp(1, 10_000)
    }
}

/// One thing that a task does. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Uses the CPU (`run`, `runtime`).
    Run(u64),
    /// Sleeps.
    Sleep(u64),
    /// Sleeps until the next beat of a timer.
    Timer(TimerStep),
    /// Locks a mutex.
    Lock(usize),
    /// Unlocks a mutex.
    Unlock(usize),
    /// Waits for a signal; the mutex is unlocked meanwhile.
    Wait(Meeting),
    /// Signals and waits; the mutex is locked before and unlocked after.
    Sync(Meeting),
    /// Wakes the first task that waits at a condition.
    Signal(usize),
    /// Wakes all tasks that wait at a condition (`broad`, `resume`).
    Broadcast(usize),
    /// Waits for a broadcast.
    Suspend(usize),
    /// Waits until all tasks of a barrier have arrived.
    Barrier(usize),
    /// Increments a semaphore.
    Post(usize),
    /// Increments a semaphore by a write to a pipe, which says that the writer is about to sleep.
    Write(usize),
    /// Waits until it can decrement a semaphore.
    Take(usize),
    /// Yields to a task that waits for the CPU.
    Yield,
    /// Creates a task of a group.
    Fork(usize),
}

/// A condition, and the mutex that protects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meeting {
    /// The condition.
    pub condition: usize,
    /// The mutex.
    pub mutex: usize,
}

/// A use of a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerStep {
    /// The timer.
    pub timer: Timer,
    /// The time between two beats, in nanoseconds.
    pub period_ns: u64,
    /// Whether beats keep their times after a missed one, so that the task catches up.
    pub absolute: bool,
}

/// The number of a timer, and whether tasks share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// A timer that all tasks share.
    Shared(usize),
    /// A timer of the task's own (`unique...`).
    Own(usize),
}

impl Workload {
    /// Reads a workload: a shipped one by its name, or a file.
    ///
    /// ```
    /// use scx_manyland::simulator::workload::Workload;
    /// let build = Workload::load("build")?;
    /// assert!(!build.groups.is_empty());
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// If there is no such file, or it is no workload; the error names the key at fault.
    pub fn load(name: &str) -> Result<Workload> {
        if let Some((_, text)) = SHIPPED.iter().find(|(shipped, _)| *shipped == name) {
            return parse::workload(text).with_context(|| format!("the shipped workload {name}"));
        }
        let text = std::fs::read_to_string(Path::new(name)).with_context(|| {
            let known: Vec<_> = SHIPPED.iter().map(|(name, _)| *name).collect();
            format!(
                "cannot read the workload {name:?} (name a file in rt-app's format, or one of: {})",
                known.join(", ")
            )
        })?;
        Workload::parse(&text).with_context(|| format!("cannot use the workload {name:?}"))
    }

    /// Reads the text of a workload.
    ///
    /// # Errors
    /// If it is no workload; the error names the key at fault.
    pub fn parse(text: &str) -> Result<Workload> {
        parse::workload(text)
    }
}
