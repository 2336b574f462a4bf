//! `frames`: a game beside a build. At each refresh of a display the game thread updates its world, hands a part to each
//! helper, waits for all of them, and has a last thread render; meanwhile a build ([`super::build`]) keeps every CPU busy.
//!
//! A frame counts from the refresh at which it was due to the end of its rendering. One that is not done by the next
//! refresh is late, and the game goes on at the first refresh that has not passed: so a frame of three and a half periods
//! is three late frames, since three times the display had nothing new to show.

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
    /// The work between a refresh and the end of the rendering, the helpers working side by side, in units of [`work`].
    pub units: u64,
    /// What runs beside it.
    pub build: build::Settings,
}

impl Settings {
    pub fn describe(&self) -> String {
        format!(
            "a game at {} Hz with {} helpers, beside a build of {} jobs at a time",
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
    let (times, late) = played?;
    let shown = times.count() as f64;
    let mut readings =
        vec![Reading::lower("late frames", "%", 100.0 * late as f64 / (shown + late as f64))];
    readings.extend(times.readings("frame", &[50.0, 95.0, 99.0, 100.0], Unit::Milliseconds)?);
    let rate = jobs as f64 / elapsed.as_secs_f64();
    readings.push(Reading::higher("build beside it", "jobs/s", rate));
    Ok(Outcome { readings, done: None })
}

/// The game thread's side: whom it hands work to.
struct Game {
    period: Duration,
    update: u64,
    helpers: Vec<Colleague>,
    renderer: Colleague,
}

impl Game {
    /// Of the units, three eighths are the update's, three each helper's, two the renderer's.
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

    /// The times of the frames, and how many refreshes had none.
    fn play(&mut self, duration: Duration) -> Result<(Latencies, u64)> {
        let (mut times, mut late) = (Latencies::new()?, 0);
        let mut due = Instant::now() + self.period;
        let end = due + duration.max(self.period);
        while due < end {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            self.frame()?;
            let time = due.elapsed();
            times.record(time);
            let missed = missed(time, self.period);
            late += u64::from(missed);
            due += self.period * (missed + 1);
        }
        Ok((times, late))
    }

    fn frame(&mut self) -> Result<()> {
        work::run(self.update);
        self.helpers.iter().try_for_each(Colleague::begin)?;
        self.helpers.iter().try_for_each(Colleague::wait)?;
        self.renderer.begin()?;
        self.renderer.wait()
    }
}

/// How many refreshes pass while a frame that takes so long is made.
fn missed(time: Duration, period: Duration) -> u32 {
    let periods = time.as_nanos().div_ceil(period.as_nanos()).max(1) - 1;
    u32::try_from(periods).unwrap_or(u32::MAX - 1)
}

/// A thread that does the same piece of work whenever it is asked. It ends when nobody can ask any more.
struct Colleague {
    ask: Sender<()>,
    done: Receiver<()>,
}

impl Colleague {
    fn start(name: &str, units: u64) -> Result<Colleague> {
        let (ask, asked) = channel();
        let (tell, done) = channel();
        thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                while asked.recv().is_ok() {
                    work::run(units);
                    if tell.send(()).is_err() {
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
    fn a_frame_is_late_once_for_each_refresh_that_it_misses() {
        let period = Duration::from_millis(16);
        let missed = |ms| missed(Duration::from_millis(ms), period);
        assert_eq!([0, 1, 16, 17, 32, 33, 56].map(missed), [0, 0, 0, 1, 1, 2, 3]);
    }
}
