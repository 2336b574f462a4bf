//! `--monitor`: prints the statistics of a scheduler that another process runs.

use super::cgroups::{self, Names};
use super::client::{Client, PATH};
use super::line::{Busy, Line, Writer};
use crate::cpuset::CpuSet;
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
    let mut cgroups = cgroups.map(|most| (most, Names::new(Path::new(cgroups::ROOT))));
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
        if !follow(client, every.duration(), &mut writer, cgroups.as_mut())? {
            return Ok(());
        }
        sleep(AGAIN.min(every.duration()));
    }
}

/// Prints what one scheduler says until it has ended. Whether the lines are still read.
fn follow(
    mut client: Client,
    every: Duration,
    writer: &mut Writer,
    mut cgroups: Option<&mut (usize, Names)>,
) -> Result<bool> {
    let mut text = Vec::new();
    loop {
        sleep(every);
        let line = match read(&mut client, cgroups.as_deref_mut()) {
            Ok(line) => line,
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

/// What came since the last line.
fn read(client: &mut Client, cgroups: Option<&mut (usize, Names)>) -> Result<Line> {
    let received = client.top()?;
    let mut line = received.line;
    if let Some((most, names)) = cgroups {
        let mut of = client.cgroups()?;
        of.cgroups.truncate(*most);
        names.name(&mut of.cgroups);
        let count = |list: &String| CpuSet::from_list(list).map_or(0, |cpus| cpus.len());
        line.cgroups = Some(Busy { of, cpus: received.about.cpus.iter().map(count).sum() });
    }
    Ok(line)
}
