//! The memory of one domain: a TLSF heap in a slot of the reserved range.
//!
//! TLSF allocates and frees in constant time (Masmano et al., ECRTS 2004; the crate rlsf). A header
//! at the slot's start describes the heap, so that the heap's own tables lie on the domain's node
//! too.
//!
//! Invariant: only the owner, which holds `owned`, touches the heap. The owner is a thread inside
//! the arena ([`super::enter`]), or for a moment the thread that gives its memory back. Every other
//! thread only pushes onto `remote` and reads the counts. No thread ever waits for `owned`.
//!
//! Invariant: memory goes back to the kernel only when the [`Arena`] is dropped and no block of it
//! is live; until then blocks freed later still find their way into its slot.

use super::remote::{Chain, MIN_BLOCK, RemoteFrees};
use super::reserve::{self, MAX_ARENA_BYTES, MAX_ARENAS};
use anyhow::{Result, bail, ensure};
use parking_lot::Mutex;
use rlsf::Tlsf;
use std::alloc::Layout;
use std::cell::UnsafeCell;
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The size of an arena that suits a domain, in bytes.
pub const DEFAULT_ARENA_BYTES: usize = 1 << 20;

/// The smallest size of an arena, in bytes.
pub const MIN_ARENA_BYTES: usize = 64 << 10;

/// Blocks of the pending chain that one allocation frees. It is more than one, so that the chain
/// gets shorter, and few, so that every allocation is short.
const FREED_PER_ALLOCATION: usize = 4;

/// TLSF over sizes up to 32 << 19 bytes (a slot) in 16 steps for each power of two: at most 1/16
/// of a block is lost to rounding.
type Heap = Tlsf<'static, u32, u16, 19, 16>;
const _: () = assert!(rlsf::GRANULARITY << 19 == MAX_ARENA_BYTES);

static SLOTS: Mutex<[Slot; MAX_ARENAS]> = Mutex::new([Slot::Free; MAX_ARENAS]);

/// Blocks that arenas could not serve, since the program started.
static FALLBACKS: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Copy)]
enum Slot {
    /// Addresses without memory.
    Free,
    /// The slot of an [`Arena`].
    Used { bytes: usize },
    /// The [`Arena`] is dropped, but some of its blocks are live or a thread is still inside.
    Retired { bytes: usize },
}

/// How many allocations of domain threads the system's heap has served, because their arena had no
/// room: over all arenas, since the program started.
pub fn arena_fallbacks() -> u64 {
    FALLBACKS.load(Ordering::Relaxed)
}

/// Locked, touched memory for one domain. See [`super::enter`] for its use.
///
/// Dropping it gives the memory back to the kernel once no block of it is live.
#[derive(Debug)]
pub struct Arena {
    header: NonNull<Header>,
    slot: usize,
    on_node: bool,
}

// SAFETY: the header is `Sync`, and the other fields are plain values.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// Makes an arena of `bytes`, rounded up to whole pages, on the NUMA node `node` or, without
    /// one, on that of the calling thread. Its memory is resident and locked when this returns.
    ///
    /// # Errors
    /// If `bytes` is not from [`MIN_ARENA_BYTES`] to [`MAX_ARENA_BYTES`], if there are
    /// [`MAX_ARENAS`] already, or if the kernel refuses the memory or to lock it.
    pub fn new(bytes: usize, node: Option<u32>) -> Result<Arena> {
        ensure!(
            (MIN_ARENA_BYTES..=MAX_ARENA_BYTES).contains(&bytes),
            "an arena of {bytes} bytes is not possible; choose from {MIN_ARENA_BYTES} to \
             {MAX_ARENA_BYTES}"
        );
        let bytes = bytes.next_multiple_of(reserve::page_bytes());
        let mut slots = SLOTS.lock();
        reserve::reserve()?;
        release_retired(&mut slots)?;
        let Some(slot) = slots.iter().position(|slot| matches!(slot, Slot::Free)) else {
            bail!("{MAX_ARENAS} arenas are in use, which is as many as there can be");
        };
        let (start, on_node) = reserve::open(slot, bytes, node)?;
        slots[slot] = Slot::Used { bytes };
        Ok(Arena { header: Header::write(start, bytes), slot, on_node })
    }

    /// Whether the kernel accepted the node that the arena was to be on; false without a node.
    pub fn is_on_node(&self) -> bool {
        self.on_node
    }

    /// The present counts. Each count is exact; while another thread is inside the arena, they may
    /// be from slightly different moments.
    pub fn stats(&self) -> ArenaStats {
        let header = self.header();
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        ArenaStats {
            capacity_bytes: header.bytes as u64,
            live_blocks: load(&header.counts.live_blocks),
            live_bytes: load(&header.counts.live_bytes),
            peak_bytes: load(&header.counts.peak_bytes),
            fallbacks: load(&header.counts.fallbacks),
        }
    }

    pub(super) fn header(&self) -> &Header {
        // SAFETY: the slot remains open for as long as this handle exists.
        unsafe { self.header.as_ref() }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let mut slots = SLOTS.lock();
        slots[self.slot] = Slot::Retired { bytes: self.header().bytes };
        // `Arena::new` tries again to release what cannot be released now.
        let _ = release_retired(&mut slots);
    }
}

/// Gives back the memory of those retired slots that hold no live block.
fn release_retired(slots: &mut [Slot; MAX_ARENAS]) -> Result<()> {
    for (index, slot) in slots.iter_mut().enumerate() {
        let Slot::Retired { bytes } = *slot else { continue };
        let header: NonNull<Header> = reserve::slot_start(index).cast();
        // SAFETY: a retired slot is open, and its header was written when it was opened.
        if unsafe { header.as_ref() }.is_unused() {
            reserve::close(index, bytes)?;
            *slot = Slot::Free;
        }
    }
    Ok(())
}

/// Runs `action` with the slots that hold memory, ascending, and their sizes in bytes. No arena
/// comes or goes meanwhile.
pub(super) fn with_open_slots<T>(
    action: impl FnOnce(&mut dyn Iterator<Item = (usize, usize)>) -> T,
) -> T {
    let slots = SLOTS.lock();
    action(&mut slots.iter().enumerate().filter_map(|(index, slot)| match *slot {
        Slot::Free => None,
        Slot::Used { bytes } | Slot::Retired { bytes } => Some((index, bytes)),
    }))
}

/// What an arena has served. Sizes are in bytes, as the callers asked for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaStats {
    /// The size of the arena, its own tables included.
    pub capacity_bytes: u64,
    /// Blocks in use, or freed by another thread and not yet reclaimed.
    pub live_blocks: u64,
    /// Bytes in those blocks.
    pub live_bytes: u64,
    /// The most that `live_bytes` has been.
    pub peak_bytes: u64,
    /// Allocations that did not fit and came from the system's heap.
    pub fallbacks: u64,
}

/// What stands at the start of an arena's memory.
#[repr(C)]
pub(super) struct Header {
    remote: OwnLine<RemoteFrees>,
    owned: AtomicBool,
    bytes: usize,
    counts: Counts,
    owner: UnsafeCell<OwnerPart>,
}

/// Keeps what other threads write off the cache lines of the owner (128: lines are fetched in
/// pairs).
#[repr(align(128))]
struct OwnLine<T>(T);

struct OwnerPart {
    heap: Heap,
    /// Drained from `remote`, to be freed a few at a time.
    pending: Chain,
}

/// Only the owner writes them, so a load and a store make an addition. Every thread may read them.
struct Counts {
    live_blocks: AtomicU64,
    live_bytes: AtomicU64,
    peak_bytes: AtomicU64,
    fallbacks: AtomicU64,
}

// SAFETY: only functions marked for the owner access `owner`; the rest is atomic or never changes.
unsafe impl Sync for Header {}

impl Header {
    /// Writes a header at the start of new memory and puts the rest of it into the heap.
    fn write(start: NonNull<u8>, bytes: usize) -> NonNull<Header> {
        let header: NonNull<Header> = start.cast();
        let used = size_of::<Header>();
        let mut heap = Heap::new();
        // SAFETY: the memory is new, ours alone, page-aligned, and larger than a header
        // (MIN_ARENA_BYTES). It outlives the heap, which lies in it.
        unsafe {
            let rest = NonNull::slice_from_raw_parts(start.add(used), bytes - used);
            heap.insert_free_block_ptr(rest);
            header.write(Header {
                remote: OwnLine(RemoteFrees::new()),
                owned: AtomicBool::new(false),
                bytes,
                counts: Counts::new(),
                owner: UnsafeCell::new(OwnerPart { heap, pending: Chain::EMPTY }),
            });
        }
        header
    }

    /// The header of the arena that an address belongs to, if it belongs to one.
    ///
    /// `address` is that of a live block, or of no arena: then the header is there.
    #[inline]
    pub(super) fn of(address: *mut u8) -> Option<NonNull<Header>> {
        reserve::slot_start_of(address).map(NonNull::cast)
    }

    /// Makes the calling thread the owner, unless another thread is.
    pub(super) fn acquire(&self) -> bool {
        // Acquire pairs with the Release in `release`: the heap is as the last owner left it.
        self.owned.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Ends the ownership that `acquire` began.
    ///
    /// # Safety
    /// The calling thread is the owner, and from here on no more.
    pub(super) unsafe fn release(&self) {
        self.owned.store(false, Ordering::Release);
    }

    /// Whether no block is live and no thread inside.
    fn is_unused(&self) -> bool {
        if !self.acquire() {
            return false;
        }
        // SAFETY: this thread has just become the owner, and stops being it.
        unsafe {
            self.reclaim_all();
            self.release();
        }
        self.counts.live_blocks.load(Ordering::Relaxed) == 0
    }

    /// A block for `layout`, or `None`, counted, if there is no room.
    ///
    /// # Safety
    /// The calling thread is the owner.
    #[inline]
    pub(super) unsafe fn allocate(&self, layout: Layout) -> Option<NonNull<u8>> {
        let layout = bounded(layout);
        // SAFETY: the owner is the only one to make references to its part, one at a time.
        let block = unsafe {
            self.reclaim_some();
            (*self.owner.get()).heap.allocate(layout)
        };
        // SAFETY: as above.
        let block = block.or_else(|| unsafe {
            self.reclaim_all();
            (*self.owner.get()).heap.allocate(layout)
        });
        match block {
            Some(_) => self.counts.add_block(layout.size()),
            None => self.counts.add_fallback(),
        }
        block
    }

    /// Frees a block.
    ///
    /// # Safety
    /// The calling thread is the owner; `block` is a live block of this arena, of this layout.
    #[inline]
    pub(super) unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's word, and the layout is changed as it was when allocated.
        unsafe { self.free(block, bounded(layout)) };
    }

    /// Frees a block from another thread than the owner's.
    ///
    /// # Safety
    /// `block` is a live block of this arena, of this layout.
    pub(super) unsafe fn deallocate_remotely(&self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's word, and `bounded` made the block large enough.
        unsafe { self.remote.0.push(block, bounded(layout)) };
    }

    /// Makes a block of `old` layout `new_size` bytes large, where it is or elsewhere in the arena,
    /// and keeps its contents. Without room it returns `None`, counted, and changes nothing.
    ///
    /// # Safety
    /// The calling thread is the owner; `block` is a live block of this arena, of layout `old`;
    /// `new_size` does not overflow `isize` when rounded up to the alignment of `old`.
    pub(super) unsafe fn reallocate(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new_size: usize,
    ) -> Option<NonNull<u8>> {
        // SAFETY: the caller's word about `new_size`.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, old.align()) };
        let (old, new) = (bounded(old), bounded(new));
        // SAFETY: the owner is the only one to make references to its part, one at a time; both
        // layouts have one alignment, the one the block was allocated with.
        let moved = unsafe {
            (*self.owner.get()).heap.reallocate(block, new).or_else(|| {
                self.reclaim_all();
                (*self.owner.get()).heap.reallocate(block, new)
            })
        };
        match moved {
            Some(_) => self.counts.resize_block(old.size(), new.size()),
            None => self.counts.add_fallback(),
        }
        moved
    }

    /// Reclaims every block that other threads have freed.
    ///
    /// # Safety
    /// The calling thread is the owner.
    pub(super) unsafe fn reclaim_all(&self) {
        // SAFETY: the owner's part, as the caller says; the chain is moved out before its blocks
        // are freed. Chained blocks were live blocks of this arena when they were pushed.
        unsafe {
            loop {
                let mut chain = std::mem::replace(&mut (*self.owner.get()).pending, Chain::EMPTY);
                if chain.is_empty() {
                    chain = self.remote.0.drain();
                }
                if chain.is_empty() {
                    return;
                }
                while let Some((block, layout)) = chain.pop() {
                    self.free(block, layout);
                }
            }
        }
    }

    /// Reclaims a few of the blocks that other threads have freed.
    ///
    /// # Safety
    /// The calling thread is the owner.
    #[inline]
    unsafe fn reclaim_some(&self) {
        // SAFETY: as in `reclaim_all`.
        unsafe {
            if (*self.owner.get()).pending.is_empty() {
                (*self.owner.get()).pending = self.remote.0.drain();
            }
            for _ in 0..FREED_PER_ALLOCATION {
                let Some((block, layout)) = (*self.owner.get()).pending.pop() else { return };
                self.free(block, layout);
            }
        }
    }

    /// # Safety
    /// As for `deallocate`, the layout having been through `bounded`.
    #[inline]
    unsafe fn free(&self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the owner's part, as the caller says, and one of its blocks.
        unsafe { (*self.owner.get()).heap.deallocate(block, layout.align()) };
        self.counts.remove_block(layout.size());
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Header").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// The layout that the heap is asked for instead of `layout`.
///
/// - It is large enough for the list of remote frees, so blocks of size 0 have an address too.
/// - A size or alignment that no arena can hold becomes the least that no arena can hold.
#[inline]
fn bounded(layout: Layout) -> Layout {
    let size = layout.size().clamp(MIN_BLOCK.size(), MAX_ARENA_BYTES);
    let align = layout.align().clamp(MIN_BLOCK.align(), MAX_ARENA_BYTES);
    // SAFETY: both bounds of the alignment are powers of two, as it is, and the size rounded up to
    // it is at most MAX_ARENA_BYTES, which is one too.
    unsafe { Layout::from_size_align_unchecked(size, align) }
}

impl Counts {
    const fn new() -> Self {
        Self {
            live_blocks: AtomicU64::new(0),
            live_bytes: AtomicU64::new(0),
            peak_bytes: AtomicU64::new(0),
            fallbacks: AtomicU64::new(0),
        }
    }

    fn add_block(&self, bytes: usize) {
        add(&self.live_blocks, 1);
        self.grow(bytes as u64);
    }

    fn remove_block(&self, bytes: usize) {
        add(&self.live_blocks, 1u64.wrapping_neg());
        add(&self.live_bytes, (bytes as u64).wrapping_neg());
    }

    fn resize_block(&self, old: usize, new: usize) {
        self.grow((new as u64).wrapping_sub(old as u64));
    }

    fn add_fallback(&self) {
        add(&self.fallbacks, 1);
        FALLBACKS.fetch_add(1, Ordering::Relaxed);
    }

    fn grow(&self, bytes: u64) {
        let live = add(&self.live_bytes, bytes);
        if live > self.peak_bytes.load(Ordering::Relaxed) {
            self.peak_bytes.store(live, Ordering::Relaxed);
        }
    }
}

/// Adds, modulo 2^64, to a count that no other thread writes, and returns the sum.
fn add(count: &AtomicU64, amount: u64) -> u64 {
    let sum = count.load(Ordering::Relaxed).wrapping_add(amount);
    count.store(sum, Ordering::Relaxed);
    sum
}
