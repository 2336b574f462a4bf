//! The rest of the program's memory: locked, and settled so that it neither grows nor shrinks
//! while the scheduler is attached.
//!
//! Invariant: once [`settle_heap`] and [`lock_process_memory`] have run, the system's heap gives
//! nothing back to the kernel, so that resident memory remains resident.

use super::{arena, reserve};
use anyhow::{Error, Result, ensure};
use nix::errno::Errno;
use nix::sys::mman::{self, MapFlags, MlockAllFlags, ProtFlags};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::LazyLock;

/// Whether this process may lock memory at all. A sandbox can forbid it, whatever the limit is:
/// then memory is touched and not locked, and the kernel may evict it where memory is short.
pub fn may_lock() -> bool {
    static MAY: LazyLock<bool> = LazyLock::new(|| {
        let page = NonZeroUsize::new(reserve::page_bytes()).expect("a page has bytes");
        let flags = MapFlags::MAP_PRIVATE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let Ok(memory) = (unsafe { mman::mmap_anonymous(None, page, ProtFlags::PROT_READ, flags) })
        else {
            return true;
        };
        // SAFETY: it is the page just mapped, which nothing refers to.
        let locked = unsafe { mman::mlock(memory, page.get()) };
        // SAFETY: as above. Unmapping unlocks it.
        let _ = unsafe { mman::munmap(memory, page.get()) };
        locked != Err(Errno::EPERM)
    });
    *MAY
}

/// Lets all threads share one heap of glibc's malloc. By default every thread that allocates gets
/// a heap of its own. That is resident memory without use here: the busy threads have arenas.
///
/// Call it before the second thread starts.
///
/// # Errors
/// If malloc refuses.
pub fn limit_malloc_arenas() -> Result<()> {
    set_malloc_option("M_ARENA_MAX", libc::M_ARENA_MAX, 1)
}

/// Settles the system's heap, in three steps:
///
/// 1. It gives memory back that the start of the program has freed.
/// 2. It has malloc keep its memory from here on: the heap does not shrink, and large blocks are
///    not mapped separately, which would cost page faults at every use.
/// 3. It makes sure that `spare_kib` KiB of the heap are free and resident.
///
/// Call it when all that is large has been loaded, shortly before the scheduler attaches.
///
/// # Errors
/// If malloc refuses, or has no memory.
pub fn settle_heap(spare_kib: usize) -> Result<()> {
    // SAFETY: malloc's own lock makes this safe at any time.
    unsafe { libc::malloc_trim(0) };
    set_malloc_option("M_MMAP_MAX", libc::M_MMAP_MAX, 0)?;
    set_malloc_option("M_TRIM_THRESHOLD", libc::M_TRIM_THRESHOLD, -1)?;
    let spare_bytes = spare_kib << 10;
    // SAFETY: the block is checked, written within its bounds, and freed once.
    unsafe {
        let spare = libc::malloc(spare_bytes).cast::<u8>();
        ensure!(!spare.is_null() || spare_kib == 0, "no memory for {spare_kib} KiB of spare heap");
        for offset in (0..spare_bytes).step_by(reserve::page_bytes()) {
            spare.add(offset).write_volatile(0);
        }
        libc::free(spare.cast());
    }
    Ok(())
}

fn set_malloc_option(name: &str, option: libc::c_int, value: libc::c_int) -> Result<()> {
    // SAFETY: mallopt only sets an option, under malloc's lock.
    let accepted = unsafe { libc::mallopt(option, value) };
    ensure!(accepted == 1, "malloc does not accept {name} = {value}");
    Ok(())
}

/// Locks all present and future memory of the process, and keeps the kernel from replacing its
/// pages by huge ones while they are in use. Reserved addresses of the arenas that hold no memory
/// are not locked.
///
/// Threads started from here on have their whole stack resident at once.
///
/// # Errors
/// If the process may not lock that much; the message names the limit and the capability. Where
/// [`may_lock`] says no, nothing is locked and that is no error.
pub fn lock_process_memory() -> Result<()> {
    // A kernel without huge pages refuses this, and has none to prevent.
    // SAFETY: the call sets a flag of the process and touches no memory.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    if !may_lock() {
        return Ok(());
    }
    mman::mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE)
        .map_err(|errno| lock_error(errno, "the process's memory"))?;
    arena::with_open_slots(|slots| reserve::unlock_unused(slots))
}

/// The error for `what`, which could not be locked.
pub(super) fn lock_error(errno: Errno, what: &str) -> Error {
    let limit = match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((RLIM_INFINITY, _)) | Err(_) => "not limited".to_string(),
        Ok((bytes, _)) => format!("{} KiB", bytes >> 10),
    };
    let advice = match errno {
        Errno::EPERM | Errno::ENOMEM | Errno::EAGAIN => {
            format!(
                ": locked memory is {limit} (RLIMIT_MEMLOCK); run as root, give the program \
                 CAP_IPC_LOCK, or raise the limit (ulimit -l unlimited), and see that enough \
                 memory is free"
            )
        }
        _ => String::new(),
    };
    Error::new(errno).context(format!("cannot lock {what}{advice}"))
}

/// Touches the next `kib` KiB of the calling thread's stack, so that using them later costs no
/// page fault. The main thread needs this, because its stack grows as it is used. The stacks of
/// threads that start after [`lock_process_memory`] are resident anyway.
///
/// The stack must have more than `kib` KiB left, or it overflows and the program dies.
pub fn prefault_stack(kib: usize) {
    const FRAME_KIB: usize = 4;
    #[inline(never)]
    fn touch(frames: usize) {
        let frame = black_box([0u8; FRAME_KIB << 10]);
        if frames > 1 {
            touch(frames - 1);
        }
        // This use keeps the call from being a tail call, which would reuse the frame.
        black_box(&frame);
    }
    if kib > 0 {
        touch(kib.div_ceil(FRAME_KIB));
    }
}
