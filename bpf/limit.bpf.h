/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * cpu.max: how much CPU time a group may still use, and how a task gets a part of it.
 *
 * A group with a limit has a pool. Each period adds the quota to it, up to quota and burst. A task
 * that is switched in gets a lease from the pool of its group and from those of all groups above
 * that have a limit; its slice is no longer than its lease. When it stops, it gives back what it has
 * not used. A slice ends at a tick, so it may have used more: the pool goes below 0, and later
 * periods pay that debt.
 *
 *   no lease --- begin_limited(): switched in ------------------> leased
 *   no lease --- grant_lease(): released (throttle.bpf.h) ------------> granted, until it is switched in
 *   leased   --- renew_lease(): goes on after its slice --------> leased
 *   leased   --- end_lease(): stops ----------------------------> no lease
 *   granted  --- return_grant(): leaves, or changes its group --> no lease
 *
 * While the pool of a group is empty, its tasks and those of the groups below are throttled
 * (throttle.bpf.h). Threads of the kernel, the scheduler's own process, and tasks that end or are
 * about to be frozen are exempt: they run on credit.
 *
 * A lease pays for CPU time as the kernel accounts for it, which is without interrupts.
 *
 * Nothing runs at the end of a period: the function that draws from a pool fills it first.
 *
 * Periods follow the clock of the timers (limit_now). Where the TSC is unstable, scx_bpf_now() on an
 * idle CPU is behind that by up to a tenth of a second, and so would be the pools.
 */
#ifndef MANYLAND_LIMIT_BPF_H
#define MANYLAND_LIMIT_BPF_H

#include "groups.bpf.h"
#include "stats.bpf.h"

/* From the kernel's headers, which are not part of its type information. */
#define SIGNAL_GROUP_EXIT 4
#define JOBCTL_TRAP_FREEZE (1UL << 23)

/* The length of a tick on most machines. */
#define LEASE_MIN_NS 4000000

/* The most periods that a pool makes up for at once. */
#define PERIODS_MAX (1 << 20)

/* At how many moments of a period groups begin theirs. */
#define PHASES 16

/* A grant has the group's slot in its upper bits, and the time below. */
#define GRANT_SHIFT 48
#define GRANT_TIME ((1ULL << GRANT_SHIFT) - 1)

/* The clock of periods, and of the timer that releases tasks. */
#define limit_now bpf_ktime_get_ns

/* How often a limit has come or gone: what tasks and limits know of those above them may be old. */
GLOBAL u32 limits_changed;

/* The process of the domain threads. */
GLOBAL s32 own_tgid;

/* How often the pool of a group was empty, and for how long together, as far as that is over. */
GLOBAL u64 nr_throttles;
GLOBAL u64 throttled_ns;

/* The slot of the nearest group with a limit: that of `slot`, or one above. 0: there is none. */
__weak u32 nearest_limit(u32 slot)
{
	struct group *group;
	struct limit *limit;
	u32 i;

	bpf_for(i, 0, GROUP_LEVELS_MAX) {
		limit = slot ? limit_at(slot) : NULL;
		group = limit ? group_at(slot) : NULL;
		if (!group)
			break;
		if (READ_ONCE(limit->quota_ns))
			return slot;
		slot = group->parent;
	}
	return 0;
}

/* The slot of the nearest limit above that of `slot`. 0: there is none. */
static u32 limit_above(struct limit *limit, u32 slot)
{
	u32 changed = READ_ONCE(limits_changed);
	struct group *group;

	if (limit->above_as_of != changed) {
		group = group_at(slot);
		limit->above = group ? nearest_limit(group->parent) : 0;
		limit->above_as_of = changed;
	}
	return limit->above;
}

__weak int find_limit(struct task_ctx *taskc __arg_nonnull)
{
	u32 changed = READ_ONCE(limits_changed);

	u32 limited_by = nearest_limit(taskc->group);
	struct limit *limit = limit_at(limited_by);

	if (limit && taskc->limited_by != limited_by)
		taskc->limit_vtime = limit->vtime;
	taskc->limited_by = limited_by;
	taskc->limits_as_of = changed;
	return 0;
}

/* The slot of the group that limits the task; 0: none does. */
static u32 limit_of(struct task_ctx *taskc)
{
	if (taskc->limits_as_of != READ_ONCE(limits_changed))
		find_limit(taskc);
	return taskc->limited_by;
}

/* Whether `p` runs on credit while its group is throttled. */
static __noinline bool is_exempt(struct task_struct *p __arg_trusted)
{
	struct signal_struct *signal = p->signal;

	return p->flags & (PF_KTHREAD | PF_EXITING) || p->tgid == own_tgid ||
	       p->jobctl & JOBCTL_TRAP_FREEZE || (signal && signal->flags & SIGNAL_GROUP_EXIT);
}

/* Whether `p` may migrate now. A BPF program holds the task that runs it. */
static bool may_migrate(struct task_struct *p)
{
	return p->migration_disabled <= (p == bpf_get_current_task_btf());
}

/* For user space. */
static void tell_throttled(struct limit *limit, u32 throttled)
{
	struct group *group = group_at(limit->slot);

	if (group)
		WRITE_ONCE(group->throttled, throttled);
}

/* The pool of a group is empty, and one of its tasks wants CPU time. */
static void begin_throttling(struct limit *limit, u64 now)
{
	if (READ_ONCE(limit->throttled_since_ns) ||
	    __sync_val_compare_and_swap(&limit->throttled_since_ns, 0, now))
		return;
	tell_throttled(limit, 1);
	__sync_fetch_and_add(&limit->throttles, 1);
	__sync_fetch_and_add(&nr_throttles, 1);
}

static void end_throttling(struct limit *limit, u64 now)
{
	u64 since = READ_ONCE(limit->throttled_since_ns);

	if (!since || __sync_val_compare_and_swap(&limit->throttled_since_ns, since, 0) != since)
		return;
	tell_throttled(limit, 0);
	__sync_fetch_and_add(&limit->throttled_ns, now - since);
	__sync_fetch_and_add(&throttled_ns, now - since);
}

/* Fills the pool for the periods that have ended. What it has beyond quota and burst is lost. */
static void fill_pool(struct limit *limit, u64 now)
{
	u64 due = READ_ONCE(limit->due_ns), period = READ_ONCE(limit->period_ns), periods;
	s64 more, most, excess, quota = READ_ONCE(limit->quota_ns);

	if (!period || !quota || (s64)(now - due) < 0)
		return;
	periods = (now - due) / period + 1;
	if (__sync_val_compare_and_swap(&limit->due_ns, due, due + periods * period) != due)
		return;
	more = quota * (s64)(periods < PERIODS_MAX ? periods : PERIODS_MAX);
	most = quota + READ_ONCE(limit->burst_ns);
	excess = (s64)__sync_fetch_and_add(&limit->pool_ns, more) + more - most;
	if (excess > 0)
		__sync_fetch_and_sub(&limit->pool_ns, excess);
	if (READ_ONCE(limit->pool_ns) > 0)
		end_throttling(limit, now);
}

/*
 * The slot of a group whose pool is empty, of that of `slot` and those above; 0: all have CPU time.
 *
 * Global, so that the verifier checks it once.
 */
__weak u32 empty_pool(u32 slot)
{
	u64 now = limit_now();
	struct limit *limit;
	u32 i;

	bpf_for(i, 0, GROUP_LEVELS_MAX) {
		limit = slot ? limit_at(slot) : NULL;
		if (!limit)
			break;
		fill_pool(limit, now);
		if (READ_ONCE(limit->quota_ns) && READ_ONCE(limit->pool_ns) <= 0)
			return slot;
		slot = limit_above(limit, slot);
	}
	return 0;
}

/* Adds time to the pools of the group of `slot` and of those above, or subtracts it. */
__weak int give_back(u32 slot, u64 ns)
{
	struct limit *limit;
	u32 i;

	bpf_for(i, 0, GROUP_LEVELS_MAX) {
		limit = slot ? limit_at(slot) : NULL;
		if (!limit)
			break;
		__sync_fetch_and_add(&limit->pool_ns, ns);
		slot = limit_above(limit, slot);
	}
	return 0;
}

/*
 * The part of a pool that a lease has, of `most` ns: half of it, so that a few CPUs do not have all of
 * it and give it back soon. But it is no shorter than a tick, before which no slice ends: many short
 * leases together would use much more. Global, for the verifier.
 */
__weak u64 lease_of(u64 pool, u64 most)
{
	u64 lease = pool / 2 > LEASE_MIN_NS ? pool / 2 : LEASE_MIN_NS;

	lease = lease < pool ? lease : pool;
	return lease < most ? lease : most;
}

/*
 * Draws a lease of `most` ns or less from the pools; 0: one is empty.
 *
 * Two CPUs may draw the same time at the same moment. The pools then have a debt.
 */
__weak u64 draw_lease(u32 slot, u64 most)
{
	u64 now = limit_now(), lease = most;
	u32 at = slot, i;
	struct limit *limit;
	s64 pool;

	bpf_for(i, 0, GROUP_LEVELS_MAX) {
		limit = at ? limit_at(at) : NULL;
		if (!limit)
			break;
		fill_pool(limit, now);
		pool = READ_ONCE(limit->pool_ns);
		if (READ_ONCE(limit->quota_ns)) {
			if (pool <= 0)
				return 0;
			lease = lease_of(pool, lease);
		}
		at = limit_above(limit, at);
	}
	give_back(slot, -lease);
	return lease;
}

/* A throttled task is released with a lease, which it uses when it is switched in. */
static void grant_lease(struct task_ctx *taskc, u32 slot, u64 lease)
{
	__sync_lock_test_and_set(&taskc->granted, (u64)slot << GRANT_SHIFT | lease);
}

/* The lease that was granted from the pool of `slot`, or 0. One from another pool goes back. */
static u64 draw_grant(struct task_ctx *taskc, u32 slot)
{
	u64 granted;

	if (!taskc->granted)
		return 0;
	granted = __sync_lock_test_and_set(&taskc->granted, 0);
	if (granted >> GRANT_SHIFT == slot)
		return granted & GRANT_TIME;
	give_back(granted >> GRANT_SHIFT, granted & GRANT_TIME);
	return 0;
}

/* The task leaves, or its group changes. */
static void return_grant(struct task_ctx *taskc)
{
	if (taskc->granted)
		draw_grant(taskc, 0);
}

/*
 * Whether `p` is to wait until its group has CPU time again. One that goes on after a moment's
 * change has the lease that it was granted.
 */
__weak bool is_held(struct task_struct *p __arg_trusted, struct task_ctx *taskc __arg_nonnull)
{
	return !taskc->granted && empty_pool(taskc->limited_by) && !is_exempt(p);
}

static void begin_lease(struct task_struct *p, struct task_ctx *taskc, u32 slot, u64 lease)
{
	taskc->leased_from = slot;
	taskc->lease_ns = lease;
	taskc->exec_ns = p->se.sum_exec_runtime;
	taskc->leased_ns = limit_now();
}

/*
 * `p`, whose group or one above has a limit, is switched in on `cpu`. If there is no time for it, it
 * was ready before the pool was empty: it leaves the CPU at once, and ops.enqueue throttles it. One
 * that must not migrate now would come back from there to the CPU, so it has the least slice.
 */
__weak int begin_limited(struct task_struct *p __arg_trusted, struct task_ctx *taskc __arg_nonnull,
			 s32 cpu)
{
	u32 slot = taskc->limited_by;
	u64 lease = draw_grant(taskc, slot);

	if (!lease)
		lease = draw_lease(slot, p->scx.slice);
	begin_lease(p, taskc, slot, lease);
	if (p->scx.slice <= lease || is_exempt(p))
		return 0;
	if (!lease && domain_of_cpu(cpu) == NO_DOMAIN)
		return 0;
	if (!lease && may_migrate(p)) {
		scx_bpf_task_set_slice(p, 1);
		scx_bpf_kick_cpu(cpu, 0);
		return 0;
	}
	scx_bpf_task_set_slice(p, lease ?: slice_min_ns);
	return 0;
}

/* Renews the lease of `p` (slice_within_limit). */
__weak u64 renew_lease(struct task_struct *p __arg_trusted, struct task_ctx *taskc __arg_nonnull,
		       u64 slice)
{
	if (taskc->leased_from != taskc->limited_by) {
		give_back(taskc->leased_from, taskc->lease_ns);
		begin_lease(p, taskc, taskc->limited_by, 0);
	}
	if (!taskc->leased_from)
		return slice;
	if (taskc->lease_ns < (s64)slice)
		taskc->lease_ns += draw_lease(taskc->leased_from, slice - taskc->lease_ns);
	if (is_exempt(p))
		return slice;
	if (taskc->lease_ns <= 0)
		return 0;
	return taskc->lease_ns < (s64)slice ? taskc->lease_ns : slice;
}

/*
 * `p` is to go on for `slice` after its slice has ended, and charge() has subtracted what it has used
 * from its lease. Answers for how long it may; 0: its group has no time left. The limit may have come
 * or gone since it was switched in.
 */
static u64 slice_within_limit(struct task_struct *p, struct task_ctx *taskc, u64 slice)
{
	return limit_of(taskc) || taskc->leased_from ? renew_lease(p, taskc, slice) : slice;
}

/* The task stops: it gives back what it has not used, or owes what it has used beyond its lease. */
__weak int end_lease(struct task_ctx *taskc __arg_nonnull, struct cpu_ctx *cpuc __arg_nonnull)
{
	give_back(taskc->leased_from, taskc->lease_ns);
	cpuc->limited_by = taskc->leased_from;
	taskc->leased_from = 0;
	taskc->lease_ns = 0;
	return 0;
}

/*
 * The limit of the group of `slot` has changed, or its group is new. A limit that the CPUs cannot
 * exceed is none. The pool begins full, without debt. The periods of the groups begin at several
 * moments, so that their tasks do not come back all at once.
 */
static __noinline int change_limit(u32 slot)
{
	struct group *group = group_at(slot);
	struct limit *limit = limit_at(slot);
	u64 now = limit_now(), quota, period;
	bool had;

	if (!slot || !group || !limit)
		return 0;
	had = limit->quota_ns;
	period = group->period_ns;
	quota = group->quota_ns < nr_possible_cpus * period ? group->quota_ns : 0;
	if (!quota && !had)
		return 0;
	WRITE_ONCE(limit->quota_ns, 0);
	limit->slot = slot;
	limit->period_ns = period;
	limit->burst_ns = group->burst_ns;
	limit->due_ns = now - now % period + period * (slot % PHASES + 1) / PHASES;
	WRITE_ONCE(limit->pool_ns, quota);
	WRITE_ONCE(limit->quota_ns, quota);
	end_throttling(limit, now);
	if (had != !!quota)
		__sync_fetch_and_add(&limits_changed, 1);
	return 0;
}

#endif /* MANYLAND_LIMIT_BPF_H */
