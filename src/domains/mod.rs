//! The domain threads: one for each domain, which decides for every task whose home is there.
//!
//! The life of a domain thread (`run::thread`): it enters its arena of memory, binds itself to the CPUs
//! of its domain, touches its stack, tells the main thread its number, and waits until the
//! scheduler is attached. From then on it goes round and round ([`scheduler`]): take what was
//! queued, decide, submit; when nothing is left to decide it sleeps in the kernel, and while tasks
//! are left that cannot be decided yet it yields. It ends when the main thread says so and rings
//! its bell; what it had not decided by then the kernel still holds.
//!
//! Below the scheduler lies the [`seam`]. The scheduler's parts are [`placement`] (which CPU),
//! [`lookahead`] (how many at once), [`handover`] (stealing) and [`latency`]
//! (how long it took). [`queues`] is a seam in memory, for the simulator and for tests.

pub mod board;
mod decision;
pub mod handover;
pub mod latency;
pub mod lookahead;
mod message;
pub mod placement;
pub mod queues;
pub mod scheduler;
pub mod seam;
mod stealing;
#[cfg(test)]
mod stealing_tests;
pub mod sync;
#[cfg(test)]
mod testing;
