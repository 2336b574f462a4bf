/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tasks whose group has used up its CPU time (limit.bpf.h) wait for the next period, on a queue of
 * their group. No CPU runs tasks from there, no thread is notified of them, and they count neither
 * as waiting nor as starved.
 *
 *   runnable --- throttle(): a pool is empty -----------> throttled
 *   throttled -- release(): the pools have a lease -----> waiting, as any other (enqueue.bpf.h)
 *   throttled -- release(): exempt, or its limit gone --> waiting, without a lease
 *   throttled -- release_old(): throttled for long -----> waiting, without a lease
 *
 * The task that is furthest behind in its group's virtual time comes first. A group's tasks are
 * released only as far as there are leases for them, and one more each time that one of them stops.
 * So its tasks do not come to the CPUs in vain.
 *
 * The kernel's watchdog counts a throttled task as one that waits. So before its time has come the
 * task gets a CPU, and leaves it at once (begin_limited).
 *
 * One timer releases tasks when the period of an empty pool ends. It runs while a task is throttled.
 * While no pool is empty, none of this runs.
 *
 * Invariant: the bit of a group in `throttled_groups` is set while its queue may hold a task, and
 * the timer runs while a bit is set.
 */
#ifndef MANYLAND_THROTTLE_BPF_H
#define MANYLAND_THROTTLE_BPF_H

#include "crowd.bpf.h"
#include "limit.bpf.h"
#include "notify.bpf.h"
#include "safety_net.bpf.h"
#include "shares.bpf.h"
#include "stats.bpf.h"
#include "unstored.bpf.h"

/* How often a CPU that makes the timer come earlier starts it, at most. */
#define ARM_TRIES 8

/* When the timer comes again if it could not release all that has a lease. */
#define RELEASE_SOON_NS 1000000

/* The most tasks at the head of a queue that the timer releases at once. */
#define RELEASE_MAX 64

/* A task is not throttled for much longer than this. The kernel's watchdog waits for 30 s. */
#define THROTTLED_MAX_NS 20000000000

/* Tasks that are throttled for this time count as old when the queue is searched for such. */
#define THROTTLED_OLD_NS 15000000000

/* The most tasks of a queue that are searched for old ones. */
#define OLD_CHECKS_MAX 65536

/* The groups whose queue may hold tasks, a bit for each slot. */
GLOBAL u64 throttled_groups[GROUPS_MAX / 64];

/* How many groups with a limit use each queue. */
GLOBAL u32 queue_users[THROTTLED_QUEUES];

/* The queue of the throttled tasks of a group. */
static u64 throttled_queue(struct limit *limit)
{
	return DSQ_THROTTLED | limit->queue % THROTTLED_QUEUES;
}

static bool may_have_throttled(u32 slot)
{
	return slot < GROUPS_MAX && READ_ONCE(throttled_groups[slot / 64]) >> slot % 64 & 1;
}

/*
 * Makes the timer come at `at_ns`, or earlier. CPUs may do so at the same moment: the one whose time
 * is not the earliest any more starts the timer for that which is.
 */
__weak int arm_release(u64 at_ns)
{
	struct release_timer *t;
	u64 due, now;
	u32 key = 0, i;

	t = bpf_map_lookup_elem(&release_timers, &key);
	if (!t)
		return 0;
	due = READ_ONCE(t->due_ns);
	if ((due && !before(at_ns, due)) ||
	    __sync_val_compare_and_swap(&t->due_ns, due, at_ns) != due)
		return 0;
	bpf_for(i, 0, ARM_TRIES) {
		now = limit_now();
		bpf_timer_start(&t->timer, before(now, at_ns) ? at_ns - now : 0, 0);
		due = READ_ONCE(t->due_ns);
		if (!due || due == at_ns)
			break;
		at_ns = due;
	}
	return 0;
}

/* Lets the timer serve all groups with throttled tasks at once. */
static __noinline int serve_at_once(void)
{
	struct limit *limit;
	u32 word, bit;
	u64 bits;

	bpf_for(word, 0, GROUPS_MAX / 64) {
		bits = READ_ONCE(throttled_groups[word % (GROUPS_MAX / 64)]);
		bpf_for(bit, 0, 64) {
			if (!(bits >> bit))
				break;
			limit = bits >> bit & 1 ? limit_at(word * 64 + bit) : NULL;
			if (!limit)
				continue;
			limit->serve_ns = 0;
			arm_release(limit_now());
		}
	}
	return 0;
}

/*
 * The group of `slot` has a limit from now on. It gets a queue that no other one has, if there is one
 * left. A queue that may hold tasks remains its own.
 */
static __noinline int take_queue(u32 slot)
{
	struct limit *limit = limit_at(slot);
	u32 i, at = slot;

	if (!limit)
		return 0;
	if (!may_have_throttled(slot)) {
		bpf_for(i, 0, THROTTLED_QUEUES) {
			at = slot + i;
			if (!queue_users[at % THROTTLED_QUEUES])
				break;
		}
		limit->queue = at % THROTTLED_QUEUES;
	}
	queue_users[limit->queue % THROTTLED_QUEUES]++;
	return 0;
}

/* The group of `slot` has no limit any more. */
static __noinline int leave_queue(u32 slot)
{
	struct limit *limit = limit_at(slot);

	if (limit)
		queue_users[limit->queue % THROTTLED_QUEUES]--;
	return 0;
}

/*
 * The limit of the group of `slot` has changed, or its group is new. Its tasks, and those of the groups
 * below, may go on earlier than the timer would find out.
 *
 * Global, so that the verifier checks it once.
 */
__weak int note_limit(u32 slot)
{
	struct limit *limit = limit_at(slot);
	bool had = limit && limit->quota_ns;

	change_limit(slot);
	if (!limit || !slot || (!had && !limit->quota_ns))
		return 0;
	if (!had)
		take_queue(slot);
	else if (!limit->quota_ns)
		leave_queue(slot);
	serve_at_once();
	return 0;
}

/* The group of `slot` is gone. */
__weak int forget_limit(u32 slot)
{
	struct limit *limit = limit_at(slot);

	if (!limit || !slot)
		return 0;
	if (limit->quota_ns) {
		leave_queue(slot);
		__sync_fetch_and_add(&limits_changed, 1);
	}
	WRITE_ONCE(limit->quota_ns, 0);
	limit->throttled_since_ns = 0;
	limit->throttled_ns = 0;
	limit->throttles = 0;
	return 0;
}

/* The queue on which `p` waits once it is released: as ops.enqueue would have it now. */
static __always_inline u64 queue_after_release(struct task_struct *p, struct task_ctx *taskc, u32 d,
					       s32 cpu)
{
	u32 queue;

	if (p->nr_cpus_allowed == 1)
		return DSQ_BOUND | cpu;
	queue = queue_of(p, taskc, d);
	return queue == NO_PART ? DSQ_BOUND | one_cpu_of(p, d, cpu) : DSQ_WAITING | queue;
}

/*
 * For ops.enqueue: `p`, whose home is `d`, is throttled. Global, so that the verifier checks it once.
 *
 * It differs from a waiting one by its queue alone. What it will wait on is written now, since
 * nothing may be written when it is released: it might begin another generation at that moment.
 */
__weak int throttle(struct task_struct *p __arg_trusted, struct task_ctx *taskc __arg_nonnull,
		    u32 d, s32 cpu, u64 enq_flags)
{
	u32 slot = taskc->limited_by, empty = empty_pool(slot);
	struct limit *limit = limit_at(slot), *empty_limit = limit_at(empty ?: slot);
	struct domain_ctx *domc = domain_at(d);
	struct cpu_ctx *cpuc = cpu_at(cpu);
	u64 now = limit_now(), most;

	if (!limit || !empty_limit || !domc || slot >= GROUPS_MAX) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_min_ns, enq_flags);
		return 0;
	}
	if (cpuc && !(enq_flags & SCX_ENQ_WAKEUP) && scx_bpf_task_running(p))
		cpuc->gives_way = GIVES_WAY_NOT;
	settle_unnotified(taskc);
	taskc->rest_ns = 0;
	taskc->interrupted = 0;
	taskc->seq++;
	taskc->free = 0;
	taskc->runnable_ns = scx_bpf_now();
	taskc->throttled_ns = now;
	taskc->notified = d;
	taskc->waits_on = queue_after_release(p, taskc, d, cpu);
	taskc->ready_on = 0;
	most = limit->vtime + DEBT_SLICES * turn_of(p);
	if (before(taskc->limit_vtime, limit->vtime))
		taskc->limit_vtime = limit->vtime;
	else if (before(most, taskc->limit_vtime))
		taskc->limit_vtime = most;
	count(&domc->counts.throttled);
	uncount_runnable(taskc);
	end_run_delay(taskc);
	limit->throttled_at_ns = now;
	if (empty)
		begin_throttling(empty_limit, now);
	if (!may_have_throttled(slot))
		__sync_fetch_and_or(&throttled_groups[slot / 64], 1ULL << slot % 64);
	scx_bpf_dsq_insert_vtime(p, throttled_queue(limit), slice_ns, taskc->limit_vtime,
				 enq_flags);
	arm_release(READ_ONCE(empty_limit->due_ns));
	return 0;
}

/* Notifies the thread of a task that has been released. */
static void note_released(struct task_struct *p, struct task_ctx *taskc)
{
	u32 d = taskc->notified;
	struct domain_ctx *domc = domain_at(d);

	if (!domc)
		return;
	note_work(domc, d);
	if (notify(p, taskc, d, flags_again(taskc)))
		count(&domc->counts.queued);
	else
		note_unnotified(taskc, domc);
	/* As ops.enqueue does: a thread that is stopped has no CPU ask for work. */
	kick_if_idle(waits_bound(taskc) ? (s32)(taskc->waits_on & ~DSQ_KIND) : scx_bpf_task_cpu(p));
}

/*
 * Moves `p`, the last that the iterator has found, to the queue on which it waits. Answers whether it
 * was still there.
 *
 * Policies see the time in which a task ran or slept, and it has done neither.
 */
static __always_inline bool move_released(struct bpf_iter_scx_dsq *it, struct task_struct *p,
					  struct task_ctx *taskc, u64 now)
{
	struct domain_ctx *domc = domain_at(taskc->notified);
	u32 queue = taskc->waits_on & ~DSQ_KIND;
	bool bound = waits_bound(taskc);
	u64 credit;

	if (!domc)
		return false;
	credit = sleepers_credit(domc);
	if (taskc->carried.at_ns)
		taskc->carried.at_ns += now - taskc->throttled_ns;
	taskc->runnable_ns = scx_bpf_now();
	taskc->vtime = limited_vtime_at(
		taskc,
		net_vtime_of(taskc->notified, bound ? NO_PART : queue, bound ? (s32)queue : -1),
		credit);
	scx_bpf_dsq_move_set_slice(it, slice_ns);
	scx_bpf_dsq_move_set_vtime(it, net_key(taskc, taskc->vtime, credit));
	if (!scx_bpf_dsq_move_vtime(it, p, taskc->waits_on, 0))
		return false;
	note_released(p, taskc);
	return true;
}

/*
 * Releases of the first `most` throttled tasks of the group of `slot` those for which there are
 * leases.
 *
 * Another group may share the queue, and the nearest limit of a task may be another one by now.
 */
static __noinline int release(u32 slot, u32 most)
{
	u32 limited_by, i;
	u64 now = limit_now(), lease;
	struct bpf_iter_scx_dsq it;
	struct task_struct *p;
	struct task_ctx *taskc;
	struct limit *limit = limit_at(slot);

	if (!limit)
		return 0;
	if (!bpf_iter_scx_dsq_new(&it, throttled_queue(limit), 0)) {
		bpf_for(i, 0, most) {
			p = bpf_iter_scx_dsq_next(&it);
			if (!p)
				break;
			taskc = task_ctx(p);
			if (!taskc)
				continue;
			limited_by = limit_of(taskc);
			lease = 0;
			if (limited_by && !is_exempt(p)) {
				lease = draw_lease(limited_by, slice_ns);
				if (!lease)
					continue;
				grant_lease(taskc, limited_by, lease);
			}
			limit = limit_at(limited_by);
			if (limit && before(limit->vtime, taskc->limit_vtime))
				limit->vtime = taskc->limit_vtime;
			if (!move_released(&it, p, taskc, now))
				return_grant(taskc);
		}
	}
	bpf_iter_scx_dsq_destroy(&it);
	return 0;
}

/*
 * Releases tasks that have been throttled for long. They have no lease, so each leaves the CPU as
 * soon as it has one, and stands a slice later among the throttled ones.
 */
static __noinline int release_old(u32 slot)
{
	struct limit *limit = limit_at(slot);
	struct bpf_iter_scx_dsq it;
	u64 now = limit_now(), oldest = now;
	struct task_struct *p;
	struct task_ctx *taskc;
	u32 i;

	if (!limit || before(now, limit->search_ns))
		return 0;
	if (!bpf_iter_scx_dsq_new(&it, throttled_queue(limit), 0)) {
		bpf_for(i, 0, OLD_CHECKS_MAX) {
			p = bpf_iter_scx_dsq_next(&it);
			if (!p)
				break;
			taskc = task_ctx(p);
			if (!taskc)
				continue;
			if ((s64)(now - taskc->throttled_ns) < (s64)THROTTLED_OLD_NS) {
				if (before(taskc->throttled_ns, oldest))
					oldest = taskc->throttled_ns;
				continue;
			}
			taskc->limit_vtime += slice_ns;
			move_released(&it, p, taskc, now);
		}
	}
	bpf_iter_scx_dsq_destroy(&it);
	limit->search_ns = oldest + THROTTLED_MAX_NS;
	return 0;
}

/*
 * For the timer: releases what it can of the group of `slot`. Answers when it has to come again for
 * the group; 0: it need not.
 */
__weak u64 serve_throttled(u32 slot)
{
	struct limit *limit = limit_at(slot), *empty_limit;
	u64 now = limit_now(), next;
	bool all = false;
	u32 empty;

	if (!limit || slot >= GROUPS_MAX)
		return 0;
	if (before(now, limit->serve_ns))
		return limit->serve_ns;
	/* A timer implies RCU, but Linux before 6.18 does not see that. */
	bpf_rcu_read_lock();
	if (scx_bpf_dsq_nr_queued(throttled_queue(limit)) > 0) {
		release(slot, RELEASE_MAX);
		release_old(slot);
	} else if ((s64)(now - limit->throttled_at_ns) > RELEASE_SOON_NS) {
		/* No insertion of a task is on its way any more. */
		__sync_fetch_and_and(&throttled_groups[slot / 64], ~(1ULL << slot % 64));
		all = true;
	}
	bpf_rcu_read_unlock();
	empty = empty_pool(slot);
	empty_limit = empty ? limit_at(empty) : NULL;
	next = all ? 0 : empty_limit ? READ_ONCE(empty_limit->due_ns) : now + RELEASE_SOON_NS;
	limit->serve_ns = next;
	return next;
}

static int serve_groups(void *map, u32 *key, struct release_timer *t)
{
	u64 bits, at, next = 0, now;
	u32 word, bit;

	WRITE_ONCE(t->due_ns, 0);
	bpf_for(word, 0, GROUPS_MAX / 64) {
		bits = READ_ONCE(throttled_groups[word % (GROUPS_MAX / 64)]);
		bpf_for(bit, 0, 64) {
			if (!(bits >> bit))
				break;
			if (!(bits >> bit & 1))
				continue;
			at = serve_throttled(word * 64 + bit);
			if (at && (!next || before(at, next)))
				next = at;
		}
	}
	now = limit_now();
	if (next)
		arm_release(before(now, next) ? next : now + RELEASE_SOON_NS);
	return 0;
}

static s32 prepare_release(void)
{
	struct release_timer *t;
	u32 key = 0;

	t = bpf_map_lookup_elem(&release_timers, &key);
	if (!t)
		return -ENOENT;
	bpf_timer_init(&t->timer, &release_timers, CLOCK_MONOTONIC);
	bpf_timer_set_callback(&t->timer, serve_groups);
	return 0;
}

/* For ops.dispatch: a task of a limited group has left the CPU, so another one may come. */
__weak int release_next(struct cpu_ctx *cpuc __arg_nonnull)
{
	u32 slot = cpuc->limited_by;

	cpuc->limited_by = 0;
	if (may_have_throttled(slot) && !empty_pool(slot))
		release(slot, 1);
	return 0;
}

#endif /* MANYLAND_THROTTLE_BPF_H */
