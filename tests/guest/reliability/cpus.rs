//! Rows 5 and 6: CPUs are taken away, by tasks that go first or by the machine.

use super::Scene;
use crate::api::cpus::{self, Offline};
use crate::api::load::Hog;
use crate::api::sched_ext;
use crate::api::storm::{Kind, Storm};
use crate::api::wait_until;
use anyhow::{Context, Result, ensure};
use scx_manyland::cpuset::CpuSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// For an attachment under load.
const LIMIT: Duration = Duration::from_secs(240);

/// A real-time task on the first CPU of each domain, and ordinary ones bound to the same CPU, which
/// get what is left.
pub fn real_time_hogs(scene: &mut Scene) -> Result<()> {
    const PERCENT: usize = 90;
    let hogged: CpuSet = cpus::l3s()?.iter().filter_map(|l3| l3.first()).collect();
    let bound = hogged
        .iter()
        .map(|cpu| Hog::on(&CpuSet::from_iter([cpu]), LIMIT))
        .collect::<Result<Vec<_>>>()?;
    let storm = Storm::start_on(&hogged, Kind::RealTime, PERCENT, scene.left())?;
    scene.pass();
    storm.finish(LIMIT)?;
    for hog in bound {
        let ran = hog.run_time()?;
        println!("a hog bound to a hogged CPU ran for {} ms", ran.as_millis());
        ensure!(!ran.is_zero(), "a task bound to a hogged CPU did not run");
        hog.stop()?;
    }
    Ok(())
}

/// Takes any CPU but the first off for a while, and again.
pub fn hotplug(scene: &mut Scene) -> Result<()> {
    let cpus: Vec<_> = cpus::online()?.iter().collect();
    loop {
        let cpu = cpus[fastrand::usize(1..cpus.len())];
        let gone = Offline::take(cpu)?;
        thread::sleep(Duration::from_millis(fastrand::u64(..2_000)));
        let before = sched_ext::attachments();
        drop(gone);
        thread::sleep(Duration::from_millis(fastrand::u64(..2_000)));
        if scene.left().is_zero() {
            return is_attached_again(scene, before);
        }
    }
}

/// Takes all CPUs of the last domain off, for a while.
pub fn a_domain_off(scene: &mut Scene) -> Result<()> {
    let l3s = cpus::l3s()?;
    off_and_on(scene, l3s.last().context("no L3")?)
}

/// Takes the CPUs off that `--dedicate` keeps for the domain threads.
pub fn dedicated_off(scene: &mut Scene) -> Result<()> {
    let dedicated: CpuSet = cpus::l3s()?.iter().filter_map(|l3| l3.iter().last()).collect();
    let first = dedicated.first().context("no CPU is dedicated")?;
    off_and_on(scene, &CpuSet::from_iter([first]))
}

/// For half the time off, and for the other half on again.
fn off_and_on(scene: &Scene, cpus: &CpuSet) -> Result<()> {
    let mut before = sched_ext::attachments();
    let mut gone = Vec::new();
    for cpu in cpus.iter() {
        before = sched_ext::attachments();
        gone.push(Offline::take(cpu)?);
    }
    is_attached_again(scene, before)?;
    thread::sleep(scene.time / 2);
    for cpu in gone {
        before = sched_ext::attachments();
        drop(cpu);
    }
    is_attached_again(scene, before)
}

/// CPUs that come and go make it attach again: waits until it has, so many attachments having been
/// `before` the last change.
fn is_attached_again(scene: &Scene, before: u64) -> Result<()> {
    let Some(scheduler) = &scene.scheduler else { return Ok(()) };
    let l3s = cpus::l3s()?.len();
    wait_until("the scheduler is attached again", LIMIT, || {
        sched_ext::state() == "enabled"
            && sched_ext::attachments() > before
            && scheduler.says_attached()
            && scheduler.domain_threads().is_ok_and(|threads| threads.len() == l3s)
    })
    .with_context(|| scheduler.plight())
}

/// Suspends to memory, which takes all CPUs but one off; the host wakes the machine. (In suspend to
/// idle QEMU's clock does not wake it.)
pub fn suspend(scene: &mut Scene) -> Result<()> {
    const STATE: &str = "/sys/power/state";
    let (slept_at, before) = (Instant::now(), sched_ext::attachments());
    fs::write(STATE, "mem").with_context(|| format!("cannot suspend by {STATE}"))?;
    println!("suspended and resumed after {:?}", slept_at.elapsed());
    is_attached_again(scene, before)
}
