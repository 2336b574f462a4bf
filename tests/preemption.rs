//! Who gives way to a task that wakes up, and how often, seen from outside in the simulator.
//!
//! Times here are virtual, so they are the same in every run and may be asserted.

use scx_manyland::policy::kind::PolicyKind;
use scx_manyland::simulator::report::{GroupReport, Report};
use scx_manyland::simulator::workload::Workload;
use scx_manyland::simulator::{Setup, simulate};
use scx_manyland::topology::{Source, Topology};
use scx_manyland::{Builder, RunOptions};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

const FOUR: &str = "L3Cache:2 Core:2 PU:1";
const ONE: &str = "L3Cache:1 Core:1 PU:1";

/// The time between two ticks (microseconds), at which slices end.
const TICK_US: f64 = 4000.0;

fn setup(policy: PolicyKind, seconds: f64) -> Setup {
    let scheduler = Builder::from(policy);
    Setup { scheduler, length: Some(Duration::from_secs_f64(seconds)), ..Setup::default() }
}

fn with(setup: Setup, set: impl FnOnce(&mut RunOptions)) -> Setup {
    Setup { scheduler: setup.scheduler.with(set), ..setup }
}

fn without(setup: Setup) -> Setup {
    with(setup, |options| options.no_preempt = true)
}

fn run(machine: &str, tasks: &str, setup: &Setup) -> Report {
    let machine = Topology::load(&Source::Synthetic(machine.to_owned())).unwrap();
    let workload = Workload::parse(&format!("{{\"tasks\": {{{tasks}}}}}")).unwrap();
    simulate(&machine, &workload, setup, None).unwrap()
}

fn group<'a>(report: &'a Report, name: &str) -> &'a GroupReport {
    report.groups.iter().find(|group| group.name == name).unwrap()
}

/// How many running tasks gave way to woken ones, or to the domain thread for them.
fn gave_way(report: &Report) -> u64 {
    report.domains.iter().map(|domain| domain.counts.overtaken + domain.counts.hurried).sum()
}

/// Hogs for each of four CPUs, and a task that sleeps for 10 ms and runs for a moment.
fn probe(hogs: u32, kind: &str) -> String {
    format!(
        r#""hog": {{"instance": {}, {kind}, "run": 20000}}, "probe": {{"run": 50, "sleep": 10000}}"#,
        4 * hogs
    )
}

const KINDS: [&str; 3] = [r#""priority": 0"#, r#""priority": 19"#, r#""policy": "SCHED_IDLE""#];

#[test]
fn a_woken_task_goes_before_hogs_at_once() {
    for policy in [PolicyKind::Vruntime, PolicyKind::Deadline] {
        for (kind, hogs) in KINDS.iter().flat_map(|kind| [1, 2, 4].map(|hogs| (kind, hogs))) {
            let tasks = probe(hogs, kind);
            let report = run(FOUR, &tasks, &setup(policy, 8.0));
            let delay = &group(&report, "probe").run_delay_us;
            let waits = &run(FOUR, &tasks, &without(setup(policy, 8.0)));
            let waits = &group(waits, "probe").run_delay_us;
            let what = format!("{policy}, {hogs} a CPU of {kind}: {delay:?}, else {waits:?}");
            assert!(delay.p50 < 20.0 && delay.mean < 300.0 && delay.p99 < 1.5 * TICK_US, "{what}");
            assert!(waits.p50 > 1000.0 && delay.mean * 8.0 < waits.mean, "{what}");
        }
    }
}

/// Next to tasks that make the domain threads run at all times, so that a thread has often just run.
#[test]
fn a_woken_task_waits_for_no_tick_next_to_others() {
    for hogs in [4, 8, 16] {
        let tasks = format!(
            r#""hog": {{"instance": {hogs}, "run": 20000}},
            "other": {{"instance": 2, "run": 30, "sleep": 5000}},
            "probe": {{"run": 250, "sleep": 10000}}"#
        );
        let report = run(FOUR, &tasks, &setup(PolicyKind::Vruntime, 20.0));
        for name in ["other", "probe"] {
            let delay = &group(&report, name).run_delay_us;
            assert!(delay.p99 < 0.5 * TICK_US && delay.mean < 80.0, "{name}, {hogs}: {delay:?}");
        }
    }
}

/// The kernel chooses no CPU for a task that is bound to one.
#[test]
fn a_woken_task_that_is_bound_waits_for_no_tick() {
    for (kind, others) in KINDS.iter().flat_map(|kind| [2, 8].map(|others| (kind, others))) {
        let tasks = format!(
            r#""hog": {{"instance": 4, {kind}, "run": 20000}},
            "other": {{"instance": {others}, "run": 30, "sleep": 5000}},
            "probe": {{"run": 50, "sleep": 10000, "cpus": [0]}}"#
        );
        let report = run(FOUR, &tasks, &setup(PolicyKind::Vruntime, 20.0));
        let delay = &group(&report, "probe").run_delay_us;
        let what = format!("{kind}, {others} others: {delay:?}");
        assert!(delay.p99 < 0.3 * TICK_US && delay.mean < 100.0, "{what}");
    }
}

/// A real-time task that often runs for 100 us. What it has preempted may then go on.
fn real_time(cpu: u32, sleep_us: u32) -> String {
    format!(
        r#""rt{cpu}": {{"policy": "SCHED_FIFO", "cpus": [{cpu}], "run": 100, "sleep": {sleep_us}}}"#
    )
}

#[test]
fn a_woken_task_waits_for_no_tick_next_to_real_time_tasks() {
    for (kind, sleep_us) in KINDS.iter().flat_map(|kind| [900, 4900].map(|sleep| (kind, sleep))) {
        let tasks = format!(
            r#""hog": {{"instance": 4, {kind}, "run": 20000}}, {},
            "probe": {{"run": 30, "sleep": 9917, "cpus": [0]}}"#,
            real_time(0, sleep_us)
        );
        let report = run(FOUR, &tasks, &setup(PolicyKind::Vruntime, 10.0));
        let delay = &group(&report, "probe").run_delay_us;
        let what = format!("{kind}, every {sleep_us} us: {delay:?}");
        assert!(delay.p99 < 0.1 * TICK_US && delay.mean < 50.0, "{what}");
    }
}

/// A hog that had its CPU for itself when a real-time task preempted it shares it with those that wait.
#[test]
fn what_real_time_tasks_preempt_has_no_more_than_its_share() {
    let tasks = format!(
        r#""first": {{"instance": 4, "run": 20000}},
        "second": {{"instance": 4, "delay": 2000000, "run": 20000}}, {}"#,
        (0..4).map(|cpu| real_time(cpu, 900)).collect::<Vec<_>>().join(", ")
    );
    let report = run(FOUR, &tasks, &setup(PolicyKind::Vruntime, 12.0));
    let [first, second] = ["first", "second"].map(|name| group(&report, name).cpu_s);
    let alone = 4.0 * 0.9 * 2.0;
    assert!((0.85..1.0 / 0.85).contains(&((first - alone) / second)), "{first}, {second}");
    // A crowd of two for each CPU, whose slices end at ticks.
    let longest = group(&report, "second").run_delay_us.max;
    assert!(longest < 12.0 * TICK_US, "{longest}");
}

/// A hog that is bound to the CPU of a domain thread holds up neither the thread nor who waits for it.
#[test]
fn a_dedicated_cpu_serves_its_thread_before_what_is_bound_there() {
    let tasks = r#""hog": {"instance": 3, "run": 20000},
        "sleeper": {"instance": 12, "run": 50, "sleep": 10000}"#;
    let setup = with(setup(PolicyKind::Vruntime, 20.0), |options| options.dedicate = true);
    let run = |tasks: &str| run("L3Cache:1 Core:4 PU:1", tasks, &setup);
    let alone = run(tasks);
    let report = run(&format!(r#"{tasks}, "bound": {{"run": 20000, "cpus": [3]}}"#));
    let [alone, delay] = [&alone, &report].map(|report| &group(report, "sleeper").run_delay_us);
    assert!(delay.p50 < 20.0 && delay.mean < 1.5 * alone.mean, "{delay:?}, else {alone:?}");
    let domain = &report.domains[0];
    assert!(domain.counts.late == 0 && domain.decision_us.p99 < 1000.0, "{domain:?}");
    // It has what the thread leaves.
    assert!(group(&report, "bound").cpu_s > 19.0, "{report:?}");
}

/// On a dedicated CPU too weights count, and who slept has no lead without end.
#[test]
fn tasks_bound_to_a_dedicated_cpu_have_their_shares() {
    let tasks = r#""hog": {"instance": 6, "run": 20000},
        "heavy": {"run": 20000, "cpus": [3]},
        "light": {"priority": 5, "delay": 5000000, "run": 20000, "cpus": [3]}"#;
    let setup = with(setup(PolicyKind::Vruntime, 25.0), |options| options.dedicate = true);
    let report = run("L3Cache:1 Core:4 PU:1", tasks, &setup);
    let [heavy, light] = ["heavy", "light"].map(|name| group(&report, name).cpu_s);
    assert!((14.5..15.5).contains(&(heavy - 5.0)), "{heavy}, {light}");
    assert!((4.5..5.5).contains(&light), "{heavy}, {light}");
}

/// By a timer, as slices end at ticks otherwise.
#[test]
fn slices_shorter_than_a_tick_end_in_time() {
    let tasks = r#""hog": {"instance": 4, "run": 20000}"#;
    let setup = with(setup(PolicyKind::Vruntime, 5.0), |options| {
        options.slice_us = 1000;
        options.slice_min_us = Some(500);
    });
    let runs = runs(tasks, &setup);
    // The length of a tick is known after two heartbeats.
    let runs = runs.iter().filter(|run| run.0.starts_with("hog") && run.1 > 500_000.0);
    let lengths = runs.map(|(_, from, to)| to - from).collect::<Vec<_>>();
    let longest = lengths.iter().copied().fold(0.0, f64::max);
    assert!(lengths.len() > 4500 && longest < 1100.0, "{} runs, {longest} us", lengths.len());
}

/// Where slices are longer than a tick, or short ones were not asked for, no timer ends one.
#[test]
fn other_slices_end_at_ticks() {
    let tasks = r#""hog": {"instance": 4, "run": 20000}"#;
    for slice_min_us in [None, Some(5000)] {
        let setup = setup(PolicyKind::Vruntime, 5.0);
        let report = run(ONE, tasks, &with(setup, |options| options.slice_min_us = slice_min_us));
        let ended: u64 = report.domains.iter().map(|domain| domain.counts.ended).sum();
        assert!(ended == 0 && report.switches < 2000, "{slice_min_us:?}: {report:?}");
    }
}

/// With thousands of tasks a CPU, slices of a tick would make each wait half a minute, when the kernel
/// ends the scheduler.
#[test]
fn in_a_very_large_crowd_slices_are_short() {
    let tasks = r#""hog": {"instance": 3000, "run": 20000}"#;
    for machine in [ONE, "L3Cache:1 Core:2 PU:1"] {
        let report = run(machine, tasks, &setup(PolicyKind::Vruntime, 5.0));
        // Of 0.5 ms. A tick for each would be 250 on a CPU in a second.
        assert!(report.switches > 6000, "{machine}: {}", report.switches);
    }
}

/// New tasks have no decision that stands, and tasks that compute have no short runs.
#[test]
fn work_of_sched_idle_gives_way_to_all_that_wakes_up() {
    let tasks = r#""hog": {"instance": 8, "policy": "SCHED_IDLE", "run": 20000},
        "shell": {"loop": 150, "fork": "child", "sem_wait": "end", "run": 200},
        "child": {"instance": 0, "loop": 1, "run": 3000, "sem_post": "end"},
        "worker": {"run": 4000, "sleep": 7000}"#;
    for policy in PolicyKind::ALL {
        let report = run(FOUR, tasks, &setup(policy, 5.0));
        for name in ["child", "worker"] {
            let delay = &group(&report, name).run_delay_us;
            assert!(delay.p99 < 100.0, "{policy} {name}: {delay:?}");
        }
        // They have all the rest.
        let busy: f64 = report.groups.iter().map(|group| group.cpu_s).sum();
        assert!(busy > 19.0, "{policy}: {busy} s");
    }
}

/// Tasks below an idle cgroup are as those of SCHED_IDLE, and have all that others leave them.
#[test]
fn work_of_an_idle_cgroup_gives_way_to_all_that_wakes_up() {
    let text = r#"{"global": {"taskgroups": {"/batch": {"cpu.idle": 1}}}, "tasks": {
        "hog": {"instance": 8, "taskgroup": "/batch/jobs", "run": 20000},
        "shell": {"loop": 150, "fork": "child", "sem_wait": "end", "run": 200},
        "child": {"instance": 0, "loop": 1, "run": 3000, "sem_post": "end"},
        "worker": {"taskgroup": "/web", "run": 4000, "sleep": 7000}}}"#;
    let machine = Topology::load(&Source::Synthetic(FOUR.to_owned())).unwrap();
    for policy in PolicyKind::ALL {
        let setup = setup(policy, 5.0);
        let report = simulate(&machine, &Workload::parse(text).unwrap(), &setup, None).unwrap();
        for name in ["child", "worker"] {
            let delay = &group(&report, name).run_delay_us;
            assert!(delay.p99 < 100.0, "{policy} {name}: {delay:?}");
        }
        let busy: f64 = report.groups.iter().map(|group| group.cpu_s).sum();
        assert!(busy > 19.0, "{policy}: {busy} s");
    }
}

/// A task of SCHED_IDLE goes before none.
#[test]
fn work_of_sched_idle_makes_none_give_way() {
    let tasks = r#""hog": {"instance": 4, "run": 20000},
        "idle": {"instance": 4, "policy": "SCHED_IDLE", "run": 50, "sleep": 10000}"#;
    let report = run(FOUR, tasks, &setup(PolicyKind::Vruntime, 5.0));
    assert_eq!(gave_way(&report), 0);
}

/// The order of arrival does not say who needs the CPU more.
#[test]
fn no_task_gives_way_under_fifo_or_without_preemption() {
    let tasks = probe(1, KINDS[0]);
    let fifo = run(FOUR, &tasks, &setup(PolicyKind::Fifo, 5.0));
    let vruntime = run(FOUR, &tasks, &without(setup(PolicyKind::Vruntime, 5.0)));
    assert_eq!((gave_way(&fifo), gave_way(&vruntime)), (0, 0));
}

/// What gives way keeps its slice and its key: no message, and no new decision.
#[test]
fn a_task_that_gave_way_goes_on_without_a_message() {
    let report = run(FOUR, &probe(1, KINDS[0]), &setup(PolicyKind::Vruntime, 20.0));
    let gave_way = gave_way(&report) as f64;
    let probe = group(&report, "probe").passes as f64;
    let queued: u64 = report.domains.iter().map(|domain| domain.counts.queued).sum();
    // One in eight wake-ups of the probe, and hogs whose slice was over.
    assert!(gave_way > 0.9 * probe && (queued as f64) < 0.75 * gave_way, "{report:?}");
}

/// A hundred tasks that wake up all the time.
const WAKERS: &str = r#""waker": {"instance": 100, "run": 20, "sleep": 9000}"#;

#[test]
fn a_storm_of_wakeups_leaves_hogs_their_shares() {
    for policy in [PolicyKind::Vruntime, PolicyKind::Deadline] {
        let tasks = format!(
            r#""heavy": {{"run": 20000}}, "light": {{"priority": 5, "run": 20000}}, {WAKERS}"#
        );
        let [with, else_] = [setup(policy, 20.0), without(setup(policy, 20.0))]
            .map(|setup| run(ONE, &tasks, &setup));
        assert!(gave_way(&with) > 1000, "{with:?}");
        let cpu = |report: &Report, name| group(report, name).cpu_s;
        let ratio = cpu(&with, "heavy") / cpu(&with, "light");
        assert!((ratio / (100.0 / 33.0) - 1.0).abs() < 0.02, "{policy}: {ratio}");
        for hog in ["heavy", "light"] {
            let wakers = cpu(&with, "waker") - cpu(&else_, "waker");
            let (has, had) = (cpu(&with, hog), cpu(&else_, hog));
            assert!((has + wakers) / had > 0.98, "{policy} {hog}: {has} s of {had}");
        }
    }
}

#[test]
fn a_cpu_gives_way_as_often_as_its_budget_allows() {
    let tasks = format!(r#""hog": {{"instance": 2, "run": 20000}}, {WAKERS}"#);
    let report = run(ONE, &tasks, &setup(PolicyKind::Vruntime, 10.0));
    // Once in half a millisecond, and four times more at the beginning.
    assert!((1000..=20_004).contains(&gave_way(&report)), "{}", gave_way(&report));
}

/// Two tasks that wake up on the same CPU make each other give way once for a wake-up at most.
#[test]
fn two_wakers_play_no_ping_pong() {
    let tasks = r#""a": {"run": 900, "timer": {"ref": "unique", "period": 2100}},
        "b": {"run": 900, "timer": {"ref": "unique", "period": 2300}}"#;
    for policy in [PolicyKind::Vruntime, PolicyKind::Deadline] {
        let report = run(ONE, tasks, &setup(policy, 10.0));
        let passes = group(&report, "a").passes + group(&report, "b").passes;
        assert!(gave_way(&report) <= passes / 2, "{policy}: {} of {passes}", gave_way(&report));
        assert!(report.switches <= passes * 5 / 2, "{policy}: {} of {passes}", report.switches);
    }
}

/// The runs of tasks and of the domain thread on the only CPU: who, from when to when (microseconds).
fn runs(tasks: &str, setup: &Setup) -> Vec<(String, f64, f64)> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let machine = Topology::load(&Source::Synthetic(ONE.to_owned())).unwrap();
    let workload = Workload::parse(&format!("{{\"tasks\": {{{tasks}}}}}")).unwrap();
    simulate(&machine, &workload, setup, Some(file.path())).unwrap();
    let trace: Value =
        serde_json::from_str(&std::fs::read_to_string(file.path()).unwrap()).unwrap();
    let of_tasks = trace["traceEvents"].as_array().unwrap().iter().filter(|event| {
        let name = event["name"].as_str().unwrap();
        event["ph"] == "X" && ["hog", "waker", "manyland"].iter().any(|task| name.starts_with(task))
    });
    of_tasks
        .map(|event| {
            let (at, for_) = (event["ts"].as_f64().unwrap(), event["dur"].as_f64().unwrap());
            (event["name"].as_str().unwrap().to_owned(), at, at + for_)
        })
        .collect()
}

/// A hog that leaves the CPU elsewhere than at a tick has given way, and had its protected run. Next
/// to a tick only the run that comes after it tells whether its turn is over.
#[test]
fn no_task_gives_way_within_its_protected_run() {
    let tasks = r#""hog": {"instance": 3, "run": 20000},
        "waker": {"instance": 7, "run": 20, "timer": {"ref": "unique", "period": 1237}}"#;
    let runs = runs(tasks, &setup(PolicyKind::Vruntime, 10.0));
    let is_hog = |name: &str| name.starts_with("hog");
    let (mut had, mut least, mut gave_way) = (BTreeMap::new(), f64::MAX, 0);
    for two in runs.windows(2).filter(|two| is_hog(&two[0].0)) {
        let (name, from, to) = &two[0];
        let turn = had.entry(name).or_insert(f64::INFINITY);
        *turn += to - from;
        if to % TICK_US < 50.0 {
            *turn = if is_hog(&two[1].0) { 0.0 } else { f64::INFINITY };
        } else if turn.is_finite() {
            gave_way += 1;
            least = least.min(*turn);
        }
    }
    assert!(gave_way > 20 && least >= 95.0, "{gave_way} times, after {least} us at least");
}
