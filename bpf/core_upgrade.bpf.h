/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A task that has a CPU for itself, and could have a better one.
 *
 * Such a task never asks for a CPU again, so it would remain where a moment's rush has put it. When
 * its slice ends and no other task waits, ops.dispatch checks whether a better core is idle:
 *   - a whole one, if busy SMT siblings share its own;
 *   - one of a preferred kind (core_kinds.bpf.h).
 * If so, ops.dispatch gives the task no new slice. SCX_OPS_ENQ_LAST then makes the kernel pass the
 * task to ops.enqueue, which claims that core.
 *
 * Invariant: moves come to an end. A task on a whole core leaves it only for one of a better kind,
 * and a task that shares its core leaves it only for a whole one. With --strict no task leaves its
 * home in this way; nor with --no-steal, where all cores are of one kind. On a machine without SMT
 * and with one kind of core, none of this runs.
 */
#ifndef MANYLAND_CORE_UPGRADE_BPF_H
#define MANYLAND_CORE_UPGRADE_BPF_H

#include "core_kinds.bpf.h"

/* No core has more CPUs. */
#define SIBLINGS_MAX 8

/* Whether another CPU of the core of `cpu` is in use. */
static bool shares_core(s32 cpu, struct cpu_ctx *cpuc)
{
	const struct cpumask *idle;
	bool shared = false;
	u32 other, i;

	if (!smt)
		return false;
	other = cpuc->sibling;
	idle = scx_bpf_get_idle_cpumask();
	bpf_for(i, 1, SIBLINGS_MAX) {
		if (other == (u32)cpu)
			break;
		if (!bpf_cpumask_test_cpu(other, idle)) {
			shared = true;
			break;
		}
		cpuc = cpu_at(other);
		if (!cpuc)
			break;
		other = cpuc->sibling;
	}
	scx_bpf_put_idle_cpumask(idle);
	return shared;
}

/* Whether a whole core of `mask` that `p` may use is idle, without claiming it. */
static bool has_idle_core(struct task_struct *p, const struct cpumask *mask)
{
	const struct cpumask *cores = scx_bpf_get_idle_smtmask();
	bool found = false;
	s32 cpu;

	if (bpf_cpumask_intersects(mask, cores)) {
		if (bpf_cpumask_subset(mask, p->cpus_ptr)) {
			found = true;
		} else {
			bpf_for(cpu, 0, nr_cpus) {
				if (bpf_cpumask_test_cpu(cpu, mask) &&
				    bpf_cpumask_test_cpu(cpu, cores) &&
				    bpf_cpumask_test_cpu(cpu, p->cpus_ptr)) {
					found = true;
					break;
				}
			}
		}
	}
	scx_bpf_put_idle_cpumask(cores);
	return found;
}

/*
 * A whole idle core of `mask` that `p` may use: claims a CPU of it, or only checks that there is
 * one. Returns a negative number if there is none.
 */
static s32 idle_core(struct task_struct *p, const struct cpumask *mask, s32 cpu, bool claim)
{
	if (claim)
		return claim_in(p, mask, true, cpu);
	return has_idle_core(p, mask) ? 0 : -1;
}

static bool is_better(u32 rank, u32 other)
{
	return prefer_slow ? rank < other : rank > other;
}

/* Whether a step of the table is the one that a task on the CPU of `cpuc` has, or a later one. */
static bool is_reached(struct preference *step, struct cpu_ctx *cpuc, bool shared)
{
	return shared ? step->set == cpuc->set && !step->whole_core :
			!is_better(step->rank, cpuc->rank);
}

/* An idle whole core, by the first step for one that comes before the step that the task has. */
static s32 better_by_kind(struct task_struct *p, u32 home, s32 cpu, bool shared, bool claim)
{
	struct cpu_ctx *cpuc = cpu_at(cpu);
	const struct cpumask *mask;
	struct preference *step;
	s32 better;
	u32 i;

	if (!cpuc)
		return -1;
	bpf_for(i, 0, nr_steps) {
		step = preference_at(home, i);
		if (!step || is_reached(step, cpuc, shared))
			break;
		if (!step->whole_core || (strict && step->domain != home))
			continue;
		mask = set_mask(step->set);
		better = mask ? idle_core(p, mask, cpu, claim) : -1;
		if (better >= 0)
			return better;
	}
	return -1;
}

/*
 * A whole idle core at home or, if the task may leave it, in the nearest other domain that has one.
 */
static s32 whole_core(struct task_struct *p, u32 home, s32 cpu, bool claim)
{
	struct neighbours *neighbours = bpf_map_lookup_elem(&neighbours_of, &home);
	const struct cpumask *mask = domain_mask(home);
	s32 better = mask ? idle_core(p, mask, cpu, claim) : -1;
	struct domain_walk walk = start_walk();
	struct domain_ctx *domc;
	u32 i, other;

	if (better >= 0 || strict || no_steal || !neighbours)
		return better;
	bpf_for(i, 0, nr_domains - 1) {
		other = next_in(&idle_domains, neighbours, &walk);
		if (other == NO_DOMAIN)
			break;
		domc = domain_at(other);
		mask = domain_mask(other);
		if (!domc || !mask || !any_idle(domc))
			continue;
		better = idle_core(p, mask, cpu, claim);
		if (better >= 0)
			return better;
	}
	return -1;
}

/*
 * A better core than that of `cpu`, which `p` has for itself. It claims and returns as idle_core()
 * does.
 */
static s32 better_core(struct task_struct *p, struct task_ctx *taskc, s32 cpu, struct cpu_ctx *cpuc,
		       bool claim)
{
	bool shared;

	if (p->nr_cpus_allowed == 1)
		return -1;
	shared = shares_core(cpu, cpuc);
	if (by_kind)
		return better_by_kind(p, taskc->home, cpu, shared, claim);
	return shared ? whole_core(p, taskc->home, cpu, claim) : -1;
}

/* For ops.dispatch: whether a better core is idle for `p`, which is alone on `cpu`. */
static bool can_upgrade_core(struct task_struct *p, struct task_ctx *taskc, s32 cpu,
			     struct cpu_ctx *cpuc)
{
	return (by_kind || smt) && better_core(p, taskc, cpu, cpuc, false) >= 0;
}

/*
 * For ops.enqueue, after can_upgrade_core(): claims a better core, or returns a negative number if
 * none is idle any more.
 */
static s32 claim_better(struct task_struct *p, struct task_ctx *taskc, s32 cpu)
{
	struct cpu_ctx *cpuc = cpu_at(cpu);

	return cpuc ? better_core(p, taskc, cpu, cpuc, true) : -1;
}

#endif /* MANYLAND_CORE_UPGRADE_BPF_H */
