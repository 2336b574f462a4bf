//! A run of the scheduler on the machine it is on, from its options to its exit.
//!
//! [`builder`] is the way in: a policy and the options. `session` attaches it and waits for the
//! end; `thread` is the domain thread that it starts for each domain. `supervisor` gives each
//! attachment a process of its own, [`privileges`] says what that process gives up, and [`signals`]
//! how it is asked to end. `statistics` prints what the domains did. [`program`] and [`args`] are
//! for programs that have the options of a run on their command line.
//!
//! Invariant: however a run ends, the kernel's own scheduler is back when it has ended.

pub mod args;
pub mod builder;
pub mod privileges;
pub mod program;
mod session;
pub mod signals;
mod statistics;
mod supervisor;
mod thread;
