//! What can be chosen for a run of the scheduler: each option's name, range, default and help.
//!
//! Invariant: [`RunOptions`] is the only list. The command line, the defaults, the check of what a
//! program sets and the tables of the documents follow from its attributes.

pub use crate::topology::preference::Prefer;

use crate::policy::Slices;
use crate::topology::Granularity;
use clap::builder::{RangedU64ValueParser, Resettable};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, ValueEnum};
use log::LevelFilter;
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::error::Error;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

/// The shortest slice, unless it is set or the slice is shorter.
const SLICE_MIN_US: u64 = 500;

/// The form of what is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// The options of a run, which can be flattened into the arguments of a program
/// ([`crate::run::program::main`] shows how). What is said of each here is its text in `--help`.
///
/// ```
/// use scx_manyland::options::RunOptions;
/// use scx_manyland::topology::Granularity;
/// let options = RunOptions { domain: Granularity::L2, ..RunOptions::default() };
/// options.check()?;
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Args, Serialize)]
#[command(about = None, long_about = None)]
pub struct RunOptions {
    /// What a domain, the CPUs that one domain thread serves, is made of
    #[arg(long, value_name = "G", default_value_t, value_enum)]
    pub domain: Granularity,
    /// How long a task may run while none waits, in microseconds (100 to 1000000)
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = number::<u64>(100..=1_000_000))]
    pub slice_us: u64,
    /// The shortest time a task may run while many wait, in microseconds (10 to the slice). If it is
    /// given, timers end slices that are shorter than a tick; otherwise these end at the next tick
    /// [default: 500, or the slice if that is shorter]
    #[arg(long, value_name = "N", value_parser = number::<u64>(10..=1_000_000))]
    pub slice_min_us: Option<u64>,
    /// How long a task may wait for a decision before the kernel runs it without one, in
    /// microseconds (10 to 1000000); longer by itself in a guest whose timers lag
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = number::<u64>(10..=1_000_000))]
    pub patience_us: u64,
    /// For how many of a task's next wake-ups a decision may hold as well, if its policy says so:
    /// the task then does not wait for its domain thread (0 to 1000; 0: each wake-up is decided
    /// anew)
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = number::<u32>(0..=1000))]
    pub standing: u32,
    /// Run tasks by decisions only, in exactly the sequence of the policy: no safety net and no
    /// stealing in the kernel until a domain thread stalls
    #[arg(long)]
    pub strict: bool,
    /// Domains do not help each other: no stealing, no use of another domain's idle CPUs, and tasks
    /// keep their home (to see what that costs)
    #[arg(long)]
    pub no_steal: bool,
    /// No running task gives way to one that wakes up before its slice ends, unless a policy says so
    /// (to see what that is worth)
    #[arg(long)]
    pub no_preempt: bool,
    /// Schedule only the tasks that chose the scheduling class SCHED_EXT themselves
    #[arg(long)]
    pub partial: bool,
    /// Each domain thread keeps one CPU of its domain to itself, spinning: the lowest latency,
    /// at the price of that CPU. A task that is bound to it has what the thread leaves
    #[arg(long)]
    pub dedicate: bool,
    /// Which kind of core tasks get first, where a machine has fast and slow ones
    /// [default: efficiency on battery, else performance]
    #[arg(long, value_name = "KIND", value_enum)]
    pub prefer: Option<Prefer>,
    /// Leave the frequencies of CPUs alone: under the governor schedutil each busy CPU then asks for
    /// its highest
    #[arg(long)]
    pub no_freq_scaling: bool,
    /// Print statistics every SECS seconds (0.1 to 3600) [default: none]
    #[arg(long = "stats", value_name = "SECS")]
    pub stats_secs: Option<Seconds>,
    /// The form of the statistics (with --stats)
    #[arg(long, value_name = "FORMAT", default_value_t, value_enum, requires = "stats_secs")]
    pub stats_format: Format,
    /// How many bytes of the kernel's dump to print if an error ends the scheduler (0 to 1048576;
    /// 0: none of it)
    #[arg(long, value_name = "N", default_value_t = 32768, value_parser = number::<u32>(0..=1_048_576))]
    pub exit_dump_len: u32,
    /// The least urgent messages that are printed
    #[arg(long, value_name = "LEVEL", default_value_t, value_enum)]
    pub log_level: LogLevel,
    /// Say more of what is being done (--log-level debug)
    #[arg(short, long)]
    pub verbose: bool,
}

/// How urgent a message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What ends the scheduler
    Error,
    /// What should not be
    Warn,
    /// What happens
    #[default]
    Info,
    /// How it happens, as libbpf's messages while it loads the BPF side
    Debug,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> LevelFilter {
        match level {
            LogLevel::Error => LevelFilter::Error,
            LogLevel::Warn => LevelFilter::Warn,
            LogLevel::Info => LevelFilter::Info,
            LogLevel::Debug => LevelFilter::Debug,
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
        })
    }
}

/// A time from one line of statistics to the next: 0.1 to 3600 seconds, to the millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds(Duration);

impl Seconds {
    const RANGE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

    /// As long as a duration.
    ///
    /// # Errors
    /// If it is out of range.
    pub fn new(duration: Duration) -> Result<Seconds, InvalidOption> {
        let whole = Duration::from_millis(duration.as_millis().try_into().unwrap_or(u64::MAX));
        match Self::RANGE.contains(&whole) {
            true => Ok(Seconds(whole)),
            false => Err(InvalidOption(format!(
                "{} is not in {}..={}",
                duration.as_secs_f64(),
                Self::RANGE.start().as_secs_f64(),
                Self::RANGE.end().as_secs_f64()
            ))),
        }
    }

    /// The duration.
    pub fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Seconds {
    type Err = InvalidOption;

    fn from_str(text: &str) -> Result<Seconds, InvalidOption> {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let seconds = text.parse::<f64>().ok().filter(|_| is_plain);
        let duration = seconds.and_then(|it| Duration::try_from_secs_f64(it).ok());
        let duration = duration
            .ok_or_else(|| InvalidOption("not a number of seconds, such as 1 or 0.5".to_owned()))?;
        Seconds::new(duration)
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.as_secs_f64())
    }
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn number<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> RangedU64ValueParser<T> {
    RangedU64ValueParser::new().range(range)
}

/// What a command line without options says.
impl Default for RunOptions {
    fn default() -> Self {
        static DEFAULT: LazyLock<RunOptions> = LazyLock::new(|| {
            let matches = RunOptions::command().try_get_matches_from([""]);
            matches
                .and_then(|matches| RunOptions::from_arg_matches(&matches))
                .expect("no option is required")
        });
        DEFAULT.clone()
    }
}

impl RunOptions {
    /// How long tasks run.
    pub fn slices(&self) -> Slices {
        let min_us = self.slice_min_us.unwrap_or(SLICE_MIN_US).min(self.slice_us);
        Slices { base: Duration::from_micros(self.slice_us), min: Duration::from_micros(min_us) }
    }

    /// How long a task may wait for a decision before the kernel runs it without one.
    pub fn patience(&self) -> Duration {
        Duration::from_micros(self.patience_us)
    }

    /// The least urgent messages that are printed.
    pub fn log_level(&self) -> LevelFilter {
        if self.verbose { LevelFilter::Debug } else { self.log_level.into() }
    }

    /// Checks that every option is within its range.
    ///
    /// # Errors
    /// Names the first one that is not, and its range, as on a command line.
    pub fn check(&self) -> Result<(), InvalidOption> {
        let alone = Self::command().mut_args(|arg| arg.requires(Resettable::Reset));
        let typed = std::iter::once(String::new()).chain(self.to_args());
        alone.try_get_matches_from(typed).map_err(|error| InvalidOption(in_short(&error)))?;
        match self.slice_min_us {
            Some(min_us) if min_us > self.slice_us => Err(InvalidOption(format!(
                "the shortest slice ({min_us} us) must not be longer than the slice ({} us)",
                self.slice_us
            ))),
            _ => Ok(()),
        }
    }

    /// The arguments of a command line that says the same.
    fn to_args(&self) -> Vec<String> {
        let command = Self::command();
        let args = command.get_arguments().filter_map(|arg| {
            let long = arg.get_long()?;
            match self.value(arg) {
                Value::Null | Value::Bool(false) => None,
                Value::Bool(true) => Some(format!("--{long}")),
                value => Some(format!("--{long}={}", bare(&value))),
            }
        });
        args.collect()
    }

    /// What the option of `arg` is set to.
    fn value(&self, arg: &Arg) -> Value {
        let options = serde_json::to_value(self).expect("options are plain data");
        options.get(arg.get_id().as_str()).cloned().unwrap_or_default()
    }

    /// A command line with these options and no others.
    fn command() -> Command {
        Self::augment_args(Command::new(""))
    }

    /// Makes these the defaults that the help of a command shows.
    pub(crate) fn show_as_defaults(&self, command: Command) -> Command {
        command.mut_args(|arg| match self.value(&arg) {
            Value::Null => arg,
            _ if arg.get_default_values().is_empty() => arg,
            value => arg.default_value(bare(&value)),
        })
    }

    /// Sets what was typed, and nothing else. A shorter slice shortens the shortest one.
    pub(crate) fn set_typed(&mut self, mut matches: ArgMatches) -> Result<(), clap::Error> {
        let ids: Vec<_> = matches.ids().map(|id| id.as_str().to_owned()).collect();
        for id in ids.iter().filter(|id| !is_typed(&matches, id)).collect::<Vec<_>>() {
            matches.try_clear_id(id).expect("the command has it");
        }
        let keeps_min = !matches.contains_id("slice_us") || matches.contains_id("slice_min_us");
        self.update_from_arg_matches(&matches)?;
        if !keeps_min {
            self.slice_min_us = self.slice_min_us.map(|min_us| min_us.min(self.slice_us));
        }
        Ok(())
    }
}

fn is_typed(matches: &ArgMatches, id: &str) -> bool {
    matches.value_source(id) == Some(ValueSource::CommandLine)
}

/// A value as it is typed.
fn bare(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What is wrong with a command line, on one line: without clap's tips and its usage.
pub fn in_short(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let paragraph = text.lines().take_while(|line| !line.trim().is_empty());
    let line = paragraph.map(str::trim).collect::<Vec<_>>().join(" ");
    line.trim_start_matches("error: ").to_owned()
}

/// An option that is out of its range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidOption(String);

impl fmt::Display for InvalidOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for InvalidOption {}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Format::Text => "text",
            Format::Json => "json",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// None has its default.
    const OTHER: RunOptions = RunOptions {
        domain: Granularity::Core,
        slice_us: 2000,
        slice_min_us: Some(1000),
        patience_us: 77,
        standing: 3,
        strict: true,
        no_steal: true,
        no_preempt: true,
        partial: true,
        dedicate: true,
        prefer: Some(Prefer::Efficiency),
        no_freq_scaling: true,
        stats_secs: Some(Seconds(Duration::from_millis(1500))),
        stats_format: Format::Json,
        exit_dump_len: 4096,
        log_level: LogLevel::Warn,
        verbose: true,
    };

    fn typed(args: &[&str], over: &RunOptions) -> Result<RunOptions, clap::Error> {
        let command = over.show_as_defaults(RunOptions::command());
        let mut options = over.clone();
        options.set_typed(command.try_get_matches_from([&[""], args].concat())?)?;
        Ok(options)
    }

    #[test]
    fn the_defaults_are_within_range() {
        let defaults = RunOptions::default();
        defaults.check().unwrap();
        let Slices { base, min } = defaults.slices();
        assert_eq!((base.as_micros(), min.as_micros()), (5000, 500));
    }

    #[test]
    fn nothing_typed_leaves_everything_as_it_was() {
        for options in [RunOptions::default(), OTHER] {
            assert_eq!(typed(&[], &options).unwrap(), options);
        }
    }

    #[test]
    fn every_option_arrives() {
        let args = OTHER.to_args();
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        assert_eq!(args.len(), RunOptions::command().get_arguments().count());
        assert_eq!(typed(&args, &RunOptions::default()).unwrap(), OTHER);
        assert_eq!(typed(&["-v"], &RunOptions { verbose: false, ..OTHER }).unwrap(), OTHER);
        assert_eq!(typed(&["--domain", "llc"], &OTHER).unwrap().domain, Granularity::L3);
    }

    #[test]
    fn a_short_slice_shortens_the_shortest_one() {
        let over = RunOptions { slice_min_us: Some(1000), ..RunOptions::default() };
        for over in [RunOptions::default(), over] {
            let options = typed(&["--slice-us", "200"], &over).unwrap();
            options.check().unwrap();
            assert_eq!(options.slices().min, Duration::from_micros(200));
        }
        let args = ["--slice-us", "200", "--slice-min-us", "201"];
        let error = typed(&args, &RunOptions::default()).unwrap().check().unwrap_err();
        assert!(error.to_string().contains("201 us"), "{error}");
    }

    #[test]
    fn the_help_shows_what_was_set_before() {
        let mut command = OTHER.show_as_defaults(RunOptions::command());
        let help = command.render_long_help().to_string();
        for default in ["core", "2000", "77", "3", "json"] {
            assert!(help.contains(&format!("[default: {default}]")), "{default}: {help}");
        }
    }

    #[test]
    fn seconds_have_fractions() {
        for (text, ms) in
            [("1", 1000), ("0.1", 100), ("0.25", 250), ("2.", 2000), ("3600", 3_600_000)]
        {
            let seconds: Seconds = text.parse().unwrap();
            assert_eq!(seconds.duration(), Duration::from_millis(ms), "{text}");
            assert_eq!(seconds.to_string().parse(), Ok(seconds));
        }
        for text in ["0", "0.09", "3600.1", "1e999", "inf", "1..5", "."] {
            assert!(text.parse::<Seconds>().is_err(), "{text} is accepted");
        }
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let usual = RunOptions::default();
        for (options, expected) in [
            (
                RunOptions { slice_us: 99, ..usual.clone() },
                "invalid value '99' for '--slice-us <N>': 99 is not in 100..=1000000",
            ),
            (RunOptions { slice_min_us: Some(9), ..usual.clone() }, "9 is not in 10..=1000000"),
            (
                RunOptions { slice_us: 100, slice_min_us: Some(101), ..usual.clone() },
                "the shortest slice (101 us) must not be longer than the slice (100 us)",
            ),
            (RunOptions { patience_us: 1_000_001, ..usual.clone() }, "'--patience-us <N>'"),
            (RunOptions { standing: 1001, ..usual.clone() }, "1001 is not in 0..=1000"),
            (
                RunOptions { stats_secs: Some(Seconds(Duration::ZERO)), ..usual.clone() },
                "0 is not in 0.1..=3600",
            ),
        ] {
            let error = options.check().unwrap_err().to_string();
            assert!(error.contains(expected) && error.lines().count() == 1, "{error}");
        }
        RunOptions { stats_format: Format::Json, ..usual }.check().unwrap();
    }
}
