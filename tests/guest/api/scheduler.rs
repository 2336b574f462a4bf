//! The scheduler under test, as a process.

use super::process::{self, Thread};
use super::{cpus, sched_ext, wait_for_exit, wait_until};
use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use scx_manyland::cpuset::CpuSet;
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub const PROGRAM: &str = "/bin/scx_manyland";

/// The name under which the kernel lists it.
const OPS: &str = "manyland";

/// Loading and verifying BPF takes seconds on an emulated CPU.
const ATTACH_LIMIT: Duration = Duration::from_secs(120);
const DETACH_LIMIT: Duration = Duration::from_secs(60);
const RUN_LIMIT: Duration = Duration::from_secs(30);

/// Options that make it print statistics that [`Scheduler::stats`] can read, every second.
pub const STATS: [&str; 4] = ["--stats", "1", "--stats-format", "json"];

/// The same with a patience that covers a host which lets a guest's CPU wait. For tests that ask whether
/// user space decides, and not how fast a domain thread comes.
pub const PATIENT: [&str; 6] =
    ["--stats", "1", "--stats-format", "json", "--patience-us", "100000"];

/// A running scheduler; killed when dropped.
#[derive(Debug)]
pub struct Scheduler {
    process: Child,
    output: Output,
}

impl Scheduler {
    /// Starts it and waits until it is attached.
    pub fn start(args: &[&str]) -> Result<Scheduler> {
        Self::spawn(Command::new(PROGRAM).args(args))
    }

    /// Runs a command that is the scheduler, and waits until it is attached.
    pub fn spawn(command: &mut Command) -> Result<Scheduler> {
        let output = Output::new();
        Scheduler { process: output.spawn(command)?, output }.attached()
    }

    /// Starts it with outputs of the test's choice, and waits until it is attached.
    pub fn start_with(
        args: &[&str],
        stdout: impl Into<Stdio>,
        stderr: impl Into<Stdio>,
    ) -> Result<Scheduler> {
        let mut command = Command::new(PROGRAM);
        command.args(args).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let process = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Scheduler { process, output: Output::new() }.attached()
    }

    fn attached(self) -> Result<Scheduler> {
        let mut scheduler = self;
        let deadline = Instant::now() + ATTACH_LIMIT;
        while !(sched_ext::state() == "enabled" && sched_ext::scheduler().starts_with(OPS)) {
            if let Some(status) = scheduler.process.try_wait()? {
                bail!(
                    "the scheduler did not attach but ended ({status}):\n{}",
                    scheduler.output.all()
                );
            }
            if Instant::now() > deadline {
                bail!("the scheduler did not attach in time:\n{}", scheduler.output.all());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(scheduler)
    }

    /// The process that schedules. The program starts it, and another one whenever the machine has
    /// changed.
    pub fn pid(&self) -> i32 {
        let pids = self.pids();
        pids.iter().copied().find(|&pid| !domain_threads_of(pid).is_empty()).unwrap_or(pids[0])
    }

    /// The program's own process, and those that it has started.
    pub fn pids(&self) -> Vec<i32> {
        let first = self.process.id() as i32;
        [first].into_iter().chain(process::descendants(first)).collect()
    }

    /// Its domain threads, in the order of their domains.
    pub fn domain_threads(&self) -> Result<Vec<Thread>> {
        Ok(domain_threads_of(self.pid()))
    }

    /// The CPUs of each domain, as it has said when it last attached.
    pub fn domains(&self) -> Result<Vec<CpuSet>> {
        let said = self.said();
        let lines = said.rsplit_once("\ndomain ").context("it does not say its domains")?.1.lines();
        let columns = lines.skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        let rows = columns.take_while(|row| row.len() > 1 && row[0].parse::<u32>().is_ok());
        rows.map(|row| cpus::parse_list(row[1])).collect()
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        self.output.stdout()
    }

    /// What it has told the user so far.
    pub fn said(&self) -> String {
        self.output.stderr()
    }

    /// Makes room for more output, in this process's name: a file in memory is charged to the memory
    /// cgroup of the process that is the first to write there.
    pub fn make_room_for_output(&self) -> Result<()> {
        const BYTES: libc::off_t = 1 << 20;
        let file = File::options().write(true).open(&self.output.stdout)?;
        fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, BYTES)
            .context("cannot make room for output")
    }

    /// Whether the last that it has said of an attachment is that there is one. It does not say so
    /// of one that a change of the machine has already ended.
    pub fn says_attached(&self) -> bool {
        let said = self.said();
        said.rfind("attached: ") > said.rfind("the machine has changed")
    }

    /// Waits for so many lines of statistics more than there are now: the load of before is in
    /// them.
    pub fn await_stats(&self, more: usize) -> Result<Stats> {
        let wanted = self.stats()?.lines.len() + more;
        wait_until("statistics are printed", Duration::from_secs(60), || {
            self.stats().map_or(true, |stats| stats.lines.len() >= wanted)
        })
        .with_context(|| self.plight())?;
        self.stats()
    }

    /// The gauge of the next line of statistics.
    pub fn gauge(&self, field: &str) -> Result<u64> {
        let stats = self.await_stats(1)?;
        let line = stats.lines.last().context("no line of statistics")?;
        line[field].as_u64().with_context(|| format!("no {field} in {line}"))
    }

    /// Where its threads are at this moment, for the report of a failure.
    pub fn plight(&self) -> String {
        let mut text = format!("sched_ext is {}; it said:\n{}", sched_ext::state(), self.said());
        for pid in self.pids() {
            for thread in process::threads(pid).unwrap_or_default() {
                let state = process::state(thread.tid).unwrap_or('?');
                let stack = process::kernel_stack(pid, thread.tid);
                text += &format!("{} {} ({state}): {stack}\n", thread.tid, thread.name);
            }
        }
        text
    }

    /// The lines of statistics so far, for a scheduler started with [`STATS`].
    pub fn stats(&self) -> Result<Stats> {
        let lines = self.output.stdout();
        // The last line may be half written.
        let whole = &lines[..lines.rfind('\n').map_or(0, |end| end + 1)];
        let parse = |line: &str| {
            serde_json::from_str(line)
                .with_context(|| format!("not a line of statistics: {line:?}"))
        };
        Ok(Stats {
            lines: whole
                .lines()
                .filter(|line| line.starts_with('{'))
                .map(parse)
                .collect::<Result<_>>()?,
        })
    }

    /// Each domain decides, under a load that runs at this moment, for a scheduler started with
    /// [`STATS`].
    pub fn decisions_resume(&self) -> Result<()> {
        self.await_stats(2)?;
        let stats = self.await_stats(2)?;
        for id in 0..self.domain_threads()?.len() {
            let decided: u64 = stats
                .lines
                .iter()
                .rev()
                .take(2)
                .map(|line| {
                    line["domains"][id]["decided"].as_u64().context("no count of decisions")
                })
                .sum::<Result<_>>()?;
            println!("domain {id} decided {decided} times in 2 s afterwards");
            ensure!(decided > 0, "domain {id} decides no more");
        }
        Ok(())
    }

    /// Whether its process has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.process.try_wait()?.is_some())
    }

    /// Ends it as Ctrl-C does.
    pub fn stop(self) -> Result<()> {
        self.stop_with(Signal::SIGINT)
    }

    /// Ends it by a signal that asks it to leave.
    pub fn stop_with(self, signal: Signal) -> Result<()> {
        let signalled = Instant::now();
        kill(Pid::from_raw(self.process.id() as i32), signal).context("cannot signal it")?;
        self.leaves().with_context(|| format!("after {signal}"))?;
        println!("detached in {} ms", signalled.elapsed().as_millis());
        Ok(())
    }

    /// It has been asked to leave: it must detach and exit with 0.
    pub fn leaves(mut self) -> Result<()> {
        let waited = wait_for_exit(&mut self.process, DETACH_LIMIT);
        let status = waited.with_context(|| self.plight())?;
        ensure!(status.code() == Some(0), "its exit: {status}:\n{}", self.output.all());
        sched_ext::wait_for_state("disabled", Duration::from_secs(5))
    }

    /// Sends the process that schedules a signal.
    pub fn send(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid()), signal).context("cannot signal the scheduler")
    }

    /// Kills it by a signal that it does not handle and waits until the kernel's own scheduler is
    /// back.
    pub fn kill_with(mut self, signal: Signal) -> Result<()> {
        self.die_by(signal)?;
        wait_until("the kernel's own scheduler is back", Duration::from_secs(5), || {
            sched_ext::state() == "disabled"
        })
    }

    /// Kills the process that schedules by a signal that it does not handle; the program says so
    /// and fails.
    pub fn die_by(&mut self, signal: Signal) -> Result<()> {
        let deadline = Instant::now() + DETACH_LIMIT;
        let victim = Pid::from_raw(self.pid());
        let status = loop {
            // Again, because Rust's runtime takes the first SIGSEGV to look for an overflow of the
            // stack.
            let _ = kill(victim, signal);
            thread::sleep(Duration::from_millis(50));
            if let Some(status) = self.process.try_wait()? {
                break status;
            }
            ensure!(Instant::now() < deadline, "{signal} does not kill the scheduler");
        };
        ensure!(status.code() == Some(1), "the scheduler was killed by {signal} and yet: {status}");
        let said = self.said();
        ensure!(said.contains(signal.as_str()), "it does not say that {signal} killed it: {said}");
        Ok(())
    }
}

/// The domain threads of a process, in the order of their domains.
fn domain_threads_of(pid: i32) -> Vec<Thread> {
    let domain = |thread: &Thread| thread.name.strip_prefix("manyland/")?.parse::<u32>().ok();
    // The process may have ended.
    let mut threads = process::threads(pid).unwrap_or_default();
    threads.retain(|thread| domain(thread).is_some());
    threads.sort_by_key(domain);
    threads
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The statistics of a run, a line each second.
pub struct Stats {
    pub lines: Vec<Value>,
}

impl Stats {
    /// A count summed over all lines and all domains.
    pub fn sum(&self, field: &str) -> Result<u64> {
        let mut sum = 0;
        for line in &self.lines {
            for domain in
                line["domains"].as_array().with_context(|| format!("no domains in {line}"))?
            {
                sum += domain[field].as_u64().with_context(|| format!("no {field} in {domain}"))?;
            }
        }
        Ok(sum)
    }

    /// How many in a hundred of the tasks that found no idle CPU ran by a decision of user space.
    pub fn percent_decided(&self) -> Result<f64> {
        let decided = self.sum("decided")? + self.sum("standing")?;
        let late = self.sum("late")?;
        ensure!(decided > 1000, "user space decided {decided} times under load");
        Ok(100.0 * decided as f64 / (decided + late) as f64)
    }

    /// A count of the whole process summed over all lines.
    pub fn sum_of_process(&self, field: &str) -> Result<u64> {
        self.lines
            .iter()
            .map(|line| line[field].as_u64().with_context(|| format!("no {field} in {line}")))
            .sum()
    }
}

/// How a run of the program that should end by itself did.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the program to its end.
pub fn run(args: &[&str]) -> Result<Run> {
    run_within(args, RUN_LIMIT)
}

/// Runs the program to its end, which may take so long.
pub fn run_within(args: &[&str], limit: Duration) -> Result<Run> {
    Program::spawn(Command::new(PROGRAM).args(args))?.finish(limit)
}

/// Runs a line of the shell that the program is part of to its end.
pub fn run_in_shell(line: &str) -> Result<Run> {
    run_to_end(Command::new("sh").args(["-c", line]))
}

/// Runs the program to its end as a user without rights.
pub fn run_as_nobody(args: &[&str]) -> Result<Run> {
    run_to_end(Command::new(PROGRAM).args(args).uid(65534).gid(65534))
}

fn run_to_end(command: &mut Command) -> Result<Run> {
    Program::spawn(command)?.finish(RUN_LIMIT)
}

/// The program doing something that ends by itself; killed when dropped.
pub struct Program {
    process: Child,
    output: Output,
}

impl Program {
    /// Starts it.
    pub fn start(args: &[&str]) -> Result<Program> {
        Self::spawn(Command::new(PROGRAM).args(args))
    }

    fn spawn(command: &mut Command) -> Result<Program> {
        let output = Output::new();
        Ok(Program { process: output.spawn(command)?, output })
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        self.output.stdout()
    }

    /// What it has told the user so far.
    pub fn said(&self) -> String {
        self.output.stderr()
    }

    /// Waits for its end.
    pub fn finish(mut self, limit: Duration) -> Result<Run> {
        let status = wait_for_exit(&mut self.process, limit)
            .with_context(|| format!("it said:\n{}", self.output.all()))?;
        Ok(Run { code: status.code(), stdout: self.output.stdout(), stderr: self.output.stderr() })
    }

    /// Sends it a signal and waits for its end.
    pub fn end_by(self, signal: Signal, limit: Duration) -> Result<Run> {
        kill(Pid::from_raw(self.process.id() as i32), signal).context("cannot signal it")?;
        self.finish(limit).with_context(|| format!("after {signal}"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The files that a process's output goes to, so that nobody has to keep reading it.
#[derive(Debug)]
struct Output {
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Output {
    fn new() -> Output {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let stem =
            format!("/tmp/{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        Output { stdout: format!("{stem}.out").into(), stderr: format!("{stem}.err").into() }
    }

    fn spawn(&self, command: &mut Command) -> Result<Child> {
        let stdout = File::create(&self.stdout).context("cannot make a file for output")?;
        let stderr = File::create(&self.stderr).context("cannot make a file for errors")?;
        let command = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        command.spawn().with_context(|| format!("cannot start {command:?}"))
    }

    fn stdout(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap_or_default()
    }

    fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    fn all(&self) -> String {
        self.stdout() + &self.stderr()
    }
}
