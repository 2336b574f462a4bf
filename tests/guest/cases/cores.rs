//! Cores of several CPUs (SMT): who has a CPU alone does not stay beside a busy sibling while a
//! whole core is idle.

use crate::api::kinds::Kinds;
use crate::api::load::{self, Hog};
use crate::api::scheduler::{STATS, Scheduler};
use crate::api::{cpus, holds_mostly, process, wait_until};
use crate::machine::Machine;
use crate::suite::tests;
use anyhow::{Context, Result, bail, ensure};
use scx_manyland::cpuset::CpuSet;
use std::time::Duration;

tests! {
    hogs_that_share_a_core_part: 120 s on L3X4;
    hogs_share_the_core_that_is_their_home: 60 s on L3X4;
    whole_slow_cores_go_before_fast_siblings: 90 s on L3X4;
}

/// How long it may take until hogs are where they belong. The slice is 5 ms.
const LONG: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(90);

/// Two hogs that share a core part as soon as there are whole ones, at home or elsewhere. (They
/// part sooner or later without that rule, as each chance task that takes a CPU for a moment has
/// its hog look for another one.)
pub fn hogs_that_share_a_core_part(_: &Machine) -> Result<()> {
    for args in [&["--domain", "l3"][..], &["--domain", "machine", "--no-steal"]] {
        let scheduler = Scheduler::start(&[args, &STATS].concat())?;
        let core = *cpus::cores()?.first().context("no core")?;
        hogs_climb(&scheduler, &core).with_context(|| args.join(" "))?;
        scheduler.stop()?;
    }
    Ok(())
}

/// With `--strict` and with `--no-steal` they do not leave a domain that has no other core for a
/// whole one. Both have their home there because they were bound to it. With `--strict` their homes
/// may be moved all the same, to even out the loads.
pub fn hogs_share_the_core_that_is_their_home(_: &Machine) -> Result<()> {
    for option in ["--strict", "--no-steal"] {
        let scheduler = Scheduler::start(&[&["--domain", "l3", option], &STATS[..]].concat())?;
        let home = *cpus::l3s()?.last().context("no L3")?;
        let hogs = load::hogs_at_home(&[home; 2])?;
        let at_home = || cores_of(&hogs).is_ok_and(|cores| cores.iter().all(|core| *core == home));
        ensure!(at_home(), "{option}: the hogs bound to {home} are on {:?}", cores_of(&hogs)?);
        ensure!(
            holds_mostly(100, at_home) || option == "--strict",
            "{option}: the hogs at home on {home} are on the cores {:?}",
            cores_of(&hogs)?
        );
        let climbed = scheduler.await_stats(2)?.sum("climbed")?;
        ensure!(climbed == 0, "{option}: {climbed} tasks left their home for a whole core");
        scheduler.stop()?;
    }
    Ok(())
}

/// Where cores differ, a whole slow one goes before the second CPU of a fast one: four hogs that
/// fill two fast cores have four in the end.
pub fn whole_slow_cores_go_before_fast_siblings(_: &Machine) -> Result<()> {
    let kinds = Kinds::fast_l3s_last()?;
    let scheduler = kinds.start_with("l3", "performance", &["stats"])?;
    ensure!(kinds.fast().len() == cpus::cores()?.len(), "{} fast CPUs", kinds.fast().len());
    hogs_climb(&scheduler, &kinds.fast())?;
    scheduler.stop()
}

/// Packs hogs onto CPUs, one on each, again and again, and lets them go: each time they settle on
/// cores of their own, until some have climbed there. In a round in which a chance task has made them
/// part before, none climbs.
fn hogs_climb(scheduler: &Scheduler, cpus: &CpuSet) -> Result<()> {
    const ROUNDS: usize = 20;
    const ENOUGH: u64 = 3;
    let hogs = cpus.iter().map(|_| Hog::anywhere(LIMIT)).collect::<Result<Vec<_>>>()?;
    let bind = |to: &CpuSet| hogs.iter().try_for_each(|hog| process::bind(hog.pid(), to));
    let before = scheduler.await_stats(1)?.sum("climbed")?;
    for round in 1..=ROUNDS {
        bind(cpus)?;
        wait_until(&format!("the hogs have CPUs {cpus}"), LONG, || {
            let taken = hogs.iter().filter_map(|hog| process::processor(hog.pid()).ok());
            taken.collect::<CpuSet>() == *cpus
        })?;
        bind(&cpus::online()?)?;
        settle_on_cores_of_their_own(&hogs)?;
        let climbed = scheduler.await_stats(1)?.sum("climbed")? - before;
        println!("{climbed} tasks have climbed in {round} rounds");
        if climbed >= ENOUGH {
            return Ok(());
        }
    }
    bail!("fewer than {ENOUGH} tasks have climbed in {ROUNDS} rounds")
}

/// No two hogs share a core, and so it stays but for moments in which others want the CPUs.
fn settle_on_cores_of_their_own(hogs: &[Hog]) -> Result<()> {
    let are_apart = || {
        cores_of(hogs).is_ok_and(|mut cores| {
            cores.sort_by_key(CpuSet::first);
            cores.windows(2).all(|pair| pair[0] != pair[1])
        })
    };
    wait_until("each hog has a core of its own", LONG, || holds_mostly(20, are_apart))
}

/// The core that each hog is on.
fn cores_of(hogs: &[Hog]) -> Result<Vec<CpuSet>> {
    let cores = cpus::cores()?;
    let core_of = |hog: &Hog| {
        let cpu = process::processor(hog.pid())?;
        cores.iter().find(|core| core.contains(cpu)).copied().context("a CPU without a core")
    };
    hogs.iter().map(core_of).collect()
}
