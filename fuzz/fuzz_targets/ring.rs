//! A domain thread that writes to the ring of decisions while the kernel side reads it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scx_manyland::simulator::fuzz;

fuzz_target!(|bytes: &[u8]| fuzz::ring(bytes));
