/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A running task gives way before its slice ends, to what a decision sends to its CPU at once.
 *
 * Only a task that user space decides for is made to give way: a CPU that runs a domain thread, a
 * thread that goes straight or a task of a higher class names nobody in `running`. The kernel's own
 * SCX_KICK_PREEMPT takes the slice of whoever runs when the interrupt arrives, and that may be a domain
 * thread by then; here it is the task's own slice that ends, and whoever else has come to run meanwhile
 * keeps the CPU. Such a task has a short turn when it runs next, no more.
 *
 * Invariant: nothing here moves a task; who gives way is queued by the kernel as at the end of a slice.
 */
#ifndef MANYLAND_PREEMPT_BPF_H
#define MANYLAND_PREEMPT_BPF_H

#include "state.bpf.h"

/* The task that runs on `cpu` gives way to what has just been put first into the CPU's own queue. */
__weak int preempt(u32 d, s32 cpu, s32 here)
{
	struct domain_ctx *dom = domain_at(d);
	struct cpu_ctx *c = cpu_at(cpu);
	struct task_struct *running;

	if (!c || !dom)
		return 0;
	__sync_fetch_and_add(&c->own_turns, 1);
	if (cpu == here)
		return 0;
	running = bpf_task_from_pid(READ_ONCE(c->running));
	if (!running) {
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
		return 0;
	}
	/* Not 0, which the kernel warns of if the task has just left the CPU. */
	scx_bpf_task_set_slice(running, 1);
	bpf_task_release(running);
	count(&dom->counts.preempted);
	scx_bpf_kick_cpu(cpu, 0);
	return 0;
}

#endif /* MANYLAND_PREEMPT_BPF_H */
