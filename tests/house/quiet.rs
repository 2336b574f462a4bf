//! What runs on a domain thread writes nothing: a write may wait for its reader, and makes a system
//! call on the path of a decision.

use crate::{Source, assert_none, sources};

/// The files whose code runs on domain threads, or may.
const OF_DOMAIN_THREADS: [&str; 7] = [
    "src/alloc",
    "src/domains",
    "src/policy",
    "src/kernel/rings.rs",
    "src/kernel/seam.rs",
    "src/kernel/shared.rs",
    "src/run/thread.rs",
];

/// What writes.
const WRITERS: [&str; 7] =
    ["log::", "logger::", "printer::", "println!", "print!(", "dbg!", "io::stderr"];

#[test]
fn domain_threads_have_nothing_to_write_with() {
    let read = sources(&OF_DOMAIN_THREADS);
    assert!(read.len() > 30, "only {} files are read", read.len());
    let faults: Vec<String> = read.iter().flat_map(faults_of).collect();
    assert_none(&faults, "lines of domain threads that write");
}

/// The lines of a file that write; those of its tests may.
fn faults_of(source: &Source) -> Vec<String> {
    let is_test = |path: &str| path.ends_with("_tests.rs") || path.ends_with("testing.rs");
    let code = source.text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = code.lines().enumerate().filter(|_| !is_test(&source.path));
    let writes = |line: &str| {
        let line = line.trim_start();
        !line.starts_with("//") && WRITERS.iter().any(|writer| line.contains(writer))
    };
    lines
        .filter(|(_, line)| writes(line))
        .map(|(number, line)| format!("{}: {}", source.at(number + 1), line.trim()))
        .collect()
}

/// The rule finds what it forbids.
#[test]
fn a_writer_is_found() {
    let of = |text: &str| {
        faults_of(&Source { path: "src/run/thread.rs".to_owned(), text: text.to_owned() }).len()
    };
    assert_eq!(of("log::warn!(\"x\");\n// log::warn!\n"), 1);
    assert_eq!(of("eprintln!(\"x\");\n#[cfg(test)]\nmod tests {\nprintln!();\n"), 1);
    assert_eq!(of("catalog(x)\n"), 0);
}
