/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whether other tasks want a CPU: those that wait for a decision and may run there, and those that
 * are ready. What runs there goes on without cost to any task if none does.
 *
 * Invariant: a dedicated CPU is wanted only by tasks that are bound to it, since it runs no other.
 */
#ifndef MANYLAND_WANTED_BPF_H
#define MANYLAND_WANTED_BPF_H

#include "part.bpf.h"
#include "state.bpf.h"

/*
 * Whether a task waits that this CPU may run once it is decided. Ready tasks need no check: the CPU
 * would have run one.
 *
 * Not static, so that the verifier checks it once.
 */
__weak bool is_awaited(u32 cpu, struct cpu_ctx *cpuc __arg_nonnull)
{
	struct domain_ctx *domc = domain_at(cpuc->domain);

	if (scx_bpf_dsq_nr_queued(DSQ_BOUND | cpu) > 0)
		return true;
	if (cpuc->dedicated)
		return false;
	return scx_bpf_dsq_nr_queued(DSQ_WAITING | cpuc->domain) > 0 ||
	       (domc && READ_ONCE(domc->parts) &&
		part_with_tasks(cpuc->domain, cpu, DSQ_WAITING) != NO_PART);
}

/* Whether a task waits for the CPU of `cpuc`, is ready there, or is on the way. */
static bool is_wanted(u32 cpu, struct cpu_ctx *cpuc)
{
	if (is_awaited(cpu, cpuc) || READ_ONCE(cpuc->own_sent) ||
	    scx_bpf_dsq_nr_queued(DSQ_OWN | cpu) > 0)
		return true;
	return !cpuc->dedicated && (scx_bpf_dsq_nr_queued(DSQ_READY | cpuc->domain) > 0 ||
				    part_with_tasks(cpuc->domain, cpu, DSQ_READY) != NO_PART);
}

#endif /* MANYLAND_WANTED_BPF_H */
