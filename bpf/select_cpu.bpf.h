/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A task wakes up, and ops.select_cpu claims a CPU on which it runs at once. It needs no decision,
 * since no other task wants that CPU. The CPU is the first that the task can have of these:
 *
 *   1  an idle one at home;
 *   2  one at home that runs a task of SCHED_IDLE, which then gives way (idle_class.bpf.h);
 *   3  that of a waker at home that is about to sleep;
 *   4  an idle one elsewhere, nearest first;
 *   5  one elsewhere that runs a task of SCHED_IDLE.
 *
 * Where there are several kinds of core, the table of core_kinds.bpf.h has the steps instead.
 * ops.enqueue claims an idle CPU too where the kernel has not called ops.select_cpu.
 *
 * Invariant: a claimed CPU gets the task, through its local queue (bypass) or its OWN (send).
 * `free` then says that the task's time there costs no other task anything.
 */
#ifndef MANYLAND_SELECT_CPU_BPF_H
#define MANYLAND_SELECT_CPU_BPF_H

#include "core_upgrade.bpf.h"
#include "domain_thread.bpf.h"
#include "home.bpf.h"
#include "idle_class.bpf.h"
#include "standing.bpf.h"
#include "limit.bpf.h"

/* The task runs on a CPU that was claimed for it: it needs no decision. */
static void note_bypass(struct task_ctx *taskc, u32 d)
{
	struct domain_ctx *domc = domain_at(d);

	taskc->waits_on = 0;
	taskc->ready_on = 0;
	taskc->interrupted = 0;
	taskc->free = 1;
	if (domc)
		count(&domc->counts.bypassed);
}

/*
 * Whether the kernel still has a direct dispatch of `p` by a scheduler that has left since, made
 * for a wake-up that was on its way then. Linux before 7.0 keeps that one, and warns of the next.
 * It names the local queue, as bypass() wants.
 */
static bool has_old_dispatch(struct task_struct *p)
{
	return bpf_core_field_exists(p->scx.ddsp_dsq_id) && p->scx.ddsp_dsq_id == SCX_DSQ_LOCAL;
}

/* Runs `p` on a claimed CPU, if its run queue is, or is about to be, that CPU's. */
static void bypass(struct task_struct *p, struct task_ctx *taskc, u32 d, u64 enq_flags)
{
	note_bypass(taskc, d);
	if (has_old_dispatch(p))
		scx_bpf_task_set_slice(p, slice_ns);
	else
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_ns, enq_flags);
}

/*
 * Runs `p` on a claimed CPU, if its run queue is that of another CPU. For ops.enqueue.
 *
 * `p` goes into the CPU's OWN, before all others, and not into the local queue. The kernel would
 * move it to another CPU's local queue only after it has released the run queue's lock. If a change
 * of affinity dequeues `p` meanwhile, Linux before 7.0 keeps the direct dispatch. It then carries
 * it out all the same, and ends the scheduler because the task may not use the CPU.
 *
 * The kick comes after the insertion: the kernel makes it once it has released the lock. Other
 * kicks may come before, in a guest any number of them, so the CPU checks OWN until the task has
 * run (own_sent).
 */
static void send(struct task_struct *p, struct task_ctx *taskc, u32 d, s32 cpu, u64 enq_flags)
{
	struct cpu_ctx *cpuc = cpu_at(cpu);

	note_bypass(taskc, d);
	if (cpuc) {
		__sync_fetch_and_add(&cpuc->own_boosts, 1);
		__sync_fetch_and_add(&cpuc->own_sent, 1);
		taskc->sent_on = DSQ_OWN | cpu;
	}
	scx_bpf_dsq_insert_vtime(p, DSQ_OWN | cpu, slice_ns, cpuc ? cpuc->own_vtime : 0, enq_flags);
	scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

/*
 * The CPU of the waker of `p`, if it belongs to `home` and `p` may wait or run there. Negative: it
 * does not, or `p` may not.
 */
static s32 wakers_cpu(struct task_struct *p, u32 home)
{
	s32 cpu = bpf_get_smp_processor_id();
	struct cpu_ctx *cpuc = cpu_at(cpu);
	bool is_home = cpuc && cpuc->domain == home && !cpuc->dedicated;

	return is_home && bpf_cpumask_test_cpu(cpu, p->cpus_ptr) ? cpu : -1;
}

/*
 * The CPU of a waker that says it is about to sleep, for a task whose home has that CPU. Two tasks
 * that talk to each other keep their cache so while the home has no idle CPU for them.
 */
static s32 sync_wakers_cpu(struct task_struct *p, u32 home)
{
	if (bpf_get_current_task_btf()->flags & PF_EXITING ||
	    scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL) > 0)
		return -1;
	return wakers_cpu(p, home);
}

/* Claims the CPU on which `p` runs at once, by the steps above. Negative: there is none. */
static s32 claim_for(struct task_struct *p, struct task_ctx *taskc, s32 prev_cpu, u64 wake_flags)
{
	u32 home = home_of(p, taskc);
	struct domain_ctx *domc = domain_at(home);
	s32 cpu = -1;

	if (!domc || must_queue(prev_cpu, home))
		return -1;
	if (by_kind) {
		cpu = claim_preferred(p, home, prev_cpu);
		if (cpu < 0)
			cpu = choose_idle_class(p, taskc, home, prev_cpu);
	} else {
		if (any_idle(domc))
			cpu = claim_idle(p, home, prev_cpu, wake_flags);
		if (cpu < 0)
			cpu = choose_idle_class(p, taskc, home, prev_cpu);
		if (cpu < 0 && !strict && !no_steal && any_idle_elsewhere(home)) {
			if (wake_flags & SCX_WAKE_SYNC)
				cpu = sync_wakers_cpu(p, home);
			if (cpu < 0)
				cpu = claim_idle_elsewhere(p, home, prev_cpu, wake_flags);
		}
		if (cpu < 0)
			cpu = choose_idle_class_outside(p, taskc, home);
	}
	/* A task that has no cache yet has its home where it finds an idle CPU. */
	if (cpu >= 0 && (wake_flags & SCX_WAKE_FORK || taskc->fresh))
		set_home(taskc, domain_of_cpu(cpu));
	taskc->fresh = 0;
	return cpu;
}

/*
 * The CPU on whose run queue `p` is to wait, until any CPU of its home runs it. The waker's is
 * best: the waker will soon sleep, so that CPU asks for work next. If it then runs `p`, the kernel
 * need not move `p`, nor lock another run queue.
 */
static s32 likely_cpu(struct task_struct *p, struct task_ctx *taskc, s32 prev_cpu)
{
	s32 cpu = wakers_cpu(p, taskc->home);

	return cpu >= 0 ? cpu : prev_cpu;
}

/*
 * Claims an idle CPU where ops.select_cpu was not called: `p` has been preempted, or may no longer
 * use its CPU. That happens at the end of each slice, so the kernel's masks are scanned only if the
 * mirror has an idle CPU.
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
	if (!(wake_flags & SCX_WAKE_FORK)) {
		begin_run_delay(taskc);
		note_waker(p, taskc);
	}
	taskc->goes_before = GOES_BEFORE_NONE;
	taskc->by_message = wake_flags & SCX_WAKE_SYNC ? 1 : 0;
	if (limit_of(taskc) && is_held(p, taskc))
		return prev_cpu;
	cpu = claim_for(p, taskc, prev_cpu, wake_flags);
	if (cpu >= 0 && taskc->goes_before)
		return cpu;
	if (cpu >= 0) {
		bypass(p, taskc, taskc->home, 0);
		return cpu;
	}
	cpu = cpu_to_overtake(p, taskc, prev_cpu);
	return cpu >= 0 ? cpu : likely_cpu(p, taskc, prev_cpu);
}

#endif /* MANYLAND_SELECT_CPU_BPF_H */
