//! A domain thread: where it runs, when it decides, when it sleeps.
//!
//! Its life:
//!
//! 1. It asks for all CPUs, of which BPF prefers those of its domain. It touches its stack, and
//!    makes its arena of memory on the domain's NUMA node. It makes itself known to BPF, and gives
//!    up its capabilities.
//! 2. It makes its policy inside the arena, says that it is ready, and waits until the scheduler is
//!    attached.
//! 3. It enters the arena and decides in rounds ([`Scheduler::round`]): it drains the notices of
//!    its domain, decides, and submits the decisions. When nothing is left to decide it sleeps in
//!    the kernel. While tasks wait that cannot be decided yet, it yields.
//! 4. The main thread sets `stop` and rings the bell; the thread ends. Tasks without a decision are
//!    still in the kernel, which holds every runnable task.
//!
//! Invariant: while no task waits for a decision the thread sleeps in the kernel. With `--dedicate`
//! it spins instead, but only on the CPU that is its own, and that no other task wants. From `go` on it
//! neither allocates outside its arena nor touches memory for the first time.

use crate::alloc;
use crate::cpuset::CpuSet;
use crate::domains::board::Board;
use crate::domains::scheduler::{Left, Scheduler};
use crate::domains::sync::Deque;
use crate::ids::{CpuId, DomainId, Pid};
use crate::kernel::load::ThreadMark;
use crate::kernel::seam::BpfSeam;
use crate::policy::{MakePolicy, Setup, Slices, Task};
use crate::run::affinity;
use crate::run::class_change;
use crate::run::panics;
use crate::run::privileges::{self, Privileges};
use crate::run::signals::Signals;
use crate::topology::Domain;
use crate::topology::preference::Place;
use anyhow::{Context, Result, anyhow};
use nix::sys::eventfd::EventFd;
use seccompiler::BpfProgram;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// The stack of a domain thread, all of it touched before attach.
const STACK_KIB: usize = 256;
/// The part of the stack that holds the present frames while the rest is touched.
const STACK_MARGIN_KIB: usize = 64;
/// The memory a domain thread allocates from. A policy's queue of some thousand tasks fits.
const ARENA_KIB: usize = 2048;

/// What a domain thread needs to run.
pub struct Plan {
    /// Its domain.
    pub domain: Domain,
    /// The preference among its idle CPUs, the best step first.
    pub preference: Vec<Place>,
    /// The CPU it keeps to itself, with `--dedicate`.
    pub dedicated: Option<CpuId>,
    /// Makes the policy, on the thread itself, so that the policy's memory is the domain's.
    pub make: MakePolicy,
    /// The slices for the policy.
    pub slices: Slices,
    /// Whether only tasks that chose SCHED_EXT are scheduled; the thread then chooses it too.
    pub partial: bool,
    /// Makes the thread known to BPF.
    pub mark: ThreadMark,
    /// Whether the thread gives up its capabilities once it has its CPUs and its memory.
    pub privileges: Privileges,
    /// What the domains let each other see.
    pub board: Arc<Board>,
    /// The domain's public deque.
    pub deque: Deque<Task>,
    /// Set when the thread has to end.
    pub stop: Arc<AtomicBool>,
    /// The thread rings it when it ends by itself, which is a failure.
    pub alarm: Arc<EventFd>,
}

impl Plan {
    /// The CPUs of the domain except the dedicated one.
    pub fn usable(&self) -> CpuSet {
        let mut cpus = self.domain.cpus;
        if let Some(cpu) = self.dedicated {
            cpus.remove(cpu);
        }
        cpus
    }
}

/// A domain thread that waits for its seam, or decides.
pub struct DomainThread {
    domain: DomainId,
    pid: Pid,
    bell: Arc<EventFd>,
    seams: SyncSender<BpfSeam>,
    handle: JoinHandle<Result<(), Option<panics::Words>>>,
}

impl DomainThread {
    /// Starts a thread and waits until it has its CPUs, its memory and its policy.
    ///
    /// # Errors
    /// If the thread cannot be started, or gets neither CPUs nor memory.
    pub fn start(plan: Plan) -> Result<Self> {
        let domain = plan.domain.id;
        let alarm = plan.alarm.clone();
        let (ready, is_ready) = sync_channel::<Result<Pid>>(1);
        let (seams, seam) = sync_channel(1);
        let handle = std::thread::Builder::new()
            .name(format!("manyland/{domain}"))
            .stack_size(STACK_KIB * 1024)
            .spawn(move || {
                panics::watch_domain_thread();
                let stop = plan.stop.clone();
                let outcome = catch_unwind(AssertUnwindSafe(|| life(plan, &ready, &seam)));
                if outcome.is_err() || !stop.load(Ordering::Acquire) {
                    let _ = alarm.write(1);
                }
                outcome.map_err(|_| panics::kept())
            })
            .with_context(|| format!("cannot start the thread of domain {domain}"))?;
        let pid = is_ready
            .recv()
            .map_err(|_| anyhow!("the thread ended before it began"))
            .and_then(|result| result)
            .with_context(|| format!("cannot prepare the thread of domain {domain}"))?;
        let bell = Arc::new(EventFd::new().context("cannot create an eventfd")?);
        Ok(Self { domain, pid, bell, seams, handle })
    }

    /// Its thread ID, for the statistics.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The bell that wakes it, which its seam polls.
    pub fn bell(&self) -> Arc<EventFd> {
        self.bell.clone()
    }

    /// Lets it begin, with the seam of its domain.
    ///
    /// # Errors
    /// If the thread has ended.
    pub fn go(&self, seam: BpfSeam) -> Result<()> {
        self.seams.send(seam).map_err(|_| anyhow!("the thread of domain {} is gone", self.domain))
    }

    /// Wakes it and waits for its end. The caller has set `stop`.
    ///
    /// # Errors
    /// If it has panicked, with the panic's message.
    pub fn join(self) -> Result<()> {
        drop(self.seams);
        let _ = self.bell.write(1);
        let of = self.domain;
        match self.handle.join() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Some(words))) => Err(anyhow!("the thread of domain {of} panicked: {words}")),
            Ok(Err(None)) | Err(_) => Err(anyhow!("the thread of domain {of} panicked")),
        }
    }
}

fn life(plan: Plan, ready: &SyncSender<Result<Pid>>, seam: &Receiver<BpfSeam>) {
    let (arena, filter) = match settle(&plan) {
        Ok(settled) => settled,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    let usable = plan.usable();
    let entered = alloc::enter(&arena);
    let policy = (plan.make)(&Setup::new(&plan.domain, plan.slices));
    drop(entered);
    let _ = ready.send(Ok(Pid(nix::unistd::gettid().as_raw())));
    let Ok(seam) = seam.recv() else { return };
    if let Some(filter) = filter {
        privileges::filter_thread(&filter).expect("the kernel has allowed it to the main thread");
    }

    let entered = alloc::enter(&arena);
    let mut scheduler = Scheduler::new(
        seam,
        &plan.domain,
        &plan.preference,
        usable,
        policy,
        plan.board,
        plan.deque,
    );
    match plan.dedicated {
        None => work(&mut scheduler, &plan.stop),
        Some(cpu) => spin(&mut scheduler, cpu, &plan.stop),
    }
    drop(scheduler);
    drop(entered);
}

/// Gives the thread its CPUs, gives it memory on its node, and gives up its capabilities.
fn settle(plan: &Plan) -> Result<(alloc::Arena, Option<BpfProgram>)> {
    Signals::leave_to_others()?;
    match plan.dedicated {
        Some(cpu) => {
            if !core_affinity::set_for_current(core_affinity::CoreId { id: cpu.index() }) {
                return Err(anyhow!("cannot bind it to CPU {cpu}"));
            }
        }
        None => {
            affinity::use_all()?;
        }
    }
    if plan.partial {
        class_change::set_policy(0, class_change::SCHED_EXT, 0)
            .context("cannot put it into the class SCHED_EXT")?;
    }
    alloc::set_thread_policy(plan.domain.numa_node)?;
    alloc::prefault_stack(STACK_KIB - STACK_MARGIN_KIB);
    let arena = alloc::Arena::new(ARENA_KIB * 1024, plan.domain.numa_node)?;
    plan.mark.set(plan.domain.id).context("cannot make it known to BPF")?;
    let filter = plan.privileges.filter_of_domain_thread()?;
    plan.privileges.settle_thread()?;
    Ok((arena, filter))
}

fn work(scheduler: &mut Scheduler<BpfSeam>, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        decide_or_sleep(scheduler);
    }
}

fn decide_or_sleep(scheduler: &mut Scheduler<BpfSeam>) {
    match scheduler.round() {
        Left::Waiting => std::thread::yield_now(),
        Left::Nothing => scheduler.seam().sleep(),
    }
}

/// Decides without sleeping, on the dedicated CPU. It yields once a batch, which makes the kernel
/// drain the decisions, and otherwise never leaves the CPU.
///
/// The CPU may be about to go offline, or a user may have bound the thread elsewhere, or tasks to the
/// CPU. Then it is among tasks, and sleeps as other domain threads do.
fn spin(scheduler: &mut Scheduler<BpfSeam>, cpu: CpuId, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        if nix::sched::sched_getcpu() != Ok(cpu.index()) || scheduler.seam().shares_cpu() {
            decide_or_sleep(scheduler);
            continue;
        }
        if scheduler.seam().has_messages() || scheduler.is_waiting() || scheduler.is_called() {
            scheduler.round();
        }
        if scheduler.seam().has_undrained() {
            std::thread::yield_now();
        }
        std::hint::spin_loop();
    }
}
