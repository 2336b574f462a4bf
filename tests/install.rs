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
        "usr/lib/systemd/system/scx_manyland.service",
        "etc/default/scx_manyland",
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

/// What `make deb` calls the package is the version of the program.
#[test]
fn the_package_has_the_programs_version() {
    let changelog = include_str!("../debian/changelog.in");
    let expected = format!("scx-manyland ({}) ", env!("CARGO_PKG_VERSION"));
    assert!(changelog.starts_with(&expected), "debian/changelog.in does not begin with {expected}");
}

/// The service that is installed starts the program that is installed.
#[test]
fn the_service_starts_what_was_installed() {
    let folder = tempfile::tempdir().unwrap();
    assert!(install(folder.path(), "/opt/schedulers").status.success());
    let unit = folder.path().join("opt/schedulers/lib/systemd/system/scx_manyland.service");
    let unit = fs::read_to_string(unit).unwrap();
    assert!(unit.contains("\nExecStart=/opt/schedulers/bin/scx_manyland $OPTIONS\n"), "{unit}");
    assert!(!unit.contains("@BINDIR@"), "{unit}");
}

/// An administrator's options survive another installation.
#[test]
fn options_of_the_service_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    assert!(install(folder.path(), "/usr").status.success());
    let options = folder.path().join("etc/default/scx_manyland");
    fs::write(&options, "OPTIONS=\"--no-steal\"\n").unwrap();
    assert!(install(folder.path(), "/usr").status.success());
    assert_eq!(fs::read_to_string(options).unwrap(), "OPTIONS=\"--no-steal\"\n");
}
