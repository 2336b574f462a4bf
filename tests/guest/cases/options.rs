//! What the options promise.

use crate::api::load::{self, Hog};
use crate::api::scheduler::{PATIENT, STATS, Scheduler};
use crate::api::{cpus, process, wait_until};
use crate::machine::Machine;
use crate::suite::tests;
use anyhow::{Context, Result, ensure};
use scx_manyland::cpuset::CpuSet;
use std::thread;
use std::time::{Duration, Instant};

tests! {
    each_policy_decides: 150 s on L3X2;
    strict_runs_by_decisions_only: 90 s on L3X2;
    decisions_stand_unless_told_not_to: 120 s on L3X2;
    partial_leaves_the_others_alone: 60 s on L3X2;
    a_thread_that_lost_its_dedicated_cpu_sleeps: 90 s on L3X2;
    dedicated_cpus_are_kept_free: 150 s on L3X2;
}

const LONG: Duration = Duration::from_secs(60);

/// Under each policy user space decides for at least 95 % of the tasks that found no idle CPU.
pub fn each_policy_decides(_: &Machine) -> Result<()> {
    for policy in ["vruntime", "deadline", "fifo"] {
        let scheduler = Scheduler::start(&[&PATIENT[..], &["--policy", policy]].concat())?;
        load::hackbench(2, 200, LONG)?;
        let share = scheduler.await_stats(2)?.percent_decided()?;
        println!("{policy}: {share:.1} % decided");
        ensure!(share >= 95.0, "{policy}: user space decided for {share:.1} %");
        scheduler.stop()?;
    }
    Ok(())
}

/// With `--strict` no task runs without a decision.
pub fn strict_runs_by_decisions_only(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&[&STATS[..], &["--strict"]].concat())?;
    load::hackbench(2, 200, LONG)?;
    let stats = scheduler.await_stats(2)?;
    let (decided, late) = (stats.sum("decided")?, stats.sum("late")?);
    println!("{decided} decided, {late} late");
    ensure!(decided > 1000, "user space decided {decided} times under load");
    ensure!(late == 0, "with --strict {late} tasks ran without a decision");
    let standing = stats.sum("standing")?;
    ensure!(standing == 0, "with --strict {standing} tasks ran by a decision for an earlier stay");
    scheduler.stop()
}

/// Decisions stand for some of a task's next wake-ups, which need no activation of the thread then,
/// or for none.
pub fn decisions_stand_unless_told_not_to(_: &Machine) -> Result<()> {
    let stands = |wakeups: &str| -> Result<(u64, u64)> {
        let scheduler = Scheduler::start(&[&STATS[..], &["--standing", wakeups]].concat())?;
        let end = Instant::now() + LONG;
        // How often decisions stand in one run depends on the host: they do for 100 ms at most.
        let (decided, standing) = loop {
            load::hackbench(2, 200, LONG)?;
            let stats = scheduler.await_stats(2)?;
            let counts = (stats.sum("decided")?, stats.sum("standing")?);
            if wakeups == "0" || counts.1 > 1000 || Instant::now() > end {
                break counts;
            }
        };
        scheduler.stop()?;
        println!("--standing {wakeups}: {decided} decided, {standing} stood");
        Ok((decided, standing))
    };
    let (decided, standing) = stands("7")?;
    ensure!(standing > 1000, "under load decisions stood {standing} times");
    ensure!(standing <= 7 * decided, "{decided} decisions stood {standing} times");
    let (decided, standing) = stands("0")?;
    ensure!(decided > 1000, "user space decided {decided} times under load");
    ensure!(standing == 0, "with --standing 0 decisions stood {standing} times");
    Ok(())
}

/// With `--partial` only tasks that chose SCHED_EXT are ours, and both kinds run.
pub fn partial_leaves_the_others_alone(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&[&STATS[..], &["--partial"]].concat())?;
    // Pausing: the kernel lets ordinary tasks go before ours, for ever if they do.
    let ordinary = Hog::pausing(LONG)?;
    let chosen: Vec<Hog> =
        (0..cpus::online()?.len() + 2).map(|_| Hog::anywhere(LONG)).collect::<Result<_>>()?;
    for hog in &chosen {
        process::choose_sched_ext(hog.pid())?;
    }
    ensure!(!process::is_ours(ordinary.pid())?, "an ordinary task is scheduled by us");
    for hog in &chosen {
        ensure!(process::is_ours(hog.pid())?, "a task that chose SCHED_EXT is not scheduled by us");
    }
    let decided_before = scheduler.stats()?.sum("decided")?;
    let before = chosen.iter().map(Hog::run_time).collect::<Result<Vec<_>>>()?;
    let ordinary_before = ordinary.run_time()?;
    thread::sleep(Duration::from_secs(4));
    ensure!(ordinary.run_time()? > ordinary_before, "an ordinary task does not run");
    for (hog, before) in chosen.iter().zip(before) {
        ensure!(hog.run_time()? > before, "a task that chose SCHED_EXT does not run");
    }
    let decided = scheduler.await_stats(1)?.sum("decided")? - decided_before;
    ensure!(decided > 0, "user space decided nothing for {} hogs", chosen.len());
    scheduler.stop()
}

/// Its thread spins on that CPU, and nowhere else: driven from there, for one because the CPU goes
/// offline, it sleeps among tasks.
pub fn a_thread_that_lost_its_dedicated_cpu_sleeps(_: &Machine) -> Result<()> {
    const TIME: Duration = Duration::from_secs(4);
    let scheduler = Scheduler::start(&["--dedicate"])?;
    let thread = scheduler.domain_threads()?.into_iter().next().context("no domain thread")?;
    let ran = || -> Result<Duration> {
        let before = process::run_time(thread.tid)?;
        thread::sleep(TIME);
        Ok(process::run_time(thread.tid)? - before)
    };
    let on_its_cpu = ran()?;
    process::bind(thread.tid, &CpuSet::from_iter(cpus::online()?.first()))?;
    let elsewhere = ran()?;
    println!("in {TIME:?} it ran for {on_its_cpu:?} on its CPU and {elsewhere:?} elsewhere");
    ensure!(on_its_cpu > TIME / 2, "it does not spin: {on_its_cpu:?} in {TIME:?}");
    ensure!(elsewhere < on_its_cpu / 4, "it spins among tasks: {elsewhere:?} in {TIME:?}");
    load::hackbench(2, 50, LONG)?;
    scheduler.stop()
}

/// With `--dedicate` the last CPU of each domain is its thread's, and nobody else's who is not
/// bound to it.
pub fn dedicated_cpus_are_kept_free(_: &Machine) -> Result<()> {
    let dedicated = cpus::dedicated()?;
    // They are there for as long as an attachment may need. One that has ended stays on its last CPU.
    let early = (0..cpus::online()?.len() * 2)
        .map(|_| Hog::anywhere(5 * LONG))
        .collect::<Result<Vec<_>>>()?;
    let scheduler = Scheduler::start(&["--dedicate"])?;
    for thread in scheduler.domain_threads()? {
        let cpus = process::affinity(thread.tid)?;
        ensure!(
            cpus.len() == 1 && cpus.is_subset(&dedicated),
            "{} may run on {cpus}, the CPUs to dedicate are {dedicated}",
            thread.name
        );
    }
    // On a host that lets the guest's CPUs wait, some take their time to run once more.
    wait_until("all hogs have left the dedicated CPUs", LONG, || {
        early
            .iter()
            .all(|hog| process::processor(hog.pid()).is_ok_and(|it| !dedicated.contains(it)))
    })?;
    let fresh = (0..cpus::online()?.len())
        .map(|_| Hog::off(&dedicated, LONG))
        .collect::<Result<Vec<_>>>()?;
    for _ in 0..100 {
        for hog in &early {
            let cpu = process::processor(hog.pid())?;
            ensure!(!dedicated.contains(cpu), "a hog runs on the dedicated CPU {cpu}");
        }
        thread::sleep(Duration::from_millis(20));
    }
    for cpu in dedicated.iter() {
        let bound = Hog::on(&CpuSet::from_iter([cpu]), LONG)?;
        wait_until(&format!("a hog bound to the dedicated CPU {cpu} runs"), LONG, || {
            bound.run_time().is_ok_and(|ran| ran > Duration::from_millis(20))
        })?;
        bound.stop()?;
    }
    drop(early);
    for hog in fresh {
        wait_until("a hog runs", LONG, || hog.run_time().is_ok_and(|ran| !ran.is_zero()))?;
        hog.stop()?;
    }
    load::hackbench(2, 50, LONG)?;
    scheduler.stop()
}
