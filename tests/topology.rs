//! `scx_manyland topology`, as a user types it.

mod typed;

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use typed::{complaint, manyland, run};

/// The output of a command that must succeed and say nothing else.
fn stdout(args: &[&str]) -> String {
    let output = run(args);
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), complaint.as_str()), (Some(0), ""), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(args: &[&str]) -> Value {
    let text = stdout(&[&["topology", "--format", "json"], args].concat());
    assert_eq!(text.lines().count(), 1);
    serde_json::from_str(&text).unwrap()
}

fn cpus(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|cpu| cpu.as_u64().unwrap()).collect()
}

fn domains(machine: &Value) -> &[Value] {
    machine["domains"].as_array().unwrap()
}

fn own_machine(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/machines").join(name);
    path.to_str().unwrap().to_string()
}

fn scratch_file(name: &str, contents: &[u8]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, contents).unwrap();
    path
}

#[test]
fn json_of_a_synthetic_machine() {
    let description = "Package:2 NUMANode:1 L3Cache:4 Core:8 PU:2";
    let machine = json(&["--synthetic", description, "--domain", "llc"]);
    assert_eq!(machine["granularity"], "l3");
    assert_eq!(machine["cpus"], 128);
    assert_eq!(domains(&machine).len(), 8);
    let fifth = &domains(&machine)[4];
    assert_eq!(fifth["id"], 4);
    assert_eq!(cpus(&fifth["cpus"]), (64..80).collect::<Vec<_>>());
    assert_eq!(fifth["numa_node"], 1);
    assert_eq!(fifth["kinds"][0]["rank"], 0);
    assert_eq!(cpus(&fifth["nearest"]), [5, 6, 7, 0, 1, 2, 3]);
}

#[test]
fn cpu_numbers_are_those_of_the_operating_system() {
    let description = "L3Cache:2 Core:2 PU:2(indexes=0,100,2,102,900,1000,902,1002)";
    let machine = json(&["--synthetic", description]);
    assert_eq!(cpus(&domains(&machine)[0]["cpus"]), [0, 2, 100, 102]);
    assert_eq!(cpus(&domains(&machine)[1]["cpus"]), [900, 902, 1000, 1002]);
}

#[test]
fn text_has_a_line_for_each_domain() {
    let text = stdout(&["topology", "--synthetic", "Package:2 L3Cache:12 Core:8 PU:2"]);
    let lines = text.lines().collect::<Vec<_>>();
    assert_eq!(lines.len(), 2 + 24);
    assert!(lines[0].starts_with("384 CPUs, 192 cores, 2 packages,"), "{}", lines[0]);
    assert!(lines.iter().all(|line| line.len() <= 100), "{text}");
}

#[test]
fn this_machine_is_all_of_its_online_cpus() {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    let text = stdout(&["topology", "--domain", "machine"]);
    let row = text.lines().nth(2).unwrap();
    assert_eq!(row.split_whitespace().nth(1), Some(online.trim()), "{text}");
}

#[test]
fn a_binding_of_the_process_hides_no_cpu() {
    let count = json(&[])["cpus"].clone();
    let allowed = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).unwrap();
    let first = (0..1024).find(|&cpu| allowed.is_set(cpu).unwrap()).unwrap();
    let bound = Command::new("taskset")
        .args(["-c", &first.to_string()])
        .args([env!("CARGO_BIN_EXE_scx_manyland"), "topology", "--format", "json"])
        .output()
        .unwrap();
    let bound: Value = serde_json::from_slice(&bound.stdout).unwrap();
    assert_eq!(bound["cpus"], count);
}

/// Two cores with SMT under an L3; three low-power cores that share only an L2, of which CPU 5 is
/// not allowed to the process that wrote the file; CPU 8 without any of it; CPUs 7 and 9 offline.
#[test]
fn cpus_without_an_l3_and_offline_cpus() {
    let file = own_machine("low-power-cores.xml");
    let machine = json(&["--input", &file]);
    let sets = domains(&machine).iter().map(|domain| cpus(&domain["cpus"])).collect::<Vec<_>>();
    assert_eq!(sets, [vec![0, 1, 2, 3], vec![4, 5, 6], vec![8]]);
    assert_eq!(machine["cpus"], 8);
    assert_eq!(domains(&machine)[0]["kinds"][0]["rank"], 1);
    assert_eq!(domains(&machine)[1]["kinds"][0]["rank"], 0);
    let text = stdout(&["topology", "--input", &file]);
    assert!(text.contains("3 domains by l3 (for CPUs without l3: 1 by l2, 1 by core)"), "{text}");
}

#[test]
fn a_bad_option_is_one_line_and_code_2() {
    for (args, expected) in [
        (&["topology", "--domain", "socket"][..], "possible values: machine, package, numa, l3"),
        (&["topology", "--format", "yaml"], "possible values: text, json"),
        (&["topology", "--input", "a", "--synthetic", "b"], "cannot be used with"),
        (&["topology", "--inputs", "a"], "unexpected argument"),
        (&["--slice-us", "99"], "99 is not in 100..=1000000"),
        (&["--slice-us", "5ms"], "invalid digit"),
        (&["--slice-min-us", "9"], "9 is not in 10..=1000000"),
        (&["--slice-us", "100", "--slice-min-us", "101"], "must not be longer than the slice"),
        (&["--patience-us", "0"], "0 is not in 10..=1000000"),
        (&["--stats", "3601"], "3601 is not in 0.1..=3600"),
        (&["--patience-us", "1.5"], "invalid digit"),
        (&["--stats-format", "json"], "--stats <SECS>"),
        (&["--policy", "lottery"], "possible values: vruntime, deadline, fifo"),
    ] {
        let line = complaint(args, 2);
        assert!(line.contains(expected), "{line}");
    }
}

#[test]
fn help_names_units_and_defaults() {
    let help = stdout(&["--help"]);
    for expected in ["--slice-min-us <N>", "microseconds (100 to 1000000)", "[default: l3]"] {
        assert!(help.contains(expected), "{expected}");
    }
}

#[test]
fn a_file_that_is_no_machine_is_one_line_and_code_1() {
    let whole = fs::read(own_machine("low-power-cores.xml")).unwrap();
    let large = scratch_file("large.xml", b"");
    fs::File::options().write(true).open(&large).unwrap().set_len((64 << 20) + 1).unwrap();
    let files = [
        (scratch_file("empty.xml", b""), "it is empty"),
        (scratch_file("text.xml", b"no angle bracket"), "damaged"),
        (scratch_file("other.xml", b"<html><body/></html>"), "damaged"),
        (scratch_file("binary.xml", &[0, 1, 2, 255]), "not a text file"),
        (scratch_file("latin1.xml", b"<topology version=\"\xe9\"/>"), "not UTF-8"),
        (scratch_file("truncated.xml", &whole[..whole.len() / 2]), "damaged"),
        (large, "larger than 64 MiB"),
        (PathBuf::from(env!("CARGO_TARGET_TMPDIR")), "Is a directory"),
        (PathBuf::from("no/such/file.xml"), "No such file"),
        (PathBuf::from("a\nb"), "No such file"),
    ];
    for (path, expected) in files {
        let line = complaint(&["topology", "--input", path.to_str().unwrap()], 1);
        assert!(line.contains(expected) && line.contains("lstopo"), "{line}");
    }
}

#[test]
fn no_cut_of_a_file_does_harm() {
    let whole = fs::read(own_machine("low-power-cores.xml")).unwrap();
    for length in (1..whole.len() - 20).step_by(97) {
        let path = scratch_file("cut.xml", &whole[..length]);
        complaint(&["topology", "--input", path.to_str().unwrap()], 1);
    }
}

/// Damage may happen to leave a valid machine; it must never leave a crash, or more than a line.
#[test]
fn no_damage_to_a_file_does_harm() {
    let whole = fs::read(own_machine("low-power-cores.xml")).unwrap();
    for at in (0..whole.len()).step_by(61) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 7);
        let path = scratch_file("damaged.xml", &damaged);
        let args = ["topology", "--input", path.to_str().unwrap()];
        if run(&args).status.code() != Some(0) {
            complaint(&args, 1);
        }
    }
}

#[test]
fn limits_are_told() {
    for (description, expected) in [
        ("Core:1025 PU:1", "it has 1025 CPUs; at most 1024 are supported"),
        ("Package:100000 Core:100000 PU:2", "at most 1024 are supported"),
        ("PU:2(indexes=0,1024)", "CPU of number 1024; the largest supported is 1023"),
        ("Core:0x1000 PU:1", "it has 4096 CPUs"),
        ("no machine", "write for example"),
    ] {
        let line = complaint(&["topology", "--synthetic", description], 1);
        assert!(line.contains(expected), "{line}");
    }
    let cut =
        |cores: &str| ["topology", "--domain", "core", "--synthetic", cores].map(String::from);
    let most = cut("Core:512 PU:2");
    stdout(&most.each_ref().map(String::as_str));
    let line = complaint(&cut("Core:513 PU:1").each_ref().map(String::as_str), 1);
    assert!(line.contains("513 domains and at most 512") && line.contains("--domain l2"), "{line}");
}

#[test]
fn another_machine_is_not_taken_for_this_one() {
    let output = manyland(&["topology"]).env("HWLOC_SYNTHETIC", "PU:64").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("unset HWLOC_*"));
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let args = ["topology", "--synthetic", "Core:512 PU:2", "--domain", "core"];
    let mut child = manyland(&args)
        .args(["--format", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}
