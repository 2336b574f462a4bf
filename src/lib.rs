//! A sched_ext CPU scheduler in user space, with one scheduling thread for each last-level cache.
//!
//! The modules are the nouns of the design. The way of a task goes through them in this order:
//! `bpf/` (kernel side) → [`connector`] → [`domains`] → [`policy`] → [`domains`] → [`connector`] →
//! `bpf/`. [`topology`] says which domains there are, [`power`] what they run on, [`alloc`] gives each its memory, [`session`]
//! runs it all, [`statistics`] shows it.

#![warn(missing_docs)]
#![warn(unsafe_op_in_unsafe_fn)]

pub mod alloc;
pub mod connector;
pub mod cpuset;
pub mod domains;
pub mod ids;
pub mod options;
pub mod policy;
pub mod power;
pub mod session;
pub mod statistics;
pub mod topology;
