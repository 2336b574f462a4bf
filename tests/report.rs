//! `scx_manyland report`, as a user without rights types it: everything that can be read is in it,
//! and nothing of this machine's names.

mod played;
mod typed;

use played::Played;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn report(args: &[&str]) -> Output {
    typed::run(&[&["report"], args].concat())
}

/// The report that is printed with these arguments.
fn printed(args: &[&str]) -> String {
    let output = report(&[&["-"], args].concat());
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*complaint), (Some(0), ""));
    String::from_utf8(output.stdout).unwrap()
}

/// The one line that it fails with.
#[track_caller]
fn complaint(args: &[&str]) -> String {
    typed::complaint(&[&["report"], args].concat(), 1)
}

/// The value of a line.
#[track_caller]
fn value<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    line.unwrap_or_else(|| panic!("no {name} in:\n{text}"))
}

const LOG: &str = "\
attached: 2 domain threads (l3), policy vruntime
the kernel's dump:
mysecret[7] triggered exit kind 1026:
          curr=mysecret[7] class=ext_sched_class
      manyland: waiting, home 0
end of the kernel's dump
the kernel has ended the scheduler: runnable task stall: mysecret[7] failed to run for 30.1s; attaching again
alice's own line
";

#[test]
fn all_parts_are_there_and_what_is_not_known_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, log) = (folder.path().join("alice-socket"), folder.path().join("alice-log"));
    fs::write(&log, LOG).unwrap();
    let (socket_arg, log_arg) = (socket.to_str().unwrap(), log.to_str().unwrap());
    let played = Played::start(&socket);
    let text = printed(&["--socket", socket_arg, "--log", log_arg]);
    for part in ["versions", "machine", "topology", "sched_ext", "scheduler", "kernel", "last dump"]
    {
        assert!(text.contains(&format!("[{part}]\n")), "no {part} in:\n{text}");
    }
    assert!(value(&text, "scx_manyland").starts_with(env!("CARGO_PKG_VERSION")));
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(value(&text, "kernel"), release.trim());
    assert!(text.contains("domain  CPUs"), "{text}");
    assert!(text.contains("    slice_us = 4321\n"), "{text}");
    assert!(value(&text, "statistics since it attached").contains("\"decided\":"));
    assert!(value(&text, "statistics of the last second").contains("\"interval_seconds\":"));
    assert!(text.contains("          curr=task[7] class=ext_sched_class\n"), "{text}");
    assert!(text.contains("stall: task[7] failed to run"), "{text}");
    assert!(!text.contains("secret") && !text.contains("alice"), "{text}");
    if !Path::new("/sys/kernel/sched_ext").exists() {
        assert!(value(&text, "state").starts_with("not known (cannot read /sys/kernel/sched_ext/"));
    }
    // Every line is a part's head, a name with its value, or one of several below a name.
    for line in text.lines().filter(|line| !line.is_empty()) {
        let is_head = line.starts_with('[') && line.ends_with(']');
        assert!(is_head || line.contains(':') || line.starts_with("    "), "{line:?}");
    }
    drop(played);
    let without = printed(&["--socket", socket_arg, "--log", log_arg]);
    let why = value(&without, "statistics");
    assert!(why.starts_with("not known (no scheduler answers"), "{why}");
}

/// What this machine is called and what runs on it, as far as these words are no ordinary ones.
#[test]
fn nothing_in_it_is_of_this_machine_or_its_users() {
    let folder = tempfile::Builder::new().prefix("quaxolotl").tempdir().unwrap();
    let log = folder.path().join("log");
    fs::write(&log, LOG).unwrap();
    // A program with a name that no other text has, and an argument.
    let program = folder.path().join("zyxprogram");
    fs::copy("/bin/sleep", &program).unwrap();
    let mut running = Command::new(&program).arg("98765.4321").spawn().unwrap();
    let text = printed(&["--log", log.to_str().unwrap()]);
    running.kill().unwrap();
    running.wait().unwrap();
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let groups = read("/proc/self/cgroup");
    let mut names: Vec<String> =
        ["quaxolotl", "zyxprogram", "98765.4321"].map(str::to_owned).into();
    names.extend(["/proc/sys/kernel/hostname", "/etc/machine-id"].map(read));
    names.extend(["USER", "LOGNAME", "HOME", "PWD"].iter().filter_map(|it| std::env::var(it).ok()));
    names.extend(groups.lines().filter_map(|line| Some(line.rsplit_once(':')?.1.to_owned())));
    // Such as "/" and "root" are no names.
    names.retain(|name| name.len() > 4 && name != "/root");
    for name in names {
        assert!(!text.contains(&name), "{name:?} is in:\n{text}");
    }
}

#[test]
fn a_file_is_written_once_and_never_over_another() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.txt");
    let (log, file_arg) = (folder.path().join("log"), file.to_str().unwrap());
    fs::write(&log, "").unwrap();
    let args = [file_arg, "--log", log.to_str().unwrap()];
    let output = report(&args);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("wrote "));
    let written = fs::read_to_string(&file).unwrap();
    assert!(written.starts_with("[versions]\n") && written.contains("dump: none\n"), "{written}");
    assert!(complaint(&args).contains("exists already; name a new file"));
    assert_eq!(fs::read_to_string(&file).unwrap(), written);
    let missing = folder.path().join("none/at/all");
    let missing = missing.to_str().unwrap();
    assert!(complaint(&[missing]).contains(missing));
    let other = folder.path().join("other");
    assert!(complaint(&[other.to_str().unwrap(), "--log", missing]).contains(missing));
    assert!(!other.exists(), "an empty file is left");
}
