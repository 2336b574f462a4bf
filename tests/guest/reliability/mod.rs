//! RULE 1 under faults: the rows of the table in docs/reliability.md.
//!
//! Each row is a fault under load. It runs first under the kernel's own scheduler and then under
//! ours, in one boot, and tells what became of the tasks, of the scheduler, and of a task that
//! wants to run every 10 ms. `make test` runs the rows that are [`Row::in_make_test`] for a short
//! time under ours; `make reliability` runs all in full and writes the table.
//!
//! Invariant: a row fails if a task is lost, the scheduler is thrown out, or user space does not
//! decide again. It never fails for a time; those are for the table.

mod cpus;
mod handling;
mod memory;
mod scene;
mod soak;
mod storms;
mod user_space;

pub use scene::{Extent, Scene, run};

use crate::api::scheduler::{STATS, Scheduler};
use crate::machine::FAULTS;
use crate::suite::{Action, GuestTest};
use anyhow::Result;
use std::fmt;
use std::time::Duration;

/// A fault under load.
pub struct Row {
    /// The number of the fault in the issue that asked for the proof, and a letter where there are
    /// several.
    pub number: &'static str,
    /// The name of its test.
    pub name: &'static str,
    /// What happens, for a reader of the table.
    pub what: &'static str,
    pub start: fn() -> Result<Scheduler>,
    pub fault: fn(&mut Scene) -> Result<()>,
    pub end: End,
    /// Whether docs/reliability.md sets a bar for the delay.
    pub has_bar: bool,
    /// Whether `make test` runs it. Where it does not, a test of `cases` covers the row or it takes
    /// too long.
    pub in_make_test: bool,
    /// Whether `make soak` mixes it with others, on one attachment.
    pub mixes: bool,
}

/// What the fault does to the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It stays, and its threads decide again.
    Decides,
    /// It stays, with nobody in it who decides.
    Stays,
    /// It ends, and the kernel's own scheduler is back.
    Leaves,
}

/// The rows in the time that `make test` has for them, the same in full, and the soak.
pub fn tests() -> impl Iterator<Item = GuestTest> {
    let short = ROWS.iter().filter(|row| row.in_make_test).map(|row| row.test(Extent::Short));
    let full = ROWS.iter().map(|row| row.test(Extent::Full));
    short.chain(full).chain([soak::test()])
}

impl Row {
    fn test(&'static self, extent: Extent) -> GuestTest {
        let (group, limit) = match extent {
            Extent::Short => ("rows", Duration::from_secs(900)),
            // Attaching 200 times under load takes an hour and a half without KVM.
            Extent::Full => ("reliability", Duration::from_secs(9000)),
        };
        GuestTest {
            machine: &FAULTS,
            path: format!("{group}::{}", self.name),
            action: Action::Row(self, extent),
            limit,
            slow: extent == Extent::Full,
            fails_with: None,
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number, self.what)
    }
}

fn ours() -> Result<Scheduler> {
    Scheduler::start(&STATS)
}

fn dedicating() -> Result<Scheduler> {
    Scheduler::start(&[&STATS[..], &["--dedicate"]].concat())
}

/// A row that most others differ from in little.
const ROW: Row = Row {
    number: "",
    name: "",
    what: "",
    start: ours,
    fault: |scene| {
        scene.pass();
        Ok(())
    },
    end: End::Decides,
    has_bar: true,
    in_make_test: true,
    mixes: true,
};

/// All rows, in the order of the table.
pub const ROWS: &[Row] = &[
    Row { number: "0", name: "load_alone", what: "the load alone", in_make_test: false, ..ROW },
    Row {
        number: "1a",
        name: "thread_frozen",
        what: "one domain thread frozen for 5 s, again and again",
        fault: user_space::freeze_a_thread,
        in_make_test: false, // faults::tasks_run_while_a_domain_thread_is_frozen
        ..ROW
    },
    Row {
        number: "1b",
        name: "all_stopped",
        what: "SIGSTOP to the process for 10 s, again and again",
        fault: user_space::stop_all,
        in_make_test: false, // faults::tasks_run_while_the_scheduler_is_stopped
        ..ROW
    },
    Row {
        number: "2a",
        name: "killed",
        what: "SIGKILL",
        fault: user_space::kill,
        end: End::Leaves,
        has_bar: false,
        in_make_test: false, // attach::load_survives_kill_9
        mixes: false,
        ..ROW
    },
    Row {
        number: "2b",
        name: "crashed",
        what: "SIGSEGV",
        fault: user_space::crash,
        end: End::Leaves,
        has_bar: false,
        in_make_test: false, // attach::load_survives_a_crash
        mixes: false,
        ..ROW
    },
    Row {
        number: "2c",
        name: "panicking",
        what: "a panic in a policy",
        start: user_space::panicking,
        fault: user_space::panic,
        end: End::Leaves,
        has_bar: false,
        mixes: false,
        ..ROW
    },
    Row {
        number: "2d",
        name: "out_of_memory",
        what: "killed for want of memory",
        start: memory::in_a_cgroup,
        fault: memory::take_its_memory,
        end: End::Leaves,
        has_bar: false,
        mixes: false,
        ..ROW
    },
    Row {
        number: "3a",
        name: "swapping",
        what: "more than all memory in use, swapping",
        fault: memory::swap,
        in_make_test: false, // it takes two minutes to fill the memory; the next row swaps as well
        ..ROW
    },
    Row {
        number: "3b",
        name: "cgroup_limit",
        what: "the scheduler's memory cgroup at its limit, swapping",
        start: memory::in_a_cgroup,
        fault: memory::fill_the_cgroup,
        mixes: false,
        ..ROW
    },
    Row {
        number: "4a",
        name: "fork_bomb",
        what: "a tree that grows to 20,000 processes",
        fault: storms::forks,
        ..ROW
    },
    Row {
        number: "4b",
        name: "one_mutex",
        what: "2,000 threads on one mutex",
        fault: storms::mutex,
        ..ROW
    },
    Row {
        number: "4c",
        name: "affinities",
        what: "5,000 threads changing their affinity",
        fault: storms::affinity,
        ..ROW
    },
    Row {
        number: "4d",
        name: "deaths",
        what: "tasks killed wherever they are",
        fault: storms::deaths,
        ..ROW
    },
    Row {
        number: "4e",
        name: "pids_again",
        what: "the same with 4,096 pids",
        fault: storms::deaths_of_few_pids,
        ..ROW
    },
    Row {
        number: "4f",
        name: "cgroup_moves",
        what: "processes moved between cgroups with weights and limits",
        fault: storms::cgroups,
        ..ROW
    },
    Row {
        number: "4g",
        name: "class_changes",
        what: "niceness and scheduling class changed on the fly",
        fault: storms::classes,
        ..ROW
    },
    Row {
        number: "4h",
        name: "queues_full",
        what: "the queue to each domain thread full, then emptied at once",
        fault: storms::full_queues,
        mixes: false,
        ..ROW
    },
    Row {
        number: "5",
        name: "real_time_hogs",
        what: "real-time tasks that use 90 % of one CPU of each domain",
        fault: cpus::real_time_hogs,
        ..ROW
    },
    Row {
        number: "6a",
        name: "cpus_come_and_go",
        what: "CPUs off and on at random",
        fault: cpus::hotplug,
        in_make_test: false, // hotplug::a_cpu_goes_and_comes_again_and_again
        ..ROW
    },
    Row {
        number: "6b",
        name: "domain_goes",
        what: "all CPUs of a domain off and on",
        fault: cpus::a_domain_off,
        in_make_test: false, // hotplug::a_domain_goes_and_comes
        ..ROW
    },
    Row {
        number: "6c",
        name: "dedicated_cpu_goes",
        what: "the CPU of `--dedicate` off and on",
        start: dedicating,
        fault: cpus::dedicated_off,
        mixes: false,
        ..ROW
    },
    Row {
        number: "6d",
        name: "suspend",
        what: "suspended to memory and resumed",
        fault: cpus::suspend,
        ..ROW
    },
    Row {
        number: "7a",
        name: "attached_200_times",
        what: "detached and attached 200 times",
        fault: handling::again_and_again,
        has_bar: false,
        in_make_test: false, // attach::attaches_again_under_load
        mixes: false,
        ..ROW
    },
    Row {
        number: "7b",
        name: "two_instances",
        what: "a second instance, again and again",
        fault: handling::two_instances,
        has_bar: false,
        in_make_test: false, // errors::a_second_scheduler_is_refused
        ..ROW
    },
    Row {
        number: "7c",
        name: "another_scheduler",
        what: "another sched_ext scheduler attached in between",
        fault: handling::another_scheduler,
        has_bar: false,
        ..ROW
    },
    Row {
        number: "8",
        name: "random_decisions",
        what: "random decisions for a minute, more than their queue holds",
        start: handling::fuzzer,
        fault: handling::fuzz,
        end: End::Stays,
        has_bar: false,
        mixes: false,
        ..ROW
    },
];
