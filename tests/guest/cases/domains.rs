//! The domains and their threads.

use crate::api::scheduler::{self, STATS, Scheduler};
use crate::api::{cpus, load, process};
use crate::machine::Machine;
use crate::suite::tests;
use anyhow::{Context, Result, ensure};
use scx_manyland::cpuset::CpuSet;
use scx_manyland::ids::CpuId;
use serde_json::Value;
use std::time::Duration;

tests! {
    each_l3_has_its_thread: 60 s on L3X1 L3X2 L3X4;
    each_granularity_has_its_threads: 240 s on L3X4, 900 s on LARGE;
}

/// There is one thread for each L3, which runs on its CPUs, and the memory is locked.
pub fn each_l3_has_its_thread(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&STATS)?;
    let (domains, threads) = (scheduler.domains()?, scheduler.domain_threads()?);
    ensure!(domains == cpus::l3s()?, "the domains are {domains:?}, the L3s {:?}", cpus::l3s()?);
    ensure!(threads.len() == domains.len(), "the domain threads are {threads:?}");
    load::hackbench(1, 50, Duration::from_secs(30))?;
    let stats = scheduler.await_stats(1)?;
    let (all, away) = (stats.sum("activations")?, stats.sum("away")?);
    println!("{all} activations, {away} of them away");
    ensure!(all > 0 && 20 * away < all, "{away} of {all} activations were away from home");
    let locked_kib = process::status_kib(scheduler.pid(), "VmLck")?;
    let resident_kib = process::status_kib(scheduler.pid(), "VmRSS")?;
    println!("{locked_kib} KiB locked, {resident_kib} KiB resident");
    ensure!(locked_kib > 0, "no memory is locked");
    scheduler.stop()
}

/// Each granularity attaches, with the domains that `topology` tells of, and schedules a load.
pub fn each_granularity_has_its_threads(machine: &Machine) -> Result<()> {
    // On the small machine the others have the domains of "l3".
    let granularities = match machine.on_demand {
        true => &["machine", "package", "numa", "l3", "l2", "kind", "core"][..],
        false => &["machine", "numa", "l2", "core"],
    };
    for &granularity in granularities {
        let domains = domains(granularity)?;
        let scheduler = Scheduler::start(&["--domain", granularity])?;
        let said = scheduler.domains()?;
        ensure!(said == domains, "{granularity}: it has {said:?}, the domains are {domains:?}");
        let threads = scheduler.domain_threads()?;
        ensure!(threads.len() == domains.len(), "{granularity}: the threads are {threads:?}");
        load::hackbench(1, 50, Duration::from_secs(120))?;
        scheduler.stop()?;
        let expected = match granularity {
            "machine" => 1,
            "numa" => machine.nodes,
            "package" | "l3" | "kind" => machine.sockets,
            // QEMU gives each thread an L2 of its own.
            "l2" => machine.sockets * machine.cores * machine.threads,
            _ => machine.sockets * machine.cores,
        };
        ensure!(domains.len() == expected as usize, "{granularity}: {domains:?}");
    }
    Ok(())
}

/// The CPUs of each domain, as `scx_manyland topology` tells.
fn domains(granularity: &str) -> Result<Vec<CpuSet>> {
    let run = scheduler::run(&["topology", "--domain", granularity, "--format", "json"])?;
    ensure!(run.code == Some(0), "topology failed: {run:?}");
    let topology: Value =
        serde_json::from_str(&run.stdout).with_context(|| format!("not JSON: {:?}", run.stdout))?;
    let cpus_of = |domain: &Value| -> Option<CpuSet> {
        domain["cpus"].as_array()?.iter().map(|cpu| Some(CpuId(cpu.as_u64()? as u32))).collect()
    };
    let domains = topology["domains"].as_array().context("no domains")?;
    domains
        .iter()
        .map(|domain| cpus_of(domain).with_context(|| format!("no CPUs in {domain}")))
        .collect()
}
