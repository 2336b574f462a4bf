/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Kinds of core: which idle CPU a task gets where they are not all alike.
 *
 * The loader writes a table of preferences, which src/topology/preference.rs computes. It has a
 * list of steps for each home domain. A step names a set of CPUs, all of one kind and in one
 * domain, and says whether a whole idle core is wanted.
 *
 * This file only walks the table. core_upgrade.bpf.h walks it for tasks that have a CPU already.
 * User space chooses CPUs by the same table.
 *
 * Invariant: a CPU that is claimed here is one that `p` may use and that tasks may have; the sets
 * hold no dedicated CPU. Where all cores are of one kind, `by_kind` is false and none of this runs.
 */
#ifndef MANYLAND_CORE_KINDS_BPF_H
#define MANYLAND_CORE_KINDS_BPF_H

#include "idle.bpf.h"

static const struct cpumask *set_mask(u32 set)
{
	struct domain_mask *m = bpf_map_lookup_elem(&set_masks, &set);

	return m && m->mask ? (const struct cpumask *)m->mask : NULL;
}

static struct preference *preference_at(u32 home, u32 i)
{
	u32 key = home * nr_steps + i;

	return bpf_map_lookup_elem(&preferences, &key);
}

static bool core_is_idle(s32 cpu)
{
	const struct cpumask *cores = scx_bpf_get_idle_smtmask();
	bool idle = bpf_cpumask_test_cpu(cpu, cores);

	scx_bpf_put_idle_cpumask(cores);
	return idle;
}

/*
 * Claims an idle CPU of `mask` that `p` may use, `prev_cpu` first. It does not call
 * scx_bpf_select_cpu_and(): on kernels without is_bpf_migration_disabled(), that function assumes
 * that a running task must not migrate.
 */
static s32 claim_in(struct task_struct *p, const struct cpumask *mask, bool whole_core,
		    s32 prev_cpu)
{
	s32 cpu;

	if (bpf_cpumask_test_cpu(prev_cpu, mask) && bpf_cpumask_test_cpu(prev_cpu, p->cpus_ptr) &&
	    (!whole_core || core_is_idle(prev_cpu)) && scx_bpf_test_and_clear_cpu_idle(prev_cpu))
		return prev_cpu;
	if (p->nr_cpus_allowed >= nr_possible_cpus || bpf_cpumask_subset(mask, p->cpus_ptr))
		return scx_bpf_pick_idle_cpu(mask, whole_core ? SCX_PICK_IDLE_CORE : 0);
	bpf_for(cpu, 0, nr_cpus) {
		if (bpf_cpumask_test_cpu(cpu, mask) && bpf_cpumask_test_cpu(cpu, p->cpus_ptr) &&
		    (!whole_core || core_is_idle(cpu)) && scx_bpf_test_and_clear_cpu_idle(cpu))
			return cpu;
	}
	return -1;
}

/* Claims the most preferred idle CPU for `p`, with --strict in its home domain only. */
static s32 claim_preferred(struct task_struct *p, u32 home, s32 prev_cpu)
{
	const struct cpumask *mask;
	struct domain_ctx *domc;
	struct preference *step;
	u32 i;
	s32 cpu;

	bpf_for(i, 0, nr_steps) {
		step = preference_at(home, i);
		if (!step)
			break;
		if (strict && step->domain != home)
			continue;
		domc = domain_at(step->domain);
		mask = set_mask(step->set);
		if (!domc || !mask || !any_idle(domc))
			continue;
		cpu = claim_in(p, mask, step->whole_core, prev_cpu);
		if (cpu >= 0)
			return cpu;
	}
	return -1;
}

static s32 create_set_masks(void)
{
	s32 err;
	u32 set;

	bpf_for(set, 0, nr_sets) {
		err = create_mask(bpf_map_lookup_elem(&set_masks, &set), set, true);
		if (err)
			return err;
	}
	return 0;
}

#endif /* MANYLAND_CORE_KINDS_BPF_H */
