//! The only program of a guest.

use clap::Parser;
use guest::role::Role;
use scx_manyland::DomainAllocator;
use std::process::ExitCode;

/// For the roles that are schedulers.
#[global_allocator]
static ALLOCATOR: DomainAllocator = DomainAllocator;

fn main() -> ExitCode {
    Role::parse().play()
}
