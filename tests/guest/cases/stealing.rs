//! Several domains behave as one machine: no CPU idles while another domain has a task for it.

use crate::api::load::{self, Hog};
use crate::api::scheduler::{STATS, Scheduler};
use crate::api::{cpus, process, wait_until};
use crate::machine::Machine;
use crate::suite::tests;
use anyhow::{Result, ensure};
use std::thread;
use std::time::{Duration, Instant};

tests! {
    an_idle_domain_helps: 90 s on L3X2;
    without_stealing_it_stays_idle: 90 s on L3X2;
    what_is_bound_is_not_stolen: 60 s on L3X2;
}

const HOGS: usize = 16;
const LONG: Duration = Duration::from_secs(60);

fn hogs_of_one_domain() -> Result<Vec<Hog>> {
    load::hogs_at_home(&[cpus::l3s()?[0]; HOGS])
}

/// The share of a time in which each CPU was busy, in percent.
fn busy_percent(time: Duration) -> Result<Vec<f64>> {
    let online: Vec<_> = cpus::online()?.iter().collect();
    let idle = || online.iter().map(|&cpu| cpus::idle_time(cpu)).collect::<Result<Vec<_>>>();
    let (start, before) = (Instant::now(), idle()?);
    thread::sleep(time);
    let (took, after) = (start.elapsed(), idle()?);
    let share = |idle: Duration| 100.0 - 100.0 * idle.as_secs_f64() / took.as_secs_f64();
    Ok(before.iter().zip(after).map(|(b, a)| share(a.saturating_sub(*b))).collect())
}

/// The time from which a hog of a crowded L3 may run anywhere to that at which it is seen under
/// another one. Who looks is a real-time thread, so that it does not have to wait for a CPU itself.
fn first_help() -> Result<Duration> {
    let (crowded, online) = (cpus::l3s()?[0], cpus::online()?);
    let hogs = load::hogs_bound_to(&vec![crowded; 3 * crowded.len()])?;
    let pid = hogs[0].pid();
    let look = move || -> Result<Duration> {
        process::become_real_time();
        process::bind(pid, &online)?;
        let free = Instant::now();
        while crowded.contains(process::processor(pid)?) {
            ensure!(free.elapsed() < LONG, "it stayed in the crowd for {LONG:?}");
            thread::sleep(Duration::from_micros(500));
        }
        Ok(free.elapsed())
    };
    let took = thread::spawn(look).join().expect("the looking thread panicked")?;
    hogs.into_iter().try_for_each(Hog::stop)?;
    Ok(took)
}

/// What is started in one domain keeps the CPUs of both busy.
pub fn an_idle_domain_helps(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&STATS)?;
    println!("the first was helped after {:.1} ms", first_help()?.as_secs_f64() * 1e3);
    let hogs = hogs_of_one_domain()?;
    thread::sleep(Duration::from_secs(1));
    let busy = busy_percent(Duration::from_secs(5))?;
    println!("busy: {busy:.0?} %");
    ensure!(
        busy.iter().all(|&share| share >= 95.0),
        "a CPU idles beside waiting tasks: {busy:.0?} %"
    );
    let least = hogs.iter().map(Hog::run_time).collect::<Result<Vec<_>>>()?.into_iter().min();
    ensure!(least > Some(Duration::from_millis(200)), "a hog ran for {least:?} only");
    for hog in hogs {
        hog.stop()?;
    }
    let stats = scheduler.stats()?;
    let helped = stats.sum("stolen_in")? + stats.sum("moved_in")?;
    ensure!(helped > 0, "no task was stolen and none moved");
    scheduler.stop()
}

/// With stealing switched off the same load leaves the other domain idle, so the test above proves
/// something.
pub fn without_stealing_it_stays_idle(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&["--no-steal"])?;
    let hogs = hogs_of_one_domain()?;
    thread::sleep(Duration::from_secs(1));
    let busy = busy_percent(Duration::from_secs(3))?;
    println!("busy: {busy:.0?} %");
    ensure!(busy.iter().any(|&share| share < 50.0), "the domains help each other: {busy:.0?} %");
    for hog in hogs {
        hog.stop()?;
    }
    scheduler.stop()
}

/// A load that may use one L3 only never leaves it, however idle the other is.
pub fn what_is_bound_is_not_stolen(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&[])?;
    let first = cpus::l3s()?[0];
    let hogs: Vec<Hog> = (0..8).map(|_| Hog::on(&first, LONG)).collect::<Result<_>>()?;
    // Before it has bound itself, and been moved, a hog may be anywhere.
    wait_until("all hogs are where they are bound", LONG, || {
        hogs.iter().all(|hog| {
            process::affinity(hog.pid()).is_ok_and(|cpus| cpus == first)
                && process::processor(hog.pid()).is_ok_and(|cpu| first.contains(cpu))
        })
    })?;
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        for hog in &hogs {
            let cpu = process::processor(hog.pid())?;
            ensure!(first.contains(cpu), "a hog bound to {first} is on CPU {cpu}");
        }
        thread::sleep(Duration::from_millis(10));
    }
    for hog in hogs {
        hog.stop()?;
    }
    scheduler.stop()
}
