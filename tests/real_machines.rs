//! Real machines: what the domains of each file in `../shared/topologies` are, and how its CPUs
//! fill.
//!
//! Invariant: each file there has a test of its own, named after it. A file of [`KNOWN`] that is
//! not there has its tests listed all the same, as ignored ones.

mod filling;

use filling::{Machine, set};
use libtest_mimic::{Arguments, Failed, Trial};
use scx_manyland::ids::CpuId;
use scx_manyland::topology::Granularity;
use scx_manyland::topology::preference::Prefer;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What `--domain` cuts a machine by, in the sequence in which [`Known::cuts`] counts the domains.
const LEVELS: [&str; 7] = ["machine", "package", "numa", "l3", "l2", "kind", "core"];

/// What a test does with a file.
type Check = fn(&Path);

/// A file of which we know what comes out.
struct Known {
    /// Its name without `.xml`.
    name: &'static str,
    cpus: usize,
    /// How many domains each of [`LEVELS`] makes.
    cuts: [usize; 7],
    /// What else is tested, by name.
    tests: &'static [(&'static str, Check)],
}

const KNOWN: [Known; 5] = [
    Known {
        name: "AMD-19h-Zen4-2xEpyc-9654",
        cpus: 384,
        cuts: [1, 2, 1, 24, 192, 24, 192],
        tests: &[],
    },
    Known {
        name: "AMD-1Ah-Zen5StrixPoint-RyzenAI9HX370",
        cpus: 24,
        cuts: [1, 1, 1, 2, 12, 2, 12],
        tests: &[
            ("has_a_kind_for_each_l3", strix_point_has_a_kind_for_each_l3),
            ("leaves_the_dense_l3_for_a_fast_core", strix_point_leaves_the_dense_l3),
        ],
    },
    Known {
        name: "Intel-RaptorLake-Corei7-1370P",
        cpus: 20,
        cuts: [1, 1, 1, 1, 8, 2, 14],
        tests: &[
            ("has_two_kinds_under_its_l3", raptor_lake_has_two_kinds_under_its_l3),
            ("fills_p_cores_then_e_cores_then_siblings", raptor_lake_fills_p_cores_first),
            ("on_battery_fills_its_e_cores_first", raptor_lake_on_battery_fills_its_e_cores_first),
        ],
    },
    Known {
        name: "Intel-KnightsLanding-XeonPhi-7210",
        cpus: 256,
        cuts: [1, 1, 1, 32, 32, 32, 64],
        tests: &[],
    },
    Known { name: "Hygon-Dhyana-32cores", cpus: 64, cuts: [1, 1, 1, 8, 32, 8, 32], tests: &[] },
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for known in &KNOWN {
        trials.push(trial(known.name, "is_cut_as_its_caches_say", move |file| {
            for (level, domains) in LEVELS.into_iter().zip(known.cuts) {
                assert_eq!(cut(file, level), (known.cpus, domains), "by {level}");
            }
        }));
        for &(test, run) in known.tests {
            trials.push(trial(known.name, test, run));
        }
    }
    for name in unknown() {
        trials.push(trial(&name, "can_be_cut", |file| {
            let (cpus, _) = cut(file, "machine");
            LEVELS.iter().for_each(|level| assert_eq!(cut(file, level).0, cpus, "by {level}"));
        }));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A test of a file, which is ignored where the file is missing.
fn trial(name: &str, test: &str, run: impl FnOnce(&Path) + Send + 'static) -> Trial {
    let file = folder().join(format!("{name}.xml"));
    let is_missing = !file.exists();
    let trial = Trial::test(format!("{name}::{test}"), move || {
        if !file.exists() {
            return Err(Failed::from(format!("there is no {}", file.display())));
        }
        run(&file);
        Ok(())
    });
    let kind = if is_missing { "file is missing" } else { "" };
    trial.with_ignored_flag(is_missing).with_kind(kind)
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/topologies")
}

/// The names of the files that are not in [`KNOWN`].
fn unknown() -> BTreeSet<String> {
    let entries = fs::read_dir(folder()).into_iter().flatten().flatten();
    let names = entries
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".xml")?.to_owned()));
    names.filter(|name| KNOWN.iter().all(|known| known.name != name)).collect()
}

/// The machine of a file as `scx_manyland topology` shows it.
fn shown(file: &Path, level: &str) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_scx_manyland"))
        .args(["topology", "--format", "json", "--domain", level, "--input"])
        .arg(file)
        .output()
        .expect("the program can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("the output is JSON")
}

/// How many CPUs a machine has, all of which are in its domains, and how many domains.
fn cut(file: &Path, level: &str) -> (usize, usize) {
    let machine = shown(file, level);
    let domains = machine["domains"].as_array().expect("a list of domains");
    let in_domains: usize = domains.iter().map(|domain| cpus(&domain["cpus"]).len()).sum();
    assert_eq!(machine["cpus"], in_domains, "by {level}");
    (in_domains, domains.len())
}

fn cpus(value: &Value) -> Vec<u64> {
    let list = value.as_array().expect("a list of CPUs");
    list.iter().map(|cpu| cpu.as_u64().expect("a CPU")).collect()
}

/// The rank and the CPUs of each kind of core, for each domain.
fn kinds(file: &Path, level: &str) -> Vec<Vec<(u64, Vec<u64>)>> {
    let ranked = |kind: &Value| (kind["rank"].as_u64().expect("a rank"), cpus(&kind["cpus"]));
    let of_domain = |domain: &Value| {
        domain["kinds"].as_array().expect("a list of kinds").iter().map(ranked).collect()
    };
    let machine = shown(file, level);
    machine["domains"].as_array().expect("a list of domains").iter().map(of_domain).collect()
}

fn strix_point_has_a_kind_for_each_l3(file: &Path) {
    let fast: (u64, Vec<u64>) = (1, (0..4).chain(12..16).collect());
    let dense = (0, (4..12).chain(16..24).collect());
    assert_eq!(kinds(file, "l3"), [vec![fast.clone()], vec![dense.clone()]]);
    assert_eq!(kinds(file, "kind"), [vec![fast], vec![dense]]);
}

fn raptor_lake_has_two_kinds_under_its_l3(file: &Path) {
    let (fast, small) = ((1, (0..12).collect()), (0, (12..20).collect()));
    assert_eq!(kinds(file, "l3"), [vec![fast.clone(), small.clone()]]);
    assert_eq!(kinds(file, "kind"), [vec![fast], vec![small]]);
}

/// Six P-cores with two threads each (CPUs 0-11), eight E-cores (12-19), one L3.
fn raptor_lake_fills_p_cores_first(file: &Path) {
    let expected = [&[0, 2, 4, 6, 8, 10][..], &[12, 13, 14, 15, 16, 17, 18, 19]].concat();
    let siblings = [1, 3, 5, 7, 9, 11];
    for granularity in [Granularity::L3, Granularity::Kind, Granularity::L2, Granularity::Core] {
        let machine = Machine::load(file.into(), granularity, Prefer::Performance, &[]);
        // Whatever its home, a task that comes from an E-core.
        for home in 0..machine.domains.len() as u32 {
            let mut got = machine.wake(home, 19, machine.usable);
            got[..6].sort();
            got[6..14].sort();
            got[14..].sort();
            assert_eq!(got, [&expected[..], &siblings].concat(), "{granularity}, home {home}");
        }
    }
    let machine = Machine::load(file.into(), Granularity::L3, Prefer::Performance, &[]);
    assert_eq!(machine.decide(0, 19, machine.usable)[..7], [0, 2, 4, 6, 8, 10, 19]);
}

fn raptor_lake_on_battery_fills_its_e_cores_first(file: &Path) {
    for granularity in [Granularity::L3, Granularity::Kind] {
        let machine = Machine::load(file.into(), granularity, Prefer::Efficiency, &[]);
        for home in 0..machine.domains.len() as u32 {
            let got = machine.wake(home, 0, machine.usable);
            assert_eq!(set(&got[..8]), set(&[12, 13, 14, 15, 16, 17, 18, 19]), "{granularity}");
            assert_eq!(set(&got[8..14]), set(&[0, 2, 4, 6, 8, 10]), "{granularity}");
        }
    }
}

/// Four Zen 5 cores under one L3 (CPUs 0-3, siblings 12-15), eight Zen 5c under another (4-11,
/// 16-23).
fn strix_point_leaves_the_dense_l3(file: &Path) {
    for granularity in [Granularity::L3, Granularity::Kind] {
        let machine = Machine::load(file.into(), granularity, Prefer::Performance, &[]);
        for home in 0..2 {
            let got = machine.wake(home, 5, machine.usable);
            assert_eq!(set(&got[..4]), set(&[0, 1, 2, 3]), "home {home}");
            assert_eq!(got[4], 5, "prev first within its step");
            assert_eq!(set(&got[4..12]), (4..12).map(CpuId).collect(), "home {home}");
            assert_eq!(set(&got[12..16]), (12..16).map(CpuId).collect(), "home {home}");
        }
        // The thread of the dense domain decides for its own CPUs only.
        let got = machine.decide(1, 23, machine.usable);
        assert_eq!((got[0], got.len()), (23, 16));
        let machine = Machine::load(file.into(), granularity, Prefer::Efficiency, &[]);
        // Until the slow cores are full: with their siblings, before any fast core wakes up.
        let got = machine.wake(0, 0, machine.usable);
        assert_eq!(set(&got[..8]), (4..12).map(CpuId).collect());
        assert_eq!(set(&got[8..16]), (16..24).map(CpuId).collect());
    }
}
