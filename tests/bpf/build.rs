//! Compiles the BPF programs that only tests and benchmarks load.

#[path = "../../bpf/compiler.rs"]
mod compiler;

use anyhow::{Context, Result};
use compiler::Compiler;
use std::env;
use std::path::{Path, PathBuf};

/// Each program, and its object.
const PROGRAMS: [(&str, &str); 2] =
    [("rings_test.bpf.c", "rings_test.bpf.o"), ("other_test.bpf.c", "other_test.bpf.o")];

fn main() -> Result<()> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let this = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let checkout = this.ancestors().nth(2).context("this crate is not in its checkout")?;
    // The paths of sources are in the objects.
    env::set_current_dir(checkout).context("cannot work in the checkout")?;
    println!("cargo:rerun-if-changed={}", this.join("build.rs").display());
    let compiler = Compiler::new(checkout, &out)?;
    for (source, object) in PROGRAMS {
        compiler.object(&Path::new("bpf/test").join(source), &out.join(object))?;
    }
    Ok(())
}
