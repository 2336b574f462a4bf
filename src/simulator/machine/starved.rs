//! Tasks that have waited for seconds go to the front: `bpf/starved.bpf.h`.

use super::Machine;
use crate::simulator::dsq::DsqId;
use crate::simulator::{TaskId, before};

/// At most so many tasks at the end of a queue are looked at in one heartbeat.
const STARVED_LOOKS_MAX: usize = 32;

impl Machine<'_> {
    /// Looks for starved tasks in two queues, those of waiting and of ready ones, and answers how many turns they are to
    /// have before everybody else.
    pub(super) fn feed_starved(&mut self, waiting: DsqId, ready: DsqId, last_order: u64) -> u32 {
        let order = match self.dsq(ready).head() {
            Some(head) if !before(last_order, head) => head.wrapping_sub(1),
            _ => last_order,
        };
        self.move_to_front(ready, ready, order) + self.move_to_front(waiting, ready, order)
    }

    fn move_to_front(&mut self, from: DsqId, to: DsqId, order: u64) -> u32 {
        let mut moved = 0;
        let at_ns = self.at();
        let last: Vec<TaskId> = self.dsq(from).iter().rev().take(STARVED_LOOKS_MAX).collect();
        for task in last {
            let t = &mut self.tasks[task.index()].bpf;
            if at_ns.saturating_sub(t.queued_ns) < self.limits.starved_ns {
                continue;
            }
            t.place = order;
            t.ready_on = Some(to);
            self.remove(task);
            self.insert(task, to, order);
            moved += 1;
        }
        moved
    }
}
