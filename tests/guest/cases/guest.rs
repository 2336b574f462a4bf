//! The guest is what the other tests take it for.

use crate::api::{cpus, load, sched_ext};
use crate::machine::Machine;
use crate::suite::tests;
use anyhow::{Result, ensure};
use std::time::Duration;

tests! {
    has_the_asked_topology: 20 s on L3X1 L3X2 L3X4, 60 s on LARGE;
    kernel_has_sched_ext: 20 s on L3X2 ANY_KERNEL;
    runs_hackbench: 40 s on L3X2;
}

pub fn has_the_asked_topology(machine: &Machine) -> Result<()> {
    ensure!(cpus::online()?.len() == machine.cpus() as usize);
    ensure!(cpus::l3s()?.len() == machine.sockets as usize, "L3s: {:?}", cpus::l3s()?);
    ensure!(
        cpus::cores()?.len() == (machine.sockets * machine.cores) as usize,
        "cores: {:?}",
        cpus::cores()?
    );
    ensure!(cpus::nodes()? == machine.nodes as usize);
    Ok(())
}

pub fn kernel_has_sched_ext(_: &Machine) -> Result<()> {
    ensure!(sched_ext::state() == "disabled", "state {:?}", sched_ext::state());
    ensure!(std::path::Path::new("/sys/kernel/btf/vmlinux").exists(), "the kernel has no BTF");
    Ok(())
}

pub fn runs_hackbench(_: &Machine) -> Result<()> {
    let time = load::hackbench(1, 50, Duration::from_secs(30))?;
    println!("hackbench took {} ms", time.as_millis());
    Ok(())
}
