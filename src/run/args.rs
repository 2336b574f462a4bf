//! The options of a run on the command line, for the program and for those that others write.
//!
//! Invariant: every field of [`RunOptions`] can be set here, and what is not set keeps the value that
//! the program started from.

use crate::kernel::options::{
    Format, PATIENCE_US, RunOptions, SLICE_MIN_US, SLICE_US, STANDING, STATS_SECONDS, StatsOptions,
};
use crate::policy::Slices;
use crate::topology::Granularity;
use crate::topology::preference::Prefer;
use clap::error::ErrorKind;
use clap::{Args, Command};
use std::time::Duration;

/// The options of a run, to be flattened into the arguments of a program ([`crate::run::program::main`]
/// shows how).
#[derive(Clone, Debug, Args)]
#[command(about = None, long_about = None)]
pub struct RunArgs {
    /// What a domain, the CPUs that one scheduling thread serves, is made of
    #[arg(long, value_name = "G", default_value_t, value_enum)]
    domain: Granularity,
    /// How long a task may run while none waits, in microseconds (100 to 1000000)
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = in_range(SLICE_US))]
    slice_us: u64,
    /// The shortest time a task may run while many wait, in microseconds (10 to the slice)
    /// [default: 500, or the slice if that is shorter]
    #[arg(long, value_name = "N", value_parser = in_range(SLICE_MIN_US))]
    slice_min_us: Option<u64>,
    /// How long a task may wait for a decision before the kernel runs it without one, in
    /// microseconds (10 to 1000000); longer by itself where a guest's own clock is late
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = in_range(PATIENCE_US))]
    patience_us: u64,
    /// A decision may hold for so many of a task's next wake-ups as well, if its policy says so: the
    /// task then does not wait for its scheduling thread (0 to 1000; 0: each wake-up is decided anew)
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = in_range(STANDING))]
    standing: u64,
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

impl RunArgs {
    /// The options that were typed, over the defaults of [`RunOptions`].
    ///
    /// # Errors
    /// What [`RunOptions::check`] has against them, as an error of the command line.
    pub fn options(self) -> Result<RunOptions, clap::Error> {
        self.over(RunOptions::default())
    }

    /// Makes `options` the defaults of a command that has these arguments, in its help too.
    pub(crate) fn starting_from(command: Command, options: &RunOptions) -> Command {
        let us = |duration: Duration| duration.as_micros().to_string();
        command
            .mut_arg("domain", |arg| arg.default_value(options.domain.to_string()))
            .mut_arg("slice_us", |arg| arg.default_value(us(options.slices.base)))
            .mut_arg("patience_us", |arg| arg.default_value(us(options.patience)))
            .mut_arg("standing", |arg| arg.default_value(options.standing.to_string()))
    }

    /// The options that were typed over others, which were given to [`Self::starting_from`].
    pub(crate) fn over(self, options: RunOptions) -> Result<RunOptions, clap::Error> {
        let base = Duration::from_micros(self.slice_us);
        let min = self.slice_min_us.map(Duration::from_micros);
        let stats = self.stats.map(|seconds| StatsOptions {
            every: Duration::from_secs(seconds),
            format: self.stats_format,
        });
        let options = RunOptions {
            domain: self.domain,
            slices: Slices { base, min: min.unwrap_or(options.slices.min.min(base)) },
            patience: Duration::from_micros(self.patience_us),
            standing: u32::try_from(self.standing).expect("it is in its range"),
            strict: self.strict || options.strict,
            no_steal: self.no_steal || options.no_steal,
            partial: self.partial || options.partial,
            dedicate: self.dedicate || options.dedicate,
            prefer: self.prefer.or(options.prefer),
            stats: stats.or(options.stats),
            verbose: self.verbose || options.verbose,
        };
        match options.check() {
            Ok(()) => Ok(options),
            Err(error) => Err(clap::Error::raw(ErrorKind::ValueValidation, error)),
        }
    }
}

fn in_range(range: std::ops::RangeInclusive<u64>) -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(range)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches;

    fn typed(args: &[&str], from: RunOptions) -> Result<RunOptions, clap::Error> {
        let command = RunArgs::augment_args(Command::new("test"));
        let command = RunArgs::starting_from(command, &from);
        let matches = command.try_get_matches_from([&["test"], args].concat())?;
        RunArgs::from_arg_matches(&matches)?.over(from)
    }

    #[test]
    fn nothing_typed_leaves_everything_as_it_was() {
        assert_eq!(typed(&[], RunOptions::default()).unwrap(), RunOptions::default());
        let other = RunOptions {
            domain: Granularity::Core,
            slices: Slices { base: Duration::from_millis(2), min: Duration::from_millis(1) },
            patience: Duration::from_micros(77),
            standing: 3,
            strict: true,
            no_steal: true,
            partial: true,
            dedicate: true,
            prefer: Some(Prefer::Efficiency),
            stats: Some(StatsOptions { every: Duration::from_secs(9), format: Format::Json }),
            verbose: true,
        };
        assert_eq!(typed(&[], other.clone()).unwrap(), other);
    }

    #[test]
    fn every_option_arrives() {
        let args = "--domain llc --slice-us 1000 --slice-min-us 20 --patience-us 10 --standing 0 --strict \
                    --no-steal --partial --dedicate --prefer none --stats 2 --stats-format json -v";
        let expected = RunOptions {
            domain: Granularity::L3,
            slices: Slices { base: Duration::from_millis(1), min: Duration::from_micros(20) },
            patience: Duration::from_micros(10),
            standing: 0,
            strict: true,
            no_steal: true,
            partial: true,
            dedicate: true,
            prefer: Some(Prefer::None),
            stats: Some(StatsOptions { every: Duration::from_secs(2), format: Format::Json }),
            verbose: true,
        };
        let args = args.split_whitespace().collect::<Vec<_>>();
        assert_eq!(typed(&args, RunOptions::default()).unwrap(), expected);
    }

    #[test]
    fn a_short_slice_shortens_the_default_minimum() {
        let slices = typed(&["--slice-us", "200"], RunOptions::default()).unwrap().slices;
        assert_eq!(slices.min, Duration::from_micros(200));
        let args = ["--slice-us", "200", "--slice-min-us", "201"];
        let error = typed(&args, RunOptions::default()).unwrap_err();
        assert!(error.to_string().contains("201 us"), "{error}");
    }
}
