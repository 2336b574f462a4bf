/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A task becomes runnable. ops.enqueue lists what may come of that, first match first:
 *
 *   enqueue_bypassing  it bypasses user space (kthread.bpf.h)
 *   run_in_turn        there is no memory for what BPF knows of it (unstored.bpf.h)
 *   park_thread        it is a domain thread (domain_thread.bpf.h)
 *   throttle           its group has used up its CPU time (throttle.bpf.h)
 *   run_here           no thread decides for it
 *   upgrade_core       it had its CPU for itself, and a better core is idle
 *   remain             it gives way to a thread of the kernel, and goes on after it (kthread.bpf.h)
 *   send               preempted by a higher scheduling class that is soon done, it has the CPU for
 *                      itself and remains (higher_class.bpf.h)
 *   run_on_idle        it runs on an idle CPU at once
 *   serve_kernel       a thread of the kernel that a crowd or its domain thread would hold up: it is
 *                      ready at once, before others (kernel_work.bpf.h)
 *   end                it is about to end: it is ready at once
 *   overtake_idle      it runs at once where a task of SCHED_IDLE ran (idle_class.bpf.h)
 *   resume             it gave way before the end of its slice, and has some of that left
 *                      (rest.bpf.h, standing.bpf.h); or it has yielded (yield.bpf.h)
 *   stand              it is ready, or runs, at once, by a decision that stands (standing.bpf.h)
 *   wait_for_decision  it waits
 *
 * Invariant: when ops.enqueue is done, the task is on exactly one queue of the kernel. If it is on
 * WAITING or BOUND, the domain thread has been notified. If the ring had no room for the notice,
 * the task counts as unnotified, and while there are such tasks every second dispatch is the safety
 * net's. The task is ready at once only by a decision of its home's thread that still holds, if it
 * is about to end, or as a thread of the kernel.
 */
#ifndef MANYLAND_ENQUEUE_BPF_H
#define MANYLAND_ENQUEUE_BPF_H

#include "balance.bpf.h"
#include "crowd.bpf.h"
#include "higher_class.bpf.h"
#include "idle_class.bpf.h"
#include "kernel_work.bpf.h"
#include "kthread.bpf.h"
#include "notify.bpf.h"
#include "select_cpu.bpf.h"
#include "standing.bpf.h"
#include "throttle.bpf.h"
#include "unstored.bpf.h"
#include "yield.bpf.h"

/*
 * `p` had `cpu` for itself, and ops.dispatch has seen a better core idle. If another task has
 * claimed that core since, `p` goes on where it is. ops.dispatch has kicked the CPU, so it will
 * check its local queue.
 */
static void upgrade_core(struct task_struct *p, struct task_ctx *taskc, s32 cpu, u64 enq_flags)
{
	struct domain_ctx *domc = domain_at(domain_of_cpu(cpu));
	s32 better = claim_better(p, taskc, cpu);

	if (better < 0) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_ns, enq_flags);
		return;
	}
	if (domc)
		count(&domc->counts.climbed);
	send(p, taskc, taskc->home, better, enq_flags);
}

/*
 * Runs `p` at once on an idle CPU, and answers whether there was one for it. With --strict there is
 * none while waiting tasks go before `p`. A bound task needs the CPU that it is bound to. For
 * another one any CPU will do, but it is claimed only if ops.select_cpu was not called.
 */
static __always_inline bool run_on_idle(struct task_struct *p, struct task_ctx *taskc,
					struct domain_ctx *domc, u32 d, s32 cpu, bool bound,
					u64 enq_flags)
{
	s32 idle;

	if (must_queue(cpu, d))
		return false;
	if (bound) {
		if (scx_bpf_task_running(p) || !scx_bpf_test_and_clear_cpu_idle(cpu))
			return false;
		bypass(p, taskc, d, enq_flags);
		return true;
	}
	if (__COMPAT_is_enq_cpu_selected(enq_flags))
		return false;
	idle = claim_again(p, domc, d, cpu);
	if (idle < 0)
		return false;
	send(p, taskc, d, idle, enq_flags);
	return true;
}

/*
 * `p` runs at once, and the task of SCHED_IDLE that has the CPU gives way. It needs no decision, as
 * on an idle CPU, but what it uses there is not free.
 */
static void overtake_idle(struct task_struct *p, struct task_ctx *taskc, struct domain_ctx *domc,
			  u32 d, u64 enq_flags)
{
	note_bypass(taskc, d);
	taskc->free = 0;
	count(&domc->counts.overtaken);
	scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_ns, enq_flags | SCX_ENQ_PREEMPT);
}

/*
 * `p` is about to end, and may still have much memory to free. It is ready at once, for a least
 * slice and without lag. A decision names a task by its pid, and the pid may be gone by then.
 *
 * While the thread is stopped, it waits for the safety net as the others do. Otherwise those would
 * wait for all that end.
 */
static __always_inline void end(struct task_struct *p, struct task_ctx *taskc,
				struct domain_ctx *domc, u32 d, u32 queue, s32 bound_to,
				u64 enq_flags)
{
	u64 vtime = policy_vtime_now(taskc), least = policy_vtime_of(d, queue, bound_to);

	if (taskc->decided_by != d || !taskc->vtime_rate || before(vtime, least))
		vtime = least;
	taskc->policy_vtime = vtime;
	make_ready_at_once(p, taskc, domc, d, queue, bound_to, slice_min_ns, enq_flags);
}

/*
 * `p` waits for a decision of the thread of domain `d`, or for the safety net: on WAITING number
 * `queue`, or on BOUND of `cpu`.
 */
static __always_inline void wait_for_decision(struct task_struct *p, struct task_ctx *taskc,
					      struct domain_ctx *domc, u32 d, u32 queue, s32 cpu,
					      bool bound, u64 enq_flags)
{
	u64 dsq = bound ? DSQ_BOUND | cpu : DSQ_WAITING | queue;
	u64 credit = sleepers_credit(domc);
	bool urgent;
	u16 flags = 0;

	if (enq_flags & SCX_ENQ_WAKEUP)
		flags |= NOTICE_WAKEUP;
	if (bound)
		flags |= NOTICE_BOUND;
	weigh(p, taskc);
	taskc->vtime = limited_vtime_at(taskc, net_vtime_of(d, queue, bound ? cpu : -1), credit);
	settle_unnotified(taskc);
	taskc->seq++;
	taskc->free = 0;
	taskc->runnable_ns = scx_bpf_now();
	taskc->notified = d;
	taskc->waits_on = dsq;
	note_work(domc, d);
	urgent = enq_flags & SCX_ENQ_WAKEUP && is_urgent(taskc, d);
	if (notify(p, taskc, d, flags))
		count(&domc->counts.queued);
	else
		note_unnotified(taskc, domc);
	scx_bpf_dsq_insert_vtime(p, dsq, slice_ns, net_key(taskc, taskc->vtime, credit), enq_flags);
	kick_if_idle(cpu);
	if (urgent && domc->state == THREAD_PARKED && is_hurried(domc, taskc->runnable_ns))
		hurry(p, domc, d, cpu);
}

void BPF_STRUCT_OPS(manyland_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct task_ctx *taskc = task_ctx(p);
	s32 cpu = scx_bpf_task_cpu(p);
	struct domain_ctx *domc;
	bool bound, kernels, held;
	u32 d, queue;
	u64 rest;
	u32 why;

	if (bypasses_user_space(p)) {
		enqueue_bypassing(p, taskc, cpu, enq_flags);
		return;
	}
	if (!taskc)
		taskc = begin_again(p, domain_of_cpu(cpu));
	if (!taskc) {
		run_in_turn(p, cpu, enq_flags);
		return;
	}
	if (taskc->is_thread && p->flags & PF_EXITING) {
		run_here(p, enq_flags);
		return;
	}
	if (taskc->is_thread) {
		park_thread(p, taskc, enq_flags);
		return;
	}
	settle_sent(taskc);
	count_runnable(p, taskc);
	if (enq_flags & SCX_ENQ_WAKEUP && !taskc->woken_ns)
		begin_run_delay(taskc);
	if (enq_flags & SCX_ENQ_REENQ)
		note_displaced(cpu);
	held = limit_of(taskc) && is_held(p, taskc);
	if ((by_kind || smt) && enq_flags & SCX_ENQ_LAST && !held) {
		upgrade_core(p, taskc, cpu, enq_flags);
		return;
	}

	bound = p->nr_cpus_allowed == 1;
	if (!bound)
		maybe_balance(p, taskc, enq_flags & SCX_ENQ_WAKEUP);
	d = bound ? domain_of_cpu(cpu) : home_of(p, taskc);
	domc = domain_at(d);
	if (!domc) {
		/*
		 * Its CPUs are isolated or domain threads' own, or came online after attach: no
		 * thread decides for it.
		 */
		run_here(p, enq_flags);
		return;
	}
	if (held) {
		throttle(p, taskc, d, cpu, enq_flags);
		return;
	}
	why = why_it_gives_way(p, cpu_at(cpu), enq_flags);
	if (why == GIVES_WAY_TO_KTHREAD && remain(p, taskc, cpu, enq_flags))
		return;
	if (why == GIVES_WAY_TO_CLASS && remains(p, taskc, d, cpu)) {
		if (taskc->free) {
			send(p, taskc, d, cpu, enq_flags);
			return;
		}
	} else if (run_on_idle(p, taskc, domc, d, cpu, bound, enq_flags)) {
		return;
	}
	if (overtakes_idle_class(p, taskc, cpu, enq_flags)) {
		overtake_idle(p, taskc, domc, d, enq_flags);
		return;
	}
	queue = bound ? NO_PART : queue_of(p, taskc, d);
	if (queue == NO_PART && !bound) {
		bound = true;
		cpu = one_cpu_of(p, d, cpu);
	}
	if ((bound || queue >= nr_domains) && !scx_bpf_task_running(p))
		join_crowd(d, queue, bound ? cpu : -1);
	kernels = has_kernel_time(p, taskc);
	if (kernels && kernel_work_is_held_up(d)) {
		serve_kernel(p, taskc, domc, d, queue, bound ? cpu : -1, enq_flags);
		return;
	}
	if (kernels)
		lead_crowd(taskc, net_vtime_of(d, queue, bound ? cpu : -1));
	if (p->flags & PF_EXITING && !is_stopped(domc, scx_bpf_now())) {
		end(p, taskc, domc, d, queue, bound ? cpu : -1, enq_flags);
		return;
	}
	rest = why >= GIVES_WAY_YIELDS ?
		       slice_after_giving_way(taskc, d, bound ? d : queue, cpu, why) :
		       rest_of_slice(taskc, d, enq_flags);
	if (groups_are_used() && !rest && why == GIVES_WAY_NOT &&
	    keeps_decision(p, taskc, domc, d, enq_flags))
		rest = taskc->slice_ns;
	if (rest) {
		resume(p, taskc, domc, d, queue, bound ? cpu : -1, rest, enq_flags);
		return;
	}
	if (enq_flags & SCX_ENQ_WAKEUP && (!bound || may_stand_bound(p, cpu)) &&
	    stands(p, taskc, domc, d)) {
		stand(p, taskc, domc, d, queue, bound ? cpu : -1, enq_flags);
		return;
	}
	if (why == GIVES_WAY_YIELDS)
		give_up_net_slice(taskc, bound ? DSQ_BOUND | cpu : DSQ_WAITING | queue);
	wait_for_decision(p, taskc, domc, d, queue, cpu, bound, enq_flags);
}

#endif /* MANYLAND_ENQUEUE_BPF_H */
