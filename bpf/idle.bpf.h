/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which CPUs are idle, and which of them a task may have.
 *
 * A task claims a CPU from the kernel's own idle masks, by test and clear, so that no two tasks get
 * the same CPU. `domain_ctx.idle` mirrors the masks for user space, which only hints at a CPU.
 *
 * Invariant: a CPU that goes idle sets its bit first and checks the queues afterwards. The function
 * that fills a queue checks the bits afterwards. So one of the two sees the other.
 *
 * There is one gap: the kernel carries out the insertion that ops.enqueue asks for after the
 * callback has returned. There the domain thread's own wake-up finds the CPU, or at the latest the
 * heartbeat does.
 */
#ifndef MANYLAND_IDLE_BPF_H
#define MANYLAND_IDLE_BPF_H

#include "domain_set.bpf.h"

/*
 * An ample bound on the time between the check for an idle CPU in ops.enqueue and the insertion
 * that it asks the kernel for.
 */
#define GAP_NS 10000

u32 part_with_tasks(u32 d, u32 cpu, u32 kind);

/* Whether a CPU belongs to the mask of a domain, of all domains, or of a set (core_kinds.bpf.h). */
static bool is_in_mask(struct cpu_ctx *cpuc, u32 number, bool of_set)
{
	return of_set ? cpuc->set == number : number == nr_domains || cpuc->domain == number;
}

/*
 * Fills a mask with the CPUs of domain `number`, of all domains, or of the set of that number,
 * except those that domain threads keep to themselves. For ops.init.
 */
static s32 create_mask(struct domain_mask *m, u32 number, bool of_set)
{
	struct bpf_cpumask *mask, *old;
	struct cpu_ctx *cpuc;
	u32 cpu;

	if (!m)
		return -ENOENT;
	mask = bpf_cpumask_create();
	if (!mask)
		return -ENOMEM;
	bpf_for(cpu, 0, nr_cpus) {
		cpuc = cpu_at(cpu);
		if (cpuc && cpuc->domain != NO_DOMAIN && !cpuc->dedicated &&
		    is_in_mask(cpuc, number, of_set))
			bpf_cpumask_set_cpu(cpu, mask);
	}
	old = bpf_kptr_xchg(&m->mask, mask);
	if (old)
		bpf_cpumask_release(old);
	return 0;
}

static const struct cpumask *domain_mask(u32 d)
{
	struct domain_mask *m = bpf_map_lookup_elem(&masks, &d);

	return m && m->mask ? (const struct cpumask *)m->mask : NULL;
}

/*
 * Whether `p` may use every CPU that domains offer. The numbers answer for most tasks. Others are
 * bound to many CPUs, as the tasks of a container are: to the online ones, of more possible ones.
 */
static bool may_run_anywhere(struct task_struct *p)
{
	const struct cpumask *all;

	if (p->nr_cpus_allowed >= nr_possible_cpus)
		return true;
	if (p->nr_cpus_allowed < nr_offered_cpus)
		return false;
	all = domain_mask(nr_domains);
	return all && bpf_cpumask_subset(all, p->cpus_ptr);
}

static bool any_idle(struct domain_ctx *domc)
{
	return READ_ONCE(domc->nr_idle) > 0;
}

/* A CPU of domain `d` is idle. */
static void count_idle(struct domain_ctx *domc, u32 d)
{
	if (!__sync_fetch_and_add(&domc->nr_idle, 1))
		add_to(&idle_domains, d);
}

static void uncount_idle(struct domain_ctx *domc, u32 d)
{
	if (__sync_fetch_and_sub(&domc->nr_idle, 1) == 1)
		remove_from(&idle_domains, d, &domc->nr_idle);
}

/* Whether another domain has an idle CPU. */
static bool any_idle_elsewhere(u32 d)
{
	return has_others(&idle_domains, d);
}

/*
 * Not inlined: the compiler may otherwise check one copy of the number and use another, which the
 * verifier refuses.
 */
static __noinline bool is_idle(s32 cpu)
{
	struct domain_ctx *domc = domain_at(domain_of_cpu(cpu));
	u32 word = (u32)cpu / 64;

	return domc && word < CPU_WORDS && domc->idle[word] & 1ULL << (cpu % 64);
}

/*
 * For ops.enqueue of a task whose run queue is that of `cpu`: makes the CPU check the queues if it
 * is idle. The callback holds the lock of that run queue until the task is on its DSQ. So the CPU
 * is idle already, or it will check the queues afterwards by itself. In the second case a kick
 * would only cost an interrupt.
 */
static void kick_if_idle(s32 cpu)
{
	if (is_idle(cpu))
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

/*
 * Whether tasks of domain `d`, or bound to `cpu`, wait for a decision or are ready. Global, so that
 * the verifier checks it once.
 */
__weak bool others_wait(u32 cpu, u32 d)
{
	return scx_bpf_dsq_nr_queued(DSQ_WAITING | d) > 0 ||
	       scx_bpf_dsq_nr_queued(DSQ_READY | d) > 0 ||
	       part_with_tasks(d, cpu, DSQ_READY) != NO_PART ||
	       part_with_tasks(d, cpu, DSQ_WAITING) != NO_PART || has_tasks_of_its_own(cpu);
}

/*
 * Whether a task has to queue although a CPU is idle. Its home is `d`, and it may be bound to
 * `cpu`. With --strict it must not overtake tasks that wait for a decision, or for the CPU that was
 * kicked for them.
 */
static bool must_queue(u32 cpu, u32 d)
{
	return strict && others_wait(cpu, d);
}

/*
 * Whether the kernel has an idle CPU in `mask`. The mirror counts a claimed CPU as idle until a
 * task runs there, and this check costs less than a claim in vain.
 */
static bool has_idle(const struct cpumask *mask)
{
	const struct cpumask *idle = scx_bpf_get_idle_cpumask();
	bool found = bpf_cpumask_intersects(mask, idle);

	scx_bpf_put_idle_cpumask(idle);
	return found;
}

/* Whether the kernel has an idle CPU at all. */
static bool has_any_idle(void)
{
	const struct cpumask *idle = scx_bpf_get_idle_cpumask();
	bool found = !bpf_cpumask_empty(idle);

	scx_bpf_put_idle_cpumask(idle);
	return found;
}

/*
 * Claims an idle CPU of domain `d` that `p` may use, or returns a negative number. A CPU near
 * `prev_cpu` and one on a whole idle core come first. For ops.select_cpu and ops.enqueue.
 */
static s32 claim_idle(struct task_struct *p, u32 d, s32 prev_cpu, u64 wake_flags)
{
	const struct cpumask *mask = domain_mask(d);
	s32 cpu;

	if (!mask || !has_idle(mask))
		return -1;
	if (__COMPAT_HAS_scx_bpf_select_cpu_and)
		return scx_bpf_select_cpu_and(p, prev_cpu, wake_flags, mask, 0);

	/*
	 * Linux 6.16 and older search in one mask only. So except for its last CPU, a task must be
	 * allowed the whole domain.
	 */
	if (bpf_cpumask_test_cpu(prev_cpu, mask) && bpf_cpumask_test_cpu(prev_cpu, p->cpus_ptr) &&
	    scx_bpf_test_and_clear_cpu_idle(prev_cpu))
		return prev_cpu;
	if (!bpf_cpumask_subset(mask, p->cpus_ptr))
		return -1;
	cpu = scx_bpf_pick_idle_cpu(mask, SCX_PICK_IDLE_CORE);
	return cpu >= 0 ? cpu : scx_bpf_pick_idle_cpu(mask, 0);
}

/* Claims an idle CPU for `p` in the nearest of the other domains that has one. */
static s32 claim_idle_elsewhere(struct task_struct *p, u32 d, s32 prev_cpu, u64 wake_flags)
{
	struct neighbours *neighbours = bpf_map_lookup_elem(&neighbours_of, &d);
	struct domain_walk walk = start_walk();
	struct domain_ctx *domc;
	u32 i, other;
	s32 cpu;

	if (!neighbours || !has_any_idle())
		return -1;
	bpf_for(i, 0, nr_domains - 1) {
		other = next_in(&idle_domains, neighbours, &walk);
		if (other == NO_DOMAIN)
			break;
		domc = domain_at(other);
		if (!domc || !any_idle(domc))
			continue;
		cpu = claim_idle(p, other, prev_cpu, wake_flags & ~SCX_WAKE_SYNC);
		if (cpu >= 0)
			return cpu;
	}
	return -1;
}

/* Wakes up to `most` idle CPUs of a domain, so that they check its queues. */
static void kick_idle(struct domain_ctx *domc, u32 d, u32 most)
{
	const struct cpumask *mask = domain_mask(d);
	u32 i;
	s32 cpu;

	if (!mask)
		return;
	bpf_for(i, 0, most) {
		if (!any_idle(domc))
			return;
		cpu = scx_bpf_pick_idle_cpu(mask, 0);
		if (cpu < 0)
			return;
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
	}
}

/*
 * Wakes an idle CPU of the nearest domain but `d` that has one. The search leaves out some of the
 * nearest: `skip`, counted round and round.
 */
static void kick_idle_elsewhere(u32 d, u32 skip)
{
	struct neighbours *neighbours = bpf_map_lookup_elem(&neighbours_of, &d);
	struct domain_ctx *domc;
	u32 i;

	if (!neighbours || nr_domains < 2)
		return;
	bpf_for(i, skip % (nr_domains - 1), nr_domains - 1) {
		if (i >= MAX_DOMAINS)
			break;
		domc = domain_at(neighbours->nearest[i]);
		if (domc && any_idle(domc)) {
			kick_idle(domc, neighbours->nearest[i], 1);
			break;
		}
	}
}

/*
 * Whether the kernel may be about to insert a task that became ready by an earlier decision
 * (standing.bpf.h). That is the gap of this file's invariant, and no thread wakes up for such a
 * task. So the CPU checks the queues once more.
 */
static bool just_stood(struct domain_ctx *domc)
{
	return (s64)(scx_bpf_now() - READ_ONCE(domc->stood_ns)) < (s64)GAP_NS;
}

/* Whether the thread has submitted decisions that no CPU has drained to the end. */
static bool is_undrained(struct domain_ctx *domc)
{
	return READ_ONCE(domc->submitted) != READ_ONCE(domc->drained);
}

/*
 * A CPU has found nothing to run. If it was idle before, ops.update_idle does not come. At attach
 * that callback has not come for any CPU, so the mirror learns of the idle ones here. A filler may
 * have checked the bit before it was set, so the CPU checks the queues once more.
 */
static void note_still_idle(s32 cpu, struct cpu_ctx *cpuc, struct domain_ctx *domc)
{
	u32 word = (u32)cpu / 64;
	u64 bit = 1ULL << ((u32)cpu % 64);

	if (cpuc->dedicated || word >= CPU_WORDS || domc->idle[word] & bit ||
	    bpf_get_current_task_btf()->pid)
		return;
	if (__sync_fetch_and_or(&domc->idle[word], bit) & bit)
		return;
	count_idle(domc, cpuc->domain);
	scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

void BPF_STRUCT_OPS(manyland_update_idle, s32 cpu, bool idle)
{
	struct cpu_ctx *cpuc = cpu_at(cpu);
	struct domain_ctx *domc;
	u32 word;
	u64 bit;

	if (!cpuc || cpuc->dedicated)
		return;
	domc = domain_at(cpuc->domain);
	word = (u32)cpu / 64;
	if (!domc || word >= CPU_WORDS)
		return;
	bit = 1ULL << (cpu % 64);
	if (!idle) {
		if (__sync_fetch_and_and(&domc->idle[word], ~bit) & bit)
			uncount_idle(domc, cpuc->domain);
		return;
	}
	if (!(__sync_fetch_and_or(&domc->idle[word], bit) & bit))
		count_idle(domc, cpuc->domain);
	if (scx_bpf_dsq_nr_queued(DSQ_READY | cpuc->domain) > 0 || may_have_own(cpuc) ||
	    READ_ONCE(domc->state) == THREAD_PARKED || is_undrained(domc) || just_stood(domc) ||
	    (READ_ONCE(domc->parts) && part_with_tasks(cpuc->domain, cpu, DSQ_READY) != NO_PART))
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

#endif /* MANYLAND_IDLE_BPF_H */
