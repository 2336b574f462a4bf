/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A running task gives way before its slice has ended, and keeps the rest of it.
 *
 *   1  It gives way to a thread of the kernel (kthread.bpf.h), or to a task that wakes up or the
 *      domain thread (preempt.bpf.h). The one of these that comes first marks the CPU (give_way),
 *      and ends the slice.
 *   2  ops.stopping keeps what is left of the slice (keep_rest). A higher scheduling class leaves a
 *      rest too, and no mark (give_up_rest, higher_class.bpf.h).
 *   3  ops.enqueue asks why it gives way (why_it_gives_way). After a thread of the kernel it goes on
 *      on the same CPU (remain). Otherwise it is ready again at once, without a message (resume).
 *
 * Invariant: a mark is gone when a task is switched in on the CPU, or the marked task keeps it.
 */
#ifndef MANYLAND_REST_BPF_H
#define MANYLAND_REST_BPF_H

#include "vtime.bpf.h"

/* Whether the running task, its slice used up, may keep `cpu`: it is runnable, and gives way to none. */
static bool may_go_on(struct task_struct *prev, s32 cpu, struct cpu_ctx *cpuc)
{
	return prev && !cpuc->gives_way && prev->scx.flags & SCX_TASK_QUEUED &&
	       bpf_cpumask_test_cpu(cpu, prev->cpus_ptr);
}

/* The running task goes on with another slice. */
static void grant(struct task_struct *p, struct task_ctx *taskc, u64 slice)
{
	scx_bpf_task_set_slice(p, slice);
	taskc->run_slice_ns = slice;
}

/* Whether the task on the CPU of `cpuc` gives way to one that needs the CPU at once. */
static bool is_cut(struct cpu_ctx *cpuc)
{
	return cpuc->gives_way == GIVES_WAY_TO_KTHREAD || cpuc->gives_way == GIVES_WAY_TO_WOKEN;
}

/* The task on the CPU of `cpuc` gives way: no other one makes it do so as well. */
static void give_way(struct cpu_ctx *cpuc, u16 why)
{
	WRITE_ONCE(cpuc->run_rate, 0);
	cpuc->run_ns = scx_bpf_now();
	WRITE_ONCE(cpuc->gives_way, why);
}

/*
 * For ops.stopping, before the charge: a task that gives way before the end of its slice keeps the
 * rest. One that runs undecided does so for a thread of the kernel only: it has no key at which it
 * could be ready.
 */
static void keep_rest(struct task_ctx *taskc, struct cpu_ctx *cpuc, bool runnable)
{
	u64 used = scx_bpf_now() - taskc->started_ns;

	if (!runnable || !cpuc || !is_cut(cpuc)) {
		taskc->had_ns = 0;
		return;
	}
	taskc->had_ns += used;
	if (cpuc->gives_way == GIVES_WAY_TO_KTHREAD ||
	    (taskc->run_kind != RUN_UNDECIDED && taskc->vtime_rate))
		taskc->rest_ns = taskc->run_slice_ns > used ? taskc->run_slice_ns - used : 0;
}

/* Why `p`, which is being enqueued, gives way. */
static u32 why_it_gives_way(struct task_struct *p, struct cpu_ctx *cpuc, u64 enq_flags)
{
	u32 why;

	if (!cpuc || !cpuc->gives_way || enq_flags & SCX_ENQ_WAKEUP || !scx_bpf_task_running(p))
		return GIVES_WAY_NOT;
	why = cpuc->gives_way;
	cpuc->gives_way = GIVES_WAY_NOT;
	return why;
}

/*
 * How much is left of the slice in which `p` was preempted, by a higher scheduling class or for a
 * woken task. 0: nothing, or no slice was cut short. With a rest the task needs no new decision.
 * Until one came, any ready task would get the CPU, however much later its key.
 */
static u64 rest_of_slice(struct task_ctx *taskc, u32 d, u64 enq_flags)
{
	u64 rest = taskc->rest_ns;

	taskc->rest_ns = 0;
	if (enq_flags & SCX_ENQ_WAKEUP || taskc->decided_by != d || rest < REST_MIN_NS)
		return 0;
	return rest < taskc->slice_ns ? rest : taskc->slice_ns;
}

#endif /* MANYLAND_REST_BPF_H */
