//! A writer that changes decisions while the kernel reads them: it toggles one bit of the CPU in
//! the record at the consumer's position of each ring of decisions that this process has.

use super::process;
use anyhow::{Context, Result, ensure};
use nix::libc::c_void;
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use nix::unistd::{SysconfVar, sysconf};
use scx_manyland::abi;
use std::fs;
use std::mem::offset_of;
use std::num::NonZeroUsize;
use std::os::fd::{BorrowedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// BPF_MAP_TYPE_USER_RINGBUF, as the kernel writes it.
const USER_RINGBUF: &str = "31";

/// No machine has a CPU of such a number, and no queue its number.
const NONSENSE: u32 = 1 << 30;

/// Before the decision in its record.
const HEADER: u64 = 8;

/// How often it writes to one ring before it goes to the next.
const TOGGLES: usize = 1000;

/// It pauses now and then, or the tasks that are bound to its CPU would wait for it.
const PERIOD: Duration = Duration::from_millis(10);
const PAUSE: Duration = Duration::from_millis(1);

/// A ring of decisions, mapped once more: the consumer's page, the producer's, the data.
struct Ring {
    consumer: NonNull<c_void>,
    data: NonNull<c_void>,
    size: u64,
}

/// The writer.
pub struct Flipper(Vec<Ring>);

// SAFETY: the mappings belong to the process, not to a thread, and last as long as it does.
unsafe impl Send for Flipper {}

impl Flipper {
    /// Finds the rings among the descriptors of this process.
    pub fn new() -> Result<Flipper> {
        let mut rings = Vec::new();
        for entry in fs::read_dir("/proc/self/fdinfo").context("cannot list descriptors")? {
            let entry = entry?;
            let info = fs::read_to_string(entry.path()).unwrap_or_default();
            let field = |name: &str| {
                info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"))
            };
            if field("map_type") != Some(USER_RINGBUF) {
                continue;
            }
            let fd = entry.file_name().to_string_lossy().parse().context("a descriptor")?;
            let size = field("max_entries").context("a ring without a size")?.parse()?;
            rings.push(Ring::map(fd, size)?);
        }
        ensure!(!rings.is_empty(), "this process has no ring of decisions");
        Ok(Flipper(rings))
    }

    /// Toggles until it is told to stop.
    pub fn run(self, stop: &AtomicBool) {
        process::become_real_time();
        let mut paused_at = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            if paused_at.elapsed() > PERIOD {
                thread::sleep(PAUSE);
                paused_at = Instant::now();
            }
            for ring in &self.0 {
                for _ in 0..TOGGLES {
                    ring.next_cpu().fetch_xor(NONSENSE, Ordering::Relaxed);
                }
            }
        }
    }
}

impl Ring {
    fn map(fd: RawFd, size: usize) -> Result<Ring> {
        let page = sysconf(SysconfVar::PAGE_SIZE)?.context("a page has no size")? as usize;
        let map = |offset: usize, length: usize, access| {
            let length = NonZeroUsize::new(length).context("a ring of no bytes")?;
            // SAFETY: the descriptor was listed a moment ago, and its owner keeps it open.
            let ring = unsafe { BorrowedFd::borrow_raw(fd) };
            // SAFETY: a new mapping at an address of the kernel's choice.
            unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, ring, offset as libc::off_t) }
                .context("cannot map a ring of decisions")
        };
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let consumer = map(0, page, ProtFlags::PROT_READ)?;
        let producer = map(page, page + 2 * size, access)?;
        // SAFETY: the data follow the producer's page in the same mapping.
        let data = unsafe { producer.byte_add(page) };
        Ok(Ring { consumer, data, size: size as u64 })
    }

    /// The CPU in the record that the kernel reads, or reads next.
    fn next_cpu(&self) -> &AtomicU32 {
        // SAFETY: the first word of the page is the position.
        let position = unsafe { self.consumer.cast::<AtomicU64>().as_ref() };
        let offset = position.load(Ordering::Relaxed) % self.size;
        let cpu = offset + HEADER + offset_of!(abi::decision, cpu) as u64;
        // SAFETY: the data are mapped twice, so a record that begins in them ends in the mapping;
        // records are aligned to eight bytes.
        unsafe { self.data.byte_add(cpu as usize).cast::<AtomicU32>().as_ref() }
    }
}
