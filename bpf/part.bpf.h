/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tasks that may use a part of their home's CPUs have queues of their own, a READY and a WAITING
 * for each set of CPUs. Their number is `nr_domains` plus that of the part, instead of the domain's
 * number. Only the CPUs of the set run tasks from there, so no CPU walks past tasks that it may not
 * run.
 *
 *   free --- claim_part(): the first task of the set waits ---> in use, by `users` tasks
 *   in use - leave_part(): affinity, home or end of the last task ---> free
 *
 * There are PARTS_MAX parts, and PARTS_PER_DOMAIN of a domain. A task that finds none free waits as
 * if it were bound to one CPU, another one each time.
 *
 * Invariant: READY and WAITING of a domain hold only tasks that may use all of its CPUs. The set and
 * the domain of a part do not change while it has users, and a task on its queues is one of them.
 */
#ifndef MANYLAND_PART_BPF_H
#define MANYLAND_PART_BPF_H

#include "idle.bpf.h"
#include "vtime.bpf.h"

/* `users` of a part whose set is being written. */
#define PART_CLAIMED (1U << 31)

/* Whether `p` may use every CPU of domain `d`. */
static bool may_use_whole(struct task_struct *p, u32 d)
{
	const struct cpumask *mask;

	if (p->nr_cpus_allowed >= nr_possible_cpus)
		return true;
	mask = domain_mask(d);
	return mask && bpf_cpumask_subset(mask, p->cpus_ptr);
}

static struct part *part_at(u32 slot)
{
	return bpf_map_lookup_elem(&parts, &slot);
}

static u32 cpu_words(void)
{
	u32 words = (nr_cpus + 63) / 64;

	return words < CPU_WORDS ? words : CPU_WORDS;
}

static bool is_part_of(struct part *part, u32 d, const u64 *cpus)
{
	u64 differ = part->domain ^ d;
	u32 i;

	for (i = 0; i < CPU_WORDS; i++)
		differ |= part->cpus[i] ^ cpus[i];
	return !differ;
}

/* Becomes a user of a part that is in use, if its set is this one. */
static bool join_part(struct part *part, u32 d, const u64 *cpus)
{
	u32 users = READ_ONCE(part->users);

	return users && users < PART_CLAIMED && is_part_of(part, d, cpus) &&
	       __sync_val_compare_and_swap(&part->users, users, users + 1) == users;
}

static bool claim_part(struct part *part, u32 slot, u32 d, struct domain_ctx *domc, const u64 *cpus)
{
	if (__sync_val_compare_and_swap(&part->users, 0, PART_CLAIMED))
		return false;
	part->domain = d;
	part->vtime = domc->policy_vtime;
	level_crowd(&part->crowd, domc);
	__builtin_memcpy(part->cpus, cpus, sizeof(part->cpus));
	__sync_lock_test_and_set(&part->users, 1);
	__sync_fetch_and_or(&domc->parts, 1ULL << slot);
	return true;
}

static u32 count_bits(u64 bits)
{
	bits -= bits >> 1 & 0x5555555555555555;
	bits = (bits & 0x3333333333333333) + (bits >> 2 & 0x3333333333333333);
	bits = (bits + (bits >> 4)) & 0x0f0f0f0f0f0f0f0f;
	return bits * 0x0101010101010101 >> 56;
}

/*
 * The part of domain `d` for tasks that may use the same CPUs as `p`, which becomes a user of it.
 * NO_PART: none is free. Global, as what has loops is here, so that the verifier checks it once.
 */
__weak u32 find_part(struct task_struct *p __arg_trusted, u32 d)
{
	struct domain_ctx *domc = domain_at(d);
	u64 cpus[CPU_WORDS] = {};
	struct part *part;
	u64 hash = d;
	u32 i, slot, first;

	if (!domc || bpf_probe_read_kernel(cpus, sizeof(cpus), p->cpus_ptr))
		return NO_PART;
	/* What lies past the machine's CPUs means nothing. */
	for (i = 0; i < CPU_WORDS; i++) {
		if (i >= cpu_words())
			cpus[i] = 0;
		hash = (hash ^ cpus[i]) * 0x9e3779b97f4a7c15;
		hash ^= hash >> 32;
	}
	first = hash;
	bpf_for(i, 0, PART_PROBES) {
		part = part_at((first + i) % PARTS_MAX);
		if (part && join_part(part, d, cpus))
			return (first + i) % PARTS_MAX;
	}
	if (count_bits(READ_ONCE(domc->parts)) >= PARTS_PER_DOMAIN)
		return NO_PART;
	bpf_for(i, 0, PART_PROBES) {
		slot = (first + i) % PARTS_MAX;
		part = part_at(slot);
		if (part && claim_part(part, slot, d, domc, cpus))
			return slot;
	}
	return NO_PART;
}

/* The task is no longer a user of its part: its affinity or its home has changed, or it ends. */
static void leave_part(struct task_ctx *taskc)
{
	struct part *part = taskc->in_part ? part_at(taskc->in_part - 1) : NULL;

	taskc->in_part = 0;
	if (part)
		__sync_fetch_and_sub(&part->users, 1);
}

/* The part that `taskc` is a user of, if that is one of domain `d`. */
static u32 part_in(struct task_ctx *taskc, u32 d)
{
	struct part *part = taskc->in_part ? part_at(taskc->in_part - 1) : NULL;

	return part && part->domain == d ? taskc->in_part - 1 : NO_PART;
}

/*
 * The number of the READY and the WAITING for `p` in domain `d`, its home: that of the domain, or of
 * a part. NO_PART: it has to wait as if it were bound.
 */
static __always_inline u32 queue_of(struct task_struct *p, struct task_ctx *taskc, u32 d)
{
	u32 slot;

	if (may_use_whole(p, d))
		return d;
	slot = part_in(taskc, d);
	if (slot == NO_PART) {
		leave_part(taskc);
		slot = find_part(p, d);
		if (slot == NO_PART)
			return NO_PART;
		taskc->in_part = slot + 1;
	}
	return nr_domains + slot;
}

/* A CPU of domain `d` that `p` may use, `cpu` if it is one. */
static u32 one_cpu_of(struct task_struct *p, u32 d, u32 cpu)
{
	const struct cpumask *mask = domain_mask(d);
	u32 any;

	if (!mask || (cpu < nr_cpus && bpf_cpumask_test_cpu(cpu, mask) &&
		      bpf_cpumask_test_cpu(cpu, p->cpus_ptr)))
		return cpu;
	any = bpf_cpumask_any_and_distribute(mask, p->cpus_ptr);
	return any < nr_cpus ? any : scx_bpf_task_cpu(p);
}

/*
 * The part of domain `d` with tasks on its `kind` of queue that `cpu` may run; of several the one
 * that is furthest behind. NO_PART: there is none.
 *
 * Global, so that the verifier checks it once.
 */
__weak u32 part_with_tasks(u32 d, u32 cpu, u32 kind)
{
	struct domain_ctx *domc = domain_at(d);
	u32 word = cpu / 64, best = NO_PART, i;
	struct part *part;
	u64 bits, vtime = 0;

	if (!domc || word >= CPU_WORDS)
		return NO_PART;
	bits = READ_ONCE(domc->parts);
	bpf_for(i, 0, PARTS_MAX) {
		if (!(bits >> i))
			break;
		if (!(bits >> i & 1))
			continue;
		part = part_at(i);
		if (!part || part->domain != d || !(part->cpus[word] >> (cpu % 64) & 1) ||
		    scx_bpf_dsq_nr_queued(kind | (nr_domains + i)) <= 0)
			continue;
		if (best == NO_PART || before(part->vtime, vtime)) {
			best = i;
			vtime = part->vtime;
		}
	}
	return best;
}

/* An idle CPU of a part, by the mirror. Negative: there is none. */
__weak s32 idle_cpu_of(u32 slot)
{
	struct part *part = part_at(slot);
	struct domain_ctx *domc = part ? domain_at(part->domain) : NULL;
	u64 bits;
	u32 i;

	if (!domc)
		return -1;
	bpf_for(i, 0, cpu_words()) {
		if (i >= CPU_WORDS)
			break;
		bits = part->cpus[i] & domc->idle[i];
		/* The bits below the lowest one. */
		if (bits)
			return i * 64 + count_bits((bits & -bits) - 1);
	}
	return -1;
}

/*
 * Wakes an idle CPU of a part, as `p` is ready there: one that the kernel says is idle, and if it
 * says so of none in the domain, one of the mirror. A CPU that has gone idle is in the mirror first,
 * and one that a kick has woken in vain is there only.
 */
static void kick_for_part(struct task_struct *p, struct domain_ctx *domc, u32 d, u32 slot)
{
	s32 cpu = any_idle(domc) ? scx_bpf_pick_idle_cpu(p->cpus_ptr, 0) : -1;

	if (cpu >= 0)
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
	if (cpu >= 0 && domain_of_cpu(cpu) == d)
		return;
	cpu = idle_cpu_of(slot);
	if (cpu >= 0)
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

#endif /* MANYLAND_PART_BPF_H */
