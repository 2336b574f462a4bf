//! What the scheduler may do: no more than it needs, and nothing once it is attached.

use crate::api::cpus::{self, Offline};
use crate::api::scheduler::{PROGRAM, STATS, Scheduler};
use crate::api::{load, process, sched_ext, wait_until};
use crate::machine::Machine;
use crate::suite::tests;
use anyhow::{Context, Result, ensure};
use caps::{CapSet, Capability};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use scx_manyland::run::privileges;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use std::io::Error;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

tests! {
    privileges_are_given_up: 180 s on L3X2 ANY_KERNEL;
    the_needed_capabilities_suffice: 60 s on L3X2 ANY_KERNEL;
    the_sandbox_of_scx_loader_suffices: 90 s on L3X2 ANY_KERNEL;
    the_environment_is_not_heeded: 60 s on L3X2;
    it_ends_with_its_parent: 60 s on L3X2;
}

const LIMIT: Duration = Duration::from_secs(60);

/// No thread of the process that schedules has a capability left or a way to get one, and all of
/// them are filtered; statistics are printed all the same, and hotplug makes it attach again, after
/// which the same holds.
pub fn privileges_are_given_up(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&STATS)?;
    scheduler.await_stats(1)?;
    has_no_privileges(&scheduler)?;
    let before = sched_ext::attachments();
    let last = cpus::online()?.iter().last().context("no CPU is online")?;
    let gone = Offline::take(last)?;
    is_attached_again(&scheduler, before)?;
    has_no_privileges(&scheduler)?;
    let before = sched_ext::attachments();
    drop(gone);
    is_attached_again(&scheduler, before)?;
    has_no_privileges(&scheduler)?;
    load::hackbench(1, 10, LIMIT)?;
    scheduler.stop()
}

fn is_attached_again(scheduler: &Scheduler, before: u64) -> Result<()> {
    let lines = scheduler.stats()?.lines.len();
    wait_until("attached again", LIMIT, || {
        sched_ext::attachments() > before
            && sched_ext::state() == "enabled"
            && scheduler.stats().is_ok_and(|stats| stats.lines.len() > lines + 1)
    })
}

fn has_no_privileges(scheduler: &Scheduler) -> Result<()> {
    let threads = process::threads(scheduler.pid())?;
    ensure!(threads.len() > cpus::l3s()?.len(), "too few threads: {threads:?}");
    // The sandbox that the first process is in may have filters of its own.
    let of_sandbox: u32 = process::status(scheduler.pids()[0], "Seccomp_filters")?.parse()?;
    for thread in threads {
        let field = |name| process::status(thread.tid, name);
        let filters: u32 = field("Seccomp_filters")?.parse()?;
        ensure!(filters == of_sandbox + 1, "{} has {filters} filters", thread.name);
        for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
            let held = u64::from_str_radix(&field(set)?, 16)?;
            ensure!(held == 0, "{} has {set} {held:x}", thread.name);
        }
        ensure!(field("NoNewPrivs")? == "1", "{} could gain privileges", thread.name);
        ensure!(field("Seccomp")? == "2", "{} is not filtered", thread.name);
    }
    Ok(())
}

/// The capabilities suffice without which it does not attach. It says what it lacks without the other
/// one that the README names.
pub fn the_needed_capabilities_suffice(_: &Machine) -> Result<()> {
    // A scheduler that an earlier test has killed has left it a real-time task.
    let rcu = process::kernel_thread("rcu_preempt").context("there is no thread of RCU")?;
    process::choose_ordinary(rcu)?;
    let mut command = Command::new(PROGRAM);
    command.args(STATS);
    // SAFETY: between fork and exec the child only makes system calls.
    unsafe {
        command.pre_exec(|| {
            let others = caps::all().into_iter().filter(|it| !privileges::NEEDED.contains(it));
            for capability in others {
                // Those that the kernel does not know cannot be held either.
                let _ = caps::drop(None, CapSet::Bounding, capability);
            }
            Ok::<(), Error>(())
        });
    }
    let scheduler = Scheduler::spawn(&mut command)?;
    load::hackbench(1, 10, LIMIT)?;
    scheduler.await_stats(1)?;
    let said = scheduler.said();
    ensure!(said.contains("CAP_SYS_NICE is needed"), "it does not say what it lacks: {said}");
    scheduler.stop()
}

/// What the unit of scx_loader forbids to its children, as far as it concerns a scheduler: to lock
/// memory, to filter all threads by seccomp(2), and timers. Once attached it has no privileges all the
/// same. `make test-package` has the whole of that unit.
pub fn the_sandbox_of_scx_loader_suffices(_: &Machine) -> Result<()> {
    const FORBIDDEN: [i64; 11] = [
        libc::SYS_mlock,
        libc::SYS_mlock2,
        libc::SYS_mlockall,
        libc::SYS_munlock,
        libc::SYS_munlockall,
        libc::SYS_seccomp,
        libc::SYS_timerfd_create,
        libc::SYS_alarm,
        libc::SYS_setitimer,
        libc::SYS_ptrace,
        libc::SYS_setuid,
    ];
    let filter = SeccompFilter::new(
        FORBIDDEN.into_iter().map(|call| (call, Vec::new())).collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        std::env::consts::ARCH.try_into()?,
    )?;
    let filter: BpfProgram = filter.try_into()?;
    let mut command = Command::new(PROGRAM);
    command.args(STATS);
    // SAFETY: between fork and exec the child only makes system calls.
    unsafe {
        command.pre_exec(move || {
            let _ = caps::drop(None, CapSet::Bounding, Capability::CAP_IPC_LOCK);
            seccompiler::apply_filter(&filter).map_err(|_| Error::last_os_error())
        });
    }
    let scheduler = Scheduler::spawn(&mut command)?;
    load::hackbench(1, 10, LIMIT)?;
    scheduler.await_stats(1)?;
    has_no_privileges(&scheduler)?;
    let said = scheduler.said();
    ensure!(said.contains("forbids to lock memory"), "it does not say what it lacks: {said}");
    scheduler.stop()
}

/// The environment cannot make it take the machine for another.
pub fn the_environment_is_not_heeded(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::spawn(Command::new(PROGRAM).env("HWLOC_SYNTHETIC", "Core:1 PU:1"))?;
    let threads = scheduler.domain_threads()?.len();
    ensure!(threads == cpus::l3s()?.len(), "{threads} domain threads: {}", scheduler.said());
    scheduler.stop()
}

/// The process that schedules does not outlive the one that has started it.
pub fn it_ends_with_its_parent(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&[])?;
    let worker = scheduler.pid();
    for pid in scheduler.pids() {
        if pid != worker {
            kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        }
    }
    sched_ext::wait_for_state("disabled", Duration::from_secs(5))?;
    wait_until("the process that schedules is gone", Duration::from_secs(5), || {
        process::threads(worker).is_err() || process::state(worker).is_ok_and(|state| state == 'Z')
    })
}
