//! Plays a workload with real threads, under whatever scheduler the machine has, and prints the
//! same figures for it as `scx_manyland simulate --format json`: to see how far the simulator is
//! from a real machine.
//!
//!     play WORKLOAD SECONDS
//!
//! A run lasts for so much CPU time as the workload says, as rt-app's `runtime` does. If one lasts
//! longer, the thread's next one is shorter: the CPUs of a guest whose clock counts instructions
//! alternate, so a thread that is done sees it only when its CPU comes again.
//!
//! The run delay is the kernel's own (`/proc/TID/schedstat`), of which there are only the sum and
//! the count, so the figure is a mean. Threads wait for each other in lines as the simulator's
//! tasks do, first come, first served, each parked on a futex of its own. Tasks that fork others
//! are not played. A pipe is played as a semaphore.

use anyhow::{Context, Result, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, gettid};
use scx_manyland::simulator::measure::jain;
use scx_manyland::simulator::workload::{Group, Loops, Phase, Priority, Step, Timer, Workload};
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// What the threads share.
struct Shared {
    /// Turns of an empty loop that take some microseconds.
    turns: u64,
    lines: Mutex<Lines>,
    start: Instant,
    end: Instant,
}

/// A thread that waits until another lets it go on.
struct Waiter {
    thread: Thread,
    free: AtomicBool,
}

/// Who holds and waits for what.
struct Lines {
    held: Vec<bool>,
    mutexes: Vec<VecDeque<Arc<Waiter>>>,
    conditions: Vec<VecDeque<Arc<Waiter>>>,
    semaphores: Vec<(u64, VecDeque<Arc<Waiter>>)>,
    barriers: Vec<Vec<Arc<Waiter>>>,
    timers: Vec<Option<Duration>>,
}

impl Waiter {
    fn here() -> Arc<Waiter> {
        Arc::new(Waiter { thread: thread::current(), free: AtomicBool::new(false) })
    }

    fn let_go(&self) {
        // Pairs with the load in Player::wait.
        self.free.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

impl Lines {
    /// Lets the first go on that waits at a condition; whether there was one.
    fn signal(&mut self, condition: usize) -> bool {
        self.conditions[condition].pop_front().map(|next| next.let_go()).is_some()
    }

    /// Gives a mutex to whoever has waited for it longest.
    fn unlock(&mut self, mutex: usize) {
        match self.mutexes[mutex].pop_front() {
            Some(next) => next.let_go(),
            None => self.held[mutex] = false,
        }
    }
}

/// What a thread did.
struct Played {
    passes: u64,
    cpu: Duration,
    delay: Duration,
    runs: u64,
}

/// The figures of a group.
#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    tasks: usize,
    passes: u64,
    passes_per_s: f64,
    cpu_s: f64,
    runs: u64,
    run_delay_mean_us: f64,
    fairness: Option<f64>,
}

/// The time of the run is over.
struct Over;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, name, seconds] = &args[..] else { bail!("usage: play WORKLOAD SECONDS") };
    let workload = Workload::load(name)?;
    let length = Duration::from_secs_f64(seconds.parse().context("SECONDS must be a number")?);
    let forks = |step: &Step| matches!(step, Step::Fork(_));
    if workload
        .groups
        .iter()
        .flat_map(|group| &group.phases)
        .flat_map(|phase| &phase.steps)
        .any(forks)
    {
        bail!("tasks that fork others are not played");
    }
    let turns = calibrate();
    let start = Instant::now();
    let shared = Shared {
        turns,
        lines: Mutex::new(Lines {
            held: vec![false; workload.mutexes],
            mutexes: vec![VecDeque::new(); workload.mutexes],
            conditions: vec![VecDeque::new(); workload.conditions],
            semaphores: vec![(0, VecDeque::new()); workload.semaphores],
            barriers: vec![Vec::new(); workload.barriers.len()],
            timers: vec![None; workload.timers],
        }),
        start,
        end: start + length,
    };
    let (shared, workload) = (&shared, &workload);
    let groups: Vec<Vec<Played>> = thread::scope(|scope| {
        let started: Vec<Vec<_>> = workload
            .groups
            .iter()
            .map(|group| {
                let spawn = |_| {
                    let born = shared.start.elapsed();
                    scope.spawn(move || play(group, workload, shared, born))
                };
                (0..group.instances).map(spawn).collect()
            })
            .collect();
        started
            .into_iter()
            .map(|threads| {
                threads
                    .into_iter()
                    .map(|thread| thread.join().expect("it plays to its end"))
                    .collect()
            })
            .collect()
    });
    let ran = start.elapsed().as_secs_f64();
    for (group, played) in workload.groups.iter().zip(groups) {
        let cpu: Vec<f64> = played.iter().map(|played| played.cpu.as_secs_f64()).collect();
        let passes: u64 = played.iter().map(|played| played.passes).sum();
        let delay: Duration = played.iter().map(|played| played.delay).sum();
        let runs: u64 = played.iter().map(|played| played.runs).sum();
        let line = Line {
            name: &group.name,
            tasks: played.len(),
            passes,
            passes_per_s: passes as f64 / ran,
            cpu_s: cpu.iter().sum(),
            runs,
            run_delay_mean_us: delay.as_secs_f64() * 1e6 / runs.max(1) as f64,
            fairness: jain(&cpu),
        };
        println!("{}", serde_json::to_string(&line)?);
    }
    Ok(())
}

fn play(group: &Group, workload: &Workload, shared: &Shared, born: Duration) -> Played {
    thread::sleep(Duration::from_nanos(group.delay_ns));
    let timers = vec![None; group.own_timers];
    let mut player = Player { shared, workload, timers, born, ahead: Duration::ZERO, passes: 0 };
    // The end of the time is the only way out of a loop without one.
    let _ = player.play(group);
    let (delay, runs) = run_delay();
    Played { passes: player.passes, cpu: cpu_time(), delay, runs }
}

fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a thread has a clock").into()
}

fn spin(turns: u64) {
    for turn in 0..turns {
        std::hint::black_box(turn);
    }
}

/// How many turns of an empty loop take about 20 microseconds: asking for the time is a system
/// call, and in a guest a slow one.
fn calibrate() -> u64 {
    const TURNS: u64 = 1_000_000;
    let begun = cpu_time();
    spin(TURNS);
    let took_ns = (cpu_time() - begun).as_nanos().max(1) as u64;
    (TURNS * 20_000 / took_ns).max(1)
}

/// The time that this thread has waited for a CPU, and how often it has run.
fn run_delay() -> (Duration, u64) {
    let text = std::fs::read_to_string(format!("/proc/self/task/{}/schedstat", gettid()))
        .unwrap_or_default();
    let numbers: Vec<u64> =
        text.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    match numbers[..] {
        [_, delay_ns, runs] => (Duration::from_nanos(delay_ns), runs),
        _ => (Duration::ZERO, 0),
    }
}

struct Player<'a> {
    shared: &'a Shared,
    workload: &'a Workload,
    timers: Vec<Option<Duration>>,
    /// When it was created, after the start.
    born: Duration,
    /// By how much its runs have lasted too long.
    ahead: Duration,
    passes: u64,
}

fn passes(loops: Loops) -> impl Iterator<Item = u64> {
    0..match loops {
        Loops::Times(times) => times,
        Loops::Forever => u64::MAX,
    }
}

impl Player<'_> {
    fn play(&mut self, group: &Group) -> Result<(), Over> {
        for _ in passes(group.loops) {
            for phase in &group.phases {
                enter(phase);
                for _ in passes(phase.loops) {
                    for &step in &phase.steps {
                        self.take(step)?;
                    }
                    self.passes += 1;
                }
            }
        }
        Ok(())
    }

    fn left(&self) -> Duration {
        self.shared.end.saturating_duration_since(Instant::now())
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.shared.lines.lock().expect("no player panics")
    }

    fn take(&mut self, step: Step) -> Result<(), Over> {
        if self.left().is_zero() {
            return Err(Over);
        }
        match step {
            Step::Run(ns) => return self.run(Duration::from_nanos(ns)),
            Step::Sleep(ns) => thread::sleep(Duration::from_nanos(ns).min(self.left())),
            Step::Timer(step) => {
                let now = self.shared.start.elapsed();
                let mut lines = self.shared.lines.lock().expect("no player panics");
                let beat = match step.timer {
                    Timer::Shared(timer) => &mut lines.timers[timer],
                    Timer::Own(timer) => &mut self.timers[timer],
                };
                let next = beat.unwrap_or(self.born) + Duration::from_nanos(step.period_ns);
                *beat = Some(if step.absolute { next } else { next.max(now) });
                drop(lines);
                thread::sleep(next.saturating_sub(now).min(self.left()));
            }
            Step::Lock(mutex) => return self.lock(mutex),
            Step::Unlock(mutex) => self.lines().unlock(mutex),
            Step::Wait(meeting) | Step::Sync(meeting) => {
                let me = Waiter::here();
                let mut lines = self.lines();
                if let Step::Sync(_) = step {
                    lines.signal(meeting.condition);
                }
                lines.unlock(meeting.mutex);
                lines.conditions[meeting.condition].push_back(me.clone());
                self.wait(lines, &me)?;
                return self.lock(meeting.mutex);
            }
            Step::Signal(condition) => drop(self.lines().signal(condition)),
            Step::Broadcast(condition) => {
                let mut lines = self.lines();
                while lines.signal(condition) {}
            }
            Step::Suspend(condition) => {
                let me = Waiter::here();
                let mut lines = self.lines();
                lines.conditions[condition].push_back(me.clone());
                return self.wait(lines, &me);
            }
            Step::Barrier(barrier) => {
                let me = Waiter::here();
                let mut lines = self.lines();
                if lines.barriers[barrier].len() + 1 < self.workload.barriers[barrier] as usize {
                    lines.barriers[barrier].push(me.clone());
                    return self.wait(lines, &me);
                }
                lines.barriers[barrier].drain(..).for_each(|other| other.let_go());
            }
            Step::Post(semaphore) | Step::Write(semaphore) => {
                let mut lines = self.lines();
                let (count, line) = &mut lines.semaphores[semaphore];
                match line.pop_front() {
                    Some(next) => next.let_go(),
                    None => *count += 1,
                }
            }
            Step::Take(semaphore) => {
                let me = Waiter::here();
                let mut lines = self.lines();
                let (count, line) = &mut lines.semaphores[semaphore];
                if *count == 0 {
                    line.push_back(me.clone());
                    return self.wait(lines, &me);
                }
                *count -= 1;
            }
            Step::Yield => thread::yield_now(),
            Step::Fork(_) => unreachable!("such workloads are refused"),
        }
        Ok(())
    }

    /// Computes for so much CPU time, on average.
    fn run(&mut self, time: Duration) -> Result<(), Over> {
        let begun = cpu_time();
        let mut used = self.ahead;
        while used < time {
            spin(self.shared.turns);
            used = self.ahead + (cpu_time() - begun);
        }
        self.ahead = used - time;
        Ok(())
    }

    fn lock(&self, mutex: usize) -> Result<(), Over> {
        let me = Waiter::here();
        let mut lines = self.lines();
        if lines.held[mutex] {
            lines.mutexes[mutex].push_back(me.clone());
            return self.wait(lines, &me);
        }
        lines.held[mutex] = true;
        Ok(())
    }

    fn wait(&self, lines: MutexGuard<'_, Lines>, me: &Waiter) -> Result<(), Over> {
        drop(lines);
        while !me.free.load(Ordering::Acquire) {
            let left = self.left();
            if left.is_zero() {
                return Err(Over);
            }
            thread::park_timeout(left);
        }
        Ok(())
    }
}

/// Sets the CPUs and the priority of a phase.
fn enter(phase: &Phase) {
    if let Some(cpus) = &phase.cpus {
        let mut set = CpuSet::new();
        for cpu in cpus.iter() {
            set.set(cpu.index()).expect("a machine has so many CPUs");
        }
        sched_setaffinity(Pid::from_raw(0), &set)
            .expect("the machine has the CPUs of the workload");
    }
    match phase.priority {
        Some(Priority::Nice(nice)) => {
            // SAFETY: plain numbers; 0 is the calling thread.
            let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, i32::from(nice)) };
            assert_eq!(result, 0, "the priority {nice} is allowed");
        }
        Some(Priority::Idle) => {
            let parameters = libc::sched_param { sched_priority: 0 };
            // SAFETY: the parameters outlive the call; 0 is the calling thread.
            let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &parameters) };
            assert_eq!(result, 0, "SCHED_IDLE is allowed");
        }
        Some(Priority::RealTime(priority)) => {
            let parameters = libc::sched_param { sched_priority: priority.into() };
            // SAFETY: as above.
            let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameters) };
            assert_eq!(result, 0, "SCHED_FIFO is allowed");
        }
        None => (),
    }
}
