//! CPUs that the kernel's own scheduler leaves alone (an isolated partition of a cpuset) are left
//! alone, and a machine with more possible CPUs than it has is no different from another.

use crate::api::load::{self, Hog};
use crate::api::policies::{TERRIBLE, Wish};
use crate::api::scheduler::{PATIENT, PROGRAM, STATS, Scheduler};
use crate::api::{cpus, process, wait_until};
use crate::cases::confined::has_domains;
use crate::machine::Machine;
use crate::suite::tests;
use anyhow::{Context, Result, ensure};
use scx_manyland::cpuset::CpuSet;
use scx_manyland::ids::CpuId;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

tests! {
    isolated_cpus_are_left_alone: 120 s on SPARE;
    a_partition_that_comes_and_goes_is_left_alone: 150 s on SPARE;
    tasks_bound_to_isolated_cpus_run: 90 s on SPARE;
    what_may_use_all_that_is_offered_may_run_anywhere: 90 s on SPARE;
}

const LONG: Duration = Duration::from_secs(60);

/// A cgroup with another one in it.
const GROUP: &str = "/sys/fs/cgroup/service";

/// A CPU that is isolated until this is dropped.
struct Isolated {
    cpu: CpuId,
    /// The other CPUs.
    others: CpuSet,
}

impl Isolated {
    const GROUP: &str = "/sys/fs/cgroup/isolated";

    /// Isolates the last CPU.
    fn make() -> Result<Isolated> {
        let online = cpus::online()?;
        let cpu = online.iter().last().context("no CPU")?;
        let write = |file: &str, text: &str| {
            fs::write(file, text).with_context(|| format!("cannot write {text} to {file}"))
        };
        write("/sys/fs/cgroup/cgroup.subtree_control", "+cpuset")?;
        fs::create_dir(Self::GROUP).context("cannot make a cgroup")?;
        let mut others = online;
        others.remove(cpu);
        let isolated = Isolated { cpu, others };
        let file = |name| format!("{}/{name}", Self::GROUP);
        write(&file("cpuset.cpus"), &cpu.to_string())?;
        write(&file("cpuset.cpus.partition"), "isolated")?;
        let state = fs::read_to_string(file("cpuset.cpus.partition"))?;
        ensure!(state.trim() == "isolated", "the partition is {state}");
        Ok(isolated)
    }

    /// Moves a task there.
    fn adopt(&self, hog: &Hog) -> Result<()> {
        fs::write(format!("{}/cgroup.procs", Self::GROUP), hog.pid().to_string())
            .context("cannot move a task into the partition")
    }
}

impl Drop for Isolated {
    fn drop(&mut self) {
        // Hogs that were killed may take a moment to leave.
        let gone = || fs::remove_dir(Self::GROUP).is_ok();
        wait_until("the partition is gone", LONG, gone).expect("removing a cgroup");
    }
}

/// A load that fills the other CPUs does not interrupt an isolated one, which is not counted as an
/// idle CPU. The domain threads keep away from it. The scheduler runs in a cgroup without files of
/// cpusets, as a service does, so nothing but the list of isolated CPUs tells.
pub fn isolated_cpus_are_left_alone(_: &Machine) -> Result<()> {
    let isolated = Isolated::make()?;
    let cpu = isolated.cpu;
    let line = format!(
        "mkdir -p {GROUP}/inner && echo 0 > {GROUP}/inner/cgroup.procs && exec {PROGRAM} {}",
        STATS.join(" ")
    );
    let scheduler = Scheduler::spawn(Command::new("sh").args(["-c", &line]))?;
    for thread in scheduler.domain_threads()? {
        let affinity = process::affinity(thread.tid)?;
        ensure!(!affinity.contains(cpu), "{} may run on {affinity}", thread.name);
    }
    let hogs = 2 * isolated.others.len();
    let _hogs = (0..hogs).map(|_| Hog::anywhere(LONG)).collect::<Result<Vec<_>>>()?;
    thread::sleep(Duration::from_secs(1));
    let (begin, before) = (Instant::now(), kicks(cpu)?);
    load::hackbench(1, 50, LONG)?;
    let stats = scheduler.await_stats(3)?;
    let (kicks, took) = (kicks(cpu)? - before, begin.elapsed().as_secs_f64());
    println!("CPU {cpu} was kicked {kicks} times in {took:.1} s");
    let full = |line: &serde_json::Value| {
        let domains = line["domains"].as_array();
        domains.is_some_and(|domains| domains.iter().all(|domain| domain["nr_idle"] == 0))
    };
    ensure!(stats.lines.iter().any(full), "an idle CPU was counted all the time");
    ensure!((kicks as f64) < 5.0 * took, "CPU {cpu} was kicked {kicks} times in {took:.1} s");
    scheduler.stop()
}

/// Made and dissolved while the scheduler is attached, a partition leaves the domains and comes back,
/// and user space decides on what is left.
pub fn a_partition_that_comes_and_goes_is_left_alone(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&PATIENT)?;
    let all = scheduler.domains()?;
    let isolated = Isolated::make()?;
    let mut rest = all.clone();
    rest.iter_mut().for_each(|cpus| cpus.remove(isolated.cpu));
    has_domains(&scheduler, &rest)?;
    let inside = Hog::anywhere(LONG)?;
    isolated.adopt(&inside)?;
    let before = inside.run_time()?;
    user_space_decides(&scheduler)?;
    ensure!(inside.run_time()? > before, "a task of the partition does not run");
    drop(inside);
    drop(isolated);
    has_domains(&scheduler, &all)?;
    user_space_decides(&scheduler)?;
    scheduler.stop()
}

/// User space decides for at least 95 % of the tasks of a load that find no idle CPU.
fn user_space_decides(scheduler: &Scheduler) -> Result<()> {
    let before = scheduler.await_stats(1)?.lines.len();
    load::hackbench(2, 100, LONG)?;
    let mut stats = scheduler.await_stats(1)?;
    stats.lines.drain(..before);
    let percent = stats.percent_decided()?;
    println!("{percent:.1} % decided");
    ensure!(percent >= 95.0, "user space decided {percent:.1} % of the tasks that had to wait");
    Ok(())
}

/// How often other CPUs have made a CPU look for work.
fn kicks(cpu: CpuId) -> Result<u64> {
    let text = fs::read_to_string("/proc/interrupts").context("cannot read /proc/interrupts")?;
    let name = format!("CPU{cpu}");
    let mut lines = text.lines();
    let head = lines.next().context("an empty /proc/interrupts")?;
    let column = head.split_whitespace().position(|word| word == name).context("no such CPU")?;
    let line = lines.find(|line| line.trim_start().starts_with("RES:")).context("no RES")?;
    Ok(line.split_whitespace().nth(column + 1).context("no count")?.parse()?)
}

/// Tasks that are bound to an isolated CPU share it.
pub fn tasks_bound_to_isolated_cpus_run(_: &Machine) -> Result<()> {
    const TIME: Duration = Duration::from_secs(4);
    let isolated = Isolated::make()?;
    let cpu = isolated.cpu;
    let scheduler = Scheduler::start(&[])?;
    let hogs = [Hog::anywhere(LONG)?, Hog::anywhere(LONG)?];
    hogs.iter().try_for_each(|hog| isolated.adopt(hog))?;
    thread::sleep(TIME);
    for hog in hogs {
        let ran = hog.run_time()?;
        ensure!(ran > TIME / 5, "one of two hogs on CPU {cpu} ran for {ran:?} of {TIME:?}");
        ensure!(process::processor(hog.pid())? == cpu, "a hog is not on CPU {cpu}");
        hog.stop()?;
    }
    scheduler.stop()
}

/// A task bound to all CPUs that are offered to tasks, as in a container, may go to any domain,
/// although there are further possible CPUs.
pub fn what_may_use_all_that_is_offered_may_run_anywhere(_: &Machine) -> Result<()> {
    let isolated = Isolated::make()?;
    let others = isolated.others;
    let possible = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    ensure!(cpus::parse_list(&possible)?.len() > cpus::online()?.len(), "possible: {possible}");
    let mut scheduler = Wish::PanicAnywhere.start(&[])?;
    // The hogs are bound from their first moment on.
    let bound = |cpus: &CpuSet| {
        process::bind(0, cpus)?;
        (0..2 * others.len()).map(|_| Hog::named(TERRIBLE, cpus, LONG)).collect::<Result<Vec<_>>>()
    };
    let mut part = others;
    part.remove(others.first().context("no CPU")?);
    let in_part = bound(&part)?;
    thread::sleep(Duration::from_secs(2));
    ensure!(!scheduler.has_ended()?, "a task bound to {part} may run anywhere");
    drop(in_part);
    let _anywhere = bound(&others)?;
    wait_until("a task that may run anywhere is seen", LONG, || {
        scheduler.has_ended().unwrap_or(true)
    })?;
    ensure!(scheduler.said().contains(TERRIBLE), "it said: {}", scheduler.said());
    Ok(())
}
