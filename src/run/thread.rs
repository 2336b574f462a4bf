//! A domain thread: where it runs, when it decides, when it sleeps.
//!
//! Invariant: while no task waits for a decision the thread sleeps in the kernel (with `--dedicate`
//! it spins, on a CPU that is its own and nowhere else). From `go` on it neither allocates outside its arena nor
//! touches memory for the first time.

use crate::alloc;
use crate::cpuset::CpuSet;
use crate::domains::board::Board;
use crate::domains::scheduler::{Left, Scheduler};
use crate::domains::sync::Deque;
use crate::ids::{CpuId, DomainId, Pid};
use crate::kernel::seam::BpfSeam;
use crate::policy::{MakePolicy, Setup, Slices, Task};
use crate::run::privileges::Privileges;
use crate::run::signals::Signals;
use crate::topology::Domain;
use crate::topology::preference::Place;
use anyhow::{Context, Result, anyhow};
use nix::sys::eventfd::EventFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// The stack of a domain thread, all of it touched before attach.
const STACK_KIB: usize = 256;
/// What is left of the stack for the frames that are there when the rest is touched.
const STACK_MARGIN_KIB: usize = 64;
/// The memory a domain thread allocates from. A policy's queue of some thousand tasks fits.
const ARENA_KIB: usize = 2048;

/// How a domain thread is to run.
pub struct Plan {
    /// Its domain.
    pub domain: Domain,
    /// The order in which tasks get its idle CPUs.
    pub order: Vec<Place>,
    /// The CPU it keeps to itself, with `--dedicate`.
    pub dedicated: Option<CpuId>,
    /// Makes the policy; called on the thread, so that the policy's memory is the domain's.
    pub make: MakePolicy,
    /// The slices that the policy is to use.
    pub slices: Slices,
    /// Whether only tasks that chose SCHED_EXT are scheduled: the thread then has to choose it.
    pub partial: bool,
    /// What becomes of the thread's capabilities when it is where it belongs.
    pub privileges: Privileges,
    /// What the domains let each other see.
    pub board: Arc<Board>,
    /// The domain's public deque.
    pub deque: Deque<Task>,
    /// Says that the time is up.
    pub stop: Arc<AtomicBool>,
    /// Rung when this thread has ended by itself, which is a failure.
    pub alarm: Arc<EventFd>,
}

impl Plan {
    /// The CPUs of the domain that tasks may use.
    pub fn usable(&self) -> CpuSet {
        let mut cpus = self.domain.cpus;
        if let Some(cpu) = self.dedicated {
            cpus.remove(cpu);
        }
        cpus
    }
}

/// A domain thread that waits for its queues, or is at work.
pub struct DomainThread {
    domain: DomainId,
    pid: Pid,
    bell: Arc<EventFd>,
    go: SyncSender<BpfSeam>,
    handle: JoinHandle<()>,
}

impl DomainThread {
    /// Starts a thread and waits until it is where it belongs.
    ///
    /// # Errors
    /// If the thread cannot be made, bound or given its memory.
    pub fn start(plan: Plan) -> Result<Self> {
        let domain = plan.domain.id;
        let alarm = plan.alarm.clone();
        let (ready, is_ready) = sync_channel::<Result<Pid>>(1);
        let (go, queues) = sync_channel(1);
        let handle = std::thread::Builder::new()
            .name(format!("manyland/{domain}"))
            .stack_size(STACK_KIB * 1024)
            .spawn(move || {
                let stop = plan.stop.clone();
                let outcome = catch_unwind(AssertUnwindSafe(|| life(plan, &ready, &queues)));
                if outcome.is_err() || !stop.load(Ordering::Acquire) {
                    let _ = alarm.write(1);
                }
                if let Err(panic) = outcome {
                    std::panic::resume_unwind(panic);
                }
            })
            .with_context(|| format!("cannot start the thread of domain {domain}"))?;
        let pid = is_ready
            .recv()
            .map_err(|_| anyhow!("the thread ended before it began"))
            .and_then(|result| result)
            .with_context(|| format!("cannot prepare the thread of domain {domain}"))?;
        let bell = Arc::new(EventFd::new().context("cannot create an eventfd")?);
        Ok(Self { domain, pid, bell, go, handle })
    }

    /// Its number, which BPF must know before it attaches.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The bell that wakes it, to be built into its seam.
    pub fn bell(&self) -> Arc<EventFd> {
        self.bell.clone()
    }

    /// Lets it begin, with its queues.
    ///
    /// # Errors
    /// If the thread is gone.
    pub fn go(&self, seam: BpfSeam) -> Result<()> {
        self.go.send(seam).map_err(|_| anyhow!("the thread of domain {} is gone", self.domain))
    }

    /// Waits for its end, after `stop` was set.
    ///
    /// # Errors
    /// If it had panicked, with what it said.
    pub fn join(self) -> Result<()> {
        drop(self.go);
        let _ = self.bell.write(1);
        self.handle.join().map_err(|panic| {
            let said = panic
                .downcast_ref::<&str>()
                .map(|s| (*s).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "no message".to_owned());
            anyhow!("the thread of domain {} panicked: {said}", self.domain)
        })
    }
}

fn life(plan: Plan, ready: &SyncSender<Result<Pid>>, queues: &Receiver<BpfSeam>) {
    let arena = match settle(&plan) {
        Ok(arena) => arena,
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
    let Ok(seam) = queues.recv() else { return };

    let entered = alloc::enter(&arena);
    let mut scheduler =
        Scheduler::new(seam, &plan.domain, &plan.order, usable, policy, plan.board, plan.deque);
    match plan.dedicated {
        None => work(&mut scheduler, &plan.stop),
        Some(cpu) => spin(&mut scheduler, cpu, &plan.stop),
    }
    drop(scheduler);
    drop(entered);
}

/// Binds the thread, and gives it memory on its node.
fn settle(plan: &Plan) -> Result<alloc::Arena> {
    Signals::leave_to_others()?;
    match plan.dedicated {
        Some(cpu) => {
            if !core_affinity::set_for_current(core_affinity::CoreId { id: cpu.index() }) {
                return Err(anyhow!("cannot bind it to CPU {cpu}"));
            }
        }
        None => {
            let mut cpus = nix::sched::CpuSet::new();
            for cpu in plan.domain.cpus.iter() {
                cpus.set(cpu.index())?;
            }
            nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cpus)
                .with_context(|| format!("cannot bind it to CPUs {}", plan.domain.cpus))?;
        }
    }
    if plan.partial {
        choose_sched_ext().context("cannot put it into the class SCHED_EXT")?;
    }
    alloc::set_thread_policy(plan.domain.numa_node)?;
    alloc::prefault_stack(STACK_KIB - STACK_MARGIN_KIB);
    let arena = alloc::Arena::new(ARENA_KIB * 1024, plan.domain.numa_node)?;
    plan.privileges.settle_thread()?;
    Ok(arena)
}

/// `SCHED_EXT` of `<linux/sched.h>`.
const SCHED_EXT: libc::c_int = 7;

fn choose_sched_ext() -> nix::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread, and the parameters outlive the call.
    nix::errno::Errno::result(unsafe { libc::sched_setscheduler(0, SCHED_EXT, &parameters) })?;
    Ok(())
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

/// Yields once a batch, which makes the kernel look at it; otherwise it never leaves its CPU. If it is driven from there, because the
/// CPU is about to go offline or somebody has bound the thread elsewhere, it is among tasks, and sleeps as other threads do.
fn spin(scheduler: &mut Scheduler<BpfSeam>, cpu: CpuId, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        if nix::sched::sched_getcpu() != Ok(cpu.index()) {
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
