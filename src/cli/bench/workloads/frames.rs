//! `frames`: a game during a build ([`super::build`]) that keeps every CPU busy.
//!
//! At each refresh of a display
//!
//! 1. the game thread updates its world,
//! 2. it hands a part to each helper and waits for all of them,
//! 3. a last thread renders the frame.
//!
//! The time of a frame runs from the refresh at which it was due to the end of its rendering. A
//! frame that is not done by the next refresh has missed it, and the game goes on at the first
//! refresh to come. So a frame of three and a half periods misses three refreshes, at which the
//! display had nothing new to show. The figure `late frames` counts them.

use super::build::{self, Build};
use super::latency::{Latencies, Unit};
use super::{Outcome, work};
use crate::cli::bench::reading::Reading;
use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Frames a second.
    pub rate: u32,
    /// Threads that help the game thread.
    pub helpers: usize,
    /// The work between a refresh and the end of the rendering, with the helpers in parallel, in
    /// units of [`work`].
    pub units: u64,
    /// The build that runs meanwhile.
    pub build: build::Settings,
}

impl Settings {
    pub fn describe(&self) -> String {
        format!(
            "a game at {} Hz with {} helpers, during a build of {} jobs at a time",
            self.rate, self.helpers, self.build.jobs
        )
    }
}

/// Plays for the duration.
pub fn run(settings: &Settings, duration: Duration) -> Result<Outcome> {
    let mut game = Game::new(settings)?;
    let start = Instant::now();
    let build = Build::start(&settings.build)?;
    let played = game.play(duration);
    let elapsed = start.elapsed();
    let jobs = build.finish()?;
    let (times, missed) = played?;
    let (shown, missed) = (times.count() as f64, missed as f64);
    let mut readings = vec![Reading::lower("late frames", "%", 100.0 * missed / (shown + missed))];
    readings.extend(times.readings("frame", &[50.0, 95.0, 99.0, 100.0], Unit::Milliseconds)?);
    let rate = jobs as f64 / elapsed.as_secs_f64();
    readings.push(Reading::higher("build beside it", "jobs/s", rate));
    Ok(Outcome { readings, done: None })
}

/// The game thread's side: its work, and the threads it hands work to.
struct Game {
    period: Duration,
    update: u64,
    helpers: Vec<Colleague>,
    renderer: Colleague,
}

impl Game {
    /// The update does three eighths of the units, each helper three, the renderer two.
    fn new(settings: &Settings) -> Result<Game> {
        let eighth = (settings.units / 8).max(1);
        let helpers = (0..settings.helpers).map(|_| Colleague::start("helper", 3 * eighth));
        Ok(Game {
            period: Duration::from_secs(1) / settings.rate,
            update: 3 * eighth,
            helpers: helpers.collect::<Result<_>>()?,
            renderer: Colleague::start("renderer", 2 * eighth)?,
        })
    }

    /// The times of the frames, and how many refreshes were missed.
    fn play(&mut self, duration: Duration) -> Result<(Latencies, u64)> {
        let (mut times, mut missed_in_all) = (Latencies::new()?, 0);
        let mut due = Instant::now() + self.period;
        let end = due + duration.max(self.period);
        while due < end {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            self.frame()?;
            let time = due.elapsed();
            times.record(time);
            let missed = missed(time, self.period);
            missed_in_all += u64::from(missed);
            due += self.period * (missed + 1);
        }
        Ok((times, missed_in_all))
    }

    fn frame(&mut self) -> Result<()> {
        work::run(self.update);
        self.helpers.iter().try_for_each(Colleague::begin)?;
        self.helpers.iter().try_for_each(Colleague::wait)?;
        self.renderer.begin()?;
        self.renderer.wait()
    }
}

/// How many refreshes a frame of this time misses.
fn missed(time: Duration, period: Duration) -> u32 {
    let periods = time.as_nanos().div_ceil(period.as_nanos()).max(1) - 1;
    u32::try_from(periods).unwrap_or(u32::MAX - 1)
}

/// A thread that does the same piece of work whenever it is asked. It ends when the [`Colleague`]
/// is dropped.
struct Colleague {
    ask: Sender<()>,
    done: Receiver<()>,
}

impl Colleague {
    fn start(name: &str, units: u64) -> Result<Colleague> {
        let (ask, asked) = channel();
        let (report, done) = channel();
        thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                while asked.recv().is_ok() {
                    work::run(units);
                    if report.send(()).is_err() {
                        break;
                    }
                }
            })
            .with_context(|| format!("cannot start a {name}"))?;
        Ok(Colleague { ask, done })
    }

    fn begin(&self) -> Result<()> {
        self.ask.send(()).map_err(|_| anyhow!("a thread of the game is gone"))
    }

    fn wait(&self) -> Result<()> {
        self.done.recv().map_err(|_| anyhow!("a thread of the game is gone"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_of_some_periods_misses_the_refreshes_between() {
        let period = Duration::from_millis(16);
        let missed = |ms| missed(Duration::from_millis(ms), period);
        assert_eq!([0, 1, 16, 17, 32, 33, 56].map(missed), [0, 0, 0, 1, 1, 2, 3]);
    }
}
