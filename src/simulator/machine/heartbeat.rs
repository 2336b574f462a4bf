//! The heartbeat, apart from the path of any task: `bpf/heartbeat.bpf.h`. The simulated machine has
//! no higher scheduling class, so there is no rescue of tasks that one has preempted.

use super::Machine;
use crate::abi;
use crate::ids::CpuId;
use crate::simulator::dsq::DsqId;
use crate::simulator::events::Event;

impl Machine<'_> {
    /// Finds tasks that wait although a CPU is idle and tasks that have waited for too long, and
    /// levels the loads.
    pub(super) fn heartbeat(&mut self) {
        for d in 0..self.domains.len() {
            let (waiting, ready) = (DsqId::Waiting(d as u32), DsqId::Ready(d as u32));
            let has_tasks = self.has_tasks(waiting) || self.has_tasks(ready);
            let waits = has_tasks || self.domains[d].thread.is_on_queue();
            if waits && !self.domains[d].idle.is_empty() {
                self.kick_idle(d, 1);
            }
            if has_tasks {
                let vtime = self.domains[d].ready_vtime;
                self.domains[d].ready_boosts = self.feed_starved(waiting, ready, vtime);
            }
        }
        self.sample_loads();
        if !self.limits.no_steal && self.domains.len() > 1 {
            self.balance_loads();
        }
        let cpus: Vec<CpuId> = self.online.iter().collect();
        for cpu in cpus {
            let (bound, own) = (DsqId::Bound(cpu.0), DsqId::Own(cpu.0));
            if self.has_tasks(bound) || self.has_tasks(own) {
                self.kick(cpu);
                let boosts = self.feed_starved(bound, own, self.cpus[cpu.index()].own_vtime);
                let c = &mut self.cpus[cpu.index()];
                c.own_boosts = c.own_boosts.max(boosts);
            }
        }
        self.events.at(self.now_ns + abi::HEARTBEAT_NS, Event::Heartbeat);
    }
}
