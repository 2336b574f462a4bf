//! The list through which threads that do not own an arena give blocks back to it.
//!
//! It is a list and not a lock on the arena. The holder of a lock can lose its CPU, and then only
//! the domain thread could give it a CPU again, while that thread waits for the lock. A push is one
//! compare-and-swap, for which no other thread waits. The owner drains the whole list with one swap
//! (Treiber's stack, IBM RJ 5118, 1986). It never pops a single block from the shared head, so
//! there is no ABA.
//!
//! Invariant: a block is in the list, in a [`Chain`], or in use, and never in two of these. The
//! list lives inside the freed blocks and needs no memory of its own.

use std::alloc::Layout;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, Ordering};

/// What stands at the start of a block while it waits for its owner.
#[repr(C)]
pub(super) struct FreedBlock {
    next: *mut FreedBlock,
    layout: Layout,
}

/// The smallest layout whose blocks can wait in the list.
pub(super) const MIN_BLOCK: Layout = Layout::new::<FreedBlock>();

/// The shared end of the list. Every thread may push; the owner of the arena drains.
pub(super) struct RemoteFrees {
    head: AtomicPtr<FreedBlock>,
}

impl RemoteFrees {
    pub(super) const fn new() -> Self {
        Self { head: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Hands a block over to the owner.
    ///
    /// # Safety
    /// `block` is a live block, of at least the size and alignment of [`MIN_BLOCK`], of the arena
    /// this list belongs to, and the caller gives it up.
    pub(super) unsafe fn push(&self, block: NonNull<u8>, layout: Layout) {
        let freed = block.cast::<FreedBlock>().as_ptr();
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: the caller owns the block and says that it is large and aligned enough.
            unsafe { freed.write(FreedBlock { next: head, layout }) };
            // Release pairs with the Acquire in `drain`: the owner sees what is written into the
            // block, and the pusher's uses of it happened before the owner reuses it.
            match self.head.compare_exchange_weak(head, freed, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(newer) => head = newer,
            }
        }
    }

    /// Removes and returns all blocks handed over so far.
    pub(super) fn drain(&self) -> Chain {
        if self.head.load(Ordering::Relaxed).is_null() {
            return Chain::EMPTY;
        }
        // Acquire pairs with the Release in `push`. Blocks below the top were published by earlier
        // pushes, whose release sequence this compare-and-swap chain continues.
        Chain(self.head.swap(ptr::null_mut(), Ordering::Acquire))
    }
}

/// Blocks drained from the list, known to the owner of the arena only.
pub(super) struct Chain(*mut FreedBlock);

impl Chain {
    pub(super) const EMPTY: Chain = Chain(ptr::null_mut());

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_null()
    }

    /// The next block and the layout it was freed with.
    pub(super) fn pop(&mut self) -> Option<(NonNull<u8>, Layout)> {
        let block = NonNull::new(self.0)?;
        // SAFETY: `push` wrote it, `drain` acquired it, and no other thread holds the block.
        let FreedBlock { next, layout } = unsafe { block.read() };
        self.0 = next;
        Some((block.cast(), layout))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn every_block_arrives_once_with_its_layout() {
        const THREADS: usize = 4;
        const BLOCKS: usize = 2_000;
        let mut memory = vec![[0u64; 4]; THREADS * BLOCKS];
        let addresses: Vec<usize> = memory.iter_mut().map(|b| b.as_mut_ptr() as usize).collect();
        let list = RemoteFrees::new();
        let mut arrived = Vec::new();
        thread::scope(|scope| {
            for part in addresses.chunks(BLOCKS) {
                let list = &list;
                scope.spawn(move || {
                    for &address in part {
                        let layout = Layout::from_size_align(24 + address % 7, 8).unwrap();
                        let block = NonNull::new(address as *mut u8).unwrap();
                        // SAFETY: 32 bytes aligned to 8, pushed once, kept alive by `memory`.
                        unsafe { list.push(block, layout) };
                    }
                });
            }
            while arrived.len() < THREADS * BLOCKS {
                let mut chain = list.drain();
                while let Some((block, layout)) = chain.pop() {
                    assert_eq!(layout.size(), 24 + block.as_ptr() as usize % 7);
                    arrived.push(block.as_ptr() as usize);
                }
                thread::yield_now();
            }
        });
        arrived.sort_unstable();
        assert_eq!(arrived, addresses);
        assert!(list.drain().is_empty());
    }
}
