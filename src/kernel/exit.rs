//! Why the scheduler was detached, as the BPF side recorded it.
//!
//! Invariant: there are three kinds of exit. This program detached, or the kernel asks for a
//! restart, or it is an error.

use crate::abi;
use std::ffi::CStr;

/// `SCX_ECODE_ACT_RESTART`: the kernel asks for a restart (CPU hotplug).
const RESTART: u64 = 1 << 48;

/// `SCX_EXIT_UNREG`: user space has detached the scheduler.
const DETACHED: u32 = 64;
/// `SCX_EXIT_UNREG_BPF` and `SCX_EXIT_UNREG_KERN`: BPF or the kernel has detached it. The kernel
/// gives a code.
const LAST_ORDERLY: u32 = 66;

/// How an attachment ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// This program has detached the scheduler.
    Detached,
    /// The machine has changed: read the topology again and attach again.
    Restart,
    /// The kernel has aborted the scheduler, or something else has detached it.
    Failed(String),
}

impl Exit {
    /// The exit that `record` says; `None` while the scheduler is attached.
    pub fn from_record(record: &abi::exit_record) -> Option<Exit> {
        match record.kind {
            0 => None,
            DETACHED => Some(Exit::Detached),
            kind if kind <= LAST_ORDERLY && record.code & RESTART != 0 => Some(Exit::Restart),
            _ => {
                let (reason, message) = (text(&record.reason), text(&record.message));
                Some(Exit::Failed(match message.is_empty() {
                    true => reason,
                    false => format!("{reason}: {message}"),
                }))
            }
        }
    }
}

fn text(bytes: &[std::ffi::c_char]) -> String {
    let bytes: Vec<u8> = bytes.iter().map(|&c| c as u8).collect();
    CStr::from_bytes_until_nul(&bytes)
        .map(|text| text.to_string_lossy().replace('\n', " "))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u32, code: u64, message: &str) -> abi::exit_record {
        let mut record = abi::exit_record {
            kind,
            unused: 0,
            code,
            reason: [0; 128],
            message: [0; abi::limits_EXIT_TEXT_LEN as usize],
        };
        for (to, from) in record.message.iter_mut().zip(message.bytes()) {
            *to = from as std::ffi::c_char;
        }
        for (to, from) in record.reason.iter_mut().zip(*b"runtime error") {
            *to = from as std::ffi::c_char;
        }
        record
    }

    #[test]
    fn distinguishes_the_kinds_of_exit() {
        assert_eq!(Exit::from_record(&record(0, 0, "")), None);
        assert_eq!(Exit::from_record(&record(64, 0, "")), Some(Exit::Detached));
        assert_eq!(
            Exit::from_record(&record(66, RESTART | 1 << 32, "cpu 3 going offline")),
            Some(Exit::Restart)
        );
        assert_eq!(
            Exit::from_record(&record(1026, 0, "a task\nstalled")),
            Some(Exit::Failed("runtime error: a task stalled".into()))
        );
    }
}
