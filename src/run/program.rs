//! How a program answers its command line. [`main`] is for programs with options of their own,
//! [`Builder::main`](crate::Builder::main) for those without.
//!
//! Invariant: every failure is one line on standard error that starts with the program's name, with
//! exit code 2 where the command line is at fault and 1 for anything else.

pub use crate::kernel::options::in_short;
pub use crate::run::crew::{DUMP_BEGINS, DUMP_ENDS, HAS_ENDED};

use crate::abi::statistics;
use crate::kernel::options::{InvalidOption, LogLevel, Seconds};
use crate::logger;
use crate::run::{cgroups, monitor};
use anyhow::{Context, Result};
use clap::builder::Resettable;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command, Id, Parser, value_parser};
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

/// Parses the command line into `A`, calls `run` with it, and returns the exit code.
///
/// The code is 0 after success and after `--help` and `--version`, 2 for a fault of the command
/// line, and 1 for any other error.
///
/// ```no_run
/// use clap::Parser;
/// use scx_manyland::policy::fifo::Fifo;
/// use scx_manyland::{Builder, DomainAllocator, RunOptions, program};
/// use std::{process::ExitCode, time::Duration};
///
/// #[global_allocator]
/// static ALLOCATOR: DomainAllocator = DomainAllocator;
///
/// /// First come, first served
/// #[derive(Parser)]
/// struct Args {
///     /// How long a task may run, in milliseconds
///     #[arg(long, default_value_t = 5)]
///     slice_ms: u64,
///     #[command(flatten)]
///     run: RunOptions,
/// }
///
/// fn main() -> ExitCode {
///     program::main(|args: Args| {
///         let slice = Duration::from_millis(args.slice_ms);
///         Builder::new(move |_| Fifo::new(slice)).options(args.run).run()
///     })
/// }
/// ```
pub fn main<A: Parser>(run: impl FnOnce(A) -> Result<()>) -> ExitCode {
    let typed = |matches| A::from_arg_matches(&matches);
    main_with(A::command(), std::env::args_os(), typed, run)
}

/// [`main`] with a given definition of the command line and given arguments.
pub(crate) fn main_with<A>(
    command: Command,
    args: impl IntoIterator<Item = OsString>,
    typed: impl FnOnce(ArgMatches) -> Result<A, clap::Error>,
    run: impl FnOnce(A) -> Result<()>,
) -> ExitCode {
    logger::install(LogLevel::Info.into());
    let name = command.get_name().to_owned();
    let args: Vec<OsString> = args.into_iter().collect();
    let of_help = help_of(&command, &args);
    let result = answer(complete(command), args, typed, run);
    let Err(error) = result else { return ExitCode::SUCCESS };
    let usage = match error.downcast_ref::<clap::Error>() {
        Some(usage) => Some(in_short(usage)),
        None => error.downcast_ref::<InvalidOption>().map(ToString::to_string),
    };
    match usage {
        Some(usage) => {
            complain(&name, &format!("{usage}; see {of_help} --help"));
            ExitCode::from(2)
        }
        None => {
            complain(&name, &format!("{error:#}"));
            ExitCode::from(1)
        }
    }
}

/// The program or its command whose help the arguments are about.
fn help_of(command: &Command, args: &[OsString]) -> String {
    let is_named = |name: &str| command.get_subcommands().any(|it| it.get_name() == name);
    let first = args.get(1).and_then(|arg| arg.to_str()).filter(|name| is_named(name));
    [Some(command.get_name()), first].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

const HELP_STATS: &str = "help-stats";
const MONITOR: &str = "monitor";
const FORMAT: &str = "stats_format";
const CGROUPS: &str = "stats-cgroups";

/// Adds what every program can say: what the statistics mean, and those of a scheduler that runs.
pub fn complete(command: Command) -> Command {
    let help = "Print what each of the statistics means";
    let action = ArgAction::SetTrue;
    let help_stats =
        Arg::new(HELP_STATS).long(HELP_STATS).action(action).exclusive(true).help(help);
    let others = command.get_arguments().map(|arg| arg.get_id().clone());
    let others: Vec<Id> = others.filter(|id| *id != FORMAT).collect();
    let has_format = command.get_arguments().any(|arg| *arg.get_id() == FORMAT);
    let help = "Start no scheduler, but print the statistics of the one that runs, every SECS seconds \
                (0.1 to 3600)";
    let monitor = Arg::new(MONITOR)
        .long(MONITOR)
        .value_name("SECS")
        .value_parser(value_parser!(Seconds))
        .conflicts_with_all(others)
        .help(help);
    let help = "Print what the N busiest cgroups were due and had as well (1 to 64)";
    let busiest = Arg::new(CGROUPS)
        .long(CGROUPS)
        .value_name("N")
        .value_parser(value_parser!(u8).range(1..=cgroups::MOST as i64))
        .requires(MONITOR)
        .help(help);
    let command = command.arg(monitor).arg(busiest).arg(help_stats);
    if !has_format {
        return command;
    }
    const PRINTING: &str = "printing";
    command
        .group(ArgGroup::new(PRINTING).args(["stats_secs", MONITOR]).multiple(true))
        .mut_arg(FORMAT, |arg| arg.requires(Resettable::Reset).requires(PRINTING))
}

fn answer<A>(
    mut command: Command,
    args: impl IntoIterator<Item = OsString>,
    typed: impl FnOnce(ArgMatches) -> Result<A, clap::Error>,
    run: impl FnOnce(A) -> Result<()>,
) -> Result<()> {
    match command.try_get_matches_from_mut(args) {
        Ok(matches) if matches.get_flag(HELP_STATS) => print(&statistics::help()),
        Ok(matches) => match matches.get_one(MONITOR) {
            Some(&every) => {
                let format = matches.try_get_one(FORMAT).ok().flatten();
                let cgroups = matches.get_one::<u8>(CGROUPS).map(|&most| most.into());
                monitor::run(every, format.copied().unwrap_or_default(), cgroups)
            }
            None => run(typed(matches).map_err(|error| error.format(&mut command))?),
        },
        Err(help) if !help.use_stderr() => print(&help.render().to_string()),
        Err(error) => Err(error.into()),
    }
}

/// Writes to standard output. A reader that has closed its end (`| head -1`) is no error.
///
/// # Errors
/// If it cannot be written for any other reason.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}

/// A text without line breaks, indentation and other white space but single spaces.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn complain(name: &str, message: &str) {
    // Without a stderr the exit code is all there is to say.
    let prefix = logger::failure_prefix();
    let _ = writeln!(io::stderr(), "{prefix}{name}: {}", one_line(message));
}
