//! What the program says: the form of its messages, and one line for whatever a newcomer may type
//! wrongly, with what to do next.

mod typed;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use typed::{complaint, manyland};

/// Each failure is one line, and says these words.
#[test]
fn whatever_is_typed_wrongly_is_one_line_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none/at/all.prom");
    let missing = missing.to_str().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let cases: [(&[&str], i32, &[&str]); 27] = [
        (&["--bogus"], 2, &["--bogus", "see scx_manyland --help"]),
        (&["bogus"], 2, &["bogus", "see scx_manyland --help"]),
        (&["--slice-us", "1"], 2, &["--slice-us", "100..=1000000"]),
        (
            &["--slice-us", "100", "--slice-min-us", "200"],
            2,
            &["200 us", "see scx_manyland --help"],
        ),
        (&["--policy", "x"], 2, &["possible values: vruntime, deadline, fifo"]),
        (&["--log-level", "loud"], 2, &["possible values: error, warn, info, debug"]),
        (&["--stats"], 2, &["--stats <SECS>", "value is required"]),
        (&["--stats-format", "json"], 2, &["--stats", "--monitor"]),
        (&["--monitor", "1", "--stats", "1"], 2, &["cannot be used with"]),
        (&["--stats", "1", "topology"], 2, &["topology", "cannot be used with"]),
        (&["topology", "--input", missing], 1, &[missing, "lstopo", "No such file"]),
        (&["topology", "--input", "/"], 1, &["lstopo", "Is a directory"]),
        (&["topology", "--synthetic", "Castle:2"], 1, &["Castle:2", "hwloc(7)"]),
        (&["topology", "--format", "song"], 2, &["song", "see scx_manyland topology --help"]),
        (&["simulate"], 2, &["--workload <FILE>", "see scx_manyland simulate --help"]),
        (&["simulate", "--workload", missing], 1, &[missing, "hackbench, build"]),
        (&["simulate", "--workload", "/etc/passwd"], 1, &["/etc/passwd", "not JSON"]),
        (&["metrics"], 2, &["--listen", "--textfile", "see scx_manyland metrics --help"]),
        (&["metrics", "--listen", "x"], 2, &["127.0.0.1:9810"]),
        (&["metrics", "--listen", &port], 1, &[&port, "in use", "name another port"]),
        (&["metrics", "--listen", "192.0.2.1:1"], 1, &["no such address"]),
        (&["metrics", "--listen", "0", "--user", "noxyz"], 1, &["noxyz", "--user"]),
        (&["metrics", "--listen", "0", "--user", "root"], 1, &["is root", "--user"]),
        (&["metrics", "--textfile", "/tmp/a.txt"], 2, &[".prom"]),
        (&["metrics", "--textfile", missing], 1, &[missing, "No such file"]),
        (&["top"], 1, &["terminal", "--monitor"]),
        (
            &["bench", "--workloads", "nope"],
            2,
            &["messages, requests", "scx_manyland bench --help"],
        ),
    ];
    for (args, code, words) in cases {
        let text = complaint(args, code);
        for word in words {
            assert!(text.contains(word), "{args:?}: no {word:?} in {text}");
        }
    }
}

/// A kernel without sched_ext, or a user without rights, is one line as well. Here is one of both.
#[test]
fn a_machine_that_cannot_schedule_says_what_it_lacks() {
    if std::path::Path::new("/sys/kernel/sched_ext").exists() {
        return;
    }
    for args in [&[][..], &["bench"], &["--policy", "fifo", "-v"]] {
        let text = complaint(args, 1);
        let next = ["use Linux 6.16 or newer", "start it with sudo"];
        assert!(next.iter().any(|next| text.contains(next)), "{args:?}: {text}");
    }
}

/// The first message of a program whose standard error is this, and which is ended then.
fn first_message(mut command: Command) -> String {
    let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stderr.take().unwrap()).read_line(&mut line).unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    line
}

#[test]
fn a_message_has_its_time_and_level() {
    let line = first_message(manyland(&["metrics", "--listen", "0"]));
    let (time, rest) = line.split_once(' ').unwrap();
    let form: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(form, "0000-00-00T00:00:00.000Z", "{line}");
    assert!(rest.starts_with("INFO  metrics are at http://"), "{line}");
}

/// systemd names the journal by the numbers of the file that standard error is.
#[test]
fn the_journal_gets_the_level_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let file = File::create(&path).unwrap();
    let stat = nix::sys::stat::fstat(file.as_fd()).unwrap();
    let journal = format!("{}:{}", stat.st_dev, stat.st_ino);
    let mut command = manyland(&["topology", "--input", "/"]);
    command.env("JOURNAL_STREAM", &journal).stderr(file);
    assert_eq!(command.status().unwrap().code(), Some(1));
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("<3>scx_manyland: cannot load"), "{text}");
    // Another file's numbers are not meant for this one.
    let line = first_message({
        let mut command = manyland(&["metrics", "--listen", "0"]);
        command.env("JOURNAL_STREAM", journal);
        command
    });
    assert!(line.contains("Z INFO  metrics are at"), "{line}");
}
