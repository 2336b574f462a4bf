//! `spin`: threads that only compute, more of them than there are CPUs, so that fair shares need a
//! scheduler that moves them about.
//!
//! All have the same weight, so the fair share of each is the same CPU time. The figures are the
//! work of all, and how far the threads with the least and the most CPU time are from that share.

use super::{Done, Outcome, work};
use crate::cli::bench::reading::Reading;
use anyhow::{Context, Result, anyhow, ensure};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    pub threads: usize,
}

impl Settings {
    pub fn describe(&self) -> String {
        format!("{} threads that only compute", self.threads)
    }
}

/// The units of work between two checks of whether the time is up.
const STRIDE: u64 = 50;

/// Computes for the duration.
pub fn run(settings: &Settings, duration: Duration) -> Result<Outcome> {
    let stop = AtomicBool::new(false);
    let begin = Barrier::new(settings.threads + 1);
    let (shares, elapsed) = thread::scope(|scope| -> Result<_> {
        let threads = (0..settings.threads)
            .map(|_| {
                scope.spawn(|| {
                    begin.wait();
                    spin(&stop)
                })
            })
            .collect::<Vec<_>>();
        begin.wait();
        let start = Instant::now();
        thread::sleep(duration);
        stop.store(true, Ordering::Relaxed);
        let elapsed = start.elapsed();
        let joined = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a computing thread panicked"))?);
        Ok((joined.collect::<Result<Vec<_>>>()?, elapsed))
    })?;
    let count = shares.iter().map(|share| share.units).sum::<u64>();
    let due =
        shares.iter().map(|share| share.cpu_time.as_secs_f64()).sum::<f64>() / shares.len() as f64;
    ensure!(due > 0.0, "no CPU time was seen; give it more --seconds");
    let percent = |time: Option<Duration>| {
        time.map(|time| 100.0 * time.as_secs_f64() / due).context("no threads")
    };
    let times = || shares.iter().map(|share| share.cpu_time);
    let readings = vec![
        Reading::higher("work", "units/ms", count as f64 / elapsed.as_secs_f64() / 1000.0),
        Reading::higher("least served", "% of its due", percent(times().min())?),
        Reading::lower("most served", "% of its due", percent(times().max())?),
    ];
    Ok(Outcome { readings, done: Some(Done { count, what: "unit".into() }) })
}

/// The CPU time of a thread, and the work it has done in it.
struct Share {
    cpu_time: Duration,
    units: u64,
}

fn spin(stop: &AtomicBool) -> Result<Share> {
    let cpu_time = || -> Result<Duration> {
        let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
        Ok(time.context("cannot read a thread's CPU time")?.into())
    };
    let (before, mut units) = (cpu_time()?, 0);
    while !stop.load(Ordering::Relaxed) {
        work::run(STRIDE);
        units += STRIDE;
    }
    Ok(Share { cpu_time: cpu_time()? - before, units })
}
