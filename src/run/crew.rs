//! The domain threads of one attachment: they start together, get their seams, and end together.
//!
//! Invariant: every thread that was started has been joined when [`Crew::dismiss`] returns.

use super::session::{Ended, report};
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
use crate::policy::Task;
use crate::run::builder::Builder;
use crate::run::privileges::Privileges;
use crate::run::signals::Signals;
use crate::run::statistics::Statistics;
use crate::run::thread::{DomainThread, Plan};
use crate::topology::preference::Preferences;
use crate::topology::{Domain, Domains};
use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use nix::sys::timer::TimerSetTimeFlags;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags};
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

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
    ) -> Result<Self> {
        let Machine { domains, dedicated, preferences } = machine;
        let stop = Arc::new(AtomicBool::new(false));
        let alarm = Arc::new(EventFd::new().context("cannot create an eventfd")?);
        let threads = Vec::with_capacity(domains.len());
        let mut crew = Self { threads, stop, alarm, privileges };
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

    /// Attaches, lets the threads begin, and waits for the end.
    pub(super) fn serve(
        &mut self,
        builder: &Builder,
        machine: Machine<'_>,
        loaded: Loaded<'_>,
        signals: &Signals,
        changes: u64,
    ) -> Result<Ended> {
        let options = &builder.options;
        let Machine { domains, dedicated, preferences } = machine;
        let seams = self.seams(domains, &loaded)?;
        let timer = stats_timer(options)?;
        settle_memory()?;

        let attached = loaded.attach(domains, dedicated, preferences)?;
        // From here on the kernel asks for a restart when CPUs come or go. A change between reading
        // the machine and attaching is only visible in this count.
        if probe::hotplugs() != changes {
            return match attached.detach() {
                Some(Exit::Failed(why) | Exit::Evicted(why)) => {
                    bail!("the kernel refused the scheduler: {why}")
                }
                Some(Exit::Ordered) => Ok(Ended::Asked),
                _ => Ok(Ended::MachineChanged),
            };
        }
        for (thread, seam) in self.threads.iter().zip(seams) {
            thread.go(seam)?;
        }
        let mut statistics = Statistics::new(&attached, domains.len(), options.stats_format)?;
        self.privileges.settle_process()?;
        self.announce(domains, &builder.name);
        let reason = self.wait(&attached, &timer, &mut statistics, signals);
        let faults = statistics.page_faults();
        let exit = attached.detach();
        outcome(reason?, exit, faults)
    }

    /// A seam for each domain thread.
    fn seams(&self, domains: &Domains, loaded: &Loaded<'_>) -> Result<Vec<BpfSeam>> {
        let shared: Arc<[_]> = domains.iter().map(|d| loaded.shared().domain(d.id)).collect();
        let bells: Arc<[_]> = self.threads.iter().map(DomainThread::bell).collect();
        let mut seams = Vec::with_capacity(self.threads.len());
        for domain in domains.iter() {
            let queues = loaded.queues(domain.id)?;
            seams.push(BpfSeam::new(domain.id, queues, shared.clone(), bells.clone()));
        }
        Ok(seams)
    }

    fn announce(&self, domains: &Domains, policy: &str) {
        report(&format!(
            "attached: {} domain thread{} ({}), policy {policy}\n",
            self.threads.len(),
            if self.threads.len() == 1 { "" } else { "s" },
            domains.granularity(),
        ));
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
    pub(super) fn dismiss(&mut self) -> Result<()> {
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
    /// The reader of the statistics has closed its end (`| head -1`).
    Unread,
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
            bail!("the kernel has ended the scheduler: {why}; its own scheduler is back")
        }
        (Reason::Asked, Some(Exit::Evicted(_))) => Ok(Ended::Asked),
        (_, Some(Exit::Evicted(why))) => Ok(Ended::Evicted(why)),
        (Reason::Left, Some(Exit::Ordered)) => {
            report("SysRq-S has ended the scheduler; the kernel's own is back\n");
            Ok(Ended::Asked)
        }
        (Reason::Left, Some(Exit::Restart)) => Ok(Ended::MachineChanged),
        (Reason::ThreadEnded, _) => bail!("a domain thread has ended by itself"),
        _ => {
            report(&format!("detached; {faults} page faults while attached\n"));
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

/// A timer that fires when statistics are due, and never without `--stats`.
fn stats_timer(options: &RunOptions) -> Result<TimerFd> {
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)
        .context("cannot create the timer of the statistics")?;
    if let Some(seconds) = options.stats_secs {
        let every = Duration::from_secs(seconds);
        timer
            .set(Expiration::Interval(every.into()), TimerSetTimeFlags::empty())
            .context("cannot set the timer of the statistics")?;
    }
    Ok(timer)
}
