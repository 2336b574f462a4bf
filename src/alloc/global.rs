//! The allocator of the whole program, which knows in which domain the calling thread is.
//!
//! Invariant: a thread's `CURRENT` names an arena exactly while the thread owns that arena. So a
//! thread that finds its own arena behind a block may touch the heap, and any other may not.

use super::arena::{Arena, Header, MIN_ARENA_BYTES};
use anyhow::{Result, ensure};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

thread_local! {
    /// The arena the thread is inside of, or null. Constant at the start and without a destructor,
    /// so that reading it neither allocates nor fails while a thread ends.
    static CURRENT: Cell<*const Header> = const { Cell::new(ptr::null()) };
}

/// A global allocator that gives each domain its own memory.
///
/// A domain thread allocates from the arena of its domain, every other thread from the system's
/// heap. Each block goes back to where it came from, whichever thread frees it. Where an arena has
/// no room, the system's heap serves the allocation.
///
/// The program installs it in its main file. A run checks that: without the allocator no domain
/// thread would have memory of its own.
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: scx_manyland::DomainAllocator = scx_manyland::DomainAllocator;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct DomainAllocator;

/// Makes the calling thread allocate from `arena` until the returned value is dropped. One thread
/// at a time can be inside an arena; every thread can free its blocks.
///
/// It must not be used across a fork or in a signal handler.
///
/// # Panics
/// If another thread is inside this arena, or this thread is inside any.
pub fn enter(arena: &Arena) -> Entered<'_> {
    assert!(current().is_none(), "a thread enters an arena while it is inside one");
    let header = arena.header();
    assert!(header.acquire(), "two threads enter one arena");
    // SAFETY: `acquire` made this thread the owner.
    unsafe { header.reclaim_all() };
    CURRENT.set(header);
    Entered { header, not_send: PhantomData }
}

/// Checks that [`DomainAllocator`] is the program's global allocator.
///
/// # Errors
/// If it is not, or if [`Arena::new`] fails.
pub fn check_installed() -> Result<()> {
    let arena = Arena::new(MIN_ARENA_BYTES, None)?;
    let inside = enter(&arena);
    drop(std::hint::black_box(Box::new(0u64)));
    drop(inside);
    ensure!(
        arena.stats().peak_bytes > 0,
        "cannot attach: this program has another allocator than the domain threads need; put \
         `#[global_allocator] static ALLOCATOR: scx_manyland::DomainAllocator = \
         scx_manyland::DomainAllocator;` into its main file"
    );
    Ok(())
}

/// Proof that the thread is inside an arena. See [`enter`].
#[derive(Debug)]
#[must_use = "the thread is inside the arena only until this is dropped"]
pub struct Entered<'a> {
    header: &'a Header,
    not_send: PhantomData<*const ()>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        CURRENT.set(ptr::null());
        // SAFETY: this value was made by the thread that became the owner, and cannot leave it.
        unsafe { self.header.release() };
    }
}

/// The arena that the calling thread owns.
#[inline]
fn current() -> Option<&'static Header> {
    // SAFETY: `CURRENT` is set only while an `Entered` of this thread exists, and so the arena. If
    // the `Entered` was forgotten, the arena remains owned, and is therefore never released.
    unsafe { CURRENT.get().as_ref() }
}

// SAFETY: both heaps keep the contract, and every block is freed by the heap that its address says
// it is from: the reserved range holds the blocks of arenas and nothing else. No function unwinds.
unsafe impl GlobalAlloc for DomainAllocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the thread owns `CURRENT`.
        match current().and_then(|arena| unsafe { arena.allocate(layout) }) {
            Some(block) => block.as_ptr(),
            // SAFETY: the contract is the caller's.
            None => unsafe { System.alloc(layout) },
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the thread owns `CURRENT`.
        match current().and_then(|arena| unsafe { arena.allocate(layout) }) {
            Some(block) => {
                // SAFETY: the block has at least the size of the layout.
                unsafe { block.write_bytes(0, layout.size()) };
                block.as_ptr()
            }
            // SAFETY: the contract is the caller's.
            None => unsafe { System.alloc_zeroed(layout) },
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(home) = Header::of(block) else {
            // SAFETY: not of an arena, so of the system's heap.
            return unsafe { System.dealloc(block, layout) };
        };
        // SAFETY: the block is live, so its arena has a header, and the address is not null. Which
        // of the two applies is whether the thread owns the block's arena.
        unsafe {
            let block = NonNull::new_unchecked(block);
            if is_current(home) {
                home.as_ref().deallocate(block, layout);
            } else {
                home.as_ref().deallocate_remotely(block, layout);
            }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let home = Header::of(block);
        match home {
            // SAFETY: neither block nor thread has to do with an arena.
            None if current().is_none() => unsafe { System.realloc(block, layout, new_size) },
            Some(home) if is_current(home) => {
                // SAFETY: the thread owns the arena of the live, and so not null, block; the caller
                // promises the new size.
                let moved = unsafe {
                    let block = NonNull::new_unchecked(block);
                    home.as_ref().reallocate(block, layout, new_size)
                };
                match moved {
                    Some(moved) => moved.as_ptr(),
                    // SAFETY: the contract is the caller's; the old block is as it was.
                    None => unsafe { self.relocate(&System, block, layout, new_size) },
                }
            }
            // SAFETY: the contract is the caller's.
            _ => unsafe { self.relocate(self, block, layout, new_size) },
        }
    }
}

impl DomainAllocator {
    /// Moves a block to another heap.
    ///
    /// # Safety
    /// As for [`GlobalAlloc::realloc`].
    unsafe fn relocate(
        &self,
        target: &impl GlobalAlloc,
        block: *mut u8,
        layout: Layout,
        new_size: usize,
    ) -> *mut u8 {
        // SAFETY: the caller promises that the new size is fine for the alignment and not 0, and
        // that the block is live and of this layout. The two blocks are different.
        unsafe {
            let new_layout = Layout::from_size_align_unchecked(new_size, layout.align());
            let moved = target.alloc(new_layout);
            if !moved.is_null() {
                ptr::copy_nonoverlapping(block, moved, layout.size().min(new_size));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}

#[inline]
fn is_current(arena: NonNull<Header>) -> bool {
    ptr::eq(arena.as_ptr(), CURRENT.get())
}

#[cfg(test)]
mod tests {
    //! The library does not install the allocator. These tests call it themselves, so their own
    //! memory does not mix with what they check.

    use super::super::{ArenaStats, MIN_ARENA_BYTES};
    use super::*;
    use proptest::prelude::*;
    use std::thread;

    /// A block that the model knows to be live, filled with one byte.
    struct Block {
        address: *mut u8,
        layout: Layout,
        fill: u8,
    }

    impl Block {
        fn new(layout: Layout, fill: u8) -> Block {
            // SAFETY: no layout of these tests is empty.
            let address = unsafe { DomainAllocator.alloc(layout) };
            assert!(!address.is_null());
            let block = Block { address, layout, fill };
            block.fill();
            block
        }

        fn fill(&self) {
            // SAFETY: the block is live and of this size.
            unsafe { self.address.write_bytes(self.fill, self.layout.size()) };
        }

        fn check(&self, bytes: usize) {
            // SAFETY: the block is live, at least this large, and filled.
            let contents = unsafe { std::slice::from_raw_parts(self.address, bytes) };
            assert!(contents.iter().all(|&byte| byte == self.fill), "contents have changed");
            assert_eq!(self.address.addr() % self.layout.align(), 0, "not aligned");
        }

        fn resize(&mut self, size: usize) {
            // SAFETY: the block is live and of this layout; the size is not 0.
            self.address = unsafe { DomainAllocator.realloc(self.address, self.layout, size) };
            let kept = size.min(self.layout.size());
            self.layout = Layout::from_size_align(size, self.layout.align()).unwrap();
            self.check(kept);
            self.fill();
        }

        fn free(self) {
            self.check(self.layout.size());
            // SAFETY: the block is live and of this layout.
            unsafe { DomainAllocator.dealloc(self.address, self.layout) };
        }

        fn overlaps(&self, other: &Block) -> bool {
            let end = |block: &Block| block.address.addr() + block.layout.size();
            self.address.addr() < end(other) && other.address.addr() < end(self)
        }
    }

    // SAFETY: the tests give a block to one thread at a time.
    unsafe impl Send for Block {}

    #[derive(Clone, Debug)]
    enum Step {
        Allocate { size: usize, align_shift: u32 },
        Resize { which: usize, size: usize },
        Free { which: usize },
        FreeElsewhere { which: usize },
    }

    fn size() -> impl Strategy<Value = usize> {
        prop_oneof![8 => 1..200usize, 3 => 200..5_000usize, 1 => 5_000..80_000usize]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (size(), 0..13u32)
                .prop_map(|(size, align_shift)| Step::Allocate { size, align_shift }),
            2 => (any::<usize>(), size()).prop_map(|(which, size)| Step::Resize { which, size }),
            2 => any::<usize>().prop_map(|which| Step::Free { which }),
            1 => any::<usize>().prop_map(|which| Step::FreeElsewhere { which }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        /// Live blocks are aligned, keep their contents and never overlap, whatever the sequence of
        /// steps. The arena is so small that it is exhausted now and then.
        #[test]
        fn behaves_like_the_model(steps in prop::collection::vec(step(), 1..200)) {
            let arena = Arena::new(MIN_ARENA_BYTES, None).unwrap();
            let mut live: Vec<Block> = Vec::new();
            let inside = enter(&arena);
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Allocate { size, align_shift } => {
                        let layout = Layout::from_size_align(size, 1 << align_shift).unwrap();
                        live.push(Block::new(layout, number as u8));
                    }
                    Step::Resize { which, size } if !live.is_empty() => {
                        let which = which % live.len();
                        live[which].resize(size);
                    }
                    Step::Free { which } if !live.is_empty() => {
                        live.swap_remove(which % live.len()).free();
                    }
                    Step::FreeElsewhere { which } if !live.is_empty() => {
                        let block = live.swap_remove(which % live.len());
                        thread::spawn(|| block.free()).join().unwrap();
                    }
                    _ => {}
                }
                for (index, block) in live.iter().enumerate() {
                    block.check(block.layout.size());
                    prop_assert!(live[..index].iter().all(|other| !block.overlaps(other)));
                }
            }
            live.into_iter().for_each(Block::free);
            drop(inside);
            drop(enter(&arena));
            let ArenaStats { live_blocks, live_bytes, .. } = arena.stats();
            prop_assert_eq!((live_blocks, live_bytes), (0, 0));
        }
    }

    fn lies_in_an_arena(block: &Block) -> bool {
        Header::of(block.address).is_some()
    }

    #[test]
    fn what_no_arena_holds_comes_from_the_system() {
        let arena = Arena::new(MIN_ARENA_BYTES, None).unwrap();
        let _inside = enter(&arena);
        for (size, align) in [(MIN_ARENA_BYTES, 1), (1, 1 << 20), (64 << 20, 4096)] {
            let fallbacks = arena.stats().fallbacks;
            let block = Block::new(Layout::from_size_align(size, align).unwrap(), 1);
            assert!(!lies_in_an_arena(&block));
            assert_eq!(arena.stats().fallbacks, fallbacks + 1);
            block.free();
        }
        let largest = Layout::from_size_align(isize::MAX as usize, 1).unwrap();
        // SAFETY: the layout is not empty.
        assert!(std::hint::black_box(unsafe { DomainAllocator.alloc(largest) }).is_null());
    }

    #[test]
    fn growing_moves_a_block_into_the_arena_its_thread_is_in() {
        let layout = Layout::from_size_align(100, 8).unwrap();
        let (first, second) = [(); 2].map(|()| Arena::new(MIN_ARENA_BYTES, None).unwrap()).into();
        let mut block = Block::new(layout, 7);
        assert!(!lies_in_an_arena(&block));
        for arena in [&first, &second] {
            let _inside = enter(arena);
            block.resize(block.layout.size() + 100);
            assert!(lies_in_an_arena(&block));
            assert_eq!(arena.stats().live_blocks, 1);
        }
        drop(enter(&first));
        assert_eq!(first.stats().live_blocks, 0);
        block.free();
    }

    #[test]
    fn zeroed_memory_is_zeroed_even_if_it_was_used() {
        let arena = Arena::new(MIN_ARENA_BYTES, None).unwrap();
        let _inside = enter(&arena);
        let layout = Layout::from_size_align(1_000, 8).unwrap();
        Block::new(layout, 9).free();
        // SAFETY: the layout is not empty; the block is live until it is freed.
        let address = unsafe { DomainAllocator.alloc_zeroed(layout) };
        let block = Block { address, layout, fill: 0 };
        assert!(lies_in_an_arena(&block));
        block.free();
    }

    #[test]
    fn an_arena_has_one_thread_at_a_time_and_a_thread_one_arena() {
        let (first, second) = [(); 2].map(|()| Arena::new(MIN_ARENA_BYTES, None).unwrap()).into();
        let inside = enter(&first);
        thread::scope(|scope| {
            let both = || drop((enter(&second), enter(&second)));
            assert!(scope.spawn(both).join().is_err());
            assert!(scope.spawn(|| drop(enter(&first))).join().is_err());
            drop(inside);
            assert!(scope.spawn(|| drop(enter(&first))).join().is_ok());
        });
    }

    #[test]
    fn a_block_outlives_the_handle_of_its_arena_and_the_slot_then_returns() {
        for _ in 0..super::super::MAX_ARENAS + 1 {
            let arena = Arena::new(MIN_ARENA_BYTES, None).unwrap();
            let inside = enter(&arena);
            let block = Block::new(Layout::from_size_align(500, 8).unwrap(), 3);
            drop(inside);
            drop(arena);
            block.free();
        }
    }
}
