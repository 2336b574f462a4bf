//! Tests on a real sched_ext kernel, in virtual machines.
//!
//! Two programs are made of this. `guest` is the host's: it boots guests and shows each guest test
//! as a trial of its own, `cargo run --release -p guest -- NAME`. `guest-agent` is a guest's only
//! program: it runs the tests that the host asks for, each in a process of its own, and is what
//! tests need other processes for ([`role::Role`]).
//!
//! Where things are: `suite` says what a test is; `cases` has the tests, except the faults
//! under load, which are rows of a table in `reliability`; [`host`], `boot`, `monitor`,
//! `stutter` and `console` are the host's side; `agent` and `api` the guest's; `protocol`
//! is what the two say to each other.
//!
//! Invariant: a test that cannot have its guest fails. Nothing here skips.

mod agent;
mod api;
mod boot;
mod cases;
mod console;
pub mod host;
mod machine;
mod monitor;
mod protocol;
mod reliability;
pub mod role;
mod stutter;
mod suite;
