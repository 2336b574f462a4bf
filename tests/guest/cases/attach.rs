//! Attaching and leaving, the polite way and the other.

use crate::api::confine::Cpuset;
use crate::api::load::{self, Hackbench};
use crate::api::scheduler::Scheduler;
use crate::api::{cpus, process, sched_ext, wait_for_exit, wait_until};
use crate::console;
use crate::machine::Machine;
use crate::suite::tests;
use anyhow::{Context, Result, ensure};
use libbpf_rs::query::ProgInfoIter;
use nix::sys::signal::Signal;
use scx_manyland::cpuset::CpuSet;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

tests! {
    attaches_and_detaches: 90 s on L3X1 L3X2 L3X4 ANY_KERNEL;
    attaches_again_under_load: 400 s on SLOW;
    goes_first_until_it_attaches: 90 s on L3X1;
    loads_with_little_verification: 60 s on L3X2;
    detaches_when_asked: 60 s on L3X2;
    load_survives_a_crash: 90 s on L3X2;
    load_survives_kill_9: 150 s on L3X2;
    attaches_while_tasks_start: 200 s on L3X1 ANY_KERNEL;
    detaches_while_tasks_start: 300 s on L3X1 ANY_KERNEL;
    detaches_while_readers_wait: 300 s on L3X1 ANY_KERNEL;
    attaches_while_partitions_are_removed: 200 s on L3X4 ANY_KERNEL;
}

/// Attaches, serves a load and detaches, twice, so that the second time finds what the first left.
pub fn attaches_and_detaches(_: &Machine) -> Result<()> {
    for _ in 0..2 {
        let scheduler = Scheduler::start(&[])?;
        load::hackbench(1, 30, Duration::from_secs(30))?;
        scheduler.stop()?;
    }
    Ok(())
}

/// Attaches and detaches while a load runs on. `make reliability` does so 200 times.
pub fn attaches_again_under_load(_: &Machine) -> Result<()> {
    const TIMES: usize = 3;
    let mut hackbench = Hackbench::start(1, 1_000_000, Duration::from_secs(380))?;
    for _ in 0..TIMES {
        let start = Instant::now();
        let scheduler = Scheduler::start(&[])?;
        println!("attached in {} ms", start.elapsed().as_millis());
        thread::sleep(Duration::from_millis(200));
        ensure!(hackbench.is_running()?, "hackbench has ended");
        scheduler.stop()?;
    }
    ensure!(hackbench.is_running()?, "hackbench has ended");
    drop(hackbench);
    load::hackbench(1, 10, Duration::from_secs(30))?;
    Ok(())
}

/// While it reads the machine and loads its programs it goes before other tasks, and no longer.
pub fn goes_first_until_it_attaches(_: &Machine) -> Result<()> {
    const FIRST: i32 = -20;
    let went_first = || {
        let mut ours = process::programs();
        ours.retain(|program| program.name == "scx_manyland");
        ours.iter().any(|program| process::niceness(program.pid).is_ok_and(|nice| nice == FIRST))
    };
    thread::scope(|scope| {
        let scheduler = scope.spawn(|| Scheduler::start(&[]));
        wait_until("the scheduler goes before other tasks", Duration::from_secs(60), went_first)?;
        let scheduler = scheduler.join().expect("it does not panic")?;
        for pid in scheduler.pids() {
            for thread in process::threads(pid)? {
                let nice = process::niceness(thread.tid)?;
                ensure!(nice == 0, "{} goes before other tasks for good: nice {nice}", thread.name);
            }
        }
        scheduler.stop()
    })
}

/// The kernel follows the programs' instructions, on each way through them that it tells from others,
/// before it accepts them. One way too many in a loop is seconds in which nothing schedules.
pub fn loads_with_little_verification(_: &Machine) -> Result<()> {
    const BOUND: u32 = 200_000;
    let scheduler = Scheduler::start(&[])?;
    let programs = ProgInfoIter::default().map(|program| program.verified_insns);
    let (count, verified) = programs.fold((0, 0), |(n, sum), verified| (n + 1, sum + verified));
    println!("the kernel has followed {verified} instructions of {count} programs");
    ensure!(count > 20, "these are not the scheduler's programs: {count}");
    ensure!(verified < BOUND, "the kernel follows {verified} instructions, {BOUND} are allowed");
    scheduler.stop()
}

/// SIGTERM and SIGHUP are as polite as Ctrl-C.
pub fn detaches_when_asked(_: &Machine) -> Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        let scheduler = Scheduler::start(&[])?;
        load::hackbench(1, 10, Duration::from_secs(30))?;
        scheduler.stop_with(signal)?;
    }
    Ok(())
}

/// A crash leaves the load to the kernel's own scheduler.
pub fn load_survives_a_crash(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&[])?;
    let mut hackbench = Hackbench::start(2, 300, Duration::from_secs(60))?;
    thread::sleep(Duration::from_millis(500));
    ensure!(hackbench.is_running()?, "hackbench was done before the scheduler could crash");
    scheduler.kill_with(Signal::SIGSEGV)?;
    hackbench.finish()
}

/// Killed under load, it leaves the load to the kernel's own scheduler.
pub fn load_survives_kill_9(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&[])?;
    let mut hackbench = Hackbench::start(2, 1000, Duration::from_secs(90))?;
    thread::sleep(Duration::from_secs(1));
    ensure!(hackbench.is_running()?, "hackbench was done before the scheduler could be killed");
    scheduler.kill_with(Signal::SIGKILL)?;
    hackbench.finish()
}

/// For so long tasks may keep CPUs that start while the kernel moves all tasks to another class.
const HELD: Duration = Duration::from_secs(80);

/// Tasks that start while the scheduler attaches fill the CPUs. The kernel has yet to move them, so
/// they come before all that it has moved. It attaches all the same.
pub fn attaches_while_tasks_start(_: &Machine) -> Result<()> {
    thread::scope(|scope| {
        let hogs = scope.spawn(|| beside_new_hogs("disabled", "enabled"));
        let scheduler = Scheduler::start(&[]);
        hogs.join().expect("it does not panic")?;
        scheduler?.stop()
    })
}

/// Tasks that start while it detaches fill the CPUs, and belong to the kernel's own scheduler. It
/// detaches all the same, be it asked to or killed. What it has done to RCU's thread is undone.
pub fn detaches_while_tasks_start(_: &Machine) -> Result<()> {
    let rcu = process::kernel_thread("rcu_preempt").context("there is no thread of RCU")?;
    process::choose_ordinary(rcu)?;
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let scheduler = Scheduler::start(&[])?;
        ensure!(process::is_real_time(rcu), "RCU's thread may wait for tasks");
        detaches_beside_new_hogs(scheduler, signal)?;
    }
    ensure!(!process::is_real_time(rcu), "RCU's thread has remained a real-time task");
    Ok(())
}

/// The same, and on each CPU they preempt a task of sched_ext that reads under RCU. The grace periods
/// that the detachment needs wait for these tasks.
pub fn detaches_while_readers_wait(_: &Machine) -> Result<()> {
    const SLEEPERS: usize = 1000;
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let scheduler = Scheduler::start(&[])?;
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            // A reader goes through all threads of its user, so that takes long.
            let sleep = || {
                while !over.load(Ordering::Relaxed) {
                    thread::park();
                }
            };
            let sleepers: Vec<_> = (0..SLEEPERS)
                .map(|_| thread::Builder::new().stack_size(64 << 10).spawn_scoped(scope, sleep))
                .collect();
            for cpu in cpus::online()?.iter() {
                let over = &over;
                scope.spawn(move || {
                    process::bind(0, &[cpu].into_iter().collect())
                        .expect("binding to an online CPU");
                    while !over.load(Ordering::Relaxed) {
                        // SAFETY: getpriority takes no pointers.
                        unsafe { libc::getpriority(libc::PRIO_USER, 0) };
                    }
                });
            }
            let detached = detaches_beside_new_hogs(scheduler, signal);
            over.store(true, Ordering::Relaxed);
            for sleeper in sleepers {
                sleeper.context("cannot start a thread")?.thread().unpark();
            }
            detached
        })?;
    }
    Ok(())
}

/// It ends by this signal, and detaches beside hogs that start meanwhile.
fn detaches_beside_new_hogs(scheduler: Scheduler, signal: Signal) -> Result<()> {
    thread::scope(|scope| {
        let hogs = scope.spawn(|| beside_new_hogs("enabled", "disabled"));
        let ended = match signal {
            Signal::SIGKILL => scheduler.kill_with(signal),
            _ => scheduler.stop_with(signal),
        };
        hogs.join().expect("it does not panic")?;
        ended
    })
}

/// Processes remove isolated partitions while it attaches. The kernel then waits for itself, and no process
/// could start another one any more; the one that holds that up is killed.
pub fn attaches_while_partitions_are_removed(_: &Machine) -> Result<()> {
    const ROUNDS: u32 = 2;
    /// CPUs that remain.
    const USED: usize = 2;
    const BETWEEN: Duration = Duration::from_millis(20);
    // The kernel says so of a partition that it could not dissolve, as the process was killed.
    for file in ["kernel/cgroup/cpuset.c", "kernel/sched/isolation.c"] {
        console::expect(file)?;
    }
    for round in 0..ROUNDS {
        let isolated = cpus::online()?.iter().skip(USED).collect::<Vec<_>>();
        let sets = isolated
            .iter()
            .map(|&cpu| {
                let set = Cpuset::new(&format!("isolated{cpu}"), &CpuSet::from_iter([cpu]))?;
                set.part("isolated")?;
                Ok(set)
            })
            .collect::<Result<Vec<_>>>()?;
        let removers = (0..).zip(&sets).map(|(at, set)| set.remover(at * BETWEEN));
        let mut removers = removers.collect::<Result<Vec<_>>>()?;
        let scheduler = Scheduler::start(&[])?;
        let mut killed = 0;
        for remover in &mut removers {
            killed += u32::from(wait_for_exit(remover, HELD)?.signal().is_some());
        }
        println!("round {round}: {killed} processes were killed");
        let said = scheduler.said();
        ensure!((killed > 0) == said.contains("is killed"), "{killed} were killed; {said}");
        load::hackbench(1, 20, HELD)?;
        scheduler.stop()?;
    }
    Ok(())
}

/// As soon as sched_ext is not in the state `from`, hogs start on each CPU. Beside them it comes to
/// the state `to`.
fn beside_new_hogs(from: &str, to: &str) -> Result<()> {
    const EACH: usize = 4;
    let over = AtomicBool::new(false);
    let hog = &|cpu| {
        process::bind(0, &[cpu].into_iter().collect()).expect("binding to an online CPU");
        let end = Instant::now() + HELD;
        while !over.load(Ordering::Relaxed) && Instant::now() < end {
            std::hint::spin_loop();
        }
    };
    process::become_real_time();
    let cpus = cpus::online()?;
    thread::scope(|scope| {
        sched_ext::watch(|state| state != from, HELD);
        for _ in 0..EACH {
            cpus.iter().for_each(|cpu| drop(scope.spawn(move || hog(cpu))));
        }
        let came = sched_ext::wait_for_state(to, HELD / 2);
        over.store(true, Ordering::Relaxed);
        came
    })
}
