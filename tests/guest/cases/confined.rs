//! The scheduler's own processes are confined. Each domain is decided for all the same.

use crate::api::load;
use crate::api::scheduler::{PROGRAM, STATS, Scheduler};
use crate::machine::Machine;
use crate::role;
use crate::suite::tests;
use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;

tests! {
    a_pid_namespace_hides_no_domain_thread: 90 s on L3X2;
}

const LONG: Duration = Duration::from_secs(100);

/// In a namespace of process numbers BPF knows the domain threads: they decide.
pub fn a_pid_namespace_hides_no_domain_thread(_: &Machine) -> Result<()> {
    let mut command = role::command("pid-namespace");
    let scheduler = Scheduler::spawn(command.arg(PROGRAM).args(STATS))?;
    load::hackbench(4, 100, LONG)?;
    let stats = scheduler.await_stats(1)?;
    let (percent, activations) = (stats.percent_decided()?, stats.sum("activations")?);
    println!("{percent:.1} % decided, {activations} activations");
    ensure!(activations > 0, "no domain thread was seen to run");
    ensure!(percent >= 95.0, "user space decided {percent:.1} % of the tasks that had to wait");
    // Its first process is that of the namespace.
    kill(Pid::from_raw(scheduler.pids()[1]), Signal::SIGINT)?;
    scheduler.leaves()
}
