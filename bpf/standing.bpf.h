/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A decision that holds for longer than one run: for the task's next wake-ups, if its policy says
 * so, and for the rest of a slice in the middle of which the task was preempted by a higher
 * scheduling class.
 *
 * Invariant: a task is ready without a new message only by the last decision of the thread that
 * would be asked now, at the key that this decision gives it now.
 */
#ifndef MANYLAND_STANDING_BPF_H
#define MANYLAND_STANDING_BPF_H

#include "safety_net.bpf.h"

/* With less than this left of its slice a turn is over. */
#define REST_MIN_NS 50000

/*
 * Whether the last decision for `p` holds for this wake-up too: its policy has said so, and nothing
 * that it was told of the task has changed but what it has used. While the thread is stopped none
 * does: those that wait for it would wait for these as well.
 */
static bool stands(struct task_struct *p, struct task_ctx *taskc, struct domain_ctx *domc, u32 d)
{
	u64 now = scx_bpf_now();

	return taskc->stands && !strict && taskc->decided_by == d && taskc->stands_weight == p->scx.weight &&
	       (s64)(now - taskc->stands_since_ns) < (s64)STANDING_NS && !is_stopped(domc, now);
}

/* `p` is ready at once, at the place that its last decision has for it now. */
static __always_inline void make_ready(struct task_struct *p, struct task_ctx *taskc, struct domain_ctx *domc, u32 d,
				       u64 dsq, u64 slice, u64 enq_flags)
{
	settle_unnotified(taskc);
	taskc->seq++;
	taskc->decided_seq = taskc->seq;
	taskc->policy_vtime_used_ns = taskc->used_ns;
	taskc->free = 0;
	taskc->runnable_ns = scx_bpf_now();
	taskc->notified = d;
	taskc->waits_on = 0;
	taskc->ready_on = dsq;
	note_work(domc);
	WRITE_ONCE(domc->stood_ns, taskc->runnable_ns);
	scx_bpf_dsq_insert_vtime(p, dsq, slice, taskc->policy_vtime, enq_flags);
}

/*
 * `p` is ready at once, by a decision that stands. A late answer to an earlier message may be
 * carried out at the same time: it finds another `seq` and moves nothing (carry_out() says what it
 * may leave behind).
 */
static void stand(struct task_struct *p, struct task_ctx *taskc, struct domain_ctx *domc, u32 d, u64 enq_flags)
{
	u64 earliest = domc->policy_vtime - taskc->stands_max_lag;

	taskc->stands--;
	taskc->policy_vtime = policy_vtime_now(taskc);
	if (before(taskc->policy_vtime, earliest))
		taskc->policy_vtime = earliest;
	count(&domc->counts.standing);
	make_ready(p, taskc, domc, d, DSQ_READY | d, taskc->slice_ns, enq_flags);
	kick_if_idle(scx_bpf_task_cpu(p));
}

/*
 * Whether a higher class has taken the CPU from `p` in the middle of a turn that was decided, of
 * which so much is left. That is no reason for a new decision: until it came, whoever is ready
 * would have the CPU, however far behind `p` it stands.
 */
static u64 rest_of_slice(struct task_ctx *taskc, u32 d, u64 enq_flags)
{
	u64 rest = taskc->rest_ns;

	taskc->rest_ns = 0;
	if (enq_flags & SCX_ENQ_WAKEUP || taskc->decided_by != d || rest < REST_MIN_NS)
		return 0;
	return rest < taskc->slice_ns ? rest : taskc->slice_ns;
}

/*
 * Who is bound to the CPU waits in the CPU's own queue, which the CPU empties as soon as it is
 * free. (The kernel carries out the insertion after the flag is set, but under the lock of the run
 * queue, which the CPU needs for its look.)
 */
static __always_inline void resume(struct task_struct *p, struct task_ctx *taskc, struct domain_ctx *domc, u32 d,
				   s32 bound_to, u64 rest, u64 enq_flags)
{
	taskc->policy_vtime = policy_vtime_now(taskc);
	if (bound_to >= 0)
		note_own(bound_to);
	make_ready(p, taskc, domc, d, bound_to >= 0 ? DSQ_OWN | bound_to : DSQ_READY | d, rest, enq_flags);
}

#endif /* MANYLAND_STANDING_BPF_H */
