//! `wakeups`: a task that sleeps and then runs for a moment, next to hogs that want every CPU, like
//! cyclictest under load.
//!
//! The probe asks for a sleep of 10 ms. How much later it is awake is the figure: the timer's own
//! lateness, and the time until a hog gives way.

use super::latency::{Latencies, Unit};
use super::{Outcome, work};
use crate::cli::bench::reading::Reading;
use anyhow::{Context, Result, anyhow, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What the hogs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Hogs {
    /// Tasks of nice 0
    Normal,
    /// Tasks of nice 19
    Nice,
    /// Tasks of SCHED_IDLE
    Idle,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// How many hogs there are.
    pub hogs: usize,
    pub are: Hogs,
    /// The probe's work after each sleep.
    pub units: u64,
}

impl Settings {
    pub fn describe(&self) -> String {
        let kind = match self.are {
            Hogs::Normal => "nice 0",
            Hogs::Nice => "nice 19",
            Hogs::Idle => "SCHED_IDLE",
        };
        format!("{} hogs of {kind}, and a task that sleeps for 10 ms", self.hogs)
    }
}

const SLEEP: Duration = Duration::from_millis(10);

/// The units of work between two checks of whether the time is up.
const STRIDE: u64 = 50;

/// Sleeps and wakes up for the duration.
pub fn run(settings: &Settings, duration: Duration) -> Result<Outcome> {
    let stop = AtomicBool::new(false);
    let begin = Barrier::new(settings.hogs + 1);
    let (delays, units) = thread::scope(|scope| -> Result<_> {
        let hogs = (0..settings.hogs)
            .map(|_| {
                scope.spawn(|| {
                    let chosen = settings.are.choose();
                    begin.wait();
                    chosen.map(|()| compute(&stop))
                })
            })
            .collect::<Vec<_>>();
        begin.wait();
        let delays = probe(settings, duration);
        stop.store(true, Ordering::Relaxed);
        let joined =
            hogs.into_iter().map(|hog| hog.join().map_err(|_| anyhow!("a hog panicked"))?);
        Ok((delays?, joined.sum::<Result<u64>>()?))
    })?;
    ensure!(settings.hogs == 0 || units > 0, "the hogs have not run; give them more --seconds");
    let mut readings = delays.readings("wake-up", &[50.0, 99.0, 100.0], Unit::Microseconds)?;
    readings.insert(0, Reading::lower("wake-up mean", "us", delays.mean_us()));
    let ms = duration.as_secs_f64() * 1000.0;
    readings.push(Reading::higher("the hogs' work", "units/ms", units as f64 / ms));
    Ok(Outcome { readings, done: None })
}

fn probe(settings: &Settings, duration: Duration) -> Result<Latencies> {
    let mut delays = Latencies::new()?;
    let end = Instant::now() + duration;
    while Instant::now() < end {
        let asleep = Instant::now();
        thread::sleep(SLEEP);
        delays.record(asleep.elapsed().saturating_sub(SLEEP));
        work::run(settings.units);
    }
    Ok(delays)
}

fn compute(stop: &AtomicBool) -> u64 {
    let mut units = 0;
    while !stop.load(Ordering::Relaxed) {
        work::run(STRIDE);
        units += STRIDE;
    }
    units
}

impl Hogs {
    /// Makes the thread that calls this one of them.
    fn choose(self) -> Result<()> {
        let (policy, nice) = match self {
            Hogs::Normal => return Ok(()),
            Hogs::Nice => (libc::SCHED_OTHER, 19),
            Hogs::Idle => (libc::SCHED_IDLE, 0),
        };
        // SAFETY: all zeros are a value of this struct of integers.
        let param: libc::sched_param = unsafe { std::mem::zeroed() };
        // SAFETY: `param` outlives the call; 0 is the thread that calls.
        let chosen = unsafe { libc::sched_setscheduler(0, policy, &raw const param) };
        nix::errno::Errno::result(chosen).context("cannot choose the scheduling class of a hog")?;
        // SAFETY: setpriority has no pointer among its arguments; 0 is the thread that calls.
        let chosen = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
        nix::errno::Errno::result(chosen).context("cannot choose the nice value of a hog")?;
        Ok(())
    }
}
