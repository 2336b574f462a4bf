//! `scx_manyland bench`: compares schedulers on this machine, with workloads like its user's.
//!
//! ```text
//! for each round ─► each workload ─► each contender:  attach ─► run the workload ─► detach
//!                                                                                     │
//!                                        figures ◄── results ◄── readings ◄───────────┘
//! ```
//!
//! The contenders rotate: each round begins with the next one.
//!
//! - [`args`] makes the plan.
//! - [`contender`] starts and stops schedulers; [`workloads`] run under them; each is a [`child`].
//! - [`meters`] reads the machine.
//! - [`results`] and [`statistics`] say what the readings mean; [`table`] and [`html`] show it.
//!
//! Invariant: no run begins while another scheduler is attached, and the kernel's own scheduler is
//! back at the end, also after Ctrl-C or an error.

mod args;
mod child;
mod contender;
mod html;
mod interrupt;
mod machine;
mod meters;
mod progress;
mod reading;
mod results;
mod statistics;
mod table;
pub mod workloads;

pub use args::BenchArgs;
pub use contender::Contender;
pub use workloads::Workload;

use anyhow::{Context, Result, bail, ensure};
use child::Child;
use contender::Decisions;
use interrupt::{Interrupt, Interrupted};
use machine::Head;
use meters::{Meters, POWERCAP};
use progress::Progress;
use reading::Reading;
use results::{Described, Failure, Results, Run};
use scx_manyland::kernel::probe;
use scx_manyland::options::Format;
use scx_manyland::run::privileges;
use scx_manyland::topology::{Source, Topology};
use std::env::current_exe;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use workloads::{Errand, Outcome};

/// What to compare, and how.
#[derive(Debug)]
pub struct Plan {
    /// How often every workload runs under every contender.
    pub rounds: u32,
    /// The length of a run.
    pub duration: Duration,
    /// The kernel's own scheduler first.
    pub contenders: Vec<Contender>,
    pub workloads: Vec<Workload>,
    /// How many units of work this machine does in a millisecond.
    pub units_per_ms: f64,
    pub format: Format,
    /// Whether the text is one table of the most important figures.
    pub brief: bool,
    /// The file for a page with plots.
    pub report: Option<PathBuf>,
}

/// Compares, and returns the text to print.
///
/// # Errors
/// If it cannot begin, if a workload fails under the kernel's own scheduler, or if a signal comes
/// before there is a result. A contender that fails drops out, and the results say so.
pub fn run(plan: &Plan) -> Result<Report> {
    let check = || privileges::check().and_then(|()| probe::check());
    check().context("cannot compare schedulers")?;
    let interrupt = Interrupt::catch()?;
    // Reading the machine forks, so it comes before anything else is started.
    let machine = Topology::load(&Source::Live)?;
    let mut results = Results {
        machine: Head::new(&machine, &plan.contenders)?,
        rounds: plan.rounds,
        duration: plan.duration,
        units_per_ms: plan.units_per_ms,
        contenders: plan.contenders.clone(),
        workloads: plan.workloads.iter().map(described).collect(),
        runs: Vec::new(),
        failures: Vec::new(),
        interrupted: false,
    };
    let bench = Bench { plan, interrupt, meters: Meters::new(&machine, POWERCAP.as_ref()) };
    match bench.all(&mut results) {
        Err(error) if error.is::<Interrupted>() && !results.runs.is_empty() => {
            results.interrupted = true
        }
        outcome => outcome?,
    }
    if let Some(file) = &plan.report {
        let page = html::page(&results)?;
        fs::write(file, page)
            .with_context(|| format!("cannot write the report {}", file.display()))?;
    }
    let text = match plan.format {
        Format::Text if plan.brief => table::brief(&results),
        Format::Text => table::text(&results),
        Format::Json => results.to_json()? + "\n",
    };
    Ok(Report { text, trouble: trouble(&results) })
}

/// The outcome of a benchmark.
pub struct Report {
    /// The text to print.
    pub text: String,
    /// What went wrong, although there are results.
    pub trouble: Option<String>,
}

fn trouble(results: &Results) -> Option<String> {
    if results.interrupted {
        return Some("interrupted; the kernel's own scheduler is back".to_owned());
    }
    let names =
        results.failures.iter().map(|failure| results.contenders[failure.contender].name.as_str());
    let names = names.collect::<Vec<_>>();
    (!names.is_empty()).then(|| format!("some schedulers failed: {}", names.join(", ")))
}

fn described(workload: &Workload) -> Described {
    Described {
        name: workload.name(),
        description: workload.describe(),
        headlines: workload.headlines(),
    }
}

/// A benchmark that is under way.
struct Bench<'a> {
    plan: &'a Plan,
    interrupt: Interrupt,
    meters: Meters,
}

/// The time between two checks of a run.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

impl Bench<'_> {
    fn all(&self, results: &mut Results) -> Result<()> {
        let Plan { rounds, contenders, workloads, .. } = self.plan;
        let mut progress = Progress::new(*rounds as usize * workloads.len() * contenders.len());
        let outcome = (1..=*rounds).try_for_each(|round| {
            (0..workloads.len()).try_for_each(|workload| {
                rotated(contenders.len(), round).try_for_each(|contender| {
                    self.run_one(round, workload, contender, &mut progress, results)
                })
            })
        });
        progress.end();
        outcome
    }

    /// One run, unless the contender has dropped out.
    fn run_one(
        &self,
        round: u32,
        workload: usize,
        contender: usize,
        progress: &mut Progress,
        results: &mut Results,
    ) -> Result<()> {
        let (what, under) = (&self.plan.workloads[workload], &self.plan.contenders[contender]);
        progress.begin(round, &what.name(), &under.name);
        if results.failures.iter().any(|failure| failure.contender == contender) {
            return Ok(());
        }
        match self.measure(what, under) {
            Ok((readings, decisions)) => {
                results.runs.push(Run { round, workload, contender, readings, decisions });
                Ok(())
            }
            Err(error) if error.is::<Interrupted>() => Err(error),
            Err(error) if under.is_kernel() => Err(error.context(format!(
                "cannot measure {} under the kernel's own scheduler",
                what.name()
            ))),
            Err(error) => {
                let reason = format!("{error:#}");
                results.failures.push(Failure { round, workload, contender, reason });
                Ok(())
            }
        }
    }

    fn measure(
        &self,
        workload: &Workload,
        contender: &Contender,
    ) -> Result<(Vec<Reading>, Option<Decisions>)> {
        let mut running = contender.start(&self.interrupt)?;
        let mut child = self.begin(workload)?;
        let before = self.meters.sample(running.as_ref())?;
        let limit = workload.grace().map(|grace| Instant::now() + self.plan.duration + grace);
        let status = loop {
            if let Some(status) = child.ended()? {
                break status;
            }
            if let Some(running) = &mut running {
                running.check()?;
            }
            if limit.is_some_and(|limit| Instant::now() > limit) {
                bail!("the workload hangs");
            }
            self.interrupt.pause(CHECK_INTERVAL)?;
        };
        let after = self.meters.sample(running.as_ref())?;
        ensure!(status.success(), "the workload failed ({status}): {}", child.last_words());
        let answer = child.stdout_from(0)?;
        let outcome: Outcome = serde_json::from_str(&answer).context("the workload's answer")?;
        let mut decisions = None;
        if let Some(mut running) = running {
            decisions = running.decisions(&self.interrupt)?;
            running.stop()?;
        }
        let mut readings = outcome.readings;
        readings.extend(self.meters.readings(&before, &after, outcome.done.as_ref()));
        Ok((readings, decisions))
    }

    fn begin(&self, workload: &Workload) -> Result<Child> {
        let errand = Errand::Run { workload: workload.clone(), duration: self.plan.duration };
        let program = current_exe().context("cannot find this program's own file")?;
        Child::start(Command::new(program).args(workloads::arguments(&errand)?))
    }
}

/// The contenders as a round runs them. Each round begins with the next one, so that none always
/// runs first.
fn rotated(contenders: usize, round: u32) -> impl Iterator<Item = usize> {
    (0..contenders).map(move |position| (position + round as usize - 1) % contenders)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contenders_rotate() {
        let round = |round| rotated(3, round).collect::<Vec<_>>();
        assert_eq!(round(1), [0, 1, 2]);
        assert_eq!(round(2), [1, 2, 0]);
        assert_eq!(round(4), [0, 1, 2]);
    }
}
