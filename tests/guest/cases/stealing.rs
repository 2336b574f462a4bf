//! Several domains behave as one machine: no CPU idles while another domain has a task for it, and tasks that talk to each
//! other end under one L3.

use crate::api::load::Hog;
use crate::api::scheduler::{STATS, Scheduler};
use crate::api::{cpus, process};
use crate::machine::Machine;
use anyhow::{Context, Result, ensure};
use nix::sched::sched_getcpu;
use scx_manyland::cpuset::CpuSet;
use scx_manyland::ids::CpuId;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const HOGS: usize = 16;

/// Hogs that are all at home in the first L3 and may run anywhere.
fn hogs_of_one_domain() -> Result<Vec<Hog>> {
    let first = cpus::l3s()?[0];
    let hogs: Vec<Hog> =
        (0..HOGS).map(|_| Hog::anywhere(Duration::from_secs(60))).collect::<Result<_>>()?;
    for hog in &hogs {
        process::bind(hog.pid(), &first)?;
    }
    thread::sleep(Duration::from_secs(1));
    let online = cpus::online()?;
    for hog in &hogs {
        process::bind(hog.pid(), &online)?;
    }
    Ok(hogs)
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

/// What is started in one domain keeps the CPUs of both busy.
pub fn an_idle_domain_helps(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&STATS)?;
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

/// With stealing switched off the same load leaves the other domain idle, so the test above proves something.
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
    let hogs: Vec<Hog> =
        (0..8).map(|_| Hog::on(&first, Duration::from_secs(60))).collect::<Result<_>>()?;
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        for hog in &hogs {
            let cpu = process::processor(hog.pid())?;
            // Before it has bound itself it may be anywhere.
            let bound = process::affinity(hog.pid())? == first;
            ensure!(!bound || first.contains(cpu), "a hog bound to {first} is on CPU {cpu}");
        }
        thread::sleep(Duration::from_millis(10));
    }
    for hog in hogs {
        hog.stop()?;
    }
    scheduler.stop()
}

/// Passes a byte to and fro until the other end is closed, and counts under which L3 it is each time.
fn talk(mut from: PipeReader, mut to: PipeWriter, l3s: &[CpuSet], turns: &[AtomicU64]) {
    let mut byte = [0];
    while from.read(&mut byte).is_ok_and(|n| n == 1) {
        let cpu = CpuId(sched_getcpu().expect("sched_getcpu") as u32);
        if let Some(l3) = l3s.iter().position(|l3| l3.contains(cpu)) {
            turns[l3].fetch_add(1, Ordering::Relaxed);
        }
        if to.write_all(&byte).is_err() {
            return;
        }
    }
}

/// A pair of threads that talk through pipes, begun under two L3s, ends under one and stays there.
pub fn a_talking_pair_shares_a_cache(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&[])?;
    let (l3s, online) = (cpus::l3s()?, cpus::online()?);
    let turns: Arc<Vec<AtomicU64>> = Arc::new(l3s.iter().map(|_| AtomicU64::new(0)).collect());
    let (ping, pong) = (std::io::pipe()?, std::io::pipe()?);
    let mut start = ping.1.try_clone()?;
    let tids = std::sync::mpsc::channel();
    let talker = |l3: usize, from, to| {
        let (tids, l3s, turns) = (tids.0.clone(), l3s.clone(), turns.clone());
        thread::spawn(move || {
            let bound = process::bind(0, &l3s[l3]);
            thread::sleep(Duration::from_millis(100));
            let _ = tids.send(bound.map(|()| nix::unistd::gettid().as_raw()));
            talk(from, to, &l3s, &turns)
        })
    };
    // They end with the process of the test, which closes their pipes.
    talker(0, ping.0, pong.1);
    talker(1, pong.0, ping.1);
    for _ in 0..2 {
        process::bind(tids.1.recv()??, &online)?;
    }
    start.write_all(&[1]).context("cannot start the conversation")?;
    thread::sleep(Duration::from_secs(2));
    let now = || turns.iter().map(|l3| l3.load(Ordering::Relaxed)).collect::<Vec<_>>();
    let before = now();
    thread::sleep(Duration::from_secs(5));
    let counts: Vec<u64> = now().iter().zip(before).map(|(now, then)| now - then).collect();
    println!("turns under each L3: {counts:?}");
    let (all, most) = (counts.iter().sum::<u64>(), counts.iter().max().copied().unwrap_or(0));
    ensure!(all > 100, "they passed their byte {all} times");
    ensure!(most * 10 >= all * 9, "the pair is spread over the L3s: {counts:?}");
    scheduler.stop()
}
