//! What a message of the kernel becomes: a task, as the policy sees it.
//!
//! The kernel's side sends totals, and what the last decision carried along. A policy gets the
//! difference.

use super::seam::Message;
use crate::abi;
use crate::cpuset::CpuSet;
use crate::ids::{CgroupId, CpuId, DomainId, Pid};
use crate::policy::{Affinity, Context, Task, Told};

/// The task that a message tells of.
#[inline]
pub(super) fn task(message: &Message<'_>, context: &mut Context) -> Task {
    let queued = message.queued();
    let carried = &queued.carried;
    let cpu = CpuId(queued.cpu);
    let affinity = match message {
        Message::Part(part) => context.restrict_to(&CpuSet::from_words(part.cpus)),
        Message::Plain(_) if has(queued.flags, abi::queued_flags_QUEUED_BOUND) => {
            Affinity::One(cpu)
        }
        Message::Plain(_) => Affinity::Whole,
    };
    let known = carried.at_ns != 0;
    Task {
        pid: Pid(queued.pid as i32),
        seq: queued.seq,
        comm: queued.comm.map(|c| c as u8),
        cgroup: CgroupId(queued.cgroup),
        weight: queued.weight,
        prev_cpu: cpu,
        affinity,
        queued_at_ns: queued.at_ns,
        used_ns: queued.used_ns.wrapping_sub(carried.used_ns),
        burst_ns: queued.burst_ns,
        voluntary_switches: match known {
            true => queued.switches.wrapping_sub(carried.switches) as u32,
            false => 0,
        },
        since_last_ns: match known {
            true => queued.at_ns.saturating_sub(carried.at_ns),
            false => 0,
        },
        anywhere: has(queued.flags, abi::queued_flags_QUEUED_ANYWHERE),
        wakeup: has(queued.flags, abi::queued_flags_QUEUED_WAKEUP),
        memo: carried.memo,
        told: Told { used_ns: queued.used_ns, switches: queued.switches },
    }
}

fn has(flags: u16, flag: u32) -> bool {
    u32::from(flags) & flag != 0
}

/// The domain that decided for the task last; `None` if none has.
#[inline]
pub(super) fn decided_by(message: &Message<'_>) -> Option<DomainId> {
    let id = message.queued().decided_by;
    (id != abi::none_NO_DOMAIN as u16).then(|| DomainId(u32::from(id)))
}
