//! Work for a scheduler: hogs and hackbench. All of it ends by itself, and is killed when its owner
//! goes.

use super::{cpus, process, wait_for_exit};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use nix::sched::sched_getcpu;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use scx_manyland::cpuset::CpuSet;
use scx_manyland::ids::CpuId;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A hog that pauses does so for a tenth of its time.
const PERIOD: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_millis(10);

/// A process that computes without a pause, and fails if it finds itself on a CPU that it may not
/// use.
pub struct Hog {
    process: Child,
}

impl Hog {
    /// A hog bound to CPUs.
    pub fn on(cpus: &CpuSet, limit: Duration) -> Result<Hog> {
        Self::spawn(&["--on", &cpus.to_string()], limit)
    }

    /// A hog that is not bound, and yet is not to run on some CPUs.
    pub fn off(cpus: &CpuSet, limit: Duration) -> Result<Hog> {
        Self::spawn(&["--off", &cpus.to_string()], limit)
    }

    /// A hog that may run anywhere, and can be bound from outside.
    pub fn anywhere(limit: Duration) -> Result<Hog> {
        Self::spawn(&[], limit)
    }

    /// A hog that may run anywhere and sleeps for a tenth of its time.
    pub fn pausing(limit: Duration) -> Result<Hog> {
        Self::spawn(&["--pausing"], limit)
    }

    /// The same bound to CPUs.
    pub fn pausing_on(cpus: &CpuSet, limit: Duration) -> Result<Hog> {
        Self::spawn(&["--pausing", "--on", &cpus.to_string()], limit)
    }

    /// A hog bound to CPUs that yields over and over.
    pub fn yielding_on(cpus: &CpuSet, limit: Duration) -> Result<Hog> {
        Self::spawn(&["--yielding", "--on", &cpus.to_string()], limit)
    }

    /// No hog at first but a process bound to CPUs that sleeps, with so much memory, in small
    /// pages. The CPU works long to end it.
    pub fn large_on(cpus: &CpuSet, mib: usize, limit: Duration) -> Result<Hog> {
        Self::spawn(&["--mib", &mib.to_string(), "--on", &cpus.to_string()], limit)
    }

    /// A hog bound to CPUs that changes its niceness over and over, from -10 to -9 and back.
    pub fn changing_on(cpus: &CpuSet, limit: Duration) -> Result<Hog> {
        Self::spawn(&["--changing", "--on", &cpus.to_string()], limit)
    }

    /// A hog bound to CPUs, under a name of its own.
    pub fn named(name: &str, cpus: &CpuSet, limit: Duration) -> Result<Hog> {
        // The kernel names a process after the file that it was started from.
        let file = Path::new("/tmp").join(name);
        if !file.is_symlink() {
            let this = std::env::current_exe().context("cannot find this program's own file")?;
            symlink(this, &file).with_context(|| format!("cannot make {}", file.display()))?;
        }
        Self::spawn_from(&file, &["--on", &cpus.to_string()], limit)
    }

    fn spawn(place: &[&str], limit: Duration) -> Result<Hog> {
        Self::spawn_from(Path::new("/proc/self/exe"), place, limit)
    }

    fn spawn_from(program: &Path, place: &[&str], limit: Duration) -> Result<Hog> {
        let process = Command::new(program)
            .args(["hog", &limit.as_secs().to_string()])
            .args(place)
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start a hog")?;
        Ok(Hog { process })
    }

    pub fn pid(&self) -> i32 {
        self.process.id() as i32
    }

    /// How long it has run.
    pub fn run_time(&self) -> Result<Duration> {
        process::run_time(self.pid())
    }

    /// Waits for its own end; an error if it was seen on a CPU that it may not use.
    pub fn finish(mut self, limit: Duration) -> Result<()> {
        wait_for_exit(&mut self.process, limit)?;
        self.stop()
    }

    /// Ends it; an error if it was seen on a CPU that it may not use.
    pub fn stop(mut self) -> Result<()> {
        if let Some(status) = self.process.try_wait()? {
            ensure!(status.success(), "a hog ran where it may not ({status})");
        }
        Ok(())
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A hog for each of the sets of CPUs, bound there from outside, that has run for a second.
pub fn hogs_bound_to(homes: &[CpuSet]) -> Result<Vec<Hog>> {
    let hogs: Vec<Hog> =
        homes.iter().map(|_| Hog::anywhere(Duration::from_secs(120))).collect::<Result<_>>()?;
    for (hog, home) in hogs.iter().zip(homes) {
        process::bind(hog.pid(), home)?;
    }
    thread::sleep(Duration::from_secs(1));
    Ok(hogs)
}

/// The same, and they may run anywhere from now on.
pub fn hogs_at_home(homes: &[CpuSet]) -> Result<Vec<Hog>> {
    let hogs = hogs_bound_to(homes)?;
    let online = cpus::online()?;
    for hog in &hogs {
        process::bind(hog.pid(), &online)?;
    }
    Ok(hogs)
}

/// A hog's command line.
#[derive(Args)]
pub struct HogArgs {
    /// For how long
    seconds: u64,
    /// Sleep for a tenth of the time
    #[arg(long)]
    pausing: bool,
    /// Do nothing but yield
    #[arg(long)]
    yielding: bool,
    /// Fill so much memory, and sleep
    #[arg(long)]
    mib: Option<usize>,
    /// Change the niceness every millisecond
    #[arg(long)]
    changing: bool,
    /// Bind itself to CPUs, and fail on any other
    #[arg(long, value_name = "CPUS", value_parser = cpus::parse_list)]
    on: Option<CpuSet>,
    /// Fail on CPUs
    #[arg(long, value_name = "CPUS", value_parser = cpus::parse_list, conflicts_with = "on")]
    off: Option<CpuSet>,
}

impl HogArgs {
    /// What a hog's process does.
    pub fn run(self) -> Result<()> {
        if let Some(cpus) = &self.on {
            process::bind(0, cpus)?;
        }
        if let Some(mib) = self.mib {
            // SAFETY: prctl takes no pointers here.
            unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
            let memory = vec![1_u8; mib << 20];
            thread::sleep(Duration::from_secs(self.seconds));
            drop(memory);
            return Ok(());
        }
        let place = self.on.map(|cpus| (true, cpus)).or(self.off.map(|cpus| (false, cpus)));
        let end = Instant::now() + Duration::from_secs(self.seconds);
        let (mut paused_at, mut changed_at) = (Instant::now(), Instant::now());
        let mut nice = 0;
        while Instant::now() < end {
            if self.pausing && paused_at.elapsed() >= PERIOD {
                thread::sleep(PAUSE);
                paused_at = Instant::now();
            }
            if self.changing && changed_at.elapsed() >= Duration::from_millis(1) {
                nice = if nice == -10 { -9 } else { -10 };
                process::renice(0, nice)?;
                changed_at = Instant::now();
            }
            if self.yielding {
                thread::yield_now();
            }
            let cpu = CpuId(sched_getcpu()? as u32);
            if let Some((on, cpus)) = &place
                && cpus.contains(cpu) != *on
            {
                bail!("a hog to run {} {cpus} is on CPU {cpu}", if *on { "on" } else { "off" });
            }
        }
        Ok(())
    }
}

/// A task that sleeps and wakes, and measures how late it runs.
pub struct Probe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Wakes>,
}

/// What a probe has seen.
struct Wakes {
    count: u64,
    worst_delay: Duration,
}

impl Probe {
    const PERIOD: Duration = Duration::from_millis(10);

    pub fn start() -> Probe {
        Self::start_as("probe", None)
    }

    /// A probe bound to CPUs, under a name of its own.
    pub fn named(name: &str, cpus: &CpuSet) -> Probe {
        Self::start_as(name, Some(*cpus))
    }

    fn start_as(name: &str, cpus: Option<CpuSet>) -> Probe {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let watch = move || {
            if let Some(cpus) = cpus {
                process::bind(0, &cpus).expect("binding to CPUs");
            }
            let mut wakes = Wakes { count: 0, worst_delay: Duration::ZERO };
            while !stopped.load(Ordering::Relaxed) {
                let slept_at = Instant::now();
                thread::sleep(Self::PERIOD);
                wakes.worst_delay = wakes.worst_delay.max(slept_at.elapsed() - Self::PERIOD);
                wakes.count += 1;
            }
            wakes
        };
        let thread = thread::Builder::new().name(name.into()).spawn(watch);
        Probe { stop, thread: thread.expect("a thread can be made") }
    }

    /// Ends it, and tells the longest that it had to wait.
    pub fn worst_delay(self) -> Duration {
        self.end().worst_delay
    }

    /// Ends it, and tells how often it woke up.
    pub fn wakes(self) -> u64 {
        self.end().count
    }

    fn end(self) -> Wakes {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a probe does not panic")
    }
}

/// A running hackbench.
pub struct Hackbench {
    process: Child,
    limit: Duration,
}

impl Hackbench {
    /// Starts `hackbench -g GROUPS -l LOOPS`.
    pub fn start(groups: u32, loops: u32, limit: Duration) -> Result<Hackbench> {
        let process = Command::new("hackbench")
            .args(["-g", &groups.to_string(), "-l", &loops.to_string()])
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start hackbench")?;
        Ok(Hackbench { process, limit })
    }

    /// The same from the beginning in the cgroup of a folder.
    pub fn start_in(folder: &Path, groups: u32, limit: Duration) -> Result<Hackbench> {
        let command = "echo $$ >$0/cgroup.procs && exec hackbench -g $1 -l 1000000";
        let process = Command::new("sh")
            .args(["-c", command])
            .arg(folder)
            .arg(groups.to_string())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start hackbench in a cgroup")?;
        Ok(Hackbench { process, limit })
    }

    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.process.try_wait()?.is_none())
    }

    /// Waits until it is done.
    pub fn finish(mut self) -> Result<()> {
        let deadline = Instant::now() + self.limit;
        while Instant::now() < deadline {
            if let Some(status) = self.process.try_wait()? {
                ensure!(status.success(), "hackbench failed ({status})");
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("hackbench was not done after {} s", self.limit.as_secs())
    }
}

/// Its children do not see that it has gone, so the whole group of processes is killed.
impl Drop for Hackbench {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.process.id() as i32), Signal::SIGKILL);
        let _ = self.process.wait();
    }
}

/// Runs hackbench and tells how long it took.
pub fn hackbench(groups: u32, loops: u32, limit: Duration) -> Result<Duration> {
    let start = Instant::now();
    Hackbench::start(groups, loops, limit)?.finish()?;
    Ok(start.elapsed())
}
