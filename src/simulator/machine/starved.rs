//! Tasks that have waited for seconds move to the head of their queue: `bpf/safety_net.bpf.h`.

use super::Machine;
use crate::abi;
use crate::simulator::dsq::DsqId;
use crate::simulator::{TaskId, before};

impl Machine<'_> {
    /// Finds starved tasks in two queues, of waiting and of ready tasks, and moves them to the head
    /// of the latter. Returns how many of its tasks are to run before all others.
    pub(super) fn feed_starved(&mut self, waiting: DsqId, ready: DsqId, last_vtime: u64) -> u32 {
        let vtime = match self.dsq(ready).head() {
            Some(head) if !before(last_vtime, head) => head.wrapping_sub(1),
            _ => last_vtime,
        };
        self.move_starved(ready, ready, vtime) + self.move_starved(waiting, ready, vtime)
    }

    fn move_starved(&mut self, from: DsqId, to: DsqId, vtime: u64) -> u32 {
        let mut moved = 0;
        let at_ns = self.at();
        let last: Vec<TaskId> =
            self.dsq(from).iter().rev().take(abi::STARVED_CHECKS_MAX as usize).collect();
        for task in last {
            let t = &mut self.tasks[task.index()].bpf;
            if at_ns.saturating_sub(t.runnable_ns) < abi::STARVED_NS {
                continue;
            }
            t.dsq_vtime = vtime;
            t.ready_on = Some(to);
            self.remove(task);
            self.insert(task, to, vtime);
            moved += 1;
        }
        moved
    }
}
