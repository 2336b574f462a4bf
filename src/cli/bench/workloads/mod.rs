//! The workloads that run under each scheduler, for a given time, and their figures.
//!
//! Each run is a process of its own (`scx_manyland workload JSON`, hidden from the help), so that
//! it inherits nothing of the run before. It has a process group of its own, so that the benchmark
//! can end all that it has started. It answers with one line of JSON, an [`Outcome`].
//!
//! Invariant: a workload checks what it counts against what it did: every message that was sent was
//! received, every job succeeded. If they differ it fails rather than give a figure.

pub mod build;
pub mod command;
pub mod frames;
mod latency;
pub mod messages;
pub mod requests;
pub mod spin;
pub mod wakeups;
pub mod work;

use super::reading::Reading;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A workload and its size.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    Messages(messages::Settings),
    Requests(requests::Settings),
    Frames(frames::Settings),
    Build(build::Settings),
    Spin(spin::Settings),
    Wakeups(wakeups::Settings),
    Command(command::Settings),
}

/// What the process of a workload has to do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Errand {
    /// Run a workload for a time.
    Run { workload: Workload, duration: Duration },
    /// Be one of the short processes of a build.
    Job(build::Job),
}

/// The outcome of a run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The figures, the most important one first.
    pub readings: Vec<Reading>,
    /// The amount of work, if the energy for one piece of it makes sense.
    pub done: Option<Done>,
}

/// An amount of work.
#[derive(Debug, Serialize, Deserialize)]
pub struct Done {
    pub count: u64,
    /// What was counted, in the singular.
    pub what: String,
}

impl Workload {
    /// Its name on the command line and in the results.
    pub fn name(&self) -> String {
        match self {
            Workload::Messages(_) => "messages".into(),
            Workload::Requests(_) => "requests".into(),
            Workload::Frames(_) => "frames".into(),
            Workload::Build(_) => "build".into(),
            Workload::Spin(_) => "spin".into(),
            Workload::Wakeups(_) => "wakeups".into(),
            Workload::Command(settings) => settings.command.clone(),
        }
    }

    /// What it does, at its size, in a few words.
    pub fn describe(&self) -> String {
        match self {
            Workload::Messages(settings) => settings.describe(),
            Workload::Requests(settings) => settings.describe(),
            Workload::Frames(settings) => settings.describe(),
            Workload::Build(settings) => settings.describe(),
            Workload::Spin(settings) => settings.describe(),
            Workload::Wakeups(settings) => settings.describe(),
            Workload::Command(_) => "timed from start to end".into(),
        }
    }

    /// The figures that a table of the most important ones shows.
    pub fn headlines(&self) -> &'static [&'static str] {
        match self {
            Workload::Messages(_) => &["processes, sockets", "threads, pipes"],
            Workload::Requests(_) => &["requests", "wake-up p99"],
            Workload::Wakeups(_) => &["wake-up mean", "wake-up p99"],
            Workload::Frames(_) => &["late frames", "frame p95", "build beside it"],
            Workload::Build(_) => &["jobs"],
            Workload::Spin(_) => &["work", "least served"],
            Workload::Command(_) => &["time"],
        }
    }

    /// How much longer than its duration a run may last before it counts as hung; `None` if it may
    /// last any time.
    pub fn grace(&self) -> Option<Duration> {
        match self {
            Workload::Command(_) => None,
            _ => Some(Duration::from_secs(60)),
        }
    }

    fn run(&self, duration: Duration) -> Result<Outcome> {
        match self {
            Workload::Messages(settings) => messages::run(settings, duration),
            Workload::Requests(settings) => requests::run(settings, duration),
            Workload::Frames(settings) => frames::run(settings, duration),
            Workload::Build(settings) => build::run(settings, duration),
            Workload::Spin(settings) => spin::run(settings, duration),
            Workload::Wakeups(settings) => wakeups::run(settings, duration),
            Workload::Command(settings) => command::run(settings),
        }
    }
}

/// Does the errand of a workload's process, and returns the text to print.
///
/// # Errors
/// If `errand` is none, or if the workload fails.
pub fn serve(errand: &str) -> Result<String> {
    match serde_json::from_str(errand).context("not an errand")? {
        Errand::Run { workload, duration } => {
            let outcome = workload.run(duration)?;
            Ok(serde_json::to_string(&outcome)? + "\n")
        }
        Errand::Job(job) => job.run().map(|()| String::new()),
    }
}

/// The command-line arguments that make this program do an errand.
pub fn arguments(errand: &Errand) -> Result<[String; 2]> {
    Ok(["workload".to_owned(), serde_json::to_string(errand)?])
}
