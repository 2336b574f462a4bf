//! The CPUs that the kernel keeps from its own scheduler by an isolated partition of cpusets. Only
//! tasks of that partition run there, and it belongs to no domain.
//!
//! With `isolcpus=` on its command line the kernel refuses all sched_ext schedulers. A CPU of
//! `nohz_full=` alone is an ordinary one: the kernel's own scheduler runs all tasks there too.
//!
//! Invariant: reading again opens nothing and allocates nothing, so an attached scheduler may do it.

use crate::cpuset::CpuSet;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// The files that list them. The first names those of partitions since Linux 7.0 only.
const LISTS: [&str; 2] =
    ["/sys/devices/system/cpu/isolated", "/sys/fs/cgroup/cpuset.cpus.isolated"];

/// The longest list of CPUs, in bytes.
const LIST_BYTES: usize = 4096;

/// The isolated CPUs of this machine.
pub struct IsolatedCpus {
    lists: Vec<File>,
}

impl IsolatedCpus {
    /// Opens the kernel's lists, as far as it has them.
    pub fn open() -> IsolatedCpus {
        Self::of(&LISTS)
    }

    fn of(lists: &[&str]) -> IsolatedCpus {
        IsolatedCpus { lists: lists.iter().filter_map(|list| File::open(list).ok()).collect() }
    }

    /// The CPUs that are isolated at this moment; none if the kernel does not say.
    pub fn read(&self) -> CpuSet {
        let lists = self.lists.iter().filter_map(|list| {
            let mut bytes = [0; LIST_BYTES];
            let length = list.read_at(&mut bytes, 0).ok()?;
            CpuSet::from_list(std::str::from_utf8(&bytes[..length]).ok()?)
        });
        lists.fold(CpuSet::EMPTY, |all, cpus| all.union(&cpus))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn lists_are_read_anew() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["of-boot", "of-partitions"].map(|name| folder.path().join(name));
        let [of_boot, of_partitions] = paths.each_ref();
        fs::write(of_boot, "\n").unwrap();
        fs::write(of_partitions, "2-3\n").unwrap();
        let names = paths.each_ref().map(|path| path.to_str().unwrap());
        let isolated = IsolatedCpus::of(&names);
        assert_eq!(isolated.read().to_string(), "2-3");
        fs::write(of_boot, "7\n").unwrap();
        fs::write(of_partitions, "\n").unwrap();
        assert_eq!(isolated.read().to_string(), "7");
        assert!(IsolatedCpus::of(&["/there/is/no/list"]).read().is_empty());
    }
}
