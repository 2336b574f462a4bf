//! What a guest test is, and all of them together. Where a test is, its machine and its limit are.

use crate::cases;
use crate::machine::{self, Machine};
use crate::reliability::{self, Extent, Row};
use anyhow::Result;
use std::time::Duration;

/// A test as the module that has it declares it ([`tests`]).
pub struct Case {
    /// The path of its module in the code.
    pub module: &'static str,
    pub name: &'static str,
    pub run: fn(&Machine) -> Result<()>,
    /// The machines it runs on, and for how many seconds at most.
    pub on: &'static [(&'static Machine, u64)],
    /// What the failure of a test that has to fail says.
    pub fails_with: Option<&'static str>,
}

/// Declares a module's tests: `NAME: SECONDS s on MACHINE ..., SECONDS s on MACHINE ...;`, and
/// behind `=>` what its failure says, if it has to fail. The name is that of a function of the
/// module.
macro_rules! tests {
    ($($name:ident:
        $($seconds:literal s on $($machine:ident)+),+
        $(=> $fails_with:literal)?;
    )*) => {
        pub const TESTS: &[$crate::suite::Case] = &[$($crate::suite::Case {
            module: module_path!(),
            name: stringify!($name),
            run: $name,
            on: &[$($((&$crate::machine::$machine, $seconds)),+),+],
            fails_with: tests!(@maybe $($fails_with)?),
        }),*];
    };
    (@maybe) => { None };
    (@maybe $text:literal) => { Some($text) };
}
pub(crate) use tests;

/// How many times slower than the host for which the limits were set another may be, by itself or with
/// what else it does. A test that has to fail, as by a hang, has no such time.
const SLOW_HOST: u32 = 3;

/// A test that runs in a guest. An error or a panic fails it.
pub struct GuestTest {
    pub machine: &'static Machine,
    pub path: String,
    pub action: Action,
    pub limit: Duration,
    /// Whether it runs only when asked for.
    pub slow: bool,
    /// What the failure of a test that has to fail says.
    pub fails_with: Option<&'static str>,
}

/// What a test does.
pub enum Action {
    Case(fn(&Machine) -> Result<()>),
    Row(&'static Row, Extent),
}

impl GuestTest {
    /// `MACHINE::MODULE::CASE`.
    pub fn name(&self) -> String {
        format!("{}::{}", self.machine.name, self.path)
    }

    /// Runs it, in a guest of its machine.
    pub fn run(&self) -> Result<()> {
        match self.action {
            Action::Case(case) => case(self.machine),
            Action::Row(row, extent) => reliability::run(row, extent),
        }
    }

    /// A case on a machine.
    fn case(case: &Case, machine: &'static Machine, seconds: u64) -> GuestTest {
        let module = case.module.rsplit("::").next().unwrap_or_default();
        GuestTest {
            machine,
            path: format!("{module}::{}", case.name),
            action: Action::Case(case.run),
            limit: match case.fails_with {
                None => SLOW_HOST * Duration::from_secs(seconds),
                Some(_) => Duration::from_secs(seconds),
            },
            slow: machine.on_demand,
            fails_with: case.fails_with,
        }
    }
}

/// All guest tests, those of a machine together.
pub fn all() -> Vec<GuestTest> {
    let of_machine = |wanted: &'static Machine| {
        cases::all().flat_map(move |case| {
            let on = case.on.iter().filter(move |(machine, _)| *machine == wanted);
            on.map(move |(_, seconds)| GuestTest::case(case, wanted, *seconds))
        })
    };
    machine::ALL.into_iter().flat_map(of_machine).chain(reliability::tests()).collect()
}
