//! The guest's CPUs as the kernel shows them, read without the code under test.

use anyhow::{Context, Result};
use scx_manyland::cpuset::CpuSet;
use scx_manyland::ids::CpuId;
use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

/// The CPUs of each L3, in ascending order.
pub fn l3s() -> Result<Vec<CpuSet>> {
    groups("cache/index3/shared_cpu_list")
}

/// The last CPU of each L3, which `--dedicate` gives to a domain thread.
pub fn dedicated() -> Result<CpuSet> {
    Ok(l3s()?.iter().filter_map(|l3| l3.iter().last()).collect())
}

/// The CPUs of each core, in ascending order.
pub fn cores() -> Result<Vec<CpuSet>> {
    groups("topology/thread_siblings_list")
}

/// The online CPUs.
pub fn online() -> Result<CpuSet> {
    parse_list(&read("/sys/devices/system/cpu/online")?)
}

/// The online NUMA nodes.
pub fn nodes() -> Result<usize> {
    Ok(parse_list(&read("/sys/devices/system/node/online")?)?.len())
}

/// A CPU that is offline until this is dropped.
pub struct Offline(CpuId);

impl Offline {
    /// Takes a CPU offline.
    pub fn take(cpu: CpuId) -> Result<Offline> {
        set_online(cpu, false)?;
        Ok(Offline(cpu))
    }
}

impl Drop for Offline {
    fn drop(&mut self) {
        set_online(self.0, true).expect("bringing a CPU back online");
    }
}

fn set_online(cpu: CpuId, online: bool) -> Result<()> {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/online");
    fs::write(&path, if online { "1" } else { "0" }).with_context(|| format!("cannot write {path}"))
}

/// The distinct groups that the online CPUs say they belong to.
fn groups(file: &str) -> Result<Vec<CpuSet>> {
    let mut distinct = BTreeSet::new();
    let online = online()?;
    for cpu in online.iter() {
        let group = parse_list(&read(&format!("/sys/devices/system/cpu/cpu{cpu}/{file}"))?)?;
        // The kernel may go on listing a CPU that has gone offline.
        distinct.insert(group.intersection(&online));
    }
    let mut groups: Vec<CpuSet> = distinct.into_iter().collect();
    groups.sort_by_key(|group| group.first());
    Ok(groups)
}

/// A set from the kernel's list format: `0-3,8`.
pub fn parse_list(list: &str) -> Result<CpuSet> {
    let mut set = CpuSet::EMPTY;
    for range in list.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| {
            text.parse::<u32>().with_context(|| format!("not a list of CPUs: {list:?}"))
        };
        for cpu in number(first)?..=number(last)? {
            set.insert(CpuId(cpu));
        }
    }
    Ok(set)
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

/// How long a CPU has had nothing to do since boot.
pub fn idle_time(cpu: CpuId) -> Result<Duration> {
    /// USER_HZ: what `/proc/stat` counts in.
    const TICKS_PER_SECOND: u64 = 100;
    let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let name = format!("cpu{cpu}");
    let line = stat.lines().find(|line| line.split(' ').next() == Some(&name));
    let fields = line.with_context(|| format!("/proc/stat has no {name}"))?.split(' ');
    let ticks: Vec<u64> = fields.skip(4).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(Duration::from_millis(ticks.iter().sum::<u64>() * 1000 / TICKS_PER_SECOND))
}
