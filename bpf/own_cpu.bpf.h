/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * --dedicate: a domain thread shares its own CPU with the tasks that are bound to it. They may run
 * nowhere else, and all other tasks of the domain wait for what the thread decides. So it goes before
 * them:
 *
 *   1  The thread yields or its slice ends, and such a task runs (begin_guest). From then on the thread
 *      sleeps between notices rather than spins.
 *   2  A notice wakes it, and the task that runs there gives way at once (cut_on_own_cpu). If the
 *      thread could not sleep, since it had work left, the alarm of the CPU does that (slice_end.bpf.h).
 *   3  The task keeps the rest of its slice (rest.bpf.h).
 *   4  A notice wakes the thread, and no such task is there any more (begin_on_own_cpu): it spins.
 *
 * Invariant: a task has run for PROTECTED_MIN_NS when it gives way. For notices that were there when
 * the thread parked, it has run for PROTECTED_MAX_NS.
 */
#ifndef MANYLAND_OWN_CPU_BPF_H
#define MANYLAND_OWN_CPU_BPF_H

#include "alarm.bpf.h"
#include "preempt.bpf.h"

/* A task that user space decides for is switched in on `cpu`. */
static void begin_guest(struct cpu_ctx *cpuc, s32 cpu)
{
	struct domain_ctx *domc;

	if (no_preempt || !cpuc->dedicated)
		return;
	domc = domain_at(cpuc->domain);
	if (!domc)
		return;
	WRITE_ONCE(domc->shared_cpu, cpu + 1);
	if (domc->state == THREAD_PARKED)
		set_alarm(cpu, scx_bpf_now() + PROTECTED_MAX_NS);
}

/* The thread of `domc` is switched in on `cpu`. */
static void begin_on_own_cpu(struct domain_ctx *domc, s32 cpu)
{
	u32 shared = READ_ONCE(domc->shared_cpu);

	if (shared && (shared != (u32)cpu + 1 || !has_tasks_of_its_own(cpu)))
		WRITE_ONCE(domc->shared_cpu, 0);
}

/*
 * For ops.enqueue of the thread of `domc`, which wakes up on `cpu`: whether the task that runs there gives
 * way. It then does, or the alarm is set.
 */
static bool cut_on_own_cpu(struct domain_ctx *domc, s32 cpu)
{
	struct cpu_ctx *cpuc = cpu_at(cpu);

	if (no_preempt || !cpuc || !cpuc->dedicated || !READ_ONCE(cpuc->run_rate))
		return false;
	if (before(scx_bpf_now(), cpuc->run_ns + PROTECTED_MIN_NS)) {
		set_alarm(cpu, cpuc->run_ns + PROTECTED_MIN_NS);
		return false;
	}
	cut(cpuc, 0);
	count(&domc->counts.hurried);
	return true;
}

/*
 * A notice has come for the thread of `domc`, or a CPU finds nothing ready: if the thread is parked, its
 * own CPU checks for it in time.
 */
static void call_to_own_cpu(struct domain_ctx *domc)
{
	u32 shared = READ_ONCE(domc->shared_cpu);

	if (shared && domc->state == THREAD_PARKED)
		set_alarm(shared - 1, domc->state_since_ns + PROTECTED_MIN_NS);
}

#endif /* MANYLAND_OWN_CPU_BPF_H */
