//! Rows 1 and 2: user space is stopped, or dies.

use super::Scene;
use crate::api::cpus;
use crate::api::load::Hog;
use crate::api::policies::{TERRIBLE, Wish};
use crate::api::process::Frozen;
use crate::api::scheduler::Scheduler;
use crate::api::wait_until;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use scx_manyland::cpuset::CpuSet;
use std::thread;
use std::time::Duration;

/// Between two faults of a row.
const PAUSE: Duration = Duration::from_secs(1);

/// Freezes one domain thread, then another.
pub fn freeze_a_thread(scene: &mut Scene) -> Result<()> {
    let Some(scheduler) = &scene.scheduler else { return Ok(()) };
    let threads = scheduler.domain_threads()?;
    ensure!(!threads.is_empty(), "there are no domain threads");
    for victim in threads.iter().cycle() {
        if scene.left().is_zero() {
            break;
        }
        let frozen = Frozen::freeze(victim.tid)?;
        thread::sleep(Duration::from_secs(5).min(scene.left()));
        drop(frozen);
        thread::sleep(PAUSE.min(scene.left()));
    }
    Ok(())
}

/// Stops the whole process.
pub fn stop_all(scene: &mut Scene) -> Result<()> {
    let Some(scheduler) = &scene.scheduler else { return Ok(()) };
    while !scene.left().is_zero() {
        scheduler.send(Signal::SIGSTOP)?;
        thread::sleep(Duration::from_secs(10).min(scene.left()));
        scheduler.send(Signal::SIGCONT)?;
        thread::sleep(PAUSE.min(scene.left()));
    }
    Ok(())
}

/// Kills it half-way.
pub fn kill(scene: &mut Scene) -> Result<()> {
    die_by(scene, Signal::SIGKILL)
}

/// Lets it crash half-way.
pub fn crash(scene: &mut Scene) -> Result<()> {
    die_by(scene, Signal::SIGSEGV)
}

/// A scheduler whose policy may panic.
pub fn panicking() -> Result<Scheduler> {
    Wish::Panic.start(&["--confined"])
}

/// Shows the policy, half-way, what it panics at. All the process has to end, and say why.
pub fn panic(scene: &mut Scene) -> Result<()> {
    thread::sleep(scene.time / 2);
    let hogs: Vec<Hog> = cpus::online()?
        .iter()
        .map(|cpu| Hog::named(TERRIBLE, &CpuSet::from_iter([cpu]), scene.time))
        .collect::<Result<_>>()?;
    let Some(scheduler) = &mut scene.scheduler else { return Ok(()) };
    wait_until("the scheduler's process has ended", Duration::from_secs(10), || {
        scheduler.has_ended().unwrap_or(false)
    })?;
    let said = scheduler.said();
    let last = said.lines().last().unwrap_or_default();
    ensure!(
        last.contains("the thread of domain") && last.contains("panicked: a task is terrible"),
        "it does not say why it has ended: {last:?}"
    );
    drop(hogs);
    Ok(())
}

fn die_by(scene: &mut Scene, signal: Signal) -> Result<()> {
    thread::sleep(scene.time / 2);
    let Some(scheduler) = &mut scene.scheduler else { return Ok(()) };
    scheduler.die_by(signal).context("it does not die")
}
