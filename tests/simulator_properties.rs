//! What must hold on any machine, under any policy, whatever runs: tried on random ones in the
//! simulator.
//!
//! Times here are virtual, so they are the same in every run and may be asserted.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use scx_manyland::Builder;
use scx_manyland::options::RunOptions;
use scx_manyland::policy::kind::PolicyKind;
use scx_manyland::simulator::report::Report;
use scx_manyland::simulator::workload::{Priority, Workload};
use scx_manyland::simulator::{Setup, simulate};
use scx_manyland::topology::{Granularity, Source, Topology};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

/// The time between two ticks (microseconds), at which slices end.
const TICK_US: f64 = 4000.0;
/// More than what kicks, switches and rounds take together (microseconds).
const LITTLE_US: f64 = 50.0;

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// A machine of up to 32 CPUs, and what its domains are.
fn machines() -> impl Strategy<Value = (String, Granularity)> {
    let granularities =
        prop::sample::select(vec![Granularity::Machine, Granularity::L3, Granularity::Core]);
    (1..=2u32, 1..=4u32, 1..=4u32, 1..=2u32, granularities).prop_map(
        |(packages, l3s, cores, threads, granularity)| {
            let machine = format!("Package:{packages} L3Cache:{l3s} Core:{cores} PU:{threads}");
            (machine, granularity)
        },
    )
}

fn policies() -> impl Strategy<Value = PolicyKind> {
    prop::sample::select(PolicyKind::ALL.to_vec())
}

fn load(machine: &str) -> Topology {
    Topology::load(&Source::Synthetic(machine.to_owned())).expect("hwloc knows the machine")
}

fn setup(policy: PolicyKind, domain: Granularity, seconds: f64) -> Setup {
    Setup {
        scheduler: Builder::from(policy).with(|options| options.domain = domain),
        length: Some(Duration::from_secs_f64(seconds)),
        ..Setup::default()
    }
}

fn run(machine: &str, tasks: &str, setup: &Setup) -> Report {
    let workload = Workload::parse(&format!("{{\"tasks\": {{{tasks}}}}}")).expect("a workload");
    simulate(&load(machine), &workload, setup, None).expect("a simulation")
}

/// A group of tasks that end; how many there are, and how many passes they make in all.
#[derive(Clone, Debug)]
struct Finite {
    text: String,
    tasks: usize,
    passes: u64,
}

/// Tasks of all kinds that come to an end by themselves if nobody is forgotten.
fn finite_groups() -> impl Strategy<Value = Vec<Finite>> {
    let group = (0..6u8, 1..12u64, 1..40u64, 1..3000u64, 0..2000u64, -10..15i8, 0..64u32);
    prop::collection::vec(group, 1..6).prop_map(|groups| {
        let mut finite = Vec::new();
        for (i, (kind, count, loops, run, sleep, nice, cpu)) in groups.into_iter().enumerate() {
            let head = format!("\"g{i}\": {{\"instance\": {count}, \"priority\": {nice}, \"loop\": {loops}");
            let (text, tasks, passes) = match kind {
                0 => (format!("{head}, \"run\": {run}}}"), count, count * loops),
                1 => (format!("{head}, \"run\": {run}, \"sleep\": {sleep}}}"), count, count * loops),
                2 => (
                    format!("{head}, \"run\": {run}, \"yield\": \"\", \"lock\": \"m{i}\", \"run1\": 20, \"unlock\": \"m{i}\"}}"),
                    count,
                    count * loops,
                ),
                3 => (
                    // CPU 0 is there on every machine.
                    format!("{head}, \"cpus\": [0, {cpu}], \"run\": {run}, \"timer\": {{\"ref\": \"unique\", \"period\": {sleep}}}}}"),
                    count,
                    count * loops,
                ),
                4 => (
                    format!(
                        "{head}, \"run\": {run}, \"sem_post\": \"s{i}\"}}, \
                         \"h{i}\": {{\"instance\": {count}, \"loop\": {loops}, \"sem_wait\": \"s{i}\", \"run\": 50}}"
                    ),
                    2 * count,
                    2 * count * loops,
                ),
                _ => (
                    format!("{head}, \"cpus\": [0], \"run\": {run}, \"barrier\": \"b{i}\"}}"),
                    count,
                    count * loops,
                ),
            };
            finite.push(Finite { text, tasks: tasks as usize, passes });
        }
        finite
    })
}

/// So many random cases, the same in every run: a failure is there again after a change that should
/// mend it.
fn always_the_same(cases: u32) -> ProptestConfig {
    ProptestConfig { rng_seed: RngSeed::Fixed(20_261_120), ..ProptestConfig::with_cases(cases) }
}

proptest! {
    #![proptest_config(always_the_same(48))]

    #[test]
    fn every_task_gets_to_its_end(
        (machine, domain) in machines(),
        policy in policies(),
        groups in finite_groups(),
        strict in any::<bool>(),
        no_steal in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mut setup = setup(policy, domain, 600.0);
        setup.scheduler = setup.scheduler.with(|options| {
            options.strict = strict;
            options.no_steal = no_steal;
        });
        setup.seed = seed;
        let text: Vec<_> = groups.iter().map(|group| group.text.clone()).collect();
        let report = run(&machine, &text.join(", "), &setup);
        let ended: usize = report.groups.iter().map(|group| group.ended).sum();
        let passes: u64 = report.groups.iter().map(|group| group.passes).sum();
        prop_assert_eq!(ended, groups.iter().map(|group| group.tasks).sum::<usize>());
        prop_assert_eq!(passes, groups.iter().map(|group| group.passes).sum::<u64>());
        let queued: u64 = report.domains.iter().map(|domain| domain.counts.queued).sum();
        prop_assert_eq!(queued, report.decided() + report.late(), "each stay ends once");
        let at_home: u32 = report.domains.iter().map(|domain| domain.tasks).sum();
        prop_assert_eq!(at_home, 0, "nobody is counted who has gone");
    }

    #[test]
    fn no_cpu_is_idle_beside_a_task_that_waits(
        (machine, domain) in machines(),
        policy in policies(),
        groups in finite_groups(),
        seed in any::<u64>(),
    ) {
        let mut setup = setup(policy, domain, 2.0);
        setup.seed = seed;
        setup.inspect = Some(Duration::from_micros(10));
        let text: Vec<_> = groups.iter().map(|group| group.text.clone()).collect();
        let report = run(&machine, &text.join(", "), &setup);
        let idle = report.idle_beside_waiting_us.expect("asked for");
        // At home a decision is waited for, for as long as patience has it. Elsewhere the domain
        // thread has to see that there is room, and it may itself have to wait for a CPU of its own
        // domain: until a slice ends, which is at a tick, and if that is within its patience until
        // the next tick.
        let decided_us = us(RunOptions::default().patience()) + LITTLE_US;
        let seen_us = decided_us + us(RunOptions::default().slices().base) + 2.0 * TICK_US;
        prop_assert!(idle.at_home <= decided_us, "{idle:?}");
        prop_assert!(idle.elsewhere <= seen_us, "{idle:?}");
    }

    #[test]
    fn cpu_time_follows_the_weights(
        cpus in 1..=4u32,
        nices in prop::collection::vec(-5..=10i8, 8..24),
        policy in prop::sample::select(vec![PolicyKind::Vruntime, PolicyKind::Deadline]),
        seed in any::<u64>(),
    ) {
        let weights: Vec<f64> = nices.iter().map(|&nice| f64::from(Priority::Nice(nice).weight())).collect();
        let sum: f64 = weights.iter().sum();
        // Nobody may be entitled to more than a CPU.
        prop_assume!(weights.iter().all(|weight| weight / sum <= 0.8 / f64::from(cpus)));
        let mut tasks = String::new();
        for (i, nice) in nices.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(tasks, "{comma}\"n{i}\": {{\"priority\": {nice}, \"run\": 1000000}}").unwrap();
        }
        // The same seed gives the same first second, so what it used can be left out.
        let used_by = |seconds| -> Vec<f64> {
            let setup = Setup { seed, ..setup(policy, Granularity::Machine, seconds) };
            let report = run(&format!("L3Cache:1 Core:{cpus} PU:1"), &tasks, &setup);
            report.groups.iter().map(|group| group.cpu_s).collect()
        };
        let (start, end) = (used_by(1.0), used_by(11.0));
        let used: Vec<f64> = end.iter().zip(&start).map(|(end, start)| end - start).collect();
        let all: f64 = used.iter().sum();
        for (used, weight) in used.iter().zip(&weights) {
            let fair = all * weight / sum;
            // The shortest turn is a tick, and one of them at each end of the time is in it or is
            // not: that is two percent of 0.4 s, and more of what the lightest tasks are due.
            let allowed = (0.02 * fair).max(2.0 * TICK_US / 1e6);
            let off = (used - fair).abs();
            prop_assert!(off <= allowed, "{used} of {fair} s at weight {weight} of {weights:?}");
        }
    }

    /// A task of key `k` waits until the others have passed `k`. By the window that
    /// `policy/fair.rs` keeps them in, each can have so much virtual time to go: a credit, the lead
    /// of whoever is overtaken, its own lead and that of the lightest; `deadline` may put its key
    /// two base slices behind.
    #[test]
    fn nobody_waits_longer_than_the_window_of_virtual_time_allows(
        cpus in 1..=4u32,
        groups in prop::collection::vec((-3..=3i8, 1..=4u32, 500..20_000u64, 0..3000u64), 1..6),
        policy in prop::sample::select(vec![PolicyKind::Vruntime, PolicyKind::Deadline]),
        seed in any::<u64>(),
    ) {
        let mut tasks = Vec::new();
        for (i, (nice, count, run, sleep)) in groups.iter().enumerate() {
            tasks.push(format!(
                "\"g{i}\": {{\"instance\": {count}, \"priority\": {nice}, \"run\": {run}, \"sleep\": {sleep}}}"
            ));
        }
        let mut setup = setup(policy, Granularity::Machine, 10.0);
        setup.seed = seed;
        let report = run(&format!("L3Cache:1 Core:{cpus} PU:1"), &tasks.join(", "), &setup);
        let base_us = us(RunOptions::default().slices().base);
        let lead_us = 2.0 * base_us + LONGEST_TICK_US;
        let weights = groups.iter().map(|&(nice, count, ..)| (f64::from(Priority::Nice(nice).weight()), count));
        let lightest = weights.clone().map(|(weight, _)| weight).fold(f64::INFINITY, f64::min);
        let window_us = base_us + 2.0 * base_us + lead_us + lead_us * 100.0 / lightest;
        let to_go_us: f64 =
            weights.map(|(weight, count)| f64::from(count) * (window_us * weight / 100.0 + lead_us)).sum();
        let bound_us = to_go_us / f64::from(cpus) + base_us + TICK_US;
        for group in &report.groups {
            prop_assert!(group.run_delay_us.max <= bound_us, "{group:?} waited beyond {bound_us} us");
        }
    }

    #[test]
    fn fifo_strict_runs_tasks_in_the_exact_order_of_their_arrival(
        cpus in 1..=4u32,
        groups in prop::collection::vec((-10..=10i8, 1..=6u32, 50..9000u64, 0..4000u64), 1..5),
        seed in any::<u64>(),
    ) {
        let mut tasks = Vec::new();
        for (i, (nice, count, run, sleep)) in groups.iter().enumerate() {
            tasks.push(format!(
                "\"g{i}\": {{\"instance\": {count}, \"priority\": {nice}, \"run\": {run}, \"sleep\": {sleep}}}"
            ));
        }
        let mut setup = setup(PolicyKind::Fifo, Granularity::Machine, 1.0);
        setup.scheduler = setup.scheduler.with(|options| options.strict = true);
        setup.seed = seed;
        let (report, trace) = traced(&format!("L3Cache:1 Core:{cpus} PU:1"), &tasks.join(", "), &setup);
        let arrivals = times(&trace, "s");
        let starts = times(&trace, "f");
        // The last ones have not started at the end.
        let tasks: usize = report.groups.iter().map(|group| group.tasks).sum();
        prop_assert!(starts.len() + tasks >= report.decided() as usize);
        // Stays are numbered in the order of arrival. Two that start at once, on two CPUs, may
        // change places by the time that it takes to kick one of these.
        let (mut latest_us, mut last_arrival_us) = (0.0f64, 0.0);
        for (stay, &start_us) in &starts {
            prop_assert!(start_us >= latest_us - SAME_TIME_US, "{stay} started {} us early", latest_us - start_us);
            prop_assert!(arrivals[stay] >= last_arrival_us - SAME_TIME_US);
            latest_us = latest_us.max(start_us);
            last_arrival_us = arrivals[stay];
        }
        // And nobody who finds an idle CPU passes by those who wait.
        for passing_us in starts_without_wait(&trace) {
            let passed = starts.iter().find(|(stay, start_us)| {
                arrivals[stay] < passing_us - SAME_TIME_US && **start_us > passing_us + SAME_TIME_US
            });
            prop_assert!(passed.is_none(), "{passed:?} was passed by at {passing_us} us");
        }
    }
}

/// More than from a wake-up over a kick to the end of the switch (microseconds).
const SAME_TIME_US: f64 = 5.0;

/// The longest tick of a kernel (HZ=100), which the policies reckon with (microseconds).
const LONGEST_TICK_US: f64 = 10_000.0;

/// Runs with a trace.
fn traced(machine: &str, tasks: &str, setup: &Setup) -> (Report, Vec<Value>) {
    let workload = Workload::parse(&format!("{{\"tasks\": {{{tasks}}}}}")).expect("a workload");
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let report =
        simulate(&load(machine), &workload, setup, Some(file.path())).expect("a simulation");
    let text = std::fs::read_to_string(file.path()).expect("the trace");
    let mut trace: Value = serde_json::from_str(&text).expect("a trace is JSON");
    let Value::Array(events) = trace["traceEvents"].take() else { panic!("a trace has events") };
    (report, events)
}

/// When each stay in the waiting state was at one phase of its flow (microseconds).
fn times(trace: &[Value], phase: &str) -> BTreeMap<u64, f64> {
    let of_phase = trace.iter().filter(|event| event["ph"] == phase);
    of_phase.map(|event| (event["id"].as_u64().unwrap(), event["ts"].as_f64().unwrap())).collect()
}

/// When tasks started that had found an idle CPU (microseconds).
fn starts_without_wait(trace: &[Value]) -> Vec<f64> {
    let place = |event: &Value| (event["tid"].as_u64(), event["ts"].to_string());
    let waited: BTreeSet<_> = trace.iter().filter(|event| event["ph"] == "f").map(place).collect();
    let is_run = |event: &&Value| {
        let name = event["name"].as_str().unwrap();
        let is_kernel =
            ["queue", "decide", "manyland", "round"].iter().any(|of| name.starts_with(of));
        event["ph"] == "X" && !is_kernel && !waited.contains(&place(event))
    };
    trace.iter().filter(is_run).map(|event| event["ts"].as_f64().unwrap()).collect()
}

/// A slice of a trace: its times (nanoseconds) and its place in the file.
struct Slice<'a> {
    from: u64,
    to: u64,
    name: &'a str,
    line: usize,
}

/// The slices of each track, in the order in which a reader sorts them: by time, and as in the file
/// at one time.
fn tracks(trace: &[Value]) -> BTreeMap<(u64, u64), Vec<Slice<'_>>> {
    let mut tracks = BTreeMap::<_, Vec<Slice<'_>>>::new();
    for (line, event) in trace.iter().enumerate().filter(|(_, event)| event["ph"] == "X") {
        let from = ns(&event["ts"]);
        let slice = Slice {
            from,
            to: from + ns(&event["dur"]),
            name: event["name"].as_str().unwrap(),
            line,
        };
        tracks.entry(track_of(event)).or_default().push(slice);
    }
    for slices in tracks.values_mut() {
        slices.sort_by_key(|slice| (slice.from, slice.line));
    }
    tracks
}

fn track_of(event: &Value) -> (u64, u64) {
    (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap())
}

fn ns(us: &Value) -> u64 {
    (us.as_f64().unwrap() * 1000.0).round() as u64
}

/// What the Trace Event Format asks for, as Perfetto reads it: slices of one track nest, the outer
/// of two that begin together comes first in the file, and a flow's event lies in the slice that is
/// innermost there, which precedes it.
#[test]
fn a_trace_has_named_tracks_nested_slices_and_flows_between_them() {
    let tasks = r#""hog": {"instance": 6, "run": 3000}, "sleeper": {"instance": 20, "run": 50, "sleep": 700}"#;
    for (policy, dedicate) in
        [(PolicyKind::Vruntime, false), (PolicyKind::Fifo, false), (PolicyKind::Deadline, true)]
    {
        let mut setup = setup(policy, Granularity::L3, 0.5);
        setup.scheduler = setup.scheduler.with(|options| options.dedicate = dedicate);
        let (report, trace) = traced("L3Cache:2 Core:2 PU:1", tasks, &setup);
        let tracks = tracks(&trace);
        assert_eq!(tracks.len(), 4 + 2, "a track for each CPU and each domain thread");
        let of_name = |name: &'static str| trace.iter().filter(move |event| event["name"] == name);
        let named: BTreeSet<_> = of_name("thread_name").map(track_of).collect();
        let processes: BTreeSet<_> =
            of_name("process_name").map(|event| event["pid"].as_u64()).collect();
        for (&(pid, tid), slices) in &tracks {
            assert!(named.contains(&(pid, tid)) && processes.contains(&Some(pid)), "{pid}/{tid}");
            let mut open = Vec::new();
            for Slice { from, to, name, .. } in slices {
                while open.last().is_some_and(|end| end <= from) {
                    open.pop();
                }
                let end = open.last().copied().unwrap_or(u64::MAX);
                assert!(*to <= end, "{pid}/{tid}: {name:?} from {from} to {to} crosses {end}");
                open.push(*to);
            }
        }
        let whole = count_whole_flows(&trace, &tracks);
        assert!(whole > 100 && whole <= report.decided(), "{whole} of {}", report.decided());
    }
}

/// Checks each flow, and counts those that go from a message over a decision to a run.
fn count_whole_flows(trace: &[Value], tracks: &BTreeMap<(u64, u64), Vec<Slice<'_>>>) -> u64 {
    let mut flows = BTreeMap::<u64, Vec<(u64, &str, &str)>>::new();
    for (line, event) in trace.iter().enumerate() {
        let phase = event["ph"].as_str().unwrap();
        if !["s", "t", "f"].contains(&phase) {
            continue;
        }
        assert_eq!(event["bp"] == "e", phase == "f", "only an end would mean the next slice");
        let at = ns(&event["ts"]);
        let around = |slice: &&Slice<'_>| slice.from <= at && at < slice.to;
        let slices = tracks.get(&track_of(event)).expect("a flow is on a track");
        let slice = slices.iter().rfind(around).unwrap_or_else(|| panic!("{event} is in no slice"));
        assert!(slice.line < line, "{event} comes before {:?}", slice.name);
        let task = match phase {
            "s" => slice.name.strip_prefix("queue "),
            "t" => slice.name.strip_prefix("decide "),
            _ => Some(slice.name),
        };
        let task = task.unwrap_or_else(|| panic!("{event} is in {:?}", slice.name));
        flows.entry(event["id"].as_u64().unwrap()).or_default().push((at, phase, task));
    }
    let mut whole = 0;
    for (stay, flow) in &mut flows {
        flow.sort_by_key(|&(at, ..)| at);
        let phases: String = flow.iter().map(|&(_, phase, _)| phase).collect();
        assert!(["s", "st", "stf", "sf"].contains(&phases.as_str()), "stay {stay} is {phases}");
        assert!(flow.iter().all(|&(.., task)| task == flow[0].2), "stay {stay} is {flow:?}");
        whole += u64::from(phases == "stf");
    }
    whole
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_one_others() {
    let tasks = r#""hog": {"instance": 6, "run": 3000}, "sleeper": {"instance": 20, "run": 50, "sleep": 700}"#;
    let bytes = |seed| {
        let setup = Setup { seed, ..setup(PolicyKind::Deadline, Granularity::L3, 0.5) };
        let (report, trace) = traced("L3Cache:2 Core:2 PU:2", tasks, &setup);
        (report.to_json(), report.to_text(), trace)
    };
    let first = bytes(7);
    assert_eq!(first, bytes(7));
    assert_ne!(first.2, bytes(8).2);
}

/// A machine like a large server's, on which all tasks begin in one corner.
#[test]
fn on_64_domains_nobody_is_lost_and_all_take_part() {
    let tasks = r#""few": {"instance": 1000, "loop": 20, "run": 900, "sleep": 3000},
                   "many": {"instance": 3000, "loop": 20, "run": 200, "sleep": 3000}"#;
    for policy in PolicyKind::ALL {
        let setup = setup(policy, Granularity::L3, 60.0);
        let report = run("Package:4 L3Cache:16 Core:4 PU:1", tasks, &setup);
        assert_eq!(report.domains.len(), 64);
        for group in &report.groups {
            assert_eq!(group.ended, group.tasks, "{policy}: {}", group.name);
            assert_eq!(group.passes, 20 * group.tasks as u64, "{policy}: {}", group.name);
        }
        let decided = report.domains.iter().filter(|domain| domain.counts.decided > 0).count();
        assert!(decided > 32, "{policy}: only {decided} domains have decided");
        let stolen: u64 = report.domains.iter().map(|domain| domain.counts.stolen_in).sum();
        assert!(stolen > 100, "{policy}: {stolen} tasks were stolen");
    }
}
