//! What the machine and its kernel are, as far as it counts for scheduling.

use super::{Report, read};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

/// The options of the kernel's configuration that count: these, and all that begin with one that
/// ends in `*`.
const CONFIGURATION: [&str; 32] = [
    "SCHED_CLASS_EXT",
    "EXT_GROUP_SCHED",
    "SCHED_CORE",
    "SCHED_SMT",
    "SCHED_MC*",
    "SCHED_CLUSTER",
    "SCHED_AUTOGROUP",
    "SCHED_DEBUG",
    "SCHEDSTATS",
    "UCLAMP*",
    "FAIR_GROUP_SCHED",
    "CFS_BANDWIDTH",
    "RT_GROUP_SCHED",
    "CGROUPS",
    "CGROUP_SCHED",
    "CGROUP_BPF",
    "GROUP_SCHED_*",
    "CPUSETS",
    "BPF*",
    "DEBUG_INFO_BTF*",
    "DEBUG_INFO_REDUCED",
    "PREEMPT*",
    "HZ*",
    "NO_HZ*",
    "HIGH_RES_TIMERS",
    "RCU_*",
    "NUMA*",
    "CPU_FREQ_DEFAULT_GOV_*",
    "CPU_FREQ_GOV_SCHEDUTIL",
    "CPU_ISOLATION",
    "PARAVIRT*",
    "SECURITY_LOCKDOWN_LSM*",
];

/// The kernel's parameters that count. Others may name the machine, its disks or its network.
const PARAMETERS: [&str; 24] = [
    "isolcpus",
    "nohz",
    "nohz_full",
    "rcu_nocbs",
    "rcu_nocb_poll",
    "irqaffinity",
    "nosmt",
    "maxcpus",
    "nr_cpus",
    "possible_cpus",
    "preempt",
    "threadirqs",
    "skew_tick",
    "highres",
    "clocksource",
    "tsc",
    "mitigations",
    "lockdown",
    "cgroup_disable",
    "cgroup_no_v1",
    "numa",
    "numa_balancing",
    "idle",
    "kernel.sched_*",
];

/// The name of the system.
pub fn system() -> Result<String> {
    let text = read("/etc/os-release")?;
    let line = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    Ok(line.context("/etc/os-release has no PRETTY_NAME")?.trim_matches('"').to_owned())
}

/// The processors and the memory.
pub fn describe(report: &mut Report) {
    report.part("machine");
    let info = read("/proc/cpuinfo");
    report.lines("processors", info.as_deref().map(models).map_err(super::copied));
    let is_guest = info.as_deref().map(|text| match text.contains(" hypervisor") {
        true => "yes",
        false => "no",
    });
    report.line("virtual", is_guest.map_err(super::copied));
    for (name, file) in [
        ("CPUs online", "online"),
        ("CPUs possible", "possible"),
        ("CPUs isolated", "isolated"),
        ("CPUs nohz_full", "nohz_full"),
        ("SMT", "smt/active"),
        ("cpufreq driver", "cpu0/cpufreq/scaling_driver"),
        ("cpufreq governor", "cpu0/cpufreq/scaling_governor"),
    ] {
        report.line(name, read(&format!("/sys/devices/system/cpu/{file}")).map(or_none));
    }
    report.line("NUMA nodes", read("/sys/devices/system/node/online"));
    let clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    report.line("clock", read(clock));
    let total = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        Ok(line.context("/proc/meminfo has no MemTotal")?.trim().to_owned())
    });
    report.line("memory", total);
}

/// The names of the processors, each with how many there are.
fn models(info: &str) -> Vec<String> {
    let mut models = BTreeMap::new();
    for line in info.lines().filter(|line| line.starts_with("model name")) {
        let name = line.split_once(':').map_or("", |(_, name)| name.trim());
        *models.entry(name).or_insert(0) += 1;
    }
    models.into_iter().map(|(name, count)| format!("{count} x {name}")).collect()
}

fn or_none(text: String) -> String {
    if text.is_empty() { "none".to_owned() } else { text }
}

/// The state of sched_ext, and what it has counted.
pub fn describe_sched_ext(report: &mut Report) {
    report.part("sched_ext");
    for file in ["state", "root/ops", "switch_all", "enable_seq", "hotplug_seq", "nr_rejected"] {
        report.line(file, read(&format!("/sys/kernel/sched_ext/{file}")));
    }
    let events = read("/sys/kernel/sched_ext/root/events");
    report.lines("events", events.map(|text| text.lines().map(str::to_owned).collect()));
}

/// How the kernel was built and started, and how it is set.
pub fn describe_kernel(report: &mut Report) {
    report.part("kernel");
    report.line("parameters", read("/proc/cmdline").map(|line| or_none(parameters(&line))));
    for (name, path) in [
        ("lockdown", "/sys/kernel/security/lockdown"),
        ("security modules", "/sys/kernel/security/lsm"),
        ("preemption", "/sys/kernel/debug/sched/preempt"),
        ("real-time kernel", "/sys/kernel/realtime"),
        ("cgroup controllers", "/sys/fs/cgroup/cgroup.controllers"),
        ("cgroup controllers in use", "/sys/fs/cgroup/cgroup.subtree_control"),
        ("sched_rt_runtime_us", "/proc/sys/kernel/sched_rt_runtime_us"),
        ("unprivileged_bpf_disabled", "/proc/sys/kernel/unprivileged_bpf_disabled"),
        ("bpf_jit_enable", "/proc/sys/net/core/bpf_jit_enable"),
        ("bpf_stats_enabled", "/proc/sys/kernel/bpf_stats_enabled"),
        ("numa_balancing", "/proc/sys/kernel/numa_balancing"),
        ("tainted", "/proc/sys/kernel/tainted"),
    ] {
        report.line(name, read(path).map(or_none));
    }
    report.lines("configuration", configuration().map(|text| chosen(&text)));
}

/// Those of the kernel's parameters that count.
fn parameters(line: &str) -> String {
    let counts = |word: &&str| {
        let name = word.split('=').next().unwrap_or(word);
        PARAMETERS.iter().any(|listed| is_listed(name, listed))
    };
    line.split_whitespace().filter(counts).collect::<Vec<_>>().join(" ")
}

/// The kernel's configuration, from where the kernel or its package has it.
fn configuration() -> Result<String> {
    const OWN: &str = "/proc/config.gz";
    if fs::exists(OWN).unwrap_or(false) {
        let output = Command::new("gzip").args(["-cd", OWN]).output();
        let output = output.with_context(|| format!("cannot start gzip to read {OWN}"))?;
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let release = read("/proc/sys/kernel/osrelease")?;
    let modules =
        [format!("/lib/modules/{release}/config"), format!("/lib/modules/{release}/build/.config")];
    let files = [format!("/boot/config-{release}")].into_iter().chain(modules);
    match files.into_iter().find_map(|path| fs::read_to_string(path).ok()) {
        Some(text) => Ok(text),
        None => bail!("neither {OWN} nor /boot/config-{release} can be read"),
    }
}

/// Those lines of a configuration that count.
fn chosen(configuration: &str) -> Vec<String> {
    let counts = |line: &&str| {
        let name = line.strip_prefix("CONFIG_").and_then(|rest| rest.split('=').next());
        name.is_some_and(|name| CONFIGURATION.iter().any(|listed| is_listed(name, listed)))
    };
    configuration.lines().filter(counts).map(str::to_owned).collect()
}

/// Whether a name is the one of a list, or begins as it does if that ends in `*`.
fn is_listed(name: &str, listed: &str) -> bool {
    match listed.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == listed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parameters_that_count_are_said() {
        let line = "BOOT_IMAGE=/vmlinuz root=UUID=a2 isolcpus=3 ip=10.0.0.1:::alice quiet nosmt \
                    hostname=secret kernel.sched_rt_runtime_us=-1 systemd.hostname=x nohz_full=2,3";
        assert_eq!(
            parameters(line),
            "isolcpus=3 nosmt kernel.sched_rt_runtime_us=-1 nohz_full=2,3"
        );
    }

    #[test]
    fn only_what_counts_of_a_configuration_is_said() {
        let text = "# Linux\nCONFIG_SCHED_CLASS_EXT=y\nCONFIG_DEFAULT_HOSTNAME=\"alice\"\nCONFIG_HZ=250\n\
                    CONFIG_HZ_250=y\n# CONFIG_SCHED_CORE is not set\nCONFIG_PREEMPT_LAZY=y\nCONFIG_XFS_FS=m\n";
        let expected = [
            "CONFIG_SCHED_CLASS_EXT=y",
            "CONFIG_HZ=250",
            "CONFIG_HZ_250=y",
            "CONFIG_PREEMPT_LAZY=y",
        ];
        assert_eq!(chosen(text), expected);
    }

    #[test]
    fn processors_are_counted() {
        let info = "processor\t: 0\nmodel name\t: A 9\nflags\t: fpu\n\nmodel name\t: B\nmodel name\t: A 9\n";
        assert_eq!(models(info), ["2 x A 9", "1 x B"]);
    }
}
