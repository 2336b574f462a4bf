//! Storms: processes of many tasks that do without a pause what schedulers stumble over. A storm
//! ends by itself when its time is up, and only when every task that it started has ended: one that
//! does not end has lost a task.
//!
//! Who drives a storm (starts, kills, moves) is a real-time task, or it would wait its turn among
//! those that it drives.

use super::{cpus, process};
use crate::role;
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use nix::sched::{CpuSet as NixCpuSet, sched_setaffinity};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, gettid};
use scx_manyland::cpuset::CpuSet;
use std::fs;
use std::num::NonZeroUsize;
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What the tasks of a storm do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A tree of processes that grows until there are NUMBER of them; they wake up now and then.
    Forks,
    /// NUMBER threads that want the same mutex.
    Mutex,
    /// NUMBER threads that change the CPUs they may use, at random, every few milliseconds.
    Affinity,
    /// NUMBER threads that wake up every few milliseconds.
    Wakeups,
    /// NUMBER processes, one of which is killed at any moment, and replaced; born on CPUS, if any,
    /// and let go at once.
    Deaths,
    /// NUMBER threads whose niceness and scheduling class somebody changes all the time.
    Classes,
    /// NUMBER processes that somebody moves all the time between cgroups with weights and limits.
    Cgroups,
    /// A process that takes NUMBER MiB of memory and writes to all of it, again and again.
    Memory,
    /// A real-time task on each of CPUS that computes for NUMBER in a hundred of the time.
    RealTime,
}

/// A running storm; killed when dropped.
pub struct Storm {
    process: Child,
    kind: Kind,
}

impl Storm {
    /// Starts a storm for a time.
    pub fn start(kind: Kind, number: usize, time: Duration) -> Result<Storm> {
        Self::spawn(kind, number, time, None)
    }

    /// Starts a storm on some CPUs.
    pub fn start_on(cpus: &CpuSet, kind: Kind, number: usize, time: Duration) -> Result<Storm> {
        Self::spawn(kind, number, time, Some(cpus))
    }

    fn spawn(kind: Kind, number: usize, time: Duration, cpus: Option<&CpuSet>) -> Result<Storm> {
        let name = kind.to_possible_value().expect("no kind is hidden");
        let process = role::command("storm")
            .arg(name.get_name())
            .args([number.to_string(), time.as_millis().to_string()])
            .args(cpus.map(CpuSet::to_string))
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start a storm ({kind:?})"))?;
        Ok(Storm { process, kind })
    }

    pub fn pid(&self) -> i32 {
        self.process.id() as i32
    }

    /// Waits until all its tasks have ended.
    pub fn finish(mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.process.try_wait()? {
                ensure!(status.success(), "a storm ({:?}) failed ({status})", self.kind);
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("a storm ({:?}) has not ended {} s later", self.kind, limit.as_secs());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.try_wait();
    }
}

/// A storm's command line.
#[derive(Args)]
pub struct StormArgs {
    kind: Kind,
    number: usize,
    milliseconds: u64,
    #[arg(value_parser = cpus::parse_list)]
    cpus: Option<CpuSet>,
}

impl StormArgs {
    /// What a storm's process does.
    pub fn run(self) -> Result<()> {
        let StormArgs { kind, number, milliseconds, cpus: place } = self;
        let end = Instant::now() + Duration::from_millis(milliseconds);
        storm(kind, number, end, place).context("a storm")
    }
}

fn storm(kind: Kind, number: usize, end: Instant, place: Option<CpuSet>) -> Result<()> {
    match kind {
        Kind::Forks => forks(number, end),
        Kind::Mutex => mutex(number, end),
        Kind::Affinity => affinity(number, end),
        Kind::Wakeups => crowd(number, end, || restless(end), || Ok(())),
        Kind::Deaths => deaths(number, end, place.as_ref()),
        Kind::Classes => classes(number, end),
        Kind::Cgroups => cgroups(number, end),
        Kind::Memory => memory(number, end),
        Kind::RealTime => real_time(&place.context("CPUS")?, number, end),
    }
}

/// Computes for about so long.
fn compute(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// Wakes up every few milliseconds and computes a little.
fn restless(end: Instant) {
    while Instant::now() < end {
        compute(Duration::from_micros(fastrand::u64(1..100)));
        thread::sleep(Duration::from_micros(fastrand::u64(500..20_000)));
    }
}

/// Between two things that the driver of a storm does.
const PAUSE: Duration = Duration::from_micros(300);

/// Runs `life` in so many threads (fewer if the time is up before) and `meanwhile` in this one, and
/// waits for all to end.
fn crowd(
    number: usize,
    end: Instant,
    life: impl Fn() + Sync,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<()> {
    const STACK: usize = 64 << 10;
    process::become_real_time();
    thread::scope(|scope| {
        for _ in (0..number).take_while(|_| Instant::now() < end) {
            thread::Builder::new()
                .stack_size(STACK)
                .spawn_scoped(scope, &life)
                .context("cannot start a thread")?;
        }
        meanwhile()
    })
}

fn mutex(number: usize, end: Instant) -> Result<()> {
    let shared = Mutex::new(0_u64);
    let life = || {
        while Instant::now() < end {
            *shared.lock().expect("nobody panics") += 1;
            compute(Duration::from_micros(5));
        }
    };
    crowd(number, end, life, || Ok(()))
}

fn affinity(number: usize, end: Instant) -> Result<()> {
    let online: Vec<_> = cpus::online()?.iter().collect();
    let life = || {
        while Instant::now() < end {
            let mut set = NixCpuSet::new();
            let first = fastrand::usize(..online.len());
            for &cpu in &online[first..fastrand::usize(first + 1..=online.len())] {
                set.set(cpu.index()).expect("the CPU fits a set");
            }
            // A CPU may have gone offline since.
            let _ = sched_setaffinity(Pid::from_raw(0), &set);
            compute(Duration::from_micros(fastrand::u64(1..100)));
            thread::sleep(Duration::from_micros(fastrand::u64(500..5_000)));
        }
    };
    crowd(number, end, life, || Ok(()))
}

/// Starts a process that does `life` and ends. For a process of one thread.
fn start(life: impl FnOnce()) -> Result<Pid> {
    // SAFETY: this process has one thread, so the child may do whatever its parent may.
    match unsafe { fork() }.context("cannot fork")? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            fastrand::seed(std::process::id().into());
            life();
            // SAFETY: ends the child without the exit handlers that are its parent's.
            unsafe { libc::_exit(0) }
        }
    }
}

fn forks(number: usize, end: Instant) -> Result<()> {
    // SAFETY: a new mapping that no one else knows of, large enough and aligned for the counter.
    let born: &AtomicUsize = unsafe {
        let page = NonZeroUsize::new(4096).expect("not 0");
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        mmap_anonymous(None, page, access, MapFlags::MAP_SHARED)?.cast().as_ref()
    };
    fn grow(born: &AtomicUsize, number: usize, end: Instant) -> Result<()> {
        let mut children = Vec::new();
        while children.len() < 2
            && Instant::now() < end
            && born.fetch_add(1, Ordering::Relaxed) < number
        {
            children.push(start(|| {
                if let Err(error) = grow(born, number, end) {
                    eprintln!("a storm: {error:#}");
                }
            })?);
        }
        while Instant::now() < end {
            compute(Duration::from_micros(fastrand::u64(1..100)));
            thread::sleep(Duration::from_millis(fastrand::u64(10..500)));
        }
        for child in children {
            waitpid(child, None)?;
        }
        Ok(())
    }
    grow(born, number, end)?;
    println!("{} processes were born", born.load(Ordering::Relaxed).min(number));
    Ok(())
}

fn deaths(number: usize, end: Instant, birthplace: Option<&CpuSet>) -> Result<()> {
    const MOST_DYING: usize = 500;
    process::become_real_time();
    let far = end + Duration::from_secs(3600);
    let everywhere = cpus::online()?;
    if let Some(cpus) = birthplace {
        process::bind(0, cpus)?;
    }
    let life = || {
        if birthplace.is_some() {
            process::bind(0, &everywhere).expect("binding to CPUs");
        }
        while Instant::now() < far {
            compute(Duration::from_micros(fastrand::u64(1..2_000)));
            thread::sleep(Duration::from_micros(fastrand::u64(1..500)));
        }
    };
    let mut alive = (0..number).map(|_| start(life)).collect::<Result<Vec<_>>>()?;
    let (mut killed, mut gone) = (0, 0);
    while Instant::now() < end {
        let victim = &mut alive[fastrand::usize(..number)];
        kill(*victim, Signal::SIGKILL)?;
        killed += 1;
        *victim = start(life)?;
        while waitpid(None, Some(WaitPidFlag::WNOHANG))? != WaitStatus::StillAlive {
            gone += 1;
        }
        // A task that was killed has to run once more to die.
        while killed - gone > MOST_DYING {
            waitpid(None, None)?;
            gone += 1;
        }
        thread::sleep(PAUSE);
    }
    for child in alive {
        kill(child, Signal::SIGKILL)?;
        killed += 1;
    }
    while gone < killed {
        waitpid(None, None)?;
        gone += 1;
    }
    println!("{killed} tasks were killed");
    Ok(())
}

fn classes(number: usize, end: Instant) -> Result<()> {
    let tids: Mutex<Vec<i32>> = Mutex::default();
    let life = || {
        tids.lock().expect("nobody panics").push(gettid().as_raw());
        restless(end);
    };
    crowd(number, end, life, || {
        const SCHED_EXT: libc::c_int = 7;
        const CLASSES: [libc::c_int; 6] = [
            libc::SCHED_OTHER,
            libc::SCHED_BATCH,
            libc::SCHED_IDLE,
            libc::SCHED_FIFO,
            libc::SCHED_RR,
            SCHED_EXT,
        ];
        while Instant::now() < end {
            let chosen = fastrand::choice(tids.lock().expect("nobody panics").iter()).copied();
            let Some(tid) = chosen else { continue };
            // The task may have ended.
            let _ = process::renice(tid, fastrand::i32(-20..20));
            let class = CLASSES[fastrand::usize(..CLASSES.len())];
            let is_real_time = class == libc::SCHED_FIFO || class == libc::SCHED_RR;
            let param = libc::sched_param { sched_priority: is_real_time.into() };
            // SAFETY: `param` lives through the call.
            unsafe { libc::sched_setscheduler(tid, class, &param) };
            thread::sleep(PAUSE);
        }
        Ok(())
    })
}

fn cgroups(number: usize, end: Instant) -> Result<()> {
    const ROOT: &str = "/sys/fs/cgroup";
    // Two groups of unlike weights, and two that use up their limits all the time.
    const SETTINGS: [(&str, &str); 4] = [
        ("cpu.weight", "25"),
        ("cpu.weight", "800"),
        ("cpu.max", "1000 100000"),
        ("cpu.max", "1000 50000"),
    ];
    fs::write(format!("{ROOT}/cgroup.subtree_control"), "+cpu")
        .context("cannot give cgroups the controller of CPU time")?;
    let mut groups = vec![ROOT.to_owned()];
    for (number, (file, value)) in SETTINGS.into_iter().enumerate() {
        let group = format!("{ROOT}/storm{number}");
        fs::create_dir_all(&group).with_context(|| format!("cannot make the cgroup {group}"))?;
        fs::write(format!("{group}/{file}"), value)
            .with_context(|| format!("cannot set {file} of {group}"))?;
        groups.push(group);
    }
    process::become_real_time();
    let herd = (0..number).map(|_| start(|| restless(end))).collect::<Result<Vec<_>>>()?;
    let mut moved = 0;
    while Instant::now() < end {
        let pid = herd[fastrand::usize(..number)];
        let group = &groups[fastrand::usize(..groups.len())];
        // The process may have ended.
        moved += usize::from(fs::write(format!("{group}/cgroup.procs"), pid.to_string()).is_ok());
        thread::sleep(PAUSE);
    }
    for pid in herd {
        waitpid(pid, None)?;
    }
    println!("{moved} moves");
    Ok(())
}

fn memory(mib: usize, end: Instant) -> Result<()> {
    // Of all processes, this one is to die if there is too little.
    fs::write("/proc/self/oom_score_adj", "1000").context("cannot offer to be killed")?;
    let length = NonZeroUsize::new(mib << 20).context("0 MiB")?;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping that no one else knows of, of this length.
    let memory: &mut [u8] = unsafe {
        let start = mmap_anonymous(None, length, access, MapFlags::MAP_PRIVATE)?;
        std::slice::from_raw_parts_mut(start.cast().as_ptr(), length.get())
    };
    let mut rounds = 0;
    while Instant::now() < end {
        for page in memory.chunks_mut(4096) {
            page[0] = page[0].wrapping_add(1);
            if Instant::now() > end {
                break;
            }
        }
        rounds += 1;
    }
    println!("wrote to {mib} MiB {rounds} times");
    Ok(())
}

fn real_time(cpus: &CpuSet, percent: usize, end: Instant) -> Result<()> {
    let period = Duration::from_millis(100);
    let busy = period * percent as u32 / 100;
    let hogs = cpus.iter().map(|cpu| {
        thread::spawn(move || -> Result<()> {
            process::bind(0, &CpuSet::from_iter([cpu]))?;
            let param = libc::sched_param { sched_priority: 10 };
            // SAFETY: `param` lives through the call, and 0 means the calling thread.
            let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &param) };
            nix::errno::Errno::result(done).context("cannot become a real-time task")?;
            while Instant::now() < end {
                compute(busy);
                thread::sleep(period - busy);
            }
            Ok(())
        })
    });
    for hog in hogs.collect::<Vec<_>>() {
        hog.join().expect("a hog does not panic")?;
    }
    Ok(())
}
