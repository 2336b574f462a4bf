/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A decision that holds for longer than one run:
 *   - for the task's next wake-ups, if its policy says so (stand);
 *   - for the rest of a slice in which the task gave way (resume).
 *
 * Invariant: a task is ready without a new notice only by the last decision of the thread that
 * would be notified now, at the key that this decision gives it now.
 */
#ifndef MANYLAND_STANDING_BPF_H
#define MANYLAND_STANDING_BPF_H

#include "crowd.bpf.h"
#include "preempt.bpf.h"
#include "safety_net.bpf.h"

/* How many slices in a row a task of more than average weight gets by the same decision. */
#define KEPT_MAX 4

/*
 * Whether the last decision for `p` holds for this wake-up too. Its policy has said so, and of what
 * the policy knew of the task only the CPU time has changed. No decision stands while the thread is
 * stopped: the tasks that wait for it would wait for this one as well.
 */
static bool stands(struct task_struct *p, struct task_ctx *taskc, struct domain_ctx *domc, u32 d)
{
	u64 now = scx_bpf_now();

	return taskc->stands && !strict && taskc->decided_by == d &&
	       taskc->stands_weight == taskc->weight && weight_holds(p, taskc) &&
	       (s64)(now - taskc->stands_since_ns) < (s64)STANDING_NS && !is_stopped(domc, now);
}

/* `p` is ready at once, at the key that its last decision gives it now. */
static __always_inline void make_ready(struct task_struct *p, struct task_ctx *taskc,
				       struct domain_ctx *domc, u32 d, u64 dsq, u64 slice,
				       u64 enq_flags)
{
	settle_unnotified(taskc);
	taskc->seq++;
	taskc->decided_seq = taskc->seq;
	taskc->policy_vtime_used_ns = taskc->used_ns;
	taskc->free = 0;
	taskc->runnable_ns = scx_bpf_now();
	taskc->notified = d;
	taskc->waits_on = 0;
	taskc->ready_on = dsq;
	if ((dsq & DSQ_KIND) == DSQ_OVERTAKES) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice, enq_flags | SCX_ENQ_PREEMPT);
		return;
	}
	note_work(domc, d);
	WRITE_ONCE(domc->stood_ns, taskc->runnable_ns);
	scx_bpf_dsq_insert_vtime(p, dsq, slice, taskc->policy_vtime, enq_flags);
}

/*
 * `p` is ready at once, on READY or, with `bound_to`, on OWN of that CPU. A CPU may have gone idle
 * since ops.select_cpu found none, and no thread wakes up for this task: the waker kicks that CPU.
 * The kernel makes the kick when it has inserted the task.
 */
static void kick_for_ready(struct task_struct *p, struct domain_ctx *domc, u32 d, s32 bound_to)
{
	s32 idle;

	if (bound_to >= 0) {
		kick_if_idle(bound_to);
		return;
	}
	if (!any_idle(domc))
		return;
	idle = claim_idle(p, d, scx_bpf_task_cpu(p), 0);
	if (idle >= 0)
		scx_bpf_kick_cpu(idle, SCX_KICK_IDLE);
}

/*
 * `p` is ready at once for `slice`: on READY number `queue` of domain `d` or, with `bound_to`, on OWN
 * of that CPU.
 *
 * The kernel carries out the insertion after note_own(), but under the lock of the run queue. The
 * CPU needs that lock for its check, so it finds the task.
 */
static __always_inline void make_ready_at_once(struct task_struct *p, struct task_ctx *taskc,
					       struct domain_ctx *domc, u32 d, u32 queue,
					       s32 bound_to, u64 slice, u64 enq_flags)
{
	if (bound_to >= 0)
		note_own(bound_to);
	make_ready(p, taskc, domc, d, bound_to >= 0 ? DSQ_OWN | bound_to : DSQ_READY | queue, slice,
		   enq_flags);
	kick_for_ready(p, domc, d, bound_to);
}

/*
 * For ops.select_cpu, where no CPU is idle: the CPU on whose run queue `p` is to wake up, since what
 * runs there will have to give way. Negative: `p` goes before no running task.
 */
static s32 cpu_to_overtake(struct task_struct *p, struct task_ctx *taskc, s32 prev_cpu)
{
	struct domain_ctx *domc = domain_at(taskc->home);
	struct overtaker it;
	s32 cpu;

	if (no_preempt || !domc || !taskc->overtakes || p->nr_cpus_allowed == 1 ||
	    (taskc->by_message && message_waits(domc, taskc->home)) ||
	    !stands(p, taskc, domc, taskc->home))
		return -1;
	it = overtaker(taskc, domc, taskc->home);
	cpu = cpu_to_preempt(p, taskc->home, prev_cpu, bpf_get_smp_processor_id(), &it);
	if ((cpu < 0 && it.later_cpu < 0) ||
	    others_come_first(domc, taskc->home, wakeup_vtime(taskc, taskc->home)))
		return -1;
	if (cpu < 0) {
		set_alarm(it.later_cpu, it.later_ns);
		return -1;
	}
	taskc->goes_before = GOES_BEFORE_LATER;
	return cpu;
}

/*
 * Whether the task on `cpu` gives way to one of domain `d` that stands, and for which ops.select_cpu
 * has chosen the CPU.
 */
static bool overtake(struct task_ctx *taskc, struct domain_ctx *domc, u32 d, s32 cpu)
{
	struct overtaker it;

	if (taskc->goes_before != GOES_BEFORE_LATER)
		return false;
	it = overtaker(taskc, domc, d);
	taskc->goes_before = GOES_BEFORE_NONE;
	if (!cut_here(d, cpu, &it))
		return false;
	count(&domc->counts.overtaken);
	return true;
}

/*
 * Whether the last decision for `p`, which is bound to `cpu`, may hold too. It does while no other
 * bound task waits there: its key is by the virtual time of the domain, and these have one of their
 * own (crowd.bpf.h).
 */
static bool may_stand_bound(struct task_struct *p, s32 cpu)
{
	return p->nr_cpus_allowed == 1 && !has_tasks_of_its_own(cpu);
}

/*
 * Whether the task on `cpu` gives way to one that is bound there and stands: the kernel does not ask
 * ops.select_cpu about such. If it is to do so later, the alarm of the CPU is set. Global, so that
 * the verifier checks it once.
 */
__weak bool overtake_bound(struct task_ctx *taskc __arg_nonnull, u32 d, s32 cpu)
{
	struct domain_ctx *domc = domain_at(d);
	struct overtaker it;
	s32 ready;

	if (no_preempt || !domc || !taskc->overtakes ||
	    (taskc->by_message && message_waits(domc, d)))
		return false;
	ready = scx_bpf_dsq_nr_queued(DSQ_READY | d);
	if (are_crowd(domc, ready))
		return false;
	if (ready > 0 && head_comes_before(DSQ_READY | d, wakeup_vtime(taskc, d))) {
		/* Another CPU may run those. It does not run this one. */
		set_alarm(cpu, scx_bpf_now() + PROTECTED_MIN_NS);
		return false;
	}
	it = overtaker(taskc, domc, d);
	if (cut_here(d, cpu, &it)) {
		count(&domc->counts.overtaken);
		return true;
	}
	if (it.later_ns)
		set_alarm(cpu, it.later_ns);
	return false;
}

/*
 * `p` is ready at once, by a decision that stands: on READY number `queue` or, with `bound_to`, on OWN
 * of that CPU. The decision of an earlier notice may be carried out at the same time. It finds another
 * `seq` and moves nothing; carry_out() says what it may leave behind.
 */
static __always_inline void stand(struct task_struct *p, struct task_ctx *taskc,
				  struct domain_ctx *domc, u32 d, u32 queue, s32 bound_to,
				  u64 enq_flags)
{
	s32 cpu = scx_bpf_task_cpu(p);
	bool overtakes =
		bound_to < 0 ? overtake(taskc, domc, d, cpu) : overtake_bound(taskc, d, bound_to);

	taskc->stands--;
	taskc->policy_vtime = wakeup_vtime(taskc, d);
	count(&domc->counts.standing);
	if (overtakes)
		make_ready(p, taskc, domc, d, DSQ_OVERTAKES | d, taskc->slice_ns, enq_flags);
	else
		make_ready_at_once(p, taskc, domc, d, queue, bound_to, taskc->slice_ns, enq_flags);
}

/*
 * While groups are used: whether `p`, whose decided slice has ended, is ready for another one by the same decision, at the
 * key that this gives it now. A CPU that asks at the same tick would otherwise find only lighter
 * tasks ready, whose keys are far ahead, and virtual time would advance to these. So it is for
 * tasks of more than average weight, KEPT_MAX times in a row.
 */
static bool keeps_decision(struct task_struct *p, struct task_ctx *taskc, struct domain_ctx *domc,
			   u32 d, u64 enq_flags)
{
	if (strict || enq_flags & SCX_ENQ_WAKEUP || taskc->run_kind != RUN_DECIDED ||
	    !taskc->vtime_rate || taskc->decided_by != d || taskc->vtime_rate >= VTIME_RATE_ONE ||
	    taskc->kept >= KEPT_MAX || !scx_bpf_task_running(p) || is_stopped(domc, scx_bpf_now()))
		return false;
	taskc->kept++;
	count(&domc->counts.extended);
	return true;
}

/*
 * `p` is ready for the rest of its slice. A bound task is in the CPU's OWN, which the CPU empties
 * as soon as it is free.
 */
static __always_inline void resume(struct task_struct *p, struct task_ctx *taskc,
				   struct domain_ctx *domc, u32 d, u32 queue, s32 bound_to,
				   u64 rest, u64 enq_flags)
{
	taskc->policy_vtime = policy_vtime_now(taskc);
	make_ready_at_once(p, taskc, domc, d, queue, bound_to, rest, enq_flags);
}

#endif /* MANYLAND_STANDING_BPF_H */
