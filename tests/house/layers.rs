//! The folders of `src/` are layers: a file may use its own folder and lower ones, and no two files
//! of different folders use each other, however long the way round is.
//!
//! Tests inside of `src/` count as well: what they use is as much a reason to read another folder.

use crate::text::split;
use crate::{Source, assert_none, sources};
use std::collections::{BTreeMap, BTreeSet};

/// The folders and the files next to them, each with the number of its layer.
const LAYERS: [(&str, u32); 15] = [
    ("ids", 0),
    ("logger", 0),
    ("printer", 0),
    ("cpuset", 0),
    ("abi", 0),
    ("alloc", 1),
    ("topology", 2),
    ("policy", 3),
    ("domains", 4),
    ("kernel", 5),
    ("run", 6),
    ("simulator", 7),
    ("cli", 8),
    ("lib", 9),
    ("main", 9),
];

/// A use of one file in another.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Arrow {
    from: String,
    line: usize,
    to: String,
}

#[test]
fn arrows_point_down() {
    let mut faults = Vec::new();
    for arrow in arrows() {
        let (from, to) = (folder(&arrow.from), folder(&arrow.to));
        let is_next_to = from != to && layer(from) == layer(to) && layer(from) > 0;
        if layer(to) > layer(from) || is_next_to {
            faults.push(format!("{}:{}: {from} uses {to}", arrow.from, arrow.line));
        }
    }
    assert_none(&faults, "arrows that do not point down");
}

#[test]
fn files_of_different_folders_make_no_circle() {
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for arrow in arrows() {
        used.entry(arrow.from).or_default().insert(arrow.to);
    }
    let reachable = |from: &String| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(file) = open.pop() {
            for next in used.get(&file).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    open.push(next.clone());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&String, BTreeSet<String>> =
        used.keys().map(|file| (file, reachable(file))).collect();
    let mut faults = Vec::new();
    for (file, others) in &reached {
        for other in others.iter().filter(|other| *file < other && folder(file) != folder(other)) {
            if reached.get(other).is_some_and(|back| back.contains(*file)) {
                faults.push(format!("{file} and {other}"));
            }
        }
    }
    assert_none(&faults, "pairs of files that use each other");
}

#[test]
fn each_folder_has_a_layer() {
    let unknown: BTreeSet<String> = sources(&["src"])
        .iter()
        .map(|source| folder(&source.path).to_owned())
        .filter(|name| LAYERS.iter().all(|(known, _)| known != name))
        .collect();
    assert_none(&unknown.into_iter().collect::<Vec<_>>(), "folders that have no layer");
}

/// The folder below `src/` that a file is in, or its own name.
fn folder(path: &str) -> &str {
    let below = path.strip_prefix("src/").unwrap_or(path);
    below.split('/').next().unwrap_or(below).trim_end_matches(".rs")
}

fn layer(folder: &str) -> u32 {
    LAYERS.iter().find(|(name, _)| *name == folder).map_or(u32::MAX, |(_, layer)| *layer)
}

/// All uses of a file of `src/` in another one.
fn arrows() -> BTreeSet<Arrow> {
    let mut read = sources(&["src"]);
    read.retain(|source| source.has_extension(&["rs"]));
    let files: BTreeMap<String, &Source> =
        read.iter().map(|source| (module(&source.path).join("::"), source)).collect();
    let mut arrows = BTreeSet::new();
    for source in &read {
        for (line, path) in paths(source) {
            // The longest beginning that is a file; what is in none of them is in the root.
            let to = (0..=path.len())
                .rev()
                .find_map(|length| files.get(&path[..length].join("::")))
                .map_or("src/lib.rs".to_owned(), |file| file.path.clone());
            if to != source.path {
                arrows.insert(Arrow { from: source.path.clone(), line, to });
            }
        }
    }
    arrows
}

/// The module that a file is, from the root of the crate on.
fn module(path: &str) -> Vec<String> {
    let below = path.strip_prefix("src/").unwrap_or(path).trim_end_matches(".rs");
    let mut module: Vec<String> = below.split('/').map(str::to_owned).collect();
    if matches!(module.last().map(String::as_str), Some("mod" | "lib")) {
        module.pop();
    }
    module
}

/// The paths that begin with `crate::` or `super::`, in full, each with its line. A group is
/// several.
fn paths(source: &Source) -> Vec<(usize, Vec<String>)> {
    let code = split(&source.text).code;
    let own = module(&source.path);
    let mut found = Vec::new();
    for start in ["crate", "super"] {
        for (at, _) in code.match_indices(&format!("{start}::")) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            let mut base = Vec::new();
            if start == "super" {
                base.extend(own.iter().cloned());
                base.extend(inner_modules(&code[..at]));
            }
            let mut rest = &code[at..];
            if start == "crate" {
                rest = &rest["crate::".len()..];
            }
            while let Some(inner) = rest.strip_prefix("super::") {
                rest = inner;
                base.pop();
            }
            expand(rest, &base, &mut |path| found.push((line, path)));
        }
    }
    found
}

/// The modules inside of a file whose braces are open at the end of its beginning.
fn inner_modules(code: &str) -> Vec<String> {
    let mut open = Vec::new();
    let mut head = String::new();
    for c in code.chars() {
        match c {
            '{' => {
                let mut words = head.split_whitespace().rev();
                let (name, keyword) = (words.next(), words.next());
                open.push(name.filter(|_| keyword == Some("mod")).map(str::to_owned));
                head.clear();
            }
            '}' => {
                open.pop();
                head.clear();
            }
            ';' => head.clear(),
            _ => head.push(c),
        }
    }
    open.into_iter().flatten().collect()
}

/// Calls with each path that a text begins with, below a base.
fn expand(text: &str, base: &[String], call: &mut impl FnMut(Vec<String>)) {
    let text = text.trim_start();
    let Some(group) = text.strip_prefix('{') else {
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        let mut path = base.to_vec();
        if !name.is_empty() && name != "self" {
            path.push(name.to_owned());
        }
        match rest.strip_prefix("::") {
            Some(rest) if !name.is_empty() => expand(rest, &path, call),
            _ => call(path),
        }
        return;
    };
    let (mut depth, mut from) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                if !group[from..at].trim().is_empty() {
                    expand(&group[from..at], base, call);
                }
                from = at + 1;
            }
            _ => {}
        }
        if c == '}' && depth == 0 && from == at + 1 {
            return;
        }
    }
}
