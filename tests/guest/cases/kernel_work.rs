//! Threads of the kernel that are not bound to a CPU, for which others wait without knowing it.

use crate::api::process;
use crate::api::scheduler::{STATS, Scheduler};
use crate::api::wait_until;
use crate::machine::Machine;
use crate::suite::tests;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

tests! {
    grace_periods_pass_beside_a_crowd: 150 s on L3X1;
}

const LONG: Duration = Duration::from_secs(90);

/// RCU's thread has to run several times in each grace period. Most grace periods end before all of a
/// crowd, which sleeps as RCU does, have had a turn. It is so too while the scheduler is stopped. Some
/// are longer: a busy host withholds a CPU for which RCU waits as well.
pub fn grace_periods_pass_beside_a_crowd(_: &Machine) -> Result<()> {
    const CROWD: usize = 400;
    const RUN: Duration = Duration::from_millis(2);
    const SLEEP: Duration = Duration::from_micros(100);
    let scheduler = Scheduler::start(&STATS)?;
    let (begun, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let life = || {
        begun.fetch_add(1, Ordering::Relaxed);
        while !over.load(Ordering::Relaxed) {
            let began = Instant::now();
            while began.elapsed() < RUN {
                std::hint::spin_loop();
            }
            thread::sleep(SLEEP);
        }
    };
    let turns = thread::scope(|scope| {
        let turns = scope.spawn(|| {
            process::become_real_time();
            for _ in 0..CROWD {
                thread::Builder::new().stack_size(64 << 10).spawn_scoped(scope, life)?;
            }
            wait_until("all of the crowd have begun", LONG, || {
                begun.load(Ordering::Relaxed) == CROWD
            })?;
            let decided = turns_in_grace_periods()?;
            scheduler.send(Signal::SIGSTOP)?;
            let stopped = turns_in_grace_periods();
            scheduler.send(Signal::SIGCONT)?;
            scheduler.decisions_resume()?;
            Ok((decided, stopped?))
        });
        let turns = turns.join().expect("it does not panic");
        over.store(true, Ordering::Relaxed);
        turns
    });
    let (decided, stopped): (Vec<u64>, Vec<u64>) = turns.map_err(|e: anyhow::Error| e)?;
    println!("turns of tasks in a grace period: {decided:?}, {stopped:?} while it was stopped");
    for mut turns in [decided, stopped] {
        turns.sort_unstable();
        let median = turns[turns.len() / 2];
        ensure!(median < CROWD as u64 / 2, "half of the grace periods took {median} turns");
    }
    scheduler.stop()
}

/// How many context switches there are during each of some grace periods.
fn turns_in_grace_periods() -> Result<Vec<u64>> {
    const PERIODS: usize = 20;
    /// `MEMBARRIER_CMD_GLOBAL` of `<linux/membarrier.h>`: waits for a grace period.
    const GLOBAL: libc::c_int = 1;
    (0..PERIODS)
        .map(|_| {
            let before = switches()?;
            // SAFETY: membarrier takes no pointers.
            let done = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
            nix::errno::Errno::result(done).context("cannot wait for a grace period")?;
            Ok(switches()? - before)
        })
        .collect()
}

/// The context switches of all CPUs.
fn switches() -> Result<u64> {
    let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let count = text.lines().find_map(|line| line.strip_prefix("ctxt "));
    Ok(count.context("no ctxt in /proc/stat")?.parse()?)
}
