/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The first promise: every runnable task runs, whatever the domain threads do.
 *
 * A task that waits for a decision is in WAITING of its home, or in BOUND of its CPU, sorted by a
 * virtual time that BPF keeps itself. CPUs run it from there:
 *   - when their domain thread is stopped or overdue (net_is_open, run_waiting);
 *   - at every second dispatch while tasks are unnotified (run_unnotified);
 *   - before all other tasks, once it has waited for seconds (feed_starved).
 *
 * Two kinds of task starve, ready or waiting: those that a policy never chooses, and the lightest
 * among many. A task of nice 19 has a hundredth of the share of others, so among forty of them it
 * runs once in some ten seconds. A starved task runs for one slice, decided or not. Otherwise the
 * kernel's watchdog would end the scheduler.
 *
 * Invariant: without --strict no task waits for a thread that is asleep, stopped or past its
 * patience; with it, for no longer than STALL_NS. And no task waits in a queue for much longer than
 * STARVED_NS while CPUs that it may use run others from there, whatever its weight and whatever its
 * policy wants.
 */
#ifndef MANYLAND_SAFETY_NET_BPF_H
#define MANYLAND_SAFETY_NET_BPF_H

#include "crowd.bpf.h"
#include "domain_thread.bpf.h"
#include "limit.bpf.h"
#include "part.bpf.h"
#include "rest.bpf.h"
#include "stats.bpf.h"
#include "vtime.bpf.h"
#include "wanted.bpf.h"

/*
 * Whether waiting tasks run without a decision: nothing has been ready for too long, or the thread
 * sleeps on although it was called. The latter does not end when a task is ready without it: a
 * thread of the kernel, or a starved one.
 */
static bool net_is_open(struct domain_ctx *domc, u64 now)
{
	u64 most = READ_ONCE(domc->patience_ns);

	if (!domc->starved_since_ns)
		domc->starved_since_ns = now;
	if (strict || most > STALL_NS)
		most = STALL_NS;
	/* It has left no decisions that a CPU is about to carry out. */
	if (domc->state == THREAD_ASLEEP && is_away_for(domc, now, most) && !is_undrained(domc))
		return true;
	/* A running thread soon finishes its round, unless it is broken. */
	if (domc->state == THREAD_RUNNING)
		most = most * WORK_PATIENCES < STALL_NS ? most * WORK_PATIENCES : STALL_NS;
	return (s64)(now - domc->starved_since_ns) > (s64)most;
}

/* Runs from one of two sorted queues, the one that is further behind first. */
static bool run_from_either(u64 a, u64 b, bool a_first)
{
	return a_first ? run_from(a) || run_from(b) : run_from(b) || run_from(a);
}

/*
 * Runs a waiting task: of those bound to the CPU and those of the domain, the one with the earliest
 * key. A dedicated CPU is only for the former.
 *
 * Not static, so that the verifier checks it once, and not on each path to a call of it.
 */
__noinline int run_waiting(u32 cpu, u32 d, bool dedicated)
{
	u64 bound = DSQ_BOUND | cpu, waiting = DSQ_WAITING | d;
	struct domain_ctx *domc = domain_at(d);
	u32 part;

	if (dedicated)
		return run_from(bound);
	part = domc && READ_ONCE(domc->parts) ? part_with_tasks(d, cpu, DSQ_WAITING) : NO_PART;
	if (part != NO_PART && head_is_before_head(DSQ_WAITING | (nr_domains + part), waiting))
		waiting = DSQ_WAITING | (nr_domains + part);
	if (!scx_bpf_dsq_nr_queued(bound))
		return run_from(waiting);
	return run_from_either(bound, waiting, head_is_before_head(bound, waiting));
}

/*
 * The slice of a task that the safety net runs from a queue. All that wait there share one slice,
 * as under a policy.
 */
static u64 net_slice(u64 dsq)
{
	s32 waiting = scx_bpf_dsq_nr_queued(dsq);
	u64 slice = waiting > 0 ? slice_ns / (waiting + 1) : slice_ns;

	return slice > slice_min_ns ? slice : slice_min_ns;
}

/*
 * The ring of `domc` is full: its thread has thousands of tasks to decide already. The safety net
 * has to run this one.
 */
static void note_unnotified(struct task_ctx *taskc, struct domain_ctx *domc)
{
	count(&domc->counts.congested);
	if (__sync_lock_test_and_set(&taskc->unnotified, 1))
		return;
	if (!__sync_fetch_and_add(&domc->unnotified, 1))
		domc->unnotified_since_ns = scx_bpf_now();
}

/* The task is unnotified no longer: it runs, is ready, waits anew, or is gone. */
static void settle_unnotified(struct task_ctx *taskc)
{
	struct domain_ctx *domc;

	if (!taskc->unnotified || !__sync_lock_test_and_set(&taskc->unnotified, 0))
		return;
	domc = domain_at(taskc->notified);
	if (domc)
		__sync_fetch_and_sub(&domc->unnotified, 1);
}

/*
 * No decision will come for unnotified tasks, so the safety net cannot leave them until no task is
 * ready: it has every second dispatch.
 */
static bool run_unnotified(s32 cpu, struct cpu_ctx *cpuc, struct domain_ctx *domc, u32 d, u64 now)
{
	if (!READ_ONCE(domc->unnotified))
		return false;
	if (strict && (s64)(now - domc->unnotified_since_ns) < (s64)STALL_NS)
		return false;
	cpuc->net_next ^= 1;
	return cpuc->net_next && run_waiting(cpu, d, cpuc->dedicated);
}

/*
 * A task runs undecided, for which the thread of `domc` was to decide. It was the first waiting
 * one, unless it was starved. So the safety net's virtual time is not before its vtime
 * (note_service).
 */
static void run_undecided(struct task_struct *p, struct task_ctx *taskc, struct domain_ctx *domc,
			  struct cpu_ctx *cpuc)
{
	count(&domc->counts.late);
	note_theft(taskc->notified, cpuc->domain);
	scx_bpf_task_set_slice(p, net_slice(taskc->waits_on));
	if (!is_ready(taskc) && before(domc->net_vtime, taskc->vtime))
		domc->net_vtime = taskc->vtime;
}

/*
 * Of the tasks without a context, of which nothing says since when they have waited, one counts as
 * starved.
 *
 * Moves tasks that have waited for too long from the end of a queue to the key `vtime` in `to`, and
 * answers how many.
 */
static __noinline u32 move_starved(u64 from, u64 to, u64 vtime)
{
	struct bpf_iter_scx_dsq it;
	u64 now = scx_bpf_now();
	struct task_struct *p;
	struct task_ctx *taskc;
	bool in_turn = false;
	u32 moved = 0, i;

	if (!bpf_iter_scx_dsq_new(&it, from, SCX_DSQ_ITER_REV)) {
		bpf_for(i, 0, STARVED_CHECKS_MAX) {
			p = bpf_iter_scx_dsq_next(&it);
			if (!p)
				break;
			taskc = task_ctx(p);
			if (taskc ? (s64)(now - taskc->runnable_ns) < (s64)STARVED_NS : in_turn)
				continue;
			if (!taskc)
				in_turn = true;
			scx_bpf_dsq_move_set_vtime(&it, vtime);
			if (scx_bpf_dsq_move_vtime(&it, p, to, 0)) {
				if (taskc)
					taskc->ready_on = to;
				moved++;
			}
		}
	}
	bpf_iter_scx_dsq_destroy(&it);
	return moved;
}

/*
 * For the heartbeat: searches two queues, of waiting and of ready tasks, for starved ones. Answers
 * how many boosts they are to have.
 */
__weak u32 feed_starved(u64 waiting, u64 ready, u64 last_vtime)
{
	u32 boosts = 0;
	u64 vtime;

	/* A timer implies RCU, but Linux before 6.18 does not see that. */
	bpf_rcu_read_lock();
	vtime = first_vtime_rcu(ready, last_vtime);
	if (scx_bpf_dsq_nr_queued(ready) > 0)
		boosts += move_starved(ready, ready, vtime);
	if (scx_bpf_dsq_nr_queued(waiting) > 0)
		boosts += move_starved(waiting, ready, vtime);
	bpf_rcu_read_unlock();
	return boosts;
}

/*
 * Whether the running task, its slice used up, comes before all that wait for this CPU: it then goes
 * on, as goes_on() has it by a policy's keys. It is not in the queue when the next one is chosen, so
 * without this two tasks on a CPU would alternate whatever their weights.
 *
 * Global, so that the verifier checks it once.
 */
__weak bool comes_before_waiting(struct task_ctx *taskc __arg_nonnull,
				 struct cpu_ctx *cpuc __arg_nonnull, u32 cpu)
{
	struct domain_ctx *domc = domain_at(cpuc->domain);
	u32 d = cpuc->domain, part = part_in(taskc, d);
	u32 queue = part == NO_PART ? d : nr_domains + part;
	u64 vtime, credit, key;

	if (!domc)
		return false;
	vtime = net_vtime_of(d, queue, cpuc->runs_bound ? (s32)cpu : -1);
	credit = sleepers_credit(domc);
	key = net_key(taskc, limited_vtime_at(taskc, vtime, credit), credit);
	if (head_is_before(DSQ_BOUND | cpu, key))
		return false;
	if (cpuc->dedicated)
		return true;
	part = READ_ONCE(domc->parts) ? part_with_tasks(d, cpu, DSQ_WAITING) : NO_PART;
	return !head_is_before(DSQ_WAITING | d, key) &&
	       (part == NO_PART || !head_is_before(DSQ_WAITING | (nr_domains + part), key));
}

/* The running task goes on undecided, as the first of those that wait. */
static bool goes_on_undecided(struct task_struct *prev, s32 cpu, struct cpu_ctx *cpuc,
			      struct domain_ctx *domc)
{
	struct task_ctx *taskc;
	u64 slice;

	if (!cpuc->running || !may_go_on(prev, cpu, cpuc))
		return false;
	taskc = task_ctx(prev);
	if (!taskc || taskc->is_thread)
		return false;
	taskc->free = 0;
	charge(taskc, prev, cpuc);
	if (!comes_before_waiting(taskc, cpuc, cpu))
		return false;
	slice = slice_within_limit(prev, taskc, net_slice(DSQ_WAITING | cpuc->domain));
	if (!slice)
		return false;
	taskc->run_kind = RUN_UNDECIDED;
	if (before(domc->net_vtime, taskc->vtime))
		domc->net_vtime = taskc->vtime;
	go_on_in_crowd(taskc, cpuc, domc);
	grant(prev, taskc, slice);
	follow_group(prev, taskc, cpuc, cpu);
	publish_run(taskc, cpuc, false);
	count(&domc->counts.late);
	return true;
}

/* Step 4 of ops.dispatch: no task is ready, so a waiting one runs if the thread is overdue. */
static bool run_by_safety_net(s32 cpu, struct cpu_ctx *cpuc, struct domain_ctx *domc, u64 now,
			      struct task_struct *prev)
{
	if (is_awaited(cpu, cpuc)) {
		if (net_is_open(domc, now))
			return goes_on_undecided(prev, cpu, cpuc, domc) ||
			       run_waiting(cpu, cpuc->domain, cpuc->dedicated);
		call_to_own_cpu(domc);
		return false;
	}
	if (cpuc->dedicated)
		return false;
	if (domc->starved_since_ns)
		domc->starved_since_ns = 0;
	note_no_work(domc, cpuc->domain);
	return false;
}

#endif /* MANYLAND_SAFETY_NET_BPF_H */
