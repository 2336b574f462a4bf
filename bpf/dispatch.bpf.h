/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A CPU asks for work. run_next() has the numbered steps of the picture in docs/architecture.md,
 * and what goes before the ready tasks:
 *
 *   1  drain_decisions    (decisions.bpf.h)   carries out what the domain thread has decided, at
 *                                             most DRAIN_MAX decisions
 *      run_away_thread    (away.bpf.h)        a thread that its own domain does not run
 *      run_due_thread                         a domain thread that has kept notices for too long
 *      run_first                              boosted tasks
 *      run_unnotified     (safety_net.bpf.h)  a waiting task that no decision will come for
 *      goes_on                                the running task, if its vtime is still first and
 *                                             it has not yielded
 *   2  run_decided                            a task from the CPU's OWN or from READY
 *   3  run_parked_thread                      the domain thread
 *   4  run_by_safety_net  (safety_net.bpf.h)  a waiting task, if the thread is overdue
 *   5  run_from_others    (steal.bpf.h)       a task of another domain
 *
 * Invariant: a CPU goes idle only if no task that it may run waits anywhere, or if a domain thread
 * runs or has just been called and will wake it.
 */
#ifndef MANYLAND_DISPATCH_BPF_H
#define MANYLAND_DISPATCH_BPF_H

#include "away.bpf.h"
#include "core_upgrade.bpf.h"
#include "decisions.bpf.h"
#include "higher_class.bpf.h"
#include "safety_net.bpf.h"
#include "steal.bpf.h"
#include "throttle.bpf.h"
#include "wanted.bpf.h"
#include "yield.bpf.h"

/*
 * Runs a task from OWN of `cpu`. That queue is empty most of the time, so the CPU checks it only if
 * it may hold tasks.
 *
 * `own_due` is cleared before the check. A CPU that moves a task there sets it afterwards
 * (note_own), so one of the two finds the other. The kernel inserts a task that was sent (send) a
 * moment later, so the CPU checks each time until that task has run.
 */
static bool run_own(s32 cpu, struct cpu_ctx *cpuc)
{
	if (!may_have_own(cpuc))
		return false;
	__sync_lock_test_and_set(&cpuc->own_due, 0);
	if (!run_from(DSQ_OWN | cpu))
		return false;
	WRITE_ONCE(cpuc->own_due, 1);
	return true;
}

/* Whether a boosted task goes before all others on the CPU of `cpuc`. */
static bool has_boosts(struct cpu_ctx *cpuc, struct domain_ctx *domc)
{
	return READ_ONCE(cpuc->own_boosts) || READ_ONCE(domc->ready_boosts) > 0;
}

/*
 * Runs a boosted task, before all others and whatever its vtime:
 *   - one to which a decision has made the running task give way (preempt);
 *   - one that was sent to this CPU (send);
 *   - a starved one (feed_starved).
 */
__noinline int run_first(u32 cpu)
{
	struct cpu_ctx *cpuc = cpu_at(cpu);
	struct domain_ctx *domc = cpuc ? domain_at(cpuc->domain) : NULL;

	if (!domc)
		return 0;
	if (READ_ONCE(cpuc->own_boosts)) {
		__sync_fetch_and_sub(&cpuc->own_boosts, 1);
		return run_own(cpu, cpuc);
	}
	if (cpuc->dedicated || READ_ONCE(domc->ready_boosts) <= 0)
		return 0;
	__sync_fetch_and_sub(&domc->ready_boosts, 1);
	return run_from(DSQ_READY | cpuc->domain);
}

/*
 * Whether the running task, its slice used up, is still first by its policy's vtime. Its decision
 * has given that vtime, and the rate at which it grows while the task runs, so the question needs
 * no new decision.
 *
 * Without it two tasks on a CPU would alternate whatever their weights, because the one that runs
 * is never in the queue when the next one is chosen.
 */
static bool goes_on(struct task_struct *prev, s32 cpu, struct cpu_ctx *cpuc,
		    struct domain_ctx *domc, u32 d)
{
	struct task_ctx *taskc;
	u64 vtime, slice;
	u32 part;
	bool own;

	if (!may_go_on(prev, cpu, cpuc))
		return false;
	taskc = task_ctx(prev);
	if (!taskc || taskc->run_kind != RUN_DECIDED || !taskc->vtime_rate ||
	    taskc->decided_by != d)
		return false;
	own = may_have_own(cpuc) && scx_bpf_dsq_nr_queued(DSQ_OWN | cpu) > 0;
	part = READ_ONCE(domc->parts) ? part_with_tasks(d, cpu, DSQ_READY) : NO_PART;
	if (!own && part == NO_PART && !scx_bpf_dsq_nr_queued(DSQ_READY | d))
		return false;
	/* Others wait, so the slice that ends was not free. */
	taskc->free = 0;
	charge(taskc, prev, cpuc);
	vtime = policy_vtime_now(taskc);
	if ((own && head_is_before(DSQ_OWN | cpu, vtime)) || head_is_before(DSQ_READY | d, vtime) ||
	    (part != NO_PART && head_is_before(DSQ_READY | (nr_domains + part), vtime))) {
		if ((!own || head_has_yielded(DSQ_OWN | cpu)) && head_has_yielded(DSQ_READY | d) &&
		    (part == NO_PART || head_has_yielded(DSQ_READY | (nr_domains + part))))
			cpuc->gives_way = GIVES_WAY_TO_YIELDER;
		return false;
	}
	slice = slice_within_limit(prev, taskc, taskc->slice_ns);
	if (!slice)
		return false;
	grant(prev, taskc, slice);
	follow_group(prev, taskc, cpuc, cpu);
	begin_slice(taskc, cpuc, cpu);
	publish_run(taskc, cpuc, false);
	count(&domc->counts.extended);
	return true;
}

/*
 * Before the ready tasks: runs a domain thread that has kept notices waiting for too long. After a
 * yield it has: the tasks of the notices may be those that the running one yields to.
 */
static bool run_due_thread(struct cpu_ctx *cpuc, struct domain_ctx *domc, u32 d, u64 now)
{
	u64 most = cpuc->gives_way == GIVES_WAY_YIELDS ? 0 :
		   cpuc->dedicated		       ? PROTECTED_MIN_NS :
							 patience_ns;

	return thread_is_due(domc, d, now, most) && run_from(DSQ_THREAD | d);
}

/*
 * Where domain `d` has parts: runs a decided task of the CPU's OWN, of READY or of a part, of the
 * one that is furthest behind first.
 *
 * Global, so that the verifier checks it once.
 */
__weak int run_decided_or_part(u32 cpu, u32 d)
{
	u32 slot = part_with_tasks(d, cpu, DSQ_READY);
	struct domain_ctx *domc = domain_at(d);
	struct cpu_ctx *cpuc = cpu_at(cpu);
	struct part *part = part_at(slot);
	u64 first = DSQ_READY | d, second = DSQ_READY | (nr_domains + slot), vtime;

	if (!domc || !cpuc)
		return 0;
	vtime = domc->ready_vtime;
	if (!part) {
		second = 0;
	} else if (!before(vtime, part->vtime) || !scx_bpf_dsq_nr_queued(first)) {
		first = second;
		second = DSQ_READY | d;
		vtime = part->vtime;
	}
	if (!before(vtime, cpuc->own_vtime) && run_own(cpu, cpuc))
		return 1;
	return run_from(first) || (second && run_from(second)) || run_own(cpu, cpuc);
}

static bool run_own_or_ready(s32 cpu, struct cpu_ctx *cpuc, struct domain_ctx *domc, u32 d)
{
	if (cpuc->dedicated)
		return run_own(cpu, cpuc);
	if (READ_ONCE(domc->parts))
		return run_decided_or_part(cpu, d);
	if (!before(domc->ready_vtime, cpuc->own_vtime))
		return run_own(cpu, cpuc) || run_from(DSQ_READY | d);
	return run_from(DSQ_READY | d) || run_own(cpu, cpuc);
}

/*
 * Step 2: runs a decided task, from the CPU's OWN, from READY and from the READY of parts, from the
 * one that is further behind first.
 */
static bool run_decided(s32 cpu, struct cpu_ctx *cpuc, struct domain_ctx *domc, u32 d)
{
	if (!run_own_or_ready(cpu, cpuc, domc, d)) {
		domc->ready = 0;
		return false;
	}
	/*
	 * For the running thread. Otherwise begin_thread() does it when the thread is switched in.
	 */
	if (domc->state == THREAD_RUNNING)
		note_ready(domc, d);
	if (domc->starved_since_ns)
		domc->starved_since_ns = 0;
	return true;
}

/* Step 3: nothing is ready, and the domain thread waits for a CPU. */
static bool run_parked_thread(struct domain_ctx *domc, u32 d)
{
	return domc->state == THREAD_PARKED && run_from(DSQ_THREAD | d);
}

/* The steps of the picture in docs/architecture.md, each a function. */
static bool run_next(s32 cpu, struct cpu_ctx *cpuc, struct domain_ctx *domc, u32 d,
		     struct task_struct *prev)
{
	bool cut;
	u64 now;

	cut = is_undrained(domc) && drain_decisions(d, cpu); /* 1 */
	note_asked(domc);
	if (READ_ONCE(any_away)) {
		drain_for_away(prev, cpu, d);
		if (run_away_thread(cpu, false))
			return true;
	}
	if (cpuc->limited_by)
		release_next(cpuc);
	now = scx_bpf_now();
	if (shares_are_due(now))
		compute_shares(now);
	if (run_due_thread(cpuc, domc, d, now) || (has_boosts(cpuc, domc) && run_first(cpu)) ||
	    run_unnotified(cpu, cpuc, domc, d, now) || goes_on(prev, cpu, cpuc, domc, d))
		return true;
	if (run_decided(cpu, cpuc, domc, d) || /* 2 */
	    run_parked_thread(domc, d) || /* 3 */
	    run_by_safety_net(cpu, cpuc, domc, now, prev) || /* 4 */
	    (READ_ONCE(any_away) && run_away_thread(cpu, true)) ||
	    run_from_others(cpu, cpuc, d, now, prev)) /* 5 */
		return true;
	/* If it goes idle, it drains the rest first. */
	if (cut)
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
	return false;
}

/*
 * There is no other task to run. The running one goes on, or leaves for a better core and keeps the
 * CPU until then.
 */
static void keep_running(struct task_struct *prev, s32 cpu, struct cpu_ctx *cpuc)
{
	struct task_ctx *taskc = task_ctx(prev);
	u64 slice;

	/* What it gives way to has come into the local queue just now. */
	if (cpuc && is_cut(cpuc) && scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL) > 0)
		return;
	if (cpuc && taskc && !taskc->is_thread && !bypasses_user_space(prev) &&
	    can_upgrade_core(prev, taskc, cpu, cpuc)) {
		/*
		 * Without a slice the task goes to ops.enqueue. If it must not migrate now, or
		 * exits, the kernel puts it back into this CPU's local queue from there. The kernel
		 * does not check that queue again by itself: the CPU would go idle although it has
		 * the task.
		 */
		scx_bpf_kick_cpu(cpu, 0);
		return;
	}
	/*
	 * The time costs no other task anything if none waits. The decisions for waiting tasks may
	 * just be on their way: were the time free, tasks whose slices end together would get
	 * unequal shares.
	 */
	if (taskc) {
		charge(taskc, prev, cpuc);
		if (taskc->free && cpuc)
			forfeit_lag(taskc, cpuc);
		slice = slice_within_limit(prev, taskc, slice_ns);
		if (!slice) {
			/* As above: ops.enqueue throttles it. */
			scx_bpf_kick_cpu(cpu, 0);
			return;
		}
		grant(prev, taskc, slice);
		taskc->free = !cpuc || !is_awaited(cpu, cpuc);
	} else {
		scx_bpf_task_set_slice(prev, slice_ns);
	}
	if (!cpuc)
		return;
	/* A task that has yielded keeps the CPU no longer than a decision is on its way. */
	if (cpuc->gives_way == GIVES_WAY_YIELDS && taskc && !taskc->free)
		scx_bpf_task_set_slice(prev, slice_min_ns);
	cpuc->gives_way = GIVES_WAY_NOT;
	if (taskc && cpuc->running) {
		follow_group(prev, taskc, cpuc, cpu);
		publish_run(taskc, cpuc, taskc->free);
	}
}

/*
 * Another CPU asks for `cpu`, its SMT sibling: core scheduling chooses the tasks of all CPUs of a
 * core together. The CPU that asks does not hold the lock that moves between queues of other CPUs
 * expect, and Linux without the fix of 7.3 deadlocks in scx_bpf_dsq_move_vtime(). So nothing is
 * drained or stolen for a sibling: it gets what is ready, or the thread, or what waits here.
 */
static bool run_for_sibling(s32 cpu, struct cpu_ctx *cpuc, struct domain_ctx *domc, u32 d)
{
	return run_decided(cpu, cpuc, domc, d) || run_parked_thread(domc, d) ||
	       run_by_safety_net(cpu, cpuc, domc, scx_bpf_now(), NULL);
}

void BPF_STRUCT_OPS(manyland_dispatch, s32 cpu, struct task_struct *prev)
{
	struct cpu_ctx *cpuc = cpu_at(cpu);
	struct domain_ctx *domc = cpuc ? domain_at(cpuc->domain) : NULL;
	bool ran;

	if (cpuc) {
		cpuc->asked++;
		note_end_of_interruption(cpuc);
	}
	if (smt && domc && bpf_get_smp_processor_id() != cpu)
		ran = run_for_sibling(cpu, cpuc, domc, cpuc->domain);
	else
		ran = domc && run_next(cpu, cpuc, domc, cpuc->domain, prev);
	if (ran)
		return;
	if (prev && prev->scx.flags & SCX_TASK_QUEUED)
		keep_running(prev, cpu, cpuc);
	else if (domc)
		note_still_idle(cpu, cpuc, domc);
}

#endif /* MANYLAND_DISPATCH_BPF_H */
