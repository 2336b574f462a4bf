//! Changes of the machine that the kernel does not ask to attach again for, as it does for hotplug:
//! an isolated partition of cpusets is made or dissolved, or with `--dedicate` a cpuset withholds CPUs
//! from this process or gives them back.
//!
//! Without `--dedicate` a cpuset of this process changes no domain. It says where the domain threads
//! may run, not which CPUs tasks of others use, and these need a scheduler there all the same
//! (`docs/decisions/0057-what-a-cpuset-changes.md`).
//!
//! Invariant: a change counts when two checks in a row have found the same one, and not before the
//! scheduler has been attached for [`SETTLED`]. So a script that makes and dissolves partitions has
//! it attach again twelve times a minute at most.

use crate::cpuset::CpuSet;
use crate::run::affinity;
use crate::topology::isolated::IsolatedCpus;
use std::time::{Duration, Instant};

/// The time between two checks.
const BETWEEN: Duration = Duration::from_secs(1);
/// How long the scheduler has been attached at least before a change counts.
const SETTLED: Duration = Duration::from_secs(5);

/// What a change would change.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    isolated: CpuSet,
    /// The CPUs that this process may use, where that matters.
    usable: Option<CpuSet>,
}

/// Finds changes.
pub(super) struct Changes {
    lists: IsolatedCpus,
    dedicate: bool,
    attached: State,
    /// What the last check has found, if it was a change.
    found: Option<State>,
    due: Instant,
    settled: Instant,
}

impl Changes {
    /// From now on, which is before the machine is read.
    pub(super) fn new(dedicate: bool) -> Changes {
        let lists = IsolatedCpus::open();
        let attached = state(&lists, dedicate);
        let now = Instant::now();
        Changes { lists, dedicate, attached, found: None, due: now, settled: now }
    }

    /// The CPUs that were isolated at the beginning.
    pub(super) fn isolated(&self) -> CpuSet {
        self.attached.isolated
    }

    /// The scheduler is attached now.
    pub(super) fn begin(&mut self) {
        let now = Instant::now();
        (self.due, self.settled) = (now + BETWEEN, now + SETTLED);
    }

    /// When the next check is due.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Checks if it is due. Whether the machine has changed.
    pub(super) fn have_come(&mut self) -> bool {
        let now = Instant::now();
        now >= self.due && self.count(state(&self.lists, self.dedicate), now)
    }

    /// Whether what a check has found at this moment counts.
    fn count(&mut self, state: State, now: Instant) -> bool {
        self.due = now + BETWEEN;
        let lasts = self.found.as_ref() == Some(&state);
        self.found = (state != self.attached).then_some(state);
        self.found.is_some() && lasts && now >= self.settled
    }
}

fn state(lists: &IsolatedCpus, dedicate: bool) -> State {
    let usable = if dedicate { affinity::of_this_thread().ok() } else { None };
    State { isolated: lists.read(), usable }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::CpuId;

    fn isolated(cpus: &[u32]) -> State {
        State { isolated: cpus.iter().map(|&cpu| CpuId(cpu)).collect(), usable: None }
    }

    /// Which of the states counts as a change, found one after the other, each some
    /// milliseconds after the scheduler has attached without isolated CPUs.
    fn first(found: &[(u64, &[u32])]) -> Option<usize> {
        let mut changes = Changes::new(false);
        changes.attached = isolated(&[]);
        changes.begin();
        let attached = changes.settled - SETTLED;
        found.iter().position(|&(ms, cpus)| {
            changes.count(isolated(cpus), attached + Duration::from_millis(ms))
        })
    }

    #[test]
    fn a_change_that_lasts_counts_once_the_attachment_has_settled() {
        assert_eq!(first(&[(9000, &[]), (10_000, &[3]), (11_000, &[3])]), Some(2));
        assert_eq!(first(&[(1000, &[3]), (2000, &[3]), (4999, &[3]), (5000, &[3])]), Some(3));
        let changing: [(u64, &[u32]); 4] =
            [(9000, &[3]), (10_000, &[2]), (11_000, &[]), (12_000, &[2])];
        assert_eq!(first(&changing), None);
    }

    #[test]
    fn checks_are_a_second_apart() {
        let mut changes = Changes::new(true);
        changes.begin();
        let begun = changes.due();
        assert!(!changes.have_come() && changes.due() == begun, "it is not due yet");
        assert!(!changes.count(changes.attached.clone(), begun));
        assert_eq!(changes.due(), begun + BETWEEN);
    }
}
