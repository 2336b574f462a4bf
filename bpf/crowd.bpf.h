/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tasks that may use one CPU only, or the CPUs of one part of a domain, are a crowd: they compete
 * for these CPUs with each other. Where more of them do, less service comes to each, so their
 * virtual times advance more slowly than those of the domain, which follow the fastest of its CPUs.
 * Measured by the domain's, all of them would have the most lag there is, whatever their weights.
 *
 * A crowd has a virtual time of each kind (vtime.bpf.h). It advances to the key of each task of the
 * crowd that begins to run, or goes on undecided. When the first task of a crowd wakes up, the crowd
 * is level with the domain: it has no lag from a time in which it wanted no CPU.
 *
 * The tasks of a crowd and those of the whole domain compete as well. A CPU runs from the queue
 * that is furthest behind, so a crowd that is behind has its CPUs before the others. On a CPU that is
 * dedicated to a domain thread its crowd competes with no other task.
 *
 * Invariant: a virtual time of a crowd is not ahead of the domain's, except on a dedicated CPU.
 */
#ifndef MANYLAND_CROWD_BPF_H
#define MANYLAND_CROWD_BPF_H

#include "part.bpf.h"
#include "vtime.bpf.h"

/*
 * A virtual time, the safety net's or the policy's, for the tasks that wait bound to CPU `bound_to`
 * or, if that is negative, on the WAITING and the READY of number `queue`. If these may use the whole
 * domain it is that of domain `d`. Global, so that the verifier checks it once.
 */
__weak u64 vtime_of(u32 d, u32 queue, s32 bound_to, bool net)
{
	struct domain_ctx *domc = domain_at(d);
	struct cpu_ctx *cpuc;
	struct part *part;

	if (bound_to >= 0) {
		cpuc = cpu_at(bound_to);
		if (cpuc)
			return net ? cpuc->bound.net_vtime : cpuc->bound.policy_vtime;
	} else if (queue >= nr_domains) {
		part = part_at(queue - nr_domains);
		if (part)
			return net ? part->crowd.net_vtime : part->crowd.policy_vtime;
	}
	if (!domc)
		return 0;
	return net ? domc->net_vtime : domc->policy_vtime;
}

static u64 policy_vtime_of(u32 d, u32 queue, s32 bound_to)
{
	return vtime_of(d, queue, bound_to, false);
}

static u64 net_vtime_of(u32 d, u32 queue, s32 bound_to)
{
	return vtime_of(d, queue, bound_to, true);
}

/*
 * A task of domain `d` becomes runnable in such a queue: the first one of a crowd makes it level.
 * Global, so that the verifier checks it once.
 */
__weak int join_crowd(u32 d, u32 queue, s32 bound_to)
{
	struct domain_ctx *domc = domain_at(d);
	struct cpu_ctx *cpuc;
	struct part *part;

	if (!domc)
		return 0;
	if (bound_to >= 0) {
		cpuc = cpu_at(bound_to);
		if (cpuc && !cpuc->runs_bound && !has_tasks_of_its_own(bound_to))
			level_bound(cpuc, domc);
	} else if (queue >= nr_domains) {
		part = part_at(queue - nr_domains);
		if (part && scx_bpf_dsq_nr_queued(DSQ_READY | queue) <= 0 &&
		    scx_bpf_dsq_nr_queued(DSQ_WAITING | queue) <= 0)
			level_crowd(&part->crowd, domc);
	}
	return 0;
}

/* The later of two keys, but not one after `most` if there is a limit. */
static u64 advanced(u64 vtime, u64 key, u64 most, bool limited)
{
	if (before(vtime, key))
		vtime = key;
	return limited && before(most, vtime) ? most : vtime;
}

/*
 * `p`, of this crowd, is switched in. The virtual times advance to its keys. If it runs undecided,
 * its last decision says what the policy's would be.
 */
static __always_inline void advance_crowd(struct crowd *crowd, struct task_struct *p,
					  struct task_ctx *taskc, struct domain_ctx *domc, u32 d,
					  bool limited)
{
	u64 vtime;

	crowd->net_vtime = advanced(crowd->net_vtime, taskc->vtime, domc->net_vtime, limited);
	if (is_ready(taskc))
		vtime = (taskc->ready_on & DSQ_KIND) == DSQ_OVERTAKES ? taskc->policy_vtime :
									p->scx.dsq_vtime;
	else if (is_waiting(taskc) && taskc->vtime_rate && taskc->decided_by == d)
		vtime = policy_vtime_now(taskc);
	else
		return;
	crowd->policy_vtime = advanced(crowd->policy_vtime, vtime, domc->policy_vtime, limited);
}

/* `p` is switched in on the CPU of `cpuc`, and may be of a crowd. */
static __noinline int begin_in_crowd(struct task_struct *p, struct task_ctx *taskc __arg_nonnull,
				     struct cpu_ctx *cpuc __arg_nonnull)
{
	struct domain_ctx *domc = domain_at(cpuc->domain);
	struct part *part;

	cpuc->runs_bound = p->nr_cpus_allowed == 1 || waits_bound(taskc);
	if (!domc || taskc->free)
		return 0;
	if (cpuc->runs_bound) {
		advance_crowd(&cpuc->bound, p, taskc, domc, cpuc->domain, !cpuc->dedicated);
	} else if (taskc->in_part) {
		part = part_at(part_in(taskc, cpuc->domain));
		if (part)
			advance_crowd(&part->crowd, p, taskc, domc, cpuc->domain, true);
	}
	return 0;
}

/*
 * A task goes on undecided on the CPU of `cpuc`, of domain `domc`. Its crowd's virtual time advances to
 * its vtime. It does not begin anew, and a vtime counts for no more than a limited distance from the
 * crowd's: it would go on for as long as it was once behind the others.
 */
static void go_on_in_crowd(struct task_ctx *taskc, struct cpu_ctx *cpuc, struct domain_ctx *domc)
{
	struct part *part;

	if (cpuc->runs_bound) {
		cpuc->bound.net_vtime = advanced(cpuc->bound.net_vtime, taskc->vtime,
						 domc->net_vtime, !cpuc->dedicated);
	} else if (taskc->in_part) {
		part = part_at(part_in(taskc, cpuc->domain));
		if (part)
			part->crowd.net_vtime = advanced(part->crowd.net_vtime, taskc->vtime,
							 domc->net_vtime, true);
	}
}

#endif /* MANYLAND_CROWD_BPF_H */
