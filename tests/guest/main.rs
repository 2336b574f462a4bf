//! Tests on a real sched_ext kernel, in virtual machines.
//!
//! This one program has two roles. On the host it boots guests and shows each guest test as a trial of its own:
//! `cargo test --release --test guest -- NAME`. Inside a guest, as the guest's only program, it runs the tests that the
//! host asks for, each in a process of its own.
//!
//! Where things are: [`suite`] lists the tests and [`cases`] has them, but for the faults under load, which are rows of a
//! table in [`reliability`]; [`host`], [`boot`], [`monitor`], [`stutter`] and [`console`] are the
//! host's side; [`agent`] and [`api`] the guest's; [`protocol`] is what the two say to each other.
//!
//! Invariant: a test that cannot have its guest fails. Nothing here skips.

mod agent;
mod api;
mod boot;
mod cases;
mod console;
mod host;
#[path = "../kernel_rings/mod.rs"]
mod kernel_rings;
mod machine;
mod monitor;
mod protocol;
mod reliability;
mod stutter;
mod suite;

use scx_manyland::DomainAllocator;
use std::process::ExitCode;

/// For [`api::kinds`] and [`api::policies`], which run the scheduler in this program.
#[global_allocator]
static ALLOCATOR: DomainAllocator = DomainAllocator;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some(agent::SERVE) => agent::serve(),
        Some(agent::CASE) => agent::run_case(&args[2]),
        Some(api::load::HOG) => api::load::hog_main(),
        Some(cases::homes::MOVER) => cases::homes::mover_main(),
        Some(api::storm::STORM) => api::storm::storm_main(),
        Some(api::fuzzer::FUZZ) => api::fuzzer::fuzz_main(),
        Some(api::kinds::RUN_ON) => api::kinds::run_on_main(),
        Some(api::policies::POLICY) => api::policies::main(),
        _ => host::main(),
    }
}
