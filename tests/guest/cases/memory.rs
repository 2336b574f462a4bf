//! A program that starts as `alloc` says takes no page faults.
//!
//! The test locks all memory of its process, which an ordinary user may not, and counts the faults
//! of all of it; in a guest each test is a process.

use crate::api::process;
use crate::machine::Machine;
use crate::suite::tests;
use anyhow::{Result, ensure};
use fastrand::Rng;
use scx_manyland::alloc::{
    self, Arena, DEFAULT_ARENA_BYTES, FaultCounter, ResidentMemory, ThreadFaultCounter,
};
use std::thread;

tests! {
    a_locked_process_takes_no_faults_in_a_million_allocations: 90 s on L3X1;
}

pub fn a_locked_process_takes_no_faults_in_a_million_allocations(_: &Machine) -> Result<()> {
    const LIVE: usize = 500;
    const ALLOCATIONS: usize = 1_000_000;
    alloc::limit_malloc_arenas()?;
    alloc::set_thread_policy(None)?;
    let arena = Arena::new(DEFAULT_ARENA_BYTES, Some(0))?;
    alloc::settle_heap(256)?;
    alloc::lock_process_memory()?;
    alloc::prefault_stack(64);

    let locked_kib = process::status_kib(std::process::id() as i32, "VmLck")?;
    let resident_kib = ResidentMemory::open()?.kib()?;
    ensure!(locked_kib >= 1024, "{locked_kib} KiB locked");
    ensure!(locked_kib < 1 << 20, "{locked_kib} KiB locked: reserved addresses count");
    ensure!(resident_kib <= 16 << 10, "{resident_kib} KiB resident");

    let domain_thread = || {
        alloc::set_thread_policy(Some(0)).unwrap();
        alloc::prefault_stack(64);
        let _inside = alloc::enter(&arena);
        let mut random = Rng::with_seed(42);
        let mut blocks: Vec<Vec<u8>> = vec![Vec::new(); LIVE];
        let mut churn = |allocations| {
            for _ in 0..allocations {
                let block = &mut blocks[random.usize(..LIVE)];
                match random.usize(..4) {
                    0 => block.reserve(random.usize(..200)),
                    _ => *block = Vec::with_capacity(1 + random.usize(..1000)),
                }
            }
        };
        churn(1_000);
        let (thread, process) = (ThreadFaultCounter::baseline(), FaultCounter::baseline());
        churn(ALLOCATIONS);
        (thread.since(), process.since())
    };
    let (of_thread, of_process) = thread::scope(|scope| {
        let builder = thread::Builder::new().stack_size(256 << 10);
        builder.spawn_scoped(scope, domain_thread).unwrap().join().unwrap()
    });
    ensure!(of_thread.total() == 0, "{of_thread:?}");
    ensure!(of_process.total() == 0, "{of_process:?}");
    ensure!(arena.stats().fallbacks == 0, "{:?}", arena.stats());
    Ok(())
}
