//! The queues of a domain against the kernel's own ring buffers: two BPF programs
//! (`bpf/test/rings_test.bpf.c`) write notices and read decisions.
//!
//! They need no sched_ext, but root, which a guest has.

use crate::machine::Machine;
use crate::suite::tests;
use anyhow::Result;
use libbpf_rs::{MapCore, MapFlags};
use scx_manyland::abi;
use scx_manyland::domains::seam::Message;
use scx_manyland::kernel::rings::NoticeRing;
use std::time::{Duration, Instant};
use test_bpf::rings::{Kernel, RING_BYTES};

tests! {
    takes_every_record_however_often_the_ring_wraps: 240 s on L3X1;
    a_full_ring_loses_nothing_and_is_as_large_again_when_emptied: 240 s on L3X1;
    a_discarded_record_is_passed_over: 240 s on L3X1;
    what_is_behind_an_unfinished_record_waits_for_it: 240 s on L3X1;
    messages_are_taken_while_others_are_written: 240 s on L3X1;
    the_kernel_sees_every_decision_however_often_the_ring_wraps: 240 s on L3X1;
    a_full_queue_of_decisions_says_so_and_has_room_for_each_that_is_taken: 240 s on L3X1;
}

const HEADER: usize = 8;
/// How many decisions a ring holds.
const DECISIONS: u64 = RING_BYTES as u64 / (size_of::<abi::decision>() + HEADER) as u64;

/// Writes notices until there are `count` or the ring is full.
fn write(kernel: &Kernel, first: u64, count: u64) -> u64 {
    kernel.run("write_notices", first, count).0
}

/// Lets the kernel drain up to `count` decisions, the first of which must be number `first`.
fn read(kernel: &Kernel, first: u64, count: u64) -> u64 {
    let (done, wrong) = kernel.run("read_decisions", first, count);
    assert_eq!(wrong, 0, "of {done} decisions from {first} on");
    done
}

/// The record that `write_notices` makes of a number.
fn notice(n: u64, flags: u32) -> abi::notice {
    abi::notice {
        pid: n as u32,
        cpu: n as u32 + 1,
        seq: !n,
        at_ns: n + 2,
        used_ns: n + 3,
        burst_ns: n + 4,
        switches: n + 5,
        weight: n as u32 + 6,
        flags: flags as u16,
        decided_by: n as u16,
        comm: std::array::from_fn(|i| (n + i as u64) as std::ffi::c_char),
        cgroup: n + 10,
        group: n as u32 + 12,
        unused: 0,
        vtime: n + 11,
        carried: carried(n),
    }
}

fn carried(n: u64) -> abi::carried {
    abi::carried { memo: [n, n << 1], used_ns: n + 7, switches: n + 8, at_ns: n + 9 }
}

/// The decision that `read_decisions` expects of a number.
fn decided(n: u64) -> abi::decision {
    abi::decision {
        seq: !n,
        slice_ns: n + 1,
        vtime: n + 2,
        pid: n as u32,
        cpu: n as u32 + 3,
        flags: n as u32 + 4,
        domain: n as u32 + 5,
        vtime_rate: n as u32 + 6,
        unused: 0,
        max_lag: 0,
        carried: carried(n),
    }
}

/// The numbers of `write_notices`'s records that are not discarded.
fn submitted(first: u64, count: u64) -> Vec<u64> {
    (first..first + count).filter(|n| n % 11 != 5).collect()
}

/// Takes what is there, checks every field, and answers the numbers.
fn drain(ring: &mut NoticeRing) -> Vec<u64> {
    let mut numbers = Vec::new();
    let drained = ring.drain(|message| {
        let n = !message.notice().seq;
        match message {
            Message::Plain(found) => {
                assert_eq!(format!("{found:?}"), format!("{:?}", notice(n, 0)))
            }
            Message::Part(found) => {
                assert_eq!(n % 3, 0, "record {n} is a small one");
                let expected = notice(n, abi::notice_flags_NOTICE_PART);
                assert_eq!(format!("{:?}", found.notice), format!("{expected:?}"));
                assert_eq!(found.cpus, std::array::from_fn(|i| n * (i as u64 + 1)));
            }
        }
        numbers.push(n);
    });
    assert_eq!(drained, numbers.len());
    numbers
}

pub fn takes_every_record_however_often_the_ring_wraps(_: &Machine) -> Result<()> {
    let kernel = Kernel::load();
    let mut ring = kernel.notices();
    assert!(!ring.has_messages() && drain(&mut ring).is_empty());
    let mut next = 0;
    // Batches of every size up to more than half a ring, which is passed some hundred times.
    for batch in (1..200).chain((1..200).rev()) {
        assert_eq!(write(&kernel, next, batch), batch);
        assert!(ring.has_messages());
        // Every third record is that of a task that may use some CPUs, which is larger.
        assert!((batch..=2 * batch).contains(&(ring.pending() as u64)), "{}", ring.pending());
        assert_eq!(drain(&mut ring), submitted(next, batch));
        assert!(!ring.has_messages() && ring.pending() == 0);
        next += batch;
    }
    assert!(next * size_of::<abi::notice>() as u64 > 50 * u64::from(RING_BYTES));
    Ok(())
}

pub fn a_full_ring_loses_nothing_and_is_as_large_again_when_emptied(_: &Machine) -> Result<()> {
    let kernel = Kernel::load();
    let mut ring = kernel.notices();
    let mut next = 0;
    for _ in 0..50 {
        let written = write(&kernel, next, 100_000);
        let small = (size_of::<abi::notice>() + HEADER) as u64;
        let large = (size_of::<abi::notice_part>() + HEADER) as u64;
        // The kernel leaves a ring at least one byte short of full.
        let bytes = |records: u64| {
            (next..next + records).map(|n| if n % 3 == 0 { large } else { small }).sum::<u64>()
        };
        assert!(bytes(written) < u64::from(RING_BYTES));
        assert!(bytes(written + 1) >= u64::from(RING_BYTES), "{written} records were all");
        assert_eq!(write(&kernel, next + written, 1), 0, "a full ring takes no more");
        assert_eq!(drain(&mut ring), submitted(next, written));
        next += written;
    }
    Ok(())
}

pub fn a_discarded_record_is_passed_over(_: &Machine) -> Result<()> {
    let kernel = Kernel::load();
    let mut ring = kernel.notices();
    assert_eq!(write(&kernel, 5, 1), 1);
    assert!(ring.has_messages());
    assert!(drain(&mut ring).is_empty());
    assert!(!ring.has_messages());
    Ok(())
}

pub fn what_is_behind_an_unfinished_record_waits_for_it(_: &Machine) -> Result<()> {
    const REACHED: [u8; 4] = 0u32.to_ne_bytes();
    const RELEASED: [u8; 4] = 1u32.to_ne_bytes();
    let kernel = Kernel::load();
    let steps = kernel.map("steps");
    let mut ring = kernel.notices();
    std::thread::scope(|scope| {
        let holder = scope.spawn(|| kernel.run("hold", 100, 2));
        let begin = Instant::now();
        while steps.lookup(&REACHED, MapFlags::ANY).unwrap().unwrap() == [0; 8] {
            assert!(begin.elapsed() < Duration::from_secs(5), "the program does not begin");
            std::thread::yield_now();
        }
        assert!(ring.has_messages());
        assert!(drain(&mut ring).is_empty());
        assert!(ring.has_messages());
        steps.update(&RELEASED, &1u64.to_ne_bytes(), MapFlags::ANY).unwrap();
        assert_eq!(holder.join().unwrap().0, 2);
        assert_eq!(drain(&mut ring), [100, 101]);
    });
    Ok(())
}

pub fn messages_are_taken_while_others_are_written(_: &Machine) -> Result<()> {
    const RECORDS: u64 = 200_000;
    let kernel = Kernel::load();
    let mut ring = kernel.notices();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut next = 0;
            while next < RECORDS {
                next += write(&kernel, next, RECORDS - next);
            }
        });
        let expected = submitted(0, RECORDS);
        let mut taken = 0;
        while taken < expected.len() {
            let numbers = drain(&mut ring);
            assert_eq!(numbers, expected[taken..taken + numbers.len()]);
            taken += numbers.len();
        }
        writer.join().unwrap();
    });
    Ok(())
}

pub fn the_kernel_sees_every_decision_however_often_the_ring_wraps(_: &Machine) -> Result<()> {
    let kernel = Kernel::load();
    let mut ring = kernel.decisions();
    assert_eq!(read(&kernel, 0, u64::MAX), 0);
    let mut next = 0;
    for batch in (1..200).chain((1..200).rev()) {
        for n in next..next + batch {
            assert!(ring.submit(&decided(n)));
        }
        assert_eq!(read(&kernel, next, u64::MAX), batch);
        next += batch;
    }
    assert!(next > 50 * DECISIONS);
    Ok(())
}

pub fn a_full_queue_of_decisions_says_so_and_has_room_for_each_that_is_taken(
    _: &Machine,
) -> Result<()> {
    let kernel = Kernel::load();
    let mut ring = kernel.decisions();
    let (mut submitted, mut done) = (0, 0);
    let mut fill = |submitted: &mut u64| {
        while ring.submit(&decided(*submitted)) {
            *submitted += 1;
        }
    };
    fill(&mut submitted);
    assert_eq!(submitted, DECISIONS);
    for batch in (1..=DECISIONS).step_by(7) {
        assert_eq!(read(&kernel, done, batch), batch);
        done += batch;
        fill(&mut submitted);
        assert_eq!(submitted - done, DECISIONS);
    }
    assert_eq!(read(&kernel, done, u64::MAX), DECISIONS);
    Ok(())
}
