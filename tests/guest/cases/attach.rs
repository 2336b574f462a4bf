//! Attaching and leaving, the polite way and the other.

use crate::api::load::{self, Hackbench};
use crate::api::process;
use crate::api::scheduler::Scheduler;
use crate::machine::Machine;
use crate::suite::tests;
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use std::thread;
use std::time::{Duration, Instant};

tests! {
    attaches_and_detaches: 90 s on L3X1 L3X2 L3X4 ANY_KERNEL;
    attaches_again_under_load: 400 s on L3X2;
    detaches_when_asked: 60 s on L3X2;
    load_survives_a_crash: 90 s on L3X2;
    load_survives_kill_9: 150 s on L3X2;
}

/// Attaches, serves a load and detaches, twice, so that the second time finds what the first left.
pub fn attaches_and_detaches(_: &Machine) -> Result<()> {
    for _ in 0..2 {
        let scheduler = Scheduler::start(&[])?;
        load::hackbench(1, 30, Duration::from_secs(30))?;
        scheduler.stop()?;
    }
    Ok(())
}

/// Attaches and detaches while a load runs on. `make reliability` does so 200 times.
pub fn attaches_again_under_load(_: &Machine) -> Result<()> {
    const TIMES: usize = 3;
    let mut hackbench = Hackbench::start(1, 1_000_000, Duration::from_secs(380))?;
    // The scheduler inherits it: otherwise loading it takes its turn among forty tasks.
    process::renice(0, -20)?;
    for _ in 0..TIMES {
        let start = Instant::now();
        let scheduler = Scheduler::start(&[])?;
        println!("attached in {} ms", start.elapsed().as_millis());
        thread::sleep(Duration::from_millis(200));
        ensure!(hackbench.is_running()?, "hackbench has ended");
        scheduler.stop()?;
    }
    ensure!(hackbench.is_running()?, "hackbench has ended");
    drop(hackbench);
    load::hackbench(1, 10, Duration::from_secs(30))?;
    Ok(())
}

/// SIGTERM and SIGHUP are as polite as Ctrl-C.
pub fn detaches_when_asked(_: &Machine) -> Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        let scheduler = Scheduler::start(&[])?;
        load::hackbench(1, 10, Duration::from_secs(30))?;
        scheduler.stop_with(signal)?;
    }
    Ok(())
}

/// A crash leaves the load to the kernel's own scheduler.
pub fn load_survives_a_crash(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&[])?;
    let mut hackbench = Hackbench::start(2, 300, Duration::from_secs(60))?;
    thread::sleep(Duration::from_millis(500));
    ensure!(hackbench.is_running()?, "hackbench was done before the scheduler could crash");
    scheduler.kill_with(Signal::SIGSEGV)?;
    hackbench.finish()
}

/// Killed under load, it leaves the load to the kernel's own scheduler.
pub fn load_survives_kill_9(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&[])?;
    let mut hackbench = Hackbench::start(2, 1000, Duration::from_secs(90))?;
    thread::sleep(Duration::from_secs(1));
    ensure!(hackbench.is_running()?, "hackbench was done before the scheduler could be killed");
    scheduler.kill_with(Signal::SIGKILL)?;
    hackbench.finish()
}
