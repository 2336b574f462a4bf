//! `requests`: message threads wake workers, as in schbench (`schbench -m M -t T -n 1 -F 16 -L`).
//!
//! 1. A worker reports to its message thread and sleeps.
//! 2. The message thread wakes all workers that have reported.
//! 3. A worker that was woken answers a request: it waits, as if for a disk or a network, and then
//!    multiplies matrices.
//!
//! The wake-up latency runs from just before the wake-up to the worker's first step, a request from
//! there to its end.

use super::latency::{Latencies, Unit};
use super::{Done, Outcome};
use crate::cli::bench::reading::Reading;
use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Barrier, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// How many threads wake others.
    pub message_threads: usize,
    /// How many workers each of them wakes.
    pub workers: usize,
    /// How many times a request multiplies its matrices.
    pub operations: usize,
    /// The size of the three matrices together, in KiB.
    pub footprint_kib: usize,
}

impl Settings {
    pub fn describe(&self) -> String {
        format!("{} message threads, {} workers each", self.message_threads, self.workers)
    }
}

/// The wait at the start of a request.
const WAIT: Duration = Duration::from_micros(100);

/// Answers requests for the duration.
pub fn run(settings: &Settings, duration: Duration) -> Result<Outcome> {
    let stop = AtomicBool::new(false);
    // All begin together, once all threads have started.
    let begin = Barrier::new(settings.message_threads * settings.workers + 1);
    let (mut wakeups, mut requests) = (Latencies::new()?, Latencies::new()?);
    let mut elapsed = Duration::ZERO;
    thread::scope(|scope| -> Result<()> {
        let mut workers = Vec::new();
        for _ in 0..settings.message_threads {
            let desks: Arc<[Desk]> = (0..settings.workers).map(|_| Desk::default()).collect();
            let (report, reports) = channel();
            for number in 0..settings.workers {
                let (stop, begin) = (&stop, &begin);
                let (desks, report) = (desks.clone(), report.clone());
                workers.push(scope.spawn(move || {
                    begin.wait();
                    work(settings, &desks[number], stop, || report.send(number).is_ok())
                }));
            }
            scope.spawn(move || wake(&desks, &reports));
        }
        begin.wait();
        let start = Instant::now();
        thread::sleep(duration);
        stop.store(true, Ordering::Relaxed);
        elapsed = start.elapsed();
        for worker in workers {
            let log = worker.join().map_err(|_| anyhow!("a worker panicked"))??;
            wakeups.add(&log.wakeups)?;
            requests.add(&log.requests)?;
        }
        Ok(())
    })?;
    let count = requests.count();
    let mut readings = wakeups.readings("wake-up", &[50.0, 99.0, 99.9], Unit::Microseconds)?;
    readings.insert(0, Reading::higher("requests", "1/s", count as f64 / elapsed.as_secs_f64()));
    readings.extend(requests.readings("request", &[99.0], Unit::Microseconds)?);
    Ok(Outcome { readings, done: Some(Done { count, what: "request".into() }) })
}

/// Where a message thread wakes a worker.
#[derive(Default)]
struct Desk {
    worker: OnceLock<Thread>,
    /// When the message thread woke it, in nanoseconds by [`now_ns`]; 0 while it has not.
    woken_at: AtomicU64,
}

/// What a worker has measured.
struct Log {
    wakeups: Latencies,
    requests: Latencies,
}

/// A moment as a number that is never 0.
fn now_ns() -> u64 {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    EPOCH.get_or_init(Instant::now).elapsed().as_nanos() as u64 + 1
}

/// The life of a message thread, which ends with its last worker.
fn wake(desks: &[Desk], reports: &Receiver<usize>) {
    while let Ok(first) = reports.recv() {
        for number in std::iter::once(first).chain(reports.try_iter()) {
            let desk = &desks[number];
            // Release pairs with the worker's load, so that it sees the moment of its wake-up.
            desk.woken_at.store(now_ns(), Ordering::Release);
            desk.worker.get().expect("a worker sits down before it reports").unpark();
        }
    }
}

fn work(
    settings: &Settings,
    desk: &Desk,
    stop: &AtomicBool,
    report: impl Fn() -> bool,
) -> Result<Log> {
    let mut log = Log { wakeups: Latencies::new()?, requests: Latencies::new()? };
    let mut matrices = Matrices::new(settings.footprint_kib);
    desk.worker.set(thread::current()).ok().context("two workers share a desk")?;
    while !stop.load(Ordering::Relaxed) {
        desk.woken_at.store(0, Ordering::Relaxed);
        if !report() {
            return Err(anyhow!("a message thread is gone"));
        }
        let woken_at = loop {
            thread::park();
            match desk.woken_at.load(Ordering::Acquire) {
                0 => {}
                at => break at,
            }
        };
        let began = now_ns();
        log.wakeups.record(Duration::from_nanos(began.saturating_sub(woken_at)));
        thread::sleep(WAIT);
        for _ in 0..settings.operations {
            matrices.multiply();
        }
        log.requests.record(Duration::from_nanos(now_ns() - began));
    }
    Ok(log)
}

/// Two square matrices and their product.
struct Matrices {
    size: usize,
    a: Vec<f64>,
    b: Vec<f64>,
    product: Vec<f64>,
}

impl Matrices {
    fn new(footprint_kib: usize) -> Self {
        let numbers = footprint_kib * 1024 / size_of::<f64>() / 3;
        let size = numbers.isqrt().max(1);
        let matrix = |factor: f64| (0..size * size).map(|i| i as f64 * factor).collect();
        Self { size, a: matrix(1.0), b: matrix(0.5), product: matrix(0.0) }
    }

    fn multiply(&mut self) {
        let (a, b) = (black_box(&self.a), black_box(&self.b));
        for row in 0..self.size {
            for column in 0..self.size {
                let terms =
                    (0..self.size).map(|k| a[row * self.size + k] * b[k * self.size + column]);
                self.product[row * self.size + column] = terms.sum();
            }
        }
        black_box(&self.product);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_fill_their_footprint_and_are_multiplied() {
        assert_eq!(Matrices::new(16).size, 26);
        let mut matrices = Matrices {
            size: 2,
            a: vec![1., 2., 3., 4.],
            b: vec![5., 6., 7., 8.],
            product: vec![0.; 4],
        };
        matrices.multiply();
        assert_eq!(matrices.product, [19., 22., 43., 50.]);
    }
}
