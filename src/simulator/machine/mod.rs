//! The simulated machine: what its tasks and domain threads do, on the kernel of [`super::kernel`].
//!
//! The domains' schedulers are the real ones ([`crate::domains::scheduler`]), and so is the kernel's
//! side below their seam (bpf/, which the kernel runs).
//!
//! | module | what |
//! |---|---|
//! | [`cpu`] | runs: their ends, ticks, switches |
//! | [`thread`] | domain threads: run/thread.rs and kernel/seam.rs |
//! | [`program`] | what tasks do |
//! | [`inspect`] | checks of the machine |
//! | [`tracing`] | the trace |
//!
//! Invariant: time never goes back; an event's path through the kernel is complete before the next
//! event.

mod cpu;
mod inspect;
mod paths;
mod program;
mod thread;
mod tracing;

use super::events::Event;
use super::kernel::frequency::Frequency;
use super::kernel::groups::{GroupId, ROOT};
use super::kernel::hostile::Hostility;
use super::kernel::interleave::Interleaving;
use super::kernel::schedule::Leaving;
use super::kernel::seam::KernelSeam;
use super::kernel::task::Birth;
use super::kernel::{Happening, K, Kernel};
use super::measure::Measures;
use super::task::{SimTask, State, THREADS};
use super::trace::Trace;
use super::workload::{Group, Workload};
use super::{Setup, TaskId};
use crate::abi;
use crate::cpuset::CpuSet;
use crate::domains::board::Board;
use crate::domains::latency::Snapshot;
use crate::domains::scheduler::Scheduler;
use crate::ids::CpuId;
use crate::policy;
use crate::topology::dedicated::dedicated_cpus;
use crate::topology::preference::{Prefer, Preferences};
use crate::topology::{Domain, Domains, Topology};
use anyhow::{Result, ensure};
use cpu::Run;
pub use inspect::Idleness;
use paths::Paths;
use program::Meetings;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::time::Duration;
use thread::Thread;

/// When a run begins. Not 0, which stands for "never" in the notices.
pub const START_NS: u64 = 1_000_000_000;

/// The machine.
pub struct Machine<'a> {
    workload: &'a Workload,
    /// For each group, whether its tasks are threads of the kernel.
    kernel_threads: Vec<bool>,
    kernel: K,
    random: fastrand::Rng,
    jitter: f64,
    /// What runs on each CPU.
    runs: Vec<Run>,
    threads: Vec<Thread>,
    schedulers: Vec<Scheduler<KernelSeam>>,
    /// The domain threads, then the tasks of the workload.
    pub(super) tasks: Vec<SimTask>,
    /// The number of tasks that have not ended.
    alive: usize,
    /// The number of waits on a queue, each of which is a flow in the trace.
    flows: u64,
    meetings: Meetings,
    /// The kernel's numbers of the workload's cgroups.
    cgroups: Vec<GroupId>,
    pub(super) measures: Measures,
    trace: Option<Trace>,
    idleness: Option<Idleness>,
    paths: Paths,
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
        let mut kernel = Kernel::load(
            topology,
            domains,
            options,
            &preferences,
            &dedicated,
            setup.costs.clone(),
            START_NS,
        )?;
        let schedulers = domains.iter().zip(deques).map(|(domain, deque)| {
            let places = preferences.within(domain);
            let policy = (setup.scheduler.make)(&policy::Setup::new(domain, options.slices()));
            let d = domain.id.index();
            let seam = KernelSeam::new(kernel.channel(d).clone(), kernel.memory(), d);
            Scheduler::new(seam, domain, &places, usable(domain), policy, board.clone(), deque)
        });
        let schedulers: Vec<_> = schedulers.collect();
        let threads: Vec<_> = domains
            .iter()
            .map(|domain| Thread::new(domain.cpus.intersection(&dedicated).first()))
            .collect();
        let tasks = workload.groups.iter().enumerate().flat_map(|(group, of)| {
            std::iter::repeat_with(move || SimTask::unborn(group)).take(of.instances as usize)
        });
        let tasks: Vec<_> =
            std::iter::repeat_with(SimTask::thread).take(domains.len()).chain(tasks).collect();
        let alive = tasks.len() - domains.len();

        kernel.attach(domains)?;
        let mut cgroups: Vec<GroupId> = Vec::new();
        for cgroup in &workload.cgroups {
            let parent = cgroup.parent.map_or(ROOT, |number| cgroups[number]);
            cgroups.push(kernel.create_group(parent, cgroup.weight, cgroup.max));
            kernel.set_group_idle(cgroups[cgroups.len() - 1], cgroup.idle);
        }
        for (domain, id) in domains.iter().zip((0..).map(TaskId)) {
            let cpus = match domain.cpus.intersection(&dedicated).first() {
                Some(cpu) => [cpu].into_iter().collect(),
                None => *topology.cpus(),
            };
            let birth = Birth {
                flags: 0,
                name: "manyland",
                cpu: domain.cpus.intersection(&cpus).first().expect("a domain has a CPU"),
                cpus: &cpus,
                weight: policy::DEFAULT_WEIGHT,
                real_time: 0,
                group: ROOT,
            };
            kernel.create(id, &birth, Some(domain.id))?;
            kernel.set_sleeping(domain.id.index(), !options.dedicate);
        }
        kernel.unstable_clocks = setup.unstable_clocks;
        if setup.interleave {
            kernel.interleaving = Some(Interleaving::new(setup.seed, kernel.cpus.len()));
        }
        let is_kernels = |group: &Group| setup.kernel_threads.contains(&group.name);
        Ok(Machine {
            workload,
            kernel_threads: workload.groups.iter().map(is_kernels).collect(),
            random: fastrand::Rng::with_seed(setup.seed),
            jitter: setup.jitter,
            runs: kernel.cpus.iter().map(|_| Run::default()).collect(),
            threads,
            schedulers,
            alive,
            flows: 0,
            measures: Measures::new(domains.len(), workload.groups.len()),
            meetings: Meetings::new(workload),
            cgroups,
            tasks,
            kernel,
            trace,
            idleness: setup.inspect.map(Idleness::new),
            paths: Paths::default(),
        })
    }

    /// Runs the machine for a time, or until all tasks have ended.
    ///
    /// # Errors
    /// If the trace cannot be written.
    pub fn run(&mut self, length: Duration) -> Result<()> {
        self.start();
        self.advance(length)?;
        self.end(length)
    }

    /// Plans what happens first.
    pub fn start(&mut self) {
        let mut m = M(NonNull::from(&mut *self));
        m.kernel.enter_thread();
        if m.alive > 0 {
            let first = TaskId(m.threads.len() as u32);
            m.kernel.plan(START_NS, Event::Start(first));
        }
        m.start_dedicated_threads();
        if let Some(idleness) = &m.idleness {
            m.kernel.plan(START_NS + idleness.every_ns(), Event::Inspect);
        }
    }

    /// Goes on until this time after the start, or until all tasks have ended.
    ///
    /// # Errors
    /// If the trace cannot be written.
    pub fn advance(&mut self, to: Duration) -> Result<()> {
        let to_ns = START_NS + to.as_nanos() as u64;
        let mut m = M(NonNull::from(&mut *self));
        while m.alive > 0
            && let Some((time_ns, event)) = m.kernel.events.pop_before(to_ns)
        {
            m.kernel.begin(time_ns);
            match m.kernel.interleaving.is_some() {
                true => m.overlap(event)?,
                false => m.handle(event)?,
            }
            m.note_happenings();
        }
        Ok(())
    }

    /// Ends the run, which was to last for `length`.
    ///
    /// # Errors
    /// If the trace cannot be written.
    pub fn end(&mut self, length: Duration) -> Result<()> {
        let m = M(NonNull::from(&mut *self));
        let end_ns = START_NS + length.as_nanos() as u64;
        m.close(if m.alive > 0 { end_ns } else { m.kernel.now_ns })
    }

    /// The domain threads are not to be trusted: for a machine that has not run yet.
    pub fn distrust(&mut self, hostility: Hostility) {
        self.kernel.distrust(hostility);
    }

    /// See [`Kernel::check_counts`].
    pub fn check_counts(&self) {
        self.kernel.check_counts();
    }

    /// The memory of a domain at the end.
    pub(super) fn frequencies(&self) -> impl Iterator<Item = &Frequency> {
        self.kernel.cpus.iter().map(|cpu| &cpu.frequency)
    }

    pub(super) fn domain(&self, domain: usize) -> &abi::domain_ctx {
        self.kernel.domain(domain)
    }

    /// How long tasks waited after their wake-ups until they ran on these CPUs.
    pub(super) fn run_delays(&self, cpus: &CpuSet) -> Snapshot {
        let mut delays = Snapshot::empty();
        cpus.iter().for_each(|cpu| delays.add(self.kernel.run_delays(cpu).counts));
        delays
    }
}

/// The machine as its paths use it: its address, as [`K`] is the kernel's.
#[derive(Clone, Copy)]
struct M<'a>(NonNull<Machine<'a>>);

impl<'a> Deref for M<'a> {
    type Target = Machine<'a>;

    fn deref(&self) -> &Machine<'a> {
        // SAFETY: the machine outlives the paths of its run, which use it from one thread. They
        // keep the reference for an expression, in which no other path goes on.
        unsafe { self.0.as_ref() }
    }
}

impl DerefMut for M<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        // SAFETY: as above.
        unsafe { self.0.as_mut() }
    }
}

impl M<'_> {
    fn handle(mut self, event: Event) -> Result<()> {
        match event {
            Event::Start(task) => self.start(task)?,
            Event::Alarm(task) => self.alarm(task),
            Event::Due { cpu, plan } => self.due(cpu, plan)?,
            Event::Kicked(cpu) => self.kicked(cpu),
            Event::HandedOver { task, cpu } => self.handed_over(task, cpu),
            Event::ThreadWake { domain, cpu } => self.wake_thread(domain, cpu),
            Event::Timer { cpu, number, started } => self.timer(cpu, number, started),
            Event::Inspect => {
                // It is on no CPU. One that is in a path has not unlocked its run queue yet.
                self.inspect();
                return Ok(());
            }
            Event::Resume(_) => unreachable!("paths overlap only in overlap()"),
        }
        self.kernel.make_kicks();
        Ok(())
    }

    /// A timer of the kernel's side interrupts a CPU.
    fn timer(self, cpu: CpuId, number: usize, started: u64) {
        if self.kernel.is_restarted(number, started) {
            return;
        }
        self.begin_interrupt(cpu);
        self.kernel.fire_timer(number);
        self.end_interrupt(cpu);
    }

    /// Records what the last path through the kernel has done.
    fn note_happenings(mut self) {
        if !self.kernel.has_happenings() {
            return;
        }
        let happenings = self.kernel.take_happenings();
        for happening in &happenings {
            match *happening {
                Happening::Notice { domain, task, from_ns, to_ns } => {
                    let seq = self.kernel.task(task).ctx().seq;
                    let flow = self.flows + 1;
                    let account = &mut self.tasks[task.index()].account;
                    if account.flow_seq != seq {
                        (account.flow_seq, account.flow) = (seq, flow);
                        self.flows = flow;
                        self.trace_notice(task, from_ns, to_ns);
                    }
                    self.interrupt_spin(domain, to_ns);
                }
                Happening::CarriedOut { domain, task, begun_ns, latency_ns } => {
                    self.measures.domains[domain].decision.record(latency_ns);
                    self.trace_carried_out(domain, task, begun_ns);
                }
            }
        }
        self.kernel.recycle(happenings);
    }

    /// Accounts for the tasks that still run or wait at the end.
    fn close(mut self, ended_ns: u64) -> Result<()> {
        self.kernel.begin(ended_ns);
        for cpu in self.kernel.online.iter().collect::<Vec<_>>() {
            self.account(cpu);
            if let Some(task) = self.kernel.cpus[cpu.index()].current {
                self.trace_run(cpu, task);
            }
        }
        for task in &mut self.tasks {
            if task.state == State::Runnable {
                task.account.waited_ns += ended_ns - task.account.runnable_since_ns.min(ended_ns);
            }
        }
        self.measures.length_ns = ended_ns - START_NS;
        self.measures.scheduling_events += self.kernel.scheduling_events;
        self.measures.longest_walk = self.kernel.longest_walk;
        match &mut self.trace {
            Some(trace) => trace.finish(),
            None => Ok(()),
        }
    }

    fn is_thread(self, task: TaskId) -> bool {
        task.index() < self.threads.len()
    }

    fn name(self, task: TaskId) -> String {
        match self.tasks[task.index()].group {
            THREADS => format!("manyland/{}", task.0),
            group => format!("{} {}", self.workload.groups[group].name, task.pid()),
        }
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        // SAFETY: no path goes on, and the schedulers do not use the memory when they are dropped.
        unsafe { self.kernel.free() };
    }
}
