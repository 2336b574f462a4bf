//! RULE 3: idle costs nothing.

use crate::api::scheduler::{STATS, Scheduler};
use crate::api::{cpus, process};
use crate::machine::Machine;
use crate::suite::tests;
use anyhow::{Context, Result, ensure};
use std::thread;
use std::time::Duration;

tests! {
    idle_cpus_are_known_from_the_start: 60 s on L3X4;
    idle_system_stays_idle: 120 s on L3X2;
}

/// All CPUs but those of a moment's work count as idle in the first statistics, although none of them
/// has become idle since the scheduler attached.
pub fn idle_cpus_are_known_from_the_start(_: &Machine) -> Result<()> {
    const BUSY: u64 = 2;
    let scheduler = Scheduler::start(&STATS)?;
    let stats = scheduler.await_stats(1)?;
    let line = stats.lines.first().context("no line")?;
    let domains = line["domains"].as_array().context("no domains")?;
    let idle: u64 = domains.iter().filter_map(|domain| domain["nr_idle"].as_u64()).sum();
    println!("{idle} idle CPUs");
    ensure!(idle + BUSY >= cpus::online()?.len() as u64, "{idle} CPUs are idle: {line}");
    scheduler.stop()
}

/// What is allowed of an idle system's load average.
const LOAD: f64 = 0.2;

/// With nothing to schedule for 40 s, the load falls to that of an idle system, the domain
/// threads sleep and the process does not run.
pub fn idle_system_stays_idle(_: &Machine) -> Result<()> {
    const LOOKS: u32 = 24;
    // Out of step with the kernel, which takes its samples for the load average every 5 s.
    const BETWEEN_LOOKS: Duration = Duration::from_millis(1700);
    let scheduler = Scheduler::start(&[])?;
    let threads = scheduler.domain_threads()?;
    ensure!(!threads.is_empty(), "there are no domain threads");
    let all = process::threads(scheduler.pid())?;
    let run_time =
        || all.iter().map(|thread| process::run_time(thread.tid)).sum::<Result<Duration>>();
    let (load_before, ran_before) = (process::load_average()?, run_time()?);
    let mut awake = 0;
    for _ in 0..LOOKS {
        thread::sleep(BETWEEN_LOOKS);
        for thread in &threads {
            awake += u32::from(process::state(thread.tid)? != 'S');
        }
    }
    let ran = run_time()? - ran_before;
    let load = process::load_average()?;
    // What tests before this one left in the average fades with a time constant of a minute.
    let left_over = load_before * (-(LOOKS * BETWEEN_LOOKS).as_secs_f64() / 60.0).exp();
    println!(
        "load average {load_before} before, {load} after; ran {} ms; seen awake {awake} times",
        ran.as_millis()
    );
    ensure!(
        load < LOAD + left_over,
        "an idle system's load average is {load} (from {load_before})"
    );
    ensure!(
        awake <= LOOKS * threads.len() as u32 / 20,
        "the domain threads were seen awake {awake} times"
    );
    ensure!(
        ran < Duration::from_millis(300),
        "the scheduler ran for {} ms on an idle system",
        ran.as_millis()
    );
    scheduler.stop()
}
