//! What guest tests are written with.

pub mod cgroups;
pub mod confine;
pub mod cpus;
pub mod flipper;
pub mod fuzzer;
pub mod kinds;
pub mod load;
pub mod other;
pub mod policies;
pub mod process;
pub mod sched_ext;
pub mod scheduler;
pub mod storm;

use anyhow::{Result, bail, ensure};
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

/// Waits until a condition holds; what is missing is said in the error.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !condition() {
        if Instant::now() > deadline {
            bail!("after {} s, still not so: {what}", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Waits until a child of this process has ended.
pub fn wait_for_exit(process: &mut Child, limit: Duration) -> Result<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = process.try_wait()? {
            return Ok(status);
        }
        ensure!(Instant::now() < deadline, "the process has not ended after {} s", limit.as_secs());
        thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a condition holds at nine in ten of so many looks, 10 ms apart: others may disturb it
/// for moments.
pub fn holds_mostly(looks: usize, mut condition: impl FnMut() -> bool) -> bool {
    let held = (0..looks).filter(|_| {
        thread::sleep(Duration::from_millis(10));
        condition()
    });
    held.count() >= looks * 9 / 10
}
