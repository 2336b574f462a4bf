//! What a message of the kernel becomes: a task, as the policy sees it.
//!
//! The kernel's side sends totals, and those of the last decision, which it carried along. The
//! policy gets the difference.

use super::seam::Message;
use crate::abi;
use crate::cpuset::CpuSet;
use crate::ids::{CgroupId, CpuId, DomainId, Pid};
use crate::policy::{Affinity, Context, Task, Totals};

/// The task of a message.
#[inline]
pub(super) fn task(message: &Message<'_>, context: &mut Context) -> Task {
    let notice = message.notice();
    let carried = &notice.carried;
    let cpu = CpuId(notice.cpu);
    let affinity = match message {
        Message::Part(part) => context.restrict_to(&CpuSet::from_words(part.cpus)),
        Message::Plain(_) if has(notice.flags, abi::notice_flags_NOTICE_BOUND) => {
            Affinity::One(cpu)
        }
        Message::Plain(_) => Affinity::Whole,
    };
    let known = carried.at_ns != 0;
    Task {
        pid: Pid(notice.pid as i32),
        seq: notice.seq,
        comm: notice.comm.map(|c| c as u8),
        cgroup: CgroupId(notice.cgroup),
        vtime: (notice.vtime != 0).then_some(notice.vtime),
        weight: notice.weight,
        prev_cpu: cpu,
        affinity,
        runnable_at_ns: notice.at_ns,
        used_ns: notice.used_ns.wrapping_sub(carried.used_ns),
        burst_ns: notice.burst_ns,
        voluntary_switches: match known {
            true => notice.switches.wrapping_sub(carried.switches) as u32,
            false => 0,
        },
        since_last_ns: match known {
            true => notice.at_ns.saturating_sub(carried.at_ns),
            false => 0,
        },
        anywhere: has(notice.flags, abi::notice_flags_NOTICE_ANYWHERE),
        wakeup: has(notice.flags, abi::notice_flags_NOTICE_WAKEUP),
        memo: carried.memo,
        totals: Totals { used_ns: notice.used_ns, switches: notice.switches },
        group_slot: notice.group,
    }
}

fn has(flags: u16, flag: u32) -> bool {
    u32::from(flags) & flag != 0
}

/// The domain that decided for the task last; `None` if none has.
#[inline]
pub(super) fn decided_by(message: &Message<'_>) -> Option<DomainId> {
    let id = message.notice().decided_by;
    (id != abi::none_NO_DOMAIN as u16).then(|| DomainId(u32::from(id)))
}

#[cfg(test)]
mod tests {
    use crate::domains::testing::{Kept, Sent, Witness, decide, enqueued, scheduler};

    #[test]
    fn totals_become_what_is_new_since_the_last_decision() {
        let (witness, log) = Witness::new();
        let mut scheduler = scheduler(2, Box::new(witness));
        // Near the end of what the counters hold, so that they wrap around.
        let mut task = Kept { used_ns: u64::MAX - 10, switches: u64::MAX - 1, ..Kept::new(7) };
        let first = decide(&mut scheduler, Sent::Plain(task.queue(1000)));
        task.carry_out(&first);
        task.used_ns = task.used_ns.wrapping_add(500);
        task.switches = task.switches.wrapping_add(3);
        // The task has run undecided and waits again when this decision comes.
        decide(&mut scheduler, Sent::Plain(task.queue(3000)));
        task.used_ns += 40;
        task.switches += 2;
        let third = decide(&mut scheduler, Sent::Plain(task.queue(4500)));
        task.carry_out(&third);
        decide(&mut scheduler, Sent::Plain(task.queue(4600)));

        let seen: Vec<_> = enqueued(&log)
            .iter()
            .map(|t| (t.used_ns, t.voluntary_switches, t.since_last_ns, t.memo[0]))
            .collect();
        let joined = u64::MAX - 10;
        assert_eq!(seen, [(joined, 0, 0, 0), (500, 3, 2000, 1), (540, 5, 3500, 1), (0, 0, 100, 2)]);
        assert_eq!(third.carried.memo, [2, u64::MAX - 1]);
        assert_eq!((third.carried.used_ns, third.carried.at_ns), (529, 4500));
    }

    #[test]
    fn a_message_older_than_the_last_decision_is_no_time_ago() {
        let (witness, log) = Witness::new();
        let mut scheduler = scheduler(1, Box::new(witness));
        let mut task = Kept::new(1);
        let first = decide(&mut scheduler, Sent::Plain(task.queue(1000)));
        task.carry_out(&first);
        decide(&mut scheduler, Sent::Plain(task.queue(900)));
        assert_eq!(enqueued(&log)[1].since_last_ns, 0);
    }
}
