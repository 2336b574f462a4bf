/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The gauges: values of this moment that no path of a task keeps up to date. The process runs the
 * program `gauge` before it reads the statistics, and at no other time.
 *
 * Invariant: nothing here changes what tasks do.
 */
#ifndef MANYLAND_GAUGE_BPF_H
#define MANYLAND_GAUGE_BPF_H

#include "limit.bpf.h"
#include "shares.bpf.h"

/* What is counted over all groups. */
struct group_gauges {
	u32 outliving;
	u32 runnable;
	u32 limited;
	u32 throttled;
};

/* Fills in the gauges of one group, and adds it. Global, so that the verifier checks it once. */
__weak int gauge_group(u32 slot, struct group_gauges *gauges __arg_nonnull)
{
	struct group *group = group_at(slot);
	struct limit *limit = limit_at(slot);
	u64 since;

	if (!group || !limit)
		return 0;
	if (slot && !group->id)
		gauges->outliving += group->tasks;
	else if (groups_are_used())
		group->ran_ns = ran_by_group(slot) - group->ran_before_ns;
	group->throttles = limit->throttles;
	group->throttled_ns = limit->throttled_ns;
	since = READ_ONCE(limit->throttled_since_ns);
	if (since) {
		gauges->throttled++;
		group->throttled_ns += limit_now() - since;
	}
	if (limit->quota_ns)
		gauges->limited++;
	group->runnable = runnable_in(slot);
	gauges->runnable += group->runnable;
	return 0;
}

/*
 * Fills in the gauges that BPF does not keep up to date on the way of a task. The statistics run
 * it.
 */
SEC("syscall")
int gauge(void *unused)
{
	struct domain_ctx *domc;
	struct cpu_ctx *cpuc;
	struct group_gauges groups = {};
	struct part *part;
	u32 i;

	bpf_for(i, 0, nr_domains) {
		domc = domain_at(i);
		if (!domc)
			continue;
		domc->waiting = scx_bpf_dsq_nr_queued(DSQ_WAITING | i);
		domc->ready = scx_bpf_dsq_nr_queued(DSQ_READY | i);
	}
	bpf_for(i, 0, PARTS_MAX) {
		part = bpf_map_lookup_elem(&parts, &i);
		domc = part && part->users ? domain_at(part->domain) : NULL;
		if (!domc)
			continue;
		domc->waiting += scx_bpf_dsq_nr_queued(DSQ_WAITING | (nr_domains + i));
		domc->ready += scx_bpf_dsq_nr_queued(DSQ_READY | (nr_domains + i));
	}
	bpf_for(i, 0, nr_cpus) {
		cpuc = cpu_at(i);
		domc = cpuc ? domain_at(cpuc->domain) : NULL;
		if (domc)
			domc->waiting += scx_bpf_dsq_nr_queued(DSQ_BOUND | i);
	}
	bpf_for(i, 0, group_state.used_slots + 1)
		gauge_group(i, &groups);
	group_state.outliving = groups.outliving;
	group_state.runnable = groups.runnable;
	group_state.limited = groups.limited;
	group_state.throttled = groups.throttled;
	return 0;
}

#endif /* MANYLAND_GAUGE_BPF_H */
