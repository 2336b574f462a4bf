/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The first promise: every runnable task runs, whatever the domain threads do.
 *
 * A task that waits for a decision sits in WAITING of its home, or in BOUND of its CPU, in the
 * order of a virtual time that BPF keeps itself. CPUs run it from there
 *   - when their domain thread is stopped, or later than its patience (net_is_open, run_waiting);
 *   - every second time while tasks wait of which the thread could not be notified (run_untold);
 *   - first of all tasks, once it has waited for seconds (feed_starved). The lightest among many do
 *     (a task of nice 19 has a hundredth of the share of others, so among forty of them it runs
 *     once in some ten seconds), and those that a policy never chooses. They run for one slice,
 *     decided or not. Otherwise the kernel's watchdog would end the scheduler.
 *
 * Invariant: without --strict no task waits for a thread that is asleep, stopped, or later than its
 * patience; with it, for no longer than STALL_NS. And no task waits in a queue for much longer than
 * STARVED_NS while CPUs that it may use run others from there, whatever its weight and whatever its
 * policy wants.
 */
#ifndef MANYLAND_SAFETY_NET_BPF_H
#define MANYLAND_SAFETY_NET_BPF_H

#include "domain_thread.bpf.h"
#include "stats.bpf.h"
#include "vtime.bpf.h"

/* Whether waiting tasks run without a decision. */
static bool net_is_open(struct domain_ctx *domc, u64 now)
{
	s64 starved, most = READ_ONCE(domc->patience_ns);

	if (!domc->starved_since_ns)
		domc->starved_since_ns = now;
	starved = now - domc->starved_since_ns;
	/* It sleeps, and nobody is about to carry out what it has decided. */
	if (!strict && domc->state == THREAD_ASLEEP && is_away(domc, now) && !is_undrained(domc))
		return true;
	/* One that is at work comes to an end soon, unless it is broken. */
	if (domc->state == THREAD_RUNNING)
		most *= WORK_PATIENCES;
	return starved > (strict || most > (s64)STALL_NS ? (s64)STALL_NS : most);
}

/* Runs from one of two ordered queues, the one that is behind first. */
static bool run_from_either(u64 a, u64 b, bool a_first)
{
	return a_first ? run_from(a) || run_from(b) : run_from(b) || run_from(a);
}

/*
 * Runs a waiting task: of those bound to the CPU and those of the domain, the one that had least. A
 * dedicated CPU is only for the former.
 * Not static, so that the verifier looks at it once, and not on each path to a call of it.
 */
__noinline int run_waiting(u32 cpu, u32 d, bool dedicated)
{
	u64 bound = DSQ_BOUND | cpu, waiting = DSQ_WAITING | d;

	if (dedicated)
		return run_from(bound);
	if (!scx_bpf_dsq_nr_queued(bound))
		return run_from(waiting);
	return run_from_either(bound, waiting, head_is_before_head(bound, waiting));
}

/*
 * The slice of a task that runs from there: all that wait behind it share one, as under a policy.
 */
static u64 net_slice(u64 dsq)
{
	s32 waiting = scx_bpf_dsq_nr_queued(dsq);
	u64 slice = waiting > 0 ? slice_ns / (waiting + 1) : slice_ns;

	return slice > slice_min_ns ? slice : slice_min_ns;
}

/* The thread of `domc` has thousands to decide already; this one is the safety net's to run. */
static void note_unnotified(struct task_ctx *taskc, struct domain_ctx *domc)
{
	count(&domc->counts.congested);
	if (__sync_lock_test_and_set(&taskc->unnotified, 1))
		return;
	if (!__sync_fetch_and_add(&domc->unnotified, 1))
		domc->unnotified_since_ns = scx_bpf_now();
}

/* The task runs, waits anew, or is gone. */
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
 * Tasks wait that no decision will come for, so the net cannot be left until nothing is ready: it
 * has every second turn.
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
 * Whether a task waits for a decision that this CPU may then run; of those that are decided it
 * would have taken one. Not static, so that the verifier looks at it once.
 */
__weak bool is_awaited(u32 cpu, struct cpu_ctx *cpuc __arg_nonnull)
{
	return (!cpuc->dedicated && scx_bpf_dsq_nr_queued(DSQ_WAITING | cpuc->domain) > 0) ||
	       scx_bpf_dsq_nr_queued(DSQ_BOUND | cpu) > 0;
}

/*
 * A task runs that waited for a decision of `domc`. It was the first of those that wait, unless it
 * was starved, so the safety net's virtual time is not before its own (note_service()).
 */
static void run_undecided(struct task_struct *p, struct task_ctx *taskc, struct domain_ctx *domc, struct cpu_ctx *cpuc)
{
	count(&domc->counts.late);
	note_theft(taskc->notified, cpuc->domain);
	scx_bpf_task_set_slice(p, net_slice(taskc->waits_on));
	if (!is_ready(taskc) && before(domc->net_vtime, taskc->vtime))
		domc->net_vtime = taskc->vtime;
}

/*
 * Moves the tasks at the end of a queue that have waited for too long to the place `order` in `to`,
 * and answers how many.
 */
static __noinline u32 move_to_front(u64 from, u64 to, u64 vtime)
{
	struct bpf_iter_scx_dsq it;
	u64 now = scx_bpf_now();
	struct task_struct *p;
	struct task_ctx *taskc;
	u32 moved = 0, i;

	if (!bpf_iter_scx_dsq_new(&it, from, SCX_DSQ_ITER_REV)) {
		bpf_for(i, 0, STARVED_CHECKS_MAX) {
			p = bpf_iter_scx_dsq_next(&it);
			if (!p)
				break;
			taskc = task_ctx(p);
			if (!taskc || (s64)(now - taskc->runnable_ns) < (s64)STARVED_NS)
				continue;
			scx_bpf_dsq_move_set_vtime(&it, vtime);
			if (scx_bpf_dsq_move_vtime(&it, p, to, 0)) {
				taskc->ready_on = to;
				moved++;
			}
		}
	}
	bpf_iter_scx_dsq_destroy(&it);
	return moved;
}

/*
 * For the heartbeat: looks for starved tasks in two queues, those of waiting and of ready ones, and
 * answers how many turns they are to have before everybody else.
 */
__weak u32 feed_starved(u64 waiting, u64 ready, u64 last_vtime)
{
	u32 boosts = 0;
	u64 vtime;

	/* As in heartbeat(). */
	bpf_rcu_read_lock();
	vtime = first_vtime_rcu(ready, last_vtime);
	if (scx_bpf_dsq_nr_queued(ready) > 0)
		boosts += move_to_front(ready, ready, vtime);
	if (scx_bpf_dsq_nr_queued(waiting) > 0)
		boosts += move_to_front(waiting, ready, vtime);
	bpf_rcu_read_unlock();
	return boosts;
}

/* Step 4 of ops.dispatch: no task is ready, so a waiting one runs if the thread is late. */
static bool run_by_safety_net(s32 cpu, struct cpu_ctx *cpuc, struct domain_ctx *domc, u32 d, u64 now)
{
	if ((!cpuc->dedicated && scx_bpf_dsq_nr_queued(DSQ_WAITING | d) > 0) ||
	    scx_bpf_dsq_nr_queued(DSQ_BOUND | cpu) > 0)
		return net_is_open(domc, now) && run_waiting(cpu, d, cpuc->dedicated);
	if (cpuc->dedicated)
		return false;
	if (domc->starved_since_ns)
		domc->starved_since_ns = 0;
	if (READ_ONCE(domc->has_work))
		WRITE_ONCE(domc->has_work, 0);
	return false;
}

#endif /* MANYLAND_SAFETY_NET_BPF_H */
