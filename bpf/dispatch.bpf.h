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

#include "decisions.bpf.h"

/* A parked thread goes before the ready tasks after this time even if it seems to have no work. */
#define PARKED_MAX_NS 100000000ULL

/* A thread that runs keeps a CPU waiting for so many times its patience at most. */
#define WORK_PATIENCES 4

/* At most so many tasks of another domain are looked at for one to ask for. */
#define ASKS_MAX 8

static bool run_from(u64 dsq)
{
	return scx_bpf_dsq_move_to_local(dsq, 0);
}

/* Runs from one of two ordered queues, the one that is behind first. */
static bool run_from_either(u64 a, u64 b, bool a_first)
{
	return a_first ? run_from(a) || run_from(b) : run_from(b) || run_from(a);
}

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

/* Whether the parked thread has kept messages waiting for longer than its patience. */
static bool thread_is_due(struct domain_ctx *dom, u32 d, u64 now)
{
	u64 parked;
	void *ring;

	if (dom->state != THREAD_PARKED)
		return false;
	parked = now - dom->state_since_ns;
	if ((s64)parked < (s64)patience_ns)
		return false;
	if (parked > PARKED_MAX_NS)
		return true;
	ring = bpf_map_lookup_elem(&queued_rings, &d);
	return ring && bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA) > 0;
}

/* Whether the thread does not run, and had the time to come since it was called or put aside. */
static bool is_away(struct domain_ctx *dom, u64 now)
{
	if (dom->state == THREAD_RUNNING)
		return false;
	if (dom->state != THREAD_ASLEEP && (s64)(now - dom->state_since_ns) <= (s64)READ_ONCE(dom->patience_ns))
		return false;
	return (s64)(now - dom->called_ns) > (s64)READ_ONCE(dom->patience_ns);
}

/* Step 4: whether waiting tasks run without a decision. */
static bool net_is_open(struct domain_ctx *dom, u64 now)
{
	s64 starved, most = READ_ONCE(dom->patience_ns);

	if (!dom->starved_since_ns)
		dom->starved_since_ns = now;
	starved = now - dom->starved_since_ns;
	/* It sleeps, and nobody is about to carry out what it has decided. */
	if (!strict && dom->state == THREAD_ASLEEP && is_away(dom, now) && !is_undrained(dom))
		return true;
	/* One that is at work comes to an end soon, unless it is broken. */
	if (dom->state == THREAD_RUNNING)
		most *= WORK_PATIENCES;
	return starved > (strict || most > (s64)stall_ns ? (s64)stall_ns : most);
}

/*
 * Runs a waiting task: of those bound to the CPU and those of the domain, the one that had least. A
 * dedicated CPU is only for the former.
 * Not static, so that the verifier looks at it once, and not on each path to a call of it.
 */
__noinline int run_waiting(u32 cpu, u32 d, bool dedicated)
{
	u64 bound = DSQ_BOUND | cpu, waiting = DSQ_WAITING | d;

	if (dedicated)
		return run_from(bound);
	if (!scx_bpf_dsq_nr_queued(bound))
		return run_from(waiting);
	return run_from_either(bound, waiting, head_is_before_head(bound, waiting));
}

/* The slice of a task that runs from there: all that wait behind it share one, as under a policy. */
static u64 net_slice(u64 dsq)
{
	s32 waiting = scx_bpf_dsq_nr_queued(dsq);
	u64 slice = waiting > 0 ? slice_ns / (waiting + 1) : slice_ns;

	return slice > slice_min_ns ? slice : slice_min_ns;
}

/*
 * Tasks wait that no decision will come for, so the net cannot be left until nothing is ready: it
 * has every second turn.
 */
static bool run_untold(s32 cpu, struct cpu_ctx *c, struct domain_ctx *dom, u32 d, u64 now)
{
	if (!READ_ONCE(dom->untold))
		return false;
	if (strict && (s64)(now - dom->untold_since_ns) < (s64)stall_ns)
		return false;
	c->net_turn ^= 1;
	return c->net_turn && run_waiting(cpu, d, c->dedicated);
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
 * Whether the thread of `dom` comes when it is called: it runs, or it sleeps and was not called in
 * vain.
 */
static bool is_at_hand(struct domain_ctx *dom, u64 now)
{
	return dom->state == THREAD_RUNNING || (dom->state == THREAD_ASLEEP && !is_stopped(dom, now));
}

/*
 * Asks the thread of domain `d`, which `cpu` belongs to, to decide for the first task of another
 * domain's WAITING that may run on `cpu` and that nobody was asked for yet, and answers whether there was
 * one. The domain that decides first has it.
 */
static __noinline bool ask_for(u64 waiting, u32 d, s32 cpu)
{
	struct domain_ctx *dom = domain_at(d);
	struct bpf_iter_scx_dsq it;
	struct task_struct *p;
	struct task_ctx *t;
	bool asked = false;
	u32 i;

	if (!dom)
		return false;
	if (!bpf_iter_scx_dsq_new(&it, waiting, 0)) {
		bpf_for(i, 0, ASKS_MAX) {
			p = bpf_iter_scx_dsq_next(&it);
			if (!p)
				break;
			t = task_ctx(p);
			if (!t || t->asked_seq == t->seq ||
			    !bpf_cpumask_test_cpu(cpu, p->cpus_ptr))
				continue;
			asked = tell(p, t, dom, d, flags_again(t));
			if (asked)
				t->asked_seq = t->seq;
			break;
		}
	}
	bpf_iter_scx_dsq_destroy(&it);
	return asked;
}

/*
 * Step 5: the kernel's half of stealing. For what waits elsewhere undecided, because the thread over there
 * waits for a CPU, the one here is asked to decide; if neither comes, it runs so.
 */
static bool run_from_others(u32 d, s32 cpu, u64 now)
{
	struct domain_order *order = bpf_map_lookup_elem(&orders, &d);
	struct domain_ctx *own = domain_at(d), *dom;
	u32 i, other;

	if (!order || !own)
		return false;
	bpf_for(i, 0, nr_domains - 1) {
		if (i >= MAX_DOMAINS)
			break;
		other = order->nearest[i];
		dom = domain_at(other);
		if (!dom)
			continue;
		if (is_undrained(dom))
			drain_decided(other, cpu);
		if (!READ_ONCE(dom->has_work))
			continue;
		if (run_from(DSQ_READY | other))
			return true;
		if (scx_bpf_dsq_nr_queued(DSQ_WAITING | other) <= 0 ||
		    dom->state == THREAD_RUNNING || is_undrained(dom))
			continue;
		if (is_at_hand(own, now)) {
			if (ask_for(DSQ_WAITING | other, d, cpu))
				break;
		} else if (is_away(dom, now) && run_from(DSQ_WAITING | other)) {
			return true;
		}
	}
	return false;
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

/*
 * Whether a task waits for a decision that this CPU may then run; of those that are decided it would
 * have taken one. Not static, so that the verifier looks at it once.
 */
__weak bool somebody_waits(u32 cpu, struct cpu_ctx *c __arg_nonnull)
{
	return (!c->dedicated && scx_bpf_dsq_nr_queued(DSQ_WAITING | c->domain) > 0) ||
	       scx_bpf_dsq_nr_queued(DSQ_BOUND | cpu) > 0;
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
