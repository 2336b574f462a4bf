//! The workloads of `scx_manyland bench`, each for a moment on this machine: what they count adds
//! up.

use serde_json::{Value, json};
use std::process::{Command, Output};

const SECONDS: f64 = 0.2;

/// Runs a workload in a process of its own, as `bench` does.
fn serve(workload: &Value) -> Output {
    let duration = json!({ "secs": 0, "nanos": (SECONDS * 1e9) as u32 });
    let errand = json!({ "run": { "workload": workload, "duration": duration } });
    let mut program = Command::new(env!("CARGO_BIN_EXE_scx_manyland"));
    program.args(["workload", &errand.to_string()]).output().expect("the program can be started")
}

/// Runs a workload that must succeed and answers its outcome, whose figures must be these.
fn outcome(workload: &Value, figures: &[&str]) -> Value {
    let output = serve(workload);
    assert!(output.status.success(), "{output:?}");
    let outcome: Value = serde_json::from_slice(&output.stdout).expect("it answers in JSON");
    let readings = outcome["readings"].as_array().expect("there are readings");
    let names = readings.iter().map(|reading| reading["name"].as_str().expect("a name"));
    assert_eq!(names.collect::<Vec<_>>(), figures);
    assert!(readings.iter().all(|reading| reading["value"].is_f64()), "{outcome}");
    outcome
}

fn value(outcome: &Value, name: &str) -> f64 {
    let readings = outcome["readings"].as_array().expect("there are readings");
    let reading = readings.iter().find(|reading| reading["name"] == name).expect("the reading");
    reading["value"].as_f64().expect("a number")
}

/// What a rate of `per_second` for the time of the run makes, which is no more than what was done:
/// the run may have taken a little longer.
fn adds_up(outcome: &Value, per_second: f64) {
    let done = outcome["done"]["count"].as_f64().expect("a count");
    let at_least = per_second * SECONDS;
    assert!(done > 0.0 && at_least <= done * 1.001, "{at_least} of {done}: {outcome}");
}

#[test]
fn messages_sent_are_received() {
    let workload = json!({ "messages": { "groups": 2, "pairs": 4 } });
    let ways = ["processes, sockets", "threads, pipes"];
    let outcome = outcome(&workload, &ways);
    // Each way has half of the time.
    adds_up(&outcome, ways.iter().map(|way| value(&outcome, way)).sum::<f64>() / 2.0);
}

#[test]
fn every_request_has_its_wake_up() {
    let sizes = json!({ "message_threads": 2, "workers": 3, "operations": 1, "footprint_kib": 16 });
    let outcome = outcome(
        &json!({ "requests": sizes }),
        &["requests", "wake-up p50", "wake-up p99", "wake-up p99.9", "request p99"],
    );
    adds_up(&outcome, value(&outcome, "requests"));
    // A request begins with a wait of 100 us.
    assert!(value(&outcome, "request p99") >= 100.0, "{outcome}");
    assert!(value(&outcome, "wake-up p50") <= value(&outcome, "wake-up p99.9"), "{outcome}");
}

#[test]
fn frames_are_made_beside_a_build() {
    let build = json!({ "jobs": 2, "units": 100 });
    let frames = ["frame p50", "frame p95", "frame p99", "frame max"];
    let outcome = outcome(
        &json!({ "frames": { "rate": 50, "helpers": 2, "units": 80, "build": build } }),
        &[&["late frames"], &frames[..], &["build beside it"]].concat(),
    );
    assert!((0.0..100.0).contains(&value(&outcome, "late frames")), "{outcome}");
    assert!(value(&outcome, "build beside it") > 0.0, "{outcome}");
    assert!(frames.is_sorted_by_key(|name| value(&outcome, name)), "{outcome}");
}

#[test]
fn jobs_are_built() {
    let outcome = outcome(&json!({ "build": { "jobs": 3, "units": 100 } }), &["jobs"]);
    adds_up(&outcome, value(&outcome, "jobs"));
}

#[test]
fn shares_lie_around_what_is_due() {
    let outcome =
        outcome(&json!({ "spin": { "threads": 3 } }), &["work", "least served", "most served"]);
    adds_up(&outcome, value(&outcome, "work") * 1000.0);
    assert!(
        value(&outcome, "least served") <= 100.0 && value(&outcome, "most served") >= 100.0,
        "{outcome}"
    );
}

#[test]
fn a_sleeper_wakes_up_next_to_hogs_of_each_kind() {
    for are in ["normal", "nice", "idle"] {
        let delays = ["wake-up mean", "wake-up p50", "wake-up p99", "wake-up max"];
        let outcome = outcome(
            &json!({ "wakeups": { "hogs": 2, "are": are, "units": 10 } }),
            &[&delays[..], &["the hogs' work"]].concat(),
        );
        assert!(delays[1..].is_sorted_by_key(|name| value(&outcome, name)), "{outcome}");
        assert!(value(&outcome, "wake-up mean") <= value(&outcome, "wake-up max"), "{outcome}");
        assert!(value(&outcome, "the hogs' work") > 0.0, "{outcome}");
    }
}

#[test]
fn a_command_is_timed_to_its_end() {
    let outcome = outcome(&json!({ "command": { "command": "sleep 0.3" } }), &["time"]);
    assert!(value(&outcome, "time") >= 0.3, "{outcome}");
}

#[test]
fn what_fails_gives_no_figure() {
    for (workload, word) in [
        (json!({ "command": { "command": "exit 7" } }), "7"),
        (json!({ "dance": {} }), "errand"),
        (json!({ "spin": {} }), "errand"),
    ] {
        let output = serve(&workload);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &[][..]), "{said}");
        assert!(said.lines().count() == 1 && said.contains(word), "{said}");
    }
}
