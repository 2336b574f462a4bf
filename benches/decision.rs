//! What a decision costs, part by part and as a whole, with the kernel's real ring buffers: `make
//! bench`. Needs root.
//!
//! The kernel's ends are BPF programs that run in a system call ([`test_bpf::rings`]), one for each
//! batch, so a batch shares its cost. The cost of sched_ext itself is not included.

mod bench_domain;

use bench_domain::{decide_all, domains, places, scheduler};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use nix::sched::{CpuSet as NixCpuSet, sched_setaffinity};
use nix::unistd::{Pid as ThreadId, geteuid};
use scx_manyland::abi;
use scx_manyland::cpuset::CpuSet;
use scx_manyland::domains::board::Board;
use scx_manyland::domains::handover::Exchange;
use scx_manyland::domains::placement::Placement;
use scx_manyland::domains::scheduler::Scheduler;
use scx_manyland::domains::seam::{Message, Seam};
use scx_manyland::domains::sync::Deque;
use scx_manyland::ids::{CpuId, DomainId, Pid};
use scx_manyland::kernel::rings::{DecisionRing, NoticeRing};
use scx_manyland::policy::Task;
use scx_manyland::policy::kind::PolicyKind;
use scx_manyland::policy::run_queue::RunQueue;
use scx_manyland::topology::{Domain, Domains, Source, Topology};
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};
use test_bpf::rings::Kernel;

/// How many tasks wait when a domain thread begins a round: one, a few, and as many as under load.
const BATCHES: [u64; 3] = [1, 8, 64];

/// A decision that `drain_decisions` accepts as complete.
const DECISION: abi::decision = abi::decision {
    seq: 1,
    slice_ns: 1,
    vtime: 1,
    pid: 1,
    cpu: abi::none_NO_CPU,
    flags: 0,
    domain: 0,
    vtime_rate: 0,
    unused: 0,
    max_lag: 0,
    carried: abi::carried { memo: [0; 2], used_ns: 0, switches: 0, at_ns: 0 },
};

/// The kernel's ring buffers, with no CPU idle.
struct Rings {
    notices: NoticeRing,
    decisions: DecisionRing,
}

impl Seam for Rings {
    fn now_ns(&self) -> u64 {
        0
    }

    fn pending(&self) -> usize {
        self.notices.pending()
    }

    fn drain(&mut self, receive: impl FnMut(Message<'_>)) -> usize {
        self.notices.drain(receive)
    }

    fn submit(&mut self, decision: &abi::decision) -> bool {
        self.decisions.submit(decision)
    }

    fn idle(&self) -> CpuSet {
        CpuSet::EMPTY
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

/// A domain: the kernel's ends of its queues, and its scheduler.
struct Line {
    kernel: Kernel,
    scheduler: Scheduler<Rings>,
    next: u64,
}

impl Line {
    fn new(
        domains: &Domains,
        domain: &Domain,
        policy: PolicyKind,
        board: Arc<Board>,
        deque: Deque<Task>,
    ) -> Self {
        let kernel = Kernel::load();
        let rings = Rings { notices: kernel.notices(), decisions: kernel.decisions() };
        let scheduler = scheduler(rings, domains, domain, policy, board, deque);
        Self { kernel, scheduler, next: 0 }
    }

    /// The only domain of its machine.
    fn alone(policy: PolicyKind) -> Self {
        let domains = domains(1);
        let (board, mut deques) = Board::new(1, false);
        let deque = deques.pop().expect("a domain has a deque");
        Self::new(&domains, &domains[DomainId(0)], policy, board, deque)
    }

    /// The whole way of a batch: the kernel sends notices, user space decides, the kernel drains.
    fn pass(&mut self, batch: u64) {
        assert_eq!(self.kernel.run("queue_tasks", self.next, batch).0, batch);
        self.next += batch;
        decide_all(&mut self.scheduler);
        assert_eq!(self.kernel.run("drain_decisions", 0, 0), (batch, 0));
    }
}

/// The two rings without a scheduler between them.
fn queue_pair(c: &mut Criterion) {
    let mut group = c.benchmark_group("queue pair");
    let kernel = Kernel::load();
    let (mut notices, mut decisions) = (kernel.notices(), kernel.decisions());
    for batch in BATCHES {
        group.throughput(Throughput::Elements(batch));
        group.bench_function(BenchmarkId::new("queued", batch), |b| {
            b.iter(|| {
                kernel.run("queue_tasks", 0, batch);
                assert_eq!(
                    notices.drain(|message| {
                        black_box(message.notice().pid);
                    }) as u64,
                    batch
                );
            });
        });
        group.bench_function(BenchmarkId::new("decided", batch), |b| {
            b.iter(|| {
                for _ in 0..batch {
                    assert!(decisions.submit(black_box(&DECISION)));
                }
                assert_eq!(kernel.run("drain_decisions", 0, 0), (batch, 0));
            });
        });
    }
    group.finish();
    c.bench_function("queue pair/system call alone", |b| {
        b.iter(|| kernel.run("drain_decisions", 0, 0))
    });
}

/// A push and a pop, while 10 to 10,000 tasks wait.
fn run_queue(c: &mut Criterion) {
    let mut group = c.benchmark_group("run queue");
    for tasks in [10, 100, 1_000, 10_000] {
        let mut queue = RunQueue::with_capacity(tasks + 1);
        let mut key = 0x9E37_79B9_u64;
        let mut next_key = || {
            key = key.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            key >> 40
        };
        (0..tasks).for_each(|pid| queue.push(next_key(), Task::new(Pid(pid as i32))));
        group.bench_function(BenchmarkId::new("push and pop", tasks), |b| {
            b.iter(|| {
                let (key, task) = queue.pop_min().expect("tasks wait");
                queue.push(key + next_key(), black_box(task));
            });
        });
    }
    group.finish();
}

/// A CPU for a task whose previous CPU is busy, while half of the domain is idle.
fn placement(c: &mut Criterion) {
    let domains = domains(1);
    let domain = &domains[DomainId(0)];
    let mut placement = Placement::new(domain, &places(&domains, domain));
    let idle = domain.cpus.iter().filter(|cpu| cpu.0 % 4 < 2).collect::<CpuSet>();
    c.bench_function("placement", |b| {
        b.iter(|| {
            placement.start_batch(black_box(idle));
            placement.take(black_box(CpuId(2)), None)
        });
    });
}

/// One domain publishes a task and another steals it, on one thread.
fn stealing(c: &mut Criterion) {
    let (exchange, deques) = Exchange::new(2);
    c.bench_function("publish and steal", |b| {
        b.iter(|| {
            deques[0].publish(black_box(Task::new(Pid(1))));
            exchange.steal(0)
        });
    });
}

/// The whole way of a batch, for each policy.
fn decision(c: &mut Criterion) {
    let mut group = c.benchmark_group("decision");
    for policy in [PolicyKind::Vruntime, PolicyKind::Deadline, PolicyKind::Fifo] {
        let mut line = Line::alone(policy);
        for batch in BATCHES {
            group.throughput(Throughput::Elements(batch));
            group.bench_function(BenchmarkId::new(policy.to_string(), batch), |b| {
                b.iter(|| line.pass(batch))
            });
        }
    }
    group.finish();
}

/// One domain on one core, then two on two, which share what domains share. The time is that of a
/// batch in each domain.
fn domains_side_by_side(c: &mut Criterion) {
    const BATCH: u64 = 64;
    let mut group = c.benchmark_group("domains side by side");
    let machine = Topology::load(&Source::Live).expect("hwloc knows this machine");
    let cores = machine.cores().iter().filter_map(CpuSet::first).collect::<Vec<_>>();
    for count in 1..=2 {
        if cores.len() < count {
            eprintln!("this machine has one core: two domains are not measured");
            continue;
        }
        let domains = domains(count);
        let (board, deques) = Board::new(count, true);
        let mut lines = domains
            .iter()
            .zip(deques)
            .map(|(domain, deque)| {
                Line::new(&domains, domain, PolicyKind::Vruntime, board.clone(), deque)
            })
            .collect::<Vec<_>>();
        group.throughput(Throughput::Elements(BATCH * count as u64));
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter_custom(|passes| side_by_side(&mut lines, &cores, passes, BATCH));
        });
    }
    group.finish();
}

/// The time of the slowest line.
fn side_by_side(lines: &mut [Line], cores: &[CpuId], passes: u64, batch: u64) -> Duration {
    let begin = Barrier::new(lines.len());
    thread::scope(|scope| {
        let threads = lines.iter_mut().zip(cores).map(|(line, &core)| {
            let begin = &begin;
            scope.spawn(move || {
                bind(core);
                begin.wait();
                let start = Instant::now();
                (0..passes).for_each(|_| line.pass(batch));
                start.elapsed()
            })
        });
        let threads = threads.collect::<Vec<_>>();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .max()
            .expect("there is a domain")
    })
}

fn bind(cpu: CpuId) {
    let mut set = NixCpuSet::new();
    set.set(cpu.index()).expect("the kernel knows the CPU");
    sched_setaffinity(ThreadId::from_raw(0), &set).expect("the thread may be bound");
}

criterion_group!(
    benches,
    queue_pair,
    run_queue,
    placement,
    stealing,
    decision,
    domains_side_by_side
);

fn main() -> ExitCode {
    if !geteuid().is_root() {
        eprintln!("decision: cannot load BPF programs without root; `make bench` asks for it");
        return ExitCode::FAILURE;
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
    ExitCode::SUCCESS
}
