//! Shares of a CPU.

use crate::api::load::Hog;
use crate::api::process;
use crate::api::scheduler::{STATS, Scheduler};
use crate::api::{cpus, wait_until};
use crate::machine::Machine;
use crate::suite::tests;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use scx_manyland::cpuset::CpuSet;
use scx_manyland::ids::CpuId;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

tests! {
    nice_shares_a_cpu_by_weight: 150 s on L3X1;
    interrupted_turns_go_on: 150 s on L3X1;
    weights_hold_in_a_crowd_next_to_hogs: 90 s on L3X1;
    the_time_in_which_the_scheduler_was_stopped_counts_for_all: 240 s on L3X1;
}

/// The kernel's weights of nice 0 and nice 10.
const WEIGHT_NICE_0: f64 = 1024.0;
const WEIGHT_NICE_10: f64 = 110.0;

/// Two hogs on one CPU, one of them nice, share it in the ratio of their weights, within 15 %.
pub fn nice_shares_a_cpu_by_weight(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&[])?;
    they_share_by_weight(&CpuSet::from_iter([CpuId(1)]), 0.15)?;
    scheduler.stop()
}

/// Ten hogs and ten that are nice share a CPU by weight, while a hog has each of the other CPUs for
/// itself. Those run many times as much as any of the crowd, and that counts for nothing here.
pub fn weights_hold_in_a_crowd_next_to_hogs(_: &Machine) -> Result<()> {
    const LONG: Duration = Duration::from_secs(60);
    const ENOUGH: Duration = Duration::from_secs(3);
    let scheduler = Scheduler::start(&STATS)?;
    let crowded = CpuSet::from_iter([CpuId(1)]);
    let others: Result<Vec<Hog>> = cpus::online()?
        .difference(&crowded)
        .iter()
        .map(|cpu| Hog::on(&CpuSet::from_iter([cpu]), LONG))
        .collect();
    let others = others?;
    let ten = || (0..10).map(|_| Hog::on(&crowded, LONG)).collect::<Result<Vec<_>>>();
    let ran = |hogs: &[Hog]| hogs.iter().map(Hog::run_time).sum::<Result<Duration>>();
    let (plain, nice) = (ten()?, ten()?);
    for hog in &nice {
        process::renice(hog.pid(), 10)?;
    }
    thread::sleep(Duration::from_secs(1));
    let before = (ran(&plain)?, ran(&nice)?);
    let since = || anyhow::Ok((ran(&plain)? - before.0, ran(&nice)? - before.1));
    wait_until("they have run", LONG, || since().is_ok_and(|(a, b)| a + b > ENOUGH))?;
    let (plain_ran, nice_ran) = since()?;
    println!("those of nice 0 ran {plain_ran:?}, those of nice 10 {nice_ran:?}");
    let by_weight = nice_ran * 4..nice_ran * 40;
    ensure!(by_weight.contains(&plain_ran), "nice 0 ran {plain_ran:?}, nice 10 {nice_ran:?}");
    drop(others);
    scheduler.stop()
}

/// Two hogs on one CPU share it so within 30 % where a real-time task interrupts them two hundred times a second, for next
/// to nothing: whose turn it was before, it is afterwards.
pub fn interrupted_turns_go_on(_: &Machine) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(5);
    let scheduler = Scheduler::start(&STATS)?;
    let cpu = CpuSet::from_iter([CpuId(1)]);
    let before = scheduler.stats()?.sum("displaced")?;
    let (stop, stopped) = mpsc::channel::<()>();
    let interrupter = thread::spawn(move || -> Result<()> {
        process::bind(0, &cpu)?;
        process::become_real_time();
        while stopped.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {}
        Ok(())
    });
    let shares = they_share_by_weight(&cpu, 0.3);
    drop(stop);
    interrupter.join().expect("it does not panic")?;
    let displaced = scheduler.await_stats(1)?.sum("displaced")? - before;
    println!("{displaced} turns were interrupted");
    ensure!(displaced > 100, "no turns were interrupted");
    shares?;
    scheduler.stop()
}

/// Two hogs share a CPU while the scheduler is stopped, and use much there. When it goes on they
/// have their turns beside two that came just before: they do not first make up for a time in which
/// those were not there.
pub fn the_time_in_which_the_scheduler_was_stopped_counts_for_all(_: &Machine) -> Result<()> {
    const LONG: Duration = Duration::from_secs(180);
    const ENOUGH: Duration = Duration::from_secs(1);
    let scheduler = Scheduler::start(&STATS)?;
    let cpu = CpuSet::from_iter([CpuId(1)]);
    let two = || (0..2).map(|_| Hog::on(&cpu, LONG)).collect::<Result<Vec<_>>>();
    let ran = |hogs: &[Hog]| hogs.iter().map(Hog::run_time).sum::<Result<Duration>>();
    let old = two()?;
    thread::sleep(Duration::from_secs(1));
    scheduler.send(Signal::SIGSTOP)?;
    thread::sleep(Duration::from_secs(3));
    let new = two()?;
    thread::sleep(Duration::from_millis(200));
    scheduler.send(Signal::SIGCONT)?;
    let before = (ran(&old)?, ran(&new)?);
    let since =
        || -> Result<(Duration, Duration)> { Ok((ran(&old)? - before.0, ran(&new)? - before.1)) };
    wait_until("they have run", LONG, || since().is_ok_and(|(old, new)| old + new > ENOUGH))?;
    let (old_ran, new_ran) = since()?;
    println!("the old ones ran {old_ran:?}, the new ones {new_ran:?}");
    ensure!(
        old_ran > new_ran / 3,
        "the old hogs ran {old_ran:?} while the new ones had {new_ran:?}"
    );
    scheduler.decisions_resume()?;
    scheduler.stop()
}

/// Two hogs, one of them nice, come to share a CPU in the ratio of their weights. A host that lets the
/// CPU wait makes a turn of either longer, which counts for less the longer the hogs have run.
fn they_share_by_weight(cpu: &CpuSet, tolerance: f64) -> Result<()> {
    const LONG: Duration = Duration::from_secs(90);
    const ENOUGH: Duration = Duration::from_millis(500);
    let plain = Hog::on(cpu, 2 * LONG)?;
    let nice = Hog::on(cpu, 2 * LONG)?;
    process::renice(nice.pid(), 10)?;
    thread::sleep(Duration::from_secs(1));
    let before = (plain.run_time()?, nice.run_time()?);
    let wanted = WEIGHT_NICE_0 / WEIGHT_NICE_10;
    let mut ratio = 0.0;
    let shared = wait_until("they share by their weights", LONG, || {
        let ran = |hog: &Hog, before| hog.run_time().map_or(Duration::ZERO, |ran| ran - before);
        let (plain, nice) = (ran(&plain, before.0), ran(&nice, before.1));
        ratio = plain.as_secs_f64() / nice.as_secs_f64();
        nice >= ENOUGH && (ratio / wanted - 1.0).abs() < tolerance
    });
    println!("the ratio of nice 0 to nice 10 is {ratio:.2}, by their weights {wanted:.2}");
    shared.with_context(|| format!("the ratio is {ratio:.2}, not {wanted:.2}"))
}
