//! The simulated machine: its CPUs, the kernel's part of scheduling and the BPF side, in virtual
//! time.
//!
//! The domains' schedulers are the real ones ([`crate::domains::scheduler`]). What lies below their
//! seam is modelled here:
//!
//! | module | models |
//! |---|---|
//! | [`enqueue`] | select_cpu.bpf.h, enqueue.bpf.h, standing.bpf.h, notify.bpf.h |
//! | [`decisions`] | decisions.bpf.h |
//! | [`dispatch`] | dispatch.bpf.h, safety_net.bpf.h, steal.bpf.h |
//! | [`starved`] | the starved tasks of safety_net.bpf.h |
//! | [`idle`] | idle.bpf.h |
//! | [`home`] | home.bpf.h, balance.bpf.h |
//! | [`heartbeat`] | heartbeat.bpf.h |
//! | [`cpu`] | task.bpf.h, vtime.bpf.h, the kernel's `__schedule` |
//! | [`thread`] | domain_thread.bpf.h, run/thread.rs, kernel/seam.rs |
//!
//! [`program`] is what tasks do, [`inspect`] checks the machine, [`tracing`] writes the trace.
//!
//! A path through the kernel, such as a wake-up or a dispatch, happens at one moment. Its costs add
//! up in `spent_ns`, and its consequences happen that much later.
//!
//! Invariant: as in the kernel, every runnable task is on exactly one queue or CPU; time never goes
//! back.

mod cpu;
mod decisions;
mod dispatch;
mod enqueue;
mod heartbeat;
mod home;
mod idle;
mod inspect;
mod program;
mod starved;
mod thread;
mod tracing;

use super::costs::Costs;
use super::dsq::{Dsq, DsqId};
use super::events::{Event, Events};
use super::measure::Measures;
use super::task::{SimTask, State};
use super::trace::Trace;
use super::workload::Workload;
use super::{Setup, TaskId, Who};
use crate::abi;
use crate::cpuset::{CpuSet, MAX_CPUS};
use crate::domains::board::Board;
use crate::domains::queues::Queues;
use crate::domains::scheduler::Scheduler;
use crate::ids::{CpuId, DomainId};
use crate::policy;
use crate::topology::dedicated::dedicated_cpus;
use crate::topology::preference::{Prefer, Preferences};
use crate::topology::{Domain, Domains, Topology};
use anyhow::{Result, ensure};
use cpu::Cpu;
use idle::Idle;
pub use inspect::Idleness;
use program::Meetings;
use thread::Thread;

/// When a run begins. Not 0, which stands for "never" in the notices.
pub const START_NS: u64 = 1_000_000_000;

/// The options that the paths through the kernel need.
struct Limits {
    slice_ns: u64,
    /// The slices of tasks that run undecided.
    slices: policy::Slices,
    patience_ns: u64,
    standing: u32,
    strict: bool,
    no_steal: bool,
}

/// What the BPF side keeps of a domain; the fields are those of `struct domain_ctx` in `bpf/abi.h`.
pub(super) struct Dom {
    cpus: CpuSet,
    /// The CPUs that tasks may use: all except the one that is dedicated to its thread.
    usable: CpuSet,
    nearest: Box<[DomainId]>,
    idle: CpuSet,
    ready: usize,
    carried_out: u32,
    to_ready: u32,
    starved_since_ns: u64,
    ready_vtime: u64,
    policy_vtime: u64,
    keeps_vtime: bool,
    /// The number of tasks from READY that run before all others.
    ready_boosts: u32,
    net_vtime: u64,
    weight: u64,
    queue_weight: u64,
    nr_queued: usize,
    load: u64,
    move_to: usize,
    moves: u32,
    unnotified_since_ns: u64,
    unnotified: u32,
    pub(super) tasks: u32,
    pub(super) counts: abi::domain_counts,
    thread: Thread,
}

impl Dom {
    /// A decided task begins to run: the policy's virtual time is not before its key.
    fn advance_policy_vtime(&mut self, vtime: u64) {
        if super::before(self.policy_vtime, vtime) {
            self.policy_vtime = vtime;
        }
    }
}

/// The machine.
pub struct Machine<'a> {
    workload: &'a Workload,
    limits: Limits,
    costs: Costs,
    random: fastrand::Rng,
    jitter: f64,
    now_ns: u64,
    /// What the current path through the kernel has cost so far.
    spent_ns: u64,
    /// The CPU of that path, where that matters.
    here: Option<CpuId>,
    events: Events,
    cpus: Vec<Cpu>,
    online: CpuSet,
    idle: Idle,
    pub(super) domains: Vec<Dom>,
    /// The number of CPUs in each domain's `idle`.
    idle_counts: Vec<usize>,
    schedulers: Vec<Scheduler<Queues>>,
    pub(super) tasks: Vec<SimTask>,
    /// The number of tasks that have not ended.
    alive: usize,
    own: Vec<Dsq>,
    bound: Vec<Dsq>,
    ready: Vec<Dsq>,
    waiting: Vec<Dsq>,
    /// The number of insertions into DSQs.
    inserted: u64,
    /// The number of waits on a queue, each of which is a flow in the trace.
    flows: u64,
    meetings: Meetings,
    pub(super) measures: Measures,
    trace: Option<Trace>,
    idleness: Option<Idleness>,
}

impl<'a> Machine<'a> {
    /// A machine on which nothing runs yet.
    ///
    /// # Errors
    /// If the workload names CPUs that the machine does not have, or a domain has no CPU to
    /// dedicate.
    pub fn new(
        topology: &Topology,
        domains: &Domains,
        workload: &'a Workload,
        setup: &Setup,
        trace: Option<Trace>,
    ) -> Result<Self> {
        for group in &workload.groups {
            for cpus in group.phases.iter().filter_map(|phase| phase.cpus.as_ref()) {
                ensure!(
                    cpus.intersects(topology.cpus()),
                    "the tasks {:?} may use CPUs {cpus} only, and the machine has CPUs {}",
                    group.name,
                    topology.cpus()
                );
            }
        }
        let options = &setup.scheduler.options;
        let (board, deques) = Board::new(domains.len(), !options.no_steal && !options.strict);
        let dedicated = match options.dedicate {
            true => dedicated_cpus(domains)?,
            false => CpuSet::EMPTY,
        };
        let usable = |domain: &Domain| domain.cpus.difference(&dedicated);
        let preferences = Preferences::new(domains, Prefer::None, &dedicated);
        let schedulers = domains.iter().zip(deques).map(|(domain, deque)| {
            let places = preferences.within(domain);
            let policy = (setup.scheduler.make)(&policy::Setup::new(domain, options.slices()));
            let queues = Queues { idle_elsewhere: vec![0; domains.len()], ..Queues::default() };
            Scheduler::new(queues, domain, &places, usable(domain), policy, board.clone(), deque)
        });
        let tasks = workload.groups.iter().enumerate().flat_map(|(group, of)| {
            std::iter::repeat_with(move || SimTask::unborn(group)).take(of.instances as usize)
        });
        let tasks: Vec<_> = tasks.collect();
        let queues = |count| std::iter::repeat_with(Dsq::default).take(count).collect();
        let dom = |domain: &Domain| Dom {
            cpus: domain.cpus,
            usable: usable(domain),
            nearest: domain.nearest.clone().into(),
            idle: usable(domain),
            ready: 0,
            carried_out: 0,
            to_ready: 0,
            starved_since_ns: 0,
            ready_vtime: 0,
            policy_vtime: 0,
            keeps_vtime: false,
            ready_boosts: 0,
            net_vtime: 0,
            weight: 0,
            queue_weight: 0,
            nr_queued: 0,
            load: 0,
            move_to: 0,
            moves: 0,
            unnotified_since_ns: 0,
            unnotified: 0,
            tasks: 0,
            counts: abi::domain_counts::ZERO,
            thread: Thread::new(domain, domain.cpus.intersection(&dedicated).first()),
        };
        let highest = topology.cpus().iter().last().map_or(0, CpuId::index);
        debug_assert!(highest < MAX_CPUS);
        let ns = |duration: std::time::Duration| duration.as_nanos() as u64;
        Ok(Machine {
            workload,
            limits: Limits {
                slice_ns: ns(options.slices().base),
                slices: options.slices(),
                patience_ns: ns(options.patience()),
                standing: options.standing,
                strict: options.strict,
                no_steal: options.no_steal,
            },
            costs: setup.costs.clone(),
            random: fastrand::Rng::with_seed(setup.seed),
            jitter: setup.jitter,
            now_ns: START_NS,
            spent_ns: 0,
            here: None,
            events: Events::default(),
            cpus: Cpu::all(topology, domains, &dedicated, highest + 1),
            online: *topology.cpus(),
            idle: Idle::all(topology),
            idle_counts: domains.iter().map(|domain| usable(domain).len()).collect(),
            schedulers: schedulers.collect(),
            alive: tasks.len(),
            measures: Measures::new(domains.len(), workload.groups.len()),
            meetings: Meetings::new(workload),
            domains: domains.iter().map(dom).collect(),
            tasks,
            own: queues(highest + 1),
            bound: queues(highest + 1),
            ready: queues(domains.len()),
            waiting: queues(domains.len()),
            inserted: 0,
            flows: 0,
            trace,
            idleness: setup.inspect.map(Idleness::new),
        })
    }

    /// Runs the machine for a time, or until all tasks have ended.
    ///
    /// # Errors
    /// If the trace cannot be written.
    pub fn run(&mut self, length: std::time::Duration) -> Result<()> {
        let end_ns = START_NS + length.as_nanos() as u64;
        self.events.at(START_NS + abi::HEARTBEAT_NS, Event::Heartbeat);
        if !self.tasks.is_empty() {
            self.events.at(START_NS, Event::Start(TaskId(0)));
        }
        self.start_dedicated_threads();
        if let Some(idleness) = &self.idleness {
            self.events.at(START_NS + idleness.every_ns(), Event::Inspect);
        }
        while self.alive > 0
            && let Some((time_ns, event)) = self.events.pop()
        {
            if time_ns >= end_ns {
                break;
            }
            debug_assert!(time_ns >= self.now_ns);
            self.now_ns = time_ns;
            self.spent_ns = 0;
            self.here = None;
            self.handle(event);
        }
        let ended_ns = if self.alive > 0 { end_ns } else { self.now_ns };
        self.close(ended_ns)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Start(task) => self.start(task),
            Event::Alarm(task) => self.alarm(task),
            Event::Due { cpu, plan } => self.due(cpu, plan),
            Event::Kicked(cpu) => self.kicked(cpu),
            Event::ThreadWake(domain) => self.wake_thread(domain),
            Event::Heartbeat => self.heartbeat(),
            Event::Inspect => self.inspect(),
        }
    }

    /// Accounts for the tasks that still run or wait at the end.
    fn close(&mut self, ended_ns: u64) -> Result<()> {
        self.now_ns = ended_ns;
        self.spent_ns = 0;
        for cpu in self.online.iter().collect::<Vec<_>>() {
            self.account(cpu);
            self.trace_run(cpu);
        }
        for task in &mut self.tasks {
            if task.state == State::Runnable {
                task.account.waited_ns += ended_ns - task.account.runnable_since_ns.min(ended_ns);
            }
        }
        self.measures.length_ns = ended_ns - START_NS;
        match &mut self.trace {
            Some(trace) => trace.finish(),
            None => Ok(()),
        }
    }

    /// The moment at which the current path through the kernel is.
    fn at(&self) -> u64 {
        self.now_ns + self.spent_ns
    }

    /// A path through the kernel begins on a CPU, after the one that the CPU is in already.
    fn enter(&mut self, cpu: CpuId) {
        let c = &self.cpus[cpu.index()];
        let running_ns = if c.current.is_some() { c.since_ns } else { 0 };
        self.spent_ns = c.in_kernel_until_ns.max(running_ns).saturating_sub(self.now_ns);
        self.here = Some(cpu);
    }

    fn spend(&mut self, cost_ns: u64) {
        self.spent_ns += cost_ns;
    }

    fn dsq(&self, id: DsqId) -> &Dsq {
        match id {
            DsqId::Own(cpu) => &self.own[cpu as usize],
            DsqId::Bound(cpu) => &self.bound[cpu as usize],
            DsqId::Ready(domain) => &self.ready[domain as usize],
            DsqId::Waiting(domain) => &self.waiting[domain as usize],
        }
    }

    fn has_tasks(&self, id: DsqId) -> bool {
        !self.dsq(id).is_empty()
    }

    fn dsq_mut(&mut self, id: DsqId) -> &mut Dsq {
        match id {
            DsqId::Own(cpu) => &mut self.own[cpu as usize],
            DsqId::Bound(cpu) => &mut self.bound[cpu as usize],
            DsqId::Ready(domain) => &mut self.ready[domain as usize],
            DsqId::Waiting(domain) => &mut self.waiting[domain as usize],
        }
    }

    /// Waits for the lock of a queue and holds it for one task.
    fn lock(&mut self, id: DsqId) {
        let (at_ns, hold_ns) = (self.at(), self.costs.lock);
        let dsq = self.dsq_mut(id);
        let wait_ns = dsq.locked_until_ns.saturating_sub(at_ns);
        dsq.locked_until_ns = at_ns + wait_ns + hold_ns;
        self.spend(wait_ns + hold_ns);
    }

    fn insert(&mut self, task: TaskId, id: DsqId, vtime: u64) {
        self.lock(id);
        self.inserted += 1;
        let inserted = self.inserted;
        let position = self.dsq_mut(id).insert(task, vtime, inserted);
        let task = &mut self.tasks[task.index()];
        debug_assert!(task.on.is_none());
        task.on = Some((id, position));
    }

    fn remove(&mut self, task: TaskId) {
        if let Some((id, position)) = self.tasks[task.index()].on.take() {
            self.lock(id);
            self.dsq_mut(id).remove(task, position);
        }
    }

    fn domain_of(&self, cpu: CpuId) -> usize {
        self.cpus[cpu.index()].domain
    }

    fn name(&self, who: Who) -> String {
        match who {
            Who::Task(task) => {
                let group = &self.workload.groups[self.tasks[task.index()].group];
                format!("{} {}", group.name, task.pid())
            }
            Who::Thread(domain) => format!("manyland/{domain}"),
        }
    }
}
