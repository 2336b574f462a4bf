//! Cgroups with the CPU controller.

use crate::api::cgroups::{Cgroup, shares};
use crate::api::load::{Hackbench, Hog};
use crate::api::scheduler::{Program, STATS, Scheduler};
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
    weights_hold_with_any_domains_and_load: 180 s on L3X2;
    the_busiest_are_shown: 120 s on L3X2;
    no_count_leaks: 400 s on SLOW ANY_KERNEL;
    thousands_of_groups: 900 s on SLOW;
}

const LONG: Duration = Duration::from_secs(120);
/// Hogs have found their domains.
const SETTLING: Duration = Duration::from_secs(4);
const MEASURED: Duration = Duration::from_secs(6);

/// Groups are made, nested, filled, changed, emptied by moves and by kills, and removed, under load
/// and from before attach until after detach. The scheduler knows of each, and forgets each.
pub fn groups_come_and_go(_: &Machine) -> Result<()> {
    let older = Cgroup::new("older")?;
    older.set("cpu.weight", "300")?;
    let _hogs = older.hogs(2, LONG)?;
    let scheduler = Scheduler::start(&STATS)?;
    let mut hackbench = Hackbench::start(1, 1_000_000, LONG)?;
    let before = scheduler.gauge("cgroups")?;
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
            scheduler.gauge("cgroups").is_ok_and(|now| now == before + 16)
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
            scheduler.gauge("cgroups").is_ok_and(|now| now == before)
        })?;
        let outlived = || scheduler.gauge("cgroups_outlived").is_ok_and(|left| left == 0);
        wait_until("no task is left in a removed cgroup", LONG, outlived)?;
    }
    ensure!(scheduler.gauge("cgroups_folded")? == 0, "a cgroup had no slot");
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

/// They hold where one thread serves the machine, or one each core; and for tasks that sleep and wake
/// up all the time.
pub fn weights_hold_with_any_domains_and_load(_: &Machine) -> Result<()> {
    process::renice(0, -20)?;
    for domain in ["machine", "core"] {
        let scheduler = Scheduler::start(&["--domain", domain])?;
        let (heavy, light) = (Cgroup::new("heavy")?, Cgroup::new("light")?);
        heavy.set("cpu.weight", "900")?;
        let hogs = [heavy.hogs(4, LONG)?, light.hogs(4, LONG)?];
        thread::sleep(SETTLING / 2);
        let had = shares(&[&hogs[0], &hogs[1]], MEASURED / 2)?;
        println!("--domain {domain}: {had:.0?} % of a CPU for weights of 900 and 100");
        ensure!(had[0] > 3.0 * had[1], "--domain {domain}: {had:?}");
        if domain == "core" {
            drop(hogs);
            let _benches = [heavy.hackbench(1, LONG)?, light.hackbench(2, LONG)?];
            thread::sleep(SETTLING / 2);
            let used = || Ok::<_, anyhow::Error>([heavy.run_time()?, light.run_time()?]);
            let before = used()?;
            thread::sleep(MEASURED / 2);
            let after = used()?;
            let [heavy, light] = [0, 1].map(|at| (after[at] - before[at]).as_secs_f64());
            println!("hackbench: {heavy:.1} s and {light:.1} s");
            ensure!(
                heavy > 1.5 * light,
                "hackbench: {heavy:.1} s, with twice the tasks {light:.1} s"
            );
        }
        scheduler.stop()?;
    }
    Ok(())
}

/// `--stats-cgroups` shows the busiest ones under their names: what they are due and had, and what their
/// limits did.
pub fn the_busiest_are_shown(_: &Machine) -> Result<()> {
    process::renice(0, -20)?;
    let scheduler = Scheduler::start(&[])?;
    let (heavy, limited) = (Cgroup::new("heavy")?, Cgroup::new("limited")?);
    let inner = heavy.child("inner")?;
    inner.set("cpu.weight", "300")?;
    limited.set("cpu.max", "20000 100000")?;
    let monitor = |most| ["--monitor", "1", "--stats-cgroups", most];
    let json = Program::start(&[&monitor("2")[..], &["--stats-format", "json"]].concat())?;
    let text = Program::start(&monitor("1"))?;
    let _hogs = [inner.hogs(3, LONG)?, limited.hogs(2, LONG)?];
    let line = || -> Option<serde_json::Value> {
        let shown = json.stdout();
        let line = serde_json::from_str::<serde_json::Value>(shown.lines().last()?).ok()?;
        let [first, second] = line["cgroups"].as_array()?.as_slice() else { return None };
        let shown = first["path"] == "/heavy/inner"
            && second["path"] == "/limited"
            && first["weight"] == 300
            && first["runnable"] == 3
            && first.get("quota_us").is_none()
            && second["quota_us"] == 20_000
            && second["throttles"].as_u64()? > 2
            && second["throttled_us"].as_u64()? > 0
            && second["used_us"].as_u64()? > 0
            && first["share"].as_f64()? > 0.1;
        shown.then_some(line)
    };
    wait_until("both cgroups are shown", LONG, || line().is_some())
        .with_context(|| format!("{} {}", json.stdout(), json.said()))?;
    println!("{}", line().map_or_else(String::new, |line| line["cgroups"].to_string()));
    wait_until("the busiest one is shown as text", LONG, || {
        text.stdout().lines().any(|line| line.ends_with(" /heavy/inner"))
    })
    .with_context(|| text.stdout())?;
    ensure!(!text.stdout().contains("/limited"), "more than one is shown: {}", text.stdout());
    scheduler.stop()
}

/// The most tasks that are runnable without a load: the test's, the scheduler's, the kernel's own.
const QUIET: u64 = 8;

/// Waits until the load is gone, and the scheduler knows this number of cgroups and none that was
/// removed.
fn await_quiet(scheduler: &Scheduler, cgroups: u64) -> Result<()> {
    let mut last = String::new();
    let quiet = || {
        let fields = ["cgroups", "cgroups_runnable", "cgroups_outlived"];
        let [now, runnable, outlived] = fields.map(|field| scheduler.gauge(field).unwrap_or(999));
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

/// Cgroups thirty levels deep, threads of one process in several, tasks that are frozen, moved and
/// killed, the controller switched off and on below them, while the scheduler detaches and attaches
/// under load: no count of it is left when all is quiet.
pub fn no_count_leaks(_: &Machine) -> Result<()> {
    let mut scheduler = Scheduler::start(&STATS)?;
    let before = scheduler.gauge("cgroups")?;
    for round in 0..2 {
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
        levels[15].set("cgroup.freeze", "1")?;
        let aside = levels[3].child("aside")?;
        aside.take_in(hogs[1].pid())?;
        if round == 1 {
            scheduler.stop()?;
            scheduler = Scheduler::start(&STATS)?;
        }
        levels[15].set("cgroup.freeze", "0")?;
        levels[0].kill()?;
        drop((hogs, hackbench, aside, levels));
        await_quiet(&scheduler, before)?;
    }
    scheduler.stop()
}

/// Five thousand cgroups, of which forty compete: each has its share, and none is left in the end.
pub fn thousands_of_groups(_: &Machine) -> Result<()> {
    process::renice(0, -20)?;
    let scheduler = Scheduler::start(&STATS)?;
    let before = scheduler.gauge("cgroups")?;
    let parent = Cgroup::new("parent")?;
    let groups =
        (0..5000).map(|n| parent.child(&format!("group{n}"))).collect::<Result<Vec<_>>>()?;
    wait_until("all cgroups are known", LONG, || {
        scheduler.gauge("cgroups").is_ok_and(|now| now == before + 5001)
    })?;
    for group in groups.iter().step_by(250) {
        group.set("cpu.weight", "400")?;
    }
    let hogs_from = |first: usize| -> Result<Vec<Hog>> {
        let hogs = groups.iter().skip(first).step_by(250).map(|group| group.hogs(1, 3 * LONG));
        Ok(hogs.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    };
    let (heavy, light) = (hogs_from(0)?, hogs_from(1)?);
    thread::sleep(SETTLING);
    let had = shares(&[&heavy, &light], 3 * MEASURED)?;
    println!("twenty cgroups of weight 400 had {:.0} %, twenty of 100 {:.0} %", had[0], had[1]);
    ensure!(had[0] > 2.0 * had[1], "{had:?}");
    ensure!(scheduler.gauge("cgroups_folded")? == 0, "a cgroup had no slot");
    drop((heavy, light, groups, parent));
    await_quiet(&scheduler, before)?;
    scheduler.stop()
}
