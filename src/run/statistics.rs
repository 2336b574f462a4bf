//! The statistics: what each domain did since a reader read last.
//!
//! Invariant: everything a line needs is there before the scheduler attaches, so that reading has
//! no page fault; counts are of the reader's own interval, gauges are of this moment.

use super::cgroups::{Busiest, Cgroups};
use super::line::{self, DomainLine, Line, Writer};
use crate::abi::domain_counts;
use crate::abi::statistics::{Latencies, ProcessStatistics};
use crate::alloc::{FaultCounter, ResidentMemory};
use crate::cpuset::CpuSet;
use crate::domains::latency::Snapshot;
use crate::ids::{DomainId, Pid};
use crate::kernel::groups::Usage;
use crate::kernel::load::{Attached, GroupCounts};
use crate::kernel::options::Format;
use crate::kernel::shared::SharedDomain;
use crate::printer::Printer;
use crate::topology::Domains;
use anyhow::{Context, Result};
use nix::time::ClockId;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How far a reader has read, so that its next line says what came since.
#[derive(Clone)]
pub struct Mark {
    at: Instant,
    counts: Vec<domain_counts>,
    latencies: Vec<Latencies<Snapshot>>,
    thread_us: Vec<u64>,
    page_faults: u64,
    throttles: u64,
    throttled_ms: u64,
}

impl Mark {
    /// Nothing, since the scheduler has attached.
    pub fn nothing(domains: usize) -> Self {
        Self {
            at: Instant::now(),
            counts: vec![domain_counts::ZERO; domains],
            latencies: vec![Latencies::default(); domains],
            thread_us: vec![0; domains],
            page_faults: 0,
            throttles: 0,
            throttled_ms: 0,
        }
    }

    /// The latencies that were read, of each domain.
    pub fn latencies(&self) -> &[Latencies<Snapshot>] {
        &self.latencies
    }
}

/// The statistics of an attached scheduler.
pub struct Statistics<'a> {
    attached: &'a Attached<'a>,
    domains: Vec<SharedDomain>,
    /// The CPUs of each.
    cpus: Vec<CpuSet>,
    threads: Vec<Pid>,
    line: Line,
    /// How long each domain thread ran, in microseconds.
    thread_us: Vec<u64>,
    /// What there is to read at this moment.
    now: Mark,
    faults: FaultCounter,
    resident: ResidentMemory,
}

impl<'a> Statistics<'a> {
    /// Counts from now on, for the domains `of` that these threads serve.
    ///
    /// # Errors
    /// If the kernel does not tell how much memory is resident.
    pub fn new(attached: &'a Attached<'a>, of: &Domains, threads: Vec<Pid>) -> Result<Self> {
        let domains = threads.len();
        let shared = |id| attached.shared().domain(DomainId(id as u32));
        Ok(Self {
            attached,
            domains: (0..domains).map(shared).collect(),
            cpus: of.iter().map(|domain| domain.cpus).collect(),
            threads,
            thread_us: vec![0; domains],
            line: Line {
                domains: Vec::with_capacity(domains),
                process: ProcessStatistics::default(),
                cgroups: None,
            },
            now: Mark::nothing(domains),
            resident: ResidentMemory::open()?,
            faults: FaultCounter::baseline(),
        })
    }

    /// How many page faults the program has had since attach.
    pub fn page_faults(&self) -> u64 {
        self.faults.since().total()
    }

    /// Reads the counts of a domain, and how long its thread ran.
    fn read_domain(&mut self, id: usize) -> Result<()> {
        let shared = &self.domains[id];
        self.now.counts[id] = shared.counts();
        let latencies = &mut self.now.latencies[id];
        shared.read_decision_latency(&mut latencies.decision_us);
        self.attached.run_delays().read(&self.cpus[id], &mut latencies.run_delay_us);
        self.now.thread_us[id] = run_time_us(self.threads[id])?;
        Ok(())
    }

    fn count_groups(&mut self) -> GroupCounts {
        let groups = self.attached.group_counts();
        self.now.throttles = groups.throttles;
        self.now.throttled_ms = groups.throttled_ns / 1_000_000;
        groups
    }

    /// What came since `then`, and over how many seconds.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn since(&mut self, then: &Mark) -> Result<(&Line, f64)> {
        self.attached.refresh_gauges()?;
        self.line.domains.clear();
        for id in 0..self.domains.len() {
            self.read_domain(id)?;
            let latencies = self.now.latencies[id].zip(&then.latencies[id]);
            let latencies = latencies.map(|(now, then)| now.percentiles_since(then));
            let (then_counts, now_counts) = (&then.counts[id], &self.now.counts[id]);
            let statistics = self.domains[id].statistics(then_counts, now_counts, &latencies);
            self.line.domains.push(DomainLine { id: DomainId(id as u32), statistics });
            self.thread_us[id] = self.now.thread_us[id] - then.thread_us[id];
        }
        self.now.page_faults = self.page_faults();
        self.now.at = Instant::now();
        let groups = self.count_groups();
        self.line.process = ProcessStatistics {
            page_faults: self.now.page_faults - then.page_faults,
            rss_kib: self.resident.kib()?,
            // That of each domain is the same.
            patience_us: self.domains.first().map_or(0, |it| it.patience_ns() / 1000),
            cgroups: groups.all.into(),
            cgroups_folded: groups.folded.into(),
            cgroups_runnable: groups.runnable.into(),
            cgroups_limited: groups.limited.into(),
            cgroups_throttled: groups.throttled.into(),
            throttles: self.now.throttles - then.throttles,
            throttled_ms: self.now.throttled_ms - then.throttled_ms,
            cgroups_outlived: groups.outliving.into(),
        };
        Ok((&self.line, (self.now.at - then.at).as_secs_f64()))
    }

    /// A reader has read what [`Statistics::since`] answered last. Its own `read` is what that is
    /// counted from the next time.
    pub fn mark(&self, read: &mut Mark) {
        read.at = self.now.at;
        read.counts.copy_from_slice(&self.now.counts);
        for (read, now) in read.latencies.iter_mut().zip(&self.now.latencies) {
            read.decision_us.clone_from(&now.decision_us);
            read.run_delay_us.clone_from(&now.run_delay_us);
        }
        read.thread_us.copy_from_slice(&self.now.thread_us);
        read.page_faults = self.now.page_faults;
        read.throttles = self.now.throttles;
        read.throttled_ms = self.now.throttled_ms;
    }

    /// A reader begins now.
    ///
    /// # Errors
    /// If the kernel does not answer, or does not tell how long a thread ran.
    pub fn begin(&mut self, read: &mut Mark, busiest: &mut Busiest) -> Result<()> {
        for id in 0..self.domains.len() {
            self.read_domain(id)?;
        }
        self.count_groups();
        self.now.page_faults = self.page_faults();
        self.now.at = Instant::now();
        self.mark(read);
        self.attached.refresh_gauges()?;
        busiest.begin(self.groups());
        Ok(())
    }

    /// How long each domain thread ran, in microseconds, by [`Statistics::since`].
    pub fn thread_us(&self) -> &[u64] {
        &self.thread_us
    }

    /// The busiest cgroups since a reader asked last.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn busiest(&self, then: &mut Busiest) -> Result<Cgroups> {
        self.attached.refresh_gauges()?;
        Ok(then.since(self.groups()))
    }

    fn groups(&self) -> impl Iterator<Item = (u32, Usage)> {
        let groups = self.attached.groups();
        let slots = 0..=self.attached.group_counts().used_slots;
        slots.filter_map(|slot| Some((slot, groups.usage(slot)?)))
    }

    /// What [`Statistics::since`] answered last.
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// What there was to read when [`Statistics::since`] was called last.
    pub fn now(&self) -> &Mark {
        &self.now
    }
}

/// How long a thread of this process has run, in microseconds.
fn run_time_us(thread: Pid) -> Result<u64> {
    // The number of a thread's clock is made from the thread's number (clock_getcpuclockid(3)).
    const OF_THREAD: i32 = 4 | 2;
    let time = ClockId::from_raw((!thread.0 << 3) | OF_THREAD).now();
    let time = time.with_context(|| format!("cannot tell how long the thread {thread} ran"))?;
    Ok(Duration::from(time).as_micros() as u64)
}

/// Prints lines of statistics to standard output.
pub struct Lines {
    printer: Printer,
    writer: Writer,
    text: Vec<u8>,
    read: Mark,
    /// How many were left out, because the reader had not read the last one.
    left_out: u64,
}

impl Lines {
    /// None is printed yet.
    ///
    /// # Errors
    /// If there is no standard output.
    pub fn new(domains: usize, format: Format) -> Result<Self> {
        let bytes = line::bytes(domains);
        let stdout = io::stdout();
        let printer = Printer::new(stdout.as_fd(), bytes).context("cannot use standard output")?;
        let text = Vec::with_capacity(bytes);
        let read = Mark::nothing(domains);
        Ok(Self { printer, writer: Writer::new(format), text, read, left_out: 0 })
    }

    /// Prints what came since the last line (as text: a line for each domain). While the reader has
    /// not read that one nothing is printed, and the next line is of a longer interval.
    ///
    /// # Errors
    /// If it cannot be written, or the kernel does not answer.
    pub fn print(&mut self, statistics: &mut Statistics<'_>) -> Result<()> {
        const WRITING: &str = "cannot write the statistics to standard output";
        if !self.printer.is_free().context(WRITING)? {
            self.left_out += 1;
            return Ok(());
        }
        if self.left_out > 0 {
            log::warn!(
                "{} lines of statistics were left out, because the last one was not read; the next \
                 has their counts",
                self.left_out
            );
            self.left_out = 0;
        }
        let (line, _) = statistics.since(&self.read)?;
        self.text.clear();
        self.writer.write(line, &mut self.text)?;
        statistics.mark(&mut self.read);
        self.printer.print(&self.text).context(WRITING)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threads_run_time_is_its_own() {
        let of_this = || run_time_us(Pid(nix::unistd::gettid().as_raw())).unwrap();
        let start = of_this();
        let mut sum = 0u64;
        while of_this() < start + 20_000 {
            sum = std::hint::black_box(sum + 1);
        }
        let other = std::thread::spawn(move || of_this() < 20_000);
        assert!(other.join().unwrap(), "a new thread has run for as long");
        // The kernel numbers threads up to 2^22.
        assert!(run_time_us(Pid((1 << 22) + 1)).is_err());
    }
}
