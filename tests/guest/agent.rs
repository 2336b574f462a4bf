//! The guest's role: runs the tests that the host asks for, each in a process of its own, and
//! cleans up after each.
//!
//! The agent runs in real time, above every task that a scheduler under test serves, so that it can
//! report a scheduler that serves nobody. Tests run as ordinary tasks.

use crate::api::{process, sched_ext};
use crate::protocol::{FAIL, OUTPUT, PASS, READY, Request};
use crate::{role, suite};
use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{self, BufRead, BufReader, PipeReader, Write};
use std::process::{Child, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Answers the host until it says bye.
pub fn serve() -> ExitCode {
    process::become_real_time();
    say(READY);
    for line in io::stdin().lines() {
        match line.ok().as_deref().and_then(Request::from_line) {
            Some(Request::Run { test, limit, variables }) => {
                match supervise(&test, limit, variables) {
                    Ok(()) => say(PASS),
                    Err(reason) => say(&format!("{FAIL}{reason}")),
                }
            }
            Some(Request::Bye) | None => break,
        }
    }
    ExitCode::SUCCESS
}

/// Runs one test, as the process that [`supervise`] starts. A panic ends it with its message on
/// standard error.
pub fn run_case(name: &str) -> Result<()> {
    let test = suite::all().into_iter().find(|test| test.name() == name);
    test.with_context(|| format!("there is no test {name}"))?.run()
}

fn supervise(
    name: &str,
    limit: Duration,
    variables: Vec<(String, String)>,
) -> std::result::Result<(), String> {
    let (reader, writer) = io::pipe().map_err(|e| format!("cannot make a pipe: {e}"))?;
    let errors = writer.try_clone().map_err(|e| format!("cannot make a pipe: {e}"))?;
    let process = role::command("case")
        .arg(name)
        .envs(variables)
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(errors)
        .spawn()
        .map_err(|e| format!("cannot start the test: {e}"))?;
    let relay = thread::spawn(move || relay(reader));
    let ended = wait(process, limit);
    let left = kill_the_rest();
    let _ = relay.join();
    let state_after = sched_ext::wait_for_state("disabled", Duration::from_secs(10));
    match ended {
        None => Err(format!("hung for {} s; running then: {left}", limit.as_secs())),
        Some(status) if !status.success() => Err(format!("the test failed ({status})")),
        Some(_) => state_after.map_err(|e| format!("left a scheduler behind: {e:#}")),
    }
}

/// The status a process ended with, or `None` if it has reached its limit. Nothing wakes up
/// meanwhile: a real-time task that does takes a CPU from the tasks under test.
fn wait(mut child: Child, limit: Duration) -> Option<ExitStatus> {
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || {
        process::become_real_time();
        let _ = child.wait().map(|status| sender.send(status));
    });
    ended.recv_timeout(limit).ok()
}

/// Kills every process but the guest's init and this one, and names some of them.
fn kill_the_rest() -> String {
    const ROUNDS: usize = 100;
    const NAMES: usize = 100;
    let mut names = Vec::new();
    // What is killed may have started others meanwhile, and takes its time to die.
    for round in 0..ROUNDS {
        let mut rest = process::programs();
        rest.retain(|program| program.pid != 1 && program.pid != std::process::id() as i32);
        if rest.is_empty() {
            break;
        }
        for program in rest {
            if round == 0 && names.len() < NAMES {
                let stat = fs::read_to_string(format!("/proc/{}/stat", program.pid));
                names.push(
                    stat.unwrap_or_default().split(' ').take(3).collect::<Vec<_>>().join(" "),
                );
            }
            let _ = kill(Pid::from_raw(program.pid), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(50));
    }
    names.join(", ")
}

/// Passes a test's output on to the host.
fn relay(reader: PipeReader) {
    process::become_real_time();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        say(&format!("{OUTPUT}{}", String::from_utf8_lossy(&line).trim_end()));
        line.clear();
    }
}

/// One write a line, so that the lines of two threads do not mix.
fn say(line: &str) {
    let _ = io::stdout().lock().write_all(format!("{line}\n").as_bytes());
}
