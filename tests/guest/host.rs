//! The host's role: each guest test is a trial, and the trials of one machine share a guest.
//!
//! A guest boots when the first of its tests is due, serves until a test of another machine is due, and is replaced when a
//! test leaves it unwell. One guest runs at a time, for the tests measure times.

use crate::boot::{Guest, Image};
use crate::machine::Machine;
use crate::suite::{self, GuestTest};
use anyhow::{Result, anyhow, bail};
use libtest_mimic::{Arguments, Trial};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

pub fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    // One after the other, and on this thread: a guest dies with the thread that booted it.
    args.test_threads = Some(1);
    let folder =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("guest-{}", std::process::id()));
    let hall = Arc::new(Mutex::new(Hall {
        folder: folder.clone(),
        live: args.nocapture,
        image: None,
        guest: None,
    }));
    let trials = suite::all().into_iter().map(|test| trial(test, Arc::clone(&hall))).collect();
    let conclusion = libtest_mimic::run(&args, trials);
    hall.lock().unwrap_or_else(PoisonError::into_inner).guest = None;
    if conclusion.has_failed() {
        eprintln!("The guests' consoles are in {}", folder.display());
    } else {
        let _ = std::fs::remove_dir_all(&folder);
    }
    conclusion.exit_code()
}

fn trial(test: GuestTest, hall: Arc<Mutex<Hall>>) -> Trial {
    let slow = test.slow || test.machine.is_slow();
    Trial::test(test.name(), move || {
        let mut hall = hall.lock().unwrap_or_else(PoisonError::into_inner);
        hall.run(&test).map_err(|e| format!("{e:#}").into())
    })
    .with_ignored_flag(slow)
}

/// Where the guests are received: at most one is in at a time.
struct Hall {
    folder: PathBuf,
    live: bool,
    /// Made once; that it could not be made fails every test.
    image: Option<Result<Image>>,
    guest: Option<(&'static Machine, Guest)>,
}

impl Hall {
    fn run(&mut self, test: &GuestTest) -> Result<()> {
        let guest = self.guest_of(test.machine)?;
        let outcome = guest.run(&test.name(), test.limit);
        if !outcome.guest_is_well {
            self.guest = None;
        }
        match (test.fails_with, outcome.result) {
            (None, result) => result,
            (Some(wanted), Err(e)) if format!("{e:#}").contains(wanted) => Ok(()),
            (Some(wanted), result) => {
                bail!("it should have failed with {wanted:?}, and: {result:?}")
            }
        }
    }

    /// The guest that is in, if it is of this machine, or else a new one.
    fn guest_of(&mut self, machine: &'static Machine) -> Result<&mut Guest> {
        if self.guest.as_ref().is_some_and(|(is, _)| *is != machine) {
            self.guest = None;
        }
        if self.guest.is_none() {
            let image = self.image.get_or_insert_with(|| Image::make(&self.folder));
            let image = image.as_ref().map_err(|e| anyhow!("no guest can be had: {e:#}"))?;
            self.guest = Some((machine, Guest::boot(machine, image, self.live)?));
        }
        Ok(&mut self.guest.as_mut().expect("a guest is in").1)
    }
}
