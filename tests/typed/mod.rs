//! The program as a user types it.

use std::process::{Command, Output, Stdio};

/// The program with these arguments.
pub fn manyland(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scx_manyland"));
    command.args(args).stdin(Stdio::null());
    command
}

/// What it ends with.
pub fn run(args: &[&str]) -> Output {
    manyland(args).output().unwrap()
}

/// The one line that it must fail with, and the exit code: 2 where the command line is at fault, 1
/// for anything else.
#[track_caller]
pub fn complaint(args: &[&str], code: i32) -> String {
    let output = run(args);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
    assert!(output.stdout.is_empty(), "{args:?}");
    assert!(text.starts_with("scx_manyland: ") && text.ends_with('\n'), "{args:?}: {text}");
    assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
    text
}
