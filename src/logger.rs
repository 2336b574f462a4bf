//! Messages to the user, through the facade `log`: a message is a line on standard error with the
//! time and its level, or with the level alone where systemd's journal reads it, which has the time.
//!
//! A program that uses the library may have a logger of its own. Then that one gets the messages.
//!
//! Invariant: no message waits for its reader for good ([`crate::printer`]), and a domain thread
//! writes none: a policy may log, and its message is left out and counted.

use crate::printer;
use log::{Level, LevelFilter, Log, Metadata, Record};
use nix::sys::stat::fstat;
use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The environment variable by which systemd says that standard error is its journal.
const JOURNAL: &str = "JOURNAL_STREAM";

thread_local! {
    static SILENT: Cell<bool> = const { Cell::new(false) };
}

/// How many messages of domain threads were left out.
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

/// Whether the process's logger is this one.
static OURS: OnceLock<bool> = OnceLock::new();

/// Whether the journal reads standard error.
static TO_JOURNAL: LazyLock<bool> = LazyLock::new(|| {
    let stream = std::env::var(JOURNAL).unwrap_or_default();
    fstat(io::stderr().as_fd()).is_ok_and(|it| stream == format!("{}:{}", it.st_dev, it.st_ino))
});

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        if SILENT.get() {
            LEFT_OUT.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let text = record.args().to_string();
        printer::say(&match *TO_JOURNAL {
            true => for_journal(record.level(), &text),
            false => for_people(record.level(), SystemTime::now(), &text),
        });
    }

    fn flush(&self) {}
}

/// Makes this the process's logger, unless the program has one, and lets messages of a level and
/// the more urgent ones through.
pub fn install(level: LevelFilter) {
    let is_ours = *OURS.get_or_init(|| {
        LazyLock::force(&TO_JOURNAL);
        log::set_logger(&Logger).is_ok()
    });
    if is_ours {
        log::set_max_level(level);
    }
}

/// The calling thread is a domain thread, which must wait for nothing.
pub fn silence_thread() {
    SILENT.set(true);
}

/// How many messages of domain threads were left out since this was asked last.
pub fn left_out() -> u64 {
    LEFT_OUT.swap(0, Ordering::Relaxed)
}

/// The start of a line that says a failure, for the journal.
pub fn failure_prefix() -> &'static str {
    if *TO_JOURNAL { journal_prefix(Level::Error) } else { "" }
}

/// A level as syslog(3) numbers it.
fn journal_prefix(level: Level) -> &'static str {
    match level {
        Level::Error => "<3>",
        Level::Warn => "<4>",
        Level::Info => "<6>",
        Level::Debug | Level::Trace => "<7>",
    }
}

/// Each line with its level.
fn for_journal(level: Level, text: &str) -> String {
    let prefix = journal_prefix(level);
    text.lines().map(|line| format!("{prefix}{line}\n")).collect()
}

/// The first line has the time and the level before it.
fn for_people(level: Level, now: SystemTime, text: &str) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    format!("{} {level:<5} {}\n", in_utc(since), text.trim_end())
}

/// A time since 1970 as RFC 3339 has it. The time zone is UTC: a confined process can read no file
/// that would say another.
fn in_utc(since: Duration) -> String {
    const DAY: u64 = 24 * 60 * 60;
    let (days, seconds) = (since.as_secs() / DAY, since.as_secs() % DAY);
    let mut year = 1970;
    let mut day = days;
    while day >= days_of(year) {
        day -= days_of(year);
        year += 1;
    }
    let february = days_of(year) - 337;
    let mut month = 1;
    for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < days {
            break;
        }
        day -= days;
        month += 1;
    }
    format!(
        "{year}-{month:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        day + 1,
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        since.subsec_millis()
    )
}

fn days_of(year: u64) -> u64 {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    if is_leap { 366 } else { 365 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(in_utc(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn a_message_has_its_time_once_and_in_the_journal_its_level_on_each_line() {
        let text = "domain  CPUs\n     0  0-3\n";
        let then = UNIX_EPOCH + Duration::from_millis(1_764_211_025_042);
        let expected = "2025-11-27T02:37:05.042Z WARN  domain  CPUs\n     0  0-3\n";
        assert_eq!(for_people(Level::Warn, then, text), expected);
        assert_eq!(for_journal(Level::Warn, text), "<4>domain  CPUs\n<4>     0  0-3\n");
        assert_eq!(for_journal(Level::Error, "x"), "<3>x\n");
    }

    /// Counted, and not written: a write could wait.
    #[test]
    fn a_domain_thread_says_nothing() {
        install(LevelFilter::Info);
        let _ = left_out();
        let thread = std::thread::spawn(|| {
            silence_thread();
            log::error!("a policy's message");
            log::debug!("one that is not asked for");
        });
        thread.join().unwrap();
        assert_eq!(left_out(), 1);
        assert_eq!(left_out(), 0);
    }
}
