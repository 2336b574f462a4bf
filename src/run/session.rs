//! A run of the scheduler, from the command line's options to its exit.
//!
//! ```text
//! check the kernel ─► topology ─► load ─► threads ─► lock memory ─► attach ─► wait ─► detach
//!                        ▲                                                     │
//!                        └──────────── the machine has changed ────────────────┘
//! ```
//!
//! Invariant: whichever way a run ends, the threads are joined and the kernel's own scheduler is
//! back before [`run`] returns. Until the scheduler is attached nothing on the machine is changed.

use crate::alloc;
use crate::cpuset::CpuSet;
use crate::domains::board::Board;
use crate::domains::sync::Deque;
use crate::ids::{CpuId, Pid};
use crate::kernel::exit::Exit;
use crate::kernel::load::{Attached, Loaded};
use crate::kernel::options::{Format, RunOptions};
use crate::kernel::probe;
use crate::kernel::seam::BpfSeam;
use crate::policy::Task;
use crate::run::builder::Builder;
use crate::run::privileges::{self, Privileges};
use crate::run::signals::Signals;
use crate::run::statistics::Statistics;
use crate::run::thread::{DomainThread, Plan};
use crate::topology::dedicated::{dedicated_cpu, dedicated_cpus};
use crate::topology::power;
use crate::topology::preference::{Prefer, Preferences};
use crate::topology::{Domain, Domains, Source, Topology};
use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use nix::sys::timer::TimerSetTimeFlags;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags};
use std::io::{ErrorKind, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the heap may need after start-up (messages, statistics), kept resident.
const SPARE_HEAP_KIB: usize = 512;

/// What the main thread's stack may need while it waits and prints.
const SPARE_STACK_KIB: usize = 128;

/// [`Builder::run`].
pub fn run(builder: &Builder) -> Result<()> {
    run_while(builder, || Topology::load(&Source::Live))
}

/// [`Builder::run_on`].
pub fn run_on(machine: Topology, builder: &Builder) -> Result<()> {
    run_while(builder, || {
        let live = Topology::load(&Source::Live)?;
        ensure!(
            machine.cpus() == live.cpus(),
            "the description of the machine has CPUs {}, and {} are online",
            machine.cpus(),
            live.cpus()
        );
        Ok(machine.clone())
    })
}

/// Runs on what `read` tells of the machine, which is asked again when the machine has changed.
fn run_while(builder: &Builder, read: impl Fn() -> Result<Topology>) -> Result<()> {
    let signals = prepare(builder)?;
    let mut turn = Turn::First;
    loop {
        match attach_once(builder, &read, &signals, turn, Privileges::Keep)? {
            Ended::Asked => return Ok(()),
            Ended::MachineChanged => turn = Turn::Again,
        }
    }
}

/// Runs until it is told to stop or the machine has changed, in a process that has nothing else to do: once it is attached the
/// process gives up all its privileges ([`crate::run::privileges`]).
pub fn run_once(builder: &Builder, turn: Turn) -> Result<Ended> {
    let signals = prepare(builder)?;
    attach_once(builder, &|| Topology::load(&Source::Live), &signals, turn, Privileges::GiveUp)
}

/// Whether the machine is attached to for the first time. What the user asked for and the machine cannot do is an error the
/// first time; later it is done as far as it goes, because the user asked for a scheduler above all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// As the user has started it.
    First,
    /// The machine has changed since.
    Again,
}

/// What comes before the first attachment.
fn prepare(builder: &Builder) -> Result<Signals> {
    builder.options.check()?;
    privileges::check()?;
    probe::check()?;
    alloc::limit_malloc_arenas()?;
    alloc::check_installed()?;
    alloc::set_thread_policy(None)?;
    Signals::catch()
}

/// Why an attachment ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By Ctrl-C, SIGTERM, or the reader of the statistics, who has left.
    Asked,
    /// CPUs came or went.
    MachineChanged,
}

/// Attaches, and says why that ended. If the machine has changed and the user has asked for the end, both in the same moment, the
/// user's word counts: nobody will say it again.
fn attach_once(
    builder: &Builder,
    read: &impl Fn() -> Result<Topology>,
    signals: &Signals,
    turn: Turn,
    privileges: Privileges,
) -> Result<Ended> {
    match attach(builder, read, signals, turn, privileges)? {
        Ended::MachineChanged if !signals.have_come() => {
            tell("the machine has changed; reading it again\n");
            Ok(Ended::MachineChanged)
        }
        _ => Ok(Ended::Asked),
    }
}

fn attach(
    builder: &Builder,
    read: &impl Fn() -> Result<Topology>,
    signals: &Signals,
    turn: Turn,
    privileges: Privileges,
) -> Result<Ended> {
    let options = &builder.options;
    // First of all: reading the machine forks, which must not meet locked memory or other threads.
    let changes = probe::hotplugs();
    let topology = read()?;
    let domains = topology.partition(options.domain)?;
    let dedicated = dedicated(options, &domains, turn)?;
    tell(&topology.map(&domains));

    let preferences = preferences(options, &domains, &dedicated);
    let mut storage = MaybeUninit::uninit();
    let loaded = Loaded::new(&mut storage, options, &domains, &preferences)?;
    let (board, deques) = Board::new(domains.len(), !options.no_steal && !options.strict);
    let machine = Machine { domains: &domains, dedicated: &dedicated, preferences: &preferences };
    let mut crew = match Crew::start(builder, machine, &board, deques, privileges) {
        // A thread cannot be bound to CPUs that have gone.
        Err(_) if probe::hotplugs() != changes => return Ok(Ended::MachineChanged),
        crew => crew?,
    };
    let ended = crew.serve(builder, machine, loaded, signals, changes);
    // A panic says more than what followed from it.
    crew.dismiss()?;
    ended
}

/// A machine, cut and described.
#[derive(Clone, Copy)]
struct Machine<'a> {
    domains: &'a Domains,
    dedicated: &'a CpuSet,
    preferences: &'a Preferences,
}

/// Chooses which kind of core goes first, and says so where the machine has more than one.
fn preferences(options: &RunOptions, domains: &Domains, dedicated: &CpuSet) -> Preferences {
    let (prefer, why) = match options.prefer {
        Some(prefer) => (prefer, "as asked".to_string()),
        None => {
            let supply = power::supply(Path::new(power::SUPPLIES));
            (Prefer::on(supply), supply.to_string())
        }
    };
    if Preferences::has_kinds(domains) {
        eprintln!("prefer: {prefer} ({why})");
    }
    Preferences::new(domains, prefer, dedicated)
}

/// The CPUs that domain threads keep to themselves. What could be done at first and cannot now is left out.
fn dedicated(options: &RunOptions, domains: &Domains, turn: Turn) -> Result<CpuSet> {
    match turn {
        _ if !options.dedicate => Ok(CpuSet::EMPTY),
        Turn::First => dedicated_cpus(domains),
        Turn::Again => {
            for domain in domains.iter().filter(|domain| dedicated_cpu(domain).is_none()) {
                tell(&format!(
                    "domain {} has only CPU {} left: it is not dedicated\n",
                    domain.id, domain.cpus
                ));
            }
            Ok(domains.iter().filter_map(dedicated_cpu).collect())
        }
    }
}

fn dedicated_of(domain: &Domain, dedicated: &CpuSet) -> Option<CpuId> {
    domain.cpus.intersection(dedicated).first()
}

/// The domain threads.
struct Crew {
    threads: Vec<DomainThread>,
    stop: Arc<AtomicBool>,
    alarm: Arc<EventFd>,
    privileges: Privileges,
}

impl Crew {
    /// Starts the threads; they wait for their queues.
    fn start(
        builder: &Builder,
        machine: Machine<'_>,
        board: &Arc<Board>,
        deques: Vec<Deque<Task>>,
        privileges: Privileges,
    ) -> Result<Self> {
        let Machine { domains, dedicated, preferences } = machine;
        let stop = Arc::new(AtomicBool::new(false));
        let alarm = Arc::new(EventFd::new().context("cannot create an eventfd")?);
        let threads = Vec::with_capacity(domains.len());
        let mut crew = Self { threads, stop, alarm, privileges };
        for (domain, deque) in domains.iter().zip(deques) {
            let plan = Plan {
                domain: domain.clone(),
                order: preferences.within(domain),
                dedicated: dedicated_of(domain, dedicated),
                make: builder.make.clone(),
                slices: builder.options.slices,
                partial: builder.options.partial,
                privileges,
                board: board.clone(),
                deque,
                stop: crew.stop.clone(),
                alarm: crew.alarm.clone(),
            };
            match DomainThread::start(plan) {
                Ok(thread) => crew.threads.push(thread),
                Err(error) => {
                    crew.dismiss()?;
                    return Err(error);
                }
            }
        }
        Ok(crew)
    }

    /// Attaches, lets the threads begin, and waits for the end.
    fn serve(
        &mut self,
        builder: &Builder,
        machine: Machine<'_>,
        loaded: Loaded<'_>,
        signals: &Signals,
        changes: u64,
    ) -> Result<Ended> {
        let options = &builder.options;
        let Machine { domains, dedicated, preferences } = machine;
        let shared: Arc<[_]> = domains.iter().map(|d| loaded.shared().domain(d.id)).collect();
        let bells: Arc<[_]> = self.threads.iter().map(DomainThread::bell).collect();
        let mut seams = Vec::with_capacity(self.threads.len());
        for domain in domains.iter() {
            let queues = loaded.queues(domain.id)?;
            seams.push(BpfSeam::new(domain.id, queues, shared.clone(), bells.clone()));
        }
        let timer = stats_timer(options)?;
        alloc::settle_heap(SPARE_HEAP_KIB)?;
        alloc::lock_process_memory()?;
        alloc::prefault_stack(SPARE_STACK_KIB);

        let pids: Vec<Pid> = self.threads.iter().map(DomainThread::pid).collect();
        let attached = loaded.attach(domains, &pids, dedicated, preferences)?;
        // From here on the kernel asks for a restart; of what was before, it does not know that we
        // have not seen it.
        if probe::hotplugs() != changes {
            return match attached.detach() {
                Some(Exit::Failed(why)) => bail!("the kernel refused the scheduler: {why}"),
                _ => Ok(Ended::MachineChanged),
            };
        }
        for (thread, seam) in self.threads.iter().zip(seams) {
            thread.go(seam)?;
        }
        let format = options.stats.map_or(Format::Text, |stats| stats.format);
        let mut statistics = Statistics::new(&attached, domains.len(), format)?;
        self.privileges.settle_process()?;
        tell(&format!(
            "attached: {} domain thread{} ({}), policy {}\n",
            self.threads.len(),
            if self.threads.len() == 1 { "" } else { "s" },
            domains.granularity(),
            builder.name
        ));
        let reason = self.wait(&attached, &timer, &mut statistics, signals);
        let faults = statistics.page_faults();
        let exit = attached.detach();
        let reason = reason?;
        match (reason, exit) {
            (_, Some(Exit::Failed(why))) => {
                bail!("the kernel has ended the scheduler: {why}; its own scheduler is back")
            }
            (Reason::Left, Some(Exit::Restart)) => Ok(Ended::MachineChanged),
            (Reason::ThreadEnded, _) => bail!("a domain thread has ended by itself"),
            _ => {
                tell(&format!("detached; {faults} page faults while attached\n"));
                Ok(Ended::Asked)
            }
        }
    }

    fn wait(
        &self,
        attached: &Attached<'_>,
        timer: &TimerFd,
        statistics: &mut Statistics,
        signals: &Signals,
    ) -> Result<Reason> {
        loop {
            let mut sources = [
                PollFd::new(signals.came(), PollFlags::POLLIN),
                PollFd::new(self.alarm.as_fd(), PollFlags::POLLIN),
                PollFd::new(attached.exits(), PollFlags::POLLIN),
                PollFd::new(timer.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut sources, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => continue,
                result => result.context("cannot wait for the end of the run")?,
            };
            let [asked, ended, left, due] = sources.map(|source| source.any() == Some(true));
            if ended {
                return Ok(Reason::ThreadEnded);
            }
            if left {
                return Ok(Reason::Left);
            }
            if asked {
                return Ok(Reason::Asked);
            }
            if due {
                timer.wait().context("cannot read the timer of the statistics")?;
                match statistics.print(attached) {
                    Err(error) if is_unread(&error) => return Ok(Reason::Unread),
                    result => result?,
                }
            }
        }
    }

    /// Ends the threads and waits for them.
    fn dismiss(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        let mut result = Ok(());
        for thread in self.threads.drain(..) {
            result = result.and(thread.join());
        }
        result
    }
}

/// Why the main thread stopped waiting.
enum Reason {
    /// A signal.
    Asked,
    /// The kernel has detached the scheduler.
    Left,
    /// The reader of the statistics has left (`| head -1`).
    Unread,
    /// A domain thread is gone.
    ThreadEnded,
}

/// Writes to stderr. That nobody reads it is no reason to stop scheduling, let alone to panic.
fn tell(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn is_unread(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(|e: &std::io::Error| e.kind() == ErrorKind::BrokenPipe)
}

/// Fires when statistics are due; never without `--stats`.
fn stats_timer(options: &RunOptions) -> Result<TimerFd> {
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)
        .context("cannot create the timer of the statistics")?;
    if let Some(stats) = options.stats {
        timer
            .set(Expiration::Interval(stats.every.into()), TimerSetTimeFlags::empty())
            .context("cannot set the timer of the statistics")?;
    }
    Ok(timer)
}
