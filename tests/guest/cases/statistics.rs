//! The statistics: their form, what they count, and who reads them.

use crate::api::cgroups::Cgroup;
use crate::api::cpus::Offline;
use crate::api::load::{self, Hog};
use crate::api::scheduler::{self, Program, STATS, Scheduler};
use crate::api::{cpus, process, sched_ext, wait_until};
use crate::machine::Machine;
use crate::protocol::{STEADY, STUTTER};
use crate::suite::tests;
use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;
use scx_manyland::abi::domain_counts;
use scx_manyland::cpuset::CpuSet;
use scx_manyland::ids::CpuId;
use scx_manyland::run::client::{Client, PATH as SOCKET};
use scx_manyland::run::protocol::POWERS;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread::{self, sleep};
use std::time::Duration;

tests! {
    json_lines_are_complete: 90 s on L3X2;
    text_has_a_row_for_each_domain: 60 s on L3X2;
    the_delay_of_a_wake_up_is_counted: 60 s on L3X2;
    ends_when_nobody_reads: 60 s on L3X2;
    a_reader_that_stops_holds_up_nothing: 240 s on SLOW;
    the_programs_of_scx_are_answered: 90 s on L3X2 ANY_KERNEL;
    two_readers_have_their_own_intervals: 90 s on L3X2;
    readers_that_misbehave_are_refused: 120 s on L3X2;
    readers_wake_no_domain_thread: 90 s on L3X2;
    monitor_prints_what_a_scheduler_says: 180 s on L3X2;
    metrics_follow_the_scheduler: 180 s on L3X2;
    patience_is_as_long_as_timers_are_late: 240 s on L3X2;
}

const LONG: Duration = Duration::from_secs(60);

/// What each line says of each domain besides the counters.
const OTHER_KEYS: [&str; 6] = ["id", "tasks", "waiting", "ready", "unnotified", "nr_idle"];

const LATENCIES: [&str; 2] = ["decision_us", "run_delay_us"];

/// The names of the counters: the fields of the struct that both sides share.
fn counters() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    domain_counts::ZERO.for_each(|name, _| {
        names.insert(name.to_owned());
    });
    names
}

/// The most that the program may keep resident, of itself and for each domain.
const RSS_KIB: u64 = 16 << 10;
const RSS_KIB_PER_DOMAIN: u64 = 4 << 10;

/// Each line of JSON has all fields, counts from the line before it on, and tells of little memory.
pub fn json_lines_are_complete(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&STATS)?;
    load::hackbench(2, 200, LONG)?;
    let busy = scheduler.await_stats(1)?;
    // The line after the next covers nothing but idle time.
    let stats = scheduler.await_stats(2)?;
    let domains = cpus::l3s()?.len();
    let whole = scheduler.stdout();
    ensure!(
        whole.lines().all(|line| line.starts_with('{')),
        "there is more than JSON on standard output:\n{whole}"
    );
    for line in &stats.lines {
        is_complete(line, domains).with_context(|| format!("in {line}"))?;
        let rss = line["rss_kib"].as_u64().context("no rss_kib")?;
        let limit = RSS_KIB + RSS_KIB_PER_DOMAIN * domains as u64;
        ensure!(rss > 0 && rss <= limit, "{rss} KiB are resident; {limit} KiB are allowed");
    }
    // The default, or more where the guest's timers are late.
    for line in &stats.lines {
        let patience_us = line["patience_us"].as_u64().context("no patience_us")?;
        ensure!((1000..=801_000).contains(&patience_us), "CPUs wait for {patience_us} us");
    }
    ensure!(busy.sum("decided")? > 1000, "too little was decided under load to tell");
    for id in 0..domains {
        let delays = busy.lines.iter().map(|line| &line["domains"][id]["run_delay_us"]["p99"]);
        ensure!(delays.clone().any(Value::is_number), "domain {id}: no run delays under load");
    }
    ensure!(busy.sum("frequency")? > 0, "no CPU has asked for another frequency");
    let idle = stats.lines.last().context("no lines")?;
    for domain in idle["domains"].as_array().context("no domains")? {
        for field in
            ["queued", "decided", "late", "bypassed", "bounced", "frequency", "activations"]
        {
            let count = domain[field].as_u64().unwrap_or(u64::MAX);
            ensure!(count < 500, "after the load, {field} is {count} in a second: {idle}");
        }
        ensure!(domain["waiting"] == 0, "on an idle system tasks wait: {idle}");
    }
    println!("after the load: {idle}");
    scheduler.stop()
}

fn is_complete(line: &Value, domains: usize) -> Result<()> {
    ensure!(line["page_faults"].is_u64(), "no page_faults");
    let listed = line["domains"].as_array().context("no domains")?;
    ensure!(listed.len() == domains, "{} domains of {domains}", listed.len());
    let mut expected = counters();
    ensure!(expected.contains("decided"), "the counters' names cannot be read: {expected:?}");
    expected.extend(OTHER_KEYS.map(str::to_owned));
    expected.extend(LATENCIES.map(str::to_owned));
    for (id, domain) in listed.iter().enumerate() {
        let keys = domain.as_object().context("a domain is no object")?.keys().cloned();
        ensure!(keys.collect::<BTreeSet<_>>() == expected, "domain {id} has not {expected:?}");
        for field in expected.iter().filter(|field| !LATENCIES.contains(&field.as_str())) {
            ensure!(domain[field].is_u64(), "domain {id}: {field} is no number");
        }
        ensure!(domain["id"] == id, "the domains are not in order");
        for (name, percentile) in LATENCIES.into_iter().flat_map(|it| [(it, "p50"), (it, "p99")]) {
            let value = domain[name].get(percentile);
            let value = value.with_context(|| format!("{name} has no {percentile}"))?;
            let may_be_null = name != "decision_us" || domain["decided"] == 0;
            ensure!(
                value.is_number() || value.is_null() && may_be_null,
                "domain {id}: the {percentile} of {name} is {value}"
            );
        }
    }
    Ok(())
}

/// A task that wakes up while a real-time task has its CPU is counted with all of its delay.
pub fn the_delay_of_a_wake_up_is_counted(_: &Machine) -> Result<()> {
    /// The longest bound in the histogram, in nanoseconds.
    const BOUND_NS: u64 = 1 << *POWERS.end();
    let held = Duration::from_nanos(BOUND_NS + BOUND_NS / 10);
    let scheduler = Scheduler::start(&[])?;
    let cpu = CpuSet::from_iter([CpuId(1)]);
    let longer = || -> Result<u64> {
        let client = Client::connect(Path::new(SOCKET))?;
        let totals = client.context("no scheduler answers")?.totals()?;
        let delays = &totals.times.first().context("there are no histograms")?.run_delay_us;
        Ok(delays.below(u64::MAX) - delays.below(BOUND_NS))
    };
    let (tell, told) = mpsc::channel();
    let (wake, woken) = mpsc::channel::<()>();
    let of_sleeper = cpu;
    let sleeper = thread::spawn(move || -> Result<()> {
        process::bind(0, &of_sleeper)?;
        tell.send(nix::unistd::gettid())?;
        woken.recv()?;
        Ok(())
    });
    let tid = told.recv()?.as_raw();
    wait_until("the task sleeps", LONG, || process::state(tid).is_ok_and(|state| state == 'S'))?;
    let intruder = Hog::on(&cpu, LONG)?;
    process::choose_real_time(intruder.pid())?;
    let ran = intruder.run_time()?;
    wait_until("the real-time task has the CPU", LONG, || {
        intruder.run_time().is_ok_and(|now| now > ran + Duration::from_millis(50))
    })?;
    let before = longer()?;
    wake.send(())?;
    sleep(held);
    drop(intruder);
    sleeper.join().expect("it does not panic")?;
    let counted = longer()? - before;
    ensure!(counted > 0, "no delay of more than {BOUND_NS} ns is counted");
    scheduler.stop()
}

/// As text, each domain has a row.
pub fn text_has_a_row_for_each_domain(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&["--stats", "1"])?;
    wait_until("statistics are printed twice", Duration::from_secs(10), || {
        scheduler.stdout().matches("page faults").count() >= 2
    })?;
    let text = scheduler.stdout();
    println!("{text}");
    let mut lines = text.lines();
    let head = lines.next().context("no head")?;
    ensure!(head.trim_start().starts_with("domain"), "not a head: {head:?}");
    for _ in 0..2 {
        for id in 0..cpus::l3s()?.len() {
            let row: Vec<&str> = lines.next().context("no row")?.split_whitespace().collect();
            ensure!(row.first() == Some(&id.to_string().as_str()), "not domain {id}: {row:?}");
        }
        let last = lines.next().context("no last line")?;
        ensure!(last.contains("page faults") && last.contains("KiB"), "not the last: {last:?}");
    }
    scheduler.stop()
}

/// When nobody reads the statistics any more the program detaches and ends quietly, like other
/// programs.
pub fn ends_when_nobody_reads(_: &Machine) -> Result<()> {
    for output in ["2>/tmp/errors", "--stats-format json 2>/tmp/errors", "2>&1"] {
        fs::write("/tmp/errors", "")?;
        let run = scheduler::run_in_shell(&format!(
            "set -o pipefail; scx_manyland --stats 1 {output} | head -n 1"
        ))?;
        let errors = fs::read_to_string("/tmp/errors")?;
        println!("{run:?} {errors:?}");
        ensure!(run.code == Some(0), "{output}: the exit status is not 0: {run:?} {errors}");
        ensure!(run.stdout.lines().count() == 1, "{output}: not one line: {run:?}");
        ensure!(
            !errors.contains("panicked") && !errors.contains("pipe"),
            "{output}: there is an error: {errors}"
        );
        sched_ext::wait_for_state("disabled", Duration::from_secs(5))?;
    }
    Ok(())
}

/// A reader that reads no more holds up neither the end, nor an attachment after hotplug, wherever
/// its pipe is; once it reads again it gets whole lines.
pub fn a_reader_that_stops_holds_up_nothing(_: &Machine) -> Result<()> {
    let last = cpus::online()?.iter().last().context("no CPU is online")?;
    // Standard output alone, both outputs in one pipe, and standard error alone.
    for (out, err) in [(true, false), (true, true), (false, true)] {
        let (mut reader, writer) = full_pipe()?;
        let null = || File::options().write(true).open("/dev/null");
        let stdio = |full| match full {
            true => writer.try_clone().map(Stdio::from),
            false => null().map(Stdio::from),
        };
        let scheduler = Scheduler::start_with(&STATS, stdio(out)?, stdio(err)?)?;
        drop(writer);
        // Two lines have been due by then.
        sleep(Duration::from_millis(2500));
        let before = sched_ext::attachments();
        let gone = Offline::take(last)?;
        wait_until("it attaches again while its reader sleeps", LONG, || {
            sched_ext::attachments() > before && sched_ext::state() == "enabled"
        })
        .with_context(|| scheduler.plight())?;
        sleep(Duration::from_millis(2500));
        if !err {
            let mut lines = BufReader::new(&mut reader).lines().skip(FULL_PIPE_LINES);
            let line = lines.find(|line| line.as_ref().map_or(true, |it| it.starts_with('{')));
            let line = line.context("the output has ended")??;
            let domains = cpus::l3s()?.len();
            is_complete(&serde_json::from_str(&line)?, domains).with_context(|| line.clone())?;
        }
        drop(gone);
        scheduler.stop_with(Signal::SIGTERM)?;
    }
    Ok(())
}

/// A reader of the socket that speaks its protocol by itself.
struct Reader(BufReader<UnixStream>);

impl Reader {
    fn connect() -> Result<Reader> {
        let stream = UnixStream::connect(SOCKET).context("cannot connect")?;
        stream.set_read_timeout(Some(LONG))?;
        Ok(Reader(BufReader::new(stream)))
    }

    /// What is answered to bytes; empty if the connection is closed.
    fn ask(&mut self, bytes: &[u8]) -> Result<String> {
        self.0.get_mut().write_all(bytes)?;
        self.answer()
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line).context("no answer")?;
        Ok(line)
    }

    /// The statistics since the last answer.
    fn stats(&mut self) -> Result<Value> {
        let line = self.ask(b"{\"req\": \"stats\", \"args\": {}}\n")?;
        let mut answer: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        ensure!(answer["errno"] == 0, "{line}");
        Ok(answer["args"]["resp"].take())
    }
}

/// A count of an answer of the socket, summed over all domains.
fn sum(answer: &Value, field: &str) -> Result<u64> {
    let domains = answer["domains"].as_object().context("no domains")?;
    domains.values().map(|it| it[field].as_u64().with_context(|| format!("no {field}"))).sum()
}

/// What scxtop, the `--monitor` of other schedulers and the OpenMetrics script of the scx project
/// send is answered as they expect it; the socket is root's alone, and goes with the scheduler.
pub fn the_programs_of_scx_are_answered(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&[])?;
    wait_until("the socket is there", LONG, || Reader::connect().is_ok())?;
    let mode = fs::metadata(SOCKET)?.permissions().mode() & 0o7777;
    ensure!(mode == 0o600, "the socket's mode is {mode:o}");
    load::hackbench(1, 50, LONG)?;
    let mut reader = Reader::connect()?;
    for (request, fields) in [
        ("{\"req\":\"stats\",\"args\":{}}\n", ["domains", "patience_us"]),
        ("{\"req\":\"stats\",\"args\":{\"target\":\"top\"}}\n", ["domains", "version"]),
        ("{\"req\":\"stats_meta\",\"args\":{}}\n", ["Manyland", "ManylandDomain"]),
        ("{\"req\": \"stats_meta\", \"args\": {}}\n", ["Manyland", "ManylandDomain"]),
        ("{\"req\": \"stats\", \"args\": {}}\n", ["domains", "interval_seconds"]),
    ] {
        let line = reader.ask(request.as_bytes())?;
        let answer: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        ensure!(answer["errno"] == 0, "{request}: {line}");
        for field in fields {
            ensure!(!answer["args"]["resp"][field].is_null(), "{request}: no {field}: {line}");
        }
    }
    let expected: BTreeSet<String> = counters();
    let stats = reader.stats()?;
    for (id, domain) in stats["domains"].as_object().context("no domains")? {
        for field in &expected {
            ensure!(domain[field].is_u64(), "domain {id} has no {field}: {stats}");
        }
        ensure!(!domain["cpus"].as_str().unwrap_or_default().is_empty(), "no CPUs: {stats}");
    }
    let totals = reader.ask(b"{\"req\":\"stats\",\"args\":{\"target\":\"totals\"}}\n")?;
    let totals: Value = serde_json::from_str(&totals)?;
    let decided = sum(&totals["args"]["resp"], "decided")?;
    ensure!(decided > 100, "{decided} decisions since it attached: {totals}");
    scheduler.stop()?;
    ensure!(!Path::new(SOCKET).exists(), "the socket is left");
    ensure!(reader.answer().unwrap_or_default().is_empty(), "the connection goes on");
    Ok(())
}

/// What one reader reads is not missing for another, and the load is in the interval of each.
pub fn two_readers_have_their_own_intervals(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&[])?;
    wait_until("the socket is there", LONG, || Reader::connect().is_ok())?;
    let (mut often, mut once) = (Reader::connect()?, Reader::connect()?);
    let mut seen = 0;
    for _ in 0..3 {
        load::hackbench(1, 50, LONG)?;
        let stats = often.stats()?;
        let busy = sum(&stats, "decided")? + sum(&stats, "bypassed")?;
        ensure!(busy > 100, "the load is not there: {stats}");
        seen += busy;
    }
    let stats = once.stats()?;
    let all = sum(&stats, "decided")? + sum(&stats, "bypassed")?;
    ensure!(all >= seen, "one reader saw {seen}, and the other {all} over a longer time");
    let seconds = |stats: &Value| stats["interval_seconds"].as_f64().context("no seconds");
    let whole = seconds(&stats)?;
    let (first, second) = (often.stats()?, often.stats()?);
    ensure!(seconds(&second)? < whole, "{second} after {first} is of a longer time than {whole} s");
    // The late reader's interval begins when it connects.
    let stats = Reader::connect()?.stats()?;
    ensure!(sum(&stats, "decided")? + sum(&stats, "bypassed")? < seen / 2, "not its own: {stats}");
    scheduler.stop()
}

/// Connections that are left, requests that are none, and a megabyte without a newline are refused
/// with a line each. The memory does not grow, and the scheduler goes on.
pub fn readers_that_misbehave_are_refused(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&STATS)?;
    wait_until("the socket is there", LONG, || Reader::connect().is_ok())?;
    load::hackbench(1, 50, LONG)?;
    let rss_kib = || process::status_kib(scheduler.pid(), "VmRSS");
    let before = rss_kib()?;
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", scheduler.pid())).map(Iterator::count);
    let few = descriptors()?;
    {
        let mut left = Vec::new();
        let mut refused = 0;
        for _ in 0..1000 {
            let mut reader = Reader::connect()?;
            // One that is refused can read why; one that has room is asked nothing.
            if left.len() >= 16 {
                let line = reader.answer()?;
                ensure!(line.contains("\"errno\":16") && line.ends_with('\n'), "{line:?}");
                refused += 1;
            }
            left.push(reader);
        }
        let many = descriptors()?;
        ensure!(refused == 984 && many <= few + 16, "{many} descriptors, {few} before");
        // Those that have room are served as before.
        sum(&left[0].stats()?, "decided")?;
    }
    wait_until("there is room again", LONG, || {
        Reader::connect().and_then(|mut it| it.stats()).is_ok()
    })?;
    for nonsense in [&b"nonsense\n"[..], b"{\"req\":\"reboot\"}\n", b"\n", b"\xff\0\n"] {
        let mut reader = Reader::connect()?;
        let line = reader.ask(nonsense)?;
        ensure!(line.contains("\"errno\":22") && line.ends_with('\n'), "{line:?}");
        reader.stats().context("the connection is good for another request")?;
    }
    let mut long = Reader::connect()?;
    // It may be closed before all of it is sent.
    let _ = long.0.get_mut().write_all(&vec![b'x'; 1 << 20]);
    let line = long.answer()?;
    ensure!(line.contains("\"errno\":7"), "{line:?}");
    ensure!(long.answer().unwrap_or_default().is_empty(), "the connection goes on");
    // Asks and never reads.
    let mut deaf = Reader::connect()?;
    deaf.0.get_mut().set_nonblocking(true)?;
    let asked = (0..100_000).find(|_| deaf.0.get_mut().write(b"{\"req\":\"stats\"}\n").is_err());
    println!("one that does not read could ask {asked:?} times");
    ensure!(asked.is_some(), "its requests are all accepted");
    Reader::connect()?.stats().context("another reader is held up")?;
    let after = rss_kib()?;
    ensure!(after <= before + 1024, "{before} KiB became {after} KiB");
    let lines = scheduler.stats()?.lines.len();
    load::hackbench(1, 200, LONG)?;
    let mut stats = scheduler.await_stats(1)?;
    stats.lines.drain(..lines);
    ensure!(stats.sum("decided")? > 100, "the domains decide no more");
    scheduler.stop_with(Signal::SIGTERM)
}

/// Readers are the main thread's work. On an idle machine a domain thread sleeps, so if it made a system
/// call for a request it would be switched in for it, and sleep again.
pub fn readers_wake_no_domain_thread(_: &Machine) -> Result<()> {
    const REQUESTS: u64 = 400;
    let scheduler = Scheduler::start(&[])?;
    wait_until("the socket is there", LONG, || Reader::connect().is_ok())?;
    let threads = scheduler.domain_threads()?;
    let slept = || -> Result<Vec<u64>> {
        let times = |thread: &process::Thread| {
            Ok(process::status(thread.tid, "voluntary_ctxt_switches")?.parse()?)
        };
        threads.iter().map(times).collect()
    };
    let grew = |before: &[u64]| -> Result<Vec<u64>> {
        Ok(slept()?.iter().zip(before).map(|(now, then)| now - then).collect())
    };
    let (mut often, mut seldom) = (Reader::connect()?, Reader::connect()?);
    let before = slept()?;
    for _ in 0..REQUESTS {
        often.stats()?;
    }
    let with_reader = grew(&before)?;
    seldom.stats()?;
    // The measure shows what a domain thread does.
    let before = slept()?;
    load::hackbench(2, 200, LONG)?;
    let with_load = grew(&before)?;
    println!("slept {with_reader:?} times in {REQUESTS} requests, {with_load:?} under load");
    ensure!(with_reader.iter().all(|&times| times < REQUESTS / 2), "{with_reader:?}");
    ensure!(with_load.iter().sum::<u64>() > REQUESTS, "{with_load:?}");
    scheduler.stop()
}

/// `--monitor` waits for a scheduler, prints its lines in either form, and goes on with the next.
pub fn monitor_prints_what_a_scheduler_says(_: &Machine) -> Result<()> {
    let lines = |text: String| text.lines().count();
    let json = Program::start(&["--monitor", "0.2", "--stats-format", "json"])?;
    let text = Program::start(&["--monitor", "0.5"])?;
    wait_until("it says that it waits", LONG, || json.said().contains("no scheduler runs"))?;
    for _ in 0..2 {
        let before = (lines(json.stdout()), lines(text.stdout()));
        let scheduler = Scheduler::start(&[])?;
        wait_until("lines are printed", LONG, || {
            lines(json.stdout()) > before.0 + 3 && lines(text.stdout()) > before.1 + 6
        })?;
        let nobody = scheduler::run_as_nobody(&["--monitor", "1"])?;
        ensure!(nobody.code == Some(1) && nobody.stderr.contains("sudo"), "{nobody:?}");
        scheduler.stop()?;
    }
    let domains = cpus::l3s()?.len();
    for line in json.stdout().lines() {
        is_complete(&serde_json::from_str(line)?, domains).with_context(|| line.to_owned())?;
    }
    let printed = text.stdout();
    ensure!(printed.trim_start().starts_with("domain"), "{printed}");
    ensure!(printed.contains("page faults"), "{printed}");
    Ok(())
}

/// `metrics` says whether a scheduler runs, over a hotplug and two runs, what the kernel counts, and
/// what cgroups had, under their names.
pub fn metrics_follow_the_scheduler(_: &Machine) -> Result<()> {
    const ADDRESS: &str = "127.0.0.1:9810";
    let exporter = Program::start(&["metrics", "--listen", "9810", "--stats-cgroups", "4"])?;
    let scrape = || -> Result<String> {
        let mut stream = TcpStream::connect(ADDRESS).context("cannot connect")?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n")?;
        Ok(io::read_to_string(stream)?)
    };
    let says = |what: &str| {
        wait_until(&format!("metrics say {what}"), LONG, || {
            scrape().is_ok_and(|text| text.contains(what))
        })
        .with_context(|| format!("{:?} {}", scrape(), exporter.said()))
    };
    // The value of a metric of the first domain.
    let of_first = |name: &str| -> Result<f64> {
        let text = scrape()?;
        let start = format!("{name}{{domain=\"0\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&start));
        Ok(value.with_context(|| format!("no {name} in {text}"))?.parse()?)
    };
    says("manyland_up 0.0")?;
    for _ in 0..2 {
        let scheduler = Scheduler::start(&[])?;
        says("manyland_up 1.0")?;
        says("sched_ext_events_total{event=\"")?;
        let busy = Cgroup::new("busy")?;
        busy.set("cpu.weight", "200")?;
        let hogs = busy.hogs(1, LONG)?;
        says("manyland_cgroup_weight{cgroup=\"/busy\"} 200.0")?;
        drop((hogs, busy));
        load::hackbench(2, 100, LONG)?;
        ensure!(of_first("manyland_decided_total")? > 100.0, "nothing is decided");
        let time = of_first("manyland_thread_cpu_seconds_total")?;
        let limit = of_first("manyland_decision_latency_seconds_count")?;
        ensure!(time > 0.0 && limit > 100.0, "the thread ran for {time} s, {limit} latencies");
        let last = cpus::online()?.iter().last().context("no CPU is online")?;
        let before = sched_ext::attachments();
        drop(Offline::take(last)?);
        wait_until("it attaches again", LONG, || sched_ext::attachments() > before)?;
        says("manyland_up 1.0")?;
        scheduler.stop()?;
        says("manyland_up 0.0")?;
    }
    Ok(())
}

/// How many lines a full pipe has in it.
const FULL_PIPE_LINES: usize = 2048;

/// A pipe that nothing more fits into.
fn full_pipe() -> Result<(PipeReader, PipeWriter)> {
    let (reader, mut writer) = io::pipe()?;
    let size = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096))?;
    ensure!(size as usize == 2 * FULL_PIPE_LINES, "the pipe has room for {size} bytes");
    writer.write_all(" \n".repeat(FULL_PIPE_LINES).as_bytes())?;
    Ok((reader, writer))
}

/// Where the host takes the CPUs away again and again, timers are late, and CPUs wait longer for
/// their threads; no longer than that.
pub fn patience_is_as_long_as_timers_are_late(_: &Machine) -> Result<()> {
    const LONGER_US: u64 = 100_000;
    let scheduler = Scheduler::start(&STATS)?;
    let patience_us = || {
        let stats = scheduler.stats().ok()?;
        stats.lines.last()?["patience_us"].as_u64()
    };
    println!("{STUTTER}");
    wait_until("CPUs wait longer for their threads", LONG, || {
        patience_us().is_some_and(|us| us >= LONGER_US)
    })?;
    println!("{STEADY}");
    wait_until("CPUs wait no longer than before", 2 * LONG, || {
        patience_us().is_some_and(|us| us < LONGER_US)
    })?;
    scheduler.stop()
}
