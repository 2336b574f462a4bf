//! One range of addresses, reserved once, in equal slots of which each holds at most one arena.
//!
//! Invariant: an address belongs to an arena exactly if it lies in the range, and its slot is its
//! distance from the start divided by the size of a slot. Finding the arena of a block therefore
//! costs one subtraction and one comparison, without a table and without registration.
//!
//! The range costs 8 GiB of addresses and no memory: only the arenas in it are accessible, and so
//! only they are resident.

use super::lock::may_lock;
use super::numa;
use anyhow::{Context, Result, ensure};
use nix::sys::mman::{self, MapFlags, MmapAdvise, ProtFlags};
use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, Ordering};

/// The largest number of arenas, one for each domain a machine may have.
pub const MAX_ARENAS: usize = 512;

/// The largest size of an arena, in bytes: the size of a slot.
pub const MAX_ARENA_BYTES: usize = 1 << SLOT_SHIFT;

const SLOT_SHIFT: u32 = 24;
const RANGE_BYTES: usize = MAX_ARENAS << SLOT_SHIFT;

/// Start of the range. Before the range exists it is an address so far from all that a program can
/// own that no pointer seems to lie in the range.
static START: AtomicPtr<u8> = AtomicPtr::new(ptr::without_provenance_mut(1 << 63));

/// Where the slot begins in which an address lies, if it lies in any.
#[inline]
pub(super) fn slot_start_of(address: *mut u8) -> Option<NonNull<u8>> {
    // Relaxed: a holder of a pointer into the range got it from a thread that had seen the range.
    let start = START.load(Ordering::Relaxed);
    let distance = address.addr().wrapping_sub(start.addr());
    if distance >= RANGE_BYTES {
        return None;
    }
    NonNull::new(start.wrapping_add(distance >> SLOT_SHIFT << SLOT_SHIFT))
}

/// Reserves the range if that has not been done. The caller holds the lock over the slots.
///
/// # Errors
/// If the kernel refuses the addresses.
pub(super) fn reserve() -> Result<()> {
    if start().is_some() {
        return Ok(());
    }
    let length = NonZeroUsize::new(RANGE_BYTES).expect("constant above 0");
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
    let range = unsafe { mman::mmap_anonymous(None, length, ProtFlags::PROT_NONE, flags) }
        .with_context(|| {
            format!(
                "cannot reserve {} GiB of addresses for the arenas; raise the limit on virtual \
                 memory (ulimit -v unlimited) and start before memory is locked, or with \
                 CAP_IPC_LOCK",
                RANGE_BYTES >> 30
            )
        })?;
    unlock(range.cast(), RANGE_BYTES)?;
    START.store(range.cast().as_ptr(), Ordering::Release);
    Ok(())
}

fn start() -> Option<NonNull<u8>> {
    let start = START.load(Ordering::Acquire);
    if start.addr() == 1 << 63 { None } else { NonNull::new(start) }
}

/// Where a slot begins.
///
/// # Panics
/// If the range is not reserved, or has no such slot.
pub(super) fn slot_start(slot: usize) -> NonNull<u8> {
    assert!(slot < MAX_ARENAS, "slot {slot} of {MAX_ARENAS}");
    let start = start().expect("the range is reserved before a slot is used");
    // SAFETY: the slot lies within the range, which is one mapping.
    unsafe { start.add(slot << SLOT_SHIFT) }
}

/// Makes the first `bytes` of a slot usable memory: zeroed, on `node` where possible, resident, and
/// locked unless a sandbox forbids that. Returns its start and whether the kernel accepted the node.
///
/// # Errors
/// If the size is 0 or larger than a slot, or if the kernel refuses the memory or to lock it.
pub(super) fn open(slot: usize, bytes: usize, node: Option<u32>) -> Result<(NonNull<u8>, bool)> {
    ensure!((1..=MAX_ARENA_BYTES).contains(&bytes), "{bytes} bytes do not fit a slot");
    let start = slot_start(slot);
    let memory: NonNull<c_void> = start.cast();
    // The policy comes before the access rights: under mlockall(MCL_FUTURE) pages are allocated the
    // moment they become accessible.
    let on_node = numa::bind(start, bytes, node)?;
    let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: the slot is free, so no thread uses these addresses; they lie in our own mapping.
    unsafe {
        mman::mprotect(memory, bytes, rights)
            .with_context(|| format!("cannot get {} KiB for an arena", bytes >> 10))?;
        // khugepaged would replace pages that are in use, which costs faults. A kernel without huge
        // pages answers EINVAL.
        let _ = mman::madvise(memory, bytes, MmapAdvise::MADV_NOHUGEPAGE);
    }
    // SAFETY: as above; locking changes no contents.
    let lock = || unsafe { mman::mlock(memory, bytes) };
    if may_lock()
        && let Err(errno) = lock()
    {
        close(slot, bytes)?;
        return Err(super::lock::lock_error(errno, &format!("{} KiB for an arena", bytes >> 10)));
    }
    for offset in (0..bytes).step_by(page_bytes()) {
        // SAFETY: within the memory just made writable, which no other thread knows yet.
        unsafe { start.add(offset).write_volatile(0) };
    }
    Ok((start, on_node))
}

/// Gives the memory of a slot back to the kernel and leaves its addresses reserved.
///
/// # Errors
/// If the kernel refuses, which it has no known reason to.
pub(super) fn close(slot: usize, bytes: usize) -> Result<()> {
    let memory = slot_start(slot);
    unlock(memory, bytes)?;
    let memory = memory.cast();
    // SAFETY: the caller says that nothing in the slot is in use; the addresses are our own.
    unsafe {
        mman::madvise(memory, bytes, MmapAdvise::MADV_DONTNEED)
            .and_then(|()| mman::mprotect(memory, bytes, ProtFlags::PROT_NONE))
            .context("cannot give the memory of an arena back")
    }
}

/// Unlocks what `mlockall` locked of the range outside the arenas, so that `VmLck` and its limit
/// count memory and not reserved addresses. `arenas` are the slots in use, ascending, with their
/// sizes in bytes.
///
/// # Errors
/// If the kernel refuses.
pub(super) fn unlock_unused(arenas: impl Iterator<Item = (usize, usize)>) -> Result<()> {
    let Some(start) = start() else { return Ok(()) };
    let mut unused = 0;
    for (slot, bytes) in arenas.chain([(MAX_ARENAS, 0)]) {
        let used = slot << SLOT_SHIFT;
        if used > unused {
            // SAFETY: both ends lie within the range, which is one mapping.
            unlock(unsafe { start.add(unused) }, used - unused)?;
        }
        unused = used + bytes;
    }
    Ok(())
}

fn unlock(memory: NonNull<u8>, bytes: usize) -> Result<()> {
    if !may_lock() {
        return Ok(());
    }
    // SAFETY: unlocking changes neither contents nor access, only whether pages may be evicted.
    unsafe { mman::munlock(memory.cast(), bytes) }.context("cannot unlock reserved addresses")
}

/// The size of a page, in bytes.
pub(super) fn page_bytes() -> usize {
    // SAFETY: sysconf only reads.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).expect("every Linux knows its page size")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_range_have_a_slot() {
        reserve().unwrap();
        for slot in [0, 1, MAX_ARENAS - 1] {
            let first = slot_start(slot);
            let last = first.as_ptr().wrapping_add(MAX_ARENA_BYTES - 1);
            assert_eq!(slot_start_of(first.as_ptr()), Some(first));
            assert_eq!(slot_start_of(last), Some(first));
        }
        let start = slot_start(0).as_ptr();
        assert_eq!(slot_start_of(start.wrapping_sub(1)), None);
        assert_eq!(slot_start_of(start.wrapping_add(RANGE_BYTES)), None);
        assert_eq!(slot_start_of(ptr::null_mut()), None);
        let mut local = 0u8;
        assert_eq!(slot_start_of(&raw mut local), None);
    }
}
