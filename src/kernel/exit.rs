//! Why the scheduler was detached, as the BPF side recorded it.
//!
//! Invariant: there are four kinds of exit. The user has ended it, or the kernel asks for a restart,
//! or the kernel has ended it for what may be over by now, or it is an error.

use crate::abi;
use std::ffi::CStr;

/// `SCX_ECODE_ACT_RESTART`: the kernel asks for a restart (CPU hotplug).
const RESTART: u64 = 1 << 48;

/// `SCX_EXIT_UNREG`: user space has detached the scheduler.
const DETACHED: u32 = 64;
/// `SCX_EXIT_SYSRQ`: an operator has pressed SysRq-S, which asks for the kernel's own scheduler.
const SYSRQ: u32 = 67;
/// `SCX_EXIT_ERROR`: sched_ext has found an error.
const ERROR: u32 = 1024;
/// `SCX_EXIT_ERROR_STALL`: a task was runnable for 30 s and did not run, or a tick did not check.
const STALL: u32 = 1026;
/// What Linux 7.1 and 7.2 say of a task that ended in the moment in which it was to be moved.
const ENDED_TASK: &str = "belongs to a different scheduler";

/// `SCX_EXIT_UNREG_BPF` and `SCX_EXIT_UNREG_KERN`: BPF or the kernel has detached it. The kernel
/// gives a code.
const LAST_ORDERLY: u32 = 66;

/// How an attachment ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// This program has detached the scheduler.
    Detached,
    /// An operator has ended it, by SysRq-S.
    Ordered,
    /// The machine has changed: read the topology again and attach again.
    Restart,
    /// The kernel has aborted the scheduler: a crowd or a real-time task kept a task waiting for
    /// too long, or a race of the kernel's was lost. All tasks have had the kernel's own scheduler
    /// since, so attaching again is safe.
    Evicted(String),
    /// The kernel has aborted the scheduler, or something else has detached it.
    Failed(String),
}

impl Exit {
    /// The exit that `record` says; `None` while the scheduler is attached.
    pub fn from_record(record: &abi::exit_record) -> Option<Exit> {
        let (reason, message) = (text(&record.reason), text(&record.message));
        let why = match message.is_empty() {
            true => reason,
            false => format!("{reason}: {message}"),
        };
        match record.kind {
            0 => None,
            DETACHED => Some(Exit::Detached),
            SYSRQ => Some(Exit::Ordered),
            STALL => Some(Exit::Evicted(why)),
            ERROR if why.contains(ENDED_TASK) => Some(Exit::Evicted(why)),
            kind if kind <= LAST_ORDERLY && record.code & RESTART != 0 => Some(Exit::Restart),
            _ => Some(Exit::Failed(why)),
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
            Exit::from_record(&record(1024, 0, "invalid\nCPU")),
            Some(Exit::Failed("runtime error: invalid CPU".into()))
        );
        assert_eq!(Exit::from_record(&record(67, 0, "")), Some(Exit::Ordered));
    }

    #[test]
    fn what_may_be_over_by_now_is_no_failure() {
        let evicted = |why: &str| Some(Exit::Evicted(format!("runtime error: {why}")));
        let stalled = "hog[7] failed to run for 30.1s";
        assert_eq!(Exit::from_record(&record(1026, 0, stalled)), evicted(stalled));
        let ended = "scx_dsq_move() on sh[7] but the task belongs to a different scheduler";
        assert_eq!(Exit::from_record(&record(1024, 0, ended)), evicted(ended));
    }
}
