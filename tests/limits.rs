//! cpu.max in the simulator: what groups get of the CPUs when they are limited.

use scx_manyland::Builder;
use scx_manyland::policy::{Choice, Context, Limit, Policy, Task};
use scx_manyland::simulator::report::{GroupReport, Report};
use scx_manyland::simulator::workload::Workload;
use scx_manyland::simulator::{Setup, simulate};
use scx_manyland::topology::{Source, Topology};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Two L3s of two CPUs each.
const MACHINE: &str = "L3Cache:2 Core:2 PU:1";

const SECONDS: f64 = 10.0;

fn run(cgroups: &str, tasks: &str) -> Report {
    run_for(SECONDS, cgroups, tasks)
}

fn run_for(seconds: f64, cgroups: &str, tasks: &str) -> Report {
    run_with(cgroups, tasks, setup(seconds))
}

fn setup(seconds: f64) -> Setup {
    let length = Some(Duration::from_secs_f64(seconds));
    Setup { length, jitter: 0.0, ..Setup::default() }
}

fn run_with(cgroups: &str, tasks: &str, setup: Setup) -> Report {
    let machine = Topology::load(&Source::Synthetic(MACHINE.to_owned())).unwrap();
    let text = format!(r#"{{"global": {{"taskgroups": {{{cgroups}}}}}, "tasks": {{{tasks}}}}}"#);
    let workload = Workload::parse(&text).unwrap();
    simulate(&machine, &workload, &setup, None).unwrap()
}

fn group<'a>(report: &'a Report, name: &str) -> &'a GroupReport {
    report.groups.iter().find(|group| group.name == name).unwrap()
}

/// What the tasks of this name have used, in percent of one CPU.
fn usage(report: &Report, name: &str) -> f64 {
    group(report, name).cpu_s / SECONDS * 100.0
}

/// What the slices that end at the next tick may have used too much at the end of a run, which later
/// periods would pay for: a tick of 4 ms on each of four CPUs, in percent of one CPU.
const OVERRUN: f64 = 4.0 * 0.004 / SECONDS * 100.0;

/// The limit leaves so much, within 2 %. The first period begins with a full pool, and the last one
/// may just have added to it.
#[track_caller]
fn assert_uses(usage: f64, due: f64, period_s: f64) {
    let most = due * (1.0 + period_s / SECONDS);
    assert!(
        usage >= due * 0.98 && usage <= most * 1.02 + OVERRUN,
        "{usage:.2} % of a CPU, and {due:.2} % are due"
    );
}

/// Quotas from a tenth of a CPU to three and a half, periods from 10 ms to 1 s, 1 to 64 hogs.
#[test]
fn hogs_use_what_their_limit_leaves() {
    for period_ms in [10, 100, 1000] {
        for (percent, hogs) in
            [(10, 1), (10, 8), (10, 64), (50, 4), (150, 4), (150, 64), (350, 8), (350, 64)]
        {
            let quota_us = period_ms * 1000 * percent / 100;
            let cgroups = format!(r#""/a": {{"cpu.max": "{quota_us} {}"}}"#, period_ms * 1000);
            let tasks = format!(r#""hog": {{"instance": {hogs}, "taskgroup": "/a", "run": 1000}}"#);
            let report = run(&cgroups, &tasks);
            println!(
                "{quota_us} us in {period_ms} ms, {hogs} hogs: {:.2} %",
                usage(&report, "hog")
            );
            assert_uses(usage(&report, "hog"), f64::from(percent), f64::from(period_ms) / 1000.0);
        }
    }
}

/// As above where the clocks of idle CPUs stand still and jump afterwards, as with an unstable TSC
/// where a throttled task is on a CPU's account. Periods must follow another clock, and a task must
/// not pay for a jump.
#[test]
fn unstable_clocks_cost_no_cpu_time() {
    for (quota_us, period_us, hogs) in
        [(50_000, 100_000, 4), (10_000, 100_000, 64), (5_000, 10_000, 4), (100_000, 1_000_000, 8)]
    {
        let cgroups = format!(r#""/a": {{"cpu.max": "{quota_us} {period_us}"}}"#);
        let tasks = format!(r#""hog": {{"instance": {hogs}, "taskgroup": "/a", "run": 1000}}"#);
        let report = run_with(&cgroups, &tasks, Setup { unstable_clocks: true, ..setup(SECONDS) });
        let due = 100.0 * f64::from(quota_us) / f64::from(period_us);
        println!("{quota_us} us in {period_us} us, {hogs} hogs: {:.2} %", usage(&report, "hog"));
        assert_uses(usage(&report, "hog"), due, f64::from(period_us) / 1e6);
    }
}

/// Groups below one with a limit get no more than it leaves, whatever limits they have themselves,
/// and those beside it get the rest.
#[test]
fn no_group_gets_more_than_those_above_leave() {
    let cgroups = r#""/a": {"cpu.max": "100000 100000"}, "/a/c": {"cpu.max": "20000 100000"},
        "/a/d/e": {"cpu.max": "300000 100000"}"#;
    let tasks = r#""b": {"instance": 3, "taskgroup": "/a/b", "run": 1000},
        "c": {"instance": 3, "taskgroup": "/a/c", "run": 1000},
        "e": {"instance": 3, "taskgroup": "/a/d/e", "run": 1000},
        "free": {"instance": 4, "taskgroup": "/f", "run": 1000}"#;
    let report = run(cgroups, tasks);
    let [b, c, e, free] = ["b", "c", "e", "free"].map(|name| usage(&report, name));
    println!("b {b:.2} %, c {c:.2} %, e {e:.2} %, free {free:.2} %");
    assert_uses(b + c + e, 100.0, 0.1);
    assert_uses(c, 20.0, 0.1);
    assert!(b > 20.0 && e > 20.0, "b uses {b:.2} %, and e {e:.2} %");
    assert!(free > 295.0, "what the limited ones leave is used to {free:.2} %");
}

/// A group that has slept may use more than its quota in one period, as far as its burst goes.
#[test]
fn a_burst_is_what_was_left_of_earlier_quotas() {
    let done_in = |burst: u32| {
        let cgroups = format!(r#""/a": {{"cpu.max": "10000 100000", "cpu.max.burst": {burst}}}"#);
        // It needs 30 ms of CPU time each second.
        let tasks =
            r#""worker": {"taskgroup": "/a", "delay": 900000, "sleep": 970000, "run": 30000}"#;
        let report = run(&cgroups, tasks);
        group(&report, "worker").passes
    };
    let (without, with) = (done_in(0), done_in(20_000));
    println!("{without} passes without a burst, {with} with one of 20 ms");
    assert!(with >= 9 && without <= 8, "{without} passes without a burst, {with} with one");
}

/// In no time does a group use more than what it has at its beginning, a quota and the burst, and the
/// quotas of the periods that begin in it: with hogs that all wake up after a pause.
#[test]
fn no_window_has_more_than_its_quotas_and_a_burst() {
    const STEP_S: f64 = 0.025;
    let tasks = r#""worker": {"instance": 8, "taskgroup": "/a", "sleep": 400000, "run": 60000}"#;
    for (period_s, quota_s, burst_s) in
        [(0.1, 0.02, 0.0), (0.1, 0.02, 0.02), (0.02, 0.01, 0.01), (0.5, 0.1, 0.05)]
    {
        let [period, quota, burst] = [period_s, quota_s, burst_s].map(|s: f64| (s * 1e6) as u64);
        let files = format!(r#""/a": {{"cpu.max": "{quota} {period}", "cpu.max.burst": {burst}}}"#);
        let ends = (0..120).map(|at| f64::from(at) * STEP_S);
        let used = |seconds| match seconds {
            0.0 => 0.0,
            _ => group(&run_for(seconds, &files, tasks), "worker").cpu_s,
        };
        let used: Vec<(f64, f64)> = ends.map(|seconds| (seconds, used(seconds))).collect();
        let mut most = f64::MIN;
        for (at, (begin, before)) in used.iter().enumerate() {
            for (end, after) in &used[at + 1..] {
                let quotas = (end - begin) / period_s + 2.0;
                most = most.max((after - before - quotas * quota_s - burst_s) * 1000.0);
            }
        }
        println!("{quota} us in {period} us, burst {burst} us: {most:.1} ms above");
        // A tick on each of four CPUs.
        assert!(most <= 16.0, "{most} ms too much with {files}");
        assert!(used[119].1 > 0.7 * (3.0 - period_s) * quota_s / period_s, "{used:?}");
    }
}

/// 1,000 tasks share 1 ms each second. Each has a CPU for a moment before the watchdog's 30 s.
#[test]
fn the_watchdog_never_meets_a_throttled_task() {
    let cgroups = r#""/a": {"cpu.max": "1000 1000000"}"#;
    let tasks = r#""hog": {"instance": 1000, "taskgroup": "/a", "run": 1000},
        "other": {"instance": 4, "run": 500, "sleep": 500}"#;
    let report = run_for(70.0, cgroups, tasks);
    let hog = group(&report, "hog");
    println!("they used {} s, and waited for {} us at most", hog.cpu_s, hog.run_delay_us.max);
    assert!(hog.run_delay_us.max < 27e6, "a task waited for {} us", hog.run_delay_us.max);
    assert!(hog.cpu_s < 0.07 + 0.2, "they used {} s, and may use 0.07 s", hog.cpu_s);
    let other = group(&report, "other");
    assert!(other.run_delay_us.p99 < 5000.0, "{other:?}");
}

/// Tasks that sleep and wake within a limit that they do not reach are not throttled, and those that
/// reach it have what is theirs.
#[test]
fn short_runs_use_what_their_limit_leaves() {
    for (quota_us, due) in [(50_000, 50.0), (300_000, 160.0)] {
        let cgroups = format!(r#""/a": {{"cpu.max": "{quota_us} 100000"}}"#);
        let tasks = r#""worker": {"instance": 16, "taskgroup": "/a", "run": 100, "sleep": 900}"#;
        let report = run(&cgroups, tasks);
        let throttled: u64 = report.domains.iter().map(|domain| domain.counts.throttled).sum();
        let used = usage(&report, "worker");
        println!("16 workers use {used:.2} %, of {due:.2} %, throttled {throttled} times");
        assert!((used - due).abs() < due / 25.0, "they use {used:.2} % of a CPU, not {due:.2} %");
        assert_eq!(throttled > 0, due < 100.0);
    }
}

/// Nice values count among the tasks of a throttled group.
#[test]
fn nice_counts_within_a_throttled_group() {
    let cgroups = r#""/a": {"cpu.max": "50000 100000"}"#;
    let tasks = r#""plain": {"instance": 12, "taskgroup": "/a", "run": 1000},
        "nice": {"instance": 12, "taskgroup": "/a", "priority": 5, "run": 1000}"#;
    let report = run(cgroups, tasks);
    let ratio = usage(&report, "plain") / usage(&report, "nice");
    println!("nice 0 has {ratio:.2} times what nice 5 has, by their weights 3.05 times");
    assert!((2.0..4.5).contains(&ratio), "the ratio is {ratio:.2}");
}

/// A task that moves out of a throttled group goes on at once, and one that moves in waits.
#[test]
fn a_move_frees_a_task_or_throttles_it() {
    let cgroups = r#""/a": {"cpu.max": "1000 1000000"}"#;
    let tasks = r#""hog": {"instance": 4, "taskgroup": "/a", "run": 1000},
        "mover": {"phases": {
            "out": {"taskgroup": "/b", "run": 20000, "sleep": 1000},
            "in": {"taskgroup": "/a", "run": 100, "sleep": 1000}}}"#;
    let report = run(cgroups, tasks);
    let mover = group(&report, "mover");
    assert!(mover.passes > 0 && mover.cpu_s > 0.02, "{mover:?}");
    assert!(mover.cpu_s < 2.0, "{mover:?}");
}

/// First come, first served; writes down what limit the cgroup of each task has, and whether it is
/// throttled.
struct Watching {
    waiting: VecDeque<Task>,
    seen: Seen,
}

type Seen = Arc<Mutex<Vec<(Option<Limit>, bool)>>>;

impl Policy for Watching {
    fn enqueue(&mut self, task: Task, context: &Context) {
        if let Some(group) = context.group_of(&task) {
            self.seen.lock().unwrap().push((group.limit, group.throttled));
        }
        self.waiting.push_back(task);
    }

    fn next(&mut self, _: &Context) -> Option<Choice> {
        Some(self.waiting.pop_front()?.run_for(Duration::from_millis(3)))
    }

    fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn wants_groups(&self) -> bool {
        true
    }
}

#[test]
fn a_policy_sees_the_limits() {
    let seen = Seen::default();
    let scheduler = Builder::new({
        let seen = Arc::clone(&seen);
        move |_| Watching { waiting: VecDeque::with_capacity(64), seen: Arc::clone(&seen) }
    });
    let cgroups = r#""/a": {"cpu.max": "50000 100000"}, "/b": {}"#;
    let tasks = r#""in_a": {"instance": 4, "taskgroup": "/a", "run": 20000},
        "in_b": {"instance": 4, "taskgroup": "/b", "run": 20000}"#;
    run_with(cgroups, tasks, Setup { scheduler, ..setup(1.0) });
    let seen = seen.lock().unwrap();
    let limited = seen.iter().filter_map(|(limit, _)| *limit).collect::<Vec<_>>();
    let throttled = |limited| {
        seen.iter().filter(|(limit, throttled)| *throttled && limit.is_some() == limited).count()
    };
    assert!(
        !limited.is_empty() && limited.len() < seen.len(),
        "{} of {}",
        limited.len(),
        seen.len()
    );
    let limit = Limit { quota: Duration::from_millis(50), period: Duration::from_millis(100) };
    assert!(limited.iter().all(|seen| *seen == limit), "{limited:?}");
    assert!(throttled(true) > 0 && throttled(true) < limited.len() && throttled(false) == 0);
}

/// What a limit holds up is not counted as the delay of a wake-up: the CPUs were free.
#[test]
fn throttled_time_is_no_run_delay() {
    let tasks = r#""worker": {"instance": 2, "run": 3000, "sleep": 1000, "taskgroup": "/a"}"#;
    let report = run(r#""/a": {"cpu.max": "20000 100000"}"#, tasks);
    assert_uses(usage(&report, "worker"), 20.0, 0.1);
    assert!(report.domains.iter().any(|domain| domain.counts.throttled > 100), "{report:?}");
    let delays = report.domains.iter().filter_map(|domain| domain.run_delay_us.p99);
    let longest = delays.fold(0.0, f64::max);
    assert!(longest > 0.0 && longest < 1000.0, "{longest} us");
}
