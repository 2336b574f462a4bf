//! Compiles the BPF side and generates its skeleton, and the Rust view of the shared header.

use std::process::Command;

/// clang 16 is the first that compiles what the BPF side needs; the newest that is there is taken.
const CLANGS: [&str; 8] =
    ["clang", "clang-22", "clang-21", "clang-20", "clang-19", "clang-18", "clang-17", "clang-16"];
const OLDEST_CLANG: u32 = 16;

fn version(clang: &str) -> Option<u32> {
    let out = Command::new(clang).arg("--version").output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    text.split("version ").nth(1)?.split('.').next()?.parse().ok()
}

fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-env-changed=BPF_CLANG");
    if std::env::var_os("BPF_CLANG").is_none() {
        let clang = CLANGS
            .into_iter()
            .find(|clang| version(clang).is_some_and(|v| v >= OLDEST_CLANG))
            .ok_or_else(|| {
                anyhow::anyhow!(
                    "cannot compile the BPF side: no clang {OLDEST_CLANG} or newer; run tools/setup"
                )
            })?;
        // SAFETY: the build script has one thread.
        unsafe { std::env::set_var("BPF_CLANG", clang) };
    }
    scx_cargo::BpfBuilder::new()?
        .enable_intf("bpf/intf.h", "intf.rs")
        .enable_skel("bpf/main.bpf.c", "bpf")
        .build()?;
    // For tests/rings.rs and tests/guest: they depend on the same headers, and a build cannot tell who asks.
    scx_cargo::BpfBuilder::new()?.enable_skel("bpf/rings_test.bpf.c", "rings_test").build()?;
    scx_cargo::BpfBuilder::new()?.enable_skel("bpf/other_test.bpf.c", "other_test").build()
}
