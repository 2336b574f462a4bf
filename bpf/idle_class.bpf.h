/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * CPUs that run tasks of SCHED_IDLE, or of an idle group (cpu.idle). For all other tasks that wake up
 * they are as good as idle ones, at home first. Below, such tasks are those of SCHED_IDLE.
 *
 * A CPU sets its bit in a mask of its domain while it runs such a task. ops.select_cpu clears the
 * bit of the CPU that it chooses, so that no two tasks choose the same one. ops.enqueue holds the
 * lock of that CPU's run queue, and puts the woken task before the other one if that still runs.
 *
 * Invariant: a domain's `nr_idle_class` is the number of bits that are set in its mask.
 */
#ifndef MANYLAND_IDLE_CLASS_BPF_H
#define MANYLAND_IDLE_CLASS_BPF_H

#include "domain_set.bpf.h"
#include "groups.bpf.h"
#include "preempt.bpf.h"

/* From the kernel's headers, which are not part of its type information. */
#define SCHED_IDLE 5

/* A task of SCHED_IDLE, or of a group that is idle or is below one that is. */
static bool is_idle_class(struct task_struct *p, struct task_ctx *taskc)
{
	struct group *group;

	if (p->policy == SCHED_IDLE)
		return true;
	group = groups_are_used() ? group_at(taskc->group) : NULL;
	return group && READ_ONCE(group->below_idle);
}

/* Makes the mask of a domain. For ops.init. */
static s32 create_idle_class_mask(u32 d)
{
	struct domain_mask *m = bpf_map_lookup_elem(&masks, &d);
	struct bpf_cpumask *mask, *old;

	if (!m)
		return -ENOENT;
	mask = bpf_cpumask_create();
	if (!mask)
		return -ENOMEM;
	old = bpf_kptr_xchg(&m->idle_class, mask);
	if (old)
		bpf_cpumask_release(old);
	return 0;
}

/* Clears the bit of `cpu`, and answers whether it was set. */
static __noinline bool take_off_idle_class(u32 d, s32 cpu)
{
	struct domain_mask *m = bpf_map_lookup_elem(&masks, &d);
	struct bpf_cpumask *mask = m ? m->idle_class : NULL;
	struct domain_ctx *domc = domain_at(d);

	if (!mask || !domc || !bpf_cpumask_test_and_clear_cpu(cpu, mask))
		return false;
	if (__sync_fetch_and_sub(&domc->nr_idle_class, 1) == 1)
		remove_from(&idle_class_domains, d, &domc->nr_idle_class);
	return true;
}

/* The CPU begins to run a task of SCHED_IDLE. */
static __noinline int begin_idle_class(s32 cpu)
{
	struct cpu_ctx *cpuc = cpu_at(cpu);
	u32 d = cpuc ? cpuc->domain : NO_DOMAIN;
	struct domain_mask *m = bpf_map_lookup_elem(&masks, &d);
	struct bpf_cpumask *mask = m ? m->idle_class : NULL;
	struct domain_ctx *domc = domain_at(d);

	if (no_preempt || !cpuc || cpuc->dedicated || !mask || !domc)
		return 0;
	cpuc->idle_class = 1;
	if (!has_idle_class)
		has_idle_class = true;
	if (!bpf_cpumask_test_and_set_cpu(cpu, mask) &&
	    !__sync_fetch_and_add(&domc->nr_idle_class, 1))
		add_to(&idle_class_domains, d);
	return 0;
}

/* It runs that task no longer. */
static void end_idle_class(struct cpu_ctx *cpuc, s32 cpu)
{
	if (!cpuc->idle_class)
		return;
	cpuc->idle_class = 0;
	take_off_idle_class(cpuc->domain, cpu);
}

/*
 * The task on `cpu` goes on with another slice. Its group may be idle since it began to run, or no
 * longer, and weigh more or less.
 */
static __noinline int follow_group(struct task_struct *p, struct task_ctx *taskc,
				   struct cpu_ctx *cpuc, s32 cpu)
{
	bool idle;

	if (!groups_are_used())
		return 0;
	cpuc->weight = effective_weight(p, taskc);
	idle = is_idle_class(p, taskc);
	if (idle && !cpuc->idle_class)
		begin_idle_class(cpu);
	else if (!idle)
		end_idle_class(cpuc, cpu);
	return 0;
}

/* Chooses a CPU of domain `d` that `p` may use and that runs a task of SCHED_IDLE, or none (-1). */
static __noinline s32 choose_idle_class_in(struct task_struct *p, u32 d)
{
	struct domain_mask *m = bpf_map_lookup_elem(&masks, &d);
	struct domain_ctx *domc = domain_at(d);
	struct bpf_cpumask *mask;
	u32 cpu;

	if (!m || !domc || !READ_ONCE(domc->nr_idle_class))
		return -1;
	mask = m->idle_class;
	if (!mask)
		return -1;
	cpu = bpf_cpumask_any_and_distribute((const struct cpumask *)mask, p->cpus_ptr);
	return cpu < nr_cpus && take_off_idle_class(d, cpu) ? (s32)cpu : -1;
}

/* The same in the nearest of the other domains that has one. */
static __noinline s32 choose_idle_class_elsewhere(struct task_struct *p, u32 d)
{
	struct neighbours *neighbours = bpf_map_lookup_elem(&neighbours_of, &d);
	struct domain_walk walk = start_walk();
	u32 i, other;
	s32 cpu;

	if (!neighbours)
		return -1;
	bpf_for(i, 0, nr_domains - 1) {
		other = next_in(&idle_class_domains, neighbours, &walk);
		if (other == NO_DOMAIN)
			break;
		cpu = choose_idle_class_in(p, other);
		if (cpu >= 0)
			return cpu;
	}
	return -1;
}

/*
 * For ops.select_cpu, where no CPU of the domain `d` is idle: the CPU on which `p` goes before a
 * task of SCHED_IDLE. The previous one comes first. Negative: there is none.
 */
static s32 choose_idle_class(struct task_struct *p, struct task_ctx *taskc, u32 d, s32 prev_cpu)
{
	struct cpu_ctx *cpuc = cpu_at(prev_cpu);
	s32 cpu;

	if (!has_idle_class || no_preempt || strict || p->nr_cpus_allowed == 1 ||
	    is_idle_class(p, taskc))
		return -1;
	if (cpuc && cpuc->idle_class && cpuc->domain == d &&
	    bpf_cpumask_test_cpu(prev_cpu, p->cpus_ptr) && take_off_idle_class(d, prev_cpu))
		cpu = prev_cpu;
	else
		cpu = choose_idle_class_in(p, d);
	if (cpu >= 0)
		taskc->goes_before = GOES_BEFORE_IDLE_CLASS;
	return cpu;
}

/* The same where no CPU of any domain is idle. */
static s32 choose_idle_class_outside(struct task_struct *p, struct task_ctx *taskc, u32 d)
{
	s32 cpu;

	if (!has_idle_class || no_preempt || strict || no_steal || is_idle_class(p, taskc))
		return -1;
	cpu = choose_idle_class_elsewhere(p, d);
	if (cpu >= 0)
		taskc->goes_before = GOES_BEFORE_IDLE_CLASS;
	return cpu;
}

/* Whether the CPU of the run queue that is locked runs a task of SCHED_IDLE, which then gives way. */
static bool cut_idle_class(s32 cpu)
{
	struct cpu_ctx *cpuc = cpu_at(cpu);

	if (no_preempt || !cpuc || !cpuc->idle_class || !cpuc->running || is_cut(cpuc))
		return false;
	give_way(cpuc, GIVES_WAY_TO_WOKEN);
	return true;
}

/*
 * For ops.enqueue of a task that wakes up or is new: whether the CPU of the run queue that is locked
 * runs a task of SCHED_IDLE, which then gives way to `p`.
 */
static bool overtakes_idle_class(struct task_struct *p, struct task_ctx *taskc, s32 cpu,
				 u64 enq_flags)
{
	bool chosen = taskc->goes_before == GOES_BEFORE_IDLE_CLASS;

	if (chosen)
		taskc->goes_before = GOES_BEFORE_NONE;
	return has_idle_class && !strict && (chosen || enq_flags & SCX_ENQ_WAKEUP) &&
	       !is_idle_class(p, taskc) && cut_idle_class(cpu);
}

#endif /* MANYLAND_IDLE_CLASS_BPF_H */
