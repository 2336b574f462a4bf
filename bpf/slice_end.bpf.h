/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Ends of slices between two ticks. The kernel ends a slice at a tick only, and a task that wakes up
 * may come before what the running task is protected for.
 *
 *   1  A task with a slice shorter than a tick is switched in, and will not sleep soon: the alarm of its
 *      CPU is set (begin_slice), if short slices were asked for or the crowd is very large. It is also
 *      set if a task wakes up to which the running one will give way in a moment (cpu_to_overtake).
 *   2  The alarm rings (check_slice). If others want the CPU, the slice ends if it is over. Otherwise the
 *      running task gives way to the first ready one, by the rules of preempt.bpf.h, or to the thread
 *      that the CPU is dedicated to (own_cpu.bpf.h).
 *
 * Slices shorter than a tick cost throughput (docs/decisions/0068-short-slices.md), so they end in time
 * only where that was asked for.
 *
 * Invariant: an alarm is set only for what cannot wait for a tick.
 */
#ifndef MANYLAND_SLICE_END_BPF_H
#define MANYLAND_SLICE_END_BPF_H

#include "domain_thread.bpf.h"
#include "kthread.bpf.h"
#include "preempt.bpf.h"
#include "wanted.bpf.h"

/*
 * Fills `to` for the first task of a queue of ready tasks of domain `d`. Answers whether there is one
 * that has woken up and not run since.
 */
static __noinline bool first_overtaker(u64 dsq, u32 d, struct overtaker *to)
{
	struct domain_ctx *domc = domain_at(d);
	struct task_struct *p = NULL;
	struct bpf_iter_scx_dsq it;
	struct task_ctx *taskc;
	bool found = false;

	/* Queues and masks are under RCU. A timer implies it, but Linux before 6.18 does not see that. */
	bpf_rcu_read_lock();
	if (!bpf_iter_scx_dsq_new(&it, dsq, 0)) {
		p = bpf_iter_scx_dsq_next(&it);
		taskc = p ? task_ctx(p) : NULL;
		if (domc && taskc && taskc->overtakes && !taskc->burst_ns) {
			*to = overtaker(taskc, domc, d);
			found = true;
		}
	}
	bpf_iter_scx_dsq_destroy(&it);
	bpf_rcu_read_unlock();
	return found;
}

/* The slice of the task on the CPU of `cpuc` has ended. */
static void end_slice(s32 cpu, struct cpu_ctx *cpuc)
{
	struct task_struct *running = bpf_task_from_pid(READ_ONCE(cpuc->running));

	if (!running)
		return;
	/* Not 0: preempt() says why (decisions.bpf.h). */
	scx_bpf_task_set_slice(running, 1);
	bpf_task_release(running);
	scx_bpf_kick_cpu(cpu, 0);
}

/*
 * The thread that `cpu` is dedicated to is parked: if it has work, the task that runs there gives way to
 * it, at once or as soon as it may.
 */
static void check_own_cpu(struct cpu_ctx *cpuc, struct domain_ctx *domc, s32 cpu, u64 now)
{
	u64 began =
		before(domc->state_since_ns, cpuc->run_ns) ? cpuc->run_ns : domc->state_since_ns;

	if (!READ_ONCE(cpuc->run_rate))
		return;
	if (before(now, began + PROTECTED_MIN_NS)) {
		set_alarm(cpu, began + PROTECTED_MIN_NS);
	} else if (thread_is_due(domc, cpuc->domain, now, PROTECTED_MIN_NS)) {
		count(&domc->counts.hurried);
		cut_elsewhere(cpu);
	}
}

/* The alarm of `cpu` rings. Global, so that the verifier checks it once. */
__weak int check_slice(s32 cpu)
{
	struct cpu_ctx *cpuc = cpu_at(cpu);
	struct domain_ctx *domc = cpuc ? domain_at(cpuc->domain) : NULL;
	struct overtaker to = { .cpu = -1, .later_cpu = -1 };
	u64 ends, now = scx_bpf_now();

	if (!domc)
		return 0;
	if (!cpuc->running || cpuc->gives_way) {
		if (scx_bpf_dsq_nr_queued(DSQ_OWN | cpu) > 0)
			set_alarm(cpu, returns_ns(cpuc, now));
		return 0;
	}
	if (cpuc->dedicated && domc->state == THREAD_PARKED) {
		check_own_cpu(cpuc, domc, cpu, now);
		return 0;
	}
	if (!is_wanted(cpu, cpuc))
		return 0;
	ends = READ_ONCE(cpuc->slice_ends_ns);
	if (ends && !before(now, ends)) {
		count(&domc->counts.ended);
		end_slice(cpu, cpuc);
		return 0;
	}
	if (!no_preempt && !cpuc->dedicated &&
	    (first_overtaker(DSQ_OWN | cpu, cpuc->domain, &to) ||
	     first_overtaker(DSQ_READY | cpuc->domain, cpuc->domain, &to))) {
		if (would_give_way(cpuc, &to)) {
			count(&domc->counts.overtaken);
			cut_elsewhere(cpu);
			return 0;
		}
		if (to.later_ns && (!ends || before(to.later_ns, ends)))
			ends = to.later_ns;
	}
	if (ends)
		set_alarm(cpu, ends);
	return 0;
}

/* The alarm of domain `d` rings: a task gives way to its parked thread. */
static void check_hurry(u32 d)
{
	struct domain_ctx *domc = domain_at(d);

	bpf_rcu_read_lock();
	if (domc && domc->state == THREAD_PARKED && is_hurried(domc, scx_bpf_now()))
		hurry(NULL, domc, d, -1);
	bpf_rcu_read_unlock();
}

static int ring_alarm(void *map, u32 *index, struct slice_alarm *alarm)
{
	u32 cpus = nr_cpus, i = *index;

	WRITE_ONCE(alarm->due_ns, 0);
	if (i < cpus)
		check_slice(i);
	else
		check_hurry(i - cpus);
	return 0;
}

/* For ops.init. */
static s32 create_alarms(void)
{
	struct slice_alarm *alarm;
	u32 i;

	bpf_for(i, 0, nr_cpus + nr_domains) {
		alarm = bpf_map_lookup_elem(&alarms, &i);
		if (!alarm)
			return -ENOENT;
		bpf_timer_init(&alarm->timer, &alarms, CLOCK_MONOTONIC);
		bpf_timer_set_callback(&alarm->timer, ring_alarm);
	}
	return 0;
}

#endif /* MANYLAND_SLICE_END_BPF_H */
