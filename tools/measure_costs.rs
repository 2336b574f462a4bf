//! Measures on this machine what of the simulator's costs can be measured without sched_ext: `make
//! measure-costs`.
//!
//! Each figure is the best of several rounds: what disturbs a measurement only ever makes it
//! longer.

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::eventfd::EventFd;
use nix::unistd::Pid;
use scx_manyland::policy::kind::PolicyKind;
use scx_manyland::policy::{Context, Policy, Slices, Task};
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

const ROUNDS: usize = 15;

fn best(mut measure: impl FnMut() -> Result<Duration>) -> Result<f64> {
    let rounds: Result<Vec<_>> = (0..ROUNDS).map(|_| measure()).collect();
    let least = rounds?.into_iter().min().unwrap_or_default();
    Ok(least.as_nanos() as f64)
}

fn bind(cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cpus)?)
}

fn main() -> Result<()> {
    // Before this thread is bound to one of them.
    let cpus = thread::available_parallelism()?.get();
    println!("decide (policy {}):", PolicyKind::default());
    for tasks in [1, 10, 100, 1000, 10_000] {
        println!("  {tasks:>6} waiting: {:.0} ns a task", decide(tasks)?);
    }
    println!("step (yield alone): {:.0} ns", best(yield_alone)?);
    println!("bell (write to an eventfd): {:.0} ns", best(bell)?);
    println!("round (poll of two that have nothing): {:.0} ns", best(idle_poll)?);
    println!("fork (create a thread and wait for it): {:.0} ns", best(create_thread)?);
    println!(
        "switch and wake (a byte through a pipe and back, one CPU): {:.0} ns for each of two",
        best(|| ping(0, 0))? / 2.0
    );
    if cpus > 1 {
        println!(
            "kick and wake (the same, two CPUs): {:.0} ns for each of two",
            best(|| ping(0, 1))? / 2.0
        );
        for kib in [32, 256, 1024] {
            let (warm, cold) = (best(|| walk(kib, false))?, best(|| walk(kib, true))?);
            println!("move: {kib} KiB read again take {:.0} ns more on another CPU", cold - warm);
        }
    }
    Ok(())
}

/// The way of a task through a policy, for each of so many at a time.
fn decide(tasks: u32) -> Result<f64> {
    let slices = Slices { base: Duration::from_millis(5), min: Duration::from_micros(500) };
    let mut policy = PolicyKind::default().build(slices);
    let context = Context::with_cpus(1);
    let repeat = 100_000 / tasks;
    let took = best(|| {
        let begun = Instant::now();
        for _ in 0..repeat {
            for pid in 0..tasks {
                policy.enqueue(Task::new(scx_manyland::ids::Pid(pid as i32 + 1)), &context);
            }
            while let Some(choice) = policy.next(&context) {
                std::hint::black_box(choice);
            }
        }
        Ok(begun.elapsed())
    })?;
    Ok(took / f64::from(repeat * tasks))
}

fn yield_alone() -> Result<Duration> {
    bind(0)?;
    let begun = Instant::now();
    for _ in 0..1000 {
        thread::yield_now();
    }
    Ok(begun.elapsed() / 1000)
}

fn bell() -> Result<Duration> {
    let bell = EventFd::new()?;
    let begun = Instant::now();
    for _ in 0..1000 {
        bell.write(1)?;
    }
    Ok(begun.elapsed() / 1000)
}

fn idle_poll() -> Result<Duration> {
    let (ring, bell) = (EventFd::new()?, EventFd::new()?);
    let begun = Instant::now();
    for _ in 0..1000 {
        let mut sources = [
            PollFd::new(ring.as_fd(), PollFlags::POLLIN),
            PollFd::new(bell.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut sources, PollTimeout::ZERO)?;
    }
    Ok(begun.elapsed() / 1000)
}

fn create_thread() -> Result<Duration> {
    let begun = Instant::now();
    for _ in 0..100 {
        thread::spawn(|| ()).join().expect("it does nothing");
    }
    Ok(begun.elapsed() / 100)
}

fn answer(mut from: PipeReader, mut to: PipeWriter) {
    let mut byte = [0];
    while from.read_exact(&mut byte).is_ok() && to.write_all(&byte).is_ok() {}
}

/// A byte there and back.
fn ping(here: usize, there: usize) -> Result<Duration> {
    const TIMES: u32 = 1000;
    let (far, mut near) = pipe()?;
    let (mut back, out) = pipe()?;
    thread::scope(|scope| {
        scope.spawn(move || {
            bind(there).expect("the CPU is there");
            answer(far, out);
        });
        bind(here)?;
        let mut byte = [0];
        let begun = Instant::now();
        for _ in 0..TIMES {
            near.write_all(&byte)?;
            back.read_exact(&mut byte)?;
        }
        let took = begun.elapsed() / TIMES;
        drop(near);
        Ok(took)
    })
}

/// Reads some memory again, with or without a move to another CPU in between.
fn walk(kib: usize, moved: bool) -> Result<Duration> {
    const LINE: usize = 64;
    let memory = vec![1u8; kib * 1024];
    let read = || memory.iter().step_by(LINE).map(|&byte| u64::from(byte)).sum::<u64>();
    bind(0)?;
    std::hint::black_box((read(), read()));
    if moved {
        bind(1)?;
    }
    let begun = Instant::now();
    std::hint::black_box(read());
    Ok(begun.elapsed())
}
