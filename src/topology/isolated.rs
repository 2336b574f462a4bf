//! The CPUs that the kernel keeps from its own scheduler by an isolated partition of cpusets. Only
//! tasks of that partition run there, and it belongs to no domain.
//!
//! With `isolcpus=` on its command line the kernel refuses all sched_ext schedulers. A CPU of
//! `nohz_full=` alone is an ordinary one: the kernel's own scheduler runs all tasks there too.

use crate::cpuset::CpuSet;
use std::fs;

/// The files that list them. The first names those of partitions since Linux 7.0 only.
const LISTS: [&str; 2] =
    ["/sys/devices/system/cpu/isolated", "/sys/fs/cgroup/cpuset.cpus.isolated"];

/// The isolated CPUs of this machine; none if the kernel does not say.
pub fn isolated_cpus() -> CpuSet {
    let lists = LISTS.iter().filter_map(|file| fs::read_to_string(file).ok());
    lists
        .filter_map(|list| CpuSet::from_list(&list))
        .fold(CpuSet::EMPTY, |all, cpus| all.union(&cpus))
}
