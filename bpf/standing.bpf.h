/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A decision that holds for longer than one run: for the task's next wake-ups, if its policy says so, and for the rest of a
 * slice in the middle of which the task was preempted by a higher scheduling class.
 *
 * Invariant: a task is READY without a new message only by the last decision of its home's thread, at the key that decision
 * gives it now.
 */
#ifndef MANYLAND_STANDING_BPF_H
#define MANYLAND_STANDING_BPF_H

#include "safety_net.bpf.h"

/* With less than this left of its slice a turn is over. */
#define REST_MIN_NS 50000

/*
 * Whether the last decision for `p` holds for this wake-up too: its policy has said so, and nothing that it was told of the task
 * has changed but what it has used. While the thread is stopped none does: those that wait for it would wait for these as well.
 */
static bool stands(struct task_struct *p, struct task_ctx *t, struct domain_ctx *dom, u32 d)
{
	u64 now = scx_bpf_now();

	return t->stands && !strict && t->decided_by == d && t->stands_weight == p->scx.weight &&
	       (s64)(now - t->stands_since_ns) < (s64)STANDING_NS && !is_stopped(dom, now);
}

/* `p` is ready at once, at the place that its last decision has for it now. */
static __always_inline void make_ready(struct task_struct *p, struct task_ctx *t, struct domain_ctx *dom, u32 d,
				       u64 dsq, u64 slice, u64 enq_flags)
{
	settle_untold(t);
	t->seq++;
	t->decided_seq = t->seq;
	t->order_used_ns = t->used_ns;
	t->free = 0;
	t->queued_ns = scx_bpf_now();
	t->told = d;
	t->waits_on = 0;
	t->ready_on = dsq;
	note_work(dom);
	WRITE_ONCE(dom->stood_ns, t->queued_ns);
	scx_bpf_dsq_insert_vtime(p, dsq, slice, t->order, enq_flags);
}

/*
 * `p` is ready at once, by a decision that stands. A late answer to an earlier message may be carried out at the same
 * time: it finds another `seq` and moves nothing (carry_out() says what it may leave behind).
 */
static void stand(struct task_struct *p, struct task_ctx *t, struct domain_ctx *dom, u32 d, u64 enq_flags)
{
	u64 earliest = dom->front - t->stands_reach;

	t->stands--;
	t->order = order_now(t);
	if (before(t->order, earliest))
		t->order = earliest;
	count(&dom->counts.standing);
	make_ready(p, t, dom, d, DSQ_READY | d, t->slice_ns, enq_flags);
	kick_if_idle(scx_bpf_task_cpu(p));
}

/*
 * Whether a higher class has taken the CPU from `p` in the middle of a turn that was decided, of which so much is left. That is
 * no reason for a new decision: until it came, whoever is ready would have the CPU, however far behind `p` it stands.
 */
static u64 rest_of_turn(struct task_ctx *t, u32 d, u64 enq_flags)
{
	u64 rest = t->rest_ns;

	t->rest_ns = 0;
	if (enq_flags & SCX_ENQ_WAKEUP || t->decided_by != d || rest < REST_MIN_NS)
		return 0;
	return rest < t->slice_ns ? rest : t->slice_ns;
}

/*
 * Who is bound to the CPU waits in the CPU's own queue, which the CPU empties as soon as it is free. (The kernel carries out the
 * insertion after the flag is set, but under the lock of the run queue, which the CPU needs for its look.)
 */
static __always_inline void resume(struct task_struct *p, struct task_ctx *t, struct domain_ctx *dom, u32 d,
				   s32 bound_to, u64 rest, u64 enq_flags)
{
	t->order = order_now(t);
	if (bound_to >= 0)
		note_own(bound_to);
	make_ready(p, t, dom, d, bound_to >= 0 ? DSQ_OWN | bound_to : DSQ_READY | d, rest, enq_flags);
}

#endif /* MANYLAND_STANDING_BPF_H */
