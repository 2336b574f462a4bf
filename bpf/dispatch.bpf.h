/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A CPU asks for work. The steps are those of the picture in docs/design.md.
 *
 * Invariant: a CPU goes idle only if nothing that it may run waits anywhere, or if a domain thread runs
 * or has just been called and will wake it. Without --strict no task waits for a domain thread that is
 * asleep, stopped, or later than its patience.
 */
#ifndef MANYLAND_DISPATCH_BPF_H
#define MANYLAND_DISPATCH_BPF_H

#include "core_upgrade.bpf.h"
#include "decisions.bpf.h"
#include "safety_net.bpf.h"
#include "steal.bpf.h"

/*
 * Runs from the own queue of `cpu`. Most of the time there is nothing in it, and the count of looks that are due spares looking
 * it up. One is taken before the look: who moves a task there says so afterwards (note_own), so one of the two finds the other; who
 * cannot, asks for some more (send).
 */
static bool run_own(s32 cpu, struct cpu_ctx *c)
{
	if (!READ_ONCE(c->own_looks))
		return false;
	__sync_fetch_and_sub(&c->own_looks, 1);
	if (!run_from(DSQ_OWN | cpu))
		return false;
	WRITE_ONCE(c->own_looks, 1);
	return true;
}

/* Whether something goes before everybody else on the CPU of `c`. */
static bool has_turns(struct cpu_ctx *c, struct domain_ctx *dom)
{
	return READ_ONCE(c->own_turns) || READ_ONCE(dom->ready_turns) > 0;
}

/*
 * Runs what goes before everybody else, without being compared: what a decision has made the running
 * task give way to, and starved tasks.
 */
__noinline int run_first(u32 cpu)
{
	struct cpu_ctx *c = cpu_at(cpu);
	struct domain_ctx *dom = c ? domain_at(c->domain) : NULL;

	if (!dom)
		return 0;
	if (READ_ONCE(c->own_turns)) {
		__sync_fetch_and_sub(&c->own_turns, 1);
		return run_own(cpu, c);
	}
	if (c->dedicated || READ_ONCE(dom->ready_turns) <= 0)
		return 0;
	__sync_fetch_and_sub(&dom->ready_turns, 1);
	return run_from(DSQ_READY | c->domain);
}

/*
 * Whether the running task, its slice used up, is still the first in its policy's order. The policy
 * has said where the task stands and how fast that changes while it runs, so the question needs no
 * new decision. Without it two tasks on a CPU would take turns whatever their weights, because the
 * one that runs is never in the queue when the next one is chosen.
 */
static bool goes_on(struct task_struct *prev, s32 cpu, struct cpu_ctx *c, struct domain_ctx *dom, u32 d)
{
	struct task_ctx *t;
	u64 order;
	bool own;

	if (!prev || !(prev->scx.flags & SCX_TASK_QUEUED) ||
	    !bpf_cpumask_test_cpu(cpu, prev->cpus_ptr))
		return false;
	t = task_ctx(prev);
	if (!t || t->turn != TURN_DECIDED || !t->pace || t->decided_by != d)
		return false;
	own = READ_ONCE(c->own_looks) && scx_bpf_dsq_nr_queued(DSQ_OWN | cpu) > 0;
	if (!own && !scx_bpf_dsq_nr_queued(DSQ_READY | d))
		return false;
	charge(t, prev, c);
	t->free = 0;
	order = order_now(t);
	if ((own && head_is_before(DSQ_OWN | cpu, order)) || head_is_before(DSQ_READY | d, order))
		return false;
	scx_bpf_task_set_slice(prev, t->slice_ns);
	count(&dom->counts.extended);
	return true;
}

static bool run_next(s32 cpu, struct cpu_ctx *c, struct domain_ctx *dom, u32 d,
		     struct task_struct *prev)
{
	bool own_first;
	u64 now;

	if (is_undrained(dom))
		drain_decided(d, cpu);
	now = scx_bpf_now();

	if (thread_is_due(dom, d, now) && run_from(DSQ_THREAD | d))
		return true;
	if ((has_turns(c, dom) && run_first(cpu)) || run_untold(cpu, c, dom, d, now) || goes_on(prev, cpu, c, dom, d))
		return true;

	own_first = c->dedicated || !before(dom->ready_order, c->own_order);
	if (c->dedicated ? run_own(cpu, c) :
	    own_first	 ? run_own(cpu, c) || run_from(DSQ_READY | d) :
			   run_from(DSQ_READY | d) || run_own(cpu, c)) {
		/* For the thread, which otherwise is told when it is switched in. */
		if (dom->state == THREAD_RUNNING)
			note_ready(dom, d);
		if (dom->starved_since_ns)
			dom->starved_since_ns = 0;
		return true;
	}
	dom->ready = 0;

	if (dom->state == THREAD_PARKED && run_from(DSQ_THREAD | d))
		return true;

	if ((!c->dedicated && scx_bpf_dsq_nr_queued(DSQ_WAITING | d) > 0) ||
	    scx_bpf_dsq_nr_queued(DSQ_BOUND | cpu) > 0) {
		if (net_is_open(dom, now) && run_waiting(cpu, d, c->dedicated))
			return true;
	} else if (!c->dedicated) {
		if (dom->starved_since_ns)
			dom->starved_since_ns = 0;
		if (READ_ONCE(dom->has_work))
			WRITE_ONCE(dom->has_work, 0);
	}

	return !strict && !no_steal && !c->dedicated && run_from_others(d, cpu, now);
}

void BPF_STRUCT_OPS(manyland_dispatch, s32 cpu, struct task_struct *prev)
{
	struct cpu_ctx *c = cpu_at(cpu);
	struct domain_ctx *dom = c ? domain_at(c->domain) : NULL;
	struct task_ctx *t;

	if (c)
		c->asked++;
	if (dom && run_next(cpu, c, dom, c->domain, prev))
		return;
	/* There is nothing that this CPU could take. */
	if (!prev || !(prev->scx.flags & SCX_TASK_QUEUED))
		return;
	t = task_ctx(prev);
	if (c && t && !t->is_thread && !goes_straight(prev) && can_climb(prev, t, cpu, c)) {
		/*
		 * Without a slice it goes to ops.enqueue, or back to this CPU's local queue where the
		 * kernel keeps it from there (it must not migrate now, or exits). The kernel does not
		 * look at that queue again by itself: the CPU would go idle beside the task.
		 */
		scx_bpf_kick_cpu(cpu, 0);
		return;
	}
	/*
	 * Whoever had it goes on, at nobody's cost if nobody waits. The others may just not have been
	 * decided yet: were that time free, tasks whose slices end together would get unequal shares.
	 */
	scx_bpf_task_set_slice(prev, slice_ns);
	if (t) {
		charge(t, prev, c);
		t->free = !c || !somebody_waits(cpu, c);
	}
}

#endif /* MANYLAND_DISPATCH_BPF_H */
