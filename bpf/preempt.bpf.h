/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A running task gives way before its slice ends: to a task that a decision sends to its CPU at once
 * (preempt), or to the domain thread when a wake-up is urgent (urge).
 *
 * While all CPUs of a domain are busy nobody runs its thread before a slice ends, and slices end at
 * ticks. A wake-up cannot wait for that if its task goes before one that runs. Whether it does is told
 * by the policy's own order: that of the task's last decision and how fast it grows, against those of
 * the running ones. Then the domain thread takes the CPU of the one that is last in order, decides,
 * and leaves the CPU to the first. A policy whose order says nothing of time (pace 0) is not judged so.
 *
 * Only a task that user space decides for is made to give way: a CPU that runs a domain thread, a
 * thread that goes straight or a task of a higher class names nobody in `running`. The kernel's own
 * SCX_KICK_PREEMPT takes the slice of whoever runs when the interrupt arrives, and that may be a domain
 * thread by then; here it is the task's own slice that ends, and whoever else has come to run meanwhile
 * keeps the CPU. Such a task has a short turn when it runs next, no more.
 *
 * Invariant: nothing here moves a task; who gives way is queued by the kernel as at the end of a slice.
 */
#ifndef MANYLAND_PREEMPT_BPF_H
#define MANYLAND_PREEMPT_BPF_H

#include "maps.bpf.h"

/* So many CPUs are looked at for one wake-up, from the task's own on. */
#define URGE_LOOKS 32

/* Ends the turn of the task that runs on the CPU of `c`. False: there is none that can be made to. */
static bool end_turn(struct domain_ctx *dom, struct cpu_ctx *c, s32 cpu)
{
	struct task_struct *running = bpf_task_from_pid(READ_ONCE(c->running));

	if (!running)
		return false;
	/* Not 0, which the kernel warns of if the task has just left the CPU. */
	scx_bpf_task_set_slice(running, 1);
	bpf_task_release(running);
	count(&dom->counts.preempted);
	scx_bpf_kick_cpu(cpu, 0);
	return true;
}

/* The task that runs on `cpu` gives way to what has just been put first into the CPU's own queue. */
__weak int preempt(u32 d, s32 cpu, s32 here)
{
	struct domain_ctx *dom = domain_at(d);
	struct cpu_ctx *c = cpu_at(cpu);

	if (!c || !dom)
		return 0;
	__sync_fetch_and_add(&c->preempting, 1);
	if (cpu != here && !end_turn(dom, c, cpu))
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
	return 0;
}

/* Where `t` would stand in the order now, by its last decision. Only if `t->last_pace` is not 0. */
static u64 order_now(struct task_ctx *t)
{
	return t->order + (t->used_ns - t->order_used_ns) * t->last_pace / PACE_ONE;
}

/* `t` is switched in on the CPU of `c`: notes where it stands, for urge(). */
static void note_order(struct cpu_ctx *c, struct task_ctx *t)
{
	c->run_pace = t->decided_by == c->domain ? t->last_pace : 0;
	c->run_order = order_now(t);
	c->run_since_ns = t->started_ns;
}

/* A wake-up waits for the thread of its domain; the most urgent one is remembered. */
static void note_wakeup(struct domain_ctx *dom, u32 d, struct task_ctx *t)
{
	u64 order, earliest = dom->ready_order - slice_ns;

	if (!t->last_pace || t->decided_by != d)
		return;
	/* Who sleeps is owed no more than a slice. */
	order = order_now(t);
	if (before(order, earliest))
		order = earliest;
	if (!dom->urgent || before(order, dom->urgent_order)) {
		dom->urgent_order = order;
		dom->urgent = 1;
	}
}

/*
 * The thread of domain `d` is parked. If the most urgent wake-up that it has not seen goes before a
 * running task by a quarter of a slice, the last in order of those gives way to the thread.
 */
__weak int urge(u32 d, u32 near)
{
	struct domain_ctx *dom = domain_at(d);
	u64 now = scx_bpf_now(), latest, order;
	struct cpu_ctx *c, *last = NULL;
	u32 i, cpu, victim = 0;

	if (!dom || !dom->urgent || dom->urged)
		return 0;
	latest = dom->urgent_order + slice_ns / 4;
	bpf_for(i, 0, URGE_LOOKS) {
		if (i >= nr_cpus)
			break;
		cpu = near + i;
		if (cpu >= nr_cpus)
			cpu -= nr_cpus;
		c = cpu_at(cpu);
		if (!c || c->domain != d || c->dedicated || !c->running || !c->run_pace)
			continue;
		order = c->run_order + (now - c->run_since_ns) * c->run_pace / PACE_ONE;
		if (before(latest, order)) {
			latest = order;
			last = c;
			victim = cpu;
		}
	}
	if (last) {
		dom->urged = 1;
		end_turn(dom, last, victim);
	}
	return 0;
}

/* The thread runs: it will see them all. */
static void settle_wakeups(struct domain_ctx *dom)
{
	dom->urgent = 0;
	dom->urged = 0;
}

#endif /* MANYLAND_PREEMPT_BPF_H */
