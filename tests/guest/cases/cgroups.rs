//! Cgroups with the CPU controller.

use crate::api::cgroups::{Cgroup, shares};
use crate::api::load::{Hackbench, Hog};
use crate::api::scheduler::{STATS, Scheduler};
use crate::api::{process, wait_until};
use crate::machine::Machine;
use crate::suite::tests;
use anyhow::{Context, Result, ensure};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

tests! {
    groups_come_and_go: 90 s on L3X2 ANY_KERNEL;
    groups_have_their_shares: 240 s on L3X2;
    no_count_leaks: 180 s on L3X2 ANY_KERNEL;
    thousands_of_groups: 900 s on SLOW;
}

const LONG: Duration = Duration::from_secs(120);
/// Hogs have found their domains.
const SETTLING: Duration = Duration::from_secs(4);
const MEASURED: Duration = Duration::from_secs(6);

/// The gauge of the last line of statistics.
fn gauge(scheduler: &Scheduler, field: &str) -> Result<u64> {
    let stats = scheduler.await_stats(1)?;
    let line = stats.lines.last().context("no line of statistics")?;
    line[field].as_u64().with_context(|| format!("no {field} in {line}"))
}

/// Groups are made, nested, filled, changed, emptied by moves and by kills, and removed, under load
/// and from before attach until after detach. The scheduler knows of each, and forgets each.
pub fn groups_come_and_go(_: &Machine) -> Result<()> {
    let older = Cgroup::new("older")?;
    older.set("cpu.weight", "300")?;
    let _hogs = older.hogs(2, LONG)?;
    let scheduler = Scheduler::start(&STATS)?;
    let mut hackbench = Hackbench::start(1, 1_000_000, LONG)?;
    let before = gauge(&scheduler, "cgroups")?;
    ensure!(before == 2, "the scheduler knows {before} cgroups, of 2");
    // Otherwise this test waits its turn among forty tasks.
    process::renice(0, -20)?;
    for round in 0..2 {
        let top = Cgroup::new("top")?;
        let inner = top.child("inner")?;
        let mut groups =
            (0..10).map(|n| Cgroup::new(&format!("group{n}"))).collect::<Result<Vec<_>>>()?;
        for n in 0..4 {
            groups.push(inner.child(&format!("leaf{n}"))?);
        }
        wait_until("all cgroups are known", LONG, || {
            gauge(&scheduler, "cgroups").is_ok_and(|now| now == before + 16)
        })?;
        let hogs: Vec<Hog> = (0..4).map(|_| Hog::anywhere(LONG)).collect::<Result<_>>()?;
        for (n, group) in groups.iter().enumerate() {
            group.set("cpu.weight", &(n + 1).to_string())?;
            group.set("cpu.max", &format!("{} 100000", 100_000 + n))?;
            group.take_in(hogs[n % hogs.len()].pid())?;
            group.set("cpu.idle", "1")?;
        }
        if round == 0 {
            inner.kill()?;
        }
        drop((groups, inner, top, hogs));
        wait_until("all cgroups are forgotten", LONG, || {
            gauge(&scheduler, "cgroups").is_ok_and(|now| now == before)
        })?;
        let outlived = || gauge(&scheduler, "cgroups_outlived").is_ok_and(|left| left == 0);
        wait_until("no task is left in a removed cgroup", LONG, outlived)?;
    }
    ensure!(gauge(&scheduler, "cgroups_folded")? == 0, "a cgroup had no slot");
    ensure!(hackbench.is_running()?, "hackbench has ended");
    let last = Cgroup::new("last")?;
    scheduler.stop()?;
    drop(last);
    Ok(())
}

/// Hogs in cgroups have of the machine what the weights say: by group first, however many tasks are
/// in each, nested, and at once when a weight changes.
pub fn groups_have_their_shares(_: &Machine) -> Result<()> {
    let idle = Cgroup::new("idle")?;
    idle.set("cpu.idle", "1")?;
    let scheduler = Scheduler::start(&[])?;
    process::renice(0, -20)?;
    let (p, q_group) = (Cgroup::new("p")?, Cgroup::new("q")?);
    let (x, y) = (p.child("x")?, p.child("y")?);
    y.set("cpu.weight", "300")?;
    let hogs = [x.hogs(8, LONG)?, y.hogs(4, LONG)?, q_group.hogs(4, LONG)?, idle.hogs(4, LONG)?];
    let [x_hogs, y_hogs, q_hogs, idle_hogs] = &hogs;
    thread::sleep(SETTLING);
    let had = |what: &str, due: [f64; 4]| -> Result<[f64; 4]> {
        let had = shares(&[x_hogs, y_hogs, q_hogs, idle_hogs], MEASURED)?;
        let all: f64 = had.iter().sum();
        let had = [0, 1, 2, 3].map(|at| 100.0 * had[at] / all);
        println!("{what}: x, y, q, idle had {had:.1?} % of what they had together; due: {due:?}");
        Ok(had)
    };
    // Without groups the eight of x have twice what each of the others has. A host that withholds
    // CPUs from the guest blurs the ratios: it delays decisions.
    let [x, y, q, idle] = had("x 100 next to y 300, both next to q", [12.5, 37.5, 50.0, 0.2])?;
    ensure!(y > 1.3 * x && q > 1.3 * x && idle < 8.0, "{x:.1}, {y:.1}, {q:.1}, {idle:.1}");
    q_group.set("cpu.weight", "300")?;
    thread::sleep(Duration::from_secs(1));
    let [x, y, more, idle] = had("then q with 300", [6.25, 18.75, 75.0, 0.2])?;
    ensure!(
        y > 1.3 * x && more > 1.2 * q && more > 1.3 * y && idle < 8.0,
        "{x:.1}, {y:.1}, {more:.1} after {q:.1}, {idle:.1}"
    );
    scheduler.stop()
}

/// So many tasks may be runnable while all is quiet: this test, the scheduler, the kernel's own.
const QUIET: u64 = 8;

/// Waits until the scheduler knows so many cgroups, and nothing of those that were removed.
fn await_quiet(scheduler: &Scheduler, cgroups: u64) -> Result<()> {
    let mut last = String::new();
    let quiet = || {
        let fields = ["cgroups", "cgroups_runnable", "cgroups_outlived"];
        let [now, runnable, outlived] = fields.map(|field| gauge(scheduler, field).unwrap_or(999));
        last = format!("{now} cgroups, {runnable} runnable tasks, {outlived} outlived");
        now == cgroups && runnable <= QUIET && outlived == 0
    };
    let result = wait_until("all counts are those of a quiet machine", LONG, quiet);
    result.with_context(|| format!("{last}; {cgroups} cgroups are left"))
}

/// Runs something with two threads of this process in cgroups of their own, one of which computes.
fn in_threaded_groups(of: &Cgroup, run: impl FnOnce(&[Cgroup; 2]) -> Result<()>) -> Result<()> {
    let groups = [of.child("one")?, of.child("two")?];
    for group in &groups {
        group.set("cgroup.type", "threaded")?;
    }
    of.take_in(std::process::id() as i32)?;
    let stop = AtomicBool::new(false);
    let result = thread::scope(|scope| {
        let other = scope.spawn(|| {
            let entered = groups[0].take_in_this_thread();
            while !stop.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
            entered
        });
        let result = groups[1].take_in_this_thread().and_then(|()| run(&groups));
        stop.store(true, Ordering::Relaxed);
        result.and(other.join().expect("the thread does not panic"))
    });
    Cgroup::leave(std::process::id() as i32)?;
    result
}

fn attached(scheduler: &Option<Scheduler>) -> Result<&Scheduler> {
    scheduler.as_ref().context("no scheduler is attached")
}

/// The scheduler detaches, and attaches again.
fn restart(scheduler: &mut Option<Scheduler>) -> Result<()> {
    scheduler.take().context("no scheduler is attached")?.stop()?;
    *scheduler = Some(Scheduler::start(&STATS)?);
    Ok(())
}

/// Cgroups thirty levels deep, threads of one process in several, tasks that are frozen, moved and
/// killed, the controller switched off and on below them, while the scheduler detaches and attaches
/// under load: no count of it is left when all is quiet.
pub fn no_count_leaks(_: &Machine) -> Result<()> {
    process::renice(0, -20)?;
    let mut scheduler = Some(Scheduler::start(&STATS)?);
    let before = gauge(attached(&scheduler)?, "cgroups")?;
    for round in 0..2 {
        println!("round {round}");
        let hackbench = Hackbench::start(1, 1_000_000, LONG)?;
        let mut levels = vec![Cgroup::new("deep")?];
        for level in 1..30 {
            let next = levels.last().context("a level")?.child(&format!("level{level}"))?;
            next.set("cpu.weight", &(100 * level).to_string())?;
            levels.push(next);
        }
        let deepest = levels.last().context("a level")?;
        let hogs = deepest.hogs(3, LONG)?;
        wait_until("a task thirty levels down runs", LONG, || {
            hogs[0].run_time().is_ok_and(|time| time > Duration::from_millis(50))
        })?;
        let threaded = Cgroup::new("threaded")?;
        in_threaded_groups(&threaded, |groups| {
            groups[0].set("cpu.weight", "400")?;
            threaded.set("cgroup.subtree_control", "-cpu")?;
            threaded.set("cgroup.subtree_control", "+cpu")?;
            groups[0].set("cpu.weight", "300")
        })?;
        drop(threaded);
        println!("the threads are back in the root");
        levels[15].set("cgroup.freeze", "1")?;
        levels[3].take_in(hogs[1].pid())?;
        if round == 1 {
            restart(&mut scheduler)?;
        }
        levels[15].set("cgroup.freeze", "0")?;
        levels[0].kill()?;
        drop((hogs, hackbench));
        while levels.pop().is_some() {}
        await_quiet(attached(&scheduler)?, before)?;
    }
    scheduler.context("no scheduler is attached")?.stop()
}

/// Five thousand cgroups, of which forty compete: each has its share, and none is left in the end.
pub fn thousands_of_groups(_: &Machine) -> Result<()> {
    process::renice(0, -20)?;
    let scheduler = Scheduler::start(&STATS)?;
    let before = gauge(&scheduler, "cgroups")?;
    let parent = Cgroup::new("parent")?;
    let groups =
        (0..5000).map(|n| parent.child(&format!("group{n}"))).collect::<Result<Vec<_>>>()?;
    wait_until("all cgroups are known", LONG, || {
        gauge(&scheduler, "cgroups").is_ok_and(|now| now == before + 5001)
    })?;
    for group in groups.iter().step_by(250) {
        group.set("cpu.weight", "400")?;
    }
    let limit = 3 * LONG;
    let heavy = groups.iter().step_by(250).map(|group| group.hogs(1, limit));
    let heavy = heavy.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect::<Vec<_>>();
    let light = groups.iter().skip(1).step_by(250).map(|group| group.hogs(1, limit));
    let light = light.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect::<Vec<_>>();
    thread::sleep(SETTLING);
    let had = shares(&[&heavy, &light], 3 * MEASURED)?;
    println!("twenty cgroups of weight 400 had {:.0} %, twenty of 100 {:.0} %", had[0], had[1]);
    ensure!(had[0] > 2.0 * had[1], "{had:?}");
    ensure!(gauge(&scheduler, "cgroups_folded")? == 0, "a cgroup had no slot");
    drop((heavy, light, groups, parent));
    await_quiet(&scheduler, before)?;
    scheduler.stop()
}
