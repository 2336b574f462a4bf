//! How many instructions user space needs for a decision: `make bench`.
//!
//! Valgrind's callgrind counts them, so the figures repeat whatever else the machine does. The
//! queues are in memory; `benches/decision.rs` has those of the kernel. `make count` counts those of
//! the BPF side, by function, which callgrind tells but not gungraun.

#![allow(missing_docs, reason = "gungraun's macros make public items")]

mod bench_domain;

use bench_domain::{decide_all, domains, scheduler};
use gungraun::prelude::*;
use scx_manyland::abi;
use scx_manyland::cpuset::CpuSet;
use scx_manyland::domains::board::Board;
use scx_manyland::domains::scheduler::Scheduler;
use scx_manyland::domains::seam::Message;
use scx_manyland::domains::seam::Seam;
use scx_manyland::ids::{CpuId, DomainId, Pid};
use scx_manyland::policy::Task;
use scx_manyland::policy::kind::PolicyKind;
use scx_manyland::policy::run_queue::RunQueue;
use std::hint::black_box;

/// Messages in memory, and a sink for decisions.
struct Memory {
    messages: Vec<abi::notice>,
    idle: CpuSet,
    decided: usize,
}

impl Seam for Memory {
    fn now_ns(&self) -> u64 {
        0
    }

    fn pending(&self) -> usize {
        self.messages.len()
    }

    fn drain(&mut self, mut receive: impl FnMut(Message<'_>)) -> usize {
        self.messages.iter().for_each(|message| receive(Message::Plain(message)));
        let received = self.messages.len();
        self.messages.clear();
        received
    }

    fn submit(&mut self, decision: &abi::decision) -> bool {
        black_box(decision);
        self.decided += 1;
        true
    }

    fn idle(&self) -> CpuSet {
        self.idle
    }

    fn idle_in(&self, _: DomainId) -> usize {
        0
    }

    fn call(&self, _: DomainId) {}

    fn ready(&self) -> usize {
        0
    }

    fn vtime(&self) -> u64 {
        0
    }

    fn nr_queued(&self) -> usize {
        0
    }
}

/// The notice of a task that has woken up.
fn message(number: u64) -> abi::notice {
    abi::notice {
        pid: 1000 + (number % 512) as u32,
        cpu: (number % 8) as u32,
        seq: number,
        at_ns: number * 1000,
        used_ns: 100_000 + number % 7 * 10_000,
        burst_ns: 0,
        switches: 1,
        weight: 100,
        flags: (abi::notice_flags_NOTICE_WAKEUP | abi::notice_flags_NOTICE_ANYWHERE) as u16,
        decided_by: 0,
        cgroup: 1,
        group: 0,
        unused: 0,
        vtime: 0,
        comm: [0; 16],
        carried: abi::carried { memo: [0; 2], used_ns: 0, switches: 0, at_ns: 1 },
    }
}

/// A scheduler that has decided before, and finds `batch` notices. Half of its CPUs are idle, or
/// none.
fn waiting(policy: PolicyKind, batch: u64, idle: bool) -> Scheduler<Memory> {
    let domains = domains(1);
    let domain = &domains[DomainId(0)];
    let idle = domain.cpus.iter().filter(|cpu| idle && cpu.0 % 4 < 2).collect();
    let messages = (0..batch).map(message).collect();
    let (board, mut deques) = Board::new(1, false);
    let deque = deques.pop().expect("a domain has a deque");
    let memory = Memory { messages, idle, decided: 0 };
    let mut scheduler = scheduler(memory, &domains, domain, policy, board, deque);
    decide_all(&mut scheduler);
    assert_eq!(scheduler.seam().decided as u64, batch);
    scheduler.seam().messages.extend((batch..2 * batch).map(message));
    scheduler
}

#[library_benchmark]
#[bench::vruntime_1(waiting(PolicyKind::Vruntime, 1, false))]
#[bench::vruntime_64(waiting(PolicyKind::Vruntime, 64, false))]
#[bench::vruntime_64_idle(waiting(PolicyKind::Vruntime, 64, true))]
#[bench::deadline_64(waiting(PolicyKind::Deadline, 64, false))]
#[bench::fifo_64(waiting(PolicyKind::Fifo, 64, false))]
fn decision(mut scheduler: Scheduler<Memory>) -> Scheduler<Memory> {
    decide_all(&mut scheduler);
    scheduler
}

/// A run queue in which `tasks` tasks wait.
fn queue(tasks: u64) -> RunQueue {
    let mut queue = RunQueue::with_capacity(tasks as usize + 1);
    for number in 0..tasks {
        let task = Task { prev_cpu: CpuId(0), ..Task::new(Pid(number as i32)) };
        queue.push(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40, task);
    }
    queue
}

#[library_benchmark]
#[bench::of_10(queue(10))]
#[bench::of_100(queue(100))]
#[bench::of_1000(queue(1_000))]
#[bench::of_10000(queue(10_000))]
fn push_and_pop(mut queue: RunQueue) -> RunQueue {
    let (key, task) = queue.pop_min().expect("tasks wait");
    queue.push(black_box(key + 1_000_000), task);
    queue
}

library_benchmark_group!(name = instructions, benchmarks = [decision, push_and_pop]);
main!(library_benchmark_groups = instructions);
