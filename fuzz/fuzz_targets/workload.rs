//! A file for `--workload`, in rt-app's format.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scx_manyland::simulator::workload::Workload;

fuzz_target!(|text: &str| match Workload::parse(text) {
    Ok(workload) => {
        for group in &workload.groups {
            assert!(group.phases.iter().all(|phase| !phase.steps.is_empty()), "{group:?}");
        }
    }
    Err(error) => assert!(!format!("{error:#}").is_empty()),
});
