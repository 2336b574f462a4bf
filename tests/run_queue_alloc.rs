//! Within its capacity, neither the run queue nor a shipped policy allocates.
//!
//! The allocator of this test program counts the calls of each thread, so that the test harness's
//! own threads do not disturb the count.

use scx_manyland::ids::Pid;
use scx_manyland::policy::kind::PolicyKind;
use scx_manyland::policy::run_queue::{RESERVED, RunQueue};
use scx_manyland::policy::{Context, Policy, Slices, Task};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

fn count() {
    CALLS.set(CALLS.get() + 1);
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches a thread-local that
// is initialised at compile time and needs neither allocation nor destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are the same as those asked for here.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count();
        // SAFETY: as above, and all memory comes from `System`.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above, and all memory comes from `System`.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn calls_during(work: impl FnOnce()) -> usize {
    let before = CALLS.get();
    work();
    CALLS.get() - before
}

fn task(number: usize) -> Task {
    Task { used_ns: 1000 * number as u64, ..Task::new(Pid(number as i32)) }
}

/// A key for a task, in no particular order.
fn key(number: usize) -> u64 {
    (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8
}

#[test]
fn the_count_counts() {
    assert_eq!(calls_during(|| drop(std::hint::black_box(Box::new(1)))), 2);
}

#[test]
fn the_run_queue_does_not_allocate_within_its_capacity() {
    let mut queue = RunQueue::with_capacity(RESERVED);
    let calls = calls_during(|| {
        for _ in 0..3 {
            (0..RESERVED).for_each(|number| queue.push(key(number), task(number)));
            assert!(queue.take_last(|task| task.pid.0 % 2 == 1).is_some());
            assert!(queue.pop_min().is_some());
            queue.push(0, task(0));
            assert_eq!(queue.drain().count(), RESERVED - 1);
        }
    });
    assert_eq!(calls, 0);
}

#[test]
fn the_run_queue_grows_by_doubling_and_takes_without_allocating() {
    let mut queue = RunQueue::with_capacity(16);
    let growth = calls_during(|| (0..16 << 8).for_each(|n| queue.push(key(n), task(n))));
    assert!((1..=3 * 8).contains(&growth), "{growth} calls");
    assert_eq!(calls_during(|| assert_eq!(queue.drain().count(), 16 << 8)), 0);
}

#[test]
fn no_shipped_policy_allocates_within_its_capacity() {
    let slices = Slices { base: Duration::from_millis(20), min: Duration::from_millis(1) };
    for kind in PolicyKind::ALL {
        let mut policy = kind.build(slices);
        let mut domain = Context::with_cpus(1);
        let calls = calls_during(|| {
            for _ in 0..3 {
                domain.ready = 0;
                (0..RESERVED).for_each(|number| policy.enqueue(task(number), &domain));
                while policy.next(&domain).is_some() {
                    domain.ready += 1;
                }
                assert_eq!(domain.ready, RESERVED);
            }
        });
        assert_eq!(calls, 0, "{kind}");
    }
}
