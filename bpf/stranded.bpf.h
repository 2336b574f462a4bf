/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Higher scheduling classes have all CPUs of a domain, and no CPU there asks for work any more.
 * CPUs of other domains steal from its queues only when they have nothing else to run, so the
 * heartbeat lets its tasks leave:
 *   - a ready task becomes ready in the emptiest domain, level with the tasks there;
 *   - for a waiting task the thread of that domain is asked to decide as well.
 *
 * Invariant: a task that may use all CPUs of the emptiest domain is not left in a domain whose CPUs
 * do not ask. With --strict or --no-steal it is.
 */
#ifndef MANYLAND_STRANDED_BPF_H
#define MANYLAND_STRANDED_BPF_H

#include "balance.bpf.h"
#include "steal.bpf.h"

/* Moves tasks from READY of domain `d` to that of domain `to`. Answers whether it has moved one. */
static __noinline bool move_ready(u32 d, u32 to)
{
	struct domain_ctx *to_domc = domain_at(to);
	struct bpf_iter_scx_dsq it;
	struct task_struct *p;
	struct task_ctx *taskc;
	bool moved = false;
	u64 vtime;
	u32 i;

	if (!to_domc)
		return false;
	vtime = to_domc->keeps_vtime ? to_domc->policy_vtime : to_domc->ready_vtime;
	if (!bpf_iter_scx_dsq_new(&it, DSQ_READY | d, 0)) {
		bpf_for(i, 0, STRANDED_MAX) {
			p = bpf_iter_scx_dsq_next(&it);
			if (!p)
				break;
			taskc = task_ctx(p);
			if (!taskc || !may_use_whole(p, to))
				continue;
			scx_bpf_dsq_move_set_vtime(&it, vtime);
			if (!scx_bpf_dsq_move_vtime(&it, p, DSQ_READY | to, 0))
				continue;
			taskc->ready_on = DSQ_READY | to;
			set_home(taskc, to);
			moved = true;
		}
	}
	bpf_iter_scx_dsq_destroy(&it);
	return moved;
}

/*
 * For the heartbeat, after sample_loads(): lets tasks leave domain `d` for domain `to`.
 *
 * Global, so that the verifier checks it once.
 */
__weak int evacuate(u32 d, u32 to)
{
	struct domain_ctx *domc = domain_at(d), *to_domc = domain_at(to);
	const struct cpumask *mask;
	bool moved;
	u32 i;
	s32 cpu;

	if (!domc || !to_domc || !domc->stranded || to_domc->stranded)
		return 0;
	/* A timer implies RCU, but Linux before 6.18 does not see that. */
	bpf_rcu_read_lock();
	mask = domain_mask(to);
	cpu = mask ? (s32)bpf_cpumask_any_distribute(mask) : -1;
	moved = move_ready(d, to);
	bpf_for(i, 0, STRANDED_MAX) {
		if (cpu < 0 || !ask_for(DSQ_WAITING | d, to, cpu))
			break;
	}
	if (moved) {
		note_work(to_domc, to);
		kick_idle(to_domc, to, STRANDED_MAX);
	}
	bpf_rcu_read_unlock();
	return 0;
}

#endif /* MANYLAND_STRANDED_BPF_H */
