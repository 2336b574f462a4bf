//! What the user did not mean: one clear line, the right exit status, and nothing left behind.

use crate::api::scheduler::{self, Run, Scheduler};
use crate::api::{load, sched_ext};
use crate::machine::Machine;
use crate::suite::tests;
use anyhow::{Result, ensure};
use std::fs;
use std::time::Duration;

tests! {
    without_root_it_says_so: 40 s on L3X2;
    a_second_scheduler_is_refused: 90 s on L3X2;
    bad_options_are_usage_errors: 60 s on L3X2;
    a_broken_topology_is_refused: 60 s on L3X2;
    a_kernel_with_malformed_btf_is_refused: 60 s on MALFORMED;
    isolcpus_is_named: 60 s on ISOLCPUS;
    the_only_cpu_cannot_be_dedicated: 30 s on L3X1;
}

pub fn without_root_it_says_so(_: &Machine) -> Result<()> {
    is_one_clear_line(&scheduler::run_as_nobody(&[])?, "root")
}

/// A second scheduler is refused, and the first serves on.
pub fn a_second_scheduler_is_refused(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&[])?;
    is_one_clear_line(&scheduler::run(&[])?, "manyland")?;
    ensure!(
        sched_ext::state() == "enabled" && sched_ext::scheduler().starts_with("manyland_"),
        "the first scheduler is gone"
    );
    load::hackbench(1, 10, Duration::from_secs(30))?;
    scheduler.stop()
}

pub fn bad_options_are_usage_errors(_: &Machine) -> Result<()> {
    for args in [
        &["--no-such-option"][..],
        &["--domain", "village"],
        &["--policy", "monarchy"],
        &["--slice-us", "-1"],
        &["--stats", "often"],
        &["topology", "--format", "song"],
    ] {
        let run = scheduler::run(args)?;
        ensure!(run.code == Some(2), "{args:?}: {run:?}");
        ensure!(
            run.stderr.contains(args[args.len() - 1]),
            "{args:?} is not named in {:?}",
            run.stderr
        );
        ensure!(sched_ext::state() == "disabled");
    }
    Ok(())
}

pub fn a_broken_topology_is_refused(_: &Machine) -> Result<()> {
    fs::write("/tmp/broken.xml", "<?xml version=\"1.0\"?><topology><object type=\"Mach")?;
    is_one_clear_line(
        &scheduler::run(&["topology", "--input", "/tmp/broken.xml"])?,
        "/tmp/broken.xml",
    )?;
    is_one_clear_line(
        &scheduler::run(&["topology", "--input", "/tmp/missing.xml"])?,
        "/tmp/missing.xml",
    )?;
    is_one_clear_line(&scheduler::run(&["topology", "--synthetic", "Castle:2"])?, "Castle:2")
}

/// On a kernel whose BTF is malformed it says so, rather than what the verifier says.
pub fn a_kernel_with_malformed_btf_is_refused(_: &Machine) -> Result<()> {
    is_one_clear_line(&scheduler::run(&[])?, "the kernel's BTF is malformed")
}

/// The kernel refuses every sched_ext scheduler if it was started with `isolcpus=`.
pub fn isolcpus_is_named(_: &Machine) -> Result<()> {
    let run = scheduler::run(&[])?;
    ensure!(run.code == Some(1), "the exit status is not 1: {run:?}");
    let last = run.stderr.trim_end().lines().last().unwrap_or_default();
    println!("{last}");
    ensure!(last.contains("isolcpus="), "it does not name isolcpus=: {run:?}");
    Ok(())
}

/// There is no CPU to dedicate where a domain has only one.
pub fn the_only_cpu_cannot_be_dedicated(_: &Machine) -> Result<()> {
    is_one_clear_line(&scheduler::run(&["--domain", "core", "--dedicate"])?, "cannot dedicate")
}

/// The run failed with exit status 1 and one line that has `word` in it.
fn is_one_clear_line(run: &Run, word: &str) -> Result<()> {
    println!("{}", run.stderr.trim_end());
    ensure!(run.code == Some(1), "the exit status is not 1: {run:?}");
    ensure!(run.stderr.trim_end().lines().count() == 1, "not one line: {run:?}");
    ensure!(run.stderr.contains(word), "it does not say {word:?}: {run:?}");
    Ok(())
}
