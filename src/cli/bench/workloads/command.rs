//! `--command`: times a line of the shell, from its start to its end.

use super::Outcome;
use crate::cli::bench::reading::Reading;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::process::{Command, Stdio};
use std::time::Instant;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// A line of the shell.
    pub command: String,
}

/// Runs the line once.
pub fn run(settings: &Settings) -> Result<Outcome> {
    let start = Instant::now();
    let status = Command::new("sh")
        .args(["-c", &settings.command])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("cannot start the shell, sh")?;
    let elapsed = start.elapsed();
    ensure!(status.success(), "it ended with {status}");
    Ok(Outcome { readings: vec![Reading::lower("time", "s", elapsed.as_secs_f64())], done: None })
}
