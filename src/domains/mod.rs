//! The domain threads: one for each domain, which decides for every task whose home is there.
//!
//! The life of a domain thread (`thread`): it enters its arena of memory, binds itself to the CPUs
//! of its domain, touches its stack, tells the main thread its number, and waits until the
//! scheduler is attached. From then on it goes round and round ([`scheduler`]): take what was
//! queued, decide, submit; when nothing is left to decide it sleeps in the kernel, and while tasks
//! are left that cannot be decided yet it yields. It ends when the main thread says so and rings
//! its bell; what it had not decided by then the kernel still holds.
//!
//! Below the scheduler lies the [`seam`]; beside it are [`placement`] (which CPU), [`preference`] (in
//! which order, where there are several kinds of core), [`lookahead`] (how many at once),
//! [`affinity`] (CPU sets), [`handover`] (stealing), [`dedicated`] (the CPU that a thread keeps to itself) and
//! [`latency`] (how long it took).

pub mod affinity;
pub mod dedicated;
pub mod handover;
pub mod latency;
pub mod lookahead;
pub mod placement;
pub mod preference;
pub mod scheduler;
pub mod seam;
#[cfg(test)]
mod stealing_tests;
pub mod sync;
#[cfg(test)]
mod testing;
pub(crate) mod thread;
