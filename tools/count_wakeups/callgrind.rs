//! What callgrind has written: instructions by line, and calls.
//!
//! Read is the format without compressed names and positions ("Callgrind Format Specification" in
//! the manual of valgrind).

use anyhow::{Context, Result, bail};
use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};

/// Instructions of a line, without those of what it calls.
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The file, which for an inlined function is not that of `function`.
    pub file: &'a str,
    /// 0 if the compiler has not said.
    pub line: u32,
    /// The function that the instructions are in after inlining.
    pub function: &'a str,
    pub instructions: u64,
}

/// Calls from one place.
#[derive(Debug, PartialEq, Eq)]
pub struct Calls<'a> {
    /// The file of the caller.
    pub file: &'a str,
    pub callee: &'a str,
    pub count: u64,
}

/// What was counted.
#[derive(Debug, Default)]
pub struct Profile<'a> {
    pub lines: Vec<Line<'a>>,
    pub calls: Vec<Calls<'a>>,
}

impl<'a> Profile<'a> {
    /// Reads a profile.
    ///
    /// # Errors
    /// If it is in another form.
    pub fn read(text: &'a str) -> Result<Profile<'a>> {
        let mut profile = Profile::default();
        // How often each instruction was executed, by its address.
        let mut executed = HashMap::new();
        let mut calls = Vec::new();
        let (mut file, mut function, mut callee) = ("", "", "");
        let mut lines = text.lines();
        while let Some(text) = lines.next() {
            if let Some((key, value)) = text.split_once('=') {
                match key {
                    "fl" | "fi" | "fe" => file = value,
                    "fn" => function = value,
                    "cfn" => callee = value,
                    "calls" => {
                        // The number here counts what was not to be counted too. The next line has
                        // the instructions of the callee, which are in its own lines.
                        let (address, ..) = columns(lines.next().unwrap_or_default())?;
                        calls.push((address, file, callee));
                    }
                    _ => (),
                }
            } else if text.starts_with("0x") {
                let (address, line, instructions) = columns(text)?;
                executed.insert(address, instructions);
                profile.lines.push(Line { file, line, function, instructions });
            }
        }
        for (address, file, callee) in calls {
            let count = executed.get(address).copied().unwrap_or(0);
            profile.calls.push(Calls { file, callee, count });
        }
        Ok(profile)
    }
}

/// The address, the line and the instructions that a line of text has.
fn columns(text: &str) -> Result<(&str, u32, u64)> {
    let mut columns = text.split(' ');
    let mut next = || columns.next().with_context(|| format!("callgrind's {text:?} is too short"));
    let (address, line, instructions) = (next()?, next()?, next()?);
    let wrong = || format!("callgrind's {text:?} has no numbers");
    Ok((address, line.parse().with_context(wrong)?, instructions.parse().with_context(wrong)?))
}

/// Runs this program with other arguments under callgrind, which counts within the function of this
/// name (a pattern), and returns what it has written.
///
/// # Errors
/// If there is no valgrind, or the program fails.
pub fn run(args: &[String], within: &str) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let child = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--collect-atstart=no", "--dump-line=yes"])
        .args(["--dump-instr=yes", "--compress-strings=no", "--compress-pos=no"])
        .arg(format!("--toggle-collect={within}"))
        .arg(format!("--callgrind-out-file={}", folder.path().join("%p").display()))
        .arg(std::env::current_exe()?)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start valgrind; install it")?;
    // hwloc runs in a process of its own, whose profile is not this one's.
    let file = folder.path().join(child.id().to_string());
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{args:?} failed under valgrind: {}", String::from_utf8_lossy(&output.stderr));
    }
    read(&file)
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callees_instructions_are_not_its_callers() {
        let text = "\
events: Ir

fl=/bpf/a.h
fn=outer
0x10 10 2
0x13 10 2
fi=/bpf/b.h
0x17 20 2
cfi=/sim.rs
cfn=sim_now
calls=13 0xa0 0
0x17 20 300
fe=/bpf/a.h
0x1c 11 1

fl=/sim.rs
fn=sim_now
0xa0 0 300

totals: 307
";
        let profile = Profile::read(text).unwrap();
        let line = |file, line, function, instructions| Line { file, line, function, instructions };
        assert_eq!(
            profile.lines,
            [
                line("/bpf/a.h", 10, "outer", 2),
                line("/bpf/a.h", 10, "outer", 2),
                line("/bpf/b.h", 20, "outer", 2),
                line("/bpf/a.h", 11, "outer", 1),
                line("/sim.rs", 0, "sim_now", 300),
            ]
        );
        let calls = Calls { file: "/bpf/b.h", callee: "sim_now", count: 2 };
        assert_eq!(profile.calls, [calls]);
    }
}
