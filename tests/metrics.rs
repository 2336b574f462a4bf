//! `scx_manyland metrics` over the socket of a scheduler that this test plays: over HTTP, as a file,
//! and by the rules of Prometheus' own checker.

mod played;

use played::Played;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

/// The program, and where it listens.
struct Exporter {
    process: Child,
    address: SocketAddr,
}

impl Exporter {
    fn start(socket: &Path) -> Exporter {
        Exporter::with(socket, &[])
    }

    fn with(socket: &Path, options: &[&str]) -> Exporter {
        let mut process = Command::new(env!("CARGO_BIN_EXE_scx_manyland"))
            .args(["metrics", "--listen", "0", "--socket", socket.to_str().unwrap()])
            .args(options)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let (_, address) = line.trim().split_once(" INFO  metrics are at http://").unwrap();
        let address: SocketAddr = address.strip_suffix("/metrics").unwrap().parse().unwrap();
        assert!(address.ip().is_loopback());
        Exporter { process, address }
    }

    /// What is answered to bytes.
    fn ask(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        // It may close before all of it is sent.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    fn scrape(&self) -> String {
        let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
        self.ask(format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\n{accept}\r\n\r\n").as_bytes())
    }

    /// Waits until a scrape has this in it.
    #[track_caller]
    fn says(&self, expected: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            let text = self.scrape();
            if text.contains(expected) {
                return text;
            }
            assert!(Instant::now() < deadline, "no {expected:?} in:\n{text}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_scheduler_is_scraped_from_its_start_to_its_end_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("stats");
    let exporter = Exporter::start(&socket);
    exporter.says("\nmanyland_up 0.0\n");
    for _ in 0..2 {
        let played = Played::start(&socket);
        let text = exporter.says("\nmanyland_up 1.0\n");
        assert!(text.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text"));
        for expected in [
            "# TYPE manyland_decided counter\n",
            "\nmanyland_decided_total{domain=\"1\"} ",
            "# TYPE manyland_waiting gauge\n",
            "\nmanyland_waiting{domain=\"0\"} 3.0\n",
            "\nmanyland_resident_memory_bytes ",
            "# UNIT manyland_thread_cpu_seconds seconds\n",
            "\nmanyland_thread_cpu_seconds_total{domain=\"0\"} 0.125\n",
            "\nmanyland_decision_latency_seconds_bucket{le=\"+Inf\",domain=\"0\"} ",
            "\nmanyland_run_delay_seconds_bucket{le=\"+Inf\",domain=\"0\"} ",
            "policy=\"vruntime\"",
        ] {
            assert!(text.contains(expected), "no {expected:?} in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
        drop(played);
        exporter.says("\nmanyland_up 0.0\n");
    }
}

/// The names of some cgroups, one of them with all that a label has to escape.
const NAMES: [&str; 3] = ["/system.slice/a.service", "/odd\\x2d \"one\"\n{}", "/the.third"];

#[test]
fn the_busiest_cgroups_are_given_if_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("stats");
    let _played = Played::with_cgroups(&socket, &NAMES);
    let text = Exporter::start(&socket).says("\nmanyland_up 1.0\n");
    assert!(!text.contains("manyland_cgroup_"), "they were not asked for:\n{text}");
    let exporter = Exporter::with(&socket, &["--stats-cgroups", "2"]);
    let text = exporter.says("\nmanyland_up 1.0\n");
    let samples: Vec<&str> = text.lines().filter(|it| it.contains("manyland_cgroup_")).collect();
    let first = |at: &str| format!("manyland_cgroup_{at}{{cgroup=\"/system.slice/a.service\"}}");
    let second =
        |at: &str| format!("manyland_cgroup_{at}{{cgroup=\"/odd\\\\x2d \\\"one\\\"\\n{{}}\"}}");
    for expected in [
        "# TYPE manyland_cgroup_weight gauge".to_owned(),
        first("weight") + " 300.0",
        first("idle") + " 0.0",
        "# UNIT manyland_cgroup_due_cpus cpus".to_owned(),
        first("due_cpus") + " 4.0",
        second("due_cpus") + " 2.0",
        "# TYPE manyland_cgroup_cpu_seconds counter".to_owned(),
        first("cpu_seconds_total") + " 3.5",
        first("runnable") + " 6.0",
        "# TYPE manyland_cgroup_throttles counter".to_owned(),
        second("throttles_total") + " 10.0",
        second("throttled_seconds_total") + " 0.25",
    ] {
        assert!(samples.contains(&expected.as_str()), "no {expected} in:\n{text}");
    }
    assert!(!text.contains(&first("throttles_total")), "it has no limit:\n{text}");
    assert!(!text.contains("/the.third"), "that is one more than asked for:\n{text}");
    // The counters go on where the next scrape is one of a longer time.
    exporter.says(&(first("cpu_seconds_total") + " 7.0\n"));
}

#[test]
fn the_documents_name_all_metrics_of_cgroups() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("stats");
    let _played = Played::with_cgroups(&socket, &NAMES);
    let text = textfile(folder.path(), &socket);
    let given = text.lines().filter_map(|line| line.strip_prefix("# TYPE manyland_cgroup_"));
    let given: Vec<&str> = given.filter_map(|rest| rest.split(' ').next()).collect();
    let document = include_str!("../docs/operating.md");
    let (_, table) =
        document.split_once("| `manyland_cgroup_` and | meaning |\n|---|---|\n").unwrap();
    let rows = table.lines().map_while(|line| line.strip_prefix("| `"));
    let named: Vec<&str> = rows.filter_map(|row| row.split('`').next()).collect();
    assert_eq!(named, given);
}

#[test]
fn without_cgroups_there_is_no_metric_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("stats");
    let _played = Played::start(&socket);
    let text = Exporter::with(&socket, &["--stats-cgroups", "64"]).says("\nmanyland_up 1.0\n");
    assert!(!text.contains("manyland_cgroup_"), "{text}");
}

/// What answers the network is no process of root's.
#[test]
fn the_process_that_answers_is_an_unprivileged_user() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("stats");
    let _played = Played::start(&socket);
    let exporter = Exporter::start(&socket);
    exporter.says("manyland_up 1.0");
    let pid = exporter.process.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let child: u32 = children.trim().parse().unwrap();
    let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(field("Uid:").iter().all(|uid| uid != "0"), "{status}");
    assert!(field("Gid:").iter().all(|gid| gid != "0"), "{status}");
    assert_eq!(field("CapEff:"), ["0000000000000000"]);
    if nix::unistd::geteuid().is_root() {
        assert!(field("Groups:").is_empty(), "{status}");
        assert_eq!(field("NoNewPrivs:"), ["1"]);
    }
}

#[test]
fn what_is_no_scrape_is_refused_and_the_next_one_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(&folder.path().join("stats"));
    for (request, status) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "HTTP/1.1 404 "),
        (b"POST /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 405 "),
        (b"\xff\xff\r\n\r\n", "HTTP/1.1 405 "),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 200 "),
    ] {
        let answer = exporter.ask(request);
        assert!(answer.starts_with(status), "{request:?}: {answer}");
    }
    // Its end may be reset, since not all of it is read.
    exporter.ask(&vec![b'x'; 1 << 20]);
    let silent = TcpStream::connect(exporter.address).unwrap();
    exporter.says("manyland_up 0.0");
    drop(silent);
    let classic = exporter.ask(b"GET /metrics HTTP/1.0\r\n\r\n");
    assert!(classic.contains("Content-Type: text/plain; version=0.0.4"), "{classic}");
}

/// Writes the file once, and returns it.
fn textfile(folder: &Path, socket: &Path) -> String {
    let file = folder.join("manyland.prom");
    let mut process = Command::new(env!("CARGO_BIN_EXE_scx_manyland"))
        .args(["metrics", "--interval", "0.1", "--socket", socket.to_str().unwrap()])
        .args(["--stats-cgroups", "3"])
        .arg("--textfile")
        .arg(&file)
        .spawn()
        .unwrap();
    let deadline = Instant::now() + LIMIT;
    while !file.exists() {
        assert!(Instant::now() < deadline, "no file is written");
        thread::sleep(Duration::from_millis(20));
    }
    let text = fs::read_to_string(&file).unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    text
}

#[test]
fn the_file_is_in_the_format_of_the_textfile_collector() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("stats");
    let _played = Played::with_cgroups(&socket, &NAMES);
    let text = textfile(folder.path(), &socket);
    assert!(text.contains("# TYPE manyland_decided_total counter\n"), "{text}");
    assert!(text.contains("# TYPE manyland_cgroup_cpu_seconds_total counter\n"), "{text}");
    assert!(text.contains("\nmanyland_cgroup_due_cpus{cgroup=\"/the.third\"} "), "{text}");
    assert!(text.contains("\nmanyland_up 1.0\n"), "{text}");
    assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");
}

#[test]
fn one_of_the_two_ways_is_needed_and_a_possible_number() {
    for args in [
        &["metrics"][..],
        &["metrics", "--listen", "1", "--textfile", "/a.prom"],
        &["metrics", "--listen", "1", "--stats-cgroups", "0"],
        &["metrics", "--listen", "1", "--stats-cgroups", "65"],
    ] {
        let run = Command::new(env!("CARGO_BIN_EXE_scx_manyland")).args(args).output().unwrap();
        assert_eq!(run.status.code(), Some(2), "{run:?}");
    }
}

/// Prometheus' own checker.
fn promtool(args: &[&str], input: &str) {
    let mut process = Command::new("promtool").args(args).stdin(Stdio::piped()).spawn().unwrap();
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(process.wait().unwrap().success(), "promtool {args:?} is not content");
}

#[test]
#[ignore = "needs promtool (Debian's package prometheus)"]
fn promtool_accepts_the_metrics() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("stats");
    let _played = Played::with_cgroups(&socket, &NAMES);
    promtool(&["check", "metrics"], &textfile(folder.path(), &socket));
}

#[test]
#[ignore = "needs promtool (Debian's package prometheus)"]
fn promtool_accepts_the_rules_and_they_fire() {
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/prometheus");
    promtool(&["check", "rules", packaging.join("alerts.yml").to_str().unwrap()], "");
    promtool(&["test", "rules", packaging.join("alerts_test.yml").to_str().unwrap()], "");
}

/// Each metric that the dashboard and the rules ask for is one that there is.
#[test]
fn the_dashboard_and_the_rules_ask_for_metrics_that_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("stats");
    let _played = Played::with_cgroups(&socket, &NAMES);
    let text = textfile(folder.path(), &socket);
    // These are there on a machine whose kernel has sched_ext.
    let of_kernel = "sched_ext_attachments_total 1\nsched_ext_events_total{event=\"x\"} 1\n";
    let samples: Vec<&str> =
        text.lines().chain(of_kernel.lines()).filter(|line| !line.starts_with('#')).collect();
    let rules = include_str!("../packaging/prometheus/alerts.yml");
    assert!(names(rules).len() > 3);
    for name in names(rules) {
        assert!(!labels(&samples, name).is_empty(), "a rule asks for {name}");
    }
    let dashboard = include_str!("../packaging/grafana/manyland.json");
    let dashboard: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut asked = 0;
    for target in targets {
        let (expr, legend) =
            (target["expr"].as_str().unwrap(), target["legendFormat"].as_str().unwrap());
        let names = names(expr);
        assert!(!names.is_empty(), "{expr} asks for nothing");
        for name in names {
            let labels = labels(&samples, name);
            assert!(!labels.is_empty(), "{expr}: there is no metric {name}");
            // Prometheus adds the instance.
            let of_series = ["instance", "le"].into_iter().chain(labels).collect::<Vec<_>>();
            for label in groupings(expr).into_iter().chain(in_braces(legend)) {
                assert!(of_series.contains(&label), "{expr}: {name} has no label {label}");
            }
            let is_counted = name.ends_with("_total") || name.ends_with("_bucket");
            let is_rate =
                ["rate(", "increase("].iter().any(|it| expr.contains(&format!("{it}{name}")));
            assert_eq!(is_rate, is_counted, "{expr}: a rate is one of a counter");
            asked += 1;
        }
    }
    assert!(asked >= 14, "{asked} metrics are asked for");
}

/// The names of metrics in an expression.
fn names(expr: &str) -> Vec<&str> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let ours = |word: &&str| word.starts_with("manyland_") || word.starts_with("sched_ext_");
    expr.split(|letter| !is_part(letter)).filter(ours).collect()
}

/// The labels of a metric's samples, with an empty one for a metric without any; none if there is no
/// such metric.
fn labels<'a>(samples: &[&'a str], name: &str) -> Vec<&'a str> {
    let of_it = samples.iter().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.starts_with([' ', '{']).then_some(rest)
    });
    let label = |pair: &'a str| pair.trim_start_matches('{').split('=').next().unwrap_or("");
    of_it.flat_map(|rest| rest.split(' ').next().unwrap_or("").split(',').map(label)).collect()
}

/// The labels of each `by (...)`.
fn groupings(expr: &str) -> Vec<&str> {
    let lists = expr.split("by (").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
    lists.flat_map(|list| list.split(',')).map(str::trim).collect()
}

/// The names in `{{...}}`.
fn in_braces(legend: &str) -> Vec<&str> {
    legend.split("{{").skip(1).filter_map(|rest| Some(rest.split_once("}}")?.0)).collect()
}
