/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The kernel's half of stealing: a CPU without work in its domain helps another domain. User
 * space's half is src/domains/handover.rs.
 *
 * Invariant: a task that leaves its home so is ready, or is decided by the thread of the domain
 * that has the CPU. An undecided one leaves only if neither thread comes. With --strict or
 * --no-steal none leaves.
 */
#ifndef MANYLAND_STEAL_BPF_H
#define MANYLAND_STEAL_BPF_H

#include "decisions.bpf.h"

/*
 * Asks the thread of domain `d`, which has `cpu`, to decide for a task in another domain's WAITING.
 * It is the first task there that may run on `cpu` and that no domain was asked for yet. Answers
 * whether the thread was notified of one. The domain that decides first has the task.
 */
static __noinline bool ask_for(u64 waiting, u32 d, s32 cpu)
{
	struct domain_ctx *domc = domain_at(d);
	struct bpf_iter_scx_dsq it;
	struct task_struct *p;
	struct task_ctx *taskc;
	bool asked = false;
	u32 i;

	if (!domc)
		return false;
	if (!bpf_iter_scx_dsq_new(&it, waiting, 0)) {
		bpf_for(i, 0, ASKS_MAX) {
			p = bpf_iter_scx_dsq_next(&it);
			if (!p)
				break;
			taskc = task_ctx(p);
			if (!taskc || taskc->asked_seq == taskc->seq ||
			    !bpf_cpumask_test_cpu(cpu, p->cpus_ptr))
				continue;
			asked = notify(p, taskc, d, flags_again(taskc));
			if (asked)
				taskc->asked_seq = taskc->seq;
			break;
		}
	}
	bpf_iter_scx_dsq_destroy(&it);
	return asked;
}

/*
 * Runs a ready task of the nearest other domain that has one. A task may wait there because that
 * domain's thread itself waits for a CPU. Then the thread of domain `d` is asked to decide; if
 * neither comes, the task runs undecided.
 */
static __noinline bool run_from_nearest(u32 d, s32 cpu, u64 now)
{
	struct neighbours *neighbours = bpf_map_lookup_elem(&neighbours_of, &d);
	struct domain_ctx *own_domc = domain_at(d), *domc;
	u32 i, other, part;

	if (!neighbours || !own_domc)
		return false;
	bpf_for(i, 0, nr_domains - 1) {
		if (i >= MAX_DOMAINS)
			break;
		other = neighbours->nearest[i];
		domc = domain_at(other);
		if (!domc)
			continue;
		if (is_undrained(domc))
			drain_decisions(other, cpu);
		if (!READ_ONCE(domc->has_work))
			continue;
		if (run_from(DSQ_READY | other))
			return true;
		if (READ_ONCE(domc->parts)) {
			part = part_with_tasks(other, cpu, DSQ_READY);
			if (part != NO_PART && run_from(DSQ_READY | (nr_domains + part)))
				return true;
		}
		if (scx_bpf_dsq_nr_queued(DSQ_WAITING | other) <= 0 ||
		    domc->state == THREAD_RUNNING || is_undrained(domc))
			continue;
		if (is_at_hand(own_domc, now)) {
			if (ask_for(DSQ_WAITING | other, d, cpu))
				break;
		} else if (is_away(domc, now) && run_from(DSQ_WAITING | other)) {
			return true;
		}
	}
	return false;
}

/* Step 5 of ops.dispatch: nothing here can run, so a task of another domain does. */
static __always_inline bool run_from_others(s32 cpu, struct cpu_ctx *cpuc, u32 d, u64 now)
{
	if (strict || no_steal || cpuc->dedicated)
		return false;
	if (groups_are_used() && is_awaited(cpu, cpuc))
		return false;
	return run_from_nearest(d, cpu, now);
}

#endif /* MANYLAND_STEAL_BPF_H */
