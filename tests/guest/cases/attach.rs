//! Attaching and leaving, the polite way and the other.

use crate::api::load::{self, Hackbench};
use crate::api::scheduler::Scheduler;
use crate::machine::Machine;
use anyhow::{Result, ensure};
use std::thread;
use std::time::Duration;

/// Attaches, serves a load and detaches, twice, so that the second time finds what the first left.
pub fn attaches_and_detaches(_: &Machine) -> Result<()> {
    for _ in 0..2 {
        let scheduler = Scheduler::start(&[])?;
        load::hackbench(1, 30, Duration::from_secs(30))?;
        scheduler.stop()?;
    }
    Ok(())
}

/// Killed under load, it leaves the load to the kernel's own scheduler.
pub fn load_survives_kill_9(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&[])?;
    let mut hackbench = Hackbench::start(2, 1000, Duration::from_secs(90))?;
    thread::sleep(Duration::from_secs(1));
    ensure!(hackbench.is_running()?, "hackbench was done before the scheduler could be killed");
    scheduler.kill9()?;
    hackbench.finish()
}
