//! A line of statistics: all domains and the process over one interval, as text or as JSON.
//!
//! Invariant: the scheduler and the programs that ask it print the same line.

use super::cgroups::{Cgroup, Cgroups};
use crate::abi::statistics::{DomainStatistics, Percentiles, ProcessStatistics, STATISTICS};
use crate::ids::DomainId;
use crate::kernel::options::Format;
use anyhow::Result;
use serde::{Serialize, Serializer};
use std::io::Write;

/// One line: the whole program.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// In the sequence of their numbers.
    pub domains: Vec<DomainLine>,
    /// Of the process.
    #[serde(flatten)]
    pub process: ProcessStatistics,
    /// The busiest cgroups, where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroups: Option<Busy>,
}

/// The busiest cgroups of an interval.
#[derive(Clone, Debug)]
pub struct Busy {
    /// They and the length of the interval.
    pub of: Cgroups,
    /// How many CPUs the domains have together.
    pub cpus: usize,
}

impl Busy {
    /// How many CPUs the tasks of one of them are due.
    pub fn due_cpus(&self, cgroup: &Cgroup) -> f64 {
        cgroup.share * self.cpus as f64
    }

    /// How many CPUs they had in the interval.
    pub fn had_cpus(&self, cgroup: &Cgroup) -> f64 {
        cgroup.used_us as f64 / 1e6 / self.of.interval_seconds
    }
}

impl Serialize for Busy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.of.cgroups.serialize(serializer)
    }
}

/// One domain's part of a line.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct DomainLine {
    /// Its number.
    pub id: DomainId,
    /// What it did.
    #[serde(flatten)]
    pub statistics: DomainStatistics,
}

/// Room for a line in any form, in bytes.
pub fn bytes(domains: usize) -> usize {
    const BYTES_PER_DOMAIN: usize = 40 * STATISTICS.len();
    (domains + 2) * BYTES_PER_DOMAIN
}

/// Writes lines in one of the forms.
pub struct Writer {
    format: Format,
    lines: usize,
}

impl Writer {
    /// Nothing is written yet.
    pub fn new(format: Format) -> Self {
        Self { format, lines: 0 }
    }

    /// Appends a line to a text (as text: one for each domain).
    ///
    /// # Errors
    /// None is known: memory accepts what is written.
    pub fn write(&mut self, line: &Line, text: &mut Vec<u8>) -> Result<()> {
        match self.format {
            Format::Json => {
                serde_json::to_writer(&mut *text, line)?;
                text.push(b'\n');
            }
            Format::Text => self.write_text(line, text)?,
        }
        self.lines += 1;
        Ok(())
    }

    fn write_text(&self, line: &Line, text: &mut Vec<u8>) -> Result<()> {
        /// The head is repeated for readers who see only the last lines.
        const LINES_PER_HEAD: usize = 20;
        if self.lines.is_multiple_of(LINES_PER_HEAD) {
            writeln!(
                text,
                "{:>6} {:>9} {:>9} {:>9} {:>7} {:>9} {:>7} {:>13} {:>13} {:>11} {:>15} {:>15}",
                "domain",
                "queued",
                "decided",
                "standing",
                "late",
                "bypassed",
                "bounced",
                "stolen in/out",
                "waiting/ready",
                "activations",
                "decision us",
                "run delay us"
            )?;
        }
        for domain in &line.domains {
            let us = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), in_short);
            let both = |times: Percentiles| format!("{} / {}", us(times.p50), us(times.p99));
            let of = &domain.statistics;
            writeln!(
                text,
                "{:>6} {:>9} {:>9} {:>9} {:>7} {:>9} {:>7} {:>13} {:>13} {:>11} {:>15} {:>15}",
                domain.id.0,
                of.queued,
                of.decided,
                of.standing,
                of.late,
                of.bypassed,
                of.bounced,
                format!("{}/{}", of.stolen_in, of.stolen_out),
                format!("{}/{}", of.waiting, of.ready),
                of.activations,
                both(of.decision_us),
                both(of.run_delay_us),
            )?;
        }
        let ProcessStatistics { page_faults, rss_kib, patience_us, cgroups, .. } = line.process;
        writeln!(
            text,
            "{:>6} {page_faults} page faults, {rss_kib} KiB resident, patience {patience_us} us, \
             {cgroups} cgroups",
            ""
        )?;
        line.cgroups.as_ref().map_or(Ok(()), |busy| write_cgroups(busy, text))
    }
}

/// The table of the busiest cgroups. What they are due and had is in CPUs.
fn write_cgroups(busy: &Busy, text: &mut Vec<u8>) -> Result<()> {
    writeln!(
        text,
        "{:>6} {:>9} {:>9} {:>9} {:>9} {:>13} cgroup",
        "weight", "due", "had", "runnable", "throttled", "quota/period"
    )?;
    for it in &busy.of.cgroups {
        let quota = it.quota_us.zip(it.period_us);
        writeln!(
            text,
            "{:>6} {:>9.2} {:>9.2} {:>9} {:>9} {:>13} {}",
            if it.idle { "idle".to_owned() } else { it.weight.to_string() },
            busy.due_cpus(it),
            busy.had_cpus(it),
            it.runnable,
            if quota.is_some() { it.throttles.to_string() } else { "-".to_owned() },
            quota.map_or("-".to_owned(), |(quota, period)| format!("{quota}/{period}")),
            it.shown(),
        )?;
    }
    Ok(())
}

/// Microseconds without digits that say nothing: a latency is known to within a quarter.
fn in_short(us: f64) -> String {
    if us < 100.0 { us.to_string() } else { format!("{us:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_times_have_no_fractions() {
        let shown = [0.5, 12.5, 99.9, 100.4, 25_165.8].map(in_short);
        assert_eq!(shown, ["0.5", "12.5", "99.9", "100", "25166"]);
    }
}
