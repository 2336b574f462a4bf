//! Where processes may be: namespaces of process numbers.

use anyhow::{Context, Result};
use clap::Args;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

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
