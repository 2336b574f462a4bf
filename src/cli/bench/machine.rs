//! The machine and the versions that a benchmark ran on, for the head of its results.

use super::contender::Contender;
use anyhow::{Context, Result};
use scx_manyland::topology::Topology;
use scx_manyland::topology::power::{self, supply};
use serde::Serialize;
use std::fs;
use std::path::Path;

/// The machine, the kernel and the versions.
#[derive(Clone, Debug, Serialize)]
pub struct Head {
    /// The processor, by its own name.
    pub processor: String,
    pub cpus: usize,
    pub packages: usize,
    pub l3_caches: usize,
    /// The CPUs of each kind of core, the fastest first.
    pub kinds: Vec<String>,
    pub memory_mib: u64,
    /// Times in a virtual machine depend on what else its host does.
    pub virtual_machine: bool,
    /// The governor of the first CPU's clock, if it has one.
    pub governor: Option<String>,
    /// Mains power or battery.
    pub supply: String,
    pub kernel: String,
    pub version: &'static str,
    /// The versions of the other schedulers, as they print them.
    pub peers: Vec<String>,
}

impl Head {
    /// # Errors
    /// If the kernel refuses its name.
    pub fn new(machine: &Topology, contenders: &[Contender]) -> Result<Self> {
        let kernel = nix::sys::utsname::uname().context("cannot ask the kernel for its name")?;
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let governor = fs::read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        Ok(Self {
            processor: field(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            cpus: machine.cpus().len(),
            packages: machine.packages().len(),
            l3_caches: machine.l3_caches().len(),
            kinds: machine.kinds().iter().map(|kind| kind.cpus.to_string()).collect(),
            memory_mib: memory_mib(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
            virtual_machine: field(&cpuinfo, "flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            governor: governor.ok().map(|governor| governor.trim().to_owned()),
            supply: supply(Path::new(power::SUPPLIES)).to_string(),
            kernel: format!(
                "{} {}",
                kernel.release().to_string_lossy(),
                kernel.version().to_string_lossy()
            ),
            version: env!("CARGO_PKG_VERSION"),
            peers: contenders.iter().filter_map(Contender::version).collect(),
        })
    }

    /// The head as lines, each with a title and a text.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let count = |number: usize, what: &str| match number {
            1 => format!("1 {what}"),
            _ => format!("{number} {what}s"),
        };
        let mut machine = vec![
            self.processor.clone(),
            count(self.cpus, "CPU"),
            count(self.packages, "package"),
            count(self.l3_caches, "L3 cache"),
            format!("{} MiB", self.memory_mib),
        ];
        if self.virtual_machine {
            machine.push("virtual".to_owned());
        }
        let mut power = vec![self.supply.clone()];
        power.extend(self.governor.iter().map(|governor| format!("governor {governor}")));
        let mut versions = vec![format!("scx_manyland {}", self.version)];
        versions.extend(self.peers.iter().cloned());
        let mut lines = vec![("machine", machine.join(", "))];
        if self.kinds.len() > 1 {
            lines.push(("kinds of core", format!("CPUs {}", self.kinds.join("; then "))));
        }
        lines.push(("power", power.join(", ")));
        lines.push(("kernel", self.kernel.clone()));
        lines.push(("versions", versions.join(", ")));
        lines
    }
}

/// The first value of a field in a file of lines `NAME : VALUE`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == name).then(|| value.trim())
    })
}

fn memory_mib(meminfo: &str) -> u64 {
    let kib =
        field(meminfo, "MemTotal").and_then(|value| value.split(' ').next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;
    use scx_manyland::topology::Source;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let cpuinfo = "processor\t: 0\nmodel\t\t: 1\nmodel name\t: Some CPU @ 3 GHz: fast\nflags\t\t: fpu hypervisor sse\n";
        assert_eq!(field(cpuinfo, "model name"), Some("Some CPU @ 3 GHz: fast"));
        assert_eq!(field(cpuinfo, "name"), None);
        assert_eq!(memory_mib("MemFree: 1 kB\nMemTotal:       2097152 kB\n"), 2048);
        assert_eq!(memory_mib(""), 0);
    }

    #[test]
    fn this_machine_has_a_head() {
        let machine = Topology::load(&Source::Live).unwrap();
        let head = Head::new(&machine, &[Contender::kernel()]).unwrap();
        assert!(head.cpus > 0 && head.memory_mib > 0);
        let lines = head.lines();
        assert!(
            lines.iter().any(|(title, text)| *title == "kernel" && text.contains(&head.kernel))
        );
    }
}
