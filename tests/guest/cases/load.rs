//! RULE 2: under load, user space decides.

use crate::api::load;
use crate::api::scheduler::{PATIENT, Scheduler};
use crate::machine::Machine;
use crate::suite::tests;
use anyhow::{Result, ensure};
use std::thread;
use std::time::{Duration, Instant};

tests! {
    hackbench_runs_by_decisions: 120 s on L3X2;
}

/// Under hackbench at least 95 % of the tasks that found no idle CPU run by a decision, and no page
/// fault is taken.
pub fn hackbench_runs_by_decisions(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&PATIENT)?;
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        load::hackbench(2, 100, Duration::from_secs(60))?;
    }
    // For the line of statistics that covers the end of the load.
    thread::sleep(Duration::from_millis(1500));
    let stats = scheduler.stats()?;
    let (decided, late) = (stats.sum("decided")?, stats.sum("late")?);
    let (bypassed, bounced) = (stats.sum("bypassed")?, stats.sum("bounced")?);
    let page_faults = stats.sum_of_process("page_faults")?;
    println!(
        "{} lines: {decided} decided, {late} late, {bypassed} bypassed, {bounced} bounced",
        stats.lines.len()
    );
    let share = stats.percent_decided()?;
    ensure!(
        share >= 95.0,
        "user space decided for {share:.1} % of the tasks that found no idle CPU"
    );
    ensure!(page_faults == 0, "the scheduler took {page_faults} page faults");
    scheduler.stop()
}
