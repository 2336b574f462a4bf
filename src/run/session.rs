//! The attachments of a run: from the options to the exit, and again when the machine changes.
//!
//! ```text
//! check the kernel ─► topology ─► load ─► threads ─► lock memory ─► attach ─► wait ─► detach
//!                        ▲                                                     │
//!                        └── the machine has changed, or the kernel has ended it ┘
//! ```
//!
//! Invariant: whichever way a run ends, the threads are joined and the kernel's own scheduler is
//! back before [`run`] returns. Until the scheduler is attached nothing on the machine changes.

use super::crew::{Crew, Machine};
use crate::alloc;
use crate::cpuset::CpuSet;
use crate::domains::board::Board;
use crate::kernel::load::Loaded;
use crate::kernel::options::RunOptions;
use crate::kernel::probe;
use crate::logger;
use crate::printer::open_messages;
use crate::run::affinity;
use crate::run::builder::Builder;
use crate::run::changes::Changes;
use crate::run::class_change::RcuThreads;
use crate::run::evictions::Evictions;
use crate::run::haste::Haste;
use crate::run::panics;
use crate::run::privileges::{self, Privileges};
use crate::run::signals::Signals;
use crate::topology::dedicated::{dedicated_cpu, dedicated_cpus};
use crate::topology::isolated::IsolatedCpus;
use crate::topology::power;
use crate::topology::preference::{Prefer, Preferences};
use crate::topology::{Domains, Source, Topology};
use anyhow::{Result, ensure};
use std::mem::MaybeUninit;
use std::path::Path;

/// [`Builder::run`].
pub fn run(builder: &Builder) -> Result<()> {
    run_while(builder, || Topology::load(&Source::Live))
}

/// [`Builder::run_on`].
pub fn run_on(machine: Topology, builder: &Builder) -> Result<()> {
    run_while(builder, || {
        let machine = machine.clone().without(&IsolatedCpus::open().read());
        let live = Topology::load(&Source::Live)?;
        ensure!(
            machine.cpus() == live.cpus(),
            "the description of the machine has CPUs {}, and {} are online and not isolated",
            machine.cpus(),
            live.cpus()
        );
        Ok(machine)
    })
}

/// Runs on the machine that `read` returns, and reads it again when it has changed.
fn run_while(builder: &Builder, read: impl Fn() -> Result<Topology>) -> Result<()> {
    let signals = prepare(builder)?;
    let _rcu = RcuThreads::as_they_are();
    let mut attachment = Attachment::First;
    let mut evictions = Evictions::default();
    loop {
        match attach_once(builder, &read, &signals, attachment, Privileges::Keep)? {
            Ended::Asked => return Ok(()),
            Ended::MachineChanged => {}
            Ended::Evicted(why) => evictions.note(&why)?,
        }
        attachment = Attachment::Again;
    }
}

/// Runs until a signal ends it or the machine has changed, in a process that does nothing else.
/// Once it is attached the process gives up all its privileges ([`crate::run::privileges`]).
///
/// # Errors
/// As [`Builder::run`].
pub fn run_once(builder: &Builder, attachment: Attachment) -> Result<Ended> {
    let signals = prepare(builder)?;
    let read = || Topology::load(&Source::Live);
    attach_once(builder, &read, &signals, attachment, Privileges::GiveUp)
}

/// Whether the run attaches for the first time.
///
/// An option that the machine cannot fulfil is an error the first time. Later the run fulfils it as
/// far as it can, because the user wants a scheduler above all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// As the user has started it.
    First,
    /// The machine has changed since, or the kernel has ended the scheduler.
    Again,
}

/// Checks the options, this process and the kernel, and prepares the process for its threads.
fn prepare(builder: &Builder) -> Result<Signals> {
    builder.options.check()?;
    logger::install(builder.options.log_level());
    privileges::check()?;
    probe::check()?;
    alloc::limit_malloc_arenas()?;
    alloc::check_installed()?;
    alloc::set_thread_policy(None)?;
    open_messages();
    panics::watch_main();
    Signals::catch()
}

/// Why an attachment ended without an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A signal came (Ctrl-C, SIGTERM), or the reader of the statistics has closed its end.
    Asked,
    /// CPUs came or went, or were isolated or are no longer.
    MachineChanged,
    /// The kernel has ended the scheduler for what may be over by now, and said why.
    Evicted(String),
}

/// Attaches once, and returns why that ended. The machine may change in the moment in which a
/// signal asks for the end. Then the signal counts, because it comes only once.
fn attach_once(
    builder: &Builder,
    read: &impl Fn() -> Result<Topology>,
    signals: &Signals,
    attachment: Attachment,
    privileges: Privileges,
) -> Result<Ended> {
    match attach(builder, read, signals, attachment, privileges)? {
        Ended::MachineChanged if !signals.have_come() => {
            log::info!("the machine has changed; reading it again");
            Ok(Ended::MachineChanged)
        }
        Ended::Evicted(why) if !signals.have_come() => Ok(Ended::Evicted(why)),
        _ => Ok(Ended::Asked),
    }
}

fn attach(
    builder: &Builder,
    read: &impl Fn() -> Result<Topology>,
    signals: &Signals,
    attachment: Attachment,
    privileges: Privileges,
) -> Result<Ended> {
    let options = &builder.options;
    let haste = Haste::begin();
    // Reading the machine forks, which must not meet locked memory or other threads: it comes
    // first.
    let hotplugs = probe::hotplugs();
    let mut changes = Changes::new(options.dedicate);
    let topology = read()?;
    let domains = topology.partition(options.domain)?;
    let usable = affinity::usable()?;
    let dedicated = dedicated(options, &domains, &usable, attachment)?;
    log::info!("{}", topology.map(&domains).trim_end());
    let isolated = changes.isolated();
    if !isolated.is_empty() {
        log::info!("CPUs {isolated} are isolated: only tasks of their partition run there");
    }
    if let Some(line) = affinity::confined(&domains, &usable) {
        log::warn!("{line}");
    }

    if attachment == Attachment::First {
        warn_of_surroundings()?;
    }
    let preferences = preferences(options, &domains, &dedicated);
    let mut storage = MaybeUninit::uninit();
    let loaded = Loaded::new(&mut storage, options, &domains, &preferences)?;
    // The domain threads are not to inherit it.
    drop(haste);
    let (board, deques) = Board::new(domains.len(), !options.no_steal && !options.strict);
    let machine = Machine { domains: &domains, dedicated: &dedicated, preferences: &preferences };
    let crew = Crew::start(builder, machine, &loaded, &board, deques, privileges, attachment);
    let mut crew = match crew {
        // A thread cannot be bound to CPUs that have gone offline.
        Err(_) if probe::hotplugs() != hotplugs => return Ok(Ended::MachineChanged),
        crew => crew?,
    };
    let ended = crew.serve(builder, machine, loaded, signals, hotplugs, &mut changes);
    // The panic of a thread says more than the errors that follow from it.
    crew.dismiss()?;
    ended
}

/// Warns of what this kernel or a sandbox makes worse than elsewhere.
///
/// # Errors
/// If the kernel's BTF cannot be read.
fn warn_of_surroundings() -> Result<()> {
    let btf = probe::vmlinux()?;
    if probe::hangs_by_core_scheduling(&btf) {
        log::warn!(
            "this kernel hangs if a user turns on core scheduling (PR_SCHED_CORE) while a sched_ext \
             scheduler is attached; use Linux 7.3 or newer, or turn SMT off"
        );
    }
    if !alloc::may_lock() {
        log::warn!(
            "a sandbox forbids to lock memory: where memory is short the kernel may evict the \
             scheduler's, and tasks run undecided meanwhile"
        );
    }
    if probe::misses_idle_cgroups(&btf) {
        log::info!(
            "this kernel does not tell of changes of cpu.idle: cgroups that are idle now remain so \
             until the scheduler attaches again; Linux 6.19 tells"
        );
    }
    if !probe::tells_of_limits(&btf) {
        log::warn!(
            "this kernel does not tell sched_ext schedulers of cgroups' limits of CPU time (cpu.max), \
             so they do not hold; Linux 6.17 and newer do"
        );
    }
    if probe::is_preempt_rt() {
        log::warn!(
            "this kernel has PREEMPT_RT, on which this is not tested: each wake-up of a domain thread \
             is a real-time task's work"
        );
    }
    Ok(())
}

/// Chooses which kind of core goes first, and reports it where the machine has more than one kind.
fn preferences(options: &RunOptions, domains: &Domains, dedicated: &CpuSet) -> Preferences {
    let (prefer, why) = match options.prefer {
        Some(prefer) => (prefer, "as asked".to_string()),
        None => {
            let supply = power::supply(Path::new(power::SUPPLIES));
            (Prefer::on(supply), supply.to_string())
        }
    };
    if Preferences::has_kinds(domains) {
        log::info!("prefer: {prefer} ({why})");
    }
    Preferences::new(domains, prefer, dedicated)
}

/// The CPUs that domain threads keep to themselves. A domain gets none if it has come down to one
/// CPU since the first attachment, or if its thread may not use its CPUs.
fn dedicated(
    options: &RunOptions,
    domains: &Domains,
    usable: &CpuSet,
    attachment: Attachment,
) -> Result<CpuSet> {
    match attachment {
        _ if !options.dedicate => return Ok(CpuSet::EMPTY),
        Attachment::First => {
            dedicated_cpus(domains)?;
        }
        Attachment::Again => {
            for domain in domains.iter().filter(|domain| domain.cpus.len() == 1) {
                log::warn!(
                    "domain {} has only CPU {} left: it is not dedicated",
                    domain.id,
                    domain.cpus
                );
            }
        }
    }
    Ok(domains.iter().filter_map(|domain| dedicated_cpu(domain, usable)).collect())
}
