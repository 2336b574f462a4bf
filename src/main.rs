//! The program `scx_manyland`.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main_with(std::env::args_os(), |_| anyhow::bail!("not wired"))
}
