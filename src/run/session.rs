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

use super::crew::{Crew, Machine};
use crate::alloc;
use crate::cpuset::CpuSet;
use crate::domains::board::Board;
use crate::kernel::load::Loaded;
use crate::kernel::options::RunOptions;
use crate::kernel::probe;
use crate::run::builder::Builder;
use crate::run::privileges::{self, Privileges};
use crate::run::signals::Signals;
use crate::topology::dedicated::{dedicated_cpu, dedicated_cpus};
use crate::topology::power;
use crate::topology::preference::{Prefer, Preferences};
use crate::topology::{Domains, Source, Topology};
use anyhow::{Result, ensure};
use std::io::Write;
use std::mem::MaybeUninit;
use std::path::Path;

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

/// Runs on the machine that `read` describes; calls it again when the machine has changed.
fn run_while(builder: &Builder, read: impl Fn() -> Result<Topology>) -> Result<()> {
    let signals = prepare(builder)?;
    let mut attachment = Attachment::First;
    loop {
        match attach_once(builder, &read, &signals, attachment, Privileges::Keep)? {
            Ended::Asked => return Ok(()),
            Ended::MachineChanged => attachment = Attachment::Again,
        }
    }
}

/// Runs until the user asks for the end or the machine has changed, in a process that has nothing
/// else to do: once it is attached the process gives up all its privileges
/// ([`crate::run::privileges`]).
pub fn run_once(builder: &Builder, attachment: Attachment) -> Result<Ended> {
    let signals = prepare(builder)?;
    attach_once(
        builder,
        &|| Topology::load(&Source::Live),
        &signals,
        attachment,
        Privileges::GiveUp,
    )
}

/// Whether the machine is attached to for the first time. What the user asked for and the machine
/// cannot do is an error the first time; later it is done as far as it goes, because the user asked
/// for a scheduler above all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
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

/// Attaches, and says why that ended. If in the same moment the machine has changed and the user
/// has asked for the end, the user's word counts: the user will not repeat it.
fn attach_once(
    builder: &Builder,
    read: &impl Fn() -> Result<Topology>,
    signals: &Signals,
    attachment: Attachment,
    privileges: Privileges,
) -> Result<Ended> {
    match attach(builder, read, signals, attachment, privileges)? {
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
    attachment: Attachment,
    privileges: Privileges,
) -> Result<Ended> {
    let options = &builder.options;
    // First of all: reading the machine forks, which must not meet locked memory or other threads.
    let changes = probe::hotplugs();
    let topology = read()?;
    let domains = topology.partition(options.domain)?;
    let dedicated = dedicated(options, &domains, attachment)?;
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

/// The CPUs that domain threads keep to themselves. What could be done at first and cannot now is
/// left out.
fn dedicated(options: &RunOptions, domains: &Domains, attachment: Attachment) -> Result<CpuSet> {
    match attachment {
        _ if !options.dedicate => Ok(CpuSet::EMPTY),
        Attachment::First => dedicated_cpus(domains),
        Attachment::Again => {
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

/// Writes to stderr. A closed stderr is no reason to stop scheduling, let alone to panic.
pub(super) fn tell(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
