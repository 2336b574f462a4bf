//! `build`: the load of `make -j`. Some drivers each start one short process after the other.
//!
//! Such a job does what a compiler does:
//!
//! 1. It is executed afresh.
//! 2. It touches new memory, computes, and pipes its output to a second process.
//! 3. The second process computes too, as `cc -pipe` runs the assembler in parallel.
//!
//! Jobs are of different lengths, in the same sequence in every run. Jobs that end after the time
//! is up do not count.

use super::{Done, Errand, Outcome, work};
use crate::cli::bench::reading::Reading;
use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use serde::{Deserialize, Serialize};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// How many jobs run at a time.
    pub jobs: usize,
    /// The mean work of a job, in units of [`work`].
    pub units: u64,
}

impl Settings {
    pub fn describe(&self) -> String {
        format!("{} jobs at a time, each some short-lived processes", self.jobs)
    }
}

/// Runs a build alone.
pub fn run(settings: &Settings, duration: Duration) -> Result<Outcome> {
    let start = Instant::now();
    let build = Build::start(settings)?;
    thread::sleep(duration);
    let elapsed = start.elapsed();
    let count = build.finish()?;
    let readings = vec![Reading::higher("jobs", "1/s", count as f64 / elapsed.as_secs_f64())];
    Ok(Outcome { readings, done: Some(Done { count, what: "job".into() }) })
}

/// A build that is under way.
pub struct Build {
    stop: Arc<AtomicBool>,
    drivers: Vec<JoinHandle<Result<u64>>>,
}

impl Build {
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(settings: &Settings) -> Result<Build> {
        let stop = Arc::new(AtomicBool::new(false));
        let next = Arc::new(AtomicU64::new(0));
        let mut build = Build { stop, drivers: Vec::with_capacity(settings.jobs) };
        for _ in 0..settings.jobs {
            let (stop, next, units) = (build.stop.clone(), next.clone(), settings.units);
            let driver = thread::Builder::new()
                .name("driver".into())
                .spawn(move || drive(units, &next, &stop))
                .context("cannot start a driver of the build")?;
            build.drivers.push(driver);
        }
        Ok(build)
    }

    /// Starts no more jobs, waits for those under way, and returns how many had ended before.
    ///
    /// # Errors
    /// If a job failed.
    pub fn finish(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut ended = 0;
        for driver in self.drivers {
            ended += driver.join().map_err(|_| anyhow!("a driver of the build panicked"))??;
        }
        Ok(ended)
    }
}

fn drive(units: u64, next: &AtomicU64, stop: &AtomicBool) -> Result<u64> {
    let mut ended = 0;
    while !stop.load(Ordering::Relaxed) {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let errand = Errand::Job(Job { units: units_of(number, units) });
        let status = Command::new("/proc/self/exe")
            .args(super::arguments(&errand)?)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .context("cannot start a job of the build")?;
        ensure!(status.success(), "a job of the build failed ({status})");
        if !stop.load(Ordering::Relaxed) {
            ended += 1;
        }
    }
    Ok(ended)
}

/// The work of a job: from a quarter of the mean to seven quarters, in a sequence without pattern.
fn units_of(number: u64, mean: u64) -> u64 {
    const SPREAD: u64 = 7;
    let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    (mean * (1 + mixed % SPREAD)).div_ceil(4)
}

/// A short process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    /// The work of both its processes, in units of [`work`].
    units: u64,
}

/// How many pieces of output a job makes, how large they are, and how much new memory each needs.
const PIECES: u64 = 8;
const PIECE_BYTES: usize = 8 << 10;
const MEMORY_BYTES: usize = 256 << 10;

impl Job {
    /// Compiles in this process and assembles in a second one.
    ///
    /// # Errors
    /// If the second process fails.
    pub fn run(&self) -> Result<()> {
        let (reader, writer) = io::pipe().context("cannot make a pipe")?;
        // Three quarters are the compiler's, one is the assembler's.
        let quarter = (self.units / 4 / PIECES).max(1);
        // SAFETY: this process has one thread.
        match unsafe { fork() }.context("cannot fork")? {
            ForkResult::Child => {
                drop(writer);
                let code = i32::from(assemble(reader, quarter).is_err());
                // SAFETY: _exit has no preconditions; what is buffered is the parent's.
                unsafe { libc::_exit(code) }
            }
            ForkResult::Parent { child } => {
                drop(reader);
                compile(writer, 3 * quarter)?;
                let status = waitpid(child, None).context("cannot wait for the second process")?;
                ensure!(status == WaitStatus::Exited(child, 0), "the second process: {status:?}");
                Ok(())
            }
        }
    }
}

fn compile(mut output: PipeWriter, units: u64) -> Result<()> {
    let mut kept = Vec::new();
    for piece in 0..PIECES {
        let memory = vec![piece as u8 + 1; MEMORY_BYTES];
        work::run(units);
        output.write_all(&memory[..PIECE_BYTES]).context("cannot write to the pipe")?;
        kept.push(memory);
    }
    Ok(())
}

fn assemble(mut input: PipeReader, units: u64) -> Result<()> {
    let mut piece = [0; PIECE_BYTES];
    for number in 0..PIECES {
        input.read_exact(&mut piece)?;
        ensure!(piece.iter().all(|&byte| u64::from(byte) == number + 1), "not what was written");
        work::run(units);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_differ_around_their_mean() {
        let units = (0..7000).map(|number| units_of(number, 400)).collect::<Vec<_>>();
        assert_eq!((units.iter().min(), units.iter().max()), (Some(&100), Some(&700)));
        let mean = units.iter().sum::<u64>() / 7000;
        assert!((390..=410).contains(&mean), "{mean}");
    }
}
