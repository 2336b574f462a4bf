//! Rows 7 and 8: attaching and detaching without end, other schedulers, and decisions of a madman.

use super::{Scene, ours};
use crate::api::scheduler::{self, Scheduler};
use crate::api::{fuzzer, other, sched_ext};
use anyhow::{Context, Result, ensure};
use std::thread;
use std::time::Duration;

/// Detaches and attaches two hundred times, which takes as long as it takes.
pub fn again_and_again(scene: &mut Scene) -> Result<()> {
    for round in 0..scene.number(200, 5) {
        let Some(scheduler) = scene.scheduler.take() else { return Ok(()) };
        scheduler.stop().with_context(|| format!("in round {round}"))?;
        let next = ours().with_context(|| format!("in round {round}"))?;
        scene.scheduler = Some(next);
    }
    Ok(())
}

/// Starts a second instance, which must be refused without harm to the first.
pub fn two_instances(scene: &mut Scene) -> Result<()> {
    while scene.scheduler.is_some() && !scene.left().is_zero() {
        let second = scheduler::run(&[])?;
        ensure!(second.code == Some(1), "a second instance was not refused: {second:?}");
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Changes over to another scheduler and back.
pub fn another_scheduler(scene: &mut Scene) -> Result<()> {
    while !scene.left().is_zero() {
        let Some(scheduler) = scene.scheduler.take() else { return Ok(()) };
        scheduler.stop()?;
        let other = other::attach()?;
        ensure!(sched_ext::scheduler() == other::NAME, "{} is attached", sched_ext::scheduler());
        let refused = scheduler::run(&[])?;
        ensure!(
            refused.code == Some(1) && refused.stderr.contains(other::NAME),
            "beside another scheduler: {refused:?}"
        );
        thread::sleep(Duration::from_secs(1));
        drop(other);
        sched_ext::wait_for_state("disabled", Duration::from_secs(5))?;
        scene.scheduler = Some(ours()?);
        thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

/// The BPF side with threads that decide at random.
pub fn fuzzer() -> Result<Scheduler> {
    Scheduler::spawn(&mut fuzzer::command())
}

/// Lets them, for a minute; that they did is in what they say at their end.
pub fn fuzz(scene: &mut Scene) -> Result<()> {
    scene.time *= scene.number(3, 1) as u32;
    scene.pass();
    let Some(scheduler) = &scene.scheduler else { return Ok(()) };
    let counts = fuzzer::counts(scheduler)?;
    println!("{counts:?}");
    ensure!(counts.bounced > 0, "no decision was bounced: {counts:?}");
    ensure!(counts.stale > 0, "no decision was stale: {counts:?}");
    ensure!(counts.decided > 0, "no decision was sound: {counts:?}");
    ensure!(counts.full > 0, "the queue of decisions was never full: {counts:?}");
    Ok(())
}
