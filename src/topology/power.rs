//! What the machine runs on, as the kernel shows under `/sys/class/power_supply`.
//!
//! Invariant: whatever those files hold, there is an answer; what cannot be read counts as unknown.

use std::fmt;
use std::path::Path;

/// Where the kernel shows the power supplies.
pub const SUPPLIES: &str = "/sys/class/power_supply";

/// What the machine runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supply {
    /// A power line or charger.
    Mains,
    /// Its battery.
    Battery,
    /// The kernel shows none, as on most desktops and servers.
    Unknown,
}

/// What the machine runs on, by the power supplies shown in the folder `supplies` ([`SUPPLIES`]).
///
/// - A charger that is plugged in means mains power, and so does a battery that is charging.
/// - Otherwise a battery that is discharging means battery power. So does a battery at rest, if the
///   machine has a charger that is not plugged in.
/// - Supplies of a device, such as the battery of a mouse, mean nothing.
///
/// ```
/// use scx_manyland::topology::power::{Supply, supply};
/// assert_eq!(supply("/no/such/folder".as_ref()), Supply::Unknown);
/// ```
pub fn supply(supplies: &Path) -> Supply {
    let Ok(entries) = std::fs::read_dir(supplies) else { return Supply::Unknown };
    let (mut unplugged, mut discharging, mut resting) = (false, false, false);
    for supply in entries.flatten().map(|entry| entry.path()) {
        let read = |file| std::fs::read_to_string(supply.join(file)).unwrap_or_default();
        let (kind, scope) = (read("type"), read("scope"));
        if scope.trim() == "Device" {
            continue;
        }
        match (kind.trim(), read("online").trim(), read("status").trim()) {
            // 2 is a charger whose voltage the machine has programmed.
            ("Mains" | "USB" | "Wireless", "1" | "2", _) => return Supply::Mains,
            ("Mains" | "USB" | "Wireless", "0", _) => unplugged = true,
            ("Battery", _, "Discharging") => discharging = true,
            ("Battery", _, "Charging") => return Supply::Mains,
            ("Battery", ..) => resting = true,
            _ => {}
        }
    }
    match discharging || resting && unplugged {
        true => Supply::Battery,
        false => Supply::Unknown,
    }
}

impl fmt::Display for Supply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Supply::Mains => "mains power",
            Supply::Battery => "battery",
            Supply::Unknown => "power supply unknown",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    /// A folder that is gone with the test.
    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// What supplies with these files mean; a file is `SUPPLY/FILE` and its contents.
    fn supply_of(name: &str, files: &[(&str, &str)]) -> Supply {
        let folder = std::env::temp_dir().join(format!("manyland-{}-{name}", std::process::id()));
        let folder = Folder(folder);
        fs::create_dir_all(&folder.0).unwrap();
        for (file, contents) in files {
            let path = folder.0.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{contents}\n")).unwrap();
        }
        supply(&folder.0)
    }

    #[test]
    fn a_laptop_is_on_what_it_is_plugged_into() {
        let laptop = |name, online, status| {
            let files = [
                ("AC/type", "Mains"),
                ("AC/online", online),
                ("BAT0/type", "Battery"),
                ("BAT0/status", status),
            ];
            supply_of(name, &files)
        };
        assert_eq!(laptop("charging", "1", "Charging"), Supply::Mains);
        assert_eq!(laptop("full", "1", "Full"), Supply::Mains);
        // A charger too weak for what the machine draws.
        assert_eq!(laptop("weak", "1", "Discharging"), Supply::Mains);
        assert_eq!(laptop("unplugged", "0", "Discharging"), Supply::Battery);
        assert_eq!(laptop("resting", "0", "Not charging"), Supply::Battery);
        assert_eq!(laptop("unreadable", "", "Discharging"), Supply::Battery);
        assert_eq!(laptop("unknown", "", "Unknown"), Supply::Unknown);
    }

    #[test]
    fn a_charger_may_be_of_usb_and_one_of_several() {
        let files = [
            ("ucsi0/type", "USB"),
            ("ucsi0/online", "0"),
            ("ucsi1/type", "USB"),
            ("ucsi1/online", "2"),
            ("BAT0/type", "Battery"),
            ("BAT0/status", "Discharging"),
        ];
        assert_eq!(supply_of("usb", &files), Supply::Mains);
        assert_eq!(supply_of("usb-unplugged", &files[..3]), Supply::Unknown);
    }

    #[test]
    fn a_mouse_does_not_make_a_desktop_a_laptop() {
        let files =
            [("mouse/type", "Battery"), ("mouse/status", "Discharging"), ("mouse/scope", "Device")];
        assert_eq!(supply_of("mouse", &files), Supply::Unknown);
    }

    #[test]
    fn nonsense_is_unknown() {
        assert_eq!(supply_of("empty", &[]), Supply::Unknown);
        let files = [("a/type", "Perpetuum"), ("b/online", "1"), ("file", "")];
        assert_eq!(supply_of("nonsense", &files), Supply::Unknown);
    }
}
