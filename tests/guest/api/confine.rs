//! Where processes may be: cgroups with a set of CPUs, and namespaces of process numbers.

use super::sched_ext;
use crate::role;
use anyhow::{Context, Result};
use clap::Args;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use scx_manyland::cpuset::CpuSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

const ROOT: &str = "/sys/fs/cgroup";

/// A cgroup whose tasks may use some CPUs. When it is dropped they may use all again.
pub struct Cpuset {
    path: PathBuf,
}

impl Cpuset {
    pub fn new(name: &str, cpus: &CpuSet) -> Result<Cpuset> {
        write(&Path::new(ROOT).join("cgroup.subtree_control"), "+cpuset")?;
        let path = Path::new(ROOT).join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let set = Cpuset { path };
        set.allow(cpus)?;
        Ok(set)
    }

    /// Its tasks may use other CPUs from now on.
    pub fn allow(&self, cpus: &CpuSet) -> Result<()> {
        write(&self.path.join("cpuset.cpus"), &cpus.to_string())
    }

    /// Makes it a partition: tasks outside may no longer use its CPUs.
    pub fn part(&self, kind: &str) -> Result<()> {
        write(&self.path.join("cpuset.cpus.partition"), kind)
    }

    /// A process that removes it a while after the kernel has begun to attach a scheduler.
    pub fn remover(&self, after: Duration) -> Result<Child> {
        let after = after.as_millis().to_string();
        let mut command = role::command("remover");
        command.arg(&self.path).arg(after).spawn().context("cannot start a remover")
    }

    /// Takes a process in, with all its threads.
    pub fn take_in(&self, pid: i32) -> Result<()> {
        write(&self.path.join("cgroup.procs"), &pid.to_string())
    }

    /// The command that starts a program inside.
    pub fn command(&self, program: &str) -> Command {
        let enter = format!("echo $$ >{}/cgroup.procs && exec \"$@\"", self.path.display());
        let mut command = Command::new("sh");
        command.args(["-c", &enter, "sh", program]);
        command
    }
}

impl Drop for Cpuset {
    fn drop(&mut self) {
        let inside = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        for pid in inside.lines() {
            let _ = fs::write(Path::new(ROOT).join("cgroup.procs"), pid);
        }
        let _ = fs::remove_dir(&self.path);
    }
}

/// A cgroup, and when it is to be removed.
#[derive(Args)]
pub struct RemoverArgs {
    folder: PathBuf,
    after_ms: u64,
}

impl RemoverArgs {
    /// Waits for a minute at most for a scheduler to attach.
    pub fn run(self) -> Result<()> {
        const LIMIT: Duration = Duration::from_secs(60);
        sched_ext::watch(|state| state == "enabling", LIMIT);
        thread::sleep(Duration::from_millis(self.after_ms));
        fs::remove_dir(&self.folder)
            .with_context(|| format!("cannot remove {}", self.folder.display()))
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {text:?} to {}", path.display()))
}

/// A command line that runs as the first process of a namespace of its own.
#[derive(Args)]
pub struct PidNamespaceArgs {
    #[arg(trailing_var_arg = true, required = true)]
    line: Vec<OsString>,
}

impl PidNamespaceArgs {
    /// Runs it to its end, and ends as it does.
    pub fn run(self) -> Result<()> {
        unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS)
            .context("cannot make a namespace")?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
            .context("cannot part the mounts")?;
        let mut command = Command::new(&self.line[0]);
        command.args(&self.line[1..]);
        let mount_proc = || {
            mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>)?;
            Ok(())
        };
        // SAFETY: this process has one thread, so its child may do all that it may.
        unsafe { command.pre_exec(mount_proc) };
        let status = command.status().with_context(|| format!("cannot start {:?}", self.line))?;
        std::process::exit(status.code().unwrap_or(1))
    }
}
