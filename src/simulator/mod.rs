//! A machine in virtual time, on the other side of the seam.
//!
//! It runs the very code of domain threads, policies, stealing and placement ([`crate::domains`]),
//! on any topology, without root and without a kernel.
//!
//! - [`workload`] says what the tasks do, in rt-app's format.
//! - `machine` is the kernel and the BPF side in virtual time; [`costs`] are the times that
//!   scheduling itself needs.
//! - [`measure`] and [`report`] are the figures, `trace` is the picture.
//!
//! `docs/simulator.md` says what is modelled and what is not.
//!
//! Invariant: a run depends on its inputs and its seed only; the same ones give the same bytes.

pub mod costs;
mod events;
pub mod fuzz;
#[allow(missing_docs, reason = "fields mirror those of the kernel, which explains them")]
mod kernel;
#[allow(missing_docs, reason = "fields mirror those of the BPF side, which explains them")]
mod machine;
#[allow(missing_docs, reason = "fields are what they are called")]
pub mod measure;
pub mod report;
mod task;
mod trace;
pub mod workload;

use crate::policy::kind::PolicyKind;
use crate::run::builder::Builder;
use crate::topology::Topology;
use anyhow::Result;
use costs::Costs;
use machine::Machine;
use report::Report;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;
use trace::Trace;
use workload::Workload;

/// The virtual time of a run if neither its workload nor the user gives one.
pub const DEFAULT_LENGTH: Duration = Duration::from_secs(10);

/// How to run a workload.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The policy and the options of the scheduler. Kinds of core, partial scheduling and
    /// statistics are not simulated.
    pub scheduler: Builder,
    /// What scheduling costs.
    pub costs: Costs,
    /// The virtual time of the run; `None`: that of the workload, or else [`DEFAULT_LENGTH`].
    pub length: Option<Duration>,
    /// Begins the sequence of random numbers.
    pub seed: u64,
    /// How far each run and sleep may lie from its given length, as a share of it: 0 to 1.
    pub jitter: f64,
    /// Whether paths through the kernel overlap, as the seed says, or happen at one moment each.
    pub interleave: bool,
    /// The time between two checks for CPUs that are idle while a task waits; `None`: no checks.
    pub inspect: Option<Duration>,
    /// Whether the clocks by which the kernel accounts for CPU time stand still while a CPU is idle,
    /// and jump afterwards, as with an unstable TSC.
    pub unstable_clocks: bool,
    /// The names of the groups whose tasks are threads of the kernel.
    pub kernel_threads: Vec<String>,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            scheduler: Builder::from(PolicyKind::default()),
            costs: Costs::default(),
            length: None,
            seed: 1,
            jitter: 0.05,
            interleave: false,
            inspect: None,
            unstable_clocks: false,
            kernel_threads: Vec::new(),
        }
    }
}

/// Runs a workload on a machine, and writes a trace of it to the file `trace`, if one is given.
///
/// ```
/// use scx_manyland::simulator::{Setup, simulate, workload::Workload};
/// use scx_manyland::topology::{Source, Topology};
/// let machine = Topology::load(&Source::Synthetic("L3Cache:2 Core:2 PU:1".into()))?;
/// let workload = Workload::parse(r#"{"tasks": {"hog": {"instance": 8, "run": 1000}}}"#)?;
/// let setup = Setup { length: Some(std::time::Duration::from_millis(100)), ..Setup::default() };
/// let report = simulate(&machine, &workload, &setup, None)?;
/// assert!(report.groups[0].cpu_s > 0.35);
/// # Ok::<(), anyhow::Error>(())
/// ```
///
/// # Errors
/// - An option is out of its range, or the machine cannot be cut into such domains.
/// - The workload names CPUs that the machine does not have.
/// - The trace cannot be written.
pub fn simulate(
    topology: &Topology,
    workload: &Workload,
    setup: &Setup,
    trace: Option<&Path>,
) -> Result<Report> {
    setup.scheduler.options.check()?;
    let domains = topology.partition(setup.scheduler.options.domain)?;
    let trace = trace.map(|path| Trace::create(path, topology, &domains)).transpose()?;
    let mut machine = Machine::new(topology, &domains, workload, setup, trace)?;
    machine.run(setup.length.or(workload.duration).unwrap_or(DEFAULT_LENGTH))?;
    Ok(Report::of(&machine, &domains, workload, setup))
}

/// Runs a workload to the end of a part of it, and returns what the kernel side has counted in that
/// part, in all domains. The counters are those of the statistics that were not 0.
///
/// All that happens in the part happens in the function `go_on_counted`, so a profiler can leave out
/// all else (`tools/count_wakeups/main.rs`).
///
/// # Errors
/// As [`simulate`].
pub fn simulate_part(
    topology: &Topology,
    workload: &Workload,
    setup: &Setup,
    part: Range<Duration>,
) -> Result<BTreeMap<&'static str, u64>> {
    setup.scheduler.options.check()?;
    let domains = topology.partition(setup.scheduler.options.domain)?;
    let mut machine = Machine::new(topology, &domains, workload, setup, None)?;
    let counts = |machine: &Machine<'_>| {
        let mut counts = BTreeMap::new();
        for domain in &domains {
            let of_domain = machine.domain(domain.id.index()).counts;
            of_domain.for_each(|name, count| *counts.entry(name).or_insert(0) += count);
        }
        counts
    };
    machine.start();
    machine.advance(part.start)?;
    let before = counts(&machine);
    go_on_counted(&mut machine, part.end)?;
    let mut counts = counts(&machine);
    for (name, count) in &mut counts {
        *count -= before[name];
    }
    counts.retain(|_, count| *count > 0);
    Ok(counts)
}

/// The part of a run that is counted.
#[inline(never)]
fn go_on_counted(machine: &mut Machine<'_>, to: Duration) -> Result<()> {
    machine.advance(to)
}

/// The number of a task in a run: those of the domain threads come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct TaskId(u32);

impl TaskId {
    fn index(self) -> usize {
        self.0 as usize
    }

    /// Pids begin at 1.
    fn pid(self) -> u32 {
        self.0 + 1
    }

    fn of_pid(pid: u32) -> TaskId {
        TaskId(pid - 1)
    }
}
