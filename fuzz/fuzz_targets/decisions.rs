//! A domain thread that submits anything, on a machine and a workload that the bytes describe.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scx_manyland::simulator::fuzz;

fuzz_target!(|bytes: &[u8]| fuzz::decisions(bytes));
