//! The domain threads: one for each domain, which decides for every task whose home is there.
//!
//! The life of a domain thread (`run::thread`): it enters its arena of memory, binds itself to the
//! CPUs of its domain, touches its stack, reports its pid to the main thread, and waits until the
//! scheduler is attached. From then on it makes rounds ([`scheduler`]): drain the notices, decide,
//! submit. When no decision is left to make, it sleeps in the kernel; while tasks are left that it
//! cannot decide yet, it yields. It ends when the main thread asks it to and rings its bell. The
//! kernel still holds every task that it had not decided by then.
//!
//! - [`seam`]: what the machine below must offer, real or simulated
//! - [`scheduler`]: the round; `message` (what a notice becomes) and `decision` (what a choice
//!   becomes) are its ends
//! - [`placement`]: which CPU a task is offered
//! - [`lookahead`]: how many tasks are decided at once
//! - [`board`], `stealing`, [`handover`]: what domains see of each other, and how tasks move
//! - [`latency`]: how long it is from a notice to its decision

pub mod board;
mod decision;
pub mod handover;
pub mod latency;
pub mod lookahead;
mod message;
pub mod placement;
#[cfg(test)]
mod queues;
pub mod scheduler;
pub mod seam;
mod stealing;
#[cfg(test)]
mod stealing_tests;
pub mod sync;
#[cfg(test)]
mod testing;
