/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A task yields (sched_yield): the others that want its CPU go first.
 *
 * It pays for what it gives up, as if it had run: a slice, but no more than brings it level with
 * the last of the others. The first bound is that of the kernel's own scheduler. The second
 * keeps the virtual times from running away: tasks that only yield would otherwise advance them by
 * a slice in a few microseconds.
 *
 * Neither the task that yields nor one that lets it run in between needs a new decision: its last
 * one gives the key at which it is ready again, as it does for a task that goes on
 * (dispatch.bpf.h).
 *
 * Invariant: a task that has yielded does not go on while another one is ready, and the domain
 * thread runs before it if it has notices. It then stands behind all that are ready, or a slice
 * later than it stood.
 */
#ifndef MANYLAND_YIELD_BPF_H
#define MANYLAND_YIELD_BPF_H

#include "standing.bpf.h"

bool BPF_STRUCT_OPS(manyland_yield, struct task_struct *from, struct task_struct *to)
{
	struct task_ctx *taskc;
	struct cpu_ctx *cpuc;

	/* yield_to(): a virtual machine's CPU wants another one to run, and is not given that. */
	if (to)
		return false;
	taskc = task_ctx(from);
	/* A domain thread lets its CPU ask for work, and may be the next to run. */
	if (taskc && taskc->is_thread) {
		scx_bpf_task_set_slice(from, 0);
		return false;
	}
	/*
	 * The thread is slow. If tasks that only yield alternated every few microseconds, they
	 * would run undecided hundreds of times until it comes.
	 */
	if (taskc && taskc->run_kind == RUN_UNDECIDED &&
	    scx_bpf_now() - taskc->started_ns < slice_min_ns)
		return false;
	if (taskc)
		taskc->rest_ns = 0;
	cpuc = cpu_at(scx_bpf_task_cpu(from));
	if (cpuc)
		cpuc->gives_way = GIVES_WAY_YIELDS;
	scx_bpf_task_set_slice(from, 0);
	return false;
}

/* The key of the last task of a queue, or `vtime` if that is later. */
static __noinline u64 last_vtime(u64 dsq, u64 vtime)
{
	struct bpf_iter_scx_dsq it;
	struct task_struct *p;

	if (!bpf_iter_scx_dsq_new(&it, dsq, SCX_DSQ_ITER_REV)) {
		p = bpf_iter_scx_dsq_next(&it);
		if (p && before(vtime, p->scx.dsq_vtime))
			vtime = p->scx.dsq_vtime;
	}
	bpf_iter_scx_dsq_destroy(&it);
	return vtime;
}

/* Whether the first task of a queue, if there is one, is there because it has yielded. */
static __noinline bool head_has_yielded(u64 dsq)
{
	struct task_ctx *taskc = NULL;
	struct bpf_iter_scx_dsq it;
	struct task_struct *p;
	bool others = false;

	if (!bpf_iter_scx_dsq_new(&it, dsq, 0)) {
		p = bpf_iter_scx_dsq_next(&it);
		if (p)
			taskc = task_ctx(p);
		others = p && !(taskc && taskc->yielded);
	}
	bpf_iter_scx_dsq_destroy(&it);
	return !others;
}

/*
 * The task has yielded on `cpu`, in a slice that was decided: it pays for what it gives up. READY
 * number `queue` is where it will be ready.
 */
static void give_up_slice(struct task_ctx *taskc, u32 queue, s32 cpu)
{
	u64 most = slice_ns * taskc->vtime_rate / VTIME_RATE_ONE, vtime = policy_vtime_now(taskc);
	u64 distance = last_vtime(DSQ_READY | queue, last_vtime(DSQ_OWN | cpu, vtime)) - vtime;

	taskc->used_ns +=
		distance < most ? distance * VTIME_RATE_ONE / taskc->vtime_rate : slice_ns;
}

/*
 * For how long the task that gives way on `cpu` is ready again without a new decision:
 *   - if it has yielded, for what is left of the slice that was decided;
 *   - if it lets one run that has yielded, and so will soon let it run, for another slice, as if it
 *     had gone on.
 * 0: it needs a decision. That is so too while its thread is stopped: the tasks that wait for it
 * would wait for this one as well.
 *
 * Global, so that the verifier checks it once.
 */
__weak u64 slice_after_giving_way(struct task_ctx *taskc __arg_nonnull, u32 d, u32 queue, s32 cpu,
				  u32 why)
{
	struct domain_ctx *domc = domain_at(d);

	if (!domc)
		return 0;
	if (why == GIVES_WAY_YIELDS) {
		taskc->yielded = 1;
		count(&domc->counts.yielded);
	}
	if (taskc->run_kind != RUN_DECIDED || !taskc->vtime_rate || taskc->decided_by != d)
		return 0;
	if (why == GIVES_WAY_YIELDS)
		give_up_slice(taskc, queue, cpu);
	if (is_stopped(domc, scx_bpf_now()))
		return 0;
	if (why == GIVES_WAY_TO_YIELDER) {
		count(&domc->counts.extended);
		return taskc->slice_ns;
	}
	if (taskc->spent_ns + REST_MIN_NS > taskc->slice_ns)
		return 0;
	return taskc->slice_ns - taskc->spent_ns;
}

/*
 * The same for the safety net: a task that has yielded waits behind all that do, or a slice later
 * than it stood. Global, so that the verifier checks it once.
 */
__weak int give_up_net_slice(struct task_ctx *taskc __arg_nonnull, u64 dsq)
{
	u64 most = taskc->vtime + slice_ns * WEIGHT_NICE_0 / (taskc->weight ?: WEIGHT_NICE_0);
	u64 last = last_vtime(dsq, taskc->vtime);

	taskc->vtime = before(last, most) ? last : most;
	return 0;
}

#endif /* MANYLAND_YIELD_BPF_H */
