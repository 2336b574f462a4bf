//! A task of the simulated machine beyond the kernel's part of it ([`super::kernel::task`]): how
//! far its program is, and what it has got.
//!
//! Invariant: its number is that of the kernel's task.

use super::workload::Loops;
use crate::cpuset::CpuSet;
use crate::ids::CpuId;

/// The group of the domain threads, which no workload has.
pub const THREADS: usize = usize::MAX;

/// The state of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not yet created.
    Unborn,
    /// Asleep, or waiting for another task.
    Blocked,
    /// On a queue.
    Runnable,
    /// On its CPU.
    Running,
    /// It has ended.
    Dead,
}

/// A task.
#[derive(Debug)]
pub struct SimTask {
    /// Its group in the workload.
    pub group: usize,
    pub state: State,
    /// The CPUs that it may use; `None`: all, of which there are several.
    pub cpus: Option<CpuSet>,
    pub weight: u32,
    /// CPU time left until its program goes on.
    pub left_ns: u64,
    pub program: Program,
    pub account: Account,
}

/// How far a task is in its group's phases.
#[derive(Debug, Default)]
pub struct Program {
    pub phase: usize,
    pub step: usize,
    /// Passes left through the current phase, after this one; `None`: without end.
    pub phase_left: Option<u64>,
    /// Passes left through all phases.
    pub loops_left: Option<u64>,
    /// Whether the phase's CPUs and priority have been set.
    pub entered: bool,
    /// How long it sleeps before it begins.
    pub delay_ns: u64,
    /// Whether its last step is done.
    pub ended: bool,
    /// The next beat of each of its own timers.
    pub timers: Vec<Option<u64>>,
}

/// The passes that are left after the first; `None`: without end.
pub fn passes_left(loops: Loops) -> Option<u64> {
    match loops {
        Loops::Times(times) => Some(times - 1),
        Loops::Forever => None,
    }
}

/// What the simulator itself counts of a task.
#[derive(Debug, Default)]
pub struct Account {
    /// CPU time, with the costs of its moves and switches.
    pub ran_ns: u64,
    /// Time runnable and not running.
    pub waited_ns: u64,
    /// When it was created.
    pub born_ns: u64,
    /// When it last became runnable.
    pub runnable_since_ns: u64,
    /// The CPU that it ran on last.
    pub ran_on: Option<CpuId>,
    /// The trace's flow of its current wait on a queue or of the last, and the number of that wait.
    pub flow: u64,
    pub flow_seq: u64,
}

impl SimTask {
    /// A task that has not been created.
    pub fn unborn(group: usize) -> SimTask {
        SimTask {
            group,
            state: State::Unborn,
            cpus: None,
            weight: crate::policy::DEFAULT_WEIGHT,
            left_ns: 0,
            program: Program::default(),
            account: Account::default(),
        }
    }

    /// A domain thread.
    pub fn thread() -> SimTask {
        SimTask { state: State::Blocked, ..SimTask::unborn(THREADS) }
    }
}
