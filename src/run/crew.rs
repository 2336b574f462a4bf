//! The domain threads of one attachment: they start together, get their seams, and end together.
//!
//! Invariant: every thread that was started has been joined when [`Crew::dismiss`] returns.

use super::session::{Attachment, Ended};
use crate::alloc;
use crate::cpuset::CpuSet;
use crate::domains::board::Board;
use crate::domains::sync::Deque;
use crate::ids::CpuId;
use crate::kernel::exit::Exit;
use crate::kernel::load::{Attached, Loaded};
use crate::kernel::options::RunOptions;
use crate::kernel::probe;
use crate::kernel::seam::BpfSeam;
use crate::logger;
use crate::policy::Task;
use crate::run::builder::Builder;
use crate::run::changes::Changes;
use crate::run::class_change;
use crate::run::notify;
use crate::run::privileges::Privileges;
use crate::run::protocol::About;
use crate::run::signals::Signals;
use crate::run::socket::{self, StatisticsSocket};
use crate::run::statistics::{Lines, Statistics};
use crate::run::thread::{DomainThread, Plan};
use crate::topology::preference::Preferences;
use crate::topology::{Domain, Domains};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The resident heap that messages and statistics may need after start-up.
const SPARE_HEAP_KIB: usize = 512;

/// The stack that the main thread may need while it waits and prints.
const SPARE_STACK_KIB: usize = 128;

/// A machine with its domains and what the options choose on it.
#[derive(Clone, Copy)]
pub(super) struct Machine<'a> {
    pub(super) domains: &'a Domains,
    pub(super) dedicated: &'a CpuSet,
    pub(super) preferences: &'a Preferences,
}

/// The domain threads.
pub(super) struct Crew {
    threads: Vec<DomainThread>,
    stop: Arc<AtomicBool>,
    alarm: Arc<EventFd>,
    privileges: Privileges,
    attachment: Attachment,
}

impl Crew {
    /// Starts the threads, which then wait for their seams.
    pub(super) fn start(
        builder: &Builder,
        machine: Machine<'_>,
        loaded: &Loaded<'_>,
        board: &Arc<Board>,
        deques: Vec<Deque<Task>>,
        privileges: Privileges,
        attachment: Attachment,
    ) -> Result<Self> {
        let Machine { domains, dedicated, preferences } = machine;
        let stop = Arc::new(AtomicBool::new(false));
        let alarm = Arc::new(EventFd::new().context("cannot create an eventfd")?);
        let threads = Vec::with_capacity(domains.len());
        let mut crew = Self { threads, stop, alarm, privileges, attachment };
        for (domain, deque) in domains.iter().zip(deques) {
            let plan = Plan {
                domain: domain.clone(),
                preference: preferences.within(domain),
                dedicated: dedicated_of(domain, dedicated),
                make: builder.make.clone(),
                slices: builder.options.slices(),
                partial: builder.options.partial,
                mark: loaded.mark()?,
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

    /// Lets the threads begin, attaches, and waits for the end.
    pub(super) fn serve(
        &mut self,
        builder: &Builder,
        machine: Machine<'_>,
        loaded: Loaded<'_>,
        signals: &Signals,
        hotplugs: u64,
        changes: &mut Changes,
    ) -> Result<Ended> {
        let options = &builder.options;
        let Machine { domains, dedicated, preferences } = machine;
        let seams = self.seams(domains, &loaded)?;
        settle_memory()?;

        // They sleep until the first notice. Once the scheduler is attached, this thread may have to
        // wait for a decision itself.
        for (thread, seam) in self.threads.iter().zip(seams) {
            thread.go(seam)?;
        }
        let attached = class_change::attaching(self.attachment, || {
            loaded.attach(domains, dedicated, preferences)
        })?;
        // From here on the kernel asks for a restart when CPUs come or go. A change between reading
        // the machine and attaching is only visible in this count.
        if probe::hotplugs() != hotplugs {
            return match attached.detach() {
                Some(Exit::Failed(why) | Exit::Evicted(why)) => {
                    bail!("the kernel refused the scheduler: {why}")
                }
                Some(Exit::Ordered) => Ok(Ended::Asked),
                _ => Ok(Ended::MachineChanged),
            };
        }
        let mut socket = StatisticsSocket::open(Path::new(socket::PATH), about(builder, domains));
        let mut printing = Printing::new(options, domains.len())?;
        let pids = self.threads.iter().map(DomainThread::pid).collect();
        let mut statistics = Statistics::new(&attached, domains, pids)?;
        let attached_as = self.announcement(domains, &builder.name);
        notify::ready(&attached_as);
        self.privileges.settle_process(socket.listener())?;
        log::info!("{attached_as}");
        changes.begin();
        let reason =
            self.wait(&attached, &mut printing, &mut socket, &mut statistics, signals, changes);
        let faults = statistics.page_faults();
        drop(statistics);
        let dump = attached.dump();
        let exit = attached.detach();
        if matches!(exit, Some(Exit::Failed(_) | Exit::Evicted(_))) && !dump.is_empty() {
            log::error!("{DUMP_BEGINS}\n{}\n{DUMP_ENDS}", dump.trim_end());
        }
        outcome(reason?, exit, faults)
    }

    /// A seam for each domain thread.
    fn seams(&self, domains: &Domains, loaded: &Loaded<'_>) -> Result<Vec<BpfSeam>> {
        let shared: Arc<[_]> = domains.iter().map(|d| loaded.shared().domain(d.id)).collect();
        let bells: Arc<[_]> = self.threads.iter().map(DomainThread::bell).collect();
        let groups = loaded.groups();
        let mut seams = Vec::with_capacity(self.threads.len());
        for domain in domains.iter() {
            let queues = loaded.queues(domain.id)?;
            seams.push(BpfSeam::new(
                domain.id,
                queues,
                shared.clone(),
                bells.clone(),
                groups.clone(),
            ));
        }
        Ok(seams)
    }

    fn announcement(&self, domains: &Domains, policy: &str) -> String {
        format!(
            "attached: {} domain thread{} ({}), policy {policy}",
            self.threads.len(),
            if self.threads.len() == 1 { "" } else { "s" },
            domains.granularity(),
        )
    }

    fn wait(
        &self,
        attached: &Attached<'_>,
        printing: &mut Option<Printing>,
        socket: &mut StatisticsSocket,
        statistics: &mut Statistics<'_>,
        signals: &Signals,
        changes: &mut Changes,
    ) -> Result<Reason> {
        loop {
            let due = printing.as_ref().map_or(changes.due(), |it| it.due.min(changes.due()));
            let due = due.saturating_duration_since(Instant::now());
            let [asked, ended, left, readers @ ..] =
                &self.events(attached, socket, signals, due)?[..]
            else {
                continue;
            };
            if *ended {
                return Ok(Reason::ThreadEnded);
            }
            if *left {
                return Ok(Reason::Left);
            }
            if *asked {
                return Ok(Reason::Asked);
            }
            if changes.have_come() {
                return Ok(Reason::Changed);
            }
            socket.serve(readers, statistics);
            if let Some(printing) = printing
                && Instant::now() >= printing.due
            {
                match printing.print(statistics) {
                    Err(error) if is_unread(&error) => return Ok(Reason::Unread),
                    result => result?,
                }
            }
        }
    }

    /// Which of the events came: a signal, the end of a thread, that of the attachment, and what
    /// the socket waits for; none if a signal's handler ran.
    fn events(
        &self,
        attached: &Attached<'_>,
        socket: &StatisticsSocket,
        signals: &Signals,
        at_most: Duration,
    ) -> Result<Vec<bool>> {
        let mut sources = vec![
            PollFd::new(signals.came(), PollFlags::POLLIN),
            PollFd::new(self.alarm.as_fd(), PollFlags::POLLIN),
            PollFd::new(attached.exits(), PollFlags::POLLIN),
        ];
        sources.extend(socket.sources());
        // Rounded up, so that the time has come when it is over.
        let timeout = PollTimeout::try_from(at_most.saturating_add(Duration::from_micros(999)));
        match poll(&mut sources, timeout.unwrap_or(PollTimeout::MAX)) {
            Err(Errno::EINTR) => Ok(Vec::new()),
            result => {
                result.context("cannot wait for the end of the run")?;
                Ok(sources.iter().map(|source| source.any() == Some(true)).collect())
            }
        }
    }

    /// Ends the threads and waits for them.
    pub(super) fn dismiss(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        let mut result = Ok(());
        for thread in self.threads.drain(..) {
            result = result.and(thread.join());
        }
        let left_out = logger::left_out();
        if left_out > 0 {
            log::warn!(
                "{left_out} messages of domain threads were left out: they may wait for no reader"
            );
        }
        result
    }
}

/// The lines before a dump and after it.
pub const DUMP_BEGINS: &str = "the kernel's dump:";
/// See [`DUMP_BEGINS`].
pub const DUMP_ENDS: &str = "end of the kernel's dump";
/// How a message begins that says why the kernel has dumped.
pub const HAS_ENDED: &str = "the kernel has ended the scheduler";

/// Why the main thread stopped waiting.
enum Reason {
    /// A signal.
    Asked,
    /// The kernel has detached the scheduler.
    Left,
    /// The reader of the statistics has closed its end (`| head -1`).
    Unread,
    /// The machine has changed.
    Changed,
    /// A domain thread has ended.
    ThreadEnded,
}

fn dedicated_of(domain: &Domain, dedicated: &CpuSet) -> Option<CpuId> {
    domain.cpus.intersection(dedicated).first()
}

/// The result of an attachment, by the reason for its end and the exit that BPF has recorded.
fn outcome(reason: Reason, exit: Option<Exit>, faults: u64) -> Result<Ended> {
    match (reason, exit) {
        (_, Some(Exit::Failed(why))) => {
            bail!("{HAS_ENDED}: {why}; its own scheduler is back")
        }
        (Reason::Asked, Some(Exit::Evicted(_))) => Ok(Ended::Asked),
        (_, Some(Exit::Evicted(why))) => Ok(Ended::Evicted(why)),
        (Reason::Left, Some(Exit::Ordered)) => {
            log::warn!("SysRq-S has ended the scheduler; the kernel's own is back");
            Ok(Ended::Asked)
        }
        (Reason::Left, Some(Exit::Restart)) | (Reason::Changed, _) => Ok(Ended::MachineChanged),
        (Reason::ThreadEnded, _) => bail!("a domain thread has ended by itself"),
        _ => {
            log::info!("detached; {faults} page faults while attached");
            Ok(Ended::Asked)
        }
    }
}

/// Makes the memory resident that the process needs from here on.
fn settle_memory() -> Result<()> {
    alloc::settle_heap(SPARE_HEAP_KIB)?;
    alloc::lock_process_memory()?;
    alloc::prefault_stack(SPARE_STACK_KIB);
    Ok(())
}

fn is_unread(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(|e: &std::io::Error| e.kind() == ErrorKind::BrokenPipe)
}

/// Lines of statistics on standard output (`--stats`).
struct Printing {
    every: Duration,
    due: Instant,
    lines: Lines,
}

impl Printing {
    /// Prints nothing without the option.
    fn new(options: &RunOptions, domains: usize) -> Result<Option<Printing>> {
        let Some(seconds) = options.stats_secs else { return Ok(None) };
        let every = seconds.duration();
        let lines = Lines::new(domains, options.stats_format)?;
        Ok(Some(Printing { every, due: Instant::now() + every, lines }))
    }

    fn print(&mut self, statistics: &mut Statistics<'_>) -> Result<()> {
        // After a long stop of the process one line is due, not one for each interval.
        self.due = (self.due + self.every).max(Instant::now());
        self.lines.print(statistics)
    }
}

/// What readers may know of the run.
fn about(builder: &Builder, domains: &Domains) -> About {
    About {
        policy: builder.name.clone(),
        domain: domains.granularity().to_string(),
        cpus: domains.iter().map(|domain| domain.cpus.to_string()).collect(),
        options: serde_json::to_value(&builder.options).expect("options are plain data"),
    }
}
