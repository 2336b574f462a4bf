//! `--monitor`: prints the statistics of a scheduler that another process runs.

use super::client::{Client, PATH};
use super::line::Writer;
use crate::kernel::options::{Format, Seconds};
use anyhow::{Context, Result};
use std::io::{self, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// How long to wait for a scheduler before checking again.
const AGAIN: Duration = Duration::from_secs(1);

/// Prints a line each time, until the reader has closed its end, with that many of the busiest
/// cgroups. Waits while no scheduler runs.
pub fn run(every: Seconds, format: Format, cgroups: Option<usize>) -> Result<()> {
    let mut writer = Writer::new(format);
    let mut is_said = false;
    loop {
        let Some(client) = Client::connect(Path::new(PATH))? else {
            if !is_said {
                log::info!("no scheduler runs; waiting for one");
                is_said = true;
            }
            sleep(AGAIN.min(every.duration()));
            continue;
        };
        is_said = false;
        if !follow(client.with_cgroups(cgroups), every.duration(), &mut writer)? {
            return Ok(());
        }
        sleep(AGAIN.min(every.duration()));
    }
}

/// Prints what one scheduler says until it has ended. Whether the lines are still read.
fn follow(mut client: Client, every: Duration, writer: &mut Writer) -> Result<bool> {
    let mut text = Vec::new();
    loop {
        sleep(every);
        let line = match client.top() {
            Ok(received) => received.line,
            Err(error) => {
                log::warn!("{error:#}");
                return Ok(true);
            }
        };
        text.clear();
        writer.write(&line, &mut text)?;
        let mut stdout = io::stdout().lock();
        match stdout.write_all(&text).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
            result => result.context("cannot write to standard output")?,
        }
    }
}
