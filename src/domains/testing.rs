//! A task, a policy that records its calls, and a scheduler over queues in memory: for tests of one
//! round at a time. (The simulator is for whole machines.)
//!
//! Invariant: a [`Kept`] does what the BPF side does with messages and decisions.

use super::board::Board;
pub use super::queues::{Queues, Sent};
use super::scheduler::{Left, Scheduler};
use crate::abi;
use crate::cpuset::CpuSet;
use crate::ids::{CpuId, Pid};
use crate::policy::{Choice, Context, Policy, Task};
use crate::topology::preference::Place;
use crate::topology::{Domain, Domains, Granularity, Source, Topology};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A task as the BPF side knows it.
#[derive(Clone, Copy)]
pub struct Kept {
    pub pid: u32,
    pub prev_cpu: u32,
    pub seq: u64,
    pub used_ns: u64,
    pub switches: u64,
    pub decided_by: u16,
    pub carried: abi::carried,
}

impl Kept {
    /// A task that has just joined.
    pub fn new(pid: u32) -> Self {
        Self {
            pid,
            prev_cpu: 0,
            seq: 0,
            used_ns: 0,
            switches: 0,
            decided_by: abi::none_NO_DOMAIN as u16,
            carried: abi::carried { memo: [0; 2], used_ns: 0, switches: 0, at_ns: 0 },
        }
    }

    /// A new generation, and its message.
    pub fn queue(&mut self, at_ns: u64) -> abi::notice {
        self.seq += 1;
        abi::notice {
            pid: self.pid,
            cpu: self.prev_cpu,
            seq: self.seq,
            at_ns,
            used_ns: self.used_ns,
            burst_ns: 0,
            switches: self.switches,
            weight: 100,
            flags: 0,
            decided_by: self.decided_by,
            comm: [0; 16],
            cgroup: 1,
            group: 0,
            unused: 0,
            vtime: 0,
            carried: self.carried,
        }
    }

    /// The same for a task that may use `cpus` only.
    pub fn queue_part(&mut self, at_ns: u64, cpus: &CpuSet) -> Sent {
        let mut notice = self.queue(at_ns);
        notice.flags |= abi::notice_flags_NOTICE_PART as u16;
        Sent::Part(Box::new(abi::notice_part { notice, cpus: *cpus.words() }))
    }

    /// A decision is carried out.
    pub fn carry_out(&mut self, decision: &abi::decision) {
        assert_eq!((decision.pid, decision.seq), (self.pid, self.seq));
        self.carried = decision.carried;
        self.decided_by = decision.domain as u16;
    }
}

/// The domains of a machine.
pub fn domains(machine: &str, granularity: Granularity) -> Domains {
    let source = Source::Synthetic(machine.to_owned());
    let topology = Topology::load(&source).expect("hwloc knows the machine");
    topology.partition(granularity).expect("the machine can be cut")
}

/// The steps of a domain's preference where there is one kind of core.
pub fn places(domain: &Domain) -> [Place; 2] {
    [true, false].map(|whole_core| Place { cpus: domain.cpus, whole_core })
}

/// A scheduler of the first domain of a machine without SMT that has `cpus` CPUs, with room for any
/// number of decisions.
pub fn scheduler(cpus: usize, policy: Box<dyn Policy>) -> Scheduler<Queues> {
    let domains = domains(&format!("Core:{cpus} PU:1"), Granularity::Machine);
    let domain = domains.iter().next().expect("a machine has a domain");
    let queues = Queues { room: usize::MAX, ..Queues::default() };
    let (board, mut deques) = Board::new(1, false);
    let deque = deques.pop().expect("a domain has a deque");
    Scheduler::new(queues, domain, &places(domain), domain.cpus, policy, board, deque)
}

/// The CPUs of these numbers.
pub fn cpus(numbers: impl IntoIterator<Item = u32>) -> CpuSet {
    numbers.into_iter().map(CpuId).collect()
}

/// The calls of a policy's methods, in sequence.
pub type Log = Arc<Mutex<Vec<Call>>>;

pub enum Call {
    Adopted { pid: Pid, source: u64 },
    Enqueued(Task),
}

/// First in, first out; records its calls, and leaves a count in the memo.
pub struct Witness {
    waiting: VecDeque<Task>,
    pub late: bool,
    pub cpu: Option<CpuId>,
    pub preempt: bool,
    pub max_lag: Option<u64>,
    pub virtual_time: u64,
    log: Log,
}

impl Witness {
    pub fn new() -> (Self, Log) {
        let log = Log::default();
        let waiting = VecDeque::new();
        let witness = Self {
            waiting,
            late: false,
            cpu: None,
            preempt: false,
            max_lag: None,
            virtual_time: 0,
            log: log.clone(),
        };
        (witness, log)
    }
}

impl Policy for Witness {
    fn enqueue(&mut self, task: Task, _: &Context) {
        self.log.lock().unwrap().push(Call::Enqueued(task));
        self.waiting.push_back(task);
    }

    fn next(&mut self, _: &Context) -> Option<Choice> {
        let mut task = self.waiting.pop_front()?;
        task.memo = [task.memo[0] + 1, u64::MAX - task.memo[0]];
        let choice = task.run_for(Duration::from_millis(1));
        Some(Choice { cpu: self.cpu, preempt: self.preempt, max_lag: self.max_lag, ..choice })
    }

    fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn decides_late(&self) -> bool {
        self.late
    }

    fn virtual_time(&self) -> u64 {
        self.virtual_time
    }

    fn adopt(&mut self, task: &mut Task, source: u64) {
        self.log.lock().unwrap().push(Call::Adopted { pid: task.pid, source });
    }
}

pub fn enqueued(log: &Log) -> Vec<Task> {
    let calls = log.lock().unwrap();
    let tasks = calls.iter().filter_map(|call| match call {
        Call::Enqueued(task) => Some(*task),
        Call::Adopted { .. } => None,
    });
    tasks.collect()
}

pub fn adopted(log: &Log) -> Vec<(Pid, u64)> {
    let calls = log.lock().unwrap();
    let adopted = calls.iter().filter_map(|call| match call {
        Call::Adopted { pid, source } => Some((*pid, *source)),
        Call::Enqueued(_) => None,
    });
    adopted.collect()
}

/// Lets the scheduler decide one message; the decision.
pub fn decide(scheduler: &mut Scheduler<Queues>, message: Sent) -> abi::decision {
    scheduler.seam().sent.push_back(message);
    assert_eq!(scheduler.round(), Left::Nothing);
    let decided = std::mem::take(&mut scheduler.seam().decided);
    let [decision] = decided[..] else { panic!("{} decisions", decided.len()) };
    decision
}
