//! Row 3, and the end for want of memory: the scheduler's own memory is locked, so that nobody
//! waits for it.

use super::Scene;
use crate::api::process;
use crate::api::scheduler::{PROGRAM, STATS, Scheduler};
use crate::api::storm::{Kind, Storm};
use crate::api::wait_until;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

const SWAP: &str = "/dev/nvme0n1";
const CGROUP: &str = "/sys/fs/cgroup/scheduler";

/// Takes a tenth more memory than there is.
pub fn swap(scene: &mut Scene) -> Result<()> {
    let _swap = Swap::on()?;
    let total_mib = meminfo_kib("MemTotal")? >> 10;
    churn(scene, total_mib as usize * 11 / 10, |_| Ok(()))?;
    Ok(())
}

/// The scheduler in a cgroup of its own.
pub fn in_a_cgroup() -> Result<Scheduler> {
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory")
        .context("cannot give cgroups the controller of memory")?;
    fs::create_dir_all(CGROUP).context("cannot make a cgroup")?;
    fs::write(format!("{CGROUP}/memory.max"), "max").context("cannot lift a limit of memory")?;
    fs::write(format!("{CGROUP}/memory.oom.group"), "0").context("cannot part a cgroup's fates")?;
    let enter = format!("echo $$ >{CGROUP}/cgroup.procs && exec \"$@\"");
    Scheduler::spawn(Command::new("sh").args(["-c", &enter, "sh", PROGRAM]).args(STATS))
}

/// Fills the scheduler's cgroup up to its limit, with twice as much as is allowed.
pub fn fill_the_cgroup(scene: &mut Scene) -> Result<()> {
    const LIMIT_MIB: usize = 256;
    let _swap = Swap::on()?;
    if scene.scheduler.is_none() {
        fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory")?;
        fs::create_dir_all(CGROUP).context("cannot make a cgroup")?;
    }
    fs::write(format!("{CGROUP}/memory.max"), (LIMIT_MIB << 20).to_string())
        .context("cannot limit a cgroup's memory")?;
    churn(scene, 2 * LIMIT_MIB, |storm| {
        fs::write(format!("{CGROUP}/cgroup.procs"), storm.pid().to_string())
            .context("cannot move a process into a cgroup")
    })?;
    let events = fs::read_to_string(format!("{CGROUP}/memory.events"))?;
    println!("{}", events.trim().replace('\n', ", "));
    fs::write(format!("{CGROUP}/memory.max"), "max").context("cannot lift a limit of memory")
}

/// Writes to so much memory, from four processes, until some is swapped out and then for the
/// scene's time.
fn churn(scene: &mut Scene, mib: usize, begin: impl Fn(&Storm) -> Result<()>) -> Result<()> {
    const PROCESSES: usize = 4;
    const TO_FILL: Duration = Duration::from_secs(120);
    let time = scene.time + TO_FILL;
    let storms = (0..PROCESSES).map(|_| Storm::start(Kind::Memory, mib / PROCESSES, time));
    let storms = storms.collect::<Result<Vec<_>>>()?;
    storms.iter().try_for_each(begin)?;
    let swapped_kib = || anyhow::Ok(meminfo_kib("SwapTotal")? - meminfo_kib("SwapFree")?);
    wait_until("memory is swapped out", TO_FILL, || swapped_kib().is_ok_and(|kib| kib > 0))?;
    scene.begin();
    scene.pass();
    println!("{} MiB are in swap", swapped_kib()? >> 10);
    Ok(())
}

/// Lets another process of the scheduler's cgroup use up what both are allowed, without swap: all
/// of the cgroup is killed.
pub fn take_its_memory(scene: &mut Scene) -> Result<()> {
    const LIMIT_MIB: usize = 128;
    thread::sleep(scene.time / 2);
    if scene.scheduler.is_none() {
        return Ok(());
    }
    fs::write(format!("{CGROUP}/memory.oom.group"), "1").context("cannot bind a cgroup's fates")?;
    fs::write(format!("{CGROUP}/memory.max"), (LIMIT_MIB << 20).to_string())
        .context("cannot limit a cgroup's memory")?;
    let storm = Storm::start(Kind::Memory, 2 * LIMIT_MIB, Duration::from_secs(60))?;
    fs::write(format!("{CGROUP}/cgroup.procs"), storm.pid().to_string())
        .context("cannot move a process into a cgroup")?;
    wait_until("the cgroup is killed", Duration::from_secs(60), || {
        !process::programs().iter().any(|program| program.pid == storm.pid())
    })
}

/// The swap disk in use, until this is dropped.
struct Swap;

impl Swap {
    fn on() -> Result<Swap> {
        for command in ["mkswap", "swapon"] {
            let output = Command::new(command).arg(SWAP).output()?;
            ensure!(output.status.success(), "{command} {SWAP}: {output:?}");
        }
        Ok(Swap)
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let _ = Command::new("swapoff").arg(SWAP).status();
    }
}

fn meminfo_kib(field: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = line.with_context(|| format!("no {field}"))?.split_whitespace().next();
    Ok(number.context("an empty field")?.parse()?)
}
