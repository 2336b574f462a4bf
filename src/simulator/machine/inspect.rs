//! Checks the machine for what must not be: a CPU that is idle while a task waits that may run
//! there.
//!
//! Invariant: it changes only its own record.

use super::{M, Machine, TaskId};
use crate::abi;
use crate::simulator::events::Event;
use crate::simulator::kernel::native;
use crate::simulator::kernel::task::{On, Task};
use crate::simulator::task::State;
use std::time::Duration;

/// How long a CPU was idle while a task waited that it could have run.
#[derive(Clone, Debug)]
pub struct Idleness {
    every: Duration,
    /// The longest such time (nanoseconds), to within the time between two checks, on CPUs of the
    /// domain whose thread was notified of the task.
    pub at_home_ns: u64,
    /// The longest on CPUs of other domains, for tasks that may run anywhere; other tasks are not
    /// offered to them, and domain threads only while they are away.
    pub elsewhere_ns: u64,
    /// How often a task was on a queue of ready ones by a decision for an earlier wait.
    pub wrongly_ready: u64,
}

impl Idleness {
    /// A record without a finding, and the time between two checks.
    pub fn new(every: Duration) -> Idleness {
        Idleness { every, at_home_ns: 0, elsewhere_ns: 0, wrongly_ready: 0 }
    }

    /// The time between two checks (nanoseconds).
    pub fn every_ns(&self) -> u64 {
        (self.every.as_nanos() as u64).max(1)
    }
}

/// Whether a task is ready although its last wait has no decision, and it is not starved either.
fn is_wrongly_ready(task: &Task, now_ns: u64) -> bool {
    let (On::Dsq(dsq, _), ctx) = (task.on, task.ctx()) else { return false };
    let kind = dsq as u32 & native::DSQ_KIND;
    let is_decided = ctx.waits_on == 0 || ctx.decided_seq == ctx.seq;
    let is_starved = now_ns.saturating_sub(ctx.runnable_ns) >= abi::STARVED_NS;
    (kind == native::DSQ_READY || kind == native::DSQ_OWN) && !is_decided && !is_starved
}

impl M<'_> {
    pub(super) fn inspect(mut self) {
        let Some(mut idleness) = self.idleness.take() else { return };
        let kernel = self.kernel;
        let now_ns = kernel.now_ns;
        let is_idle = |cpu: &crate::ids::CpuId| {
            let c = &kernel.cpus[cpu.index()];
            c.current.is_none() && c.local.is_empty() && !kernel.is_busy(*cpu)
        };
        let idle: Vec<_> = kernel.online.iter().filter(is_idle).collect();
        let ids = (0..).map(TaskId);
        for (id, task) in ids.zip(&self.tasks).filter(|(_, task)| task.state == State::Runnable) {
            let t = kernel.task(id);
            let On::Dsq(..) = t.on else { continue };
            idleness.wrongly_ready += u64::from(is_wrongly_ready(t, now_ns));
            let waited_ns = now_ns.saturating_sub(task.account.runnable_since_ns);
            let is_thread = t.ctx().is_thread != 0;
            let home = if is_thread { t.ctx().home } else { t.ctx().notified } as usize;
            let keeps_home = is_thread && kernel.domain(home).away == 0;
            for &cpu in idle.iter().filter(|&&cpu| t.may_use(cpu)) {
                let c = &kernel.cpus[cpu.index()];
                let both_ns = waited_ns.min(now_ns.saturating_sub(c.idle_since_ns));
                if c.domain == home {
                    idleness.at_home_ns = idleness.at_home_ns.max(both_ns);
                } else if task.cpus.is_none() && !keeps_home {
                    idleness.elsewhere_ns = idleness.elsewhere_ns.max(both_ns);
                }
            }
        }
        self.kernel.plan(now_ns + idleness.every_ns(), Event::Inspect);
        self.idleness = Some(idleness);
    }
}

impl Machine<'_> {
    /// The findings, if the machine is checked.
    pub fn idleness(&self) -> Option<&Idleness> {
        self.idleness.as_ref()
    }
}
