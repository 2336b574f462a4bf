//! The Rust view of `bpf/abi.h`, generated when the crate is built, and of the [`statistics`].
//!
//! Invariant: the sizes and offsets here are those the BPF side was compiled with; bindgen asserts
//! them at compile time.

pub mod statistics;

#[allow(non_camel_case_types, non_upper_case_globals, missing_docs, dead_code)]
#[allow(clippy::all, clippy::pedantic, clippy::restriction)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/abi.rs"));
}

pub use generated::*;
