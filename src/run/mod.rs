//! A run of the scheduler on this machine, from its options to its exit.
//!
//! In the sequence of a run:
//!
//! 1. [`program`] parses a command line with the options of a run.
//! 2. [`builder`] holds a policy and those options. A program without a command line begins here.
//! 3. `supervisor` starts a process for each attachment and passes signals on to it. `deadlock` sees there
//!    that the kernel does not wait for itself when it attaches or detaches, and `detachment`
//!    that tasks which cannot run do not hold up its end. Only a program that schedules
//!    and does nothing else uses them.
//! 4. `session` reads the machine, loads the BPF side and attaches, as often as the machine
//!    changes, or `evictions` allows after the kernel has ended it. `crew` holds the domain threads of
//!    one attachment, waits for its end, or for `changes` of the machine, and detaches.
//!    With `haste` the session goes before other tasks until it can attach, and `class_change` sees
//!    that neither attaching nor detaching waits for them.
//! 5. `thread` is a domain thread: it binds itself to its CPUs, gets its memory, decides in rounds
//!    while the scheduler is attached, and ends when the session says so.
//! 6. [`privileges`] says what a process gives up once it is attached, and [`signals`] how it is
//!    asked to end.
//! 7. `statistics` counts what the domains did and prints it, `line` is what it prints; `socket`
//!    answers other programs, in the words of [`protocol`].
//! 8. [`client`] is the other end of that socket, and `monitor` prints what it says. [`cgroups`] has
//!    what both ends know of the busiest cgroups.
//!
//! Invariant: however a run ends, the kernel's own scheduler is back when it has ended.

mod affinity;
pub mod builder;
pub mod cgroups;
mod changes;
mod class_change;
pub mod client;
mod crew;
mod deadlock;
mod detachment;
mod evictions;
mod haste;
pub mod line;
mod monitor;
mod notify;
mod panics;
pub mod privileges;
pub mod program;
pub mod protocol;
mod session;
pub mod signals;
mod socket;
mod statistics;
mod supervisor;
mod thread;
