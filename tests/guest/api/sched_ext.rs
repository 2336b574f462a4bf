//! The kernel's word on sched_ext, under `/sys/kernel/sched_ext`.

use anyhow::{Context, Result};
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// `disabled`, `enabling`, `enabled` or `disabling`.
pub fn state() -> String {
    read("state")
}

/// The name of the attached scheduler; empty if there is none.
pub fn scheduler() -> String {
    read("root/ops")
}

/// How many schedulers have been attached since boot.
pub fn attachments() -> u64 {
    read("enable_seq").parse().unwrap_or(0)
}

/// Waits until sched_ext is in a state.
pub fn wait_for_state(wanted: &str, limit: Duration) -> Result<()> {
    super::wait_until(&format!("sched_ext is {wanted}"), limit, || state() == wanted)
        .with_context(|| format!("sched_ext is {} ({:?})", state(), scheduler()))
}

/// Watches the state closely until it is one that is wanted, or the limit is over.
pub fn watch(is_wanted: impl Fn(&str) -> bool, limit: Duration) {
    const SOON: Duration = Duration::from_micros(100);
    let end = Instant::now() + limit;
    while !is_wanted(&state()) && Instant::now() < end {
        thread::sleep(SOON);
    }
}

fn read(file: &str) -> String {
    fs::read_to_string(format!("/sys/kernel/sched_ext/{file}"))
        .unwrap_or_default()
        .trim()
        .to_owned()
}
