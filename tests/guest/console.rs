//! What a guest's kernel prints on its console, and which of it means that something broke.

use std::fs;
use std::io;
use std::path::PathBuf;

/// Words that a healthy kernel does not say.
const TROUBLE: &[&str] = &[
    "BUG:",
    "WARNING:",
    "Oops",
    "Kernel panic",
    "Out of memory",
    "blocked for more than",
    "detected stall",
    "soft lockup",
];

/// Before the words of a complaint that a test is about to cause, in a line that it has the kernel
/// print.
const EXPECTED: &str = "expected of this test: ";

/// How many lines of the console follow the line with the trouble in an excerpt.
const EXCERPT_LINES: usize = 40;

/// The console log of a guest, read piece by piece.
pub struct Console {
    path: PathBuf,
    seen: usize,
}

impl Console {
    pub fn new(path: PathBuf) -> Self {
        Self { path, seen: 0 }
    }

    /// What was printed since the last call.
    pub fn news(&mut self) -> String {
        let text = fs::read(&self.path).unwrap_or_default();
        let news = String::from_utf8_lossy(&text[self.seen.min(text.len())..]).into_owned();
        self.seen = text.len();
        news
    }
}

/// Says, in a guest, that the kernel is about to complain in these words, and may.
pub fn expect(words: &str) -> io::Result<()> {
    fs::write("/dev/kmsg", format!("<3>{EXPECTED}{words}\n"))
}

/// The part of a console's text that shows that something broke, if any does.
pub fn trouble(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let expected: Vec<&str> =
        lines.iter().filter_map(|line| Some(line.split_once(EXPECTED)?.1)).collect();
    let is_expected = |line: &str| expected.iter().any(|words| line.contains(words));
    let first = lines.iter().position(|line| is_trouble(line) && !is_expected(line))?;
    let last = lines.len().min(first + EXCERPT_LINES);
    Some(lines[first..last].join("\n"))
}

/// Whether the kernel died of the emulator: a CPU ran into a breakpoint where there is none in
/// memory.
///
/// Linux patches its branches (jump labels; attaching a scheduler flips some) through a breakpoint,
/// which it takes away last. QEMU drops what it has translated of an instruction a moment before it
/// stores the new byte; where another CPU translates anew in between, that CPU keeps the breakpoint
/// for good. The kernel prints the bytes of its text around the place, with the one after the
/// breakpoint in angle brackets, so the one before those tells: a breakpoint is 0xcc.
pub fn emulator_fault(text: &str) -> bool {
    let mut lines = text.lines().skip_while(|line| !line.contains("Oops: int3"));
    let Some((before, _)) = lines.find_map(|line| line.split_once("Code: ")?.1.split_once(" <"))
    else {
        return false;
    };
    before.split(' ').next_back().is_some_and(|byte| byte != "cc")
}

fn is_trouble(line: &str) -> bool {
    // The kernel threw a scheduler out, other than because it was asked to or its process ended.
    let thrown_out = line.contains("sched_ext:")
        && line.contains(" disabled (")
        && !line.contains("(unregistered");
    thrown_out || TROUBLE.iter().any(|word| line.contains(word))
}
