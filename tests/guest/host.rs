//! The host's role: each guest test is a trial, and the trials of one machine share a guest.
//!
//! A guest boots when the first of its tests is due, serves until a test of another machine is due,
//! and is replaced when a test leaves it unwell. By default one guest runs at a time. With GUESTS=2 there
//! are two, and each of them serves the next test that is due: a test holds while the host has other
//! work, so it holds beside the other guest. A guest that was provably lost by the emulator says nothing
//! about the test, which is run again in a new one.

use crate::boot::{Guest, Image};
use crate::console;
use crate::machine::Machine;
use crate::suite::{self, GuestTest};
use anyhow::{Context, Result, anyhow, bail};
use libtest_mimic::{Arguments, Trial};
use std::cell::RefCell;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

thread_local! {
    /// The guest of this thread. It dies with the thread that booted it.
    static HALL: RefCell<Option<Hall>> = const { RefCell::new(None) };
}

/// Runs the tests that the command line names, and says how they ended.
pub fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    let guests = match guests() {
        Ok(guests) => guests,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    args.test_threads = Some(guests);
    let folder = scratch().join(format!("guest-{}", std::process::id()));
    let house = Arc::new(House {
        folder: folder.clone(),
        live: args.nocapture,
        image: OnceLock::new(),
        halls: AtomicUsize::new(0),
        record: Mutex::default(),
    });
    let trials = suite::all().into_iter().map(|test| trial(test, Arc::clone(&house))).collect();
    let start = Instant::now();
    let conclusion = libtest_mimic::run(&args, trials);
    HALL.take();
    let mut record = house.record.lock().unwrap_or_else(PoisonError::into_inner);
    if record.times.len() > SLOWEST {
        eprintln!("{}", record.slowest(start.elapsed()));
    }
    for failure in &record.failures {
        eprintln!("{failure}\n");
    }
    if conclusion.has_failed() {
        eprintln!("The guests' consoles are in {}", folder.display());
    } else {
        let _ = std::fs::remove_dir_all(&folder);
    }
    conclusion.exit_code()
}

/// How many guests run at a time, by the environment variable GUESTS.
fn guests() -> Result<usize> {
    let Some(text) = std::env::var_os("GUESTS") else { return Ok(1) };
    let number = text.to_str().and_then(|text| text.parse().ok()).filter(|it| (1..=8).contains(it));
    number.with_context(|| format!("GUESTS={}: not a number from 1 to 8", text.display()))
}

/// How many of the slowest tests are named where more than these have run.
const SLOWEST: usize = 25;

/// Where cargo has programs put what they need for a while.
fn scratch() -> PathBuf {
    let this = std::env::current_exe().expect("this program has a file");
    this.ancestors().nth(2).expect("the file is where cargo has put it").join("tmp")
}

fn trial(test: GuestTest, house: Arc<House>) -> Trial {
    let slow = test.slow;
    Trial::test(test.name(), move || {
        let start = Instant::now();
        let result = HALL.with_borrow_mut(|hall| {
            hall.get_or_insert_with(|| Hall::new(Arc::clone(&house))).run(&test)
        });
        let mut record = house.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.times.push((start.elapsed(), test.name()));
        result.map_err(|e| record.note_failure(&test.name(), format!("{e:#}")).into())
    })
    .with_ignored_flag(slow)
}

/// What all halls have in common.
struct House {
    folder: PathBuf,
    live: bool,
    /// Made once; that it could not be made fails every test.
    image: OnceLock<Result<Image>>,
    /// How many halls there are.
    halls: AtomicUsize,
    record: Mutex<Record>,
}

/// How the tests went.
#[derive(Default)]
struct Record {
    /// What is said of each failure once more at the end, where the last lines are all that is kept
    /// of a long output.
    failures: Vec<String>,
    /// How long each test has taken, the boot of its guest included.
    times: Vec<(Duration, String)>,
}

/// Where the guests of a thread are received: at most one is in at a time.
struct Hall {
    house: Arc<House>,
    /// Of the consoles of its guests.
    folder: PathBuf,
    guest: Option<(&'static Machine, Guest)>,
}

/// In how many guests a test is tried at most, if the emulator loses them.
const ATTEMPTS: u32 = 3;

impl Hall {
    fn new(house: Arc<House>) -> Hall {
        let number = house.halls.fetch_add(1, Ordering::Relaxed);
        let folder = house.folder.join(number.to_string());
        Hall { house, folder, guest: None }
    }

    fn run(&mut self, test: &GuestTest) -> Result<()> {
        match (test.fails_with, self.run_in_guests(test)) {
            (None, result) => result,
            (Some(wanted), Err(e)) if format!("{e:#}").contains(wanted) => Ok(()),
            (Some(wanted), result) => {
                bail!("it should have failed with {wanted:?}, and: {result:?}")
            }
        }
    }

    /// Runs a test in one guest, and in others as long as the emulator loses them.
    fn run_in_guests(&mut self, test: &GuestTest) -> Result<()> {
        let mut guest = 1;
        loop {
            let result = self.run_once(test);
            match &result {
                Err(e) if console::emulator_fault(&format!("{e:#}")) => {}
                _ => return result,
            }
            eprintln!("    the emulator has lost guest {guest} of {ATTEMPTS} of this test");
            if guest == ATTEMPTS {
                return result.context("the emulator has lost every guest");
            }
            guest += 1;
        }
    }

    fn run_once(&mut self, test: &GuestTest) -> Result<()> {
        let guest = self.guest_of(test.machine)?;
        let outcome = guest.run(&test.name(), test.limit);
        if !outcome.guest_is_well {
            self.guest = None;
        }
        outcome.result
    }

    /// The guest that is in, if it is of this machine, or else a new one.
    fn guest_of(&mut self, machine: &'static Machine) -> Result<&mut Guest> {
        if self.guest.as_ref().is_some_and(|(is, _)| *is != machine) {
            self.guest = None;
        }
        if self.guest.is_none() {
            let house = &self.house;
            let image = house.image.get_or_init(|| Image::make(&house.folder));
            let image = image.as_ref().map_err(|e| anyhow!("no guest can be had: {e:#}"))?;
            self.guest = Some((machine, Guest::boot(machine, image, &self.folder, house.live)?));
        }
        Ok(&mut self.guest.as_mut().expect("a guest is in").1)
    }
}

impl Record {
    /// The slowest tests, and the time of all, which was `elapsed` in all.
    fn slowest(&mut self, elapsed: Duration) -> String {
        self.times.sort_unstable_by(|a, b| b.cmp(a));
        let all: Duration = self.times.iter().map(|(time, _)| *time).sum();
        let lines = self.times[..SLOWEST].iter();
        let lines = lines.map(|(time, name)| format!("{:6.1} s  {name}\n", time.as_secs_f64()));
        format!(
            "the slowest of {:.0} s, in {:.0} s:\n{}",
            all.as_secs_f64(),
            elapsed.as_secs_f64(),
            lines.collect::<String>()
        )
    }

    /// Keeps the gist of why a test failed: what the guest's kernel complains of, or else what was
    /// said last.
    fn note_failure(&mut self, test: &str, reason: String) -> String {
        const LINES: usize = 6;
        let gist: Vec<String> = match console::trouble(&reason) {
            Some(excerpt) => excerpt.lines().take(LINES).map(str::to_owned).collect(),
            None => {
                let lines: Vec<&str> = reason.lines().collect();
                lines[lines.len().saturating_sub(LINES)..]
                    .iter()
                    .map(|line| line.to_string())
                    .collect()
            }
        };
        self.failures.push(format!("{test} failed:\n    {}", gist.join("\n    ")));
        reason
    }
}
