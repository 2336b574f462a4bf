//! The program `scx_manyland`.

mod cli;

use scx_manyland::DomainAllocator;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: DomainAllocator = DomainAllocator;

fn main() -> ExitCode {
    cli::main()
}
