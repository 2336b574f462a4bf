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
#include "wanted.bpf.h"

/* A domain with more tasks in its queues than this for each CPU has more load than one with none. */
#define CROWDED_PER_CPU 2

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
 * Whether the first task of a queue has at least this weight. If not `any`, it must be one that soon
 * sleeps, too.
 */
static __noinline bool head_weighs(u64 dsq, u32 weight, bool any)
{
	struct bpf_iter_scx_dsq it;
	struct task_struct *p;
	struct task_ctx *taskc;
	bool weighs = false;

	if (!bpf_iter_scx_dsq_new(&it, dsq, 0)) {
		p = bpf_iter_scx_dsq_next(&it);
		taskc = p ? task_ctx(p) : NULL;
		weighs = taskc && taskc->weight >= weight && (any || sleeps_soon(taskc->usual_ns));
	}
	bpf_iter_scx_dsq_destroy(&it);
	return weighs;
}

/*
 * The task on a CPU, of this weight, would go on. One of another domain that is not lighter has the
 * CPU for a slice instead if it soon sleeps, or if its domain has clearly more load, by the last
 * samples or by the tasks in its queues: three tasks on two CPUs, which no move for good makes even.
 */
static bool is_worth_a_slice(struct domain_ctx *own_domc, struct domain_ctx *domc, u32 other,
			     u32 weight)
{
	u64 ready = DSQ_READY | other, waiting = DSQ_WAITING | other;
	bool fuller = domc->load > own_domc->load + own_domc->load / LOAD_MARGIN ||
		      scx_bpf_dsq_nr_queued(ready) + scx_bpf_dsq_nr_queued(waiting) >
			      (s32)(CROWDED_PER_CPU * domc->nr_cpus);

	weight -= weight / 8;
	return head_weighs(ready, weight, fuller) || head_weighs(waiting, weight, fuller);
}

/* What a CPU has found in another domain. */
enum help {
	HELP_NOTHING, /* it goes on to the next domain */
	HELP_RUNS, /* a task runs on it */
	HELP_ASKED, /* the thread of its domain is asked to decide for a task */
};

/*
 * `cpu` helps domain `other`: it carries out what the thread there has decided, and runs a ready task.
 * A task may wait there because that domain's thread itself waits for a CPU. Then the thread of the
 * CPU's own domain is asked to decide; if neither comes, the task runs undecided. `weight` is that of the
 * task on the CPU, if it could go on, or 0.
 *
 * Global, so that the verifier checks it once and not for each state of the walk.
 */
__weak int help(u32 other, s32 cpu, u64 now, u32 weight)
{
	struct domain_ctx *domc = domain_at(other), *own_domc;
	struct cpu_ctx *cpuc = cpu_at(cpu);
	u32 part, d;

	if (!domc || !cpuc)
		return HELP_NOTHING;
	d = cpuc->domain;
	own_domc = domain_at(d);
	if (!own_domc)
		return HELP_NOTHING;
	if (is_undrained(domc))
		drain_decisions(other, cpu);
	if (!READ_ONCE(domc->has_work) ||
	    (weight && !is_worth_a_slice(own_domc, domc, other, weight)))
		return HELP_NOTHING;
	if (run_from(DSQ_READY | other))
		return HELP_RUNS;
	if (READ_ONCE(domc->parts)) {
		part = part_with_tasks(other, cpu, DSQ_READY);
		if (part != NO_PART && run_from(DSQ_READY | (nr_domains + part)))
			return HELP_RUNS;
	}
	if (scx_bpf_dsq_nr_queued(DSQ_WAITING | other) <= 0 || domc->state == THREAD_RUNNING ||
	    is_undrained(domc))
		return HELP_NOTHING;
	if (is_at_hand(own_domc, now))
		return ask_for(DSQ_WAITING | other, d, cpu) ? HELP_ASKED : HELP_NOTHING;
	return is_away(domc, now) && run_from(DSQ_WAITING | other) ? HELP_RUNS : HELP_NOTHING;
}

/* Helps the nearest other domain that has work for the CPU. */
static __always_inline bool run_from_nearest(u32 d, s32 cpu, u64 now, u32 weight)
{
	struct neighbours *neighbours = bpf_map_lookup_elem(&neighbours_of, &d);
	struct domain_walk walk = start_walk();
	u32 i, other;
	int found;

	if (!neighbours)
		return false;
	bpf_for(i, 0, nr_domains - 1) {
		other = next_in(&working_domains, neighbours, &walk);
		if (other == NO_DOMAIN)
			break;
		found = help(other, cpu, now, weight);
		if (found != HELP_NOTHING)
			return found == HELP_RUNS;
	}
	return false;
}

/* Step 5 of ops.dispatch: nothing here can run, so a task of another domain does. */
static __always_inline bool run_from_others(s32 cpu, struct cpu_ctx *cpuc, u32 d, u64 now,
					    struct task_struct *prev)
{
	struct task_ctx *taskc;

	if (strict || no_steal || cpuc->dedicated)
		return false;
	if (groups_are_used() && is_awaited(cpu, cpuc))
		return false;
	/* A task of SCHED_IDLE keeps its CPU from none. */
	taskc = !cpuc->idle_class && may_go_on(prev, cpu, cpuc) ? task_ctx(prev) : NULL;
	return run_from_nearest(d, cpu, now, taskc ? taskc->weight : 0);
}

#endif /* MANYLAND_STEAL_BPF_H */
