//! RULE 5: a task's affinity is never broken.

use crate::api::load::Hog;
use crate::api::scheduler::{STATS, Scheduler};
use crate::api::{cpus, process, wait_until};
use crate::cases::confined::user_space_decides;
use crate::machine::Machine;
use crate::suite::tests;
use anyhow::{Context, Result, ensure};
use scx_manyland::cpuset::CpuSet;
use std::thread;
use std::time::{Duration, Instant};

/// Ample for what does not depend on speed.
const LONG: Duration = Duration::from_secs(300);

tests! {
    bound_tasks_stay_and_run: 90 s on L3X2 L3X4;
    tasks_moved_while_waiting_stay: 90 s on L3X2;
    tasks_bound_anew_on_their_way_stay: 90 s on L3X2;
    tasks_bound_to_dedicated_cpus_run: 90 s on L3X2;
    threads_go_before_tasks_on_their_own_cpus: 150 s on L3X2;
}

/// Tasks bound to one CPU, to a part of a domain, to a domain and across domains stay there, and
/// all of them run.
pub fn bound_tasks_stay_and_run(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&[])?;
    let hogs: Vec<(CpuSet, Hog)> = bindings()?
        .into_iter()
        .map(|cpus| Ok((cpus, Hog::on(&cpus, Duration::from_secs(60))?)))
        .collect::<Result<_>>()?;
    for (cpus, hog) in hogs {
        wait_until(&format!("a hog bound to {cpus} runs"), Duration::from_secs(60), || {
            hog.run_time().is_ok_and(|ran| ran > Duration::from_millis(200))
        })?;
        hog.stop()?;
    }
    scheduler.stop()
}

/// Tasks that are bound elsewhere, mostly while they wait for a CPU, are from then on where they
/// may be.
pub fn tasks_moved_while_waiting_stay(_: &Machine) -> Result<()> {
    const FOR_EACH_CPU: usize = 3;
    let scheduler = Scheduler::start(&[])?;
    let bindings = bindings()?;
    let mut hogs: Vec<(CpuSet, Hog)> = Vec::new();
    for _ in 0..cpus::online()?.len() * FOR_EACH_CPU {
        hogs.push((cpus::online()?, Hog::anywhere(Duration::from_secs(60))?));
    }
    // Ahead of the hogs, so that it moves them often.
    process::renice(0, -20)?;
    let end = Instant::now() + Duration::from_secs(6);
    let mut moves = 0;
    while Instant::now() < end {
        // The two counts have no common divisor that matters: each hog goes through many bindings.
        let (moved, cpus) =
            (moves % hogs.len(), bindings[(moves + moves / hogs.len()) % bindings.len()]);
        process::bind(hogs[moved].1.pid(), &cpus)?;
        hogs[moved].0 = cpus;
        moves += 1;
        for (cpus, hog) in &hogs {
            let cpu = process::processor(hog.pid())?;
            ensure!(
                cpus.contains(cpu),
                "after {moves} moves, a hog bound to {cpus} is on CPU {cpu}"
            );
        }
        thread::sleep(Duration::from_millis(10));
    }
    println!("{moves} moves");
    let before: Vec<Duration> =
        hogs.iter().map(|(_, hog)| hog.run_time()).collect::<Result<_>>()?;
    for ((cpus, hog), before) in hogs.into_iter().zip(before) {
        wait_until(&format!("a hog bound to {cpus} runs on"), Duration::from_secs(20), || {
            hog.run_time().is_ok_and(|ran| ran > before)
        })?;
        hog.stop()?;
    }
    scheduler.stop()
}

/// Tasks that are bound elsewhere in the very moment in which they are on their way to an idle CPU.
/// Before Linux 7.0 the kernel ends a scheduler that sends tasks straight to the local queue of
/// another CPU.
pub fn tasks_bound_anew_on_their_way_stay(_: &Machine) -> Result<()> {
    const BINDERS: usize = 2;
    let mut scheduler = Scheduler::start(&[])?;
    let online: Vec<_> = cpus::online()?.iter().collect();
    let hogs: Vec<Hog> = (0..online.len() / 2)
        .map(|_| Hog::anywhere(Duration::from_secs(60)))
        .collect::<Result<_>>()?;
    let end = Instant::now() + Duration::from_secs(6);
    let bind_at_random = || -> Result<usize> {
        let mut moves = 0;
        while Instant::now() < end {
            let pair = [0; 2].map(|_| online[fastrand::usize(..online.len())]);
            let hog = &hogs[fastrand::usize(..hogs.len())];
            process::bind(hog.pid(), &CpuSet::from_iter(pair))?;
            moves += 1;
        }
        Ok(moves)
    };
    let moves: usize = thread::scope(|scope| {
        let binders: Vec<_> = (0..BINDERS).map(|_| scope.spawn(bind_at_random)).collect();
        let moves = binders.into_iter().map(|binder| match binder.join() {
            Ok(moves) => moves,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        moves.sum::<Result<_>>()
    })?;
    println!("{moves} moves");
    ensure!(!scheduler.has_ended()?, "the scheduler has ended: {}", scheduler.said());
    hogs.into_iter().try_for_each(Hog::stop)?;
    scheduler.stop()
}

/// Tasks that may use nothing but CPUs which domain threads keep to themselves run there all the
/// same.
pub fn tasks_bound_to_dedicated_cpus_run(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&["--dedicate"])?;
    let dedicated = cpus::dedicated()?;
    let hog = Hog::on(&dedicated, Duration::from_secs(60))?;
    wait_until(&format!("a hog bound to {dedicated} runs"), Duration::from_secs(60), || {
        hog.run_time().is_ok_and(|ran| ran > Duration::from_secs(1))
    })?;
    hog.stop()?;
    scheduler.stop()
}

/// Next to hogs that are bound to the threads' own CPUs, user space decides for all other tasks as
/// before: such a hog gives way when its thread has something to decide, and goes on after it.
pub fn threads_go_before_tasks_on_their_own_cpus(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&[&STATS[..], &["--dedicate"]].concat())?;
    let dedicated = cpus::dedicated()?;
    let others = (0..2 * cpus::online()?.len()).map(|_| Hog::off(&dedicated, LONG));
    let others = others.collect::<Result<Vec<_>>>()?;
    let bound = dedicated.iter().map(|cpu| Hog::on(&CpuSet::from_iter([cpu]), LONG));
    let bound = bound.collect::<Result<Vec<_>>>()?;
    wait_until("hogs have given way to the threads of their CPUs", LONG, || {
        scheduler.await_stats(1).and_then(|stats| stats.sum("hurried")).is_ok_and(|it| it > 100)
    })
    .with_context(|| scheduler.plight())?;
    user_space_decides(&scheduler)?;
    for hog in bound.iter().chain(&others) {
        wait_until("a hog has run for a second", LONG, || {
            hog.run_time().is_ok_and(|ran| ran > Duration::from_secs(1))
        })?;
    }
    bound.into_iter().chain(others).try_for_each(Hog::stop)?;
    scheduler.stop()
}

/// Each CPU, each L3 without its last CPU, each L3, and the first CPUs of all L3s.
fn bindings() -> Result<Vec<CpuSet>> {
    let l3s = cpus::l3s()?;
    let mut sets: Vec<CpuSet> =
        cpus::online()?.iter().map(|cpu| CpuSet::from_iter([cpu])).collect();
    for l3 in &l3s {
        let mut part = *l3;
        part.remove(l3.iter().last().context("an L3 without a CPU")?);
        sets.extend([part, *l3]);
    }
    sets.push(l3s.iter().filter_map(CpuSet::first).collect());
    Ok(sets)
}
