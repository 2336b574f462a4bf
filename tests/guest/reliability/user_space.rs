//! Rows 1 and 2: user space is stopped, or dies.

use super::Scene;
use crate::api::process::Frozen;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
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

fn die_by(scene: &mut Scene, signal: Signal) -> Result<()> {
    thread::sleep(scene.time / 2);
    let Some(scheduler) = &mut scene.scheduler else { return Ok(()) };
    scheduler.die_by(signal).context("it does not die")
}
