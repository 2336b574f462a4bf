/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A task becomes runnable: onto an idle CPU at once, or into a queue and a message to its domain.
 *
 * Invariant: when ops.enqueue returns, the task is on exactly one queue of the kernel. If it is
 * WAITING or BOUND, the domain thread has been told; if it could not be told, the task is counted
 * as untold, and while there are any the safety net has every second turn. It is READY at once only by a decision of
 * its home's thread that stands.
 */
#ifndef MANYLAND_ENQUEUE_BPF_H
#define MANYLAND_ENQUEUE_BPF_H

#include "balance.bpf.h"
#include "notify.bpf.h"
#include "select_cpu.bpf.h"
#include "standing.bpf.h"

/*
 * `p` had `cpu` for itself, and ops.dispatch has seen a better core idle. If that is taken by now, it
 * goes on where it is: ops.dispatch has kicked the CPU, so it will look at its local queue.
 */
static void climb(struct task_struct *p, struct task_ctx *t, s32 cpu, u64 enq_flags)
{
	struct domain_ctx *dom = domain_at(domain_of_cpu(cpu));
	s32 better = claim_better(p, t, cpu);

	if (better < 0) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_ns, enq_flags);
		return;
	}
	if (dom)
		count(&dom->counts.climbed);
	send(p, t, t->home, better, enq_flags);
}

void BPF_STRUCT_OPS(manyland_enqueue, struct task_struct *p, u64 enq_flags)
{
	s32 cpu = scx_bpf_task_cpu(p), idle;
	struct task_ctx *t = task_ctx(p);
	struct domain_ctx *dom;
	u64 dsq, floor, credit, rest;
	bool bound;
	u16 flags = 0;
	u32 d;

	if (!t || goes_straight(p)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_ns, enq_flags);
		return;
	}
	if (t->is_thread) {
		park_thread(p, t, enq_flags);
		return;
	}
	if (enq_flags & SCX_ENQ_REENQ)
		note_displaced(cpu);
	if ((by_kind || smt) && enq_flags & SCX_ENQ_LAST) {
		climb(p, t, cpu, enq_flags);
		return;
	}

	bound = p->nr_cpus_allowed == 1;
	if (!bound)
		maybe_level(p, t, enq_flags & SCX_ENQ_WAKEUP);
	d = bound ? domain_of_cpu(cpu) : home_of(p, t);
	dom = domain_at(d);
	if (!dom) {
		/* Its CPU has come online since, or is a domain thread's: there is nobody to ask. */
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_ns, enq_flags);
		return;
	}

	if (must_queue(cpu, d)) {
		/* Others are before it. */
	} else if (bound) {
		if (!scx_bpf_task_running(p) && scx_bpf_test_and_clear_cpu_idle(cpu)) {
			bypass(p, t, d, enq_flags);
			return;
		}
	} else if (!__COMPAT_is_enq_cpu_selected(enq_flags)) {
		idle = claim_again(p, dom, d, cpu);
		if (idle >= 0) {
			send(p, t, d, idle, enq_flags);
			return;
		}
	}

	rest = rest_of_turn(t, d, enq_flags);
	if (rest) {
		resume(p, t, dom, d, bound ? cpu : -1, rest, enq_flags);
		return;
	}

	if (enq_flags & SCX_ENQ_WAKEUP && !bound && stands(p, t, dom, d)) {
		stand(p, t, dom, d, enq_flags);
		kick_if_idle(cpu);
		return;
	}

	if (enq_flags & SCX_ENQ_WAKEUP)
		flags |= QUEUED_WAKEUP;
	if (bound)
		flags |= QUEUED_BOUND;
	/* Whoever slept has a credit, and whoever had a CPU for itself owes DEBT_SLICES, not more. */
	credit = sleepers_credit(dom);
	floor = dom->waiting_vtime - credit;
	if (before(t->vtime, floor))
		t->vtime = floor;
	else if (before(dom->waiting_vtime + DEBT_SLICES * slice_ns, t->vtime))
		t->vtime = dom->waiting_vtime + DEBT_SLICES * slice_ns;

	dsq = bound ? DSQ_BOUND | cpu : DSQ_WAITING | d;
	settle_untold(t);
	t->seq++;
	t->free = 0;
	t->queued_ns = scx_bpf_now();
	t->told = d;
	t->waits_on = dsq;
	note_work(dom);
	if (tell(p, t, dom, d, flags))
		count(&dom->counts.queued);
	else
		note_untold(t, dom);
	scx_bpf_dsq_insert_vtime(p, dsq, slice_ns, net_order(p, t, credit), enq_flags);
	kick_if_idle(cpu);
}

#endif /* MANYLAND_ENQUEUE_BPF_H */
