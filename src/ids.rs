//! The names of things the kernel numbers: a CPU, a domain, a task, a cgroup.
//!
//! Invariant: a [`CpuId`] is always the operating system's number of a CPU, never an index into a
//! domain; a [`DomainId`] is always an index into the list of domains that is in force.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The operating system's number of a logical CPU (`cpuN` in `/sys/devices/system/cpu`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct CpuId(pub u32);

/// The number of a domain: its index in the list of domains, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct DomainId(pub u32);

/// The kernel's number of a cgroup in the unified hierarchy (version 2): the inode number of its
/// directory under `/sys/fs/cgroup`, which `stat -c %i` prints. 0 on a kernel without cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CgroupId(pub u64);

/// The kernel's number of a task (a thread, `gettid(2)`), in the initial pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Pid(pub i32);

impl CpuId {
    /// The number as an index into per-CPU arrays.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl DomainId {
    /// The number as an index into per-domain arrays.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for DomainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for CgroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
