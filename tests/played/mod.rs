//! A scheduler that a test plays: its statistics socket, without a scheduler.

use scx_manyland::abi::statistics::{DomainStatistics, Latencies, ProcessStatistics};
use scx_manyland::domains::latency::{BUCKETS, Snapshot};
use scx_manyland::ids::{CgroupId, DomainId};
use scx_manyland::run::cgroups::{Cgroup, Cgroups};
use scx_manyland::run::line::{DomainLine, Line};
use scx_manyland::run::protocol::{About, Reply, respond};
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// A scheduler that answers each request with more; gone when dropped.
pub struct Played {
    path: PathBuf,
    streams: Arc<Mutex<Vec<UnixStream>>>,
}

impl Played {
    /// Listens at a path. All tasks are in the root of cgroups.
    pub fn start(path: &Path) -> Played {
        Played::with_cgroups(path, &[])
    }

    /// The same with cgroups of these names that are busy, the first one most. Each second one has a
    /// limit.
    pub fn with_cgroups(path: &Path, cgroups: &'static [&'static str]) -> Played {
        let listener = UnixListener::bind(path).unwrap();
        let streams = Arc::new(Mutex::new(Vec::new()));
        let of_thread = streams.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                of_thread.lock().unwrap().push(stream.try_clone().unwrap());
                thread::spawn(move || answer(stream, cgroups));
            }
        });
        Played { path: path.to_owned(), streams }
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).unwrap();
        self.streams.lock().unwrap().iter().for_each(|it| it.shutdown(Shutdown::Both).unwrap());
    }
}

/// Answers with the totals of two domains. The second decides more often.
fn answer(stream: UnixStream, cgroups: &[&str]) {
    let mut requests = BufReader::new(stream.try_clone().unwrap()).lines();
    let counts = [const { AtomicU64::new(0) }; BUCKETS];
    let mut times = 0;
    while let Some(Ok(request)) = requests.next() {
        if request.contains("cgroups") {
            let mut output = Vec::new();
            respond(&mut output, 0, &busiest(cgroups, times));
            if (&stream).write_all(&output).is_err() {
                return;
            }
            continue;
        }
        times += 1;
        counts[60].fetch_add(100, Ordering::Relaxed);
        let mut latency = Snapshot::empty();
        latency.copy_from(&counts);
        let of = |id, decided| {
            let statistics = DomainStatistics {
                decided: decided * times,
                tasks: 11,
                waiting: 3,
                ..DomainStatistics::default()
            };
            DomainLine { id: DomainId(id), statistics }
        };
        let line = Line {
            domains: vec![of(0, 700), of(1, 900_000)],
            process: ProcessStatistics { rss_kib: 9876, ..ProcessStatistics::default() },
            cgroups: None,
        };
        let about = About {
            policy: "vruntime".to_owned(),
            domain: "l3".to_owned(),
            cpus: vec!["0-3".to_owned(), "4-7".to_owned()],
            options: serde_json::json!({ "slice_us": 4321 }),
        };
        let latency = Latencies { decision_us: latency.clone(), run_delay_us: latency };
        let latencies = vec![latency; 2];
        let reply = Reply {
            about: &about,
            seconds: times as f64,
            line: &line,
            thread_us: &[times * 125_000; 2],
            latencies: Some(&latencies),
        };
        let mut output = Vec::new();
        if request.contains("options") {
            respond(&mut output, 0, &about.options);
        } else {
            respond(&mut output, 0, &reply);
        }
        if (&stream).write_all(&output).is_err() {
            return;
        }
    }
}

/// What these cgroups had in the last of a number of seconds.
fn busiest(names: &[&str], times: u64) -> Cgroups {
    let cgroup = |(at, name): (usize, &&str)| {
        let (number, limit) = (at as u64 + 1, (at % 2 == 1).then_some(100_000));
        Cgroup {
            id: CgroupId(number),
            path: Some((*name).to_owned()),
            weight: 300,
            idle: false,
            quota_us: limit.map(|period| period / 2),
            period_us: limit,
            share: 0.5 / number as f64,
            used_us: 3_500_000 / number,
            total_us: 3_500_000 / number * times,
            runnable: 6,
            throttles: if limit.is_some() { 10 * times } else { 0 },
            throttled_us: if limit.is_some() { 250_000 * times } else { 0 },
        }
    };
    Cgroups { interval_seconds: 1.0, cgroups: names.iter().enumerate().map(cgroup).collect() }
}
