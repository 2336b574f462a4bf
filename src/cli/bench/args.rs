//! The options of `scx_manyland bench`, and the plan that they make.

use super::workloads::{build, command, frames, messages, requests, spin, wakeups, work};
use super::{Contender, Plan, Workload};
use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use scx_manyland::options::Format;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

const ROUNDS: RangeInclusive<i64> = 1..=50;
const COUNT: RangeInclusive<i64> = 1..=10_000;
/// Allowed durations of a run, in seconds.
const SECONDS: RangeInclusive<f64> = 0.1..=3600.0;

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// How often every workload runs under every scheduler (1 to 50; a result needs at least 4)
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(ROUNDS))]
    rounds: u32,
    /// The length of a run, in seconds (0.1 to 3600)
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,
    /// The workloads to run [default: all, or none with --command]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_enum)]
    workloads: Vec<WorkloadName>,
    /// Compare this scheduler with these options as well, such as '--policy deadline' (may be
    /// repeated)
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true)]
    with: Vec<String>,
    /// Compare another sched_ext scheduler as well: the command that starts it, which Ctrl-C stops
    /// (may be repeated)
    #[arg(long, value_name = "COMMAND")]
    against: Vec<String>,
    /// Time a line of the shell (may be repeated)
    #[arg(long, value_name = "LINE")]
    command: Vec<String>,
    /// The form of the results
    #[arg(long, value_name = "FORMAT", default_value_t, value_enum)]
    format: Format,
    /// Show one table of the most important figures instead of a table for each workload
    #[arg(long, conflicts_with = "format")]
    brief: bool,
    /// Write a page with plots as well
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    #[command(flatten)]
    sizes: Sizes,
}

/// The built-in workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WorkloadName {
    /// Groups that send each other messages, like hackbench
    Messages,
    /// Threads that wake workers, like schbench
    Requests,
    /// A game during a build
    Frames,
    /// A build
    Build,
    /// Threads that only compute
    Spin,
    /// A task that sleeps, next to hogs
    Wakeups,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Sizes of the workloads")]
struct Sizes {
    /// messages: groups [default: half the number of CPUs]
    #[arg(long, value_name = "N", value_parser = count)]
    groups: Option<usize>,
    /// messages: senders in a group, and receivers
    #[arg(long, value_name = "N", default_value = "20", value_parser = count)]
    pairs: usize,
    /// requests: threads that wake others
    #[arg(long, value_name = "N", default_value = "2", value_parser = count)]
    message_threads: usize,
    /// requests: workers of each of them [default: the number of CPUs]
    #[arg(long, value_name = "N", value_parser = count)]
    workers: Option<usize>,
    /// requests: matrices multiplied for each
    #[arg(long, value_name = "N", default_value = "1", value_parser = count)]
    operations: usize,
    /// requests: size of the matrices
    #[arg(long, value_name = "KIB", default_value = "16", value_parser = count)]
    footprint_kib: usize,
    /// frames: frames a second (1 to 1000)
    #[arg(long, value_name = "HZ", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=1000))]
    frame_rate: u32,
    /// frames: threads that help the game thread [default: the number of CPUs less one, 1 to 4]
    #[arg(long, value_name = "N", value_parser = count)]
    helpers: Option<usize>,
    /// frames: the part of a refresh period that a frame needs on an idle machine, in percent (1 to
    /// 100)
    #[arg(long, value_name = "PERCENT", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=100))]
    frame_load: u32,
    /// build, frames: jobs at a time [default: the number of CPUs]
    #[arg(long, value_name = "N", value_parser = count)]
    jobs: Option<usize>,
    /// build, frames: mean CPU time of a job, in milliseconds, its start not counted
    #[arg(long, value_name = "MS", default_value = "20", value_parser = count)]
    job_ms: usize,
    /// spin: threads [default: three for two CPUs]
    #[arg(long, value_name = "N", value_parser = count)]
    spinners: Option<usize>,
    /// wakeups: hogs [default: the number of CPUs]
    #[arg(long, value_name = "N", value_parser = count)]
    hogs: Option<usize>,
    /// wakeups: what the hogs are
    #[arg(long, value_name = "KIND", value_enum, default_value = "normal")]
    hogs_are: wakeups::Hogs,
}

fn count(text: &str) -> Result<usize> {
    let (least, most) = (*COUNT.start(), *COUNT.end());
    let number = text.parse::<i64>().ok().filter(|number| COUNT.contains(number));
    let number = number.with_context(|| format!("it must be a number from {least} to {most}"))?;
    Ok(usize::try_from(number)?)
}

fn seconds(text: &str) -> Result<f64> {
    let (least, most) = (*SECONDS.start(), *SECONDS.end());
    let number = text.parse::<f64>().ok().filter(|number| SECONDS.contains(number));
    number.with_context(|| format!("it must be a number from {least} to {most}"))
}

impl BenchArgs {
    /// The plan, if `check` accepts the options of each of our schedulers.
    ///
    /// # Errors
    /// Names the option that is refused.
    pub fn plan(self, check: impl Fn(&[String]) -> Result<()>) -> Result<Plan> {
        let mut contenders = vec![Contender::kernel(), Contender::manyland(Vec::new())];
        for line in &self.with {
            let options = shlex::split(line)
                .with_context(|| format!("--with {line:?}: a quotation mark is missing"))?;
            check(&options).with_context(|| format!("--with {line:?}"))?;
            contenders.push(Contender::manyland(options));
        }
        for line in &self.against {
            contenders.push(Contender::peer(line).context("--against")?);
        }
        for (number, contender) in contenders.iter().enumerate() {
            let twice = contenders[..number].iter().any(|other| other.name == contender.name);
            ensure!(!twice, "{:?} is compared with itself", contender.name);
        }
        let units_per_ms = work::units_per_ms();
        Ok(Plan {
            rounds: self.rounds,
            duration: Duration::from_secs_f64(self.seconds),
            contenders,
            workloads: self.workloads(units_per_ms)?,
            units_per_ms,
            format: self.format,
            brief: self.brief,
            report: self.report,
        })
    }

    fn workloads(&self, units_per_ms: f64) -> Result<Vec<Workload>> {
        let cpus = available_parallelism().context("cannot count the CPUs")?.get();
        let all = WorkloadName::value_variants();
        let names = match (self.workloads.as_slice(), self.command.is_empty()) {
            ([], true) => all,
            (names, _) => names,
        };
        let commands = self
            .command
            .iter()
            .map(|line| Workload::Command(command::Settings { command: line.clone() }));
        Ok(names
            .iter()
            .map(|&name| self.sizes.workload(name, cpus, units_per_ms))
            .chain(commands)
            .collect())
    }
}

impl Sizes {
    fn workload(&self, name: WorkloadName, cpus: usize, units_per_ms: f64) -> Workload {
        let units = |ms: f64| (ms * units_per_ms).max(1.0) as u64;
        let build =
            build::Settings { jobs: self.jobs.unwrap_or(cpus), units: units(self.job_ms as f64) };
        match name {
            WorkloadName::Messages => Workload::Messages(messages::Settings {
                groups: self.groups.unwrap_or(cpus.div_ceil(2)),
                pairs: self.pairs,
            }),
            WorkloadName::Requests => Workload::Requests(requests::Settings {
                message_threads: self.message_threads,
                workers: self.workers.unwrap_or(cpus),
                operations: self.operations,
                footprint_kib: self.footprint_kib,
            }),
            WorkloadName::Frames => Workload::Frames(frames::Settings {
                rate: self.frame_rate,
                helpers: self.helpers.unwrap_or((cpus - 1).clamp(1, 4)),
                units: units(
                    1000.0 / f64::from(self.frame_rate) * f64::from(self.frame_load) / 100.0,
                ),
                build,
            }),
            WorkloadName::Build => Workload::Build(build),
            WorkloadName::Spin => Workload::Spin(spin::Settings {
                threads: self.spinners.unwrap_or((cpus * 3).div_ceil(2)),
            }),
            WorkloadName::Wakeups => Workload::Wakeups(wakeups::Settings {
                hogs: self.hogs.unwrap_or(cpus),
                are: self.hogs_are,
                units: units(0.05),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn plan(args: &[&str]) -> Result<Plan> {
        let program = Program::try_parse_from([&["bench"], args].concat())?;
        program.bench.plan(|options| {
            ensure!(options != ["--bad"], "no option --bad");
            Ok(())
        })
    }

    fn names(plan: &Plan) -> (Vec<String>, Vec<String>) {
        let contenders = plan.contenders.iter().map(|contender| contender.name.clone());
        (contenders.collect(), plan.workloads.iter().map(Workload::name).collect())
    }

    #[test]
    fn without_options_everything_is_compared() {
        let (contenders, workloads) = names(&plan(&[]).unwrap());
        assert_eq!(contenders, ["kernel", "manyland"]);
        assert_eq!(workloads, ["messages", "requests", "frames", "build", "spin", "wakeups"]);
    }

    #[test]
    fn settings_peers_and_commands_are_added() {
        let args = [
            "--with",
            "--policy fifo",
            "--with=--no-steal",
            "--against",
            "/opt/scx_other -v",
            "--command",
            "make -j4",
            "--rounds",
            "2",
            "--seconds",
            "0.5",
        ];
        let mut plan = plan(&args).unwrap();
        let (contenders, workloads) = names(&plan);
        assert_eq!(
            contenders,
            ["kernel", "manyland", "manyland --policy fifo", "manyland --no-steal", "scx_other -v"]
        );
        assert_eq!(workloads, ["make -j4"]);
        assert_eq!((plan.rounds, plan.duration), (2, Duration::from_millis(500)));
        plan = super::tests::plan(&["--command", "true", "--workloads", "spin,build"]).unwrap();
        assert_eq!(names(&plan).1, ["spin", "build", "true"]);
    }

    #[test]
    fn sizes_arrive() {
        let args = [
            "--workloads",
            "frames",
            "--frame-rate",
            "100",
            "--frame-load",
            "50",
            "--helpers",
            "3",
            "--jobs",
            "7",
        ];
        let plan = plan(&args).unwrap();
        let [Workload::Frames(frames)] = &plan.workloads[..] else { panic!("frames") };
        assert_eq!((frames.rate, frames.helpers, frames.build.jobs), (100, 3, 7));
        let ms = frames.units as f64 / plan.units_per_ms;
        assert!((4.9..5.1).contains(&ms), "half of 10 ms is {ms}");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for args in [
            &["--with", "--bad"][..],
            &["--with", "'open"],
            &["--with", ""],
            &["--against", ""],
            &["--against", "a", "--against", "b/a"],
            &["--rounds", "0"],
            &["--seconds", "nan"],
            &["--seconds", "0.01"],
            &["--workloads", "sleep"],
            &["--jobs", "0"],
            &["--frame-load", "101"],
        ] {
            assert!(plan(args).is_err(), "{args:?}");
        }
    }
}
