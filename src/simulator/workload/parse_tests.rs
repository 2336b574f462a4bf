//! Tests of the parser of workloads.

use super::*;

fn steps(task: &str) -> Vec<Step> {
    let text = format!("{{\"tasks\": {{\"t\": {{{task}}}}}}}");
    workload(&text).unwrap().groups[0].phases[0].steps.clone()
}

fn complaint(text: &str) -> String {
    format!("{:#}", workload(text).unwrap_err())
}

#[test]
fn events_keep_their_order_whether_they_are_numbered_or_repeated() {
    let expected = [Step::Run(1000), Step::Sleep(2000), Step::Run(3000), Step::Sleep(4000)];
    assert_eq!(steps(r#""run": 1, "sleep": 2, "run": 3, "sleep": 4"#), expected);
    assert_eq!(steps(r#""run0": 1, "sleep1": 2, "runtime2": 3, "sleep3": 4"#), expected);
}

#[test]
fn comments_are_no_part_of_a_workload() {
    assert_eq!(steps("/* a\n */ \"run\": 1 // b\n"), [Step::Run(1000)]);
}

#[test]
fn names_get_numbers_and_barriers_count_their_tasks() {
    let text = r#"{"tasks": {
        "a": {"instance": 3, "lock": "m", "wait": {"ref": "c", "mutex": "m"}, "unlock": "m", "barrier": "b"},
        "b": {"signal": "c", "resume": "b", "suspend": "", "barrier": "b", "fork": "a",
              "timer0": {"ref": "unique", "period": 5}, "timer1": {"ref": "uniqueB", "period": 5},
              "timer2": {"ref": "shared", "period": 6, "mode": "absolute"}}
    }, "global": {"duration": 2, "calibration": "CPU0"}}"#;
    let workload = workload(text).unwrap();
    assert_eq!((workload.mutexes, workload.conditions, workload.timers), (1, 2, 1));
    assert_eq!(workload.barriers, [4]);
    assert_eq!(workload.duration, Some(Duration::from_secs(2)));
    let waits = Step::Wait(Meeting { condition: 0, mutex: 0 });
    assert_eq!(workload.groups[0].phases[0].steps[1], waits);
    let b = &workload.groups[1];
    assert_eq!(b.phases[0].steps[..3], [Step::Signal(0), Step::Broadcast(1), Step::Suspend(1)]);
    assert_eq!(b.own_timers, 2);
    let shared = TimerStep { timer: Timer::Shared(0), period_ns: 6000, absolute: true };
    assert_eq!(b.phases[0].steps.last(), Some(&Step::Timer(shared)));
}

#[test]
fn loops_are_rt_apps() {
    let text = r#"{"tasks": {
        "forever": {"run": 1}, "thrice": {"loop": 3, "run": 1},
        "phased": {"phases": {"p": {"run": 1}, "q": {"loop": 2, "run": 1}}}
    }}"#;
    let groups = workload(text).unwrap().groups;
    let loops = |group: &Group| {
        (group.loops, group.phases.iter().map(|phase| phase.loops).collect::<Vec<_>>())
    };
    assert_eq!(loops(&groups[0]), (Loops::Forever, vec![Loops::Times(1)]));
    assert_eq!(loops(&groups[1]), (Loops::Times(1), vec![Loops::Times(3)]));
    assert_eq!(loops(&groups[2]), (Loops::Forever, vec![Loops::Times(1), Loops::Times(2)]));
}

#[test]
fn phases_inherit_cpus_and_start_with_the_priority_of_the_task() {
    let text = r#"{"tasks": {"t": {"cpus": [1, 2], "priority": -5, "phases": {
        "p": {"run": 1}, "q": {"cpus": [0], "policy": "SCHED_IDLE", "run": 1}, "r": {"run": 1}}}}}"#;
    let phases = &workload(text).unwrap().groups[0].phases;
    let cpus: Vec<_> = phases.iter().map(|phase| phase.cpus.unwrap().to_string()).collect();
    assert_eq!(cpus, ["1-2", "0", "1-2"]);
    let priorities: Vec<_> = phases.iter().map(|phase| phase.priority).collect();
    assert_eq!(priorities, [Some(Priority::Nice(-5)), Some(Priority::Idle), None]);
}

#[test]
fn complaints_name_the_place() {
    for (task, expected) in [
        (r#""runn": 1"#, "tasks.t.runn: unknown key"),
        (r#""phases": {"p": {"nap": 1}}"#, "tasks.t.phases.p.nap: unknown key"),
        (r#""timer": {"ref": "a", "period": 1, "mod": "x"}"#, "tasks.t.timer.mod: unknown key"),
        (r#""run": -1"#, "tasks.t.run: must be a whole number from 0 to 10000000000"),
        (r#""run": "1""#, "tasks.t.run: must be a whole number, and is a string"),
        (
            r#""cpus": [0, 1024], "run": 1"#,
            "tasks.t.cpus[1]: must be a whole number from 0 to 1023",
        ),
        (r#""priority": 20, "run": 1"#, "tasks.t.priority: must be a whole number from -20 to 19"),
        (r#""policy": "SCHED_RR", "run": 1"#, "tasks.t.policy: SCHED_RR is not simulated"),
        (r#""policy": "SCHED_FIFO", "priority": 0, "run": 1"#, "tasks.t.priority: "),
        (r#""mem": 5"#, "tasks.t.mem: how long this takes"),
        (r#""fork": "u""#, "tasks.t.fork: there is no task of this name"),
        (r#""util_min": 5, "run": 1"#, "tasks.t.util_min: this key is not simulated"),
        (r#""wait": {"ref": "c"}"#, "tasks.t.wait: needs \"ref\" and \"mutex\""),
        (r#""loop": 0, "run": 1"#, "tasks.t.loop: must be -1"),
        ("", "tasks.t: the task does nothing"),
        (r#""phases": {"p": {}}"#, "tasks.t.phases.p: the phase has no event"),
    ] {
        let error = complaint(&format!("{{\"tasks\": {{\"t\": {{{task}}}}}}}"));
        assert!(error.contains(expected), "{task}: {error}");
    }
    for (text, expected) in [
        ("{", "it is not JSON"),
        ("{}", "no object \"tasks\""),
        (r#"{"tasks": {}}"#, "tasks: there is no task to start with"),
        (r#"{"tasks": {"a": {"run": 1}, "a": {"run": 1}}}"#, "tasks.a: there are two tasks"),
        (r#"{"tasks": {"a": {"run": 1}}, "globe": {}}"#, "globe: unknown key"),
        (r#"{"tasks": {"a": {"run": 1}}, "global": {"length": 1}}"#, "global.length: unknown key"),
        (r#"{"tasks": {"a": {"run": 1, "instance": 1000000}, "b": {"run": 1}}}"#, "1000001 tasks"),
    ] {
        let error = complaint(text);
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn every_shipped_workload_is_one() {
    for (name, text) in crate::simulator::workload::SHIPPED {
        workload(text).unwrap_or_else(|error| panic!("{name}: {error:#}"));
    }
}
