//! Compiles the BPF side and generates its skeleton and the Rust view of the header that both sides
//! share; and says which build this is.
//!
//! Invariant: what is built follows from bpf/, the compiler and the features alone. The folder of the
//! checkout and the target folder leave no trace in the BPF objects.

use anyhow::{Context, Result, anyhow, ensure};
use libbpf_cargo::SkeletonBuilder;
use libbpf_cargo::util::CargoWarningFormatter;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

/// All that the BPF side is made of.
const FOLDER: &str = "bpf";
/// The header that both sides share, and its Rust view.
const ABI: (&str, &str) = ("bpf/intf.h", "intf.rs");
/// The scheduler. The name of the object names the types of the skeleton.
const SCHEDULER: (&str, &str) = ("bpf/main.bpf.c", "bpf.bpf.o");
const SKELETON: &str = "bpf_skel.rs";
/// What tests load, without a skeleton. A build cannot tell who asks, so they are always built.
const TESTS: [(&str, &str); 2] =
    [("bpf/rings_test.bpf.c", "rings_test.bpf.o"), ("bpf/other_test.bpf.c", "other_test.bpf.o")];

/// clang 16 is the first that keeps enums of 64 bits; the first of these that is new enough is used.
const CLANGS: [&str; 8] =
    ["clang", "clang-22", "clang-21", "clang-20", "clang-19", "clang-18", "clang-17", "clang-16"];
const OLDEST_CLANG: u32 = 16;

fn main() -> Result<()> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    warn_as_cargo();
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={FOLDER}");
    let clang = clang()?;
    let flags = flags(&headers(&out, &clang)?)?;
    let compiler = Compiler { clang, flags };
    compiler.bindings(ABI.0, &out.join(ABI.1))?;
    compiler.object(SCHEDULER.0, &out.join(SCHEDULER.1))?.generate(out.join(SKELETON))?;
    for (source, object) in TESTS {
        compiler.object(source, &out.join(object))?;
    }
    println!("cargo:rustc-env=SCX_MANYLAND_BUILD_ID={}", build_id());
    println!("cargo:rustc-env=SCX_MANYLAND_FEATURES={}", features());
    Ok(())
}

/// Makes the compiler's warnings cargo's.
fn warn_as_cargo() {
    let of_clang = Targets::new().with_target("compiler-stderr", LevelFilter::INFO);
    let layer = tracing_subscriber::fmt::layer().event_format(CargoWarningFormatter);
    tracing_subscriber::registry().with(layer.with_filter(of_clang)).init();
}

struct Compiler {
    clang: String,
    flags: Vec<String>,
}

impl Compiler {
    fn bindings(&self, header: &str, output: &Path) -> Result<()> {
        bindgen::Builder::default()
            .clang_args(self.flags.iter().map(String::as_str).chain(["-target", "bpf"]))
            .header(header)
            .generate()
            .with_context(|| format!("cannot generate bindings from {header}"))?
            .write_to_file(output)
            .with_context(|| format!("cannot write {}", output.display()))
    }

    fn object(&self, source: &str, object: &Path) -> Result<SkeletonBuilder> {
        let mut builder = SkeletonBuilder::new();
        builder
            .source(source)
            .obj(object)
            .clang(&self.clang)
            .clang_args(&self.flags)
            .reference_obj(true)
            // There is no such program: the skeleton needs no formatting.
            .rustfmt("no-rustfmt")
            .build()
            .with_context(|| format!("cannot compile {source}"))?;
        Ok(builder)
    }
}

/// The clang that compiles the BPF side: `BPF_CLANG`, or one that is new enough.
fn clang() -> Result<String> {
    println!("cargo:rerun-if-env-changed=BPF_CLANG");
    const HINT: &str = "cannot compile the BPF side";
    if let Ok(clang) = env::var("BPF_CLANG") {
        let version = version(&clang)
            .ok_or_else(|| anyhow!("{HINT}: BPF_CLANG={clang} cannot be run; run tools/setup"))?;
        ensure!(
            version >= OLDEST_CLANG,
            "{HINT}: BPF_CLANG={clang} is clang {version}; {OLDEST_CLANG} or newer is needed"
        );
        return Ok(clang);
    }
    CLANGS
        .into_iter()
        .find(|clang| version(clang).is_some_and(|version| version >= OLDEST_CLANG))
        .map(str::to_owned)
        .ok_or_else(|| anyhow!("{HINT}: no clang {OLDEST_CLANG} or newer; run tools/setup"))
}

fn version(clang: &str) -> Option<u32> {
    let out = Command::new(clang).arg("--version").output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    text.split("version ").nth(1)?.split('.').next()?.parse().ok()
}

/// Unpacks vmlinux.h and the headers of the scx project, and gives their folder. Making a builder of
/// scx_cargo is what unpacks them; neither its flags nor its compiler calls are used.
fn headers(out: &Path, clang: &str) -> Result<PathBuf> {
    // SAFETY: the build script has one thread.
    unsafe {
        // The builder asks this compiler for its version.
        env::set_var("BPF_CLANG", clang);
        // With flags from outside the builder would unpack nothing.
        env::remove_var("BPF_CFLAGS");
    }
    scx_cargo::BpfBuilder::new()?;
    let headers = out.join("scx_utils-bpf_h");
    ensure!(headers.join("scx/common.bpf.h").exists(), "scx_cargo left no headers in {headers:?}");
    Ok(headers)
}

fn flags(headers: &Path) -> Result<Vec<String>> {
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let arch = match arch.as_str() {
        "x86_64" => "x86",
        "aarch64" => "arm64",
        other => other,
    };
    let endian = env::var("CARGO_CFG_TARGET_ENDIAN")?;
    let checkout = env::var("CARGO_MANIFEST_DIR")?;
    let headers = headers.to_str().context("the path of the target folder is not UTF-8")?;
    let mut flags: Vec<_> =
        ["-Wall", "-Wno-compare-distinct-pointer-types", "-mcpu=v3"].map(Into::into).into();
    flags.extend([
        format!("-m{endian}-endian"),
        format!("-D__TARGET_ARCH_{arch}"),
        format!("-D__SCX_TARGET_ARCH_{arch}"),
        format!("-I{headers}/arch/{arch}"),
        format!("-I{headers}"),
        format!("-I{headers}/bpf-compat"),
        // The last one that matches counts.
        format!("-ffile-prefix-map={checkout}=."),
        format!("-ffile-prefix-map={headers}=scx_cargo"),
    ]);
    Ok(flags)
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
