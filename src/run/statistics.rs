//! The statistics: what each domain did since the last line, as text or as one JSON object.
//!
//! Invariant: everything a line needs is there before the scheduler attaches, so that printing has
//! no page fault; counts are since the last line, gauges are of this moment.

use crate::abi::domain_counts;
use crate::abi::statistics::{DomainStatistics, Percentiles, ProcessStatistics, STATISTICS};
use crate::alloc::{FaultCounter, ResidentMemory};
use crate::domains::latency::Snapshot;
use crate::ids::DomainId;
use crate::kernel::load::Attached;
use crate::kernel::options::Format;
use crate::kernel::shared::SharedDomain;
use anyhow::{Context, Result};
use serde::Serialize;
use std::io::Write;

/// One line: the whole program.
#[derive(Serialize)]
struct Line {
    domains: Vec<DomainLine>,
    #[serde(flatten)]
    process: ProcessStatistics,
}

/// One domain's part of a line.
#[derive(Serialize)]
struct DomainLine {
    id: DomainId,
    #[serde(flatten)]
    statistics: DomainStatistics,
}

/// What is kept of a domain from one line to the next.
struct Earlier {
    shared: SharedDomain,
    counts: domain_counts,
    latency: Snapshot,
    now: Snapshot,
}

/// Prints the statistics of an attached scheduler.
pub struct Statistics {
    format: Format,
    domains: Vec<Earlier>,
    line: Line,
    text: Vec<u8>,
    faults: FaultCounter,
    faults_then: u64,
    resident: ResidentMemory,
    lines: usize,
}

/// Room for the text of one domain in either form.
const BYTES_PER_DOMAIN: usize = 40 * STATISTICS.len();

impl Statistics {
    /// Counts from now on.
    ///
    /// # Errors
    /// If the kernel does not tell how much memory is resident.
    pub fn new(attached: &Attached<'_>, domains: usize, format: Format) -> Result<Self> {
        let earlier = (0..domains).map(|id| {
            let shared = attached.shared().domain(DomainId(id as u32));
            let counts = shared.counts();
            Earlier { shared, counts, latency: Snapshot::empty(), now: Snapshot::empty() }
        });
        Ok(Self {
            format,
            domains: earlier.collect(),
            line: Line {
                domains: Vec::with_capacity(domains),
                process: ProcessStatistics { page_faults: 0, rss_kib: 0, patience_us: 0 },
            },
            text: Vec::with_capacity((domains + 2) * BYTES_PER_DOMAIN),
            resident: ResidentMemory::open()?,
            lines: 0,
            faults_then: 0,
            faults: FaultCounter::baseline(),
        })
    }

    /// Prints one line (as text: one for each domain) to standard output.
    ///
    /// # Errors
    /// If it cannot be written, or the kernel does not answer.
    pub fn print(&mut self, attached: &Attached<'_>) -> Result<()> {
        attached.refresh_gauges()?;
        self.collect()?;
        self.text.clear();
        match self.format {
            Format::Json => {
                serde_json::to_writer(&mut self.text, &self.line)?;
                self.text.push(b'\n');
            }
            Format::Text => self.write_text()?,
        }
        let mut out = std::io::stdout().lock();
        out.write_all(&self.text)
            .and_then(|()| out.flush())
            .context("cannot write the statistics to standard output")
    }

    /// How many page faults the program has had since attach.
    pub fn page_faults(&self) -> u64 {
        self.faults.since().total()
    }

    fn collect(&mut self) -> Result<()> {
        self.line.domains.clear();
        for (id, earlier) in self.domains.iter_mut().enumerate() {
            let id = DomainId(id as u32);
            let now = earlier.shared.counts();
            let then = std::mem::replace(&mut earlier.counts, now);
            earlier.shared.read_latency(&mut earlier.now);
            let us = |percentile| {
                let ns = earlier.now.percentile_since(&earlier.latency, percentile)?;
                Some((ns as f64 / 100.0).round() / 10.0)
            };
            let latency = Percentiles { p50: us(50), p99: us(99) };
            std::mem::swap(&mut earlier.now, &mut earlier.latency);
            let statistics = earlier.shared.statistics(&then, &now, latency);
            self.line.domains.push(DomainLine { id, statistics });
        }
        let faults = self.page_faults();
        self.line.process = ProcessStatistics {
            page_faults: faults - std::mem::replace(&mut self.faults_then, faults),
            rss_kib: self.resident.kib()?,
            // That of each domain is the same.
            patience_us: self.domains.first().map_or(0, |it| it.shared.patience_ns() / 1000),
        };
        Ok(())
    }

    fn write_text(&mut self) -> Result<()> {
        /// The head is repeated for readers who see only the last lines.
        const LINES_PER_HEAD: usize = 20;
        let text = &mut self.text;
        if self.lines.is_multiple_of(LINES_PER_HEAD) {
            writeln!(
                text,
                "{:>6} {:>9} {:>9} {:>9} {:>7} {:>9} {:>7} {:>13} {:>13} {:>11} {:>15}",
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
                "decision us"
            )?;
        }
        self.lines += 1;
        for domain in &self.line.domains {
            let us = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| v.to_string());
            let of = &domain.statistics;
            writeln!(
                text,
                "{:>6} {:>9} {:>9} {:>9} {:>7} {:>9} {:>7} {:>13} {:>13} {:>11} {:>15}",
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
                format!("{} / {}", us(of.decision_us.p50), us(of.decision_us.p99)),
            )?;
        }
        let ProcessStatistics { page_faults, rss_kib, patience_us } = self.line.process;
        writeln!(
            text,
            "{:>6} {page_faults} page faults, {rss_kib} KiB resident, patience {patience_us} us",
            ""
        )?;
        Ok(())
    }
}
