//! `scx_manyland bench`: it compares all that it says it does, and leaves nothing behind however it
//! ends.

use crate::api::scheduler::{self, Program, Scheduler};
use crate::api::{process, sched_ext, wait_until};
use crate::machine::Machine;
use crate::suite::tests;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::time::Duration;

tests! {
    compares_with_every_workload: 240 s on SLOW;
    compares_with_others: 240 s on SLOW;
    leaves_nothing_behind_when_interrupted: 240 s on L3X2;
    refuses_while_a_scheduler_is_attached: 90 s on L3X2;
}

/// Sizes that an emulated machine can bear.
const SMALL: [&str; 18] = [
    "--seconds",
    "0.5",
    "--groups",
    "1",
    "--pairs",
    "4",
    "--workers",
    "2",
    "--helpers",
    "1",
    "--frame-load",
    "5",
    "--jobs",
    "2",
    "--job-ms",
    "5",
    "--spinners",
    "3",
];

const LONG: Duration = Duration::from_secs(240);

fn bench<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&["bench", "--format", "json"], &SMALL[..], args].concat()
}

/// Every workload, one round: each has its figures under both schedulers, and those of ours tell
/// who decided.
pub fn compares_with_every_workload(_: &Machine) -> Result<()> {
    let all = "messages,requests,frames,build,spin,wakeups";
    let args = [
        "--rounds",
        "1",
        "--workloads",
        all,
        "--command",
        "sleep 0.1",
        "--report",
        "/tmp/report.html",
    ];
    let run = scheduler::run_within(&bench(&args), LONG)?;
    ensure!(run.code == Some(0), "the exit status is not 0: {run:?}");
    let results: Value = serde_json::from_str(&run.stdout).context("not JSON")?;
    ensure!(
        list(&results, "failures")?.is_empty(),
        "a scheduler dropped out: {}",
        results["failures"]
    );
    let workloads = list(&results, "workloads")?;
    let names = workloads.iter().map(|workload| workload["name"].as_str().unwrap_or_default());
    ensure!(names.eq(all.split(',').chain(["sleep 0.1"])), "not what was asked for: {workloads:?}");
    let runs = list(&results, "runs")?;
    ensure!(runs.len() == 2 * workloads.len(), "{} runs", runs.len());
    let mut decided = 0;
    for run in runs {
        let readings = list(run, "readings")?;
        ensure!(!readings.is_empty(), "no readings: {run}");
        ensure!(
            readings.iter().all(|reading| reading["value"].is_number()),
            "not all are numbers: {run}"
        );
        let ours = run["contender"] == 1;
        ensure!(ours == run["decisions"]["decided"].is_u64(), "who has decided? {run}");
        ensure!(
            ours == readings.iter().any(|reading| reading["name"] == "scheduler"),
            "whose time? {run}"
        );
        decided += run["decisions"]["decided"].as_u64().unwrap_or(0);
    }
    ensure!(decided > 100, "our scheduler decided {decided} times");
    let figures = list(&results, "figures")?;
    for figure in figures {
        let compared = figure["better"] != "neither";
        let [.., ours] = list(figure, "entries")?.as_slice() else { continue };
        ensure!(compared == ours["verdict"].is_string(), "no verdict, or one too many: {figure}");
    }
    let report = fs::read_to_string("/tmp/report.html").context("no report")?;
    ensure!(report.matches("<svg").count() == figures.len(), "not a plot for each figure");
    nothing_is_left()
}

/// Another scheduler is started by its command and stopped as by Ctrl-C; one that does not attach
/// drops out, and the rest goes on.
pub fn compares_with_others(_: &Machine) -> Result<()> {
    let peers = [
        "--against",
        "scx_manyland --policy fifo",
        "--against",
        "sh -c 'echo no, thanks >&2; exit 3'",
    ];
    let run = scheduler::run_within(
        &bench(
            &[&["--rounds", "2", "--workloads", "spin", "--with", "--policy deadline"], &peers[..]]
                .concat(),
        ),
        LONG,
    )?;
    ensure!(run.code == Some(1), "that one dropped out is not told: {run:?}");
    ensure!(run.stderr.contains("sh -c"), "it is not named: {}", run.stderr);
    let results: Value = serde_json::from_str(&run.stdout).context("not JSON")?;
    let contenders = list(&results, "contenders")?;
    let names = contenders.iter().map(|contender| contender["name"].as_str().unwrap_or_default());
    ensure!(
        names.clone().take(4).eq([
            "kernel",
            "manyland",
            "manyland --policy deadline",
            "scx_manyland --policy fifo"
        ]),
        "{contenders:?}"
    );
    ensure!(list(&results, "runs")?.len() == 8, "four schedulers, two rounds: {}", results["runs"]);
    let [failure] = list(&results, "failures")?.as_slice() else {
        anyhow::bail!("not one failure: {}", results["failures"])
    };
    let reason = failure["reason"].as_str().unwrap_or_default();
    ensure!(failure["contender"] == 4 && reason.contains("no, thanks"), "{failure}");
    nothing_is_left()
}

/// Ctrl-C under the kernel's own scheduler and under ours, and an end without warning.
pub fn leaves_nothing_behind_when_interrupted(_: &Machine) -> Result<()> {
    let args = bench(&["--rounds", "50", "--workloads", "frames,messages"]);
    for (state, signal) in
        [("disabled", Signal::SIGINT), ("enabled", Signal::SIGTERM), ("enabled", Signal::SIGKILL)]
    {
        let program = Program::start(&args)?;
        wait_until("a workload runs", Duration::from_secs(90), || {
            sched_ext::state() == state
                && process::running("scx_manyland").is_ok_and(|all| runs_workload(&all))
        })?;
        let run = program.end_by(signal, Duration::from_secs(60))?;
        println!("{state}, {signal}: {:?} {}", run.code, run.stderr);
        if signal != Signal::SIGKILL {
            ensure!(run.code == Some(1), "the exit status is not 1: {run:?}");
            ensure!(
                run.stderr.contains("interrupted"),
                "it does not say why it ended: {}",
                run.stderr
            );
        }
        wait_until("all that it started is gone", Duration::from_secs(20), || {
            nothing_is_left().is_ok()
        })
        .with_context(|| format!("{:?}", nothing_is_left()))?;
    }
    Ok(())
}

/// What runs already could not be started again, so it is left alone.
pub fn refuses_while_a_scheduler_is_attached(_: &Machine) -> Result<()> {
    let running = Scheduler::start(&[])?;
    let run = scheduler::run_within(&bench(&["--workloads", "spin"]), LONG)?;
    ensure!(run.code == Some(1) && run.stdout.is_empty(), "it does not refuse: {run:?}");
    ensure!(run.stderr.trim().lines().count() == 1 && run.stderr.contains("manyland"), "{run:?}");
    ensure!(sched_ext::scheduler().starts_with("manyland_"), "the scheduler that ran is gone");
    running.stop()
}

fn list<'a>(value: &'a Value, name: &str) -> Result<&'a Vec<Value>> {
    value[name].as_array().with_context(|| format!("no list {name} in {value}"))
}

fn runs_workload(processes: &[Vec<String>]) -> bool {
    processes.iter().any(|words| words.get(1).is_some_and(|word| word == "workload"))
}

/// No scheduler is attached, and no process of the program is there.
fn nothing_is_left() -> Result<()> {
    let left = process::running("scx_manyland")?;
    ensure!(left.is_empty(), "these were left behind: {left:?}");
    ensure!(sched_ext::state() == "disabled", "a scheduler was left behind");
    Ok(())
}
