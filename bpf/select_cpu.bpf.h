/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A task wakes up, and ops.select_cpu claims a CPU on which it runs at once: without a decision,
 * since no other task wants that CPU.
 *
 * An idle CPU at home comes first, then that of a waker that is about to sleep, then an idle one
 * elsewhere, nearest first; where there are several kinds of core the table of core_kinds.bpf.h
 * says which. ops.enqueue does the same where the kernel has not called ops.select_cpu.
 *
 * Invariant: a claimed CPU gets the task, by its local queue (bypass) or by its own queue (send),
 * and `free` says that what the task uses there is at no other task's cost.
 */
#ifndef MANYLAND_SELECT_CPU_BPF_H
#define MANYLAND_SELECT_CPU_BPF_H

#include "core_upgrade.bpf.h"
#include "domain_thread.bpf.h"
#include "home.bpf.h"

/* So often a CPU may look for a task on its way to the CPU's own queue in vain. */
#define CHECKS_BEFORE 4

/* `p` runs on a CPU that was claimed for it: no decision is needed. */
static void note_bypass(struct task_ctx *taskc, u32 d)
{
	struct domain_ctx *domc = domain_at(d);

	taskc->waits_on = 0;
	taskc->ready_on = 0;
	taskc->free = 1;
	if (domc)
		count(&domc->counts.bypassed);
}

/*
 * Whether the kernel still has a verdict of another scheduler that has left since: that of a
 * wake-up that was on its way then. Linux before 7.0 keeps it, and warns of the next one. What it
 * says is what bypass() wants.
 */
static bool goes_local_anyway(struct task_struct *p)
{
	return bpf_core_field_exists(p->scx.ddsp_dsq_id) && p->scx.ddsp_dsq_id == SCX_DSQ_LOCAL;
}

/* The same where its run queue is, or is about to be, that of the CPU. */
static void bypass(struct task_struct *p, struct task_ctx *taskc, u32 d, u64 enq_flags)
{
	note_bypass(taskc, d);
	if (goes_local_anyway(p))
		scx_bpf_task_set_slice(p, slice_ns);
	else
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_ns, enq_flags);
}

/*
 * The same where it is that of another CPU, for ops.enqueue. Into the CPU's own queue, before all
 * others, and not into its local one: there the kernel would move it only after it has let go of
 * the lock, and before Linux 7.0 it keeps that verdict if the task is taken off meanwhile to change
 * its affinity. Then it carries it out all the same, and ends the scheduler because the task may
 * not use the CPU. (The kick comes after the insertion: the kernel makes it once it has let go of
 * the lock.)
 */
static void send(struct task_struct *p, struct task_ctx *taskc, u32 d, s32 cpu, u64 enq_flags)
{
	struct cpu_ctx *cpuc = cpu_at(cpu);

	note_bypass(taskc, d);
	if (cpuc) {
		__sync_fetch_and_add(&cpuc->own_boosts, 1);
		WRITE_ONCE(cpuc->own_checks, CHECKS_BEFORE);
	}
	scx_bpf_dsq_insert_vtime(p, DSQ_OWN | cpu, slice_ns, cpuc ? cpuc->own_vtime : 0, enq_flags);
	scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

/*
 * The CPU of the waker of `p`, if it is of `home` and `p` may wait or run there, or a negative
 * number.
 */
static s32 wakers_cpu(struct task_struct *p, u32 home)
{
	s32 cpu = bpf_get_smp_processor_id();
	struct cpu_ctx *cpuc = cpu_at(cpu);

	return cpuc && cpuc->domain == home && !cpuc->dedicated && bpf_cpumask_test_cpu(cpu, p->cpus_ptr) ? cpu : -1;
}

/*
 * The CPU of a waker that says that it is about to sleep, for a task at home there. Two that talk
 * to each other keep their cache so, at the moments in which the home has no other CPU for them.
 */
static s32 beside_waker(struct task_struct *p, u32 home)
{
	if (bpf_get_current_task_btf()->flags & PF_EXITING || scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL) > 0)
		return -1;
	return wakers_cpu(p, home);
}

/*
 * The CPU that `p` is to run on at once, or a negative number: an idle one at home, that of its
 * waker, an idle one elsewhere.
 */
static s32 claim_for(struct task_struct *p, struct task_ctx *taskc, s32 prev_cpu, u64 wake_flags)
{
	u32 home = home_of(p, taskc);
	struct domain_ctx *domc = domain_at(home);
	s32 cpu = -1;

	if (!domc || must_queue(prev_cpu, home))
		return -1;
	if (by_kind) {
		cpu = claim_preferred(p, home, prev_cpu);
	} else {
		if (any_idle(domc))
			cpu = claim_idle(p, home, prev_cpu, wake_flags);
		if (cpu < 0 && !strict && !no_steal && any_idle_elsewhere(home)) {
			if (wake_flags & SCX_WAKE_SYNC)
				cpu = beside_waker(p, home);
			if (cpu < 0)
				cpu = claim_idle_elsewhere(p, home, prev_cpu, wake_flags);
		}
	}
	/* A task without a cache to stay near lives where it finds room. */
	if (cpu >= 0 && (wake_flags & SCX_WAKE_FORK || taskc->fresh))
		set_home(taskc, domain_of_cpu(cpu));
	taskc->fresh = 0;
	return cpu;
}

/*
 * The CPU on whose run queue `p` is to wait, for any CPU of its home to take it. Its waker will
 * soon sleep, so that CPU asks for work next: if it takes `p`, nothing has to be moved, and no
 * other run queue be locked.
 */
static s32 likely_cpu(struct task_struct *p, struct task_ctx *taskc, s32 prev_cpu)
{
	s32 cpu = wakers_cpu(p, taskc->home);

	return cpu >= 0 ? cpu : prev_cpu;
}

/*
 * As claim_for(), where ops.select_cpu was not asked: the task has been preempted, or may no longer
 * use its CPU. It happens at the end of each slice, so the masks are looked at only if the mirror
 * has a CPU.
 */
static s32 claim_again(struct task_struct *p, struct domain_ctx *domc, u32 home, s32 cpu)
{
	s32 idle = -1;

	if (by_kind)
		return claim_preferred(p, home, cpu);
	if (any_idle(domc))
		idle = claim_idle(p, home, cpu, 0);
	if (idle < 0 && !strict && !no_steal)
		idle = claim_idle_elsewhere(p, home, cpu, 0);
	return idle;
}

s32 BPF_STRUCT_OPS(manyland_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	struct task_ctx *taskc = task_ctx(p);
	s32 cpu;

	if (!taskc)
		return prev_cpu;
	if (taskc->is_thread)
		return select_cpu_for_thread(p, taskc, prev_cpu);
	if (!(wake_flags & SCX_WAKE_FORK))
		note_waker(p, taskc);
	cpu = claim_for(p, taskc, prev_cpu, wake_flags);
	if (cpu < 0)
		return likely_cpu(p, taskc, prev_cpu);
	bypass(p, taskc, taskc->home, 0);
	return cpu;
}

#endif /* MANYLAND_SELECT_CPU_BPF_H */
