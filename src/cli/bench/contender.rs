//! The schedulers that are compared: how each is started and stopped.
//!
//! Invariant: between two contenders the kernel's own scheduler is back. A running contender is
//! stopped when it is dropped, and it fails if it detaches by itself.

use super::child::Child;
use super::interrupt::Interrupt;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use scx_manyland::kernel::probe;
use serde::Serialize;
use serde_json::Value;
use std::env::current_exe;
use std::process::Command;
use std::time::{Duration, Instant};

/// A scheduler in the comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Contender {
    /// Its name in the results.
    pub name: String,
    #[serde(flatten)]
    pub kind: ContenderKind,
}

/// What it is.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum ContenderKind {
    /// The kernel's own scheduler, which is there when no other is.
    Kernel,
    /// This program, with options.
    Manyland { options: Vec<String> },
    /// Any other sched_ext scheduler: a program and its arguments.
    Peer { command: Vec<String> },
}

/// Loading and verifying BPF needs seconds on a slow machine.
const ATTACH_LIMIT: Duration = Duration::from_secs(60);
const DETACH_LIMIT: Duration = Duration::from_secs(20);
/// The longest wait for the statistics, which are printed each second.
const STATS_LIMIT: Duration = Duration::from_secs(10);
const VERSION_LIMIT: Duration = Duration::from_secs(10);
/// The time between two checks of a contender.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

impl Contender {
    pub fn kernel() -> Self {
        Self { name: "kernel".into(), kind: ContenderKind::Kernel }
    }

    /// This scheduler, with options.
    pub fn manyland(options: Vec<String>) -> Self {
        let name = [&["manyland".to_owned()], options.as_slice()].concat().join(" ");
        Self { name, kind: ContenderKind::Manyland { options } }
    }

    /// Another scheduler, by its command, in which only the shell's quotation marks have a meaning.
    ///
    /// # Errors
    /// If the command has no program, or a quotation mark is missing.
    pub fn peer(line: &str) -> Result<Self> {
        let command = shlex::split(line).filter(|words| !words.is_empty());
        let command = command.with_context(|| format!("{line:?} is not a command"))?;
        let program = command[0].rsplit('/').next().unwrap_or_default().to_owned();
        let name = [&[program], &command[1..]].concat().join(" ");
        Ok(Self { name, kind: ContenderKind::Peer { command } })
    }

    pub fn is_kernel(&self) -> bool {
        matches!(self.kind, ContenderKind::Kernel)
    }

    fn is_manyland(&self) -> bool {
        matches!(self.kind, ContenderKind::Manyland { .. })
    }

    /// The first line that another scheduler prints for `--version`.
    pub fn version(&self) -> Option<String> {
        let ContenderKind::Peer { command } = &self.kind else { return None };
        let mut child = Child::start(Command::new(&command[0]).arg("--version")).ok()?;
        child.wait(VERSION_LIMIT).ok()?.success().then_some(())?;
        Some(child.stdout_from(0).ok()?.lines().next()?.trim().to_owned())
    }

    fn command(&self) -> Result<Option<Command>> {
        Ok(match &self.kind {
            ContenderKind::Kernel => None,
            ContenderKind::Manyland { options } => {
                let mut command =
                    Command::new(current_exe().context("cannot find this program's own file")?);
                command.args(["--stats", "1", "--stats-format", "json"]).args(options);
                Some(command)
            }
            ContenderKind::Peer { command } => {
                let mut started = Command::new(&command[0]);
                started.args(&command[1..]);
                Some(started)
            }
        })
    }

    /// Starts it and waits until it is attached. `None` for the kernel's own scheduler, which is
    /// always there.
    ///
    /// # Errors
    /// If it does not attach, or another scheduler is attached.
    pub fn start(&self, interrupt: &Interrupt) -> Result<Option<Running>> {
        ensure!(
            probe::attached().is_none(),
            "scheduler \"{}\" is attached, which this benchmark has not started",
            probe::attached().unwrap_or_default()
        );
        let Some(mut command) = self.command()? else { return Ok(None) };
        let ours = self.is_manyland();
        let mut running = Running {
            child: Child::start(&mut command)?,
            ours,
            ops: String::new(),
            stopped: false,
        };
        let deadline = Instant::now() + ATTACH_LIMIT;
        while !probe::is_enabled() {
            if let Some(status) = running.child.ended()? {
                bail!("it did not attach but ended ({status}): {}", running.child.last_words());
            }
            if Instant::now() > deadline {
                let seconds = ATTACH_LIMIT.as_secs();
                bail!("it has not attached after {seconds} s: {}", running.child.last_words());
            }
            interrupt.pause(CHECK_INTERVAL)?;
        }
        running.ops = probe::attached().unwrap_or_default();
        ensure!(
            !ours || probe::is_ours(&running.ops),
            "scheduler \"{}\" has attached instead",
            running.ops
        );
        Ok(Some(running))
    }
}

/// A contender that has attached.
pub struct Running {
    child: Child,
    ours: bool,
    /// The name that the kernel knows it by.
    ops: String,
    stopped: bool,
}

/// How many of the tasks that found no idle CPU ran by a decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Decisions {
    /// By a decision that user space made for this wait.
    pub decided: u64,
    /// By a standing decision, which user space made for an earlier wait.
    pub standing: u64,
    /// Undecided: the safety net ran them.
    pub late: u64,
}

impl Decisions {
    pub fn add(&mut self, other: Decisions) {
        self.decided += other.decided;
        self.standing += other.standing;
        self.late += other.late;
    }

    /// The percentage that ran by a decision, standing or not; `None` if there were no such tasks.
    pub fn percent(&self) -> Option<f64> {
        self.part(self.decided + self.standing)
    }

    /// The percentage that ran by a standing decision.
    pub fn percent_stood(&self) -> Option<f64> {
        self.part(self.standing)
    }

    fn part(&self, of: u64) -> Option<f64> {
        let all = self.decided + self.standing + self.late;
        (all > 0).then(|| 100.0 * of as f64 / all as f64)
    }
}

impl Running {
    pub fn pid(&self) -> scx_manyland::ids::Pid {
        self.child.pid()
    }

    /// Whether the CPU time of one of its threads counts as scheduling. Of this scheduler only the
    /// domain threads count, of others all threads.
    pub fn counts(&self, thread: &str) -> bool {
        !self.ours || thread.starts_with("manyland/")
    }

    /// Checks that it is still attached.
    ///
    /// # Errors
    /// If it is not, with its last line on standard error.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.ended()? {
            bail!("it ended by itself ({status}): {}", self.child.last_words());
        }
        let now = probe::attached();
        ensure!(
            now.as_deref() == Some(&self.ops),
            "the kernel has ended it: {}",
            self.child.last_words()
        );
        Ok(())
    }

    /// The decisions since it attached, up to this moment; `None` if it is another scheduler.
    ///
    /// # Errors
    /// If it has stopped printing statistics.
    pub fn decisions(&mut self, interrupt: &Interrupt) -> Result<Option<Decisions>> {
        if !self.ours {
            return Ok(None);
        }
        let lines = |text: &str| text.matches('\n').count();
        let before = lines(&self.child.stdout_from(0)?);
        let deadline = Instant::now() + STATS_LIMIT;
        loop {
            let text = self.child.stdout_from(0)?;
            // The next line covers this moment.
            if lines(&text) > before {
                return sum(&text).map(Some);
            }
            self.check()?;
            ensure!(Instant::now() < deadline, "it prints no statistics");
            interrupt.pause(CHECK_INTERVAL)?;
        }
    }

    /// Stops it, and waits until the kernel's own scheduler is back.
    ///
    /// # Errors
    /// If it had ended already, or does not detach.
    pub fn stop(mut self) -> Result<()> {
        self.check()?;
        self.leave()
    }

    fn leave(&mut self) -> Result<()> {
        self.stopped = true;
        self.child.signal(Signal::SIGINT);
        let ended = self.child.wait(DETACH_LIMIT).context("it does not stop on SIGINT");
        self.child.signal(Signal::SIGKILL);
        let deadline = Instant::now() + DETACH_LIMIT;
        while probe::attached().as_deref() == Some(&self.ops) || probe::is_enabled() {
            ensure!(Instant::now() < deadline, "the kernel has not ended it");
            std::thread::sleep(CHECK_INTERVAL);
        }
        ended.map(|_| ())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.stopped {
            let _ = self.leave();
        }
    }
}

/// The sum over all complete lines of statistics.
fn sum(lines: &str) -> Result<Decisions> {
    let mut sum = Decisions::default();
    let whole = &lines[..lines.rfind('\n').map_or(0, |end| end + 1)];
    for line in whole.lines() {
        let line: Value =
            serde_json::from_str(line).context("it prints no statistics that can be read")?;
        for domain in line["domains"].as_array().into_iter().flatten() {
            let count = |field: &str| domain[field].as_u64().context("its statistics lack a field");
            sum.add(Decisions {
                decided: count("decided")?,
                standing: count("standing")?,
                late: count("late")?,
            });
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contenders_are_named_by_what_is_typed() {
        assert_eq!(Contender::manyland(vec![]).name, "manyland");
        let options = vec!["--policy".to_owned(), "fifo".to_owned()];
        assert_eq!(Contender::manyland(options).name, "manyland --policy fifo");
        let peer = Contender::peer("/usr/bin/scx_other --slice '5 ms'").unwrap();
        assert_eq!(peer.name, "scx_other --slice 5 ms");
        let ContenderKind::Peer { command } = peer.kind else { panic!("a peer") };
        assert_eq!(command, ["/usr/bin/scx_other", "--slice", "5 ms"]);
    }

    #[test]
    fn what_is_no_command_is_refused() {
        for line in ["", "   ", "scx_other 'open"] {
            assert!(Contender::peer(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn decisions_are_summed_over_whole_lines() {
        let line = r#"{"domains":[{"decided":60,"standing":30,"late":4},{"decided":5,"standing":0,"late":1}]}"#;
        let decisions = sum(&format!("{line}\n{line}\n{{\"doma")).unwrap();
        assert_eq!(decisions, Decisions { decided: 130, standing: 60, late: 10 });
        assert_eq!((decisions.percent(), decisions.percent_stood()), (Some(95.0), Some(30.0)));
        assert_eq!(sum("").unwrap().percent(), None);
        assert!(sum("{\"domains\":[{\"decided\":1}]}\n").is_err());
        assert!(sum("hello\n").is_err());
    }
}
