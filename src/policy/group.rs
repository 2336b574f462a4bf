//! The cgroups of tasks, and a table of fixed size for those that tasks came from lately.
//!
//! Invariant: a slot leads to what the kernel's side said of that slot last, or to nothing.

use crate::ids::CgroupId;
#[cfg(doc)]
use crate::policy::{Context, Policy, Task};
use std::time::Duration;

/// How many groups the table keeps.
const SLOTS: usize = 256;

/// A cgroup that has the CPU controller, as the kernel's side knew it when it last notified the
/// policy of a task of it. A cgroup without the controller counts as the next one above that has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// Its number.
    pub id: CgroupId,
    /// That of the one above; `None` for the root.
    pub parent: Option<CgroupId>,
    /// How far below the root it is.
    pub level: u32,
    /// `cpu.weight`: 1 to 10,000.
    pub weight: u32,
    /// Whether it is idle (`cpu.idle`).
    pub idle: bool,
    /// What part of the machine its own runnable tasks are due, from 0 to 1; 0 where they have just
    /// come. Those of groups below are not counted.
    pub share: f64,
    /// `cpu.max`; `None` if it has no limit of its own. Tasks of a group that has used up its CPU time
    /// are no policy's, until there is some again.
    pub limit: Option<Limit>,
    /// Whether it has used up the CPU time of its own limit, and tasks wait for more. Those that were
    /// waiting for a decision before still are.
    pub throttled: bool,
}

/// How much CPU time the tasks of a group, and those of the groups below, may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Of all CPUs together, in each period.
    pub quota: Duration,
    /// The length of a period.
    pub period: Duration,
}

/// The table.
#[derive(Clone, Debug)]
pub(super) struct Groups {
    slots: Box<[Option<(u32, Group)>]>,
}

impl Groups {
    /// An empty table.
    pub fn new() -> Self {
        Self { slots: vec![None; SLOTS].into_boxed_slice() }
    }

    /// Remembers the group of a slot.
    pub fn remember(&mut self, slot: u32, group: Group) {
        self.slots[slot as usize % SLOTS] = Some((slot, group));
    }

    /// The group of a slot, unless another has replaced it.
    pub fn recall(&self, slot: u32) -> Option<&Group> {
        let (kept, group) = self.slots[slot as usize % SLOTS].as_ref()?;
        (*kept == slot).then_some(group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_confuses_two_groups() {
        let group = |id| Group {
            id: CgroupId(id),
            parent: None,
            level: 1,
            weight: 100,
            idle: false,
            share: 0.5,
            limit: None,
            throttled: false,
        };
        let mut table = Groups::new();
        assert_eq!(table.recall(0), None);
        for slot in [3, 4, 3 + SLOTS as u32] {
            table.remember(slot, group(u64::from(slot)));
        }
        let ids = [3, 4, 3 + SLOTS as u32].map(|slot| table.recall(slot).map(|group| group.id.0));
        assert_eq!(ids, [None, Some(4), Some(3 + SLOTS as u64)]);
    }
}
