//! Memory that is where it is needed and stays there: an arena for each domain, a global allocator
//! that knows the current domain, locked pages, and the counters that show it.
//!
//! Invariant: after start-up a domain thread neither takes a page fault, nor calls the kernel, nor
//! waits for another thread in order to allocate or to free. A scheduler that waits for memory can
//! wait for a task that waits for the scheduler.
//!
//! How that is reached, in the order of start-up:
//! 1. First thing in `main`: [`limit_malloc_arenas`] (glibc reads it when the second thread starts)
//!    and [`set_thread_policy`], which later threads inherit.
//! 2. For each domain an [`Arena`]: pages on the domain's NUMA node, locked, touched. Whatever
//!    belongs to a domain and is built before its thread runs is built inside [`enter`].
//! 3. Everything else that is large is loaded (the BPF side, the topology), then [`settle_heap`]
//!    gives back what loading left over, and keeps the rest; then [`lock_process_memory`].
//! 4. Each domain thread, first: [`set_thread_policy`] with its node, [`prefault_stack`], then
//!    [`enter`] its arena for as long as it runs. A thread's whole stack becomes resident once
//!    memory is locked, so its size is to be chosen, not left at 2 MiB.
//! 5. [`FaultCounter::baseline`] when the scheduler has attached. From here on the count is 0.
//!
//! The way of a block: the thread-local in `global` names the arena of the thread, `arena` takes
//! the block from its TLSF heap. On its way back the block's address names its arena (`reserve`);
//! the thread inside frees it at once, any other hands it over through `remote`.

mod arena;
mod counters;
mod global;
mod lock;
mod numa;
mod remote;
mod reserve;

pub use arena::{Arena, ArenaStats, DEFAULT_ARENA_BYTES, MIN_ARENA_BYTES, arena_fallbacks};
pub use counters::{FaultCounter, Faults, ResidentMemory, ThreadFaultCounter};
pub use global::{DomainAllocator, Entered, check_installed, enter};
pub use lock::{limit_malloc_arenas, lock_process_memory, prefault_stack, settle_heap};
pub use numa::set_thread_policy;
pub use reserve::{MAX_ARENA_BYTES, MAX_ARENAS};
