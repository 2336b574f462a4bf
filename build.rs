//! Compiles the BPF side and generates its skeleton and the Rust view of the header that both sides
//! share; and says which build this is.

#[path = "bpf/compiler.rs"]
mod compiler;
#[path = "src/simulator/shim/compile.rs"]
mod native;

use anyhow::Result;
use compiler::Compiler;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The header that both sides share, and its Rust view.
const ABI: (&str, &str) = ("bpf/abi.h", "abi.rs");
/// The scheduler. The name of the object names the types of the skeleton.
const SCHEDULER: (&str, &str) = ("bpf/main.bpf.c", "bpf.bpf.o");
const SKELETON: &str = "bpf_skel.rs";
/// The Rust view of the same, compiled for the simulator.
const NATIVE: &str = "native.rs";

fn main() -> Result<()> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let checkout = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    println!("cargo:rerun-if-changed=build.rs");
    statistics(&out)?;
    let compiler = Compiler::new(&checkout, &out)?;
    compiler.bindings(Path::new(ABI.0), &out.join(ABI.1))?;
    compiler
        .object(Path::new(SCHEDULER.0), &out.join(SCHEDULER.1))?
        .generate(out.join(SKELETON))?;
    if env::var_os("CARGO_FEATURE_SIMULATOR").is_some() {
        native::build(compiler.clang(), &out, &out.join(NATIVE))?;
    }
    println!("cargo:rustc-env=SCX_MANYLAND_BUILD_ID={}", build_id());
    println!("cargo:rustc-env=SCX_MANYLAND_NAME={}", kernel_name(&build_id()));
    println!("cargo:rustc-env=SCX_MANYLAND_FEATURES={}", features());
    Ok(())
}

/// The commit that is built: from the environment where the source has no git, or from git.
fn build_id() -> String {
    println!("cargo:rerun-if-env-changed=SCX_MANYLAND_BUILD_ID");
    let given = env::var("SCX_MANYLAND_BUILD_ID").ok().filter(|id| !id.is_empty());
    given.or_else(commit).unwrap_or_else(|| "unknown".to_owned())
}

fn commit() -> Option<String> {
    // Without one of its own, git would answer for a checkout that this folder happens to be in.
    if !Path::new(".git").exists() {
        return None;
    }
    // HEAD names a branch, whose commit is in a file of its own or in a line of packed-refs.
    let branch = git(&["rev-parse", "--symbolic-full-name", "HEAD"])?;
    for file in ["HEAD", "logs/HEAD", &branch, "packed-refs"] {
        let path = git(&["rev-parse", "--git-path", file])?;
        // A file that is missing would count as changed in every build.
        if Path::new(&path).exists() {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short", "HEAD"])
}

/// What git answers. The checkout may belong to another user than the one who builds.
fn git(args: &[&str]) -> Option<String> {
    let out = Command::new("git").args(["-c", "safe.directory=*"]).args(args).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

fn features() -> String {
    let mut features: Vec<_> = env::vars()
        .filter_map(|(name, _)| name.strip_prefix("CARGO_FEATURE_").map(str::to_lowercase))
        .filter(|feature| feature != "default")
        .map(|feature| feature.replace('_', "-"))
        .collect();
    features.sort();
    features.join(" ")
}

/// Makes the list of statistics a macro that hands it to another macro: the C file is a sequence of
/// Rust tokens too.
fn statistics(out: &Path) -> Result<()> {
    const LIST: &str = "bpf/statistics.def";
    let list = std::fs::read_to_string(LIST)?;
    let text = format!("macro_rules! statistics {{ ($to:ident) => {{ $to! {{\n{list}\n}} }}; }}\n");
    std::fs::write(out.join("statistics.rs"), text)?;
    Ok(())
}

/// The name by which the kernel knows the scheduler, which has letters, digits, `_` and `.` only.
fn kernel_name(build_id: &str) -> String {
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let target = env::var("TARGET").unwrap_or_default();
    let name = format!("manyland_{version}_g{build_id}_{target}");
    let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' };
    name.chars().map(allowed).take(127).collect()
}
