//! The host's side of the guest tests.

use std::process::ExitCode;

fn main() -> ExitCode {
    guest::host::main()
}
