//! A task of the simulated machine: what the kernel and the BPF side know of it, and how far its
//! program is.
//!
//! Invariant: a runnable task that does not run is on exactly one queue: a DSQ ([`SimTask::on`]) or
//! the local queue of a CPU.

use super::dsq::{DsqId, Position};
use super::workload::Loops;
use crate::abi;
use crate::cpuset::CpuSet;
use crate::ids::CpuId;

/// No domain, in the fields that BPF keeps as numbers.
pub const NO_DOMAIN: u32 = abi::none_NO_DOMAIN;

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
    /// The CPU that it is on or was on last.
    pub cpu: CpuId,
    /// The CPUs that it may use; `None`: all, of which there are several.
    pub cpus: Option<CpuSet>,
    pub weight: u32,
    /// CPU time left until its program goes on.
    pub left_ns: u64,
    /// What is left of its slice.
    pub slice_left_ns: u64,
    /// The DSQ that it is on, and its position there.
    pub on: Option<(DsqId, Position)>,
    pub program: Program,
    pub bpf: TaskCtx,
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

/// What the BPF side knows of a task; the fields are those of `struct task_ctx` in
/// `bpf/state.bpf.h`.
#[derive(Debug)]
pub struct TaskCtx {
    pub seq: u64,
    pub decided_seq: u64,
    pub asked_seq: u64,
    pub runnable_ns: u64,
    pub used_ns: u64,
    pub burst_ns: u64,
    pub usual_ns: u64,
    pub started_ns: u64,
    pub vtime: u64,
    pub by_net: bool,
    pub carried: abi::carried,
    pub slice_ns: u64,
    pub policy_vtime: u64,
    /// Its key in the DSQ that it is on (`dsq_vtime` of the kernel's task).
    pub dsq_vtime: u64,
    pub policy_vtime_used_ns: u64,
    pub vtime_rate: u32,
    pub stands: u32,
    pub stands_vtime_rate: u32,
    pub stands_weight: u32,
    pub stands_max_lag: u64,
    pub stands_since_ns: u64,
    pub home: u32,
    pub waits_on: Option<DsqId>,
    pub notified: u32,
    pub unnotified: bool,
    pub ready_on: Option<DsqId>,
    pub decided_by: u32,
    pub away_in: u32,
    pub away: u32,
    pub puller: u32,
    pub pulls: u32,
    pub free: bool,
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
    /// Voluntary context switches, as the kernel counts them.
    pub switches: u64,
    /// The CPU that it ran on last.
    pub ran_on: Option<CpuId>,
    /// The trace's flow of its current wait on a queue, or of the last.
    pub flow: u64,
}

impl SimTask {
    /// A task that has not been created.
    pub fn unborn(group: usize) -> SimTask {
        SimTask {
            group,
            state: State::Unborn,
            cpu: CpuId(0),
            cpus: None,
            weight: crate::policy::DEFAULT_WEIGHT,
            left_ns: 0,
            slice_left_ns: 0,
            on: None,
            program: Program::default(),
            bpf: TaskCtx {
                seq: 0,
                decided_seq: 0,
                asked_seq: 0,
                runnable_ns: 0,
                used_ns: 0,
                burst_ns: 0,
                usual_ns: 0,
                started_ns: 0,
                vtime: 0,
                by_net: false,
                carried: abi::carried { memo: [0; 2], used_ns: 0, switches: 0, at_ns: 0 },
                slice_ns: 0,
                policy_vtime: 0,
                dsq_vtime: 0,
                policy_vtime_used_ns: 0,
                vtime_rate: 0,
                stands: 0,
                stands_vtime_rate: 0,
                stands_weight: 0,
                stands_max_lag: 0,
                stands_since_ns: 0,
                home: NO_DOMAIN,
                waits_on: None,
                notified: 0,
                unnotified: false,
                ready_on: None,
                decided_by: NO_DOMAIN,
                away_in: NO_DOMAIN,
                away: 0,
                puller: NO_DOMAIN,
                pulls: 0,
                free: false,
            },
            account: Account::default(),
        }
    }

    /// Whether it may use a CPU.
    pub fn may_use(&self, cpu: CpuId) -> bool {
        self.cpus.as_ref().is_none_or(|cpus| cpus.contains(cpu))
    }

    /// The one CPU that it may use, if it is bound.
    pub fn bound_to(&self) -> Option<CpuId> {
        let cpus = self.cpus.as_ref()?;
        (cpus.len() == 1).then(|| cpus.first()).flatten()
    }
}
