/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which domain is a task's home, and when that changes.
 *
 * A task keeps its home, and with it its cache, until there is a reason to move:
 *   - its affinity leaves the home without a CPU for it;
 *   - it is new, or has just started another program, and finds an idle CPU elsewhere but not here;
 *   - it has run AWAY_MAX times in a row in the same other domain (stolen, or on an idle CPU
 *     there);
 *   - the same other domain has woken it PULLS_MAX times in a row: it talks to a task over there;
 *   - the load of the domains has been uneven for a while (balance.bpf.h), and it was preempted or,
 *     where many have to move, woke up.
 *
 * Invariant: `tasks` of a domain is the number of tasks whose home it is. A home has a CPU that the
 * task may use, or home_of() replaces it before the next notice.
 */
#ifndef MANYLAND_HOME_BPF_H
#define MANYLAND_HOME_BPF_H

#include "idle.bpf.h"
#include "stats.bpf.h"

/*
 * Moves a task's home. Its vtime keeps its distance from its domain's `net_vtime`. Global, as other
 * functions with many callers are, so that the verifier checks it once.
 */
__weak int set_home(struct task_ctx *taskc __arg_nonnull, u32 home)
{
	struct domain_ctx *from_domc = domain_at(taskc->home), *to_domc = domain_at(home);

	if (!to_domc || taskc->home == home)
		return 0;
	if (from_domc) {
		taskc->vtime -= from_domc->net_vtime;
		__sync_fetch_and_sub(&from_domc->tasks, 1);
		count(&from_domc->counts.moved_out);
		count(&to_domc->counts.moved_in);
	}
	taskc->vtime += to_domc->net_vtime;
	__sync_fetch_and_add(&to_domc->tasks, 1);
	taskc->home = home;
	taskc->away = 0;
	taskc->pulls = 0;
	return 0;
}

/* Whether domain `d` offers tasks a CPU of `cpus`. */
static bool has_cpu_of(u32 d, const struct cpumask *cpus)
{
	const struct cpumask *mask = domain_mask(d);

	return mask && bpf_cpumask_intersects(mask, cpus);
}

static bool may_run_in(struct task_struct *p, u32 d)
{
	return p->nr_cpus_allowed >= nr_possible_cpus || has_cpu_of(d, p->cpus_ptr);
}

/*
 * The home domain of `p`. If that has no CPU that `p` may use, the domain where `p` is becomes its
 * home, or else that of another CPU that it may use.
 *
 * Returns NO_DOMAIN if these have none either, because the CPUs are offline or kept for domain
 * threads. A domain none of whose CPUs may run the task would keep it waiting for ever.
 */
static u32 home_of(struct task_struct *p, struct task_ctx *taskc)
{
	u32 here;

	if (may_run_in(p, taskc->home))
		return taskc->home;
	here = domain_of_cpu(scx_bpf_task_cpu(p));
	if (!has_cpu_of(here, p->cpus_ptr))
		here = domain_of_cpu(bpf_cpumask_any_distribute(p->cpus_ptr));
	if (!has_cpu_of(here, p->cpus_ptr))
		return NO_DOMAIN;
	set_home(taskc, here);
	return here;
}

/* `p` is switched in, in domain `d`. */
static void note_run_domain(struct task_struct *p, struct task_ctx *taskc, u32 d)
{
	if (d == taskc->home || no_steal) {
		taskc->away = 0;
		return;
	}
	if (taskc->away_in != d) {
		taskc->away_in = d;
		taskc->away = 0;
	}
	if (++taskc->away >= AWAY_MAX)
		set_home(taskc, d);
}

/*
 * The current task wakes `p`. Two tasks of two domains may wake each other at the same moment and
 * so exchange their homes. The counts then begin anew, and in the end one of the two is first.
 */
static void note_waker(struct task_struct *p, struct task_ctx *taskc)
{
	struct task_ctx *wakerc = task_ctx(bpf_get_current_task_btf());

	if (!wakerc || wakerc->is_thread || no_steal)
		return;
	if (wakerc->home == taskc->home) {
		taskc->pulls = 0;
		return;
	}
	if (taskc->puller != wakerc->home) {
		taskc->puller = wakerc->home;
		taskc->pulls = 0;
	}
	if (++taskc->pulls < PULLS_MAX)
		return;
	taskc->pulls = 0;
	/* It does not move into a crowd. */
	if (scx_bpf_dsq_nr_queued(DSQ_READY | wakerc->home) >
		    scx_bpf_dsq_nr_queued(DSQ_READY | taskc->home) ||
	    !may_run_in(p, wakerc->home))
		return;
	set_home(taskc, wakerc->home);
	wakerc->pulls = 0;
}

/* `p` may use `cpus` from now on, which may leave its home without a CPU for it. */
static void follow_affinity(struct task_ctx *taskc, const struct cpumask *cpus)
{
	u32 here;

	if (has_cpu_of(taskc->home, cpus))
		return;
	here = domain_of_cpu(bpf_cpumask_any_distribute(cpus));
	if (here != NO_DOMAIN)
		set_home(taskc, here);
}

/*
 * A new task has the home of its parent. A task that is older than the scheduler has its home in
 * the domain where it ran.
 */
static u32 first_home(struct task_struct *p, struct scx_init_task_args *args)
{
	struct task_struct *parent;
	struct task_ctx *taskc;
	u32 d;

	if (args->fork) {
		parent = bpf_get_current_task_btf();
		taskc = task_ctx(parent);
		if (taskc && !taskc->is_thread && taskc->home < nr_domains)
			return taskc->home;
	}
	d = domain_of_cpu(scx_bpf_task_cpu(p));
	return d == NO_DOMAIN ? 0 : d;
}

#endif /* MANYLAND_HOME_BPF_H */
