//! A run of the scheduler on the machine it is on, from its options to its exit.
//!
//! [`builder`] is the way in: a policy and the options. `session` attaches it as often as the
//! machine changes. `crew` holds the domain threads of one attachment and waits for its end, and
//! `thread` is the life of one of them. `supervisor` gives each attachment a process of its own,
//! [`privileges`] says what that process gives up, and [`signals`] how it is asked to end.
//! `statistics` prints what the domains did. [`program`] and [`args`] are for programs that have
//! the options of a run on their command line.
//!
//! Invariant: however a run ends, the kernel's own scheduler is back when it has ended.

pub mod args;
pub mod builder;
mod crew;
pub mod privileges;
pub mod program;
mod session;
pub mod signals;
mod statistics;
mod supervisor;
mod thread;
