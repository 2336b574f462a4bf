//! Compiles BPF programs, for the build scripts of this folder's users: `build.rs`, and
//! `tests/bpf/build.rs` for what only tests load.
//!
//! Invariant: what is built follows from bpf/, the compiler and the features alone. The folder of
//! the checkout and the target folder leave no trace in the BPF objects.

use anyhow::{Context, Result, anyhow, ensure};
use libbpf_cargo::SkeletonBuilder;
use libbpf_cargo::util::CargoWarningFormatter;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

/// The compilers that are tried: the first that is new enough is used. clang 16 is the oldest that
/// keeps enums of 64 bits.
const CLANGS: [&str; 8] =
    ["clang", "clang-22", "clang-21", "clang-20", "clang-19", "clang-18", "clang-17", "clang-16"];
const OLDEST_CLANG: u32 = 16;

/// Makes the compiler's warnings cargo's.
fn warn_as_cargo() {
    let of_clang = Targets::new().with_target("compiler-stderr", LevelFilter::INFO);
    let layer = tracing_subscriber::fmt::layer().event_format(CargoWarningFormatter);
    tracing_subscriber::registry().with(layer.with_filter(of_clang)).init();
}

/// A compiler that knows where the headers are.
pub struct Compiler {
    clang: String,
    flags: Vec<String>,
}

impl Compiler {
    /// A compiler for a checkout, which has the headers unpacked into the output folder. Cargo runs
    /// the build script again when anything in `bpf/` changes.
    pub fn new(checkout: &Path, out: &Path) -> Result<Compiler> {
        warn_as_cargo();
        println!("cargo:rerun-if-changed={}", checkout.join("bpf").display());
        let clang = clang()?;
        let flags = flags(checkout, &headers(out, &clang)?)?;
        Ok(Compiler { clang, flags })
    }

    /// The name of the compiler itself.
    #[allow(dead_code, reason = "tests compile BPF programs only")]
    pub fn clang(&self) -> &str {
        &self.clang
    }

    /// Compiles a program.
    pub fn object(&self, source: &Path, object: &Path) -> Result<SkeletonBuilder> {
        let mut builder = SkeletonBuilder::new();
        builder
            .source(source)
            .obj(object)
            .clang(&self.clang)
            .clang_args(&self.flags)
            .reference_obj(true)
            // There is no such program: the skeleton is the compiler's, and needs no formatting.
            .rustfmt("no-rustfmt")
            .build()
            .with_context(|| format!("cannot compile {}", source.display()))?;
        Ok(builder)
    }

    /// Generates the Rust view of a header.
    #[allow(dead_code, reason = "tests have no header of their own")]
    pub fn bindings(&self, header: &Path, output: &Path) -> Result<()> {
        bindgen::Builder::default()
            .clang_args(self.flags.iter().map(String::as_str).chain(["-target", "bpf"]))
            .header(header.to_str().context("the path of the checkout is not UTF-8")?)
            .generate()
            .with_context(|| format!("cannot generate bindings from {}", header.display()))?
            .write_to_file(output)
            .with_context(|| format!("cannot write {}", output.display()))
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

/// Unpacks vmlinux.h and the headers of the scx project, and gives their folder. Making a builder
/// of scx_cargo unpacks them; neither its flags nor its compiler calls are used.
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

fn flags(checkout: &Path, headers: &Path) -> Result<Vec<String>> {
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let arch = match arch.as_str() {
        "x86_64" => "x86",
        "aarch64" => "arm64",
        other => other,
    };
    let endian = env::var("CARGO_CFG_TARGET_ENDIAN")?;
    let checkout = checkout.to_str().context("the path of the checkout is not UTF-8")?;
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
