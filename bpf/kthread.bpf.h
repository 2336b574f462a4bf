/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The threads that bypass user space: others may wait for one without knowing it. Most are threads
 * of the kernel that are bound to a CPU.
 *
 * One of those that wakes up is the next to run. It preempts a task that has run for PROTECTED_NS
 * and is ahead of it in the safety net's virtual time, as the kernel's own scheduler has it. That
 * task goes on afterwards, on the same CPU. One that has used up its slice shares the CPU with the
 * others. The kernel calls ops.dispatch only for a CPU whose local queue is empty, so two such
 * threads that went there after each slice would leave no time to any other task.
 *
 * Invariant: a thread of the kernel that is bound to a CPU goes into the local queue when it wakes
 * up, and not because its slice has ended.
 */
#ifndef MANYLAND_KTHREAD_BPF_H
#define MANYLAND_KTHREAD_BPF_H

#include "rest.bpf.h"
#include "standing.bpf.h"
#include "unstored.bpf.h"
#include "wanted.bpf.h"
#include "yield.bpf.h"

/* For how long a task runs before a thread of the kernel preempts it. */
#define PROTECTED_NS 500000

/* `p` runs where it is, without a decision. */
static void run_here(struct task_struct *p, u64 enq_flags)
{
	scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_ns, enq_flags);
}

/*
 * Whether `running` is ahead of a thread that wakes up on its CPU. Both have no more lag than a
 * sleeper.
 */
static bool is_ahead(struct task_struct *running, struct task_ctx *taskc, u64 used,
		     struct task_ctx *waking, struct domain_ctx *domc)
{
	u64 vtime = limited_vtime(taskc, domc, slice_ns);

	vtime += by_weight(used, WEIGHT_NICE_0, exact_weight(running, taskc));
	limit_lag(waking, domc, slice_ns);
	return before(waking->vtime, vtime);
}

/*
 * The flag that makes the task on the CPU of `cpuc` give way to `waking`, if it does so at once; or
 * 0. A task that has just begun gives way at the tick after its least time.
 */
static __noinline u64 preempt_flag(struct cpu_ctx *cpuc __arg_nonnull,
				   struct task_ctx *waking __arg_nonnull)
{
	struct domain_ctx *domc = domain_at(cpuc->domain);
	u64 flag = 0, now = scx_bpf_now(), used;
	struct task_struct *running;
	struct task_ctx *taskc;

	running = cpuc->running ? bpf_task_from_pid(cpuc->running) : NULL;
	if (!running)
		return 0;
	taskc = task_ctx(running);
	used = taskc ? now - taskc->started_ns : 0;
	if (!taskc || !domc || !is_ahead(running, taskc, used, waking, domc)) {
		bpf_task_release(running);
		return 0;
	}
	if ((s64)(now - taskc->began_ns) >= PROTECTED_NS) {
		if (!is_cut(cpuc))
			give_way(cpuc, GIVES_WAY_TO_KTHREAD);
		count(&domc->counts.interrupted);
		flag = SCX_ENQ_PREEMPT;
	} else if (running->scx.slice > PROTECTED_NS) {
		scx_bpf_task_set_slice(running, PROTECTED_NS);
	}
	bpf_task_release(running);
	return flag;
}

/*
 * `p` gives way to a thread of the kernel on `cpu`, and goes on after it: for the rest of its slice,
 * or for a new one if no other task wants the CPU. Answers whether it does.
 */
static bool remain(struct task_struct *p, struct task_ctx *taskc, s32 cpu, u64 enq_flags)
{
	struct cpu_ctx *cpuc = cpu_at(cpu);
	u64 rest = taskc->rest_ns;

	taskc->rest_ns = 0;
	if (rest < REST_MIN_NS && taskc->free && cpuc && !is_wanted(cpu, cpuc))
		rest = slice_ns;
	if (rest < REST_MIN_NS)
		return false;
	taskc->interrupted = 1;
	scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, rest, enq_flags);
	return true;
}

/*
 * The slice of `p`, a thread of the kernel, has ended. It is ready at the key that its CPU time
 * gives it, as a policy of virtual time would have it: not before the virtual time, and a few
 * slices after that at most.
 */
static __always_inline void share_cpu(struct task_struct *p, struct task_ctx *taskc,
				      struct cpu_ctx *cpuc, struct domain_ctx *domc, s32 cpu,
				      u64 enq_flags)
{
	u64 vtime = policy_vtime_now(taskc), least = cpuc->bound.policy_vtime;
	u64 most = least + DEBT_SLICES * turn_of(p);

	if (!domc->keeps_vtime)
		vtime = cpuc->own_vtime + scx_bpf_dsq_nr_queued(DSQ_OWN | cpu);
	else if (before(vtime, least))
		vtime = least;
	else if (before(most, vtime))
		vtime = most;
	taskc->policy_vtime = vtime;
	taskc->vtime_rate = rate_by_weight(taskc);
	note_own(cpu);
	make_ready(p, taskc, domc, cpuc->domain, DSQ_OWN | cpu, slice_ns, enq_flags);
}

/* ops.enqueue for a task that bypasses user space. */
static __always_inline void enqueue_bypassing(struct task_struct *p, struct task_ctx *taskc,
					      s32 cpu, u64 enq_flags)
{
	struct cpu_ctx *cpuc = cpu_at(cpu);
	struct domain_ctx *domc = cpuc ? domain_at(cpuc->domain) : NULL;

	if (!domc || !taskc || p->nr_cpus_allowed > 1) {
		run_here(p, enq_flags);
	} else if (enq_flags & SCX_ENQ_WAKEUP) {
		run_here(p, enq_flags | preempt_flag(cpuc, taskc));
	} else if (scx_bpf_task_running(p)) {
		share_cpu(p, taskc, cpuc, domc, cpu, enq_flags);
	} else {
		run_here(p, enq_flags);
	}
}

#endif /* MANYLAND_KTHREAD_BPF_H */
