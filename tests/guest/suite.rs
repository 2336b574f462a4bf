//! The list of guest tests: what runs on which machine, and for how long at most.

use crate::cases::*;
use crate::machine::{L3X1, L3X2, L3X4, Machine};
use anyhow::Result;
use std::time::Duration;

/// A test that runs in a guest. An error or a panic fails it.
pub struct GuestTest {
    pub machine: &'static Machine,
    path: &'static str,
    pub case: fn(&Machine) -> Result<()>,
    pub limit: Duration,
}

impl GuestTest {
    /// `MACHINE::MODULE::CASE`.
    pub fn name(&self) -> String {
        format!("{}::{}", self.machine.name, self.path.replace(' ', ""))
    }
}

/// The tests of a machine, each with its limit in seconds.
macro_rules! tests_on {
    ($tests:ident, $machine:ident: $($seconds:literal $case:path,)*) => {
        $($tests.push(GuestTest {
            machine: &$machine,
            path: stringify!($case),
            case: $case,
            limit: Duration::from_secs($seconds),
        });)*
    };
}

/// All guest tests, those of a machine together.
pub fn all() -> Vec<GuestTest> {
    let mut tests = Vec::new();
    tests_on! { tests, L3X1:
        20 guest::has_the_asked_topology,
    }
    tests_on! { tests, L3X2:
        20 guest::has_the_asked_topology,
        20 guest::kernel_has_sched_ext,
        40 guest::runs_hackbench,
    }
    tests_on! { tests, L3X4:
        20 guest::has_the_asked_topology,
    }
    tests
}
