//! Whether this kernel, at this moment, can run the scheduler; and the values of its enumerators.
//!
//! Invariant: no function here changes anything. Every refusal says what to do next.

use anyhow::{Context, Result, bail};
use libbpf_rs::btf::{Btf, types};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

const SCHED_EXT: &str = "/sys/kernel/sched_ext";
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
const REALTIME: &str = "/sys/kernel/realtime";

/// The oldest kernel, by the first two numbers of its version.
pub const OLDEST: (u32, u32) = (6, 16);

/// The kernel's release, and the first two numbers of its version.
pub fn release() -> Option<(String, (u32, u32))> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?.trim().to_owned();
    let version = version_of(&release)?;
    Some((release, version))
}

fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Checks all that can be checked before loading.
///
/// # Errors
/// - The kernel has no sched_ext.
/// - The kernel is locked down so far that BPF programs may not read its memory.
/// - Another scheduler is attached.
/// - The kernel's type information (BTF) is missing or malformed.
pub fn check() -> Result<()> {
    if !Path::new(SCHED_EXT).exists() {
        bail!(
            "cannot attach: this kernel has no sched_ext; use Linux 6.16 or newer built with \
             CONFIG_SCHED_CLASS_EXT=y, or try `make run` (a guest)"
        );
    }
    if fs::read_to_string(LOCKDOWN).is_ok_and(|mode| forbids_reading(&mode)) {
        bail!(
            "cannot attach: the kernel is locked down (confidentiality), so that BPF programs may \
             not read its memory; boot it with lockdown=integrity or lockdown=none"
        );
    }
    if let Some(other) = attached() {
        bail!(
            "cannot attach: scheduler \"{other}\" is already running; stop it first \
             (systemctl stop scx, or end its process)"
        );
    }
    let btf = vmlinux()?;
    if let Some(name) = malformed(&btf) {
        bail!(
            "cannot attach: the kernel's BTF is malformed ({name} shows its implicit argument \
             `aux`), a fault of this kernel package; use another kernel build"
        );
    }
    Ok(())
}

/// Whether BPF programs may not read the kernel's memory, by the list of modes of lockdown with the
/// present one in brackets.
fn forbids_reading(modes: &str) -> bool {
    modes.contains("[confidentiality]")
}

/// Whether the kernel was built with PREEMPT_RT.
pub fn is_preempt_rt() -> bool {
    fs::read_to_string(REALTIME).is_ok_and(|flag| flag.trim() == "1")
}

/// The kernel's state of sched_ext, as it is at each moment. The file remains open: a path is found
/// under locks that a task which cannot run may hold.
#[derive(Debug)]
pub struct State(Option<File>);

impl State {
    /// Without sched_ext there is none.
    pub fn open() -> State {
        State(File::open(Path::new(SCHED_EXT).join("state")).ok())
    }

    /// Whether it is this one.
    pub fn is(&self, name: &str) -> bool {
        let mut text = [0; 32];
        let read = self.0.as_ref().and_then(|file| file.read_at(&mut text, 0).ok());
        read.is_some_and(|length| text[..length].trim_ascii() == name.as_bytes())
    }
}

/// The name of the sched_ext scheduler that is attached, if any is.
pub fn attached() -> Option<String> {
    let read = |file: &str| fs::read_to_string(Path::new(SCHED_EXT).join(file)).ok();
    let state = read("state")?;
    if state.trim() == "disabled" {
        return None;
    }
    Some(read("root/ops").map_or_else(|| "unknown".to_owned(), |name| name.trim().to_owned()))
}

/// The name by which the kernel knows this scheduler: build.rs makes it of version and build.
pub const NAME: &str = env!("SCX_MANYLAND_NAME");

/// Whether the kernel's name of a scheduler is that of some version of this one.
pub fn is_ours(name: &str) -> bool {
    name.strip_prefix("manyland").is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

/// Whether a sched_ext scheduler is attached and schedules all tasks.
pub fn is_enabled() -> bool {
    fs::read_to_string(Path::new(SCHED_EXT).join("state"))
        .is_ok_and(|state| state.trim() == "enabled")
}

/// Whether the kernel's command line isolates CPUs.
pub fn has_isolcpus() -> bool {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    line.split_whitespace().any(|word| word.starts_with("isolcpus="))
}

/// How often CPUs have come or gone since boot; 0 if the kernel does not count it.
pub fn hotplugs() -> u64 {
    let count = fs::read_to_string(Path::new(SCHED_EXT).join("hotplug_seq"));
    count.ok().and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// The kernel's type information (BTF).
///
/// # Errors
/// If the kernel has none.
pub fn vmlinux() -> Result<Btf<'static>> {
    Btf::from_vmlinux().context(
        "cannot read the kernel's BTF (/sys/kernel/btf/vmlinux); use a kernel built with \
         CONFIG_DEBUG_INFO_BTF=y",
    )
}

/// Whether any user can hang this machine while a sched_ext scheduler is attached: it has SMT, the
/// kernel has core scheduling, and it lacks the fixes of Linux 7.3 for the two together. The fixes
/// show in the kernel's BTF, whatever its version.
pub fn hangs_by_core_scheduling(btf: &Btf<'_>) -> bool {
    let smt = fs::read_to_string("/sys/devices/system/cpu/smt/active");
    smt.is_ok_and(|active| active.trim() == "1") && lacks_core_scheduling_fix(btf)
}

/// Whether the kernel tells sched_ext schedulers of the limits of CPU time that cgroups have
/// (cpu.max).
pub fn tells_of_limits(btf: &Btf<'_>) -> bool {
    has_member(btf, "sched_ext_ops", "cgroup_set_bandwidth")
}

fn lacks_core_scheduling_fix(btf: &Btf<'_>) -> bool {
    has_member(btf, "task_struct", "core_cookie") && !has_member(btf, "rq", "core_pick_in_flight")
}

/// Whether cgroups with the CPU controller are in use, and the kernel does not tell a sched_ext
/// scheduler when one becomes idle (cpu.idle).
pub fn misses_idle_cgroups(btf: &Btf<'_>) -> bool {
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.subtree_control");
    let in_use = controllers.is_ok_and(|list| list.split_whitespace().any(|name| name == "cpu"));
    in_use && !has_member(btf, "sched_ext_ops", "cgroup_set_idle")
}

/// Whether a struct of the kernel has a member.
pub fn has_member(btf: &Btf<'_>, structure: &str, member: &str) -> bool {
    let found = btf.type_by_name::<types::Struct<'_>>(structure);
    found.is_some_and(|it| it.iter().any(|its| its.name.is_some_and(|name| name == member)))
}

/// The members of a struct of the kernel, or none if it has no such struct.
pub fn members(btf: &Btf<'_>, structure: &str) -> Vec<String> {
    let found = btf.type_by_name::<types::Struct<'_>>(structure);
    let names = found.iter().flat_map(|it| it.iter());
    names.filter_map(|its| its.name?.to_str().map(str::to_owned)).collect()
}

/// A kernel function of sched_ext that shows an argument which BPF programs do not pass.
pub fn malformed(btf: &Btf<'_>) -> Option<String> {
    btf.type_by_kind::<types::Func<'_>>().find_map(|function| {
        let name = function.name()?.to_str()?;
        let public = name.starts_with("scx_bpf_") || name.starts_with("__scx_bpf_");
        if !public || name.ends_with("_impl") {
            return None;
        }
        let prototype = types::FuncProto::try_from(function.next_type()?).ok()?;
        prototype
            .iter()
            .any(|parameter| parameter.name.is_some_and(|name| name == "aux"))
            .then(|| name.to_owned())
    })
}

/// The value of an enumerator in the running kernel; `None` if the kernel does not have it.
pub fn enumerator(btf: &Btf<'_>, enumeration: &str, name: &str) -> Option<u64> {
    let is_it = |member: Option<&std::ffi::OsStr>| member.is_some_and(|n| n == name);
    if let Some(found) = btf.type_by_name::<types::Enum64<'_>>(enumeration) {
        return found.iter().find(|m| is_it(m.name)).map(|m| m.value as u64);
    }
    let found = btf.type_by_name::<types::Enum<'_>>(enumeration)?;
    found.iter().find(|m| is_it(m.name)).map(|m| u64::from(m.value as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel accepts letters, digits, `_` and `.` in a name of 127 bytes.
    #[test]
    fn the_name_has_the_version_and_is_accepted() {
        assert!(NAME.starts_with(concat!("manyland_", env!("CARGO_PKG_VERSION"), "_g")), "{NAME}");
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        assert!(NAME.len() < 128 && NAME.chars().all(allowed), "{NAME}");
        assert!(is_ours(NAME) && is_ours("manyland") && !is_ours("manylands") && !is_ours("lavd"));
    }

    #[test]
    fn a_release_begins_with_the_version() {
        for (release, version) in
            [("6.18.15+deb13-amd64", Some((6, 18))), ("7.3.0-rc1", Some((7, 3))), ("next", None)]
        {
            assert_eq!(version_of(release), version, "{release}");
        }
        assert!(version_of("6.12.1").unwrap() < OLDEST && version_of("6.16-x").unwrap() >= OLDEST);
    }

    #[test]
    fn only_confidentiality_keeps_bpf_from_reading() {
        assert!(forbids_reading("none integrity [confidentiality]\n"));
        assert!(!forbids_reading("none [integrity] confidentiality\n"));
        assert!(!forbids_reading("[none] integrity confidentiality\n"));
    }

    /// The BPF side's object has BTF as the kernel has.
    #[test]
    fn members_are_found_in_btf() {
        const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/bpf.bpf.o"));
        let btf = Btf::from_raw("main", OBJECT).expect("an object").expect("it has BTF");
        assert!(has_member(&btf, "domain_ctx", "submitted"));
        assert!(!has_member(&btf, "domain_ctx", "no_such_member"));
        assert!(!has_member(&btf, "no_such_struct", "submitted"));
    }
}
