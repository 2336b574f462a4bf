//! When a task gives way, and to which others.

use crate::api::load::Hog;
use crate::api::scheduler::{PATIENT, STATS, Scheduler};
use crate::api::wait_until;
use crate::api::{cpus, process};
use crate::machine::Machine;
use crate::suite::tests;
use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use scx_manyland::cpuset::CpuSet;
use scx_manyland::ids::CpuId;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

tests! {
    yields_let_a_worker_run: 120 s on L3X1;
    yields_are_decided: 120 s on L3X1;
    a_task_that_changes_goes_on: 120 s on L3X1;
    processes_that_end_share_the_cpu: 120 s on L3X1;
    threads_of_the_kernel_preempt: 120 s on L3X1;
}

/// For hangs.
const LONG: Duration = Duration::from_secs(90);

/// A worker beside three tasks that only yield has more of their CPU than the three together. The
/// kernel's own scheduler gives it nearly all, but for the time that a yield takes on an emulated
/// CPU.
pub fn yields_let_a_worker_run(_: &Machine) -> Result<()> {
    const ENOUGH: Duration = Duration::from_secs(3);
    for policy in ["vruntime", "deadline"] {
        let scheduler = Scheduler::start(&["--policy", policy])?;
        let cpu = CpuSet::from_iter([CpuId(1)]);
        let yielders = (0..3).map(|_| Hog::yielding_on(&cpu, LONG)).collect::<Result<Vec<_>>>()?;
        let worker = Hog::on(&cpu, LONG)?;
        let ran = || -> Result<(Duration, Duration)> {
            Ok((worker.run_time()?, yielders.iter().map(Hog::run_time).sum::<Result<_>>()?))
        };
        thread::sleep(Duration::from_secs(1));
        let (before, since) = (ran()?, Instant::now());
        let used = || -> Result<(Duration, Duration)> {
            let (worker, yielders) = ran()?;
            Ok((worker - before.0, yielders - before.1))
        };
        wait_until("they have run", LONG, || used().is_ok_and(|(a, b)| a + b > ENOUGH))?;
        let (worker, yielders) = used()?;
        let passed = since.elapsed();
        println!("{policy}: in {passed:?} the worker ran {worker:?}, the yielders {yielders:?}");
        ensure!(worker > yielders, "the yielders ran {yielders:?}, the worker {worker:?}");
        scheduler.stop()?;
    }
    Ok(())
}

/// Eight tasks that yield on two CPUs, and a worker, run by decisions, and end. The worker has more
/// than half of a CPU. CPUs wait for the domain thread for as long as a host may stop one of them.
pub fn yields_are_decided(_: &Machine) -> Result<()> {
    const TIME: Duration = Duration::from_secs(6);
    let scheduler = Scheduler::start(&PATIENT)?;
    let cpus = CpuSet::from_iter([CpuId(0), CpuId(1)]);
    let yielders = (0..8).map(|_| Hog::yielding_on(&cpus, TIME)).collect::<Result<Vec<_>>>()?;
    let worker = Hog::on(&cpus, LONG)?;
    for yielder in yielders {
        yielder.finish(LONG)?;
    }
    let ran = worker.run_time()?;
    println!("the worker ran {ran:?} of {TIME:?}");
    ensure!(ran * 2 > TIME, "the worker ran {ran:?} of {TIME:?}");
    let stats = scheduler.await_stats(1)?;
    let (decided, late) = (stats.sum("decided")?, stats.sum("late")?);
    println!("{decided} decided, {late} late");
    ensure!(late * 20 <= decided, "{late} ran undecided, {decided} decided");
    scheduler.stop()
}

/// A heavy task beside a light one goes on after most of its slices. That its niceness changes every
/// millisecond is no reason for new decisions.
pub fn a_task_that_changes_goes_on(_: &Machine) -> Result<()> {
    const ENOUGH: Duration = Duration::from_secs(3);
    let scheduler = Scheduler::start(&STATS)?;
    let cpu = CpuSet::from_iter([CpuId(1)]);
    let light = Hog::on(&cpu, LONG)?;
    let heavy = Hog::changing_on(&cpu, LONG)?;
    wait_until("it has run", LONG, || heavy.run_time().is_ok_and(|ran| ran > ENOUGH))?;
    drop((heavy, light));
    let stats = scheduler.await_stats(1)?;
    let (extended, queued) = (stats.sum("extended")?, stats.sum("queued")?);
    println!("{extended} slices were extended, {queued} tasks waited");
    ensure!(extended > queued, "{extended} slices were extended, {queued} tasks waited");
    scheduler.stop()
}

/// Large processes end all at once on a CPU. A hog there has a part of the CPU meanwhile: at least
/// half of an equal share.
pub fn processes_that_end_share_the_cpu(_: &Machine) -> Result<()> {
    const NUMBER: u32 = 6;
    const MIB: usize = 100;
    let scheduler = Scheduler::start(&[])?;
    let cpu = CpuSet::from_iter([CpuId(1)]);
    let large: Vec<Hog> =
        (0..NUMBER).map(|_| Hog::large_on(&cpu, MIB, LONG)).collect::<Result<_>>()?;
    let is_full =
        |it: &Hog| process::status_kib(it.pid(), "VmRSS").is_ok_and(|kib| kib > (MIB as u64) << 10);
    wait_until("their memory is filled", LONG, || large.iter().all(is_full))?;
    thread::sleep(Duration::from_millis(500));
    let hog = Hog::on(&cpu, LONG)?;
    thread::sleep(Duration::from_secs(1));
    let (before, began) = (hog.run_time()?, Instant::now());
    for it in &large {
        kill(Pid::from_raw(it.pid()), Signal::SIGKILL)?;
    }
    let is_gone = |it: &Hog| process::state(it.pid()).is_ok_and(|state| state == 'Z');
    while !large.iter().all(is_gone) {
        ensure!(began.elapsed() < LONG, "they do not end");
        thread::sleep(Duration::from_millis(2));
    }
    let (ran, passed) = (hog.run_time()? - before, began.elapsed());
    println!("the hog ran {ran:?} of {passed:?} while they ended");
    ensure!(ran > passed / (2 * (NUMBER + 1)), "the hog ran {ran:?} of {passed:?}");
    scheduler.stop()
}

/// A thread of the kernel that is bound to a CPU preempts a hog when it wakes up there. To read
/// `stat_refresh` is to wait for one on each CPU.
pub fn threads_of_the_kernel_preempt(_: &Machine) -> Result<()> {
    const ENOUGH: u64 = 100;
    let refresh = || -> Result<Duration> {
        let began = Instant::now();
        fs::read("/proc/sys/vm/stat_refresh")?;
        let took = began.elapsed();
        thread::sleep(Duration::from_millis(5));
        Ok(took)
    };
    let hogs = || {
        cpus::online()?
            .iter()
            .map(|cpu| Hog::on(&CpuSet::from_iter([cpu]), LONG))
            .collect::<Result<Vec<_>>>()
    };
    process::become_real_time();
    let kernels = {
        let _hogs = hogs()?;
        (0..ENOUGH).map(|_| refresh()).sum::<Result<Duration>>()?
    };
    let scheduler = Scheduler::start(&STATS)?;
    let _hogs = hogs()?;
    scheduler.await_stats(1)?;
    let before = scheduler.stats()?.sum("interrupted")?;
    let ours = (0..ENOUGH).map(|_| refresh()).sum::<Result<Duration>>()?;
    println!("{ENOUGH} times in {ours:?}, under the kernel's own scheduler in {kernels:?}");
    let interrupted = scheduler.await_stats(1)?.sum("interrupted")? - before;
    println!("hogs were preempted {interrupted} times");
    ensure!(interrupted > ENOUGH / 4, "hogs were preempted {interrupted} times only");
    scheduler.stop()
}
