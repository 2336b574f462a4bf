/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The threads of the kernel that are not bound to a CPU: RCU's, those of unbound workqueues. User
 * space decides for them as for other tasks, but others wait for what they do without knowing it.
 * So one that wakes up does not wait behind a crowd, nor for a domain thread that is behind: it is
 * ready at once, before all other ready tasks, and is counted apart (`kernel_work`).
 *
 * That holds for 1/KERNEL_SHARE of a CPU's time for each of them. What it used while no other task
 * wanted the CPU does not count. One that has used more waits as other tasks do.
 *
 * Invariant: without --strict, a thread of the kernel that wakes up and has not used up that time
 * waits for one slice of each such thread that woke up before it, and for no other task's next one.
 */
#ifndef MANYLAND_KERNEL_WORK_BPF_H
#define MANYLAND_KERNEL_WORK_BPF_H

#include "standing.bpf.h"

/* Each of them has this part of a CPU's time before other tasks, and a slice of it at once. */
#define KERNEL_SHARE 8

/*
 * By how much the key of one is before the virtual time: more than the lag of any task of a policy
 * of virtual time (src/policy/fair.rs), the longest tick included.
 */
#define KERNEL_LAG_NS (8 * slice_ns + 10000000)

/* Whether the thread of `domc` has not come, or cannot be notified. */
static bool is_behind(struct domain_ctx *domc, u64 now)
{
	u32 state = domc->state;

	if (strict)
		return sleeps_on_for(domc, now, STALL_NS);
	return is_stopped(domc, now) || READ_ONCE(domc->unnotified) ||
	       ((state == THREAD_PARKED || state == THREAD_PREEMPTED) &&
		(s64)(now - domc->state_since_ns) > (s64)READ_ONCE(domc->patience_ns));
}

/* Whether more tasks are ready or wait in domain `d` than will soon run. */
static bool is_crowded(struct domain_ctx *domc, u32 d)
{
	u32 few = CROWD_PER_CPU * domc->nr_cpus;

	return READ_ONCE(domc->nr_queued) > few ||
	       (u32)scx_bpf_dsq_nr_queued(DSQ_READY | d) +
			       (u32)scx_bpf_dsq_nr_queued(DSQ_WAITING | d) >
		       few;
}

/*
 * Whether `taskc` is that of a thread of the kernel that begins or wakes up, and has time left that
 * goes before other tasks. Each nanosecond that it used puts the moment off by KERNEL_SHARE.
 *
 * Of one run a slice counts at most. After that it shares its CPU as others do, or is a thread in a
 * guest whose CPU the host has withheld for as long.
 */
static __noinline bool has_kernel_time(struct task_struct *p __arg_trusted,
				       struct task_ctx *taskc __arg_nonnull)
{
	u64 now, used, earliest;

	if (!(p->flags & PF_KTHREAD) || scx_bpf_task_running(p))
		return false;
	now = scx_bpf_now();
	used = taskc->used_ns - taskc->kernel_used_ns;
	taskc->kernel_used_ns = taskc->used_ns;
	earliest = now - KERNEL_SHARE * slice_ns;
	if (before(taskc->kernel_due_ns, earliest))
		taskc->kernel_due_ns = earliest;
	taskc->kernel_due_ns += (used < slice_ns ? used : slice_ns) * KERNEL_SHARE;
	return !before(now, taskc->kernel_due_ns);
}

/* Whether such a thread goes before other tasks now. Global, so that the verifier checks it once. */
__weak bool kernel_work_is_held_up(u32 d)
{
	struct domain_ctx *domc = domain_at(d);

	return domc && (is_behind(domc, scx_bpf_now()) || (!strict && is_crowded(domc, d)));
}

/* The key before those of all tasks that are ready on `dsq`; several such keep their sequence. */
static u64 kernel_vtime(struct domain_ctx *domc, u64 dsq, s32 bound_to)
{
	u32 queue = dsq & ~DSQ_KIND;
	struct cpu_ctx *cpuc;

	if (domc->keeps_vtime)
		return policy_vtime_of(queue, queue, bound_to) - KERNEL_LAG_NS;
	cpuc = bound_to >= 0 ? cpu_at(bound_to) : NULL;
	return first_vtime(dsq, cpuc ? cpuc->own_vtime : domc->ready_vtime);
}

/*
 * `p` is ready at once, before all other tasks. Its account is level with the virtual time, so that
 * it does not go on for the lag that its key has.
 */
static __always_inline void serve_kernel(struct task_struct *p, struct task_ctx *taskc,
					 struct domain_ctx *domc, u32 d, u32 queue, s32 bound_to,
					 u64 enq_flags)
{
	u64 dsq = bound_to >= 0 ? DSQ_OWN | bound_to : DSQ_READY | queue;

	count(&domc->counts.kernel_work);
	taskc->policy_vtime = kernel_vtime(domc, dsq, bound_to);
	make_ready_at_once(p, taskc, domc, d, queue, bound_to, slice_min_ns, enq_flags);
	taskc->policy_vtime = policy_vtime_of(d, queue, bound_to);
}

/*
 * Such a thread waits for a decision after all. The safety net, whose virtual time is `net_vtime`,
 * gives it the most lag, and no debt.
 */
static void lead_crowd(struct task_ctx *taskc, u64 net_vtime)
{
	u64 vtime = net_vtime - slice_ns;

	if (before(vtime, taskc->vtime))
		taskc->vtime = vtime;
}

#endif /* MANYLAND_KERNEL_WORK_BPF_H */
