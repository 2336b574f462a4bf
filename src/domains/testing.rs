//! A machine of queues in memory, for the tests of what lies above the seam.
//!
//! Invariant: it does what the BPF side does with messages and decisions, and nothing by itself: a
//! test says when there is room, which CPUs are idle, what is carried out and what comes too late.

use super::preference::Place;
use super::scheduler::{Board, Scheduler};
use super::seam::Seam;
use crate::connector::abi;
use crate::connector::rings::Message;
use crate::cpuset::CpuSet;
use crate::ids::{CpuId, DomainId};
use crate::policy::Policy;
use crate::topology::{Domain, Domains, Granularity, Source, Topology};
use std::cell::RefCell;
use std::collections::VecDeque;

/// A message on its way.
#[derive(Clone, Copy)]
pub enum Sent {
    /// For a task that may run everywhere or, by its flags, on one CPU.
    Plain(abi::queued),
    /// For a task that may use some CPUs.
    Part(abi::queued_part),
}

/// The pair of queues of one domain.
#[derive(Default)]
pub struct Queues {
    /// Messages not yet taken.
    pub sent: VecDeque<Sent>,
    /// Decisions not yet carried out.
    pub decided: Vec<abi::decided>,
    /// How many more decisions find room.
    pub room: usize,
    /// The idle CPUs.
    pub idle: CpuSet,
    /// How many tasks are decided and not yet running.
    pub ready: usize,
    /// How many CPUs are idle in each domain.
    pub idle_elsewhere: Vec<usize>,
    /// The domains whose bells were rung.
    pub called: RefCell<Vec<DomainId>>,
    /// When the thread was last switched in.
    pub now_ns: u64,
}

impl Seam for Queues {
    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn take(&mut self, mut told: impl FnMut(Message<'_>)) -> usize {
        let sent = std::mem::take(&mut self.sent);
        for message in &sent {
            told(match message {
                Sent::Plain(queued) => Message::Plain(queued),
                Sent::Part(part) => Message::Part(part),
            });
        }
        sent.len()
    }

    fn idle_in(&self, domain: DomainId) -> usize {
        self.idle_elsewhere.get(domain.index()).copied().unwrap_or(0)
    }

    fn call(&self, domain: DomainId) {
        self.called.borrow_mut().push(domain);
    }

    fn submit(&mut self, decision: &abi::decided) -> bool {
        let Some(room) = self.room.checked_sub(1) else { return false };
        self.room = room;
        self.decided.push(*decision);
        true
    }

    fn idle(&self) -> CpuSet {
        self.idle
    }

    fn ready(&self) -> usize {
        self.ready
    }
}

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

    /// A new stay in the waiting state, and the message that tells of it.
    pub fn queue(&mut self, at_ns: u64) -> abi::queued {
        self.seq += 1;
        abi::queued {
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
            carried: self.carried,
        }
    }

    /// The same for a task that may use `cpus` only.
    pub fn queue_part(&mut self, at_ns: u64, cpus: &CpuSet) -> Sent {
        let mut queued = self.queue(at_ns);
        queued.flags |= abi::queued_flags_QUEUED_PART as u16;
        Sent::Part(abi::queued_part { queued, cpus: *cpus.words() })
    }

    /// A decision is carried out.
    pub fn carry_out(&mut self, decision: &abi::decided) {
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

/// The order in which a domain's CPUs are offered where there is one kind of core.
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
