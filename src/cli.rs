//! The command line: what may be typed, and what the program answers.
//!
//! Invariant: every failure is one line on stderr that starts with the program's name, with exit
//! code 2 where the command line is at fault and 1 for anything else.

use crate::bench::{self, BenchArgs};
use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use clap::{Args, CommandFactory, Parser, Subcommand, error::ErrorKind};
use scx_manyland::domains::preference::Prefer;
use scx_manyland::options::{
    Format, PATIENCE_US, RunOptions, SLICE_MIN_US, SLICE_US, STATS_SECONDS, StatsOptions,
};
use scx_manyland::policy::Slices;
use scx_manyland::policy::kind::PolicyKind;
use scx_manyland::topology::{Granularity, Source, Topology};
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_NAME");

/// A CPU scheduler in user space, with one scheduling thread for each last-level cache.
///
/// Without a command, schedules this machine until Ctrl-C: needs root and a kernel with
/// sched_ext. Whatever happens to it, the kernel's own scheduler takes over.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show how a machine is cut into domains (needs no root and no sched_ext)
    Topology(TopologyArgs),
    /// Compare this scheduler with the kernel's own, and with others, on this machine (needs root and sched_ext)
    Bench(Box<BenchArgs>),
    /// What `bench` starts
    #[command(hide = true)]
    Workload { errand: String },
}

#[derive(Debug, Args)]
struct RunArgs {
    /// What a domain, the CPUs that one scheduling thread serves, is made of
    #[arg(long, value_name = "G", default_value_t, value_enum)]
    domain: Granularity,
    /// The order in which tasks run
    #[arg(long, value_name = "POLICY", default_value_t, value_enum)]
    policy: PolicyKind,
    /// How long a task may run while none waits, in microseconds (100 to 1000000)
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = in_range(SLICE_US))]
    slice_us: u64,
    /// The shortest time a task may run while many wait, in microseconds (10 to the slice)
    /// [default: 500, or the slice if that is shorter]
    #[arg(long, value_name = "N", value_parser = in_range(SLICE_MIN_US))]
    slice_min_us: Option<u64>,
    /// How long a task may wait for a decision before the kernel runs it without one, in
    /// microseconds (10 to 1000000)
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = in_range(PATIENCE_US))]
    patience_us: u64,
    /// Run tasks by decisions only, in exactly the policy's order: no safety net and no stealing
    /// in the kernel until a scheduling thread stalls
    #[arg(long)]
    strict: bool,
    /// Domains do not help each other: no stealing, no use of another domain's idle CPUs, and tasks
    /// keep their home (to see what that costs)
    #[arg(long)]
    no_steal: bool,
    /// Schedule only the tasks that chose the scheduling class SCHED_EXT themselves
    #[arg(long)]
    partial: bool,
    /// Each scheduling thread keeps one CPU of its domain to itself, spinning: the lowest latency,
    /// at the price of that CPU
    #[arg(long)]
    dedicate: bool,
    /// Which kind of core tasks get first, where a machine has fast and slow ones
    /// [default: efficiency on battery, else performance]
    #[arg(long, value_name = "KIND", value_enum)]
    prefer: Option<Prefer>,
    /// Print statistics every SECS seconds (1 to 3600) [default: none]
    #[arg(long, value_name = "SECS", value_parser = in_range(STATS_SECONDS))]
    stats: Option<u64>,
    /// The form of the statistics (with --stats)
    #[arg(long, value_name = "FORMAT", default_value_t, value_enum, requires = "stats")]
    stats_format: Format,
    /// Say more of what is being done
    #[arg(short, long)]
    verbose: bool,
}

#[derive(Debug, Args)]
struct TopologyArgs {
    /// Show the machine in this XML file, as `lstopo FILE.xml` writes it, instead of this machine
    #[arg(long, value_name = "FILE", conflicts_with = "synthetic")]
    input: Option<PathBuf>,
    /// Show a machine by description, such as "Package:2 L3Cache:4 Core:8 PU:2" (see hwloc(7))
    #[arg(long, value_name = "DESC")]
    synthetic: Option<String>,
    /// What a domain is made of
    #[arg(long, value_name = "G", default_value_t, value_enum)]
    domain: Granularity,
    /// The form of the output
    #[arg(long, value_name = "FORMAT", default_value_t, value_enum)]
    format: Format,
}

/// Does what the arguments say, scheduling through `run`, and gives the exit code.
pub fn main_with(
    args: impl IntoIterator<Item = OsString>,
    run: impl FnOnce(RunOptions) -> Result<()>,
) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return usage_error(&error),
        Err(help) => return ended(print(&help.render().to_string())),
    };
    match cli.command {
        Some(Command::Topology(args)) => ended(topology(args)),
        Some(Command::Bench(args)) => match args.plan(check_contender) {
            Ok(plan) => ended(compare(&plan)),
            Err(error) => value_error(error),
        },
        Some(Command::Workload { errand }) => {
            ended(bench::workloads::serve(&errand).and_then(|answer| print(&answer)))
        }
        None => match RunOptions::try_from(cli.run) {
            Ok(options) => ended(run(options)),
            Err(error) => value_error(error),
        },
    }
}

impl TryFrom<RunArgs> for RunOptions {
    type Error = Error;

    fn try_from(args: RunArgs) -> Result<RunOptions> {
        let base = Duration::from_micros(args.slice_us);
        let min = args.slice_min_us.map(Duration::from_micros);
        let default_min = RunOptions::default().slices.min.min(base);
        let options = RunOptions {
            domain: args.domain,
            policy: args.policy,
            slices: Slices { base, min: min.unwrap_or(default_min) },
            patience: Duration::from_micros(args.patience_us),
            strict: args.strict,
            no_steal: args.no_steal,
            partial: args.partial,
            dedicate: args.dedicate,
            prefer: args.prefer,
            stats: args.stats.map(|seconds| StatsOptions {
                every: Duration::from_secs(seconds),
                format: args.stats_format,
            }),
            verbose: args.verbose,
        };
        options.check()?;
        Ok(options)
    }
}

fn in_range(range: std::ops::RangeInclusive<u64>) -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(range)
}

/// Whether our scheduler can take part in a comparison with these options.
fn check_contender(options: &[String]) -> Result<()> {
    let args = std::iter::once(PROGRAM).chain(options.iter().map(String::as_str));
    let cli = Cli::try_parse_from(args).map_err(|error| anyhow!(first_paragraph(&error)))?;
    ensure!(cli.command.is_none() && !options.is_empty(), "these are not options of the scheduler");
    let options = RunOptions::try_from(cli.run)?;
    ensure!(options.stats.is_none(), "the statistics are read by the comparison");
    ensure!(!options.partial, "with --partial no workload would be scheduled by it");
    Ok(())
}

fn compare(plan: &bench::Plan) -> Result<()> {
    let report = bench::run(plan)?;
    print(&report.text)?;
    match report.trouble {
        Some(trouble) => bail!(trouble),
        None => Ok(()),
    }
}

fn topology(args: TopologyArgs) -> Result<()> {
    let source = match (args.input, args.synthetic) {
        (Some(path), _) => Source::XmlFile(path),
        (None, Some(description)) => Source::Synthetic(description),
        (None, None) => Source::Live,
    };
    let machine = Topology::load(&source)?;
    let domains = machine.partition(args.domain)?;
    match args.format {
        Format::Text => print(&machine.map(&domains)),
        Format::Json => print(&(domains.to_json() + "\n")),
    }
}

/// Writes to stdout. That the reader has left (`| head -1`) is no error.
fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}

fn ended(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::from(1)
        }
    }
}

fn value_error(error: Error) -> ExitCode {
    usage_error(&Cli::command().error(ErrorKind::ValueValidation, format!("{error:#}")))
}

fn usage_error(error: &clap::Error) -> ExitCode {
    complain(&format!("{}; see {PROGRAM} --help", first_paragraph(error)));
    ExitCode::from(2)
}

/// The first paragraph of what clap has to say, on one line.
fn first_paragraph(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let paragraph = text.lines().take_while(|line| !line.trim().is_empty());
    let line = paragraph.map(str::trim).collect::<Vec<_>>().join(" ");
    line.trim_start_matches("error: ").to_owned()
}

fn complain(message: &str) {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    // Where not even stderr can be written, the exit code has to do.
    let _ = writeln!(io::stderr(), "{PROGRAM}: {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(args: &[&str]) -> Result<RunOptions> {
        let cli = Cli::try_parse_from([&[PROGRAM], args].concat())?;
        RunOptions::try_from(cli.run)
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_arguments_give_the_defaults_of_the_library() {
        assert_eq!(options(&[]).unwrap(), RunOptions::default());
    }

    #[test]
    fn every_option_arrives() {
        let args = "--domain llc --policy fifo --slice-us 1000 --slice-min-us 20 --patience-us 10 \
                    --strict --no-steal --partial --dedicate --prefer none --stats 2 --stats-format json -v";
        let expected = RunOptions {
            domain: Granularity::L3,
            policy: PolicyKind::Fifo,
            slices: Slices { base: Duration::from_millis(1), min: Duration::from_micros(20) },
            patience: Duration::from_micros(10),
            strict: true,
            no_steal: true,
            partial: true,
            dedicate: true,
            prefer: Some(Prefer::None),
            stats: Some(StatsOptions { every: Duration::from_secs(2), format: Format::Json }),
            verbose: true,
        };
        let args = args.split_whitespace().collect::<Vec<_>>();
        assert_eq!(options(&args).unwrap(), expected);
    }

    #[test]
    fn a_short_slice_shortens_the_default_minimum() {
        let slices = options(&["--slice-us", "200"]).unwrap().slices;
        assert_eq!(slices.min, Duration::from_micros(200));
        options(&["--slice-us", "200", "--slice-min-us", "201"]).unwrap_err();
    }
}
