//! That a program which starts as `alloc` says takes no page faults. The only test of its binary,
//! because it counts those of the whole process and locks all of its memory.

use fastrand::Rng;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use scx_manyland::alloc::{
    self, Arena, DEFAULT_ARENA_BYTES, DomainAllocator, FaultCounter, ResidentMemory,
    ThreadFaultCounter,
};
use std::fs;
use std::thread;

#[global_allocator]
static ALLOCATOR: DomainAllocator = DomainAllocator;

fn status_kib(key: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_locked_process_takes_no_faults_in_a_million_allocations() {
    const LIVE: usize = 500;
    const ALLOCATIONS: usize = 1_000_000;
    // Fails for who may not; then locking memory has to work within the limit there is.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    alloc::limit_malloc_arenas().unwrap();
    alloc::set_thread_policy(None).unwrap();
    let arena = Arena::new(DEFAULT_ARENA_BYTES, Some(0)).unwrap();
    alloc::settle_heap(256).unwrap();
    alloc::lock_process_memory().unwrap();
    alloc::prefault_stack(64);

    let locked_kib = status_kib("VmLck");
    let resident_kib = ResidentMemory::open().unwrap().kib().unwrap();
    assert!(locked_kib >= 1024, "{locked_kib} KiB locked");
    assert!(locked_kib < 1 << 20, "{locked_kib} KiB locked: reserved addresses count");
    assert!(resident_kib <= 16 << 10, "{resident_kib} KiB resident");

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
    assert_eq!(of_thread.total(), 0, "{of_thread:?}");
    assert_eq!(of_process.total(), 0, "{of_process:?}");
    assert_eq!(arena.stats().fallbacks, 0, "{:?}", arena.stats());
}
