/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tasks without a context: the kernel had no memory for one when they began. The memory cgroup of
 * the process that loaded the scheduler may be at its limit, or the pool that ops.init_task draws
 * from may be empty for a moment.
 *
 * No thread can decide for such a task. It is ready at once, at a key that is a slice behind the
 * policy's virtual time, and virtual time advances to that key when it runs. So it has its share
 * by weight, without credit for its sleep. Each time that it becomes runnable, BPF tries again.
 *
 * A thread of the kernel that wakes up goes before the others (kernel_work.bpf.h). Its time is not
 * known, so only one of them at a time does.
 *
 * Invariant: no fork fails because of the scheduler, and a task without a context waits no longer
 * than others.
 */
#ifndef MANYLAND_UNSTORED_BPF_H
#define MANYLAND_UNSTORED_BPF_H

#include "groups.bpf.h"
#include "home.bpf.h"
#include "kernel_work.bpf.h"
#include "part.bpf.h"
#include "safety_net.bpf.h"

/* How long BPF does not ask for memory again after it got none. */
#define RETRY_NS 10000000

u64 retry_at_ns; /* until then no task that becomes runnable asks for memory */
u64 kernel_at_ns; /* until then no thread of the kernel without a context goes before others */

/* A task begins for which there is no memory. */
static void note_unstored(struct task_struct *p)
{
	struct domain_ctx *domc = domain_at(domain_of_cpu(scx_bpf_task_cpu(p)));

	if (domc)
		count(&domc->counts.unstored);
}

/* Fills in what is not 0 in the context of a new task. A domain thread has its home already. */
static void begin_task(struct task_struct *p, struct task_ctx *taskc)
{
	taskc->decided_by = NO_DOMAIN;
	taskc->ran_on = scx_bpf_task_cpu(p);
	if (!taskc->is_thread)
		taskc->home = NO_DOMAIN;
	taskc->away_in = NO_DOMAIN;
	taskc->puller = NO_DOMAIN;
}

/* Gives `p`, which has become runnable in domain `d`, its context after all. NULL: not yet. */
static __noinline struct task_ctx *begin_again(struct task_struct *p, u32 d)
{
	struct task_ctx *taskc;
	u64 now = scx_bpf_now();

	if (before(now, READ_ONCE(retry_at_ns)))
		return NULL;
	taskc = new_task_ctx(p);
	if (!taskc) {
		WRITE_ONCE(retry_at_ns, now + RETRY_NS);
		return NULL;
	}
	begin_task(p, taskc);
	enter_group(taskc, slot_of(cgroup_of_task(p)));
	set_home(taskc, d < nr_domains ? d : 0);
	taskc->usual_ns = usual_unknown();
	return taskc;
}

/* By how much its key is ahead of the virtual time when such a task becomes ready. */
static u64 turn_of(struct task_struct *p)
{
	return slice_ns * WEIGHT_NICE_0 / (p->scx.weight ?: WEIGHT_NICE_0);
}

/* Whether `p`, which has no context, goes before others: a thread of the kernel that wakes up. */
static bool goes_first(struct task_struct *p)
{
	u64 now;

	if (!(p->flags & PF_KTHREAD) || scx_bpf_task_running(p))
		return false;
	now = scx_bpf_now();
	if (before(now, READ_ONCE(kernel_at_ns)))
		return false;
	WRITE_ONCE(kernel_at_ns, now + KERNEL_SHARE * slice_min_ns);
	return true;
}

/*
 * `p`, which has no context, becomes ready on the run queue of `cpu`. A policy without virtual time
 * has keys of its own making; for one that counts them up, `p` is then the last.
 */
static void run_in_turn(struct task_struct *p, s32 cpu, u64 enq_flags)
{
	u32 d = domain_of_cpu(cpu);
	struct domain_ctx *domc = domain_at(d);
	struct cpu_ctx *cpuc = cpu_at(cpu);
	bool bound = p->nr_cpus_allowed == 1 || !may_use_whole(p, d);
	u64 dsq, vtime, slice;

	if (!domc || !cpuc || (!bound && !has_cpu_of(d, p->cpus_ptr))) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_ns, enq_flags);
		return;
	}
	dsq = bound ? DSQ_OWN | cpu : DSQ_READY | d;
	slice = net_slice(dsq);
	if (goes_first(p)) {
		vtime = kernel_vtime(domc, dsq, bound ? cpu : -1);
		slice = slice_min_ns;
	} else if (domc->keeps_vtime) {
		vtime = policy_vtime_of(d, d, bound ? cpu : -1) + turn_of(p);
	} else {
		vtime = (bound ? cpuc->own_vtime : domc->ready_vtime) + scx_bpf_dsq_nr_queued(dsq);
	}
	count(&domc->counts.late);
	note_work(domc, d);
	WRITE_ONCE(domc->stood_ns, scx_bpf_now());
	scx_bpf_dsq_insert_vtime(p, dsq, slice, vtime, enq_flags);
	if (bound) {
		note_own(cpu);
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
	} else {
		kick_idle(domc, d, 1);
	}
}

/*
 * A task without a context is switched in. Virtual time advances to its key, unless that is from
 * another domain.
 */
static void begin_in_turn(struct task_struct *p, struct cpu_ctx *cpuc)
{
	struct domain_ctx *domc = domain_at(cpuc->domain);

	cpuc->weight = p->scx.weight;
	cpuc->running = 0;
	cpuc->runs_bound = p->nr_cpus_allowed == 1;
	if (!domc || !domc->keeps_vtime)
		return;
	if (p->scx.dsq_vtime - domc->policy_vtime <= turn_of(p))
		domc->policy_vtime = p->scx.dsq_vtime;
	if (p->scx.dsq_vtime - cpuc->bound.policy_vtime <= turn_of(p))
		cpuc->bound.policy_vtime = p->scx.dsq_vtime;
}

#endif /* MANYLAND_UNSTORED_BPF_H */
