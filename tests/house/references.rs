//! What comments and documents name exists: files, lines of files, and tests.

use crate::text::{Line, prose, split};
use crate::{Source, documents, sources};
use std::collections::BTreeSet;
use std::path::Path;

/// Where the project's own files are.
const FOLDERS: [&str; 9] =
    ["bpf", "src", "tests", "tools", "benches", "examples", "fuzz", "docs", "workloads"];

/// The extensions by which a word is known as a file's name.
const EXTENSIONS: [&str; 12] =
    ["rs", "c", "h", "md", "toml", "json", "xml", "svg", "txt", "sh", "yml", "lock"];

/// How the names of files begin that are the kernel's, or that a build makes.
const OTHERS: [&str; 9] = [
    "/",
    "~",
    "../shared/",
    "kernel/",
    "include/",
    "doc/",
    "target/",
    "bpf/bpf_",
    "fuzz/artifacts",
];

/// Files that are others' or stand for the reader's own.
const EXAMPLES: [&str; 11] = [
    "FILE.svg",
    "FILE.xml",
    "TOPOLOGY.xml",
    "ext.c",
    "mine.json",
    "mine.rs",
    "NAME.txt",
    "out.json",
    "ringbuf.c",
    "server.xml",
    "vmlinux.h",
];

/// All comments and documents.
fn read() -> Vec<Source> {
    let mut read = documents();
    read.extend(sources(&FOLDERS).into_iter().filter(|source| !source.path.starts_with("docs/")));
    read.extend(sources(&["Makefile", "build.rs", "Cargo.toml"]));
    read.retain(|source| !source.has_extension(&["xml", "svg", "json", "txt", "lock"]));
    read
}

#[test]
fn files_and_lines_exist() {
    let ours: BTreeSet<String> = known_files();
    let mut faults = Vec::new();
    for source in &read() {
        for Line { number, text } in prose(source) {
            for word in text.split(|c: char| !is_of_a_path(c)).map(trimmed) {
                if let Some(fault) = fault_of(word, source, &ours) {
                    faults.push(format!("{}: {fault}", source.at(number)));
                }
            }
        }
    }
    crate::assert_none(&faults, "names of files that are not there");
}

/// The paths of all files of the project.
fn known_files() -> BTreeSet<String> {
    let mut places = FOLDERS.to_vec();
    let at_root: Vec<String> = std::fs::read_dir(crate::root())
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    places.extend(at_root.iter().map(String::as_str));
    let paths = places.iter().flat_map(|place| crate::files(&crate::root().join(place)));
    let relative =
        paths.filter_map(|path| Some(path.strip_prefix(crate::root()).ok()?.to_str()?.to_owned()));
    relative.collect()
}

fn is_of_a_path(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_-./:*~{},<>$".contains(c)
}

/// A word without the punctuation around it.
fn trimmed(word: &str) -> &str {
    word.trim_start_matches([',', ':', '-']).trim_end_matches([',', ':', '.', '-', '/'])
}

/// What is wrong with a word, if it names a file and the file or its line is missing.
fn fault_of(word: &str, source: &Source, ours: &BTreeSet<String>) -> Option<String> {
    if word.contains("::") || word.contains(['*', '{', '<', '$', ',']) || is_of_others(word) {
        return None;
    }
    let (path, line) = match word.rsplit_once(':') {
        Some((path, line)) => (path, Some(line.parse::<usize>().ok()?)),
        None => (word, None),
    };
    let path = path.trim_start_matches("./");
    let is_named_file = Path::new(path)
        .extension()
        .is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known));
    let is_in_folder = FOLDERS.iter().any(|it| path.starts_with(&format!("{it}/")));
    if path.starts_with('.') && !path.starts_with("../") || !(is_named_file || is_in_folder) {
        return None;
    }
    let folder = Path::new(&source.path).parent().unwrap_or(Path::new(""));
    let found = if crate::root().join(path).exists() {
        Some(path.to_owned())
    } else if crate::root().join(folder).join(path).exists() {
        Some(folder.join(path).to_str()?.to_owned())
    } else {
        ours.iter().find(|it| it.ends_with(&format!("/{path}"))).cloned()
    };
    let Some(found) = found else { return Some(format!("there is no file {path}")) };
    let lines =
        || std::fs::read_to_string(crate::root().join(&found)).unwrap_or_default().lines().count();
    let line = line.filter(|line| *line == 0 || *line > lines())?;
    Some(format!("{found} has no line {line}"))
}

fn is_of_others(word: &str) -> bool {
    OTHERS.iter().any(|it| word.starts_with(it)) || EXAMPLES.iter().any(|it| word.ends_with(it))
}

/// In documents: `module::name`, and names that are as long as those of tests.
#[test]
fn tests_exist() {
    let mut known: BTreeSet<String> = BTreeSet::new();
    for source in sources(&FOLDERS).iter().filter(|it| it.has_extension(&["rs", "c", "h"])) {
        let with_strings = source.text.split(|c: char| !is_of_a_name(c));
        // The names in comments do not count: those are what may be wrong.
        let code = split(&source.text).code;
        known.extend(code.split(|c: char| !is_of_a_name(c)).map(str::to_owned));
        if source.path.starts_with("tests/guest") {
            known.extend(with_strings.map(str::to_owned));
        }
    }
    let mut faults = Vec::new();
    for document in &documents() {
        let mut is_fenced = false;
        for Line { number, text } in prose(document) {
            is_fenced ^= text.trim_start().starts_with("```");
            for word in text.split(|c: char| !is_of_a_name(c) && c != ':') {
                let is_path = word.contains("::") && !word.starts_with(':');
                // In a block of code such a name may be the reader's; in capitals it is the
                // kernel's.
                let is_long = word.matches('_').count() >= 3 && !word.contains(':');
                let is_long = is_long && !is_fenced && word.chars().any(char::is_lowercase);
                let name = word.trim_end_matches(':').rsplit("::").next().unwrap_or_default();
                let is_others = ["std::", "core::", "libc::"].iter().any(|it| word.starts_with(it));
                if (is_path || is_long) && !is_others && !known.contains(name) {
                    faults.push(format!("{}: there is no {word}", document.at(number)));
                }
            }
        }
    }
    crate::assert_none(&faults, "names in documents that no code has");
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}
