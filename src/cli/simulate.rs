//! `scx_manyland simulate`: a workload on a machine in virtual time.
//!
//! Invariant: standard output depends only on the command line and the files it names. The speed of
//! the simulation itself goes to standard error.

use super::usage;
use anyhow::{Context, Result, ensure};
use clap::{Arg, Args};
use nix::time::{ClockId, clock_gettime};
use scx_manyland::options::Format;
use scx_manyland::policy::kind::PolicyKind;
use scx_manyland::simulator::workload::Workload;
use scx_manyland::simulator::{Setup, costs::Costs, simulate};
use scx_manyland::topology::{Source, Topology};
use scx_manyland::{Builder, RunOptions, program};
use std::path::PathBuf;
use std::time::Duration;

/// The longest run, in seconds of virtual time.
const SECONDS_MAX: f64 = 86_400.0;

#[derive(Debug, Args)]
#[command(mut_args = hide_what_is_not_simulated)]
pub struct SimulateArgs {
    /// The machine in this XML file, as `lstopo FILE.xml` writes it [default: this machine]
    #[arg(long, value_name = "FILE.xml", conflicts_with = "synthetic")]
    topology: Option<PathBuf>,
    /// A machine by description, such as "Package:2 L3Cache:4 Core:8 PU:2" (see hwloc(7))
    #[arg(long, value_name = "DESC")]
    synthetic: Option<String>,
    /// What the tasks do: a file in rt-app's format, or one of hackbench, build, frames, mixed,
    /// services
    #[arg(long, value_name = "FILE", required_unless_present = "costs")]
    workload: Option<String>,
    /// Virtual time, at most 86400 [default: as the workload has it, or else 10]
    #[arg(long, value_name = "N")]
    seconds: Option<f64>,
    /// Begins the sequence of random numbers
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How far each run and sleep of a task may lie from its given length, in percent (0 to 100)
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0)]
    jitter: f64,
    /// Sets a cost of scheduling (may be repeated; --costs lists them)
    #[arg(long, value_name = "NAME=NS")]
    cost: Vec<String>,
    /// Let paths through the kernel overlap, as the seed says, rather than happen at one moment each
    #[arg(long)]
    interleave: bool,
    /// List the costs of scheduling and end
    #[arg(long)]
    costs: bool,
    /// Write a trace that ui.perfetto.dev opens
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// The form of the figures
    #[arg(long, value_name = "FORMAT", default_value_t, value_enum)]
    format: Format,
    /// The policy, which decides the task to run next
    #[arg(long, value_name = "POLICY", default_value_t, value_enum)]
    policy: PolicyKind,
    #[command(flatten)]
    run: RunOptions,
}

fn hide_what_is_not_simulated(arg: Arg) -> Arg {
    match arg.get_id().as_str() {
        "partial" | "prefer" | "stats_secs" | "stats_format" | "log_level" | "verbose" => {
            arg.hide(true)
        }
        _ => arg,
    }
}

/// A simulation whose options are checked; the files it names are not read yet.
pub struct Simulation {
    source: Source,
    workload: Option<String>,
    setup: Setup,
    trace: Option<PathBuf>,
    format: Format,
}

impl SimulateArgs {
    /// Checks the values.
    ///
    /// # Errors
    /// As an error of the command line.
    pub fn simulation(self) -> Result<Simulation> {
        Ok(self.checked().map_err(usage)?)
    }

    fn checked(self) -> Result<Simulation> {
        let options = self.run;
        options.check()?;
        for (given, name) in [
            (options.partial, "--partial"),
            (options.prefer.is_some(), "--prefer"),
            (options.stats_secs.is_some(), "--stats"),
        ] {
            ensure!(!given, "{name} is not simulated");
        }
        let mut costs = Costs::default();
        for cost in &self.cost {
            costs.set(cost)?;
        }
        if let Some(seconds) = self.seconds {
            ensure!(
                seconds > 0.0 && seconds <= SECONDS_MAX,
                "--seconds is {seconds} and must be above 0 and at most {SECONDS_MAX}"
            );
        }
        ensure!(
            (0.0..=100.0).contains(&self.jitter),
            "--jitter is {} and must be from 0 to 100",
            self.jitter
        );
        Ok(Simulation {
            source: match (self.topology, self.synthetic) {
                (Some(path), _) => Source::XmlFile(path),
                (None, Some(description)) => Source::Synthetic(description),
                (None, None) => Source::Live,
            },
            workload: self.workload.filter(|_| !self.costs),
            setup: Setup {
                scheduler: Builder::from(self.policy).options(options),
                costs,
                length: self.seconds.map(Duration::from_secs_f64),
                seed: self.seed,
                jitter: self.jitter / 100.0,
                interleave: self.interleave,
                inspect: None,
                unstable_clocks: false,
                kernel_threads: Vec::new(),
            },
            trace: self.trace,
            format: self.format,
        })
    }
}

impl Simulation {
    /// Simulates and prints the figures.
    pub fn run(self) -> Result<()> {
        let Some(workload) = self.workload else {
            return program::print(&self.setup.costs.describe());
        };
        let workload = Workload::load(&workload)?;
        let topology = Topology::load(&self.source)?;
        let begun = cpu_time()?;
        let report = simulate(&topology, &workload, &self.setup, self.trace.as_deref())?;
        let used = (cpu_time()? - begun).as_secs_f64();
        log::info!(
            "simulated in {used:.2} s of CPU time: {:.2} million scheduling events a second",
            report.scheduling_events as f64 / used / 1e6
        );
        match self.format {
            Format::Text => program::print(&report.to_text()),
            Format::Json => program::print(&report.to_json()),
        }
    }
}

/// The CPU time of this process, which does not depend on what else the machine does.
fn cpu_time() -> Result<Duration> {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID);
    Ok(time.context("cannot read the CPU time of this process")?.into())
}
