//! Arenas as the binary uses them: with the allocator installed and threads inside domains. One
//! test at a time, because some of them look at the process as a whole.

use fastrand::Rng;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use parking_lot::{Mutex, MutexGuard};
use scx_manyland::alloc::{
    self, Arena, DEFAULT_ARENA_BYTES, DomainAllocator, FaultCounter, MIN_ARENA_BYTES,
    ResidentMemory,
};
use std::collections::BTreeMap;
use std::fs;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

#[global_allocator]
static ALLOCATOR: DomainAllocator = DomainAllocator;

fn one_at_a_time() -> MutexGuard<'static, ()> {
    static RUNNING: Mutex<()> = Mutex::new(());
    let guard = RUNNING.lock();
    // Fails for who may not; then locking memory has to work within the limit there is.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    guard
}

/// A vector whose contents follow from its length and seed.
struct Parcel {
    contents: Vec<u8>,
    seed: u8,
}

impl Parcel {
    fn new(random: &mut Rng) -> Parcel {
        let mut parcel = Parcel { contents: Vec::new(), seed: random.usize(..256) as u8 };
        parcel.grow(1 + random.usize(..300));
        parcel
    }

    fn grow(&mut self, by: usize) {
        let from = self.contents.len();
        self.contents.extend((from..from + by).map(|i| self.seed.wrapping_add(i as u8)));
    }

    fn check(&self) {
        let expected = |i: usize| self.seed.wrapping_add(i as u8);
        assert!(self.contents.iter().enumerate().all(|(i, &byte)| byte == expected(i)));
    }
}

#[test]
fn threads_of_several_domains_exchange_blocks_and_all_of_them_return() {
    const THREADS: usize = 4;
    const STEPS: usize = 40_000;
    let _alone = one_at_a_time();
    let arenas: Vec<Arena> =
        (0..THREADS).map(|_| Arena::new(DEFAULT_ARENA_BYTES, Some(0)).unwrap()).collect();
    let (senders, receivers): (Vec<Sender<Parcel>>, Vec<Receiver<Parcel>>) =
        (0..THREADS).map(|_| channel()).unzip();
    thread::scope(|scope| {
        let domain_threads = arenas.iter().zip(receivers).enumerate();
        let domain_threads = domain_threads.map(|(number, (arena, inbox))| {
            let senders = senders.clone();
            scope.spawn(move || {
                let _inside = alloc::enter(arena);
                let mut random = Rng::with_seed(0x9E37_79B9 + number as u64);
                let mut own: Vec<Parcel> = Vec::new();
                for _ in 0..STEPS {
                    match random.usize(..5) {
                        0 | 1 if own.len() < 200 => own.push(Parcel::new(&mut random)),
                        2 if !own.is_empty() => {
                            let which = random.usize(..own.len());
                            own[which].grow(random.usize(..100));
                        }
                        3 if !own.is_empty() => {
                            let parcel = own.swap_remove(random.usize(..own.len()));
                            senders[random.usize(..THREADS)].send(parcel).unwrap();
                        }
                        _ => {
                            for mut parcel in inbox.try_iter() {
                                parcel.grow(random.usize(..50));
                                parcel.check();
                            }
                            if !own.is_empty() {
                                own.swap_remove(random.usize(..own.len())).check();
                            }
                        }
                    }
                }
                drop(senders);
                inbox.iter().for_each(|parcel| parcel.check());
            })
        });
        let domain_threads: Vec<_> = domain_threads.collect();
        drop(senders);
        // The end of the scope alone would not wait for the threads' thread-locals to be dropped.
        domain_threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    for arena in &arenas {
        drop(alloc::enter(arena));
        let stats = arena.stats();
        assert_eq!((stats.live_blocks, stats.live_bytes), (0, 0), "{stats:?}");
        assert!(stats.peak_bytes > 10_000, "{stats:?}");
    }
}

#[test]
fn an_exhausted_arena_falls_back_and_counts() {
    let _alone = one_at_a_time();
    let arena = Arena::new(MIN_ARENA_BYTES, None).unwrap();
    let before = alloc::arena_fallbacks();
    let inside = alloc::enter(&arena);
    let blocks: Vec<Box<[u8; 1000]>> = (0..200).map(|i| Box::new([i as u8; 1000])).collect();
    let fallbacks = arena.stats().fallbacks;
    assert!((130..200).contains(&fallbacks), "{fallbacks} of 200 KB did not fit 64 KiB");
    assert_eq!(alloc::arena_fallbacks() - before, fallbacks);
    assert!(blocks.iter().enumerate().all(|(i, block)| block.iter().all(|&b| b == i as u8)));
    drop(blocks);
    let again = Box::new([0u8; 1000]);
    assert_eq!(arena.stats().fallbacks, fallbacks, "room again");
    drop(again);
    drop(inside);
    assert_eq!(arena.stats().live_blocks, 0);
}

#[test]
fn blocks_freed_elsewhere_are_there_again_before_the_arena_counts_as_full() {
    let _alone = one_at_a_time();
    let arena = Arena::new(MIN_ARENA_BYTES, None).unwrap();
    let (to_other, inbox) = channel::<Vec<Box<[u8; 1000]>>>();
    let (done, wait) = channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            for blocks in inbox {
                drop(blocks);
                done.send(()).unwrap();
            }
        });
        let _inside = alloc::enter(&arena);
        for _ in 0..100 {
            to_other.send((0..50).map(|_| Box::new([0u8; 1000])).collect()).unwrap();
            wait.recv().unwrap();
        }
        assert_eq!(arena.stats().fallbacks, 0);
        drop(to_other);
    });
}

/// The mappings of the process that overlap the given addresses: for each, what smaps says of it.
fn mappings_of(memory: std::ops::Range<usize>) -> Vec<BTreeMap<String, String>> {
    let mut mappings = Vec::new();
    let mut overlaps = false;
    for line in fs::read_to_string("/proc/self/smaps").unwrap().lines() {
        let (key, value) = line.split_once(' ').unwrap();
        if let Some((start, end)) = key.split_once('-') {
            let [start, end] = [start, end].map(|hex| usize::from_str_radix(hex, 16).unwrap());
            overlaps = start < memory.end && memory.start < end;
            if overlaps {
                mappings.push(BTreeMap::new());
            }
        } else if overlaps {
            let mapping: &mut BTreeMap<_, _> = mappings.last_mut().unwrap();
            mapping.insert(key.trim_end_matches(':').into(), value.trim().into());
        }
    }
    mappings
}

#[test]
fn an_arena_is_resident_and_locked_and_no_more_than_it() {
    let _alone = one_at_a_time();
    let arena = Arena::new(DEFAULT_ARENA_BYTES, Some(0)).unwrap();
    let inside = alloc::enter(&arena);
    let block = Box::new(0u8);
    drop(inside);
    let address = (&raw const *block).addr();
    let mappings = mappings_of(address..address + 1);
    assert_eq!(mappings.len(), 1);
    assert_eq!(mappings[0]["Size"], "1024 kB");
    assert_eq!(mappings[0]["Rss"], "1024 kB");
    assert_eq!(mappings[0]["Locked"], "1024 kB");
    drop(block);
    drop(arena);
    assert!(
        mappings_of(address..address + 1).iter().all(|mapping| mapping["Rss"] == "0 kB"),
        "the memory of a dropped arena is given back"
    );
}

#[test]
fn statistics_allocate_nothing() {
    let _alone = one_at_a_time();
    let arena = Arena::new(MIN_ARENA_BYTES, None).unwrap();
    let resident = ResidentMemory::open().unwrap();
    let faults = FaultCounter::baseline();
    let inside = alloc::enter(&arena);
    assert!(resident.kib().unwrap() > 0);
    let _ = (faults.since(), arena.stats(), alloc::arena_fallbacks());
    drop(inside);
    assert_eq!(arena.stats().peak_bytes, 0);
}

/// Takes CAP_IPC_LOCK from the calling thread, for good.
fn drop_capability_to_lock() {
    const VERSION_3: u32 = 0x2008_0522;
    const CAP_IPC_LOCK: u32 = 14;
    let header = [VERSION_3, 0];
    let mut sets = [[0u32; 3]; 2];
    // SAFETY: the kernel reads the header and reads or writes two times three words.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()), 0);
        sets[0][0] &= !(1 << CAP_IPC_LOCK);
        assert_eq!(libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()), 0);
    }
}

#[test]
fn what_cannot_be_locked_says_which_limit_and_which_capability() {
    let _alone = one_at_a_time();
    let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap();
    setrlimit(Resource::RLIMIT_MEMLOCK, 16 << 10, hard).unwrap();
    let errors = thread::spawn(|| {
        drop_capability_to_lock();
        let arena = Arena::new(DEFAULT_ARENA_BYTES, None).unwrap_err();
        [arena.to_string(), alloc::lock_process_memory().unwrap_err().to_string()]
    });
    let errors = errors.join().unwrap();
    setrlimit(Resource::RLIMIT_MEMLOCK, soft, hard).unwrap();
    for error in errors {
        assert!(error.contains("16 KiB (RLIMIT_MEMLOCK)"), "{error}");
        assert!(error.contains("CAP_IPC_LOCK"), "{error}");
    }
}
