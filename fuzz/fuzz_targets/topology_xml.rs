//! A file for `--input`, cut, corrupted or invented.
#![no_main]

mod machine;

use libfuzzer_sys::fuzz_target;
use scx_manyland::topology::Source;

fuzz_target!(|xml: &[u8]| {
    let path = std::env::temp_dir().join(format!("manyland-fuzz-{}.xml", std::process::id()));
    std::fs::write(&path, xml).expect("a file can be written");
    machine::load(&Source::XmlFile(path));
});
