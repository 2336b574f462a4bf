//! A sched_ext CPU scheduler in user space, with one scheduling thread for each last-level cache.
//!
//! The modules are the nouns of the design; the way of a task goes through them in this order:
//! `bpf/` (kernel side) → connector → domains → policy → domains → connector.

#![warn(missing_docs)]
#![warn(unsafe_op_in_unsafe_fn)]

pub mod alloc;
pub mod cpuset;
pub mod ids;
pub mod options;
pub mod policy;
pub mod topology;
