//! What shows that memory remains resident: page faults since a moment, and resident memory now.
//!
//! Invariant: reading a counter allocates nothing, so that the statistics do not cause what they
//! count.

use super::reserve;
use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use std::fs::File;
use std::marker::PhantomData;
use std::ops::Sub;
use std::os::unix::fs::FileExt;

/// Numbers of page faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Faults served without reading a disk.
    pub minor: u64,
    /// Faults that waited for a disk.
    pub major: u64,
}

impl Faults {
    /// Both kinds together.
    pub fn total(self) -> u64 {
        self.minor + self.major
    }

    fn of(who: UsageWho) -> Faults {
        let usage = getrusage(who).expect("getrusage knows the process and the thread");
        let count = |faults| u64::try_from(faults).unwrap_or(0);
        Faults { minor: count(usage.minor_page_faults()), major: count(usage.major_page_faults()) }
    }
}

impl Sub for Faults {
    type Output = Faults;

    fn sub(self, earlier: Faults) -> Faults {
        Faults { minor: self.minor - earlier.minor, major: self.major - earlier.major }
    }
}

/// Counts the page faults of all threads of the process since a moment.
///
/// ```
/// use scx_manyland::alloc::FaultCounter;
/// let counter = FaultCounter::baseline();
/// let faults = counter.since();
/// assert_eq!(faults.total(), faults.minor + faults.major);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct FaultCounter {
    baseline: Faults,
}

impl FaultCounter {
    /// Counts from now on.
    pub fn baseline() -> Self {
        Self { baseline: Faults::of(UsageWho::RUSAGE_SELF) }
    }

    /// The faults since the baseline.
    pub fn since(&self) -> Faults {
        Faults::of(UsageWho::RUSAGE_SELF) - self.baseline
    }
}

/// Counts the page faults of the calling thread since a moment. It cannot be sent to another
/// thread, which has a count of its own.
#[derive(Clone, Copy, Debug)]
pub struct ThreadFaultCounter {
    baseline: Faults,
    not_send: PhantomData<*const ()>,
}

impl ThreadFaultCounter {
    /// Counts from now on.
    pub fn baseline() -> Self {
        Self { baseline: Faults::of(UsageWho::RUSAGE_THREAD), not_send: PhantomData }
    }

    /// The faults since the baseline.
    pub fn since(&self) -> Faults {
        Faults::of(UsageWho::RUSAGE_THREAD) - self.baseline
    }
}

/// The resident memory of the process.
#[derive(Debug)]
pub struct ResidentMemory {
    statm: File,
    page_kib: u64,
}

impl ResidentMemory {
    /// Opens the source of the figure. This allocates; call it before the scheduler attaches.
    ///
    /// # Errors
    /// If `/proc` is not mounted, or the process is out of file descriptors.
    pub fn open() -> Result<Self> {
        let path = "/proc/self/statm";
        let statm = File::open(path).with_context(|| format!("cannot open {path}"))?;
        Ok(Self { statm, page_kib: (reserve::page_bytes() >> 10) as u64 })
    }

    /// Resident memory now, in KiB.
    ///
    /// # Errors
    /// If the kernel does not give it in its usual form.
    pub fn kib(&self) -> Result<u64> {
        let mut text = [0u8; 128];
        let length = self.statm.read_at(&mut text, 0).context("cannot read /proc/self/statm")?;
        let pages: u64 = std::str::from_utf8(&text[..length])
            .ok()
            .and_then(|text| text.split_ascii_whitespace().nth(1)?.parse().ok())
            .context("/proc/self/statm has no second number")?;
        Ok(pages * self.page_kib)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr;
    use std::thread;

    const PAGES: usize = 1024;

    /// Maps pages and touches each of them.
    fn touch_new_pages() {
        let bytes = PAGES * reserve::page_bytes();
        let (rights, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, written within its bounds, that lives until the process ends.
        unsafe {
            let start = libc::mmap(ptr::null_mut(), bytes, rights, flags, -1, 0).cast::<u8>();
            assert_ne!(start.cast(), libc::MAP_FAILED);
            libc::madvise(start.cast(), bytes, libc::MADV_NOHUGEPAGE);
            for page in 0..PAGES {
                start.add(page * reserve::page_bytes()).write_volatile(1);
            }
        }
    }

    #[test]
    fn a_fault_counts_for_its_thread_and_for_the_process() {
        let (process, thread) = (FaultCounter::baseline(), ThreadFaultCounter::baseline());
        thread::spawn(|| {
            let thread = ThreadFaultCounter::baseline();
            touch_new_pages();
            assert!(thread.since().total() >= PAGES as u64);
        })
        .join()
        .unwrap();
        assert!(process.since().total() >= PAGES as u64);
        assert!(thread.since().total() < PAGES as u64);
    }

    #[test]
    fn resident_memory_grows_by_what_is_touched() {
        let memory = ResidentMemory::open().unwrap();
        let before_kib = memory.kib().unwrap();
        touch_new_pages();
        let grown_kib = memory.kib().unwrap().saturating_sub(before_kib);
        let touched_kib = ((PAGES * reserve::page_bytes()) >> 10) as u64;
        assert!(grown_kib >= touched_kib / 2, "{grown_kib} of {touched_kib} KiB");
    }
}
