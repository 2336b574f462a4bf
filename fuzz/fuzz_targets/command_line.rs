//! The command line, its words separated by newlines. Nothing is scheduled.
#![no_main]

#[allow(dead_code)]
#[path = "../../src/cli.rs"]
mod cli;

use libfuzzer_sys::fuzz_target;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

fuzz_target!(|line: &[u8]| {
    let words = line.split(|&byte| byte == b'\n').map(|word| OsStr::from_bytes(word).to_owned());
    let program = std::iter::once("scx_manyland".into());
    let code = cli::main_with(program.chain(words), |options| {
        options.check().map(|()| ExitCode::SUCCESS)
    });
    let allowed = [0, 1, 2].map(ExitCode::from).map(|code| format!("{code:?}"));
    assert!(allowed.contains(&format!("{code:?}")), "{code:?}");
});
