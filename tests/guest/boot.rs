//! A guest, from the host's side: booted by `tools/boot`, asked to run tests, and killed with us.

use crate::console::{self, Console};
use crate::machine::Machine;
use crate::monitor::Monitor;
use crate::protocol::{self, Request};
use crate::stutter::Stutter;
use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a guest may take until its agent is up: 64 CPUs on two cores need more than two
/// minutes.
const BOOT_LIMIT: Duration = Duration::from_secs(400);

/// How much longer than the agent the host waits for a test, so that a hang is the agent's to
/// report if it can.
const GRACE: Duration = Duration::from_secs(20);

/// How long a guest lives at most, whatever happens to us. The rows of docs/reliability.md
/// share one.
const LIFE_LIMIT: Duration = Duration::from_secs(3 * 3600);

/// What a guest has besides the agent and the scheduler, by their paths in the folder of what is
/// built.
const PROGRAMS: [&str; 4] =
    ["examples/fifo", "examples/newcomers", "examples/rules", "examples/tenants"];

/// What every guest boots: a kernel, and a file system with the programs under test.
pub struct Image {
    kernel: PathBuf,
    initrd: PathBuf,
}

impl Image {
    /// Gets the kernel and makes the file system, which holds the agent, the scheduler, some
    /// examples and hackbench.
    pub fn make(folder: &Path) -> Result<Image> {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let kernel = output_of(Command::new(tool("kernel")).stderr(Stdio::inherit()))?;
        let initrd = folder.join("initrd");
        let built = Built::find()?;
        let scheduler = match std::env::var_os("SCX_MANYLAND_BIN") {
            Some(path) => path.into(),
            None => built.program("scx_manyland")?,
        };
        let programs = PROGRAMS.iter().map(|name| built.program(name));
        output_of(
            Command::new(tool("initramfs"))
                .arg(&initrd)
                .arg("guest-agent serve")
                .arg(built.program("guest-agent")?)
                .arg(format!("{}=scx_manyland", scheduler.display()))
                .args(programs.collect::<Result<Vec<_>>>()?)
                .arg("hackbench"),
        )?;
        Ok(Image { kernel: kernel.into(), initrd })
    }
}

/// The folder of what cargo has built, which this program is in.
struct Built(PathBuf);

impl Built {
    /// Finds it and has cargo bring everything there up to date, as this program was built.
    fn find() -> Result<Built> {
        let this = std::env::current_exe().context("cannot find this program's own file")?;
        let folder = this.parent().context("this program is in no folder")?.to_owned();
        let profile = if folder.ends_with("release") { "release" } else { "dev" };
        // One after the other: together they would be built with each other's features.
        for what in [&["guest", "--bins"][..], &["scx_manyland", "--bins", "--examples"]] {
            output_of(
                Command::new(env!("CARGO"))
                    .args(["build", "--quiet", "--profile", profile, "--package"])
                    .args(what)
                    .current_dir(checkout()),
            )?;
        }
        Ok(Built(folder))
    }

    fn program(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        ensure!(
            path.exists(),
            "there is no {}; run this as cargo run --release -p guest",
            path.display()
        );
        Ok(path)
    }
}

fn checkout() -> &'static Path {
    let this = Path::new(env!("CARGO_MANIFEST_DIR"));
    this.ancestors().nth(2).expect("the crate is in its checkout")
}

fn tool(name: &str) -> PathBuf {
    checkout().join("tools").join(name)
}

fn output_of(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What became of a test.
pub struct Outcome {
    pub result: Result<()>,
    /// Whether the guest can run another test. After a hang, a panic or a warning of its kernel it
    /// cannot be trusted.
    pub guest_is_well: bool,
}

/// A running guest.
pub struct Guest {
    process: Child,
    port: ChildStdin,
    lines: Receiver<String>,
    console: Console,
    errors: PathBuf,
    /// Whether to print a test's output as it comes.
    live: bool,
    /// The folder of its socket goes with it.
    _monitor: Monitor,
}

impl Guest {
    /// Boots a guest and waits until its agent is up. Its console goes to the folder.
    pub fn boot(machine: &Machine, image: &Image, folder: &Path, live: bool) -> Result<Guest> {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let console_log = folder.join(format!("{}.console", machine.name));
        let errors = folder.join(format!("{}.qemu", machine.name));
        let _ = fs::remove_file(&console_log);
        let monitor = Monitor::new()?;
        // tools/boot dies with the thread that starts it, and QEMU with tools/boot. The two are a
        // group of their own.
        let accel = if machine.accel.is_empty() { vec![] } else { vec!["--accel", machine.accel] };
        let mut process = Command::new(tool("boot"))
            .arg("--kernel")
            .arg(&image.kernel)
            .arg("--initrd")
            .arg(&image.initrd)
            .args(["--shape", &machine.shape()])
            .args(["--nodes", &machine.nodes.to_string()])
            .args(["--memory", &machine.memory_mib.to_string()])
            .args(["--swap", &machine.swap_mib.to_string()])
            .args(["--empty-sockets", &machine.empty_sockets.to_string()])
            .args(["--append", machine.parameters])
            .args(accel)
            .arg("--console")
            .arg(&console_log)
            .arg("--monitor")
            .arg(monitor.socket())
            .args(["--seconds", &LIFE_LIMIT.as_secs().to_string()])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors).context("cannot make the log of QEMU's errors")?)
            .spawn()
            .context("cannot run tools/boot")?;
        monitor.wake_guest();
        let port = process.stdin.take().expect("stdin is a pipe");
        let lines = read_lines(process.stdout.take().expect("stdout is a pipe"));
        let mut guest = Guest {
            process,
            port,
            lines,
            console: Console::new(console_log),
            errors,
            live,
            _monitor: monitor,
        };
        guest.wait_until_ready().with_context(|| format!("cannot boot a guest {machine}"))?;
        Ok(guest)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + BOOT_LIMIT;
        loop {
            match self.line_before(deadline) {
                Ok(line) if line == protocol::READY => break,
                Ok(_) => {}
                Err(e) => bail!(
                    "{e}\n{}{}",
                    fs::read_to_string(&self.errors).unwrap_or_default(),
                    self.console.news()
                ),
            }
        }
        match console::trouble(&self.console.news()) {
            Some(excerpt) => bail!("its kernel complains:\n{excerpt}"),
            None => Ok(()),
        }
    }

    /// Runs a test.
    pub fn run(&mut self, test: &str, limit: Duration) -> Outcome {
        let mut output = String::new();
        let answer = self.ask(test, limit, &mut output);
        let silent = answer.is_err();
        let news = self.console.news();
        let trouble = console::trouble(&news);
        let guest_is_well = !silent && trouble.is_none();
        let reason = match (answer, trouble) {
            (Ok(Ok(())), None) => return Outcome { result: Ok(()), guest_is_well },
            (Ok(Ok(())), Some(excerpt)) => format!("the guest's kernel complains:\n{excerpt}"),
            (Ok(Err(reason)), None) => reason,
            (Ok(Err(reason)), Some(excerpt)) => {
                format!("{reason}; the guest's kernel complains:\n{excerpt}")
            }
            (Err(e), trouble) => format!("{e}; the guest's console:\n{}", trouble.unwrap_or(news)),
        };
        Outcome { result: Err(anyhow!("{output}{reason}")), guest_is_well }
    }

    /// The agent's answer: whether the test passed, or why not. An error is no answer.
    fn ask(
        &mut self,
        test: &str,
        limit: Duration,
        output: &mut String,
    ) -> Result<Result<(), String>> {
        let request = Request::run(test, limit);
        self.port.write_all(request.to_line().as_bytes()).context("the guest is gone")?;
        let deadline = Instant::now() + limit + GRACE;
        let mut _stutter = None;
        loop {
            let line = self.line_before(deadline)?;
            if line == protocol::PASS {
                return Ok(Ok(()));
            } else if let Some(reason) = line.strip_prefix(protocol::FAIL) {
                return Ok(Err(reason.to_owned()));
            }
            let said = line.strip_prefix(protocol::OUTPUT).unwrap_or(&line);
            match said {
                protocol::STUTTER => {
                    _stutter = Some(Stutter::start(Pid::from_raw(self.process.id() as i32)));
                }
                protocol::STEADY => _stutter = None,
                _ => {}
            }
            output.push_str(said);
            output.push('\n');
            if self.live {
                eprintln!("    {said}");
            }
        }
    }

    fn line_before(&mut self, deadline: Instant) -> Result<String> {
        self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())).map_err(|e| {
            match e {
                RecvTimeoutError::Timeout => anyhow!("the guest gave no answer in time"),
                RecvTimeoutError::Disconnected => anyhow!("the guest ended"),
            }
        })
    }
}

/// The guest goes at once: it has nothing to save.
impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.port.write_all(Request::Bye.to_line().as_bytes());
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read_lines(stdout: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
    receiver
}
