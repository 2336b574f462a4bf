//! A trace that ui.perfetto.dev opens, in the Trace Event Format (JSON, as Chrome writes it).
//!
//! It has a track for each CPU and each domain thread. A flow for each wait of a task leads from
//! its notice over its decision to its run.
//!
//! Invariant: slices of one track nest; a flow's events lie in slices, and follow each other in
//! time.

use super::machine::START_NS;
use crate::ids::CpuId;
use crate::topology::{Domains, Topology};
use anyhow::{Context, Result};
use serde::Serialize;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// The "processes" that the tracks belong to.
const CPUS: u32 = 1;
const THREADS: u32 = 2;
/// The number of the first thread's track, above those of the CPUs.
const FIRST_THREAD: u32 = 100_000;
/// The number of the first CPU's track. A viewer would show track 0 as the kernel's idle task.
const FIRST_CPU: u32 = 10;

#[derive(Serialize)]
struct Entry<'a> {
    ph: char,
    pid: u32,
    tid: u32,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cat: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    /// A flow's event belongs to the slice around it.
    #[serde(skip_serializing_if = "Option::is_none")]
    bp: Option<char>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<Args<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Args<'a> {
    Name(&'a str),
    SortIndex(u32),
}

/// A track: its process and its number.
pub type Track = (u32, u32);

/// The track of a CPU.
pub fn cpu_track(cpu: CpuId) -> Track {
    (CPUS, FIRST_CPU + cpu.0)
}

/// The track of a domain's thread.
pub fn thread_track(domain: usize) -> Track {
    (THREADS, FIRST_THREAD + domain as u32)
}

/// The format's microseconds.
fn us(ns: u64) -> f64 {
    (ns - START_NS) as f64 / 1000.0
}

/// A trace while it is written.
pub struct Trace {
    path: PathBuf,
    out: BufWriter<File>,
    /// The error of the first write that failed; later writes are dropped.
    failed: Option<std::io::Error>,
    any: bool,
}

impl Trace {
    /// Begins a trace of a machine.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn create(path: &Path, topology: &Topology, domains: &Domains) -> Result<Trace> {
        let file = File::create(path)
            .with_context(|| format!("cannot write the trace {}", path.display()))?;
        let mut trace =
            Trace { path: path.to_owned(), out: BufWriter::new(file), failed: None, any: false };
        trace.text("{\"displayTimeUnit\":\"ns\",\"traceEvents\":[");
        trace.title((CPUS, 0), "process_name", Args::Name("CPUs"));
        trace.title((THREADS, 0), "process_name", Args::Name("domain threads"));
        for cpu in topology.cpus().iter() {
            trace.title(cpu_track(cpu), "thread_name", Args::Name(&format!("CPU {cpu}")));
            trace.title(cpu_track(cpu), "thread_sort_index", Args::SortIndex(cpu.0));
        }
        for domain in domains {
            let track = thread_track(domain.id.index());
            let name = format!("manyland/{} (CPUs {})", domain.id, domain.cpus);
            trace.title(track, "thread_name", Args::Name(&name));
            trace.title(track, "thread_sort_index", Args::SortIndex(domain.id.0));
        }
        Ok(trace)
    }

    /// Ends the trace.
    ///
    /// # Errors
    /// If a part of it could not be written.
    pub fn finish(&mut self) -> Result<()> {
        self.text("\n]}\n");
        let result = match self.failed.take() {
            Some(error) => Err(error),
            None => self.out.flush(),
        };
        result.with_context(|| format!("cannot write the trace {}", self.path.display()))
    }

    fn text(&mut self, text: &str) {
        if self.failed.is_none() {
            self.failed = self.out.write_all(text.as_bytes()).err();
        }
    }

    fn entry(&mut self, entry: &Entry<'_>) {
        self.text(if self.any { ",\n" } else { "\n" });
        self.any = true;
        if self.failed.is_none() {
            self.failed = serde_json::to_writer(&mut self.out, entry).err().map(Into::into);
        }
    }

    fn title(&mut self, (pid, tid): Track, what: &str, args: Args<'_>) {
        self.entry(&Entry {
            ph: 'M',
            pid,
            tid,
            name: what,
            ts: None,
            dur: None,
            cat: None,
            id: None,
            bp: None,
            args: Some(args),
        });
    }

    /// A slice of a track, from one moment to another.
    pub fn slice(&mut self, (pid, tid): Track, name: &str, from_ns: u64, to_ns: u64) {
        let from_ns = from_ns.min(to_ns);
        self.entry(&Entry {
            ph: 'X',
            pid,
            tid,
            name,
            ts: Some(us(from_ns)),
            dur: Some((to_ns - from_ns) as f64 / 1000.0),
            cat: Some("sched"),
            id: None,
            bp: None,
            args: None,
        });
    }

    /// The flow `id` begins (`s`), goes on (`t`) or ends (`f`) in the slice of this moment.
    pub fn flow(&mut self, (pid, tid): Track, phase: char, at_ns: u64, id: u64) {
        self.entry(&Entry {
            ph: phase,
            pid,
            tid,
            name: "wait",
            ts: Some(us(at_ns)),
            dur: None,
            cat: Some("sched"),
            id: Some(id),
            bp: (phase == 'f').then_some('e'),
            args: None,
        });
    }
}
