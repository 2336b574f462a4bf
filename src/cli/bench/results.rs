//! What was measured, and what it says.
//!
//! Invariant: a contender is better or worse only where its rounds and the kernel's differ by more
//! than chance. A scheduler of ours is better only if its tasks ran by its decisions: a figure that
//! the safety net has won says nothing for decisions in user space.

use super::contender::{Contender, Decisions};
use super::machine::Head;
use super::reading::{Better, Reading};
use super::statistics::{Summary, chance_of_difference};
use serde::Serialize;
use std::time::Duration;

/// The largest chance of a difference that counts as one.
const LEVEL: f64 = 0.03;
/// The smallest difference of medians that counts as one, as a part of the kernel's median.
const LEAST_DIFFERENCE: f64 = 0.01;
/// The promised share of decisions under load, in percent.
const PROMISED: f64 = 95.0;

/// All of a benchmark.
#[derive(Debug, Serialize)]
pub struct Results {
    pub machine: Head,
    pub rounds: u32,
    pub duration: Duration,
    /// How many units of work this machine does in a millisecond.
    pub units_per_ms: f64,
    pub contenders: Vec<Contender>,
    pub workloads: Vec<Described>,
    pub runs: Vec<Run>,
    pub failures: Vec<Failure>,
    /// Whether a signal ended it early.
    pub interrupted: bool,
}

/// A workload in the results.
#[derive(Debug, Serialize)]
pub struct Described {
    pub name: String,
    pub description: String,
    /// The names of its most important figures.
    #[serde(skip)]
    pub headlines: &'static [&'static str],
}

/// One run of a workload under a contender, both as indices into the lists.
#[derive(Debug, Serialize)]
pub struct Run {
    pub round: u32,
    pub workload: usize,
    pub contender: usize,
    pub readings: Vec<Reading>,
    /// Of our schedulers only.
    pub decisions: Option<Decisions>,
}

/// Why a contender dropped out.
#[derive(Debug, Serialize)]
pub struct Failure {
    pub round: u32,
    pub workload: usize,
    pub contender: usize,
    pub reason: String,
}

/// A figure of a workload, for every contender that has it.
#[derive(Debug, Serialize)]
pub struct Figure {
    pub workload: usize,
    pub name: String,
    pub unit: String,
    pub better: Better,
    pub entries: Vec<Entry>,
}

/// A contender's part of a figure.
#[derive(Debug, Serialize)]
pub struct Entry {
    pub contender: usize,
    pub values: Vec<f64>,
    pub summary: Summary,
    /// The median divided by that of the kernel's own scheduler.
    pub ratio: Option<f64>,
    pub verdict: Option<Verdict>,
    /// Of our schedulers: the percentage of tasks without an idle CPU that ran by a decision.
    pub decided_percent: Option<f64>,
    /// Of our schedulers: the percentage that ran by a standing decision.
    pub stood_percent: Option<f64>,
}

/// How a contender compares with the kernel's own scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Better,
    Worse,
    /// Better, but too many tasks ran undecided for it to count.
    ByTheSafetyNet,
    /// The rounds differ no more than by chance.
    Unclear,
}

impl Verdict {
    pub fn words(self) -> &'static str {
        match self {
            Verdict::Better => "better",
            Verdict::Worse => "worse",
            Verdict::ByTheSafetyNet => "by the safety net",
            Verdict::Unclear => "-",
        }
    }
}

impl Results {
    /// The figures, sorted as the workloads are and as each workload reports them.
    pub fn figures(&self) -> Vec<Figure> {
        (0..self.workloads.len()).flat_map(|workload| self.figures_of(workload)).collect()
    }

    /// The figures of one workload.
    pub fn figures_of(&self, workload: usize) -> Vec<Figure> {
        let mut figures = Vec::<Figure>::new();
        for run in self.runs.iter().filter(|run| run.workload == workload) {
            for reading in &run.readings {
                if figures.iter().all(|figure| figure.name != reading.name) {
                    figures.push(self.figure(workload, reading));
                }
            }
        }
        figures
    }

    fn figure(&self, workload: usize, reading: &Reading) -> Figure {
        let Reading { name, unit, better, .. } = reading.clone();
        let base = self.contenders.iter().position(Contender::is_kernel);
        let base = base.map(|base| self.values(workload, base, &name)).unwrap_or_default();
        let entries = (0..self.contenders.len()).filter_map(|contender| {
            let values = self.values(workload, contender, &name);
            let summary = Summary::of(&values)?;
            let decisions = self.decisions(workload, contender);
            let decided_percent = decisions.percent();
            let compared = !self.contenders[contender].is_kernel() && !base.is_empty();
            Some(Entry {
                contender,
                summary,
                ratio: Summary::of(&base)
                    .filter(|base| compared && base.median != 0.0)
                    .map(|base| summary.median / base.median),
                verdict: (compared && better != Better::Neither)
                    .then(|| verdict(better, &base, &values, decided_percent)),
                decided_percent,
                stood_percent: decisions.percent_stood(),
                values,
            })
        });
        Figure { workload, entries: entries.collect(), name, unit, better }
    }

    fn values(&self, workload: usize, contender: usize, name: &str) -> Vec<f64> {
        let runs =
            self.runs.iter().filter(|run| (run.workload, run.contender) == (workload, contender));
        runs.filter_map(|run| run.readings.iter().find(|reading| reading.name == name))
            .map(|reading| reading.value)
            .collect()
    }

    /// All decisions of a contender under a workload; 0 if it is another scheduler.
    fn decisions(&self, workload: usize, contender: usize) -> Decisions {
        let mut sum = Decisions::default();
        let runs =
            self.runs.iter().filter(|run| (run.workload, run.contender) == (workload, contender));
        runs.filter_map(|run| run.decisions).for_each(|decisions| sum.add(decisions));
        sum
    }

    /// The least percentage of decisions that each of our schedulers had under any workload.
    pub fn least_decided(&self) -> Vec<(&str, f64)> {
        let least = |contender: usize| {
            let workloads = 0..self.workloads.len();
            workloads.filter_map(|it| self.decisions(it, contender).percent()).reduce(f64::min)
        };
        let names = self.contenders.iter().enumerate();
        names.filter_map(|(number, it)| Some((it.name.as_str(), least(number)?))).collect()
    }

    /// Why a contender dropped out, in words.
    pub fn failure(&self, failure: &Failure) -> String {
        format!(
            "{} dropped out in round {}, at {}: {}",
            self.contenders[failure.contender].name,
            failure.round,
            self.workloads[failure.workload].name,
            failure.reason
        )
    }

    /// All as JSON.
    pub fn to_json(&self) -> serde_json::Result<String> {
        #[derive(Serialize)]
        struct Whole<'a> {
            #[serde(flatten)]
            results: &'a Results,
            figures: Vec<Figure>,
        }
        serde_json::to_string_pretty(&Whole { results: self, figures: self.figures() })
    }
}

fn verdict(better: Better, base: &[f64], values: &[f64], decided_percent: Option<f64>) -> Verdict {
    let (Some(theirs), Some(its)) = (Summary::of(base), Summary::of(values)) else {
        return Verdict::Unclear;
    };
    let difference = its.median - theirs.median;
    if chance_of_difference(base, values) > LEVEL
        || difference.abs() <= theirs.median.abs() * LEAST_DIFFERENCE
    {
        return Verdict::Unclear;
    }
    match (difference > 0.0) == (better == Better::Higher) {
        false => Verdict::Worse,
        true if decided_percent.is_some_and(|percent| percent < PROMISED) => {
            Verdict::ByTheSafetyNet
        }
        true => Verdict::Better,
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Results with one workload and one figure: its values under the kernel's own scheduler and
    /// under ours.
    pub fn results(better: Better, kernel: &[f64], ours: &[f64], decisions: Decisions) -> Results {
        let run = |contender: usize| {
            move |(round, &value): (usize, &f64)| Run {
                round: round as u32 + 1,
                workload: 0,
                contender,
                readings: vec![
                    Reading { name: "speed".into(), unit: "1/s".into(), better, value },
                    Reading::neutral("weather", "", 1.0),
                ],
                decisions: (contender == 1).then_some(decisions),
            }
        };
        let runs = kernel.iter().enumerate().map(run(0)).chain(ours.iter().enumerate().map(run(1)));
        Results {
            machine: Head {
                processor: "A <fast> one".into(),
                cpus: 4,
                packages: 1,
                l3_caches: 2,
                kinds: vec!["0-3".into()],
                memory_mib: 1024,
                virtual_machine: true,
                governor: None,
                supply: "mains power".into(),
                kernel: "7.0".into(),
                version: "0.1.0",
                peers: vec![],
            },
            rounds: kernel.len() as u32,
            duration: Duration::from_secs(1),
            units_per_ms: 1000.0,
            contenders: vec![Contender::kernel(), Contender::manyland(vec![])],
            workloads: vec![Described {
                name: "race".into(),
                description: "two runners".into(),
                headlines: &["speed"],
            }],
            runs: runs.collect(),
            failures: vec![],
            interrupted: false,
        }
    }

    const BY_DECISION: Decisions = Decisions { decided: 69, standing: 30, late: 1 };
    const BY_THE_SAFETY_NET: Decisions = Decisions { decided: 64, standing: 30, late: 6 };
    const LOW: [f64; 5] = [10.0, 11.0, 12.0, 13.0, 14.0];
    const HIGH: [f64; 5] = [20.0, 21.0, 22.0, 23.0, 24.0];

    fn verdict_of(
        better: Better,
        kernel: &[f64],
        ours: &[f64],
        decisions: Decisions,
    ) -> Option<Verdict> {
        results(better, kernel, ours, decisions).figures()[0].entries[1].verdict
    }

    #[test]
    fn the_good_direction_decides() {
        let verdict = |better| verdict_of(better, &LOW, &HIGH, BY_DECISION);
        assert_eq!(verdict(Better::Higher), Some(Verdict::Better));
        assert_eq!(verdict(Better::Lower), Some(Verdict::Worse));
        assert_eq!(verdict(Better::Neither), None);
    }

    #[test]
    fn what_the_safety_net_wins_is_not_won() {
        assert_eq!(
            verdict_of(Better::Higher, &LOW, &HIGH, BY_THE_SAFETY_NET),
            Some(Verdict::ByTheSafetyNet)
        );
        assert_eq!(verdict_of(Better::Lower, &LOW, &HIGH, BY_THE_SAFETY_NET), Some(Verdict::Worse));
    }

    #[test]
    fn a_spread_or_few_rounds_allow_no_result() {
        let unclear = Some(Verdict::Unclear);
        assert_eq!(verdict_of(Better::Higher, &LOW[..3], &HIGH[..3], BY_DECISION), unclear);
        let mixed = [9.0, 11.5, 12.5, 30.0, 40.0];
        assert_eq!(verdict_of(Better::Higher, &LOW, &mixed, BY_DECISION), unclear);
        // A difference of a thousandth does not count, however certain it is.
        let near = LOW.map(|_| 1000.0);
        assert_eq!(verdict_of(Better::Higher, &near, &near.map(|v| v + 1.0), BY_DECISION), unclear);
    }

    #[test]
    fn figures_hold_all_contenders() {
        let figures = results(Better::Higher, &LOW, &HIGH, BY_DECISION).figures();
        let names = figures.iter().map(|figure| figure.name.as_str()).collect::<Vec<_>>();
        assert_eq!(names, ["speed", "weather"]);
        let [kernel, ours] = &figures[0].entries[..] else { panic!("two entries") };
        assert_eq!((kernel.ratio, kernel.verdict, kernel.decided_percent), (None, None, None));
        assert_eq!((ours.ratio, ours.decided_percent), (Some(22.0 / 12.0), Some(99.0)));
        assert_eq!(ours.values, HIGH);
    }

    #[test]
    fn nothing_is_a_part_of_zero() {
        let results = results(Better::Lower, &[0.0; 5], &LOW, BY_DECISION);
        let ours = &results.figures()[0].entries[1];
        assert_eq!((ours.ratio, ours.verdict), (None, Some(Verdict::Worse)));
    }
}
