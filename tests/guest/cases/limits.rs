//! cpu.max: what groups of tasks get of the CPUs when the CPU controller limits them.
//!
//! What is used is measured on a machine whose clocks count instructions:
//! - where the TSC is unstable, as in a guest without KVM, the clock of a CPU that is idle while tasks
//!   are throttled jumps, and `cpu.stat` counts that as use;
//! - on a busy host a guest's CPUs stand still for tens of milliseconds, and what a group could not
//!   use in its period is lost.

use crate::api::cgroups::Cgroup;
use crate::api::load::Hackbench;
use crate::api::scheduler::{STATS, Scheduler};
use crate::api::wait_until;
use crate::machine::Machine;
use crate::suite::tests;
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use std::thread;
use std::time::{Duration, Instant};

tests! {
    hogs_use_what_their_limit_leaves: 500 s on COUNTED;
    throttled_tasks_go_on_and_end: 500 s on SLOW ANY_KERNEL;
}

const LONG: Duration = Duration::from_secs(120);
const MEASURED: Duration = Duration::from_secs(5);

/// In percent of one CPU, what each of some cgroups uses in a time.
fn usage(groups: &[&Cgroup], time: Duration) -> Result<Vec<f64>> {
    let all = || groups.iter().map(|group| group.run_time()).collect::<Result<Vec<_>>>();
    let (before, start) = (all()?, Instant::now());
    thread::sleep(time);
    let (after, elapsed) = (all()?, start.elapsed());
    let percent = |(after, before): (&Duration, &Duration)| {
        100.0 * (*after - *before).as_secs_f64() / elapsed.as_secs_f64()
    };
    Ok(after.iter().zip(&before).map(percent).collect())
}

/// What is due, or a twentieth less or more: one period of a tenth of a second and the debt of four
/// ticks may be more or less than the share of five seconds.
fn is_about(usage: f64, due: f64) -> bool {
    (usage / due - 1.0).abs() < 0.05
}

/// A group of hogs uses what its limit leaves, less than a CPU or more, and so does one that is
/// below another. It does so too while the scheduler's threads are stopped.
pub fn hogs_use_what_their_limit_leaves(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&[])?;
    let group = Cgroup::new("limited")?;
    let (part, rest) = (group.child("part")?, group.child("rest")?);
    let _hogs = (part.hogs(2, LONG)?, rest.hogs(4, LONG)?);
    // They run without a limit until now, each on a CPU or not.
    part.set("cpu.max", "20000 100000")?;
    for (limit, due, stopped) in [("50000 100000", 50.0, false), ("150000 100000", 150.0, true)] {
        group.set("cpu.max", limit)?;
        if stopped {
            scheduler.send(Signal::SIGSTOP)?;
        }
        thread::sleep(Duration::from_secs(1));
        let [all, part] = usage(&[&group, &part], MEASURED)?[..] else { unreachable!() };
        println!("cpu.max {limit}: {all:.1} % of a CPU, of these {part:.1} with a limit of 20");
        ensure!(is_about(all, due), "with cpu.max {limit}, the hogs use {all:.1} % of a CPU");
        ensure!(part < 21.0, "the inner group uses {part:.1} % of a CPU, of 20");
    }
    scheduler.send(Signal::SIGCONT)?;
    drop((part, rest, group));
    scheduler.stop()
}

/// Throttled tasks go on when they leave their group or when its limit goes, they end when they are
/// killed, and nothing remains of them. Others do not notice them.
pub fn throttled_tasks_go_on_and_end(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&STATS)?;
    if scheduler.said().contains("(cpu.max)") {
        println!("this kernel does not tell of limits, and the scheduler says so");
        return scheduler.stop();
    }
    let group = Cgroup::new("limited")?;
    let hogs = group.hogs(16, LONG)?;
    group.set("cpu.max", "1000 1000000")?;
    wait_until("the group is throttled", LONG, || {
        scheduler.gauge("cgroups_throttled").is_ok_and(|groups| groups == 1)
    })?;
    let mut hackbench = Hackbench::start(1, 1_000_000, LONG)?;
    // 1,000 us in each second, and some ticks of four CPUs.
    let little = usage(&[&group], MEASURED)?[0];
    ensure!(little < 5.0, "the throttled group uses {little:.1} % of a CPU");

    ensure!(hackbench.is_running()?, "hackbench has ended");
    drop(hackbench);

    let other = Cgroup::new("other")?;
    let before = hogs[0].run_time()?;
    other.take_in(hogs[0].pid())?;
    wait_until("a task that has left the group runs", LONG, || {
        hogs[0].run_time().is_ok_and(|now| now > before + Duration::from_millis(200))
    })?;

    let before = group.run_time()?;
    group.set("cpu.max", "max 100000")?;
    wait_until("the group without its limit runs", LONG, || {
        group.run_time().is_ok_and(|now| now > before + Duration::from_secs(2))
    })?;
    ensure!(scheduler.gauge("cgroups_throttled")? == 0, "a group is throttled without a limit");

    group.set("cpu.max", "1000 1000000")?;
    wait_until("the group is throttled again", LONG, || {
        scheduler.gauge("cgroups_throttled").is_ok_and(|groups| groups == 1)
    })?;
    group.kill()?;
    wait_until("all that was killed has ended", LONG, || {
        group.read("cgroup.events").is_ok_and(|events| events.contains("populated 0"))
    })?;
    drop((hogs, group, other));
    wait_until("no group has a limit", LONG, || {
        scheduler.gauge("cgroups_limited").is_ok_and(|groups| groups == 0)
    })?;
    scheduler.stop()
}
