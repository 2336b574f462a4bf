/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A decision that holds for longer than one run:
 *   - for the task's next wake-ups, if its policy says so (stand);
 *   - for the rest of a slice in which a higher scheduling class preempted the task (resume).
 *
 * Invariant: a task is ready without a new notice only by the last decision of the thread that
 * would be notified now, at the key that this decision gives it now.
 */
#ifndef MANYLAND_STANDING_BPF_H
#define MANYLAND_STANDING_BPF_H

#include "crowd.bpf.h"
#include "safety_net.bpf.h"

/*
 * Whether the last decision for `p` holds for this wake-up too. Its policy has said so, and of what
 * the policy knew of the task only the CPU time has changed. No decision stands while the thread is
 * stopped: the tasks that wait for it would wait for this one as well.
 */
static bool stands(struct task_struct *p, struct task_ctx *taskc, struct domain_ctx *domc, u32 d)
{
	u64 now = scx_bpf_now();

	return taskc->stands && !strict && taskc->decided_by == d &&
	       taskc->stands_weight == p->scx.weight &&
	       (s64)(now - taskc->stands_since_ns) < (s64)STANDING_NS && !is_stopped(domc, now);
}

/* `p` is ready at once, at the key that its last decision gives it now. */
static __always_inline void make_ready(struct task_struct *p, struct task_ctx *taskc,
				       struct domain_ctx *domc, u32 d, u64 dsq, u64 slice,
				       u64 enq_flags)
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
 * `p` is ready at once, on READY or, with `bound_to`, on OWN of that CPU. A CPU may have gone idle
 * since ops.select_cpu found none, and no thread wakes up for this task: the waker kicks that CPU.
 * The kernel makes the kick when it has inserted the task.
 */
static void kick_for_ready(struct task_struct *p, struct domain_ctx *domc, u32 d, s32 bound_to)
{
	s32 idle;

	if (bound_to >= 0) {
		kick_if_idle(bound_to);
		return;
	}
	if (!any_idle(domc))
		return;
	idle = claim_idle(p, d, scx_bpf_task_cpu(p), 0);
	if (idle >= 0)
		scx_bpf_kick_cpu(idle, SCX_KICK_IDLE);
}

/*
 * `p` is ready at once for `slice`: on READY number `queue` of domain `d` or, with `bound_to`, on OWN
 * of that CPU.
 *
 * The kernel carries out the insertion after note_own(), but under the lock of the run queue. The
 * CPU needs that lock for its check, so it finds the task.
 */
static __always_inline void make_ready_at_once(struct task_struct *p, struct task_ctx *taskc,
					       struct domain_ctx *domc, u32 d, u32 queue,
					       s32 bound_to, u64 slice, u64 enq_flags)
{
	if (bound_to >= 0)
		note_own(bound_to);
	make_ready(p, taskc, domc, d, bound_to >= 0 ? DSQ_OWN | bound_to : DSQ_READY | queue, slice,
		   enq_flags);
	kick_for_ready(p, domc, d, bound_to);
}

/*
 * `p` is ready at once, by a decision that stands. The decision of an earlier notice may be carried
 * out at the same time. It finds another `seq` and moves nothing; carry_out() says what it may
 * leave behind.
 */
static __always_inline void stand(struct task_struct *p, struct task_ctx *taskc,
				  struct domain_ctx *domc, u32 d, u32 queue, u64 enq_flags)
{
	u64 earliest = policy_vtime_of(domc, queue, -1) - taskc->stands_max_lag;

	taskc->stands--;
	taskc->policy_vtime = policy_vtime_now(taskc);
	if (before(taskc->policy_vtime, earliest))
		taskc->policy_vtime = earliest;
	count(&domc->counts.standing);
	make_ready_at_once(p, taskc, domc, d, queue, -1, taskc->slice_ns, enq_flags);
}

/*
 * How much is left of the decided slice in which a higher scheduling class preempted the task. 0:
 * nothing, or no decided slice was cut short. With a rest the task needs no new decision. Until one
 * came, any ready task would get the CPU, however much later its key.
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
 * `p` is ready for the rest of its slice. A bound task is in the CPU's OWN, which the CPU empties
 * as soon as it is free.
 */
static __always_inline void resume(struct task_struct *p, struct task_ctx *taskc,
				   struct domain_ctx *domc, u32 d, u32 queue, s32 bound_to,
				   u64 rest, u64 enq_flags)
{
	taskc->policy_vtime = policy_vtime_now(taskc);
	make_ready_at_once(p, taskc, domc, d, queue, bound_to, rest, enq_flags);
}

#endif /* MANYLAND_STANDING_BPF_H */
