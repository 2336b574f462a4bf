//! The cgroups of the simulated machine, each with the CPU controller.
//!
//! Invariant: bpf/ learns of a group before it meets a task of it, and of a parent before its
//! children.

use super::native::{
    self, cgroup, cgroup_subsys_state, css_set, kernfs_node, scx_cgroup_init_args, task_group,
};
use super::{K, Kernel};
use crate::simulator::TaskId;
use crate::simulator::workload::Max;
use std::collections::HashMap;
use std::ptr::null_mut;

/// A cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupId(pub usize);

/// The cgroup that all others are in.
pub const ROOT: GroupId = GroupId(0);

/// What the kernel says of a cgroup without a limit.
const NO_MAX: Max = Max { quota_us: u64::MAX, period_us: 100_000, burst_us: 0 };

/// What C sees of a cgroup. The parts point to each other.
struct Group {
    _node: Box<kernfs_node>,
    cgroup: Box<cgroup>,
    controller: Box<task_group>,
    /// What a task of the group points to.
    set: Box<css_set>,
    weight: u32,
    max: Option<Max>,
}

/// All of them, and the slots that bpf/ keeps by their ids.
pub(super) struct Groups {
    all: Vec<Group>,
    slots: HashMap<u64, Box<u32>>,
}

impl Groups {
    /// The root alone.
    pub fn new() -> Groups {
        let mut groups = Groups { all: Vec::new(), slots: HashMap::new() };
        groups.add(None, crate::policy::DEFAULT_WEIGHT, None);
        groups
    }

    fn add(&mut self, parent: Option<GroupId>, weight: u32, max: Option<Max>) -> GroupId {
        let mut node = Box::new(kernfs_node { id: self.all.len() as u64 + 1 });
        let parent = parent.map(|id| &mut self.all[id.0]);
        let level = parent.as_ref().map_or(0, |it| it.cgroup.level + 1);
        let parent = parent.map_or(null_mut(), |it| &raw mut it.cgroup.self_);
        let mut cgroup = Box::new(cgroup {
            self_: cgroup_subsys_state { cgroup: null_mut(), parent },
            level,
            kn: &raw mut *node,
            subsys: [null_mut(); native::CGROUP_SUBSYS_COUNT as usize],
        });
        let at = &raw mut *cgroup;
        cgroup.self_.cgroup = at;
        let css = cgroup_subsys_state { cgroup: at, parent: null_mut() };
        let mut controller = Box::new(task_group { css, idle: 0 });
        cgroup.subsys[native::cpu_cgrp_id as usize] = &raw mut controller.css;
        let set = Box::new(css_set { dfl_cgrp: at });
        self.all.push(Group { _node: node, cgroup, controller, set, weight, max });
        GroupId(self.all.len() - 1)
    }

    /// What the tasks of a group point to.
    pub fn of_tasks(&mut self, id: GroupId) -> (*mut css_set, *mut task_group) {
        let group = &mut self.all[id.0];
        (&raw mut *group.set, &raw mut *group.controller)
    }

    /// The slot of the group with an id of a cgroup; null if it has none.
    pub fn slot(&mut self, id: u64) -> *mut u32 {
        self.slots.get_mut(&id).map_or(null_mut(), |slot| &raw mut **slot)
    }

    pub fn set_slot(&mut self, id: u64, slot: u32) {
        self.slots.insert(id, Box::new(slot));
    }

    pub fn remove_slot(&mut self, id: u64) {
        self.slots.remove(&id);
    }
}

impl K {
    /// Lets bpf/ know of the root.
    pub(super) fn introduce_root(self) {
        self.introduce(ROOT);
    }

    /// A new cgroup.
    pub fn create_group(mut self, parent: GroupId, weight: u32, max: Option<Max>) -> GroupId {
        let id = self.groups.add(Some(parent), weight, max);
        self.introduce(id);
        id
    }

    fn introduce(mut self, id: GroupId) {
        let Group { weight, max, .. } = self.groups.all[id.0];
        let max = max.unwrap_or(NO_MAX);
        let mut args = scx_cgroup_init_args {
            weight,
            bw_period_us: max.period_us,
            bw_quota_us: max.quota_us,
            bw_burst_us: max.burst_us,
        };
        let cgroup = self.cgroup(id);
        let err = self.call(|ops| {
            let init = ops.cgroup_init.expect("bpf/main.bpf.c has it");
            // SAFETY: as in call(); the cgroup and the arguments outlive the callback.
            unsafe { init(cgroup, &raw mut args) }
        });
        assert_eq!(err, 0, "bpf/ refuses a cgroup");
    }

    /// Removes a cgroup without tasks and children.
    #[cfg(test)]
    pub fn remove_group(mut self, id: GroupId) {
        let cgroup = self.cgroup(id);
        self.call(|ops| {
            let exit = ops.cgroup_exit.expect("bpf/main.bpf.c has it");
            // SAFETY: as in call(); the cgroup outlives the callback.
            unsafe { exit(cgroup) }
        });
    }

    /// A cgroup has another weight from now on.
    #[cfg(test)]
    pub fn set_group_weight(mut self, id: GroupId, weight: u32) {
        self.groups.all[id.0].weight = weight;
        let cgroup = self.cgroup(id);
        self.call(|ops| {
            let set_weight = ops.cgroup_set_weight.expect("bpf/main.bpf.c has it");
            // SAFETY: as in call(); the cgroup outlives the callback.
            unsafe { set_weight(cgroup, weight) }
        });
    }

    /// A cgroup becomes idle, or is so no longer.
    pub fn set_group_idle(mut self, id: GroupId, idle: bool) {
        let cgroup = self.cgroup(id);
        self.call(|ops| {
            let set_idle = ops.cgroup_set_idle.expect("bpf/main.bpf.c has it");
            // SAFETY: as in call(); the cgroup outlives the callback.
            unsafe { set_idle(cgroup, idle) }
        });
    }

    /// A task moves to another cgroup.
    pub fn move_to_group(mut self, id: TaskId, to: GroupId) {
        if self.task(id).group == to {
            return;
        }
        let runs = self.take_aside(id);
        let (set, controller) = self.groups.of_tasks(to);
        let p = self.pointer(id);
        self.task_mut(id).group = to;
        let to = self.cgroup(to);
        let c = &mut self.task_mut(id).c;
        // SAFETY: a task always has a controller, whose cgroup it names.
        let from = unsafe { (*c.sched_task_group).css.cgroup };
        (c.cgroups, c.sched_task_group) = (set, controller);
        self.call(|ops| {
            let cgroup_move = ops.cgroup_move.expect("bpf/main.bpf.c has it");
            // SAFETY: as in call(); the task and the cgroups outlive the callback.
            unsafe { cgroup_move(p, from, to) }
        });
        self.put_back(id, runs);
    }

    /// The slot of the cgroup in bpf/, and what that knows of it.
    #[cfg(test)]
    fn known(&self, id: GroupId) -> Option<(u32, crate::abi::group)> {
        // SAFETY: the node belongs to the group.
        let node = unsafe { (*self.groups.all[id.0].cgroup.kn).id };
        let slot = **self.groups.slots.get(&node)?;
        Some((slot, self.maps.groups.0[slot as usize]))
    }

    fn cgroup(&mut self, id: GroupId) -> *mut cgroup {
        &raw mut *self.groups.all[id.0].cgroup
    }
}

impl Kernel {
    /// How many tasks bpf/ counts in all groups.
    pub(super) fn tasks_in_groups(&self) -> u32 {
        self.maps.groups.0.iter().fold(0, |sum, group| sum.wrapping_add(group.tasks))
    }
}

#[cfg(test)]
mod tests {
    use super::super::wakeup::testing::kernel;
    use super::*;
    use crate::abi;

    fn weight_and_parent(kernel: K, id: GroupId) -> (u32, u32) {
        let (_, group) = kernel.known(id).unwrap();
        (group.weight, group.parent)
    }

    #[test]
    fn a_group_is_known_from_its_beginning_to_its_end() {
        let kernel = kernel();
        let root = kernel.known(ROOT).unwrap();
        assert_eq!((root.0, root.1.level, root.1.tasks), (0, 0, 3));
        let outer = kernel.create_group(ROOT, 300, None);
        let inner = kernel.create_group(outer, 50, None);
        let outer_slot = kernel.known(outer).unwrap().0;
        assert_eq!(weight_and_parent(kernel, outer), (300, 0));
        assert_eq!(weight_and_parent(kernel, inner), (50, outer_slot));
        kernel.move_to_group(TaskId(1), inner);
        kernel.set_group_weight(inner, 77);
        assert_eq!(weight_and_parent(kernel, inner), (77, outer_slot));
        let tasks = |id| kernel.known(id).unwrap().1.tasks;
        assert_eq!([tasks(ROOT), tasks(outer), tasks(inner)], [2, 0, 1]);
        kernel.move_to_group(TaskId(1), ROOT);
        kernel.remove_group(inner);
        assert!(kernel.known(inner).is_none());
        let (slot, next) = kernel.known(kernel.create_group(ROOT, 1, None)).unwrap();
        assert_eq!((slot, next.generation), (outer_slot + 1, 1), "a free slot comes first");
        // SAFETY: no handle is used any more.
        unsafe { kernel.free() };
    }

    #[test]
    fn a_group_beyond_the_slots_counts_as_its_parent() {
        let kernel = kernel();
        let outer = kernel.create_group(ROOT, 300, None);
        let others: Vec<_> =
            (2..abi::limits_GROUPS_MAX).map(|_| kernel.create_group(ROOT, 100, None)).collect();
        let folded = kernel.create_group(outer, 50, None);
        assert!(kernel.known(folded).is_none());
        kernel.move_to_group(TaskId(2), folded);
        kernel.set_group_weight(folded, 77);
        let (_, known) = kernel.known(outer).unwrap();
        assert_eq!((known.tasks, known.weight), (1, 300));
        kernel.move_to_group(TaskId(2), ROOT);
        kernel.remove_group(folded);
        kernel.remove_group(others[7]);
        assert!(kernel.known(kernel.create_group(outer, 5, None)).is_some());
        // SAFETY: no handle is used any more.
        unsafe { kernel.free() };
    }
}
