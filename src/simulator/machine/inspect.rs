//! Checks the machine for what must not be: a CPU that is idle while a task waits that may run
//! there.
//!
//! Invariant: it changes only its own record.

use super::Machine;
use crate::simulator::events::Event;
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
    /// offered to them.
    pub elsewhere_ns: u64,
}

impl Idleness {
    /// A record without a finding, and the time between two checks.
    pub fn new(every: Duration) -> Idleness {
        Idleness { every, at_home_ns: 0, elsewhere_ns: 0 }
    }

    /// The time between two checks (nanoseconds).
    pub fn every_ns(&self) -> u64 {
        (self.every.as_nanos() as u64).max(1)
    }
}

impl Machine<'_> {
    pub(super) fn inspect(&mut self) {
        let Some(mut idleness) = self.idleness.take() else { return };
        let now_ns = self.now_ns;
        let idle: Vec<_> = self
            .online
            .iter()
            .filter(|cpu| {
                let c = &self.cpus[cpu.index()];
                c.current.is_none() && c.local.is_empty()
            })
            .collect();
        for task in self.tasks.iter().filter(|task| task.state == State::Runnable) {
            let Some(_) = task.on else { continue };
            let waited_ns = now_ns.saturating_sub(task.account.runnable_since_ns);
            for &cpu in idle.iter().filter(|&&cpu| task.may_use(cpu)) {
                let c = &self.cpus[cpu.index()];
                let both_ns = waited_ns.min(now_ns.saturating_sub(c.idle_since_ns));
                if c.domain == task.bpf.notified as usize {
                    idleness.at_home_ns = idleness.at_home_ns.max(both_ns);
                } else if task.cpus.is_none() {
                    idleness.elsewhere_ns = idleness.elsewhere_ns.max(both_ns);
                }
            }
        }
        self.events.at(now_ns + idleness.every_ns(), Event::Inspect);
        self.idleness = Some(idleness);
    }

    /// The findings, if the machine is checked.
    pub fn idleness(&self) -> Option<&Idleness> {
        self.idleness.as_ref()
    }
}
