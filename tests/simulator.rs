//! What the tasks of a workload do in the simulator, step by step; and what the command line says
//! of it.

use scx_manyland::Builder;
use scx_manyland::ids::Pid;
use scx_manyland::policy::kind::PolicyKind;
use scx_manyland::policy::{Choice, Context, Policy, Task};
use scx_manyland::simulator::report::{GroupReport, Report};
use scx_manyland::simulator::workload::Workload;
use scx_manyland::simulator::{Setup, simulate};
use scx_manyland::topology::{Granularity, Source, Topology};
use std::collections::BTreeMap;
use std::time::Duration;

/// Runs without any randomness, on a machine of two L3s with two CPUs each.
fn run(tasks: &str, seconds: f64) -> Report {
    let machine = Topology::load(&Source::Synthetic("L3Cache:2 Core:2 PU:1".to_owned())).unwrap();
    let workload = Workload::parse(&format!("{{\"tasks\": {{{tasks}}}}}")).unwrap();
    let setup =
        Setup { jitter: 0.0, length: Some(Duration::from_secs_f64(seconds)), ..Setup::default() };
    simulate(&machine, &workload, &setup, None).unwrap()
}

fn group<'a>(report: &'a Report, name: &str) -> &'a GroupReport {
    report.groups.iter().find(|group| group.name == name).unwrap()
}

#[test]
fn a_task_alone_has_its_cpu_for_itself() {
    let report = run(r#""hog": {"run": 1000}"#, 1.0);
    assert!((0.99..=1.0).contains(&group(&report, "hog").cpu_s), "{:?}", report.groups);
    assert_eq!(report.domains.iter().map(|domain| domain.counts.queued).sum::<u64>(), 0);
}

#[test]
fn a_timer_keeps_its_beat_and_a_sleep_does_not() {
    let report = run(
        r#""timer": {"run": 3000, "timer": {"ref": "unique", "period": 10000}},
           "sleep": {"run": 3000, "sleep": 10000}"#,
        1.3,
    );
    assert!((129..=130).contains(&group(&report, "timer").passes), "{:?}", report.groups);
    assert!((99..=100).contains(&group(&report, "sleep").passes), "{:?}", report.groups);
}

#[test]
fn a_delay_comes_before_the_first_run() {
    let report = run(r#""hog": {"delay": 400000, "run": 1000}"#, 1.0);
    assert!((0.599..=0.601).contains(&group(&report, "hog").cpu_s), "{:?}", report.groups);
}

#[test]
fn an_absolute_timer_makes_up_for_the_beats_it_missed_and_a_relative_one_does_not() {
    // The first pass takes ten periods, the others hardly any time.
    let task = |mode: &str| {
        format!(
            r#""{mode}": {{"loop": 1, "phases": {{
                "long": {{"run": 100000, "timer": {{"ref": "unique", "period": 10000, "mode": "{mode}"}}}},
                "short": {{"loop": -1, "run": 10, "timer": {{"ref": "unique", "period": 10000, "mode": "{mode}"}}}}}}}}"#
        )
    };
    let report = run(&format!("{}, {}", task("absolute"), task("relative")), 1.0);
    assert!((98..=100).contains(&group(&report, "absolute").passes), "{:?}", report.groups);
    assert!((89..=91).contains(&group(&report, "relative").passes), "{:?}", report.groups);
}

#[test]
fn a_mutex_lets_one_in_at_a_time() {
    let report = run(r#""t": {"instance": 4, "lock": "m", "run": 10000, "unlock": "m"}"#, 1.0);
    let passes = group(&report, "t").passes;
    assert!((98..=100).contains(&passes), "{passes} passes of 10 ms in a second");
}

#[test]
fn a_semaphore_a_signal_and_a_resume_each_let_one_go_on() {
    let report = run(
        r#""post": {"sleep": 10000, "sem_post": "s"}, "take": {"sem_wait": "s", "run": 100},
           "signal": {"sleep": 10000, "lock": "m", "signal": "c", "unlock": "m"},
           "wait": {"instance": 2, "lock": "m", "wait": {"ref": "c", "mutex": "m"}, "unlock": "m", "run": 100},
           "resume": {"sleep": 10000, "resume": "sleeper"}, "sleeper": {"suspend": "", "run": 100}"#,
        1.005,
    );
    for waiting in ["take", "wait", "sleeper"] {
        let passes = group(&report, waiting).passes;
        assert!((99..=100).contains(&passes), "{waiting}: {passes} passes");
    }
}

#[test]
fn a_barrier_holds_everybody_until_the_last_comes() {
    let report = run(
        r#""quick": {"instance": 2, "run": 100, "barrier": "b"}, "slow": {"run": 10000, "barrier": "b"}"#,
        1.0,
    );
    assert!((98..=100).contains(&group(&report, "slow").passes), "{:?}", report.groups);
    let ahead = group(&report, "quick").passes - 2 * group(&report, "slow").passes;
    assert!(ahead <= 2, "the quick ones are {ahead} passes ahead");
}

#[test]
fn forked_tasks_come_on_top_of_those_from_the_start() {
    let report = run(
        r#""parent": {"loop": 5, "run": 1000, "fork": "child"}, "child": {"instance": 0, "loop": 3, "run": 100}"#,
        1.0,
    );
    let child = group(&report, "child");
    assert_eq!((child.tasks, child.ended, child.passes), (5, 5, 15));
    assert!(report.seconds < 0.1, "it is over when all have ended");
}

#[test]
fn tasks_stay_on_the_cpus_of_their_phase() {
    // Two phases on one CPU each: were they not kept to, there would be no wait on four CPUs.
    let report = run(
        r#""t": {"instance": 4, "phases": {"a": {"cpus": [1], "run": 10000}, "b": {"cpus": [3], "run": 10000}}}"#,
        1.0,
    );
    // Those that share a CPU end their phases within a slice of each other and leave it together.
    let t = group(&report, "t");
    assert!(t.cpu_s <= 2.001 && t.cpu_s > 1.2, "{t:?}");
    assert!(t.fairness.unwrap() > 0.99, "{t:?}");
}

#[test]
fn a_cpu_that_the_machine_lacks_is_an_error_that_names_the_task() {
    let machine = Topology::load(&Source::Synthetic("Core:2 PU:1".to_owned())).unwrap();
    let workload = Workload::parse(r#"{"tasks": {"t": {"cpus": [5], "run": 1}}}"#).unwrap();
    let error = simulate(&machine, &workload, &Setup::default(), None).unwrap_err().to_string();
    assert_eq!(error, "the tasks \"t\" may use CPUs 5 only, and the machine has CPUs 0-1");
}

#[test]
fn a_cost_is_paid() {
    let machine = Topology::load(&Source::Synthetic("Core:1 PU:1".to_owned())).unwrap();
    let workload =
        Workload::parse(r#"{"tasks": {"t": {"instance": 2, "run": 100, "yield": ""}}}"#).unwrap();
    let passes = |switch_ns| {
        let mut setup = Setup {
            scheduler: Builder::from(PolicyKind::Fifo)
                .with(|options| options.domain = Granularity::Machine),
            length: Some(Duration::from_millis(200)),
            ..Setup::default()
        };
        setup.costs.switch = switch_ns;
        simulate(&machine, &workload, &setup, None).unwrap().groups[0].passes as f64
    };
    let (cheap, dear) = (passes(1), passes(100_000));
    assert!(dear < 0.6 * cheap, "{dear} passes against {cheap} with free switches");
}

#[test]
fn every_shipped_workload_runs() {
    let machine = Topology::load(&Source::Synthetic("L3Cache:2 Core:2 PU:2".to_owned())).unwrap();
    for (name, _) in scx_manyland::simulator::workload::SHIPPED {
        let workload = Workload::load(name).unwrap();
        let setup = Setup { length: Some(Duration::from_millis(300)), ..Setup::default() };
        let report = simulate(&machine, &workload, &setup, None).unwrap();
        assert!(report.groups.iter().any(|group| group.passes > 0), "{name}: {report:?}");
    }
}

#[test]
fn under_load_tasks_run_by_decisions() {
    let machine = Topology::load(&Source::Synthetic("L3Cache:2 Core:2 PU:2".to_owned())).unwrap();
    let workload = Workload::load("hackbench").unwrap();
    for policy in PolicyKind::ALL {
        let setup = Setup {
            scheduler: Builder::from(policy),
            length: Some(Duration::from_millis(500)),
            ..Setup::default()
        };
        let report = simulate(&machine, &workload, &setup, None).unwrap();
        let (decided, late) = (report.decided() as f64, report.late() as f64);
        assert!(decided / (decided + late) > 0.95, "{policy}: {decided} decided, {late} late");
    }
}

/// CPUs without work beside another domain all of whose CPUs are busy, so that its thread has none
/// to decide on.
#[test]
fn a_domain_with_an_idle_cpu_decides_for_what_it_takes() {
    let job = |i: u32| {
        let compute = 9000 + 1100 * i;
        format!(
            r#""job{i}": {{"phases": {{
                "read": {{"loop": 4, "run": 300, "sleep": 800}}, "compute": {{"run": {compute}}}}}}}"#
        )
    };
    let jobs: Vec<_> = (0..8).map(job).collect();
    let report = run(&jobs.join(", "), 10.0);
    let stolen: u64 = report.domains.iter().map(|domain| domain.counts.stolen_in).sum();
    assert!(stolen > 100, "{:?}", report.domains);
    assert!(report.late() * 100 <= report.decided(), "{:?}", report.domains);
}

#[test]
fn tasks_bound_to_a_cpu_share_it_whether_they_sleep_or_not() {
    for policy in [PolicyKind::Vruntime, PolicyKind::Deadline] {
        let machine =
            Topology::load(&Source::Synthetic("L3Cache:2 Core:2 PU:1".to_owned())).unwrap();
        let text = r#"{"tasks": {
            "hog": {"instance": 4, "cpus": [1], "run": 20000}, "nice": {"instance": 2, "cpus": [1], "priority": 5, "run": 20000},
            "sleeper": {"instance": 4, "cpus": [1], "run": 1000, "sleep": 19000}}}"#;
        let setup = Setup {
            scheduler: Builder::from(policy),
            length: Some(Duration::from_secs(10)),
            ..Setup::default()
        };
        let workload = Workload::parse(text).unwrap();
        let report = simulate(&machine, &workload, &setup, None).unwrap();
        // Each asks for a twentieth, which is less than its share, and waits for a tick each time.
        let sleeper = group(&report, "sleeper");
        assert!(sleeper.cpu_s > 4.0 * 0.38, "{policy}: {sleeper:?}");
        let hogs = group(&report, "hog").cpu_s / group(&report, "nice").cpu_s;
        assert!((hogs / (400.0 / 66.0) - 1.0).abs() < 0.05, "{policy}: {hogs}");
    }
}

/// Decides in the order of pids, however long others have waited.
struct ByPid(BTreeMap<Pid, Task>);

impl Policy for ByPid {
    fn enqueue(&mut self, task: Task, _: &Context) {
        self.0.insert(task.pid, task);
    }

    fn next(&mut self, _: &Context) -> Option<Choice> {
        let (pid, task) = self.0.pop_first()?;
        Some(task.run_for(Duration::from_millis(5)).at_virtual_time(pid.0 as u64))
    }

    fn waiting(&self) -> usize {
        self.0.len()
    }
}

#[test]
fn whom_a_policy_never_chooses_runs_every_few_seconds() {
    let machine = Topology::load(&Source::Synthetic("L3Cache:1 Core:2 PU:1".to_owned())).unwrap();
    for hogs in [
        r#""hog": {"instance": 8, "run": 1000}"#,
        r#""bound": {"instance": 8, "cpus": [1], "run": 1000}"#,
        // Whoever has the smaller pids, the others are in another queue.
        r#""free": {"instance": 4, "run": 1000}, "bound": {"instance": 5, "cpus": [1], "run": 1000}"#,
        r#""bound": {"instance": 5, "cpus": [0], "run": 1000}, "other": {"instance": 5, "cpus": [1], "run": 1000},
            "free": {"instance": 4, "run": 1000}"#,
    ] {
        let workload = Workload::parse(&format!("{{\"tasks\": {{{hogs}}}}}")).unwrap();
        let setup = Setup {
            scheduler: Builder::new(|_| ByPid(BTreeMap::new())),
            length: Some(Duration::from_secs(20)),
            ..Setup::default()
        };
        let report = simulate(&machine, &workload, &setup, None).unwrap();
        for group in &report.groups {
            // Three seconds, a heartbeat, and the turns of those that are as starved.
            assert!(group.run_delay_us.max < 3.4e6, "{group:?}");
            let least_s = group.cpu_s_of_each.iter().copied().fold(f64::INFINITY, f64::min);
            assert!(least_s > 5.0 * 0.004, "{group:?}");
        }
    }
}

#[test]
fn a_thread_at_work_is_waited_for_longer_than_one_that_waits() {
    let late = |patience_us, decide_us: u64| {
        let machine =
            Topology::load(&Source::Synthetic("L3Cache:1 Core:4 PU:1".to_owned())).unwrap();
        let text = r#"{"tasks": {"t": {"instance": 12, "run": 200, "sleep": 300}}}"#;
        let mut setup = Setup {
            scheduler: Builder::from(PolicyKind::Fifo)
                .with(|options| options.patience_us = patience_us),
            length: Some(Duration::from_secs(1)),
            ..Setup::default()
        };
        setup.costs.decide = decide_us * 1000;
        simulate(&machine, &Workload::parse(text).unwrap(), &setup, None).unwrap().late()
    };
    assert_eq!(late(1000, 600), 0);
    // A decision takes longer than the patience, and less than four times as long.
    assert_eq!(late(300, 600), 0);
    assert!(late(100, 600) > 0);
}

/// A thousand tasks of one process that wake up all the time, two and a half times as much as the
/// machine can do.
#[test]
fn a_crowd_that_wakes_up_shares_all_domains_and_nobody_in_it_waits_for_long() {
    let tasks = r#""restless": {"instance": 1000, "run": 100, "sleep": 10000}, "hog": {"instance": 4, "run": 100000}"#;
    let report = run(tasks, 5.0);
    let queued: Vec<_> = report.domains.iter().map(|domain| domain.counts.queued as f64).collect();
    assert!((0.8..1.25).contains(&(queued[0] / queued[1])), "{queued:?}");
    // With equal turns all of them would have one in 25 ms.
    let delay = &group(&report, "restless").run_delay_us;
    assert!(delay.p99 < 8.0 * 25_000.0, "{delay:?}");
}

/// A domain thread that never comes: the safety net alone, and it shares a slice as a policy does.
#[test]
fn the_safety_net_gives_shorter_slices_while_many_wait() {
    let machine = Topology::load(&Source::Synthetic("L3Cache:1 Core:2 PU:1".to_owned())).unwrap();
    let text = r#"{"tasks": {"hog": {"instance": 20, "run": 100000}}}"#;
    let mut setup = Setup { length: Some(Duration::from_secs(5)), jitter: 0.0, ..Setup::default() };
    setup.costs.thread_wake = 1_000_000_000_000;
    let report = simulate(&machine, &Workload::parse(text).unwrap(), &setup, None).unwrap();
    assert!(report.decided() == 0 && report.late() > 100, "{:?}", report.domains);
    // The slices end at ticks, 4 ms apart, which those of 5 ms would pass.
    let turn_us = 4000.0 * 20.0 / 2.0;
    let delay = &group(&report, "hog").run_delay_us;
    assert!(delay.p99 <= 1.25 * turn_us, "{delay:?}");
}

/// The same, with more sleepers than the machine has time for: nobody who uses less than the others
/// waits as long as they do.
#[test]
fn in_a_crowd_the_safety_net_runs_those_first_that_use_least() {
    let machine = Topology::load(&Source::Synthetic("L3Cache:1 Core:4 PU:1".to_owned())).unwrap();
    let text = r#"{"tasks": {
        "crowd": {"instance": 400, "run": 100, "sleep": 1000},
        "hog": {"instance": 4, "run": 100000},
        "rare": {"run": 10, "sleep": 10000}}}"#;
    let mut setup = Setup { length: Some(Duration::from_secs(5)), ..Setup::default() };
    setup.costs.thread_wake = 1_000_000_000_000;
    let report = simulate(&machine, &Workload::parse(text).unwrap(), &setup, None).unwrap();
    assert!(report.decided() == 0 && report.late() > 100, "{:?}", report.domains);
    let (crowd, rare) = (group(&report, "crowd"), group(&report, "rare"));
    assert!(rare.run_delay_us.p99 < crowd.run_delay_us.p50 / 4.0, "{rare:?}, {crowd:?}");
    let hog_s = group(&report, "hog").cpu_s / 4.0;
    let due_s = 5.0 * 4.0 / 404.0;
    assert!((0.9..1.1).contains(&(hog_s / due_s)), "{hog_s} s of {due_s} s");
}

/// How long 99 of 100 times at most a task waits that needs the CPU for an instant every 10 ms,
/// beside 40 that wake up together every 250 ms and then run for so long, which takes them 100 ms
/// and more (microseconds).
fn p99_beside_a_herd(run: u32, thread_wake: Option<u64>) -> f64 {
    let machine = Topology::load(&Source::Synthetic("L3Cache:1 Core:2 PU:1".to_owned())).unwrap();
    let text = format!(
        r#"{{"tasks": {{
            "herd": {{"instance": 40, "loop": 20, "phases": {{
                "work": {{"run": {run}, "timer": {{"ref": "unique", "period": 250000}}}}}}}},
            "hog": {{"instance": 2, "run": 100000}},
            "rare": {{"run": 10, "sleep": 10000}}}}}}"#
    );
    let mut setup = Setup { length: Some(Duration::from_secs(5)), jitter: 0.0, ..Setup::default() };
    setup.costs.thread_wake = thread_wake.unwrap_or(setup.costs.thread_wake);
    let report = simulate(&machine, &Workload::parse(&text).unwrap(), &setup, None).unwrap();
    assert_eq!(report.decided() == 0, thread_wake.is_some(), "{:?}", report.domains);
    group(&report, "rare").run_delay_us.p99
}

/// Tasks that sleep for long and then all have much to do at once are owed as much as one that
/// sleeps again soon, which goes first.
#[test]
fn the_safety_net_runs_those_first_that_soon_sleep_again() {
    let p99 = p99_beside_a_herd(5000, Some(1_000_000_000_000));
    assert!(p99 < 20_000.0, "{p99} us");
}

/// The first of them that the policy hears of are owed no more than the last.
#[test]
fn a_herd_does_not_go_before_who_wakes_up_often() {
    let p99 = p99_beside_a_herd(8000, None);
    assert!(p99 < 20_000.0, "{p99} us");
}

/// A machine of two L3s with four CPUs each, one of which is the thread's own.
fn with_dedicated_cpus(tasks: &str, policy: PolicyKind) -> Report {
    let machine = Topology::load(&Source::Synthetic("L3Cache:2 Core:4 PU:1".to_owned())).unwrap();
    let workload = Workload::parse(&format!("{{\"tasks\": {{{tasks}}}}}")).unwrap();
    let setup = Setup {
        scheduler: Builder::from(policy).with(|options| options.dedicate = true),
        length: Some(Duration::from_secs(2)),
        ..Setup::default()
    };
    simulate(&machine, &workload, &setup, None).unwrap()
}

#[test]
fn a_dedicated_cpu_is_its_threads_and_theirs_who_may_use_no_other() {
    for policy in PolicyKind::ALL {
        let hogs = r#""hog": {"instance": 20, "run": 1000}, "sleeper": {"instance": 20, "run": 100, "sleep": 900}"#;
        let report = with_dedicated_cpus(hogs, policy);
        let used_s: f64 = report.groups.iter().map(|group| group.cpu_s).sum();
        assert!(used_s > 0.97 * 12.0 && used_s <= 12.0, "{policy}: {used_s} s on 6 CPUs");
        for domain in &report.domains {
            assert!(domain.thread_busy > 0.95, "{policy}: {domain:?}");
            assert!(domain.counts.decided > 100 && domain.counts.late == 0, "{policy}: {domain:?}");
        }

        let bound = r#""hog": {"instance": 20, "run": 1000}, "bound": {"cpus": [3], "run": 1000, "sleep": 1000}"#;
        let report = with_dedicated_cpus(bound, policy);
        assert!(group(&report, "bound").passes > 500, "{policy}: {report:?}");
        assert!(report.domains[0].counts.decided > 100, "{policy}: {:?}", report.domains);
    }
}

#[test]
fn a_domain_of_one_cpu_has_none_to_dedicate() {
    let machine = Topology::load(&Source::Synthetic("L3Cache:2 Core:1 PU:1".to_owned())).unwrap();
    let workload = Workload::parse(r#"{"tasks": {"t": {"run": 1}}}"#).unwrap();
    let scheduler = Builder::from(PolicyKind::default()).with(|options| options.dedicate = true);
    let setup = Setup { scheduler, ..Setup::default() };
    let error = simulate(&machine, &workload, &setup, None).unwrap_err().to_string();
    assert!(error.starts_with("cannot dedicate a CPU of domain 0: it has only CPU 0"), "{error}");
}

/// Twelve services on four CPUs: how often the threads are switched in, and what the services get
/// done.
#[test]
fn decisions_that_stand_spare_activations_and_cost_nobody_its_share() {
    let machine = Topology::load(&Source::Synthetic("L3Cache:2 Core:2 PU:1".to_owned())).unwrap();
    let workload = Workload::parse(
        r#"{"tasks": {"service": {"instance": 12, "run": 300, "sleep": 200}, "hog": {"instance": 2, "run": 1000}}}"#,
    )
    .unwrap();
    let report = |standing| {
        let scheduler =
            Builder::from(PolicyKind::Vruntime).with(|options| options.standing = standing);
        let length = Some(Duration::from_secs(10));
        simulate(&machine, &workload, &Setup { scheduler, length, ..Setup::default() }, None)
            .unwrap()
    };
    let (anew, standing) = (report(0), report(7));
    let sum = |report: &Report, of: fn(&scx_manyland::simulator::report::DomainReport) -> u64| {
        report.domains.iter().map(of).sum::<u64>()
    };
    assert_eq!(sum(&anew, |domain| domain.counts.standing), 0);
    let (stood, decided) = (sum(&standing, |domain| domain.counts.standing), standing.decided());
    assert!(stood > 2 * decided && stood <= 7 * decided, "{stood} stood, {decided} decided");
    let activations =
        [&anew, &standing].map(|report| sum(report, |domain| domain.counts.activations));
    assert!(2 * activations[1] < activations[0], "{activations:?} activations");
    // Fourteen tasks that want more than the four CPUs have. Waiting for a decision each time costs
    // services some of their due.
    let due_s = 10.0 * 4.0 / 14.0;
    let shares = [("service", 12.0), ("hog", 2.0)].map(|(name, tasks)| {
        [&anew, &standing].map(|report| group(report, name).cpu_s / tasks / due_s)
    });
    assert!(shares[0][1] > shares[0][0] && shares[0][1] > 0.9, "{shares:?}");
    assert!(shares[1][1] > 0.95, "{shares:?}");
    // Both hogs may be at home in one domain, whose services then get less: 0.977, and 0.990 where no
    // task gives way.
    let fairness = group(&standing, "service").fairness.unwrap();
    assert!(fairness > 0.97, "{fairness}");
}
