/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The life of a task under the scheduler: it joins, runs, stops, leaves.
 *
 * Invariant: all time between running and stopping is charged (charge() says what of it is free);
 * `waits_on` and `ready_on` are 0 while a task runs.
 */
#ifndef MANYLAND_TASK_BPF_H
#define MANYLAND_TASK_BPF_H

#include "away.bpf.h"
#include "crowd.bpf.h"
#include "domain_thread.bpf.h"
#include "frequency.bpf.h"
#include "groups.bpf.h"
#include "higher_class.bpf.h"
#include "home.bpf.h"
#include "idle_class.bpf.h"
#include "limit.bpf.h"
#include "part.bpf.h"
#include "preempt.bpf.h"
#include "rest.bpf.h"
#include "safety_net.bpf.h"
#include "shares.bpf.h"
#include "unstored.bpf.h"

/* From the kernel's headers, which are not part of its type information. */
#define TASK_RUNNING 0

/* A task runs from READY number `queue`: that of a domain, or of a part of one. */
static void begin_ready_in(struct task_struct *p, u32 queue, struct cpu_ctx *cpuc)
{
	struct domain_ctx *domc = domain_at(queue);
	struct part *part;

	if (domc) {
		domc->ready_vtime = p->scx.dsq_vtime;
	} else {
		part = part_at(queue - nr_domains);
		if (!part)
			return;
		part->vtime = p->scx.dsq_vtime;
		queue = part->domain;
	}
	advance_policy_vtime(domain_at(queue), p->scx.dsq_vtime);
	note_theft(queue, cpuc->domain);
}

/*
 * A ready task runs: virtual time advances to its key. Not that of the domain from a dedicated CPU:
 * there are so few tasks that they would be ahead of all others, which cannot run there.
 */
static void begin_ready(struct task_struct *p, struct task_ctx *taskc, struct cpu_ctx *cpuc)
{
	u32 kind = taskc->ready_on & DSQ_KIND;

	if (kind == DSQ_OWN) {
		cpuc->own_vtime = p->scx.dsq_vtime;
		if (!cpuc->dedicated)
			advance_policy_vtime(domain_at(cpuc->domain), p->scx.dsq_vtime);
	}
	if (kind == DSQ_READY)
		begin_ready_in(p, taskc->ready_on & ~DSQ_KIND, cpuc);
	if (kind == DSQ_OVERTAKES)
		advance_policy_vtime(domain_at(taskc->ready_on & ~DSQ_KIND), taskc->policy_vtime);
}

void BPF_STRUCT_OPS(manyland_running, struct task_struct *p)
{
	struct cpu_ctx *cpuc = cpu_at(scx_bpf_task_cpu(p));
	struct task_ctx *taskc = task_ctx(p);
	struct domain_ctx *domc;
	u64 now = scx_bpf_now();

	if (!cpuc)
		return;
	begin_busy(cpuc, scx_bpf_task_cpu(p), taskc, now);
	if (!taskc) {
		begin_in_turn(p, cpuc);
		return;
	}
	taskc->started_ns = now;
	cpuc->gives_way = GIVES_WAY_NOT;
	if (taskc->is_thread) {
		begin_thread(taskc, cpuc, scx_bpf_task_cpu(p));
		return;
	}
	if (taskc->woken_ns)
		note_run_delay(scx_bpf_task_cpu(p), now - taskc->woken_ns);
	end_run_delay(taskc);
	domc = domain_at(taskc->notified);
	taskc->run_kind = is_waiting(taskc)  ? RUN_UNDECIDED :
			  is_ready(taskc)    ? RUN_DECIDED :
			  taskc->interrupted ? taskc->run_kind :
					       RUN_FREE;
	taskc->interrupted = 0;
	/* Not a task that goes on after a change: it keeps its slice. */
	if (domc && is_waiting(taskc))
		run_undecided(p, taskc, domc, cpuc);
	else if (is_ready(taskc))
		begin_ready(p, taskc, cpuc);
	begin_in_crowd(p, taskc, cpuc);
	settle_unnotified(taskc);
	settle_sent(taskc);
	/*
	 * Policies see the time in which the task ran or slept. How long it waits has no part in
	 * that.
	 */
	if (taskc->waits_on && taskc->carried.at_ns)
		taskc->carried.at_ns += taskc->started_ns - taskc->runnable_ns;
	taskc->waits_on = 0;
	taskc->ready_on = 0;
	taskc->yielded = 0;
	taskc->began_ns = taskc->started_ns;
	if (limit_of(taskc))
		begin_limited(p, taskc, scx_bpf_task_cpu(p));
	taskc->run_slice_ns = p->scx.slice;
	taskc->rest_ns = 0;
	count_runnable(p, taskc);
	cpuc->weight = effective_weight(p, taskc);
	cpuc->running = bypasses_user_space(p) ? 0 : p->pid;
	if (cpuc->running) {
		publish_begin(taskc, cpuc, scx_bpf_task_cpu(p));
		begin_guest(cpuc, scx_bpf_task_cpu(p));
	}
	if (is_idle_class(p, taskc))
		begin_idle_class(scx_bpf_task_cpu(p));
	taskc->ran_on = scx_bpf_task_cpu(p);
	note_run_domain(p, taskc, cpuc->domain);
}

/*
 * A task that runs is said to be no longer runnable both when it goes to sleep and, for a moment,
 * when its affinity, weight or group changes. In the second case it goes on as it did before.
 */
void BPF_STRUCT_OPS(manyland_stopping, struct task_struct *p, bool runnable)
{
	struct cpu_ctx *cpuc = cpu_at(scx_bpf_task_cpu(p));
	bool sleeps = !runnable && READ_ONCE(p->__state) != TASK_RUNNING;
	struct task_ctx *taskc = task_ctx(p);

	if (cpuc)
		add_busy(cpuc, scx_bpf_now(), true);
	if (runnable)
		give_up_rest(p, taskc, cpuc);
	if (taskc && taskc->is_thread) {
		end_thread(taskc, !sleeps);
		return;
	}
	if (taskc) {
		keep_rest(taskc, cpuc, runnable);
		charge(taskc, p, cpuc);
		if (runnable && taskc->free && cpuc)
			forfeit_lag(taskc, cpuc);
		if (taskc->leased_from && cpuc)
			end_lease(taskc, cpuc);
		if (sleeps) {
			end_burst(taskc);
			uncount_runnable(taskc);
		} else if (!runnable)
			taskc->interrupted = 1;
	}
	if (cpuc) {
		cpuc->weight = 0;
		cpuc->runs_bound = 0;
		end_idle_class(cpuc, scx_bpf_task_cpu(p));
		end_run(cpuc);
	}
}

s32 BPF_STRUCT_OPS(manyland_init_task, struct task_struct *p, struct scx_init_task_args *args)
{
	struct task_ctx *taskc = new_task_ctx(p);

	if (!taskc) {
		/* An error here would fail a user's fork. */
		note_unstored(p);
		return 0;
	}
	begin_task(p, taskc);
	enter_group(taskc, slot_of(cgroup_of_task(p)));
	if (!taskc->is_thread)
		set_home(taskc, first_home(p, args));
	return 0;
}

/*
 * The task joins the scheduler. It starts level with its domain.
 */
void BPF_STRUCT_OPS(manyland_enable, struct task_struct *p)
{
	struct task_ctx *taskc = task_ctx(p);
	struct domain_ctx *domc;

	if (!taskc)
		return;
	taskc->usual_ns = usual_unknown();
	weigh(p, taskc);
	domc = domain_at(taskc->home);
	if (domc)
		taskc->vtime = domc->net_vtime;
}

/* The task leaves for another scheduling class, or ends: no decision is for it any more. */
void BPF_STRUCT_OPS(manyland_disable, struct task_struct *p)
{
	struct task_ctx *taskc = task_ctx(p);

	if (!taskc)
		return;
	settle_unnotified(taskc);
	settle_sent(taskc);
	uncount_runnable(taskc);
	end_run_delay(taskc);
	return_grant(taskc);
	taskc->waits_on = 0;
	taskc->ready_on = 0;
}

/* The affinity of the task changes, or it joins the scheduler with this one. */
void BPF_STRUCT_OPS(manyland_set_cpumask, struct task_struct *p, const struct cpumask *cpumask)
{
	struct task_ctx *taskc = task_ctx(p);

	if (taskc && taskc->is_thread)
		note_cpus_of_thread(taskc, cpumask);
	else if (taskc)
		follow_affinity(taskc, cpumask);
	if (taskc)
		leave_part(taskc);
}

/* Another program means another working set: a cheap moment to move. */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(note_exec, struct task_struct *p)
{
	struct task_ctx *taskc = task_ctx(p);

	if (taskc)
		taskc->fresh = 1;
	return 0;
}

void BPF_STRUCT_OPS(manyland_exit_task, struct task_struct *p, struct scx_exit_task_args *args)
{
	struct task_ctx *taskc = task_ctx(p);
	struct domain_ctx *domc;

	if (!taskc)
		return;
	leave_group(taskc);
	if (taskc->is_thread)
		return;
	settle_unnotified(taskc);
	leave_part(taskc);
	domc = domain_at(taskc->home);
	if (domc)
		__sync_fetch_and_sub(&domc->tasks, 1);
}

#endif /* MANYLAND_TASK_BPF_H */
