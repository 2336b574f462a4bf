/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The groups: the cgroups that have the CPU controller, and the group of each task.
 *
 * A group has a slot in the map `groups`; slot 0 is that of the root. The kernel calls
 * ops.cgroup_init for all cgroups before it introduces the first task, and for each new one then,
 * parents first. It calls ops.cgroup_exit for each that is removed, children first. It makes these
 * calls one at a time, so the list of free slots needs no lock.
 *
 * A cgroup that finds no slot free is folded: its tasks are in the group of its nearest ancestor
 * that has a slot.
 *
 * Invariant: the `tasks` of all slots together are the tasks that the scheduler knows. A task that
 * has ended may outlive its cgroup until its parent has waited for it. Its slot may be another
 * group's by then, and is counted there until it goes.
 */
#ifndef MANYLAND_GROUPS_BPF_H
#define MANYLAND_GROUPS_BPF_H

#include "state.bpf.h"

/* How far up a cgroup is searched for an ancestor that has a slot. */
#define GROUP_LEVELS_MAX 64

/* What the kernel says for no limit of CPU time (RUNTIME_INF). */
#define NO_QUOTA_US (~0ULL)

#define NS_PER_US 1000

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, GROUPS_MAX);
	__type(key, u32);
	__type(value, struct group);
} groups SEC(".maps");

/* How much CPU time each group may still use (limit.bpf.h). */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, GROUPS_MAX);
	__type(key, u32);
	__type(value, struct limit);
} limits SEC(".maps");

/* The slot of each group, by the id of its cgroup. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, GROUPS_MAX);
	__type(key, u64);
	__type(value, u32);
} group_slots SEC(".maps");

GLOBAL struct group_state {
	u32 nr; /* groups, the root included */
	u32 folded; /* cgroups without a slot */
	u32 outliving; /* tasks of free slots, when the program `gauge` last ran */
	u32 runnable; /* tasks that count as runnable, when it last ran */
	u32 limited; /* groups that a limit can throttle, then */
	u32 throttled; /* those of them that had no CPU time left, then */
	u32 used; /* 1: a group other than the root has had a task */
	u32 free_slot; /* the first of the list of free slots; 0: it is empty */
	u32 used_slots; /* slots that have been a group's so far, except that of the root */
} group_state;

/*
 * Whether a group other than the root has had a task. If not, a task's effective weight is its own
 * one, and each path asks this once.
 */
static bool groups_are_used(void)
{
	return READ_ONCE(group_state.used);
}

static struct limit *limit_at(u32 slot)
{
	return bpf_map_lookup_elem(&limits, &slot);
}

u64 sum_of_shards(u32 slot, bool ran);
int note_limit(u32 slot);
int forget_limit(u32 slot);

/* The CPU time of tasks of the slot so far (shares.bpf.h). */
static u64 ran_by_group(u32 slot)
{
	return sum_of_shards(slot, true);
}

static struct group *group_at(u32 slot)
{
	return bpf_map_lookup_elem(&groups, &slot);
}

static u32 *slot_of_id(u64 id)
{
	return bpf_map_lookup_elem(&group_slots, &id);
}

/* The slot of a cgroup, or that of its nearest ancestor that has one. NULL: the root's. */
static u32 slot_of(struct cgroup *cgrp)
{
	struct cgroup_subsys_state *css;
	u32 *slot, i;

	bpf_for(i, 0, GROUP_LEVELS_MAX) {
		if (!cgrp)
			break;
		slot = slot_of_id(BPF_CORE_READ(cgrp, kn, id));
		if (slot)
			return *slot;
		css = BPF_CORE_READ(cgrp, self.parent);
		if (!css)
			break;
		cgrp = BPF_CORE_READ(css, cgroup);
	}
	return 0;
}

/* A free slot, or 0. A slot that has been used before comes first. */
static u32 take_slot(void)
{
	struct group *group;
	u32 slot = group_state.free_slot;

	if (!slot)
		return group_state.used_slots + 1 < GROUPS_MAX ? ++group_state.used_slots : 0;
	group = group_at(slot);
	group_state.free_slot = group ? group->parent : 0;
	return slot;
}

static void free_slot_of(struct group *group, u32 slot)
{
	group->id = 0;
	group->generation++;
	group->parent = group_state.free_slot;
	group_state.free_slot = slot;
}

/*
 * Whether the kernel counts the group as idle (cpu.idle). A new group is not. Of older ones only
 * Linux 7.4 says it here, so it is read where the kernel's own scheduler keeps it.
 */
static bool is_idle_group(struct cgroup *cgrp)
{
	u64 at = bpf_core_enum_value(enum cgroup_subsys_id, cpu_cgrp_id) * sizeof(void *) +
		 bpf_core_field_offset(struct cgroup, subsys);
	struct task_group *group = NULL;

	bpf_probe_read_kernel(&group, sizeof(group), (void *)cgrp + at);
	/* Its first member is what the cgroup points to. */
	return group && BPF_CORE_READ(group, idle) > 0;
}

static void set_limit(struct group *group, u64 period_us, u64 quota_us, u64 burst_us)
{
	group->period_ns = period_us * NS_PER_US;
	group->quota_ns = quota_us == NO_QUOTA_US ? 0 : quota_us * NS_PER_US;
	group->burst_ns = burst_us * NS_PER_US;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(manyland_cgroup_init, struct cgroup *cgrp,
			     struct scx_cgroup_init_args *args)
{
	struct cgroup_subsys_state *above = BPF_CORE_READ(cgrp, self.parent);
	u64 id = BPF_CORE_READ(cgrp, kn, id);
	u32 slot = above ? take_slot() : 0;
	struct group *group = group_at(slot), *parent;

	if (group && (slot || !above) && bpf_map_update_elem(&group_slots, &id, &slot, BPF_ANY)) {
		if (slot)
			free_slot_of(group, slot);
		slot = 0;
	}
	if (!group || (above && !slot)) {
		__sync_fetch_and_add(&group_state.folded, 1);
		return 0;
	}
	group->parent = above ? slot_of(BPF_CORE_READ(above, cgroup)) : 0;
	group->factor = 0;
	group->share = 0;
	group->throttled = 0;
	group->level = BPF_CORE_READ(cgrp, level);
	group->weight = args->weight;
	group->idle = is_idle_group(cgrp);
	parent = group_at(group->parent);
	group->below_idle = group->idle || (parent && parent->below_idle);
	group->ran_before_ns = ran_by_group(slot);
	if (bpf_core_field_exists(args->bw_period_us))
		set_limit(group, args->bw_period_us, args->bw_quota_us, args->bw_burst_us);
	else
		set_limit(group, 0, NO_QUOTA_US, 0);
	note_limit(slot);
	WRITE_ONCE(group->id, id);
	__sync_fetch_and_add(&group_state.nr, 1);
	return 0;
}

void BPF_STRUCT_OPS(manyland_cgroup_exit, struct cgroup *cgrp)
{
	u64 id = BPF_CORE_READ(cgrp, kn, id);
	u32 *at = slot_of_id(id), slot;
	struct group *group;

	if (!at) {
		__sync_fetch_and_sub(&group_state.folded, 1);
		return;
	}
	slot = *at;
	bpf_map_delete_elem(&group_slots, &id);
	group = group_at(slot);
	if (group && slot) {
		forget_limit(slot);
		free_slot_of(group, slot);
	}
	__sync_fetch_and_sub(&group_state.nr, 1);
}

/* The group of a cgroup that has a slot of its own, or NULL. */
static struct group *own_group_of(struct cgroup *cgrp)
{
	u32 *slot = slot_of_id(BPF_CORE_READ(cgrp, kn, id));

	return slot ? group_at(*slot) : NULL;
}

void BPF_STRUCT_OPS(manyland_cgroup_set_weight, struct cgroup *cgrp, u32 weight)
{
	struct group *group = own_group_of(cgrp);

	if (group)
		group->weight = weight;
}

void BPF_STRUCT_OPS(manyland_cgroup_set_bandwidth, struct cgroup *cgrp, u64 period_us, u64 quota_us,
		    u64 burst_us)
{
	u32 *slot = slot_of_id(BPF_CORE_READ(cgrp, kn, id));
	struct group *group = slot ? group_at(*slot) : NULL;

	if (!group)
		return;
	set_limit(group, period_us, quota_us, burst_us);
	note_limit(*slot);
}

/* A group that is no longer idle has the default weight, as the kernel shows it then. */
void BPF_STRUCT_OPS(manyland_cgroup_set_idle, struct cgroup *cgrp, bool idle)
{
	struct group *group = own_group_of(cgrp);

	if (!group)
		return;
	if (group->idle && !idle)
		group->weight = WEIGHT_NICE_0;
	group->idle = idle;
	if (idle)
		WRITE_ONCE(group->below_idle, 1);
}

/* The task is in the group of `slot` from now on. */
static void enter_group(struct task_ctx *taskc, u32 slot)
{
	struct group *group = group_at(slot);

	taskc->group = slot;
	if (slot && !groups_are_used())
		WRITE_ONCE(group_state.used, 1);
	taskc->limits_as_of = 0;
	if (group)
		__sync_fetch_and_add(&group->tasks, 1);
}

/* The task leaves its group, for another one or for good. */
static void leave_group(struct task_ctx *taskc)
{
	struct group *group = group_at(taskc->group);

	if (group)
		__sync_fetch_and_sub(&group->tasks, 1);
}

/* The cgroup whose CPU controller `p` has. A task of an autogroup is in the root. */
static struct cgroup *cgroup_of_task(struct task_struct *p)
{
	return bpf_core_field_exists(p->sched_task_group) ?
		       BPF_CORE_READ(p, sched_task_group, css.cgroup) :
		       NULL;
}

#endif /* MANYLAND_GROUPS_BPF_H */
