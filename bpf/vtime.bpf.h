/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What each task has used, and the keys by which the queues are sorted.
 *
 * A domain has two virtual times: that of the safety net (`net_vtime`, for WAITING and BOUND) and
 * that of its policy (`policy_vtime`, for READY and OWN). Each advances in two ways:
 *   - to the key of a task that its own queues start: run_undecided(), advance_policy_vtime();
 *   - by what the domain's tasks get otherwise: note_service().
 *
 * Invariant: only before() compares keys, so that virtual time may wrap around.
 */
#ifndef MANYLAND_VTIME_BPF_H
#define MANYLAND_VTIME_BPF_H

#include "shares.bpf.h"
#include "state.bpf.h"

/* A CPU adds its time to a virtual time in portions of at least this size. */
#define SERVICE_NS 1000000

/* A CPU's clock that is ahead by more than this has jumped. */
#define CLOCK_JUMP_NS 1000000

/* The most of one run that counts for it: no slice is longer (SLICE_MAX_NS). */
#define SERVICE_MAX_NS 1000000000

/* Whether key `a` comes before key `b`. They lie less than half the range of a u64 apart. */
static bool before(u64 a, u64 b)
{
	return (s64)(a - b) < 0;
}

/*
 * The CPU of `cpuc` has run a task for `used` ns. Advances the virtual time from whose queues the
 * task did not come: the policy's if it ran undecided, else the safety net's. It advances by what
 * each task of the domain would have got of that time, by weight.
 *
 * With the keys of the tasks that start, these are the two terms of the virtual time of WF2Q+ (J.
 * Bennett and H. Zhang, "Hierarchical Packet Fair Queueing Algorithms", 1997).
 *
 * A CPU adds a millisecond or more at once, since the CPUs share the cache line. A policy that
 * keeps no virtual time has keys of its own making, so its `policy_vtime` is not advanced.
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
	/* 0: the domain had no task at the last sample, so the weight of those now is unknown. */
	weight = domc ? READ_ONCE(domc->weight) : 0;
	if (weight && (!undecided || domc->keeps_vtime))
		__sync_fetch_and_add(undecided ? &domc->policy_vtime : &domc->net_vtime,
				     (u64)*served * WEIGHT_NICE_0 / weight);
	*served = 0;
}

/* CPU time, as that of a task of `weight` which has a share of `exact`, in parts of EXACT_ONE. */
static u64 by_weight(u64 used, u32 weight, u64 exact)
{
	used = used < SERVICE_MAX_NS ? used : SERVICE_MAX_NS;
	return exact == (u64)weight * EXACT_ONE ? used : used * weight * EXACT_ONE / exact;
}

/*
 * Charges a task for `used` where groups are used. What user space sees as used is in proportion to
 * the weight that it knows. So the rates at which vtimes grow are right although that weight is not
 * exact (weigh). Global, so that the verifier checks it once.
 */
__weak int charge_in_group(struct task_ctx *taskc __arg_nonnull, u32 own, u64 used)
{
	u64 weight = weight_in_group(own, taskc->group);

	if (!taskc->free)
		taskc->used_ns += by_weight(used, taskc->weight, weight);
	taskc->vtime += by_weight(used, WEIGHT_NICE_0, weight);
	if (taskc->counted_weight)
		note_run(taskc, used);
	return 0;
}

/*
 * Subtracts from the lease of `p` what it has used since it was switched in, or since the last call
 * (limit.bpf.h). That is CPU time as the kernel accounts for it: without interrupts. But where the TSC
 * is unstable, the clock of a CPU that was idle may jump. Then it is the time that has passed.
 */
static void charge_lease(struct task_ctx *taskc, struct task_struct *p, u64 weighted)
{
	u64 now = bpf_ktime_get_ns(), exec = p->se.sum_exec_runtime;
	u64 used = exec - taskc->exec_ns, passed = now - taskc->leased_ns;

	taskc->lease_ns -= used < passed + CLOCK_JUMP_NS ? used : passed;
	taskc->exec_ns = exec;
	taskc->leased_ns = now;
	taskc->limit_vtime += weighted;
}

/*
 * Charges `p` for what it has used since it was switched in, or since the last call. CPU time that
 * no other task wanted is free. Otherwise the task would have to make up for time on an idle
 * machine as soon as that becomes busy.
 */
static void charge(struct task_ctx *taskc, struct task_struct *p, struct cpu_ctx *cpuc)
{
	u64 now = scx_bpf_now(), used = now - taskc->started_ns;
	u32 weight = p->scx.weight ?: WEIGHT_NICE_0;

	taskc->started_ns = now;
	taskc->burst_ns += used;
	taskc->spent_ns += used;
	if (groups_are_used()) {
		charge_in_group(taskc, weight, used);
	} else {
		taskc->vtime += used * WEIGHT_NICE_0 / weight;
		if (!taskc->free)
			taskc->used_ns += used;
	}
	if (taskc->leased_from)
		charge_lease(taskc, p, used * WEIGHT_NICE_0 / weight);
	if (cpuc && taskc->run_kind != RUN_UNDECIDED)
		note_service(cpuc, used, false);
	else if (cpuc && !taskc->free)
		note_service(cpuc, used, true);
}

/* The rate at which the vtime of a task grows by its effective weight. */
static u32 rate_by_weight(struct task_ctx *taskc)
{
	return VTIME_RATE_ONE * WEIGHT_NICE_0 / (taskc->weight ?: WEIGHT_NICE_0);
}

/* The vtime of the last decision, advanced by what the task has used since. */
static u64 policy_vtime_now(struct task_ctx *taskc)
{
	return taskc->policy_vtime +
	       (taskc->used_ns - taskc->policy_vtime_used_ns) * taskc->vtime_rate / VTIME_RATE_ONE;
}

/* `usual_ns` of a task that has not slept yet: it counts as one that uses its slices. */
static u64 usual_unknown(void)
{
	return slice_ns + 1;
}

/*
 * The task goes to sleep. What it has used since it last slept makes a fourth of the average, and all of
 * it the first time.
 */
static void end_burst(struct task_ctx *taskc)
{
	u64 burst = taskc->burst_ns < slice_ns ? taskc->burst_ns : slice_ns;

	taskc->usual_ns =
		taskc->usual_ns == usual_unknown() ? burst : taskc->usual_ns / 4 * 3 + burst / 4;
	taskc->burst_ns = 0;
}

/*
 * A decided task begins to run. Two that begin at the same moment may leave the virtual time at the
 * lower of their keys. The next task advances it.
 */
static void advance_policy_vtime(struct domain_ctx *domc, u64 vtime)
{
	if (domc && before(domc->policy_vtime, vtime))
		domc->policy_vtime = vtime;
}

/*
 * The most lag that a sleeper has in the safety net's virtual time: a slice, and less in a crowd.
 * The policies of virtual time give the same credit (src/policy/fair.rs).
 */
static u64 sleepers_credit(struct domain_ctx *domc)
{
	u32 few = CROWD_PER_CPU * domc->nr_cpus, queued = READ_ONCE(domc->nr_queued);

	return queued > few ? slice_ns * few / queued : slice_ns;
}

/*
 * How far a task that had a CPU for itself is ahead of the safety net's virtual time at most:
 * DEBT_SLICES of its own. For a light one they are long in virtual time: with those of nice 0, no
 * task would have less than a fifth of another's share.
 */
static u64 most_debt(struct task_ctx *taskc)
{
	u64 debt = DEBT_SLICES * slice_ns;

	return taskc->weight && taskc->weight < WEIGHT_NICE_0 ?
		       debt * WEIGHT_NICE_0 / taskc->weight :
		       debt;
}

/*
 * The vtime of a task, at a limited distance from `net_vtime`, the safety net's virtual time:
 *   - a task that slept is behind it by the credit at most;
 *   - a task that had a CPU for itself is ahead of it by most_debt().
 */
static u64 limited_vtime_at(struct task_ctx *taskc, u64 net_vtime, u64 credit)
{
	u64 floor = net_vtime - credit, ceiling = net_vtime + most_debt(taskc);

	return before(taskc->vtime, floor)   ? floor :
	       before(ceiling, taskc->vtime) ? ceiling :
					       taskc->vtime;
}

static u64 limited_vtime(struct task_ctx *taskc, struct domain_ctx *domc, u64 credit)
{
	return limited_vtime_at(taskc, domc->net_vtime, credit);
}

/* Limits that distance before the task waits. */
static void limit_lag(struct task_ctx *taskc, struct domain_ctx *domc, u64 credit)
{
	taskc->vtime = limited_vtime(taskc, domc, credit);
}

/*
 * The key at which a task waits for the safety net: its vtime, plus what it will use before it sleeps,
 * as far as that is known. It is a tag of the end of its run rather than of the start, as in WF2Q+
 * and EEVDF.
 *
 * Tasks that slept for long have the same lag. Of these the one that soon sleeps again goes first,
 * however many woke up before it. What is added is the credit at most, for the reason that limits
 * the credit itself, and for a light task no more than for one of nice 0.
 */
static u64 net_key(struct task_ctx *taskc, u64 vtime, u64 credit)
{
	u64 burst = taskc->burst_ns > taskc->usual_ns ? taskc->burst_ns : taskc->usual_ns;
	u64 weight = taskc->weight > WEIGHT_NICE_0 ? taskc->weight : WEIGHT_NICE_0;

	return vtime + (burst < credit ? burst : credit) * WEIGHT_NICE_0 / weight;
}

/*
 * Whether the first task of a queue has a key before `vtime`. Not inlined, for the verifier:
 * move_task() says why (decisions.bpf.h).
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

/*
 * Whether the first task of `dsq` has a key before that of the first task of `other`. An empty
 * queue comes last.
 */
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

/*
 * The key with which a task becomes the first of a queue: `vtime`, or one before that of the first
 * task, whichever is earlier. The caller holds the RCU lock.
 */
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

/*
 * first_vtime_rcu() for the callbacks of sched_ext, which run under RCU. Global, so that the
 * verifier checks it once.
 */
__weak u64 first_vtime(u64 dsq, u64 vtime)
{
	return first_vtime_rcu(dsq, vtime);
}

/* Makes a crowd (crowd.bpf.h) level with its domain. */
static void level_crowd(struct crowd *crowd, struct domain_ctx *domc)
{
	crowd->policy_vtime = domc->policy_vtime;
	crowd->net_vtime = domc->net_vtime;
}

/* The same for the tasks that are bound to the CPU of `cpuc`. Those of a dedicated CPU may be ahead. */
static void level_bound(struct cpu_ctx *cpuc, struct domain_ctx *domc)
{
	if (!cpuc->dedicated) {
		level_crowd(&cpuc->bound, domc);
		return;
	}
	if (before(cpuc->bound.policy_vtime, domc->policy_vtime))
		cpuc->bound.policy_vtime = domc->policy_vtime;
	if (before(cpuc->bound.net_vtime, domc->net_vtime))
		cpuc->bound.net_vtime = domc->net_vtime;
}

#endif /* MANYLAND_VTIME_BPF_H */
