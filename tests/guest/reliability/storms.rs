//! Row 4: more tasks than anybody means to have, and what they do.

use super::Scene;
use crate::api::storm::{Kind, Storm};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::fs;
use std::thread;
use std::time::Duration;

/// How long a storm's tasks may take to end.
const LAST_WAIT: Duration = Duration::from_secs(180);

pub fn forks(scene: &mut Scene) -> Result<()> {
    let number = scene.number(20_000, 2_000);
    // It takes a while to grow.
    scene.time *= 3;
    let _threads = Setting::raise("kernel/threads-max", 2 * number)?;
    let _pids = Setting::raise("kernel/pid_max", 2 * number)?;
    storm(scene, Kind::Forks, number)
}

pub fn mutex(scene: &mut Scene) -> Result<()> {
    storm(scene, Kind::Mutex, scene.number(2_000, 500))
}

pub fn affinity(scene: &mut Scene) -> Result<()> {
    storm(scene, Kind::Affinity, scene.number(5_000, 500))
}

pub fn deaths(scene: &mut Scene) -> Result<()> {
    storm(scene, Kind::Deaths, scene.number(200, 50))
}

pub fn deaths_of_few_pids(scene: &mut Scene) -> Result<()> {
    let _few = Setting::set("kernel/pid_max", 4096)?;
    storm(scene, Kind::Deaths, scene.number(200, 50))
}

pub fn cgroups(scene: &mut Scene) -> Result<()> {
    let throttled = |scene: &Scene| {
        let stats = scene.scheduler.as_ref().map(|scheduler| scheduler.await_stats(1));
        stats.transpose()?.map(|stats| stats.sum("throttled")).transpose()
    };
    let before = throttled(scene)?;
    storm(scene, Kind::Cgroups, scene.number(200, 50))?;
    ensure!(before.is_none() || throttled(scene)? > before, "no task met its group's limit");
    Ok(())
}

pub fn classes(scene: &mut Scene) -> Result<()> {
    storm(scene, Kind::Classes, scene.number(200, 50))
}

fn storm(scene: &Scene, kind: Kind, number: usize) -> Result<()> {
    Storm::start(kind, number, scene.left())?.finish(scene.time + LAST_WAIT)
}

/// Thousands of wake-ups while nobody takes a message; then all of them are to be decided at once.
pub fn full_queues(scene: &mut Scene) -> Result<()> {
    let storm = Storm::start(Kind::Wakeups, scene.number(8_000, 8_000), scene.left())?;
    if let Some(scheduler) = &scene.scheduler {
        let before = scheduler.stats()?.sum("congested")?;
        while !scene.left().is_zero() {
            scheduler.send(Signal::SIGSTOP)?;
            thread::sleep(Duration::from_secs(3).min(scene.left()));
            scheduler.send(Signal::SIGCONT)?;
            thread::sleep(Duration::from_secs(1).min(scene.left()));
        }
        let congested = scheduler.await_stats(2)?.sum("congested")? - before;
        println!("{congested} messages found their queue full");
        ensure!(congested > 0, "no queue was ever full");
    }
    storm.finish(scene.time + LAST_WAIT)
}

/// A setting of the kernel that is as it was when this is dropped.
struct Setting {
    path: String,
    before: String,
}

impl Setting {
    fn set(name: &str, value: usize) -> Result<Setting> {
        let path = format!("/proc/sys/{name}");
        let before = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        fs::write(&path, value.to_string()).with_context(|| format!("cannot write {path}"))?;
        Ok(Setting { path, before })
    }

    /// Sets it unless it is higher already.
    fn raise(name: &str, value: usize) -> Result<Setting> {
        let path = format!("/proc/sys/{name}");
        let now = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        Self::set(name, value.max(now.trim().parse()?))
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = fs::write(&self.path, self.before.trim());
    }
}
