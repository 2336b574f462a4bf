//! The schedulers that are compared: how each is started and stopped.
//!
//! Invariant: between two contenders the kernel's own scheduler is back; a contender that is running is stopped when it is
//! dropped, and it is an error of it if it leaves before it is told to.

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

/// A scheduler that takes part.
#[derive(Clone, Debug, Serialize)]
pub struct Contender {
    /// How it is called in the results.
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

/// Loading and verifying BPF takes seconds on a slow machine.
const ATTACH_LIMIT: Duration = Duration::from_secs(60);
const DETACH_LIMIT: Duration = Duration::from_secs(20);
/// How long the statistics, which are printed each second, may take.
const STATS_LIMIT: Duration = Duration::from_secs(10);
const VERSION_LIMIT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// The name that the kernel knows our scheduler by.
const OPS: &str = "manyland";

impl Contender {
    pub fn kernel() -> Self {
        Self { name: "kernel".into(), kind: ContenderKind::Kernel }
    }

    /// Ours, with options.
    pub fn manyland(options: Vec<String>) -> Self {
        let name = [&["manyland".to_owned()], options.as_slice()].concat().join(" ");
        Self { name, kind: ContenderKind::Manyland { options } }
    }

    /// Another, by a command without the shell's ways of expanding things.
    ///
    /// # Errors
    /// If there is no program in it, or a quotation mark is missing.
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

    /// What it says of its own version.
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

    /// Starts it and waits until it is attached. `None` for the kernel's own scheduler, which is always there.
    ///
    /// # Errors
    /// If it does not attach, or another does instead.
    pub fn start(&self, interrupt: &Interrupt) -> Result<Option<Running>> {
        ensure!(
            probe::attached().is_none(),
            "scheduler \"{}\" has been attached by somebody else",
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
            interrupt.pause(LOOK)?;
        }
        running.ops = probe::attached().unwrap_or_default();
        ensure!(!ours || running.ops == OPS, "scheduler \"{}\" has attached instead", running.ops);
        Ok(Some(running))
    }
}

/// A contender that is attached, or was.
pub struct Running {
    child: Child,
    ours: bool,
    /// The name that the kernel knows it by.
    ops: String,
    stopped: bool,
}

/// How tasks that found no idle CPU came to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Decisions {
    /// By a decision of user space.
    pub decided: u64,
    /// By one that had been taken for an earlier stay and stood.
    pub standing: u64,
    /// Without one: by the safety net.
    pub late: u64,
}

impl Decisions {
    pub fn add(&mut self, other: Decisions) {
        self.decided += other.decided;
        self.standing += other.standing;
        self.late += other.late;
    }

    /// How many in a hundred were by a decision, whenever it was taken; `None` if there were no such tasks.
    pub fn percent(&self) -> Option<f64> {
        self.part(self.decided + self.standing)
    }

    /// How many in a hundred were by a decision that stood.
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

    /// Whether the time of a thread of it counts as scheduling: of ours that of the domain threads, of others all.
    pub fn counts(&self, thread: &str) -> bool {
        !self.ours || thread.starts_with("manyland/")
    }

    /// That it is still the scheduler.
    ///
    /// # Errors
    /// If it is not, with what it said last.
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

    /// What was decided since it attached, up to this moment; `None` of others than ours.
    ///
    /// # Errors
    /// If it prints no more statistics.
    pub fn decisions(&mut self, interrupt: &Interrupt) -> Result<Option<Decisions>> {
        if !self.ours {
            return Ok(None);
        }
        let lines = |text: &str| text.matches('\n').count();
        let before = lines(&self.child.stdout_from(0)?);
        let deadline = Instant::now() + STATS_LIMIT;
        loop {
            let text = self.child.stdout_from(0)?;
            // The line that was due next covers this moment.
            if lines(&text) > before {
                return sum(&text).map(Some);
            }
            self.check()?;
            ensure!(Instant::now() < deadline, "it prints no statistics");
            interrupt.pause(LOOK)?;
        }
    }

    /// Stops it, and waits until the kernel's own scheduler is back.
    ///
    /// # Errors
    /// If it was gone already, or does not leave.
    pub fn stop(mut self) -> Result<()> {
        self.check()?;
        self.leave()
    }

    fn leave(&mut self) -> Result<()> {
        self.stopped = true;
        self.child.signal(Signal::SIGINT);
        let ended = self.child.wait(DETACH_LIMIT).context("told to stop (SIGINT)");
        self.child.signal(Signal::SIGKILL);
        let deadline = Instant::now() + DETACH_LIMIT;
        while probe::attached().as_deref() == Some(&self.ops) || probe::is_enabled() {
            ensure!(Instant::now() < deadline, "the kernel has not ended it");
            std::thread::sleep(LOOK);
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

/// The decisions of all whole lines of statistics.
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
