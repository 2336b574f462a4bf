/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Domain thread to kernel: how the decisions in `decided` are carried out.
 *
 * A decision names a task, a stay in the waiting state, a CPU, a slice and a place in the order. All
 * of it is checked here. A wrong one is counted and bounced: the task stays where it waits, and its
 * domain is told of it again. A decision that comes too late (the task has run, moved, died, or has
 * been queued again) is counted as stale and dropped.
 *
 * Invariant: a task leaves WAITING or BOUND only by a move that the kernel itself carries out under
 * the task's run-queue lock, so that it is never on two queues or on none.
 */
#ifndef MANYLAND_DECIDED_BPF_H
#define MANYLAND_DECIDED_BPF_H

#include "enqueue.bpf.h"

/*
 * Moves `p` from one queue to another, if it is still on the first. Not inlined: the verifier wants
 * an iterator opened and closed in a frame of its own when it is inside a callback.
 */
static __noinline bool move_task(struct task_struct *p, u64 from, u64 to, u64 slice, u64 order)
{
	struct bpf_iter_scx_dsq it;
	bool moved = false;

	if (!bpf_iter_scx_dsq_new(&it, from, 0)) {
		scx_bpf_dsq_move_set_slice(&it, slice);
		scx_bpf_dsq_move_set_vtime(&it, order);
		moved = scx_bpf_dsq_move_vtime(&it, p, to, 0);
	}
	bpf_iter_scx_dsq_destroy(&it);
	return moved;
}

/*
 * Zero, but the verifier does not know it. It would follow a counter that starts from a known value
 * through thousands of messages, each with a state of its own.
 */
volatile u32 unknown_zero;

/* What one drain of a ring did. */
struct drain {
	u32 domain; /* whose ring it is */
	s32 cpu; /* the CPU that drains */
	u32 carried_out;
	u32 to_ready; /* tasks that any CPU of the domain may take now */
};

static bool is_sound(struct task_struct *p, struct task_ctx *t, const struct decided *d)
{
	const struct cpumask *mask;

	if (!d->slice_ns || d->slice_ns > slice_max_ns || d->domain >= nr_domains)
		return false;
	if (d->cpu != NO_CPU && (d->cpu >= nr_cpus || !bpf_cpumask_test_cpu(d->cpu, p->cpus_ptr)))
		return false;
	if (d->domain != t->told) {
		mask = domain_mask(d->domain);
		return mask && bpf_cpumask_intersects(mask, p->cpus_ptr);
	}
	return true;
}

/* The queue that a sound decision means. A hint at a CPU that is no longer idle means READY. */
static u64 destination(struct task_ctx *t, const struct decided *d, s32 *kick)
{
	*kick = -1;
	if ((t->waits_on & DSQ_KIND) == DSQ_BOUND) {
		*kick = t->waits_on & ~DSQ_KIND;
		return DSQ_OWN | *kick;
	}
	if (d->cpu == NO_CPU)
		return DSQ_READY | d->domain;
	if (d->flags & DECIDED_IDLE && !scx_bpf_test_and_clear_cpu_idle(d->cpu))
		return DSQ_READY | d->domain;
	*kick = d->cpu;
	return DSQ_OWN | d->cpu;
}

static void bounce(struct task_struct *p, struct task_ctx *t, struct domain_ctx *dom)
{
	struct domain_ctx *told = domain_at(t->told);
	u16 flags = (t->waits_on & DSQ_KIND) == DSQ_BOUND ? QUEUED_BOUND : 0;

	count(&dom->counts.bounced);
	if (told && !tell(p, t, told, t->told, flags))
		note_untold(t, told);
}

/* The bucket of a latency: four times the power of two, plus the next two bits. */
static u32 latency_bucket(u64 ns)
{
	u32 power = 2;
	u64 rest;

	if (ns < LATENCY_PARTS)
		ns = LATENCY_PARTS;
	rest = ns >> 2;
	if (rest >> 32) {
		power += 32;
		rest >>= 32;
	}
	if (rest >> 16) {
		power += 16;
		rest >>= 16;
	}
	if (rest >> 8) {
		power += 8;
		rest >>= 8;
	}
	if (rest >> 4) {
		power += 4;
		rest >>= 4;
	}
	if (rest >> 2) {
		power += 2;
		rest >>= 2;
	}
	if (rest >> 1)
		power += 1;
	return power * LATENCY_PARTS + ((ns >> (power - 2)) & (LATENCY_PARTS - 1));
}

static void note_latency(struct domain_ctx *dom, u64 ns)
{
	u32 bucket = latency_bucket(ns);

	if (bucket < LATENCY_BUCKETS)
		dom->latency[bucket]++;
}

static void carry_out(struct task_struct *p, const struct decided *d, struct drain *drain)
{
	struct domain_ctx *dom = domain_at(drain->domain);
	struct task_ctx *t = task_ctx(p);
	u64 from, to;
	s32 kick;

	if (!dom)
		return;
	if (!t || !t->waits_on || t->seq != d->seq) {
		count(&dom->counts.stale);
		return;
	}
	if (!is_sound(p, t, d)) {
		bounce(p, t, dom);
		return;
	}
	from = t->waits_on;
	to = destination(t, d, &kick);

	/* Before the move: it may run on another CPU at once. */
	t->carried = d->carried;
	t->decided_by = d->domain;
	t->slice_ns = d->slice_ns;
	t->order = d->order;
	t->order_used_ns = t->used_ns;
	t->pace = d->pace;
	t->ready_on = to;
	t->waits_on = 0;

	/*
	 * The thread can be so quick that the task's ops.enqueue has not put it on its queue yet. The
	 * first try then waits for that with the run-queue lock, but fails, as its iterator is older
	 * than the task's place; the second succeeds.
	 */
	if (!move_task(p, from, to, d->slice_ns, d->order) &&
	    !move_task(p, from, to, d->slice_ns, d->order)) {
		count(&dom->counts.stale);
		return;
	}
	count(&dom->counts.decided);
	note_latency(dom, scx_bpf_now() - t->queued_ns);
	drain->carried_out++;
	if (d->domain != t->home && (to & DSQ_KIND) == DSQ_READY)
		set_home(t, d->domain);
	if (kick < 0)
		drain->to_ready++;
	else if (kick != drain->cpu)
		scx_bpf_kick_cpu(kick, SCX_KICK_IDLE);
}

static long carry_out_next(struct bpf_dynptr *message, void *context)
{
	const struct decided *d = bpf_dynptr_data(message, 0, sizeof(*d));
	struct drain *drain = context;
	struct domain_ctx *dom;
	struct task_struct *p;

	if (!d)
		return 0;
	p = bpf_task_from_pid(d->pid);
	if (p) {
		carry_out(p, d, drain);
		bpf_task_release(p);
	} else {
		dom = domain_at(drain->domain);
		if (dom)
			count(&dom->counts.stale);
	}
	return 0;
}

/* Step 1 of ops.dispatch. */
static void drain_decided(struct domain_ctx *dom, u32 d, s32 cpu)
{
	u64 submitted = READ_ONCE(dom->submitted);
	struct drain drain = {
		.domain = d,
		.cpu = cpu,
		.carried_out = unknown_zero,
		.to_ready = unknown_zero,
	};
	void *ring;

	if (submitted == READ_ONCE(dom->drained))
		return;
	ring = bpf_map_lookup_elem(&decided_rings, &d);
	/* Negative: another CPU is at it; it will wake this one if there is work left. */
	if (!ring || bpf_user_ringbuf_drain(ring, carry_out_next, &drain, BPF_RB_NO_WAKEUP) < 0)
		return;
	WRITE_ONCE(dom->drained, submitted);
	dom->ready = scx_bpf_dsq_nr_queued(DSQ_READY | d);
	if (drain.carried_out && dom->starved_since_ns)
		dom->starved_since_ns = 0;
	/* This CPU takes one of them itself. */
	if (drain.to_ready > 1)
		kick_idle(dom, d, drain.to_ready - 1);
}

#endif /* MANYLAND_DECIDED_BPF_H */
