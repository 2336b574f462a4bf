//! Cgroups with the CPU controller.

use super::load::{Hackbench, Hog};
use super::wait_until;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

const ROOT: &str = "/sys/fs/cgroup";

/// A cgroup. When it is dropped its processes are killed, and it is removed.
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// A new cgroup below the root.
    pub fn new(name: &str) -> Result<Cgroup> {
        Self::below(Path::new(ROOT), name)
    }

    /// A new cgroup in this one.
    pub fn child(&self, name: &str) -> Result<Cgroup> {
        Self::below(&self.path, name)
    }

    fn below(parent: &Path, name: &str) -> Result<Cgroup> {
        let control = parent.join("cgroup.subtree_control");
        fs::write(&control, "+cpu")
            .with_context(|| format!("cannot write {}", control.display()))?;
        let path = parent.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Cgroup { path })
    }

    /// Writes one of its files.
    pub fn set(&self, file: &str, value: &str) -> Result<()> {
        let path = self.path.join(file);
        fs::write(&path, value)
            .with_context(|| format!("cannot write {value:?} to {}", path.display()))
    }

    /// Reads one of its files.
    pub fn read(&self, file: &str) -> Result<String> {
        let path = self.path.join(file);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Takes a process in, with all its threads.
    pub fn take_in(&self, pid: i32) -> Result<()> {
        self.set("cgroup.procs", &pid.to_string())
    }

    /// Takes in this thread alone, if the cgroup is a threaded one below that of its process.
    pub fn take_in_this_thread(&self) -> Result<()> {
        self.set("cgroup.threads", &nix::unistd::gettid().to_string())
    }

    /// Lets a process go back to the root.
    pub fn leave(pid: i32) -> Result<()> {
        let path = Path::new(ROOT).join("cgroup.procs");
        fs::write(path, pid.to_string()).with_context(|| format!("{pid} cannot go to the root"))
    }

    /// Hogs that may run anywhere, in this cgroup.
    pub fn hogs(&self, count: usize, limit: Duration) -> Result<Vec<Hog>> {
        let hogs: Vec<Hog> = (0..count).map(|_| Hog::anywhere(limit)).collect::<Result<_>>()?;
        hogs.iter().try_for_each(|hog| self.take_in(hog.pid()))?;
        Ok(hogs)
    }

    /// hackbench, in this cgroup from the beginning.
    pub fn hackbench(&self, groups: u32, limit: Duration) -> Result<Hackbench> {
        Hackbench::start_in(&self.path, groups, limit)
    }

    /// The CPU time of all that has run in it and below.
    pub fn run_time(&self) -> Result<Duration> {
        let path = self.path.join("cpu.stat");
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let usec = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
        let usec = usec.and_then(|usec| usec.parse().ok());
        Ok(Duration::from_micros(usec.with_context(|| format!("no usage in {text:?}"))?))
    }

    /// Kills all that is in it and below.
    pub fn kill(&self) -> Result<()> {
        self.set("cgroup.kill", "1")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = self.kill();
        let is_gone = || {
            remove_with_children(&self.path);
            !self.path.exists()
        };
        let _ = wait_until("a cgroup is empty", Duration::from_secs(10), is_gone);
    }
}

/// Removes a cgroup and those below, of which each must be empty.
fn remove_with_children(path: &Path) {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_with_children(&entry.path());
    }
    let _ = fs::remove_dir(path);
}

/// The CPU time of hogs over some time, for each list of hogs in percent of one CPU.
pub fn shares(groups: &[&[Hog]], time: Duration) -> Result<Vec<f64>> {
    let used = || -> Result<Vec<Duration>> {
        let of = |hogs: &&[Hog]| hogs.iter().map(Hog::run_time).sum::<Result<Duration>>();
        groups.iter().map(of).collect()
    };
    let (before, start) = (used()?, Instant::now());
    thread::sleep(time);
    let (after, elapsed) = (used()?, start.elapsed());
    let percent = |(after, before): (&Duration, &Duration)| {
        100.0 * (*after - *before).as_secs_f64() / elapsed.as_secs_f64()
    };
    Ok(after.iter().zip(&before).map(percent).collect())
}
