//! `scx_manyland report`: what a bug report needs, in one file.
//!
//! Invariant: the report names neither this machine nor its users, their programs, files or
//! cgroups. A line that cannot be filled says why, and no line keeps the next ones from the report.

mod dump;
mod machine;

use anyhow::{Context, Result, bail};
use clap::Args;
use scx_manyland::kernel::probe;
use scx_manyland::program;
use scx_manyland::run::client::{Client, PATH, Target};
use scx_manyland::topology::{Granularity, Source, Topology};
use serde_json::Value;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The file to write, which must not exist yet; - is standard output
    file: PathBuf,
    /// What the scheduler printed, for the dump that it printed last [default: the journal of the
    /// service scx_manyland]
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// The scheduler's statistics socket
    #[arg(long, value_name = "PATH", default_value = PATH)]
    socket: PathBuf,
}

/// The service whose journal has the dump.
const UNIT: &str = super::PROGRAM;

/// The interval of the statistics.
const INTERVAL: Duration = Duration::from_secs(1);

impl ReportArgs {
    /// Writes the report.
    ///
    /// # Errors
    /// If the file exists or cannot be written, or the log cannot be read.
    pub fn run(self) -> Result<()> {
        let to_stdout = self.file == Path::new("-");
        let shown = self.file.display();
        // Before the work, and never over another file.
        let mut file = None;
        if !to_stdout {
            match File::create_new(&self.file) {
                Ok(new) => file = Some(new),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    bail!("{shown} exists already; name a new file, or - for standard output")
                }
                Err(error) => return Err(error).with_context(|| format!("cannot write {shown}")),
            }
        }
        let text = self.text().inspect_err(|_| {
            // It is empty.
            let _ = file.is_some().then(|| fs::remove_file(&self.file));
        })?;
        let Some(mut file) = file else { return program::print(&text) };
        file.write_all(text.as_bytes()).with_context(|| format!("cannot write {shown}"))?;
        program::print(&format!("wrote {shown}: read it, and add it to your report\n"))
    }

    fn text(&self) -> Result<String> {
        let log = self
            .log
            .as_ref()
            .map(|path| fs::read(path).with_context(|| format!("cannot read {}", path.display())));
        let log = log.transpose()?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let mut report = Report::default();
        report.versions();
        machine::describe(&mut report);
        let running = Running::ask(&self.socket);
        report.topology(&running);
        machine::describe_sched_ext(&mut report);
        report.run(&running);
        machine::describe_kernel(&mut report);
        report.dump(log);
        Ok(report.text)
    }
}

/// The text so far.
#[derive(Default)]
struct Report {
    text: String,
}

impl Report {
    /// Begins a part.
    fn part(&mut self, name: &str) {
        let distance = if self.text.is_empty() { "" } else { "\n" };
        self.text += &format!("{distance}[{name}]\n");
    }

    /// A line, or why it is not known.
    fn line(&mut self, name: &str, value: Result<impl Display>) {
        match value {
            Ok(value) => self.text += &format!("{name}: {value}\n"),
            Err(error) => self.text += &format!("{name}: not known ({})\n", one_line(&error)),
        }
    }

    /// Lines below a name, or why they are not known.
    fn lines(&mut self, name: &str, lines: Result<Vec<String>>) {
        match lines {
            Ok(lines) if lines.is_empty() => self.text += &format!("{name}: none\n"),
            Ok(lines) => {
                self.text += &format!("{name}:\n");
                lines.iter().for_each(|line| self.text += &format!("    {line}\n"));
            }
            Err(error) => self.line(name, Err::<&str, _>(error)),
        }
    }

    fn versions(&mut self) {
        self.part("versions");
        self.line("scx_manyland", Ok(super::VERSION));
        self.line("kernel", read("/proc/sys/kernel/osrelease"));
        self.line("kernel build", read("/proc/sys/kernel/version"));
        self.line("architecture", Ok(std::env::consts::ARCH));
        self.line("system", machine::system());
        let btf = probe::vmlinux();
        let is_well_formed = |btf: &_| match probe::malformed(btf) {
            None => "well-formed".to_owned(),
            Some(name) => format!("malformed: {name} shows an implicit argument"),
        };
        self.line("BTF", btf.as_ref().map(is_well_formed).map_err(copied));
        let members = btf.as_ref().map(|btf| match &probe::members(btf, "sched_ext_ops")[..] {
            [] => "none".to_owned(),
            members => members.join(" "),
        });
        self.line("sched_ext_ops", members.map_err(copied));
        let attaching = match probe::check() {
            Ok(()) => "nothing in the kernel is against it".to_owned(),
            Err(error) => one_line(&error),
        };
        self.line("attaching", Ok(attaching));
    }

    fn topology(&mut self, running: &Result<Running>) {
        let domain = running.as_ref().ok().and_then(|it| it.totals["domain"].as_str());
        let by_name = |name| <Granularity as clap::ValueEnum>::from_str(name, false).ok();
        let granularity = domain.and_then(by_name).unwrap_or_default();
        self.part("topology");
        let map = Topology::load(&Source::Live).and_then(|machine| {
            let domains = machine.partition(granularity)?;
            Ok(machine.map(&domains).lines().map(str::to_owned).collect())
        });
        self.lines("domains", map);
    }

    fn run(&mut self, running: &Result<Running>) {
        self.part("scheduler");
        let Running { options, totals, interval } = match running {
            Ok(running) => running,
            Err(error) => return self.line("statistics", Err::<&str, _>(copied(error))),
        };
        self.line("version", Ok(totals["version"].as_str().unwrap_or("unknown")));
        self.line("policy", Ok(totals["policy"].as_str().unwrap_or("unknown")));
        let options = options.as_ref().map_err(copied);
        let named = |options: &Value| {
            let options = options.as_object().into_iter().flatten();
            options.map(|(name, value)| format!("{name} = {value}")).collect()
        };
        self.lines("options", options.map(named));
        self.line("statistics since it attached", Ok(totals));
        self.line("statistics of the last second", interval.as_ref().map_err(copied));
    }

    fn dump(&mut self, log: Option<String>) {
        self.part("last dump");
        let log = match log {
            Some(log) => Ok(log),
            None => journal(),
        };
        self.lines("dump", log.map(|log| dump::last(&log)));
    }
}

/// What a scheduler that runs answers.
struct Running {
    options: Result<Value>,
    totals: Value,
    interval: Result<Value>,
}

impl Running {
    fn ask(socket: &Path) -> Result<Running> {
        // A path of the user's choice could name the user.
        let anonymous = |error| {
            let text = format!("{error:#}").replace(&*socket.to_string_lossy(), "the socket");
            anyhow::anyhow!(text)
        };
        let mut client = Client::connect(socket)
            .and_then(|client| client.context("no scheduler answers: none of this program runs"))
            .map_err(anonymous)?;
        let totals = client.ask(Target::Totals).map_err(anonymous)?;
        let options = client.ask(Target::Options).map_err(anonymous);
        sleep(INTERVAL);
        let interval = client.ask(Target::Top).map_err(anonymous);
        Ok(Running { options, totals, interval })
    }
}

/// What the service has printed since the machine was started.
fn journal() -> Result<String> {
    const LINES: &str = "20000";
    let mut command = Command::new("journalctl");
    command.args(["--quiet", "--boot", "--unit", UNIT, "--output", "cat", "--lines", LINES]);
    let output = command.output().context("no journal: journalctl cannot be started; use --log")?;
    if !output.status.success() {
        bail!("journalctl has failed ({}); use --log", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A file of the kernel's, without the last newline.
fn read(path: &str) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    Ok(text.trim().to_owned())
}

fn one_line(error: &anyhow::Error) -> String {
    program::one_line(&format!("{error:#}"))
}

/// An error that says the same.
fn copied(error: &anyhow::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_not_known_says_why_and_is_one() {
        let mut report = Report::default();
        report.part("first");
        report.line("good", Ok(1));
        report.line("bad", read("/nowhere/at\nall"));
        report.lines("many", Ok(vec!["a".to_owned(), "b".to_owned()]));
        report.lines("none", Ok(Vec::new()));
        report.part("second");
        let expected = "[first]\ngood: 1\nbad: not known (cannot read /nowhere/at all: No such file or \
                        directory (os error 2))\nmany:\n    a\n    b\nnone: none\n\n[second]\n";
        assert_eq!(report.text, expected);
    }
}
