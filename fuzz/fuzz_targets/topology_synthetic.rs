//! A description for `--synthetic`.
#![no_main]

mod machine;

use libfuzzer_sys::fuzz_target;
use scx_manyland::topology::Source;

fuzz_target!(|description: &str| machine::load(&Source::Synthetic(description.to_owned())));
