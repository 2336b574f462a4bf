//! The kernel's files about power supplies: each line is one, with the fields type, scope, online
//! and status between tabs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scx_manyland::topology::power;

fuzz_target!(|supplies: &[u8]| {
    let folder = std::env::temp_dir().join(format!("manyland-fuzz-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    for (number, supply) in supplies.split(|&byte| byte == b'\n').take(8).enumerate() {
        let path = folder.join(number.to_string());
        std::fs::create_dir_all(&path).expect("a folder can be made");
        let files = ["type", "scope", "online", "status"];
        for (file, text) in files.iter().zip(supply.split(|&byte| byte == b'\t')) {
            std::fs::write(path.join(file), text).expect("a file can be written");
        }
    }
    power::supply(&folder).to_string();
});
