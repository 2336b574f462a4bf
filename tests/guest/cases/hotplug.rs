//! CPUs come and go: the scheduler reads the machine again and attaches again, by itself.

use crate::api::cpus::{self, Offline};
use crate::api::load::{self, Hackbench};
use crate::api::scheduler::Scheduler;
use crate::api::{process, sched_ext, wait_until};
use crate::machine::Machine;
use crate::suite::tests;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::thread;
use std::time::Duration;

tests! {
    a_cpu_goes_and_comes: 360 s on L3X2;
    a_cpu_goes_and_comes_again_and_again: 360 s on SLOW;
    a_domain_goes_and_comes: 360 s on L3X2;
    it_ends_when_asked_while_the_machine_changes: 180 s on L3X2;
}

/// For an attachment under load.
const LIMIT: Duration = Duration::from_secs(150);

/// A CPU goes and comes back under load.
pub fn a_cpu_goes_and_comes(_: &Machine) -> Result<()> {
    let mut hackbench = Hackbench::start(1, 1_000_000, LIMIT * 2)?;
    let scheduler = Scheduler::start(&[])?;
    let last = cpus::online()?.iter().last().context("no CPU is online")?;
    let gone = after(&scheduler, || Offline::take(last))??;
    after(&scheduler, || drop(gone))?;
    ensure!(hackbench.is_running()?, "hackbench has ended");
    drop(hackbench);
    load::hackbench(1, 10, Duration::from_secs(30))?;
    scheduler.stop()
}

/// A CPU goes and comes so quickly that it happens while the scheduler is attaching, and ends where
/// it began.
pub fn a_cpu_goes_and_comes_again_and_again(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&[])?;
    let last = cpus::online()?.iter().last().context("no CPU is online")?;
    for round in 0..6 {
        after(&scheduler, || -> Result<()> {
            let gone = Offline::take(last)?;
            thread::sleep(Duration::from_millis(100 * round));
            drop(gone);
            Ok(())
        })??;
    }
    scheduler.stop()
}

/// All CPUs of a domain go, which leaves one domain, and come back.
pub fn a_domain_goes_and_comes(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&[])?;
    let l3s = cpus::l3s()?;
    let last = l3s.last().context("no L3")?;
    let gone = after(&scheduler, || last.iter().map(Offline::take).collect::<Result<Vec<_>>>())??;
    ensure!(scheduler.domain_threads()?.len() == l3s.len() - 1);
    load::hackbench(1, 10, Duration::from_secs(30))?;
    after(&scheduler, || drop(gone))?;
    ensure!(scheduler.domain_threads()?.len() == l3s.len());
    load::hackbench(1, 10, Duration::from_secs(30))?;
    scheduler.stop()
}

/// Asked to end in the moment in which the machine changes, it ends: nobody asks twice. Each of its
/// two processes in turn learns of both at once, having been stopped.
pub fn it_ends_when_asked_while_the_machine_changes(_: &Machine) -> Result<()> {
    let last = cpus::online()?.iter().last().context("no CPU is online")?;
    for held in 0..2 {
        let scheduler = Scheduler::start(&[])?;
        let pids = scheduler.pids();
        ensure!(pids.len() == 2, "not two processes: {pids:?}");
        let send = |signal| kill(Pid::from_raw(pids[held]), signal);
        send(Signal::SIGSTOP)?;
        let gone = Offline::take(last)?;
        sched_ext::wait_for_state("disabled", LIMIT)?;
        if held == 0 {
            wait_until("the scheduler's process has ended", LIMIT, || {
                process::state(pids[1]).is_ok_and(|state| state == 'Z')
            })?;
        }
        send(Signal::SIGINT)?;
        send(Signal::SIGCONT)?;
        scheduler.leaves().with_context(|| format!("process {held} of {pids:?}"))?;
        drop(gone);
    }
    Ok(())
}

/// Changes the machine and waits until the scheduler is attached again, with a thread for each L3
/// that there is then.
fn after<T>(scheduler: &Scheduler, change: impl FnOnce() -> T) -> Result<T> {
    let before = sched_ext::attachments();
    let changed = change();
    let l3s = cpus::l3s()?;
    let is_attached_to_them = || {
        sched_ext::state() == "enabled"
            && sched_ext::attachments() > before
            && scheduler.says_attached()
            && scheduler.domains().is_ok_and(|domains| domains == l3s)
            && scheduler.domain_threads().is_ok_and(|threads| threads.len() == l3s.len())
    };
    wait_until(&format!("attached with domains {l3s:?}"), LIMIT, is_attached_to_them)
        .with_context(|| {
            format!(
                "{} attachments (there were {before}); {}",
                sched_ext::attachments(),
                scheduler.plight()
            )
        })?;
    println!("{} attachments, now {l3s:?}", sched_ext::attachments() - before);
    Ok(changed)
}
