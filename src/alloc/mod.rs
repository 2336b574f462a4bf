//! Memory that is on its domain's node and remains resident: an arena for each domain, a global
//! allocator that knows the current domain, locked pages, and the counters that show it.
//!
//! Invariant: after start-up a domain thread allocates and frees without a page fault, without a
//! system call and without waiting for another thread. A scheduler that waits for memory can wait
//! for a task that waits for the scheduler.
//!
//! A program gets there in these steps:
//! 1. `main` calls [`limit_malloc_arenas`] before the second thread starts, because glibc reads the
//!    limit then, and [`set_thread_policy`], which later threads inherit.
//! 2. For each domain it makes an [`Arena`]: pages on the domain's NUMA node, locked, touched. What
//!    belongs to a domain and is built before its thread runs, it builds inside [`enter`].
//! 3. It loads everything else that is large (the BPF side, the topology). [`settle_heap`] then
//!    gives back what loading has freed and keeps the rest; [`lock_process_memory`] locks it.
//! 4. Each domain thread begins with [`set_thread_policy`] for its node and [`prefault_stack`], and
//!    enters its arena for as long as it runs. Once memory is locked a thread's whole stack becomes
//!    resident, so the program chooses its size rather than leave it at 2 MiB.
//! 5. When the scheduler has attached, [`FaultCounter::baseline`] begins to count. The count
//!    remains 0.
//!
//! The way of a block: the thread-local in `global` names the arena of the thread, and `arena`
//! allocates the block from its TLSF heap. When the block is freed, its address names its arena
//! (`reserve`). The thread inside the arena frees it at once; any other hands it over through
//! `remote`.

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
pub use lock::{limit_malloc_arenas, lock_process_memory, may_lock, prefault_stack, settle_heap};
pub use numa::set_thread_policy;
pub use reserve::{MAX_ARENA_BYTES, MAX_ARENAS};
