/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Kernel to domain thread: a task that waits becomes a notice in the ring of its domain.
 *
 * Each side writes before it reads, so no wake-up is lost:
 *   - the thread sets `domain_ctx.sleeping`, then checks the ring once more;
 *   - BPF reserves a record in the ring, a locked operation, then reads `sleeping`.
 * Either the thread sees the record, or BPF sees the flag and wakes the thread.
 *
 * Invariant: a task has at most one notice for each generation, which `seq` numbers. A second one
 * has one of two causes:
 *   - a decision was bounced;
 *   - a CPU without work in another domain asks the thread there to decide as well.
 */
#ifndef MANYLAND_NOTIFY_BPF_H
#define MANYLAND_NOTIFY_BPF_H

#include "crowd.bpf.h"
#include "domain_thread.bpf.h"
#include "part.bpf.h"

/* The cgroup of `p`, by the inode number of its directory under /sys/fs/cgroup. */
static u64 cgroup_of(struct task_struct *p)
{
	return bpf_core_field_exists(p->cgroups) ? p->cgroups->dfl_cgrp->kn->id : 0;
}

/*
 * The virtual time of the crowd that a task of domain `d` is of; 0: of none. Global, so that the
 * verifier checks it once.
 */
__weak u64 notice_vtime(struct task_ctx *taskc __arg_nonnull, u32 d, u32 flags)
{
	u32 slot = part_in(taskc, d);

	if (flags & NOTICE_BOUND)
		return policy_vtime_of(d, d, taskc->waits_on & ~DSQ_KIND);
	return flags & NOTICE_PART && slot != NO_PART ? policy_vtime_of(d, nr_domains + slot, -1) :
							0;
}

static void fill(struct notice *m, struct task_struct *p, struct task_ctx *taskc, u32 d, u16 flags)
{
	m->pid = p->pid;
	m->cpu = flags & NOTICE_BOUND ? taskc->waits_on & ~DSQ_KIND : taskc->ran_on;
	m->seq = taskc->seq;
	m->at_ns = taskc->runnable_ns;
	m->used_ns = taskc->used_ns;
	m->burst_ns = taskc->burst_ns;
	m->switches = p->nvcsw;
	m->weight = taskc->weight;
	m->flags = flags | (may_run_anywhere(p) ? NOTICE_ANYWHERE : 0);
	m->decided_by = taskc->decided_by;
	__builtin_memcpy(m->comm, p->comm, sizeof(m->comm));
	m->cgroup = cgroup_of(p);
	m->group = taskc->group;
	m->unused = 0;
	m->vtime = notice_vtime(taskc, d, flags);
	m->carried = taskc->carried;
}

static bool notify_rcu(struct task_struct *p, struct task_ctx *taskc, struct domain_ctx *domc,
		       u32 d, u16 flags)
{
	struct notice_part *part;
	struct notice *m;
	void *ring;

	ring = bpf_map_lookup_elem(&notice_rings, &d);
	if (!ring)
		return false;
	if (flags & NOTICE_BOUND || may_use_whole(p, d)) {
		m = bpf_ringbuf_reserve(ring, sizeof(*m), 0);
		if (!m)
			return false;
		fill(m, p, taskc, d, flags);
		bpf_ringbuf_submit(m, wake_flags_for(domc));
	} else {
		part = bpf_ringbuf_reserve(ring, sizeof(*part), 0);
		if (!part)
			return false;
		fill(&part->notice, p, taskc, d, flags | NOTICE_PART);
		bpf_probe_read_kernel(part->cpus, sizeof(part->cpus), p->cpus_ptr);
		bpf_ringbuf_submit(part, wake_flags_for(domc));
	}
	return true;
}

/*
 * Notifies the thread of domain `d` that `p` waits. False: the ring has no room.
 *
 * Global, so that the verifier checks it once: for each pointer that is read from a task it searches
 * the names of all of the kernel's types.
 */
__weak bool notify(struct task_struct *p __arg_trusted, struct task_ctx *taskc __arg_nonnull, u32 d,
		   u16 flags)
{
	struct domain_ctx *domc = domain_at(d);
	bool notified;

	if (!domc)
		return false;
	/* Its callers have this lock, but the verifier does not see that here. */
	bpf_rcu_read_lock();
	notified = notify_rcu(p, taskc, domc, d, flags);
	bpf_rcu_read_unlock();
	call_to_own_cpu(domc);
	return notified;
}

/*
 * The flags of a second notice of the same generation. A task that has not run since it last slept
 * has just woken up.
 */
static u16 flags_again(struct task_ctx *taskc)
{
	u16 flags = taskc->burst_ns ? 0 : NOTICE_WAKEUP;

	return waits_bound(taskc) ? flags | NOTICE_BOUND : flags;
}

#endif /* MANYLAND_NOTIFY_BPF_H */
