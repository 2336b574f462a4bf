//! `make install`: what it puts where.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

const PROGRAM: &str = env!("CARGO_BIN_EXE_scx_manyland");

fn install(folder: &Path, prefix: &str) -> std::process::Output {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/install"))
        .arg(PROGRAM)
        .env("DESTDIR", folder)
        .env("PREFIX", prefix)
        .output()
        .unwrap()
}

/// All files below a folder, by their path in it.
fn files(folder: &Path, below: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(folder, &path, found),
            false => {
                found.insert(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
}

#[test]
fn everything_is_where_a_distribution_has_it() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let output = install(folder.path(), "/usr");
        assert!(output.status.success(), "{output:?}");
    }
    let mut found = BTreeSet::new();
    files(folder.path(), folder.path(), &mut found);
    for expected in [
        "usr/bin/scx_manyland",
        "usr/share/man/man8/scx_manyland.8",
        "usr/share/man/man8/scx_manyland-topology.8",
        "usr/share/man/man8/scx_manyland-bench.8",
        "usr/share/bash-completion/completions/scx_manyland",
        "usr/share/zsh/site-functions/_scx_manyland",
        "usr/share/fish/vendor_completions.d/scx_manyland.fish",
        "usr/share/doc/scx_manyland/operating.md",
        "usr/share/doc/scx_manyland/LICENSE",
        "usr/share/doc/scx_manyland/examples/alerts.yml",
        "usr/share/doc/scx_manyland/examples/manyland.json",
    ] {
        assert!(found.contains(expected), "no {expected} among {found:?}");
    }
    for file in &found {
        let path = folder.path().join(file);
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, if file.starts_with("usr/bin") { 0o755 } else { 0o644 }, "{file}");
        assert!(fs::metadata(&path).unwrap().len() > 0, "{file} is empty");
    }
    assert_eq!(
        fs::read(folder.path().join("usr/bin/scx_manyland")).unwrap(),
        fs::read(PROGRAM).unwrap()
    );
}

#[test]
fn a_relative_prefix_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = install(folder.path(), "usr");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("PREFIX"), "{output:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
