//! The Rust view of bpf/ as it is compiled for the simulator (`src/simulator/shim/native.h`).

#![allow(non_camel_case_types, non_upper_case_globals, missing_docs, dead_code)]
#![allow(clippy::all, clippy::pedantic, clippy::restriction)]

use crate::abi::{carried, crowd, thread_mark, u8_, u16_, u32_, u64_};

include!(concat!(env!("OUT_DIR"), "/native.rs"));

impl Clone for cpumask {
    fn clone(&self) -> Self {
        *self
    }
}

impl Copy for cpumask {}
