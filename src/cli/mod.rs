//! The command line: its options and commands, and what the program answers.
//!
//! Invariant: every failure is one line on stderr that starts with the program's name, with exit
//! code 2 where the command line is at fault and 1 for anything else ([`program`]).

mod bench;
#[cfg(test)]
mod documents;
mod generated;
#[cfg(feature = "metrics")]
mod metrics;
mod report;
#[cfg(feature = "simulator")]
mod simulate;
#[cfg(feature = "top")]
mod top;

use anyhow::{Error, Result, anyhow, bail, ensure};
use bench::BenchArgs;
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use scx_manyland::options::Format;
use scx_manyland::policy::kind::PolicyKind;
use scx_manyland::topology::{Granularity, Source, Topology};
use scx_manyland::{Builder, RunOptions, program};
use std::path::PathBuf;
use std::process::ExitCode;

const PROGRAM: &str = env!("CARGO_BIN_NAME");

/// Which build this is, as far as build.rs knows: a bug report starts with it.
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("SCX_MANYLAND_BUILD_ID"),
    ") features: ",
    env!("SCX_MANYLAND_FEATURES"),
);

/// A CPU scheduler in user space, with one scheduling thread for each last-level cache.
///
/// Without a command, schedules this machine until Ctrl-C: needs root and a kernel with
/// sched_ext. However it ends, the kernel's own scheduler is back.
#[derive(Debug, Parser)]
#[command(version = VERSION, max_term_width = 100, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Subcommands>,
    /// The policy, which decides the task to run next
    #[arg(long, value_name = "POLICY", default_value_t, value_enum)]
    policy: PolicyKind,
    #[command(flatten)]
    run: RunOptions,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Show how a machine is cut into domains (needs no root and no sched_ext)
    Topology(TopologyArgs),
    /// Compare this scheduler with the kernel's own, and with others, on this machine (needs root
    /// and sched_ext)
    // The last of two values for a size counts: tools/compare gives sizes of its own first.
    #[command(args_override_self = true)]
    Bench(Box<BenchArgs>),
    /// Run a workload on a machine in virtual time (needs no root and no sched_ext)
    #[cfg(feature = "simulator")]
    Simulate(Box<simulate::SimulateArgs>),
    /// Watch a scheduler that runs, on the whole screen (needs root)
    #[cfg(feature = "top")]
    Top(top::TopArgs),
    /// Give the statistics of a scheduler that runs to Prometheus (needs root)
    #[cfg(feature = "metrics")]
    Metrics(metrics::MetricsArgs),
    /// Write what a bug report needs to a file; nothing in it names you, your machine or your programs
    Report(report::ReportArgs),
    /// Print the completions of this command line for a shell
    Completions(generated::CompletionsArgs),
    /// Write the manual pages to a folder
    #[command(hide = true)]
    Manual(generated::ManualArgs),
    /// Runs a workload for `bench`
    #[command(hide = true)]
    Workload { errand: String },
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

/// Runs the command of the command line, and returns the exit code.
pub fn main() -> ExitCode {
    program::main(|cli: Cli| match cli.command {
        Some(Subcommands::Topology(args)) => topology(args),
        Some(Subcommands::Bench(args)) => compare(&args.plan(check_contender).map_err(usage)?),
        #[cfg(feature = "simulator")]
        Some(Subcommands::Simulate(args)) => args.simulation()?.run(),
        #[cfg(feature = "top")]
        Some(Subcommands::Top(args)) => args.run(),
        #[cfg(feature = "metrics")]
        Some(Subcommands::Metrics(args)) => args.run(),
        Some(Subcommands::Report(args)) => args.run(),
        Some(Subcommands::Completions(args)) => args.run(),
        Some(Subcommands::Manual(args)) => args.run(),
        Some(Subcommands::Workload { errand }) => {
            program::print(&bench::workloads::serve(&errand)?)
        }
        None => Builder::from(cli.policy).options(cli.run).run_confined(),
    })
}

/// An error of the command line that clap has not seen.
fn usage(error: Error) -> clap::Error {
    clap::Error::raw(ErrorKind::ValueValidation, format!("{error:#}"))
}

/// Checks that this scheduler can be compared with these options.
fn check_contender(options: &[String]) -> Result<()> {
    let args = std::iter::once(PROGRAM).chain(options.iter().map(String::as_str));
    const NOT_OURS: &str = "these are not options of the scheduler";
    let cli = Cli::try_parse_from(args).map_err(|error| match error.use_stderr() {
        true => anyhow!(program::in_short(&error)),
        false => anyhow!(NOT_OURS),
    })?;
    ensure!(cli.command.is_none() && !options.is_empty(), NOT_OURS);
    cli.run.check()?;
    ensure!(cli.run.stats_secs.is_none(), "the statistics are read by the comparison");
    ensure!(!cli.run.partial, "with --partial no workload would be scheduled by it");
    Ok(())
}

fn compare(plan: &bench::Plan) -> Result<()> {
    let report = bench::run(plan)?;
    program::print(&report.text)?;
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
        Format::Text => program::print(&machine.map(&domains)),
        Format::Json => program::print(&(domains.to_json() + "\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        program::complete(Cli::command()).debug_assert();
    }

    #[test]
    fn the_version_tells_the_build_and_the_features() {
        let answer =
            |option| Cli::try_parse_from(["scx_manyland", option]).unwrap_err().to_string();
        let version = answer("--version");
        assert_eq!(version, answer("-V"));
        let start = concat!("scx_manyland ", env!("CARGO_PKG_VERSION"), " (");
        let (id, features) =
            version.strip_prefix(start).unwrap().split_once(") features: ").unwrap();
        assert!(!id.is_empty() && !id.contains(char::is_whitespace), "{version}");
        assert!(features.split_whitespace().any(|feature| feature == "program"), "{version}");
    }

    #[test]
    fn no_arguments_give_the_defaults_of_the_library() {
        let cli = Cli::try_parse_from(["scx_manyland"]).unwrap();
        assert_eq!(cli.policy, PolicyKind::default());
        assert_eq!(cli.run, RunOptions::default());
    }

    #[test]
    fn a_policy_and_options_arrive() {
        let args = ["scx_manyland", "--domain", "l2", "--policy", "fifo", "--strict"];
        let cli = Cli::try_parse_from(args).unwrap();
        assert_eq!(cli.policy, PolicyKind::Fifo);
        assert_eq!((cli.run.domain, cli.run.strict), (Granularity::L2, true));
    }

    #[test]
    fn the_last_size_counts_and_all_contenders_do() {
        let line = "scx_manyland bench --jobs 1 --with '--strict' --jobs 2 --with '--no-steal' --command a --command b";
        let cli = Cli::try_parse_from(shlex::split(line).unwrap()).unwrap();
        let Some(Subcommands::Bench(bench)) = cli.command else { panic!("bench") };
        let plan = bench.plan(|_| Ok(())).unwrap();
        let contenders: Vec<_> = plan.contenders.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(contenders, ["kernel", "manyland", "manyland --strict", "manyland --no-steal"]);
        let workloads: Vec<_> = plan.workloads.iter().map(bench::Workload::name).collect();
        assert_eq!(workloads, ["a", "b"]);
        let line = "scx_manyland bench --jobs 1 --jobs 2 --workloads build";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Some(Subcommands::Bench(bench)) = cli.command else { panic!("bench") };
        assert!(bench.plan(|_| Ok(())).unwrap().workloads[0].describe().starts_with("2 jobs"));
    }

    #[test]
    fn contenders_accept_options_of_the_scheduler_only() {
        let check = |line: &str| {
            let options = line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            check_contender(&options).map_err(|error| error.to_string())
        };
        assert_eq!(check("--policy deadline --dedicate"), Ok(()));
        for (line, word) in [
            ("", "options of the scheduler"),
            ("topology", "options of the scheduler"),
            ("--stats 1", "statistics"),
            ("--partial", "--partial"),
            ("--slice-us 100 --slice-min-us 200", "200 us"),
            ("--nonsense", "--nonsense"),
            ("--help", "options"),
        ] {
            let error = check(line).unwrap_err();
            assert!(error.contains(word) && error.lines().count() == 1, "{line}: {error}");
        }
    }

    #[test]
    fn absurd_values_are_refused() {
        let options = |args: &[&str]| Cli::try_parse_from([&["scx_manyland"], args].concat());
        let numbers =
            ["", " ", "0", "-1", "+-1", "1.5.", "1e3", "0x64", "five", "NaN", "\u{ff15}00"];
        let huge = ["1000001", "18446744073709551616", "340282366920938463463374607431768211456"];
        for option in ["--slice-us", "--slice-min-us", "--patience-us", "--stats", "--monitor"] {
            for value in numbers.iter().chain(&huge) {
                let argument = format!("{option}={value}");
                assert!(options(&[&argument]).is_err(), "{argument} is accepted");
            }
        }
        for option in ["--domain", "--policy", "--prefer", "--stats-format"] {
            for value in ["", " ", "l3 ", "L3\n", "none none", "\u{1f427}", &"x".repeat(1 << 20)] {
                let argument = format!("{option}={value}");
                let accepted = options(&["--stats", "1", &argument]).is_ok();
                assert!(!accepted, "{argument:.40} is accepted");
            }
        }
    }
}
