//! What keeps the house in shape: what comments and documents name exists, the folders of `src/`
//! are layers, domain threads have nothing to write with, and prose uses the field's words.
//!
//! `cargo test --test house -- --nocapture words` prints what [`words`] counts in each file;
//! `IN=docs/` before it restricts that to the files whose path contains it.

#[path = "house/layers.rs"]
mod layers;
#[path = "house/quiet.rs"]
mod quiet;
#[path = "house/references.rs"]
mod references;
#[path = "house/text.rs"]
mod text;
#[path = "house/words.rs"]
mod words;

use std::fs;
use std::path::{Path, PathBuf};

/// The project's own folder.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the project, by its path from the root.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn read(path: PathBuf) -> Option<Source> {
        let text = fs::read_to_string(&path).ok()?;
        let path = path.strip_prefix(root()).ok()?.to_str()?.to_owned();
        Some(Source { path, text })
    }

    fn has_extension(&self, extensions: &[&str]) -> bool {
        extensions.iter().any(|extension| self.path.ends_with(&format!(".{extension}")))
    }

    /// Where a line of it is, as compilers write it.
    fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path)
    }
}

/// The text files in some of the root's folders, and those of its files that are named.
fn sources(places: &[&str]) -> Vec<Source> {
    let mut paths: Vec<PathBuf> = places.iter().flat_map(|it| files(&root().join(it))).collect();
    paths.sort();
    paths.into_iter().filter_map(Source::read).collect()
}

/// The documents at the root and in `docs/`.
fn documents() -> Vec<Source> {
    let at_root = fs::read_dir(root()).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = at_root.filter(|path| path.is_file()).collect();
    paths.extend(files(&root().join("docs")));
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.sort();
    paths.into_iter().filter_map(Source::read).collect()
}

/// A file, or the files of a folder at any depth. What cargo builds is not among them.
fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let is_ours = |path: &PathBuf| path.file_name().is_none_or(|name| name != "target");
    entries.map(|entry| entry.path()).filter(is_ours).flat_map(|path| files(&path)).collect()
}

/// Fails with a line for each fault.
#[track_caller]
fn assert_none(faults: &[String], what: &str) {
    assert!(faults.is_empty(), "{} {what}:\n{}", faults.len(), faults.join("\n"));
}
