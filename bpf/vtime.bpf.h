/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Who has used how much, and the keys by which the queues are ordered.
 *
 * A domain has two virtual times: that of the safety net (WAITING and BOUND) and that of its policy
 * (READY and OWN). Each advances with the tasks that its own queues start, and by what the domain's
 * tasks get in any other way.
 *
 * Invariant: keys are compared by before() only, so that virtual time may wrap around.
 */
#ifndef MANYLAND_VTIME_BPF_H
#define MANYLAND_VTIME_BPF_H

#include "state.bpf.h"

/* So much of a CPU's time at a time goes into a virtual time. */
#define SERVICE_NS 1000000

/* No more of a turn counts for it: a turn has a slice. */
#define SERVICE_MAX_NS 1000000000

static bool before(u64 a, u64 b)
{
	return (s64)(a - b) < 0;
}

/*
 * A domain has two virtual times, that of the safety net and that of its policy, and each goes on
 * with the tasks that its own queue starts (run_late(), move_front()). The CPU of `cpuc` has run a
 * task for `used` ns that came from the other, so it goes on by what each task of the domain would
 * have got of that, by weight. The two are those of the virtual time of WF2Q+ (J. Bennett and H.
 * Zhang, "Hierarchical Packet Fair Queueing Algorithms", 1997). CPUs tell it a millisecond at a
 * time, for it is a line that they share. A policy that keeps no virtual time has an order of its
 * own making, which stays as it is.
 */
static void note_service(struct cpu_ctx *cpuc, u64 used, bool undecided)
{
	u32 *served = undecided ? &cpuc->undecided_ns : &cpuc->served_ns;
	struct domain_ctx *domc;
	u64 weight;

	*served += used < SERVICE_MAX_NS ? used : SERVICE_MAX_NS;
	if (*served < SERVICE_NS)
		return;
	domc = domain_at(cpuc->domain);
	/* 0: nobody was there at the last look, so how many there are is not known. */
	weight = domc ? READ_ONCE(domc->weight) : 0;
	if (weight && (!undecided || domc->keeps_vtime))
		__sync_fetch_and_add(undecided ? &domc->policy_vtime : &domc->net_vtime, (u64)*served * WEIGHT_NICE_0 / weight);
	*served = 0;
}

/*
 * Puts what `p` has used since it was switched in, or since the last call, on its account. What it
 * used because nobody else wanted the CPU is free: otherwise it would have to make up for time on
 * an idle machine as soon as that becomes busy.
 */
static void charge(struct task_ctx *taskc, struct task_struct *p, struct cpu_ctx *cpuc)
{
	u64 now = scx_bpf_now(), used = now - taskc->started_ns;

	taskc->started_ns = now;
	if (!taskc->free)
		taskc->used_ns += used;
	taskc->burst_ns += used;
	taskc->vtime += used * WEIGHT_NICE_0 / (p->scx.weight ?: WEIGHT_NICE_0);
	if (cpuc && taskc->run_kind != RUN_UNDECIDED)
		note_service(cpuc, used, false);
	else if (cpuc && !taskc->free)
		note_service(cpuc, used, true);
}

/* Where `taskc` stands in the order of its last decision, by what it has used since. */
static u64 policy_vtime_now(struct task_ctx *taskc)
{
	return taskc->policy_vtime + (taskc->used_ns - taskc->policy_vtime_used_ns) * taskc->vtime_rate / VTIME_RATE_ONE;
}

/* The task goes to sleep. What it has used since it last did is a fourth of the average. */
static void end_burst(struct task_ctx *taskc)
{
	u64 burst = taskc->burst_ns < slice_ns ? taskc->burst_ns : slice_ns;

	taskc->usual_ns = taskc->usual_ns / 4 * 3 + burst / 4;
	taskc->burst_ns = 0;
}

/*
 * A decided task begins to run. Two at once may leave the front where the earlier of them stands:
 * the next one mends it.
 */
static void advance_policy_vtime(struct domain_ctx *domc, u64 vtime)
{
	if (domc && before(domc->policy_vtime, vtime))
		domc->policy_vtime = vtime;
}

/*
 * In the order of the safety net, what a sleeper is owed at most: a slice, and less in a crowd, as
 * with the policies of virtual time (src/policy/fair.rs).
 */
static u64 sleepers_credit(struct domain_ctx *domc)
{
	u32 few = CROWD_PER_CPU * domc->nr_cpus, queued = READ_ONCE(domc->nr_queued);

	return queued > few ? slice_ns * few / queued : slice_ns;
}

/*
 * Before a task waits: its lag is the credit at most if it slept, and if it had a CPU for itself it
 * is ahead of the safety net's virtual time by DEBT_SLICES at most.
 */
static void limit_lag(struct task_ctx *taskc, struct domain_ctx *domc, u64 credit)
{
	u64 floor = domc->net_vtime - credit, ceiling = domc->net_vtime + DEBT_SLICES * slice_ns;

	if (before(taskc->vtime, floor))
		taskc->vtime = floor;
	else if (before(ceiling, taskc->vtime))
		taskc->vtime = ceiling;
}

/*
 * Where `p` waits in the order of the safety net: behind its vtime by what it will use before it
 * sleeps, as far as that is known. So of those that slept for long and are owed the same, however
 * many woke up before, the one goes first that soon sleeps again. (Tags of the end in place of
 * those of the start, as in WF2Q+ and EEVDF.) It is a credit at most, for the same reason as that
 * is limited, and for a light task no more than for one of nice 0.
 */
static u64 net_key(struct task_struct *p, struct task_ctx *taskc, u64 credit)
{
	u64 burst = taskc->burst_ns > taskc->usual_ns ? taskc->burst_ns : taskc->usual_ns;
	u64 weight = p->scx.weight > WEIGHT_NICE_0 ? p->scx.weight : WEIGHT_NICE_0;

	return taskc->vtime + (burst < credit ? burst : credit) * WEIGHT_NICE_0 / weight;
}

/*
 * Whether the first task of an ordered queue is before `order`. Not inlined, for the verifier, as
 * in decisions.bpf.h.
 */
static __noinline bool head_is_before(u64 dsq, u64 vtime)
{
	struct bpf_iter_scx_dsq it;
	struct task_struct *p = NULL;
	bool earlier = false;

	if (!bpf_iter_scx_dsq_new(&it, dsq, 0)) {
		p = bpf_iter_scx_dsq_next(&it);
		if (p)
			earlier = before(p->scx.dsq_vtime, vtime);
	}
	bpf_iter_scx_dsq_destroy(&it);
	return earlier;
}

/* The same where both are queues. An empty one is before nothing. */
static __noinline bool head_is_before_head(u64 dsq, u64 other)
{
	struct bpf_iter_scx_dsq it;
	struct task_struct *p = NULL;
	bool found = false;
	u64 vtime = 0;

	if (!bpf_iter_scx_dsq_new(&it, other, 0)) {
		p = bpf_iter_scx_dsq_next(&it);
		if (p) {
			found = true;
			vtime = p->scx.dsq_vtime;
		}
	}
	bpf_iter_scx_dsq_destroy(&it);
	return !found || head_is_before(dsq, vtime);
}

/* `order`, or the place before the first task of a queue, whichever is earlier. Under RCU. */
static __noinline u64 first_vtime_rcu(u64 dsq, u64 vtime)
{
	struct bpf_iter_scx_dsq it;
	struct task_struct *p;

	if (!bpf_iter_scx_dsq_new(&it, dsq, 0)) {
		p = bpf_iter_scx_dsq_next(&it);
		if (p && !before(vtime, p->scx.dsq_vtime))
			vtime = p->scx.dsq_vtime - 1;
	}
	bpf_iter_scx_dsq_destroy(&it);
	return vtime;
}

/* The same for the callbacks of sched_ext. Global, so that the verifier looks at it once. */
__weak u64 first_vtime(u64 dsq, u64 vtime)
{
	return first_vtime_rcu(dsq, vtime);
}

#endif /* MANYLAND_VTIME_BPF_H */
