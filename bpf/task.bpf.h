/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The life of a task under the scheduler: it joins, runs, stops, leaves.
 *
 * Invariant: all time between running and stopping is charged (charge() says what of it is free);
 * `waits_on` and `ready_on` are 0 while a task runs.
 */
#ifndef MANYLAND_TASK_BPF_H
#define MANYLAND_TASK_BPF_H

#include "domain_thread.bpf.h"
#include "higher_class.bpf.h"
#include "home.bpf.h"
#include "safety_net.bpf.h"

/* A task runs that was on a queue of ready ones: virtual time advances to its key. */
static void begin_ready(struct task_struct *p, struct task_ctx *t, struct cpu_ctx *c)
{
	u32 kind = t->ready_on & DSQ_KIND;
	struct domain_ctx *dom;

	if (kind == DSQ_OWN) {
		c->own_order = p->scx.dsq_vtime;
		move_front(domain_at(c->domain), p->scx.dsq_vtime);
	}
	dom = domain_at(t->ready_on & ~DSQ_KIND);
	if (kind == DSQ_READY && dom) {
		dom->ready_order = p->scx.dsq_vtime;
		move_front(dom, p->scx.dsq_vtime);
		note_theft(t->ready_on & ~DSQ_KIND, c->domain);
	}
}

void BPF_STRUCT_OPS(manyland_running, struct task_struct *p)
{
	struct cpu_ctx *c = cpu_at(scx_bpf_task_cpu(p));
	struct task_ctx *t = task_ctx(p);
	struct domain_ctx *dom;

	if (!t || !c)
		return;
	t->started_ns = scx_bpf_now();
	if (t->is_thread) {
		begin_thread(t);
		return;
	}
	dom = domain_at(t->told);
	t->turn = is_waiting(t) ? TURN_LATE : is_ready(t) ? TURN_DECIDED : TURN_FREE;
	if (dom && t->turn == TURN_LATE)
		run_late(p, t, dom, c);
	else if (is_ready(t))
		begin_ready(p, t, c);
	settle_untold(t);
	/* Policies are told of the time in which it ran or slept: it has no part in how long it waits. */
	if (t->waits_on && t->carried.at_ns)
		t->carried.at_ns += t->started_ns - t->queued_ns;
	t->waits_on = 0;
	t->ready_on = 0;
	c->weight = p->scx.weight;
	c->running = goes_straight(p) ? 0 : p->pid;
	t->ran_on = scx_bpf_task_cpu(p);
	note_place(p, t, c->domain);
}

void BPF_STRUCT_OPS(manyland_stopping, struct task_struct *p, bool runnable)
{
	struct task_ctx *t = task_ctx(p);
	struct cpu_ctx *c;

	if (!t)
		return;
	if (runnable)
		give_up_rest(p, t);
	if (t->is_thread) {
		end_thread(t, runnable);
		return;
	}
	c = cpu_at(scx_bpf_task_cpu(p));
	charge(t, p, c);
	if (!runnable)
		end_burst(t);
	if (c) {
		c->weight = 0;
		c->running = 0;
	}
}

s32 BPF_STRUCT_OPS(manyland_init_task, struct task_struct *p, struct scx_init_task_args *args)
{
	struct task_ctx *t;
	u32 d;

	t = bpf_task_storage_get(&tasks, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!t)
		return -ENOMEM;
	t->decided_by = NO_DOMAIN;
	t->ran_on = scx_bpf_task_cpu(p);
	t->home = NO_DOMAIN;
	t->away_in = NO_DOMAIN;
	t->puller = NO_DOMAIN;
	if (p->tgid == scheduler_tgid) {
		d = thread_domain(p->pid);
		if (d != NO_DOMAIN) {
			t->is_thread = 1;
			t->home = d;
			return 0;
		}
	}
	set_home(t, first_home(p, args));
	return 0;
}

/* The task comes under our rule: it starts level with its domain, and has to show that its bursts are short. */
void BPF_STRUCT_OPS(manyland_enable, struct task_struct *p)
{
	struct task_ctx *t = task_ctx(p);
	struct domain_ctx *dom;

	if (!t)
		return;
	t->usual_ns = slice_ns;
	dom = domain_at(t->home);
	if (dom)
		t->vtime = dom->waiting_vtime;
}

/* Another program means another working set: a cheap moment to move. */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(note_exec, struct task_struct *p)
{
	struct task_ctx *t = task_ctx(p);

	if (t)
		t->fresh = 1;
	return 0;
}

void BPF_STRUCT_OPS(manyland_exit_task, struct task_struct *p, struct scx_exit_task_args *args)
{
	struct task_ctx *t = task_ctx(p);
	struct domain_ctx *dom;

	if (!t || t->is_thread)
		return;
	settle_untold(t);
	dom = domain_at(t->home);
	if (dom)
		__sync_fetch_and_sub(&dom->tasks, 1);
}

#endif /* MANYLAND_TASK_BPF_H */
