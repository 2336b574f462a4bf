//! Tasks keep a home, and change it when there is a reason to.

use crate::api::load::{self, Hog};
use crate::api::scheduler::{STATS, Scheduler, Stats};
use crate::api::{cpus, process, wait_until};
use crate::machine::Machine;
use crate::role;
use crate::suite::tests;
use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use nix::sched::sched_getcpu;
use scx_manyland::cpuset::CpuSet;
use scx_manyland::ids::CpuId;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::unix::process::CommandExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

tests! {
    a_talking_pair_shares_a_cache: 90 s on L3X2;
    uneven_loads_are_levelled: 150 s on L3X2;
    no_home_moves_to_cpus_that_real_time_tasks_have: 150 s on L3X2;
    another_program_may_have_another_home: 150 s on L3X2;
}

const LIMIT: Duration = Duration::from_secs(120);

/// Passes a byte to and fro until the other end is closed, and counts under which L3 it is each
/// time.
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

/// Six hogs at home in one domain and two in the other, each with two CPUs, none of them idle: the
/// homes are moved until all hogs get the same.
pub fn uneven_loads_are_levelled(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&STATS)?;
    let l3s = cpus::l3s()?;
    let homes: Vec<CpuSet> = (0..8).map(|i| l3s[usize::from(i >= 6)]).collect();
    let hogs = load::hogs_at_home(&homes)?;
    let moved_before = scheduler.stats()?.sum("moved_in")?;
    wait_until("all hogs get the same", Duration::from_secs(60), || {
        let shares = shares(&hogs, Duration::from_secs(3)).unwrap_or_default();
        println!("shares of a CPU: {shares:.2?}");
        // As they began, six have a third of what the two have. With one home moved, five have
        // three fifths.
        let most = shares.iter().copied().fold(0.0, f64::max);
        shares.iter().all(|share| *share > 0.75 * most)
    })?;
    let moved = scheduler.await_stats(1)?.sum("moved_in")? - moved_before;
    ensure!(moved > 0, "no home was moved");
    scheduler.stop()
}

/// Real-time tasks have the CPUs of a domain for nine tenths of the time, so it is not the one with
/// the least load, and the hogs at home in the other domain stay there: all of them get about the
/// same.
pub fn no_home_moves_to_cpus_that_real_time_tasks_have(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&STATS)?;
    let l3s = cpus::l3s()?;
    let intruder = |cpu| -> Result<Hog> {
        let hog = Hog::pausing_on(&CpuSet::from_iter([cpu]), LIMIT)?;
        process::choose_real_time(hog.pid())?;
        Ok(hog)
    };
    let _intruders = l3s[1].iter().map(intruder).collect::<Result<Vec<_>>>()?;
    thread::sleep(Duration::from_secs(2));
    let hogs = load::hogs_at_home(&[l3s[0]; 8])?;
    thread::sleep(Duration::from_secs(3));
    let shares = shares(&hogs, Duration::from_secs(8))?;
    println!("shares of a CPU: {shares:.2?}");
    let most = shares.iter().copied().fold(0.0, f64::max);
    ensure!(shares.iter().all(|share| *share > most / 3.0), "shares of a CPU: {shares:.2?}");
    scheduler.stop()
}

/// What share of a CPU each hog has during a time.
fn shares(hogs: &[Hog], time: Duration) -> Result<Vec<f64>> {
    let ran = || hogs.iter().map(Hog::run_time).collect::<Result<Vec<_>>>();
    let (start, before) = (Instant::now(), ran()?);
    thread::sleep(time);
    let (took, after) = (start.elapsed().as_secs_f64(), ran()?);
    Ok(before.iter().zip(after).map(|(b, a)| (a - *b).as_secs_f64() / took).collect())
}

/// A task that starts another program while its home is crowded and another domain has an idle CPU
/// has its home there from its next wake-up on; one that starts none keeps it.
pub fn another_program_may_have_another_home(_: &Machine) -> Result<()> {
    const MOVERS: u64 = 20;
    let l3s = cpus::l3s()?;
    // Born in the other domain, a mover has changed its home once before it begins, and not into
    // that one.
    process::bind(0, &l3s[1])?;
    let scheduler = Scheduler::start(&STATS)?;
    let _crowd =
        (0..l3s[0].len() * 2).map(|_| Hog::on(&l3s[0], LIMIT)).collect::<Result<Vec<_>>>()?;
    thread::sleep(Duration::from_secs(1));
    let moved_by = |what: &str| -> Result<u64> {
        let before = moved_to(1, &scheduler.await_stats(1)?)?;
        for _ in 0..MOVERS {
            let status = role::command("mover").args([what, &l3s[0].to_string()]).status()?;
            ensure!(status.success(), "a mover failed ({status})");
        }
        Ok(moved_to(1, &scheduler.await_stats(2)?)? - before)
    };
    let (stayed, moved) = (moved_by("stay")?, moved_by("exec")?);
    println!("{stayed} moved without a new program, {moved} of {MOVERS} with one");
    ensure!(moved >= stayed + MOVERS / 2, "{moved} of {MOVERS} moved, {stayed} without a reason");
    scheduler.stop()
}

/// How many homes have moved into a domain.
fn moved_to(domain: usize, stats: &Stats) -> Result<u64> {
    let moved = |line: &serde_json::Value| line["domains"][domain]["moved_in"].as_u64();
    stats.lines.iter().map(|line| moved(line).context("no count of moves")).sum()
}

/// A mover's command line.
#[derive(Args)]
pub struct MoverArgs {
    what: Move,
    /// The CPUs that are its home at first
    #[arg(value_parser = cpus::parse_list)]
    home: Option<CpuSet>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Move {
    /// It starts another program.
    Exec,
    /// It starts none.
    Stay,
    /// It is the program that was started.
    Moved,
}

impl MoverArgs {
    /// What a mover does: it makes the CPUs its home, may start another program, and wakes up once.
    pub fn run(self) -> Result<()> {
        const NAP: Duration = Duration::from_millis(10);
        if let Some(home) = &self.home {
            process::bind(0, home)?;
            // A wake-up at home: having been started is forgotten.
            thread::sleep(NAP);
            process::bind(0, &cpus::online()?)?;
        }
        if self.what == Move::Exec {
            let error = role::command("mover").arg("moved").exec();
            return Err(error).context("cannot start a program");
        }
        thread::sleep(NAP);
        Ok(())
    }
}
