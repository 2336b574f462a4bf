//! Kinds of core, on guests whose cores are taken for different ones (see [`crate::api::kinds`]).

use crate::api::kinds::Kinds;
use crate::api::load::Hog;
use crate::api::scheduler;
use crate::api::{cpus, holds_mostly, load, process, wait_until};
use crate::machine::Machine;
use crate::suite::tests;
use anyhow::{Result, ensure};
use nix::sched::sched_getcpu;
use scx_manyland::cpuset::CpuSet;
use scx_manyland::ids::CpuId;
use std::thread;
use std::time::Duration;

tests! {
    a_lone_hog_runs_on_a_fast_core: 240 s on L3X2;
    efficiency_draws_a_lone_hog_to_a_slow_core: 240 s on SLOW;
    without_preference_a_lone_hog_stays: 60 s on L3X2;
    efficiency_starts_hogs_on_slow_cores: 120 s on L3X2;
    a_waking_task_gets_the_preferred_kind: 240 s on L3X2;
    strict_and_dedicate_are_kept: 60 s on L3X2;
    hogs_spill_to_slow_cores_and_come_back: 90 s on L3X2;
    affinity_goes_before_speed: 60 s on L3X2;
    load_runs_on_all_kinds: 150 s on L3X2;
    one_kind_is_not_worth_a_word: 60 s on L3X2;
}

/// How long a placement may take. The slice is 5 ms.
const SOON: Duration = Duration::from_secs(2);
/// The same where it has to last for a while.
const LONG: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(60);

/// A lone hog runs on a fast core, and returns there from a slow one that it was bound to.
pub fn a_lone_hog_runs_on_a_fast_core(_: &Machine) -> Result<()> {
    for (kinds, domains) in
        [(Kinds::dense_l3_first()?, ["l3", "core"]), (Kinds::in_each_l3()?, ["kind", "machine"])]
    {
        for domain in domains {
            let scheduler = kinds.start(domain, "performance")?;
            a_hog_returns(&kinds.fast(), &kinds.slow())?;
            scheduler.stop()?;
        }
    }
    Ok(())
}

/// On battery it is the other way round.
pub fn efficiency_draws_a_lone_hog_to_a_slow_core(_: &Machine) -> Result<()> {
    for kinds in [Kinds::dense_l3_first()?, Kinds::in_each_l3()?] {
        let scheduler = kinds.start("l3", "efficiency")?;
        a_hog_returns(&kinds.slow(), &kinds.fast())?;
        scheduler.stop()?;
    }
    Ok(())
}

/// A hog goes to the wanted CPUs, and back to them from each of the others.
fn a_hog_returns(wanted: &CpuSet, others: &CpuSet) -> Result<()> {
    let hog = Hog::anywhere(LIMIT)?;
    settles(&hog, wanted)?;
    for cpu in others.iter() {
        process::bind(hog.pid(), &CpuSet::from_iter([cpu]))?;
        thread::sleep(Duration::from_millis(100));
        ensure!(process::processor(hog.pid())? == cpu, "the hog is not where it is bound");
        process::bind(hog.pid(), &cpus::online()?)?;
        settles(&hog, wanted)?;
    }
    hog.stop()
}

/// Without a preference the hog stays on the slow core: the test above proves something.
pub fn without_preference_a_lone_hog_stays(_: &Machine) -> Result<()> {
    let kinds = Kinds::dense_l3_first()?;
    let scheduler = kinds.start("l3", "none")?;
    let hog = Hog::anywhere(LIMIT)?;
    process::bind(hog.pid(), &kinds.slow())?;
    thread::sleep(Duration::from_millis(100));
    process::bind(hog.pid(), &cpus::online()?)?;
    settles(&hog, &kinds.slow())?;
    scheduler.stop()
}

/// On battery hogs begin on slow cores.
pub fn efficiency_starts_hogs_on_slow_cores(_: &Machine) -> Result<()> {
    const HOGS: usize = 10;
    for (kinds, domain) in [(Kinds::dense_l3_first()?, "kind"), (Kinds::in_each_l3()?, "l3")] {
        let scheduler = kinds.start(domain, "efficiency")?;
        let mut slow = 0;
        for _ in 0..HOGS {
            slow += on(&[Hog::anywhere(LIMIT)?], &kinds.slow());
            thread::sleep(Duration::from_millis(200));
        }
        println!("{domain}: {slow} of {HOGS} hogs began on slow cores");
        // Without a preference it is none of them, or half. A slow core may be in use now and then,
        // by this process for one.
        ensure!(slow >= HOGS * 6 / 10, "{domain}: {slow} of {HOGS} hogs began on slow cores");
        scheduler.stop()?;
    }
    Ok(())
}

/// A task that runs for less than a slice at a time gets the preferred kind whenever it wakes up,
/// also outside of its home domain; without a preference it stays where it was.
pub fn a_waking_task_gets_the_preferred_kind(_: &Machine) -> Result<()> {
    const WAKE_UPS: usize = 200;
    let (dense_first, in_each) = (Kinds::dense_l3_first()?, Kinds::in_each_l3()?);
    let (fast, slow) = (dense_first.fast(), dense_first.slow());
    for (kinds, choices) in [
        (&in_each, &[("performance", in_each.slow(), in_each.fast())][..]),
        (&dense_first, &[("efficiency", fast, slow)]),
        (&dense_first, &[("none", slow, slow), ("none", fast, fast)]),
    ] {
        for &(prefer, from, wanted) in choices {
            let scheduler = kinds.start("l3", prefer)?;
            process::bind(0, &CpuSet::from_iter(from.first()))?;
            thread::sleep(Duration::from_millis(50));
            process::bind(0, &cpus::online()?)?;
            wait_until(&format!("{prefer}: a task wakes up on {wanted}"), LONG, || {
                let there = (0..WAKE_UPS).filter(|_| {
                    thread::sleep(Duration::from_millis(5));
                    sched_getcpu().is_ok_and(|cpu| wanted.contains(CpuId(cpu as u32)))
                });
                let there = there.count();
                println!("{prefer}: {there} of {WAKE_UPS} wake-ups on {wanted}");
                there >= WAKE_UPS * 9 / 10
            })?;
            scheduler.stop()?;
        }
    }
    Ok(())
}

/// With `--strict` only the home domain is looked through, with `--dedicate` no dedicated CPU is
/// taken.
pub fn strict_and_dedicate_are_kept(_: &Machine) -> Result<()> {
    let kinds = Kinds::in_each_l3()?;
    let scheduler = kinds.start_with("l3", "performance", &["strict"])?;
    let hog = Hog::anywhere(LIMIT)?;
    settles(&hog, &kinds.fast())?;
    scheduler.stop()?;
    let kinds = Kinds::dense_l3_first()?;
    let scheduler = kinds.start_with("l3", "performance", &["dedicate"])?;
    let hogs = [Hog::anywhere(LIMIT)?, Hog::anywhere(LIMIT)?];
    // The last CPU of each domain belongs to its thread.
    let fast = CpuSet::from_iter(kinds.fast().first());
    let slow = CpuSet::from_iter(kinds.slow().first());
    wait_until("each kind has one hog", SOON, || on(&hogs, &fast) == 1 && on(&hogs, &slow) == 1)?;
    scheduler.stop()
}

/// One hog more than there are fast cores: the fast ones are taken, the last hog has a slow one,
/// and none waits. When a fast core becomes free, that one moves up.
pub fn hogs_spill_to_slow_cores_and_come_back(_: &Machine) -> Result<()> {
    for domain in ["l3", "kind"] {
        let kinds = Kinds::dense_l3_first()?;
        let scheduler = kinds.start(domain, "performance")?;
        let mut hogs = many(kinds.fast().len() + 1)?;
        spread(&hogs, &kinds)?;
        let before = hogs.iter().map(Hog::run_time).collect::<Result<Vec<_>>>()?;
        let time = Duration::from_secs(4);
        thread::sleep(time);
        for (hog, before) in hogs.iter().zip(before) {
            let ran = hog.run_time()? - before;
            ensure!(ran > time * 8 / 10, "a hog of three on four CPUs ran {} ms", ran.as_millis());
        }
        let on_fast = hogs.iter().position(|hog| {
            process::processor(hog.pid()).is_ok_and(|cpu| kinds.fast().contains(cpu))
        });
        hogs.remove(on_fast.unwrap_or(0)).stop()?;
        wait_until("both hogs left are on fast cores", SOON, || on(&hogs, &kinds.fast()) == 2)?;
        scheduler.stop()?;
    }
    Ok(())
}

/// A hog that may not use the fast cores does not get there, and runs all the time.
pub fn affinity_goes_before_speed(_: &Machine) -> Result<()> {
    let kinds = Kinds::in_each_l3()?;
    let scheduler = kinds.start("l3", "performance")?;
    let hog = Hog::on(&kinds.slow(), LIMIT)?;
    // One fast CPU and one slow: the set of neither kind as a whole.
    let part: CpuSet = cpus::l3s()?[0];
    let other = Hog::on(&part, LIMIT)?;
    let fast = part.intersection(&kinds.fast());
    settles(&other, &fast)?;
    thread::sleep(Duration::from_secs(1));
    let before = hog.run_time()?;
    thread::sleep(Duration::from_secs(3));
    let ran = hog.run_time()? - before;
    ensure!(ran > Duration::from_millis(2400), "it ran {} ms of 3 s", ran.as_millis());
    hog.stop()?;
    other.stop()?;
    scheduler.stop()
}

/// Under load, with hogs that may use a part of the CPUs among it, the work gets done.
pub fn load_runs_on_all_kinds(_: &Machine) -> Result<()> {
    for (kinds, prefer) in
        [(Kinds::in_each_l3()?, "performance"), (Kinds::dense_l3_first()?, "efficiency")]
    {
        let scheduler = kinds.start("kind", prefer)?;
        let l3s = cpus::l3s()?;
        let bindings = [kinds.slow(), kinds.fast(), l3s[0], l3s[1]];
        let hogs = bindings.iter().map(|cpus| Hog::on(cpus, LIMIT)).collect::<Result<Vec<_>>>()?;
        let time = load::hackbench(1, 200, LIMIT)?;
        println!("{prefer}: hackbench took {} ms beside four hogs", time.as_millis());
        for hog in hogs {
            ensure!(hog.run_time()? > time / 10, "a hog ran {} ms", hog.run_time()?.as_millis());
            hog.stop()?;
        }
        scheduler.stop()?;
    }
    Ok(())
}

/// The guest itself has one kind of core: nothing is chosen, and nothing said.
pub fn one_kind_is_not_worth_a_word(_: &Machine) -> Result<()> {
    let scheduler = scheduler::Scheduler::start(&["--prefer", "performance"])?;
    ensure!(!scheduler.said().contains("prefer"), "{}", scheduler.said());
    scheduler.stop()
}

fn many(count: usize) -> Result<Vec<Hog>> {
    (0..count).map(|_| Hog::anywhere(LIMIT)).collect()
}

/// How many hogs are on these CPUs.
fn on(hogs: &[Hog], cpus: &CpuSet) -> usize {
    let there = |hog: &&Hog| process::processor(hog.pid()).is_ok_and(|cpu| cpus.contains(cpu));
    hogs.iter().filter(there).count()
}

/// The fast cores are taken, and no CPU has two hogs.
fn spread(hogs: &[Hog], kinds: &Kinds) -> Result<()> {
    wait_until("the fast cores have a hog each", SOON, || {
        let taken: CpuSet = hogs.iter().filter_map(|h| process::processor(h.pid()).ok()).collect();
        kinds.fast().is_subset(&taken) && taken.len() == hogs.len()
    })
}

/// The hog is on these CPUs, and there it stays but for the moments in which others want them. A
/// host that lets the guest's CPUs wait makes those longer, so it may take some attempts.
fn settles(hog: &Hog, cpus: &CpuSet) -> Result<()> {
    let there = || process::processor(hog.pid()).is_ok_and(|cpu| cpus.contains(cpu));
    wait_until(&format!("a lone hog stays on {cpus}"), LONG, || holds_mostly(50, there))
}
