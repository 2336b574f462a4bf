//! How a program answers its command line. [`main`] is for programs with options of their own,
//! [`Builder::main`](crate::Builder::main) for those without.
//!
//! Invariant: every failure is one line on standard error that starts with the program's name, with
//! exit code 2 where the command line is at fault and 1 for anything else.

use anyhow::{Context, Result};
use clap::{Command, FromArgMatches, Parser};
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
/// use scx_manyland::{Builder, DomainAllocator, RunArgs, program};
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
///     run: RunArgs,
/// }
///
/// fn main() -> ExitCode {
///     program::main(|args: Args| {
///         let slice = Duration::from_millis(args.slice_ms);
///         Builder::new(move |_| Fifo::new(slice)).options(args.run.options()?).run()
///     })
/// }
/// ```
pub fn main<A: Parser>(run: impl FnOnce(A) -> Result<()>) -> ExitCode {
    main_with(A::command(), std::env::args_os(), run)
}

/// [`main`] with a given definition of the command line and given arguments.
pub(crate) fn main_with<A: FromArgMatches>(
    mut command: Command,
    args: impl IntoIterator<Item = OsString>,
    run: impl FnOnce(A) -> Result<()>,
) -> ExitCode {
    let name = command.get_name().to_owned();
    let parsed = command.try_get_matches_from_mut(args).and_then(|matches| {
        A::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    });
    let result = match parsed {
        Ok(args) => run(args),
        Err(error) if error.use_stderr() => Err(error.into()),
        Err(help) => print(&help.render().to_string()),
    };
    let Err(error) = result else { return ExitCode::SUCCESS };
    match error.downcast_ref::<clap::Error>() {
        Some(usage) => {
            complain(&name, &format!("{}; see {name} --help", in_short(usage)));
            ExitCode::from(2)
        }
        None => {
            complain(&name, &format!("{error:#}"));
            ExitCode::from(1)
        }
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

/// The fault of a command line, on one line, without clap's tips and its usage.
pub fn in_short(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let paragraph = text.lines().take_while(|line| !line.trim().is_empty());
    let line = paragraph.map(str::trim).collect::<Vec<_>>().join(" ");
    line.trim_start_matches("error: ").to_owned()
}

fn complain(name: &str, message: &str) {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    // Without a stderr the exit code is all there is to say.
    let _ = writeln!(io::stderr(), "{name}: {line}");
}
