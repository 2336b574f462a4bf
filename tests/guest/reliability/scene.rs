//! How a row is measured: the load, the probe, and what is looked at afterwards.

use super::{End, Row};
use crate::api::load::{Hackbench, Hog, Probe};
use crate::api::process;
use crate::api::scheduler::Scheduler;
use crate::api::{cpus, sched_ext, wait_until};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// In how much time a row is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// A few seconds under ours, for `make test`.
    Short,
    /// In full, under the kernel's own scheduler and under ours.
    Full,
}

/// What a fault finds.
pub struct Scene {
    /// The scheduler; `None` while the load runs under the kernel's own.
    pub scheduler: Option<Scheduler>,
    /// How long the fault is to last.
    pub time: Duration,
    extent: Extent,
    began: Instant,
}

impl Scene {
    fn new(scheduler: Option<Scheduler>, extent: Extent) -> Scene {
        let time = Duration::from_secs(if extent == Extent::Full { 20 } else { 4 });
        Scene { scheduler, time, extent, began: Instant::now() }
    }

    /// A part of a longer run.
    pub fn part(scheduler: Scheduler, time: Duration) -> Scene {
        Scene { scheduler: Some(scheduler), time, extent: Extent::Short, began: Instant::now() }
    }

    /// How many of something there are to be, in full and for a short run.
    pub fn number(&self, full: usize, short: usize) -> usize {
        if self.extent == Extent::Full { full } else { short }
    }

    /// The fault is in place now: the time begins.
    pub fn begin(&mut self) {
        self.began = Instant::now();
    }

    /// What is left of the time.
    pub fn left(&self) -> Duration {
        self.time.saturating_sub(self.began.elapsed())
    }

    /// Lets the time pass.
    pub fn pass(&self) {
        thread::sleep(self.left());
    }
}

/// How long tasks may take to end when they were told to, before they count as lost. Generous: a
/// storm of thousands ends one by one, on emulated CPUs.
const LAST_WAIT: Duration = Duration::from_secs(180);

/// The bar for a row's delay: so many times that of the kernel's own scheduler, or so much if that
/// is more.
const BAR_RATIO: u32 = 2;
const BAR_FLOOR: Duration = Duration::from_millis(50);

/// What became of a row under one scheduler.
struct Outcome {
    worst: Duration,
    lost: Vec<String>,
    exits: usize,
    page_faults: Option<u64>,
    resumed: Result<()>,
}

/// Runs a row, and prints its line of the table if it runs in full.
pub fn run(row: &Row, extent: Extent) -> Result<()> {
    if let Ok(seed) = std::env::var("SEED") {
        fastrand::seed(seed.parse().context("SEED must be a number")?);
    }
    let kernels = match extent {
        Extent::Full => Some(measure(row, Scene::new(None, extent)).context("without us")?),
        Extent::Short => None,
    };
    let ours = measure(row, Scene::new(Some((row.start)()?), extent))?;
    println!("{row}: {} page faults, worst delay {:?}", ours.page_faults.unwrap_or(0), ours.worst);
    if let Some(kernels) = kernels {
        println!("row: {}", line(row, &ours, &kernels));
    }
    ensure!(ours.lost.is_empty(), "tasks lost: {}", ours.lost.join(", "));
    ensure!(ours.exits == 0, "the kernel threw the scheduler out");
    ensure!(
        ours.page_faults.unwrap_or(0) == 0,
        "the scheduler took {:?} page faults",
        ours.page_faults
    );
    ours.resumed
}

/// A line of the table.
fn line(row: &Row, ours: &Outcome, kernels: &Outcome) -> String {
    let ms = |time: Duration| format!("{} ms", time.as_millis());
    let bar = (kernels.worst * BAR_RATIO).max(BAR_FLOOR);
    let bar = match (row.has_bar, ours.worst <= bar) {
        (false, _) => "-",
        (true, true) => "yes",
        (true, false) => "**no**",
    };
    let resumed = match (row.end, &ours.resumed) {
        (End::Decides, Ok(())) => "yes",
        (End::Leaves, Ok(())) => "the kernel's own is back",
        (End::Stays, Ok(())) => "-",
        (_, Err(_)) => "**no**",
    };
    let faults = ours.page_faults.map_or("-".to_owned(), |faults| faults.to_string());
    format!(
        "| {row} | {} | {} | {} | {} | {bar} | {resumed} | {faults} |",
        ours.lost.len(),
        ours.exits,
        ms(ours.worst),
        ms(kernels.worst),
    )
}

fn measure(row: &Row, mut scene: Scene) -> Result<Outcome> {
    let mut load = Load::start()?;
    thread::sleep(Duration::from_secs(1));
    let probe = Probe::start();
    scene.begin();
    (row.fault)(&mut scene).with_context(|| match &scene.scheduler {
        Some(scheduler) => format!("the scheduler said:\n{}", scheduler.said()),
        None => "during the fault".to_owned(),
    })?;
    scene.pass();
    let worst = probe.worst_delay();
    let resumed = scene.scheduler.as_mut().map_or(Ok(()), |scheduler| ended_well(row, scheduler));
    let lost = load.stop(scene.scheduler.as_ref())?;
    let mut outcome = Outcome { worst, lost, exits: 0, page_faults: None, resumed };
    if let Some(mut scheduler) = scene.scheduler {
        let thrown_out = scheduler.said().matches("has ended the scheduler").count();
        let gone = row.end != End::Leaves && scheduler.has_ended()?;
        outcome.exits = thrown_out.max(gone.into());
        if row.end == End::Decides {
            outcome.page_faults = Some(scheduler.stats()?.sum_of_process("page_faults")?);
        }
        if row.end == End::Leaves || gone {
            println!("{}", scheduler.said());
        } else if outcome.lost.is_empty() {
            scheduler.stop()?;
        }
    }
    Ok(outcome)
}

/// The fault has left of the scheduler what it should.
fn ended_well(row: &Row, scheduler: &mut Scheduler) -> Result<()> {
    match row.end {
        End::Decides => scheduler.decisions_resume(),
        End::Stays => {
            ensure!(sched_ext::state() == "enabled", "sched_ext is {}", sched_ext::state());
            Ok(())
        }
        End::Leaves => {
            sched_ext::wait_for_state("disabled", Duration::from_secs(5))?;
            wait_until("the scheduler's process has ended", Duration::from_secs(5), || {
                scheduler.has_ended().unwrap_or(false)
            })
        }
    }
}

/// A hog for each CPU, and hackbench over and over.
pub struct Load {
    hogs: Vec<Hog>,
    hackbench: JoinHandle<Result<usize>>,
    enough: Arc<AtomicBool>,
}

impl Load {
    pub fn start() -> Result<Load> {
        const LONG: Duration = Duration::from_secs(3600);
        let hogs =
            (0..cpus::online()?.len()).map(|_| Hog::anywhere(LONG)).collect::<Result<Vec<_>>>()?;
        let enough = Arc::new(AtomicBool::new(false));
        let is_enough = enough.clone();
        let hackbench = thread::spawn(move || {
            let mut rounds = 0;
            while !is_enough.load(Ordering::Relaxed) {
                Hackbench::start(1, 100, LONG)?.finish()?;
                rounds += 1;
            }
            Ok(rounds)
        });
        Ok(Load { hogs, hackbench, enough })
    }

    /// Ends it and everything else that a fault has started, and names the tasks that do not end.
    pub fn stop(&mut self, scheduler: Option<&Scheduler>) -> Result<Vec<String>> {
        self.enough.store(true, Ordering::Relaxed);
        for hog in &self.hogs {
            // A hog that is killed has to run once more to end.
            kill(Pid::from_raw(hog.pid()), Signal::SIGKILL).context("cannot kill a hog")?;
        }
        let known = [1, getppid().as_raw(), std::process::id() as i32];
        let of_scheduler = scheduler.map_or(Vec::new(), Scheduler::pids);
        let rest = || {
            let mut programs = process::programs();
            programs.retain(|it| !known.contains(&it.pid) && !of_scheduler.contains(&it.pid));
            programs
        };
        // Until its thread has ended, hackbench may start once more.
        let are_gone = || self.hackbench.is_finished() && rest().is_empty();
        let _ = wait_until("all tasks have ended", LAST_WAIT, are_gone);
        let mut lost: Vec<String> = rest()
            .into_iter()
            .flat_map(|it| process::threads(it.pid).unwrap_or_default())
            .map(|thread| {
                let state = process::state(thread.tid).unwrap_or('?');
                format!("{} {} ({state})", thread.tid, thread.name)
            })
            .collect();
        if !self.hackbench.is_finished() {
            lost.push("the thread that runs hackbench".to_owned());
        }
        if lost.is_empty() {
            self.hogs.clear();
            let over = mem::replace(&mut self.hackbench, thread::spawn(|| Ok(0)));
            let rounds = over.join().expect("it does not panic")?;
            println!("hackbench finished {rounds} times");
        }
        Ok(lost)
    }
}
