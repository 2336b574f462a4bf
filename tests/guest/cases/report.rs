//! What `scx_manyland report` says of a scheduler that runs, and what it must not say.

use crate::api::cgroups::Cgroup;
use crate::api::load::{self, Hog};
use crate::api::scheduler::{self, Scheduler};
use crate::api::{cpus, wait_until};
use crate::machine::Machine;
use crate::suite::tests;
use anyhow::{Context, Result, ensure};
use scx_manyland::run::client::PATH;
use std::fs;
use std::path::Path;
use std::time::Duration;

tests! {
    a_report_tells_of_the_scheduler_and_of_no_user: 90 s on L3X2 ANY_KERNEL;
}

const LONG: Duration = Duration::from_secs(60);

/// What only this test calls anything.
const NAMES: [&str; 3] = ["zyxprogram", "zyxgroup", "zyxmachine"];

/// As root the report has what the scheduler and the kernel say; as a user without rights it has
/// less, and says so. Neither names a program, a cgroup or the machine.
pub fn a_report_tells_of_the_scheduler_and_of_no_user(_: &Machine) -> Result<()> {
    let [program, group, machine] = NAMES;
    fs::write("/proc/sys/kernel/hostname", machine).context("cannot name the machine")?;
    let scheduler = Scheduler::start(&["--slice-us", "4321", "--log-level", "error"])?;
    let cgroup = Cgroup::new(group)?;
    let hog = Hog::named(program, &cpus::online()?, LONG)?;
    cgroup.take_in(hog.pid())?;
    wait_until("the socket is there", LONG, || Path::new(PATH).exists())?;
    load::hackbench(1, 50, LONG)?;
    let report = of(scheduler::run(&["report", "-"])?)?;
    println!("{report}");
    for line in [
        "state: enabled",
        "root/ops: manyland_",
        "    slice_us = 4321",
        "parameters: ",
        "BTF: well-formed",
        "policy: vruntime",
        "statistics of the last second: {",
        "domain  CPUs",
        "    SCX_EV_",
        "attaching: cannot attach: scheduler \"manyland_",
    ] {
        ensure!(report.contains(line), "no {line:?} in the report");
    }
    let without_rights = of(scheduler::run_as_nobody(&["report", "-"])?)?;
    for line in ["state: enabled", "statistics: not known (may not read", "domain  CPUs"] {
        ensure!(without_rights.contains(line), "no {line:?} in {without_rights}");
    }
    for text in [&report, &without_rights] {
        for name in NAMES {
            ensure!(!text.contains(name), "{name} is in the report:\n{text}");
        }
    }
    hog.stop()?;
    // Less urgent messages were left out.
    ensure!(scheduler.said().is_empty(), "{}", scheduler.said());
    scheduler.stop()
}

/// The report of a run that succeeded.
fn of(run: scheduler::Run) -> Result<String> {
    ensure!(run.code == Some(0) && run.stderr.is_empty(), "{run:?}");
    Ok(run.stdout)
}
