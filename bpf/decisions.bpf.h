/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Domain thread to kernel: how the decisions in a domain's ring are carried out, and how a running
 * task gives way to one (preempt).
 *
 * A decision names a task, its generation, a CPU, a slice and a vtime. All of it is checked here,
 * and what fails is counted:
 *   bounced  CPU, slice or domain is wrong: the task goes on waiting, its thread is notified again
 *   stale    the task has run, moved, died or begun another generation: the decision is dropped
 *
 * Invariant: a task leaves WAITING or BOUND only by a move that the kernel itself carries out under
 * the task's run-queue lock, so that it is never on two queues or on none.
 */
#ifndef MANYLAND_DECISIONS_BPF_H
#define MANYLAND_DECISIONS_BPF_H

#include "alarm.bpf.h"
#include "balance.bpf.h"
#include "home.bpf.h"
#include "idle_class.bpf.h"
#include "notify.bpf.h"
#include "safety_net.bpf.h"

/* Where a decision moves a task. */
struct transfer {
	u64 seq; /* the generation that was decided */
	u64 from, to;
	u64 slice_ns, vtime;
};

/*
 * Moves `p` from one queue to another, if it is on the first in the generation that was decided.
 *
 * A change of affinity may put it there anew while the decision is being checked. The move itself
 * refuses a task that was inserted after the iterator was opened, and ops.enqueue counts `seq` up
 * before it inserts. So `seq` is compared between opening and move, and an old decision never moves
 * a new generation.
 *
 * Not inlined: the verifier wants an iterator opened and closed in a frame of its own when it is
 * inside a callback.
 */
static __noinline bool move_task(struct task_struct *p, struct transfer *m)
{
	struct task_ctx *taskc = task_ctx(p);
	struct bpf_iter_scx_dsq it;
	bool moved = false;

	if (!bpf_iter_scx_dsq_new(&it, m->from, 0) && taskc && READ_ONCE(taskc->seq) == m->seq) {
		scx_bpf_dsq_move_set_slice(&it, m->slice_ns);
		scx_bpf_dsq_move_set_vtime(&it, m->vtime);
		moved = scx_bpf_dsq_move_vtime(&it, p, m->to, 0);
	}
	bpf_iter_scx_dsq_destroy(&it);
	return moved;
}

/*
 * A drain of a ring. What it counts is in the domain's memory, since the kernel lets one CPU drain
 * at a time. Numbers that change here would make every round a new state for the verifier.
 */
struct drain {
	u32 domain; /* whose ring it is */
	s32 cpu; /* the CPU that drains */
	bool cut; /* it has ended before the ring did */
};

/*
 * Whether a decision for domain `d` may put `p` on `cpu`. Both the task's affinity and the domain
 * must have that CPU. A domain thread's own CPU is only for a task that may use no other.
 */
static bool is_sound_cpu(struct task_struct *p, u32 cpu, u32 d)
{
	struct cpu_ctx *cpuc;

	if (cpu >= nr_cpus || !bpf_cpumask_test_cpu(cpu, p->cpus_ptr))
		return false;
	cpuc = cpu_at(cpu);
	return cpuc && cpuc->domain == d && (!cpuc->dedicated || p->nr_cpus_allowed == 1);
}

static bool is_sound(struct task_struct *p, struct task_ctx *taskc, const struct decision *d)
{
	if (!d->slice_ns || d->slice_ns > SLICE_MAX_NS || d->domain >= nr_domains)
		return false;
	if (d->cpu == NO_CPU ? d->flags & DECISION_PREEMPT : !is_sound_cpu(p, d->cpu, d->domain))
		return false;
	return d->domain == taskc->notified || has_cpu_of(d->domain, p->cpus_ptr);
}

/*
 * The queue that a sound decision means, and the CPU to kick for it. A hint at a CPU that is no
 * longer idle means READY, of the domain or of the task's part of it.
 */
static u64 destination(struct task_struct *p, struct task_ctx *taskc, const struct decision *d,
		       s32 *kick)
{
	u32 part;

	*kick = -1;
	if (waits_bound(taskc)) {
		*kick = taskc->waits_on & ~DSQ_KIND;
		return DSQ_OWN | *kick;
	}
	if (d->cpu != NO_CPU &&
	    (!(d->flags & DECISION_IDLE) || scx_bpf_test_and_clear_cpu_idle(d->cpu))) {
		*kick = d->cpu;
		return DSQ_OWN | d->cpu;
	}
	if (may_use_whole(p, d->domain))
		return DSQ_READY | d->domain;
	part = part_in(taskc, d->domain);
	if (part != NO_PART)
		return DSQ_READY | (nr_domains + part);
	/* It is not at home there, and may use a part of the domain. */
	*kick = one_cpu_of(p, d->domain, NO_CPU);
	return DSQ_OWN | *kick;
}

static void bounce(struct task_struct *p, struct task_ctx *taskc, struct domain_ctx *domc)
{
	struct domain_ctx *notified_domc = domain_at(taskc->notified);

	count(&domc->counts.bounced);
	if (notified_domc && !notify(p, taskc, taskc->notified, flags_again(taskc)))
		note_unnotified(taskc, notified_domc);
}

/*
 * The task that runs on `cpu` gives way, before its slice ends, to the task that has just been put
 * first into the CPU's OWN.
 *
 * Only a task that user space decides for gives way. `running` names no task while the CPU runs a
 * domain thread, a thread that bypasses user space, or a task of a higher scheduling class.
 *
 * The kernel's own SCX_KICK_PREEMPT ends the slice of the task that runs when the interrupt
 * arrives, which may be a domain thread by then. This function ends the slice of the one task, and
 * another that has come to run meanwhile keeps the CPU. A task that leaves the CPU just then has a
 * short slice when it runs next, no more. The kernel enqueues the preempted task as at the end of a
 * slice.
 */
__weak int preempt(u32 d, s32 cpu, s32 here)
{
	struct domain_ctx *domc = domain_at(d);
	struct cpu_ctx *cpuc = cpu_at(cpu);
	struct task_struct *running;

	if (!cpuc || !domc)
		return 0;
	__sync_fetch_and_add(&cpuc->own_boosts, 1);
	if (cpu == here)
		return 0;
	running = bpf_task_from_pid(READ_ONCE(cpuc->running));
	if (!running) {
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
		return 0;
	}
	/* Not 0: the kernel warns of that if the task has just left the CPU. */
	scx_bpf_task_set_slice(running, 1);
	bpf_task_release(running);
	count(&domc->counts.preempted);
	scx_bpf_kick_cpu(cpu, 0);
	return 0;
}

static void carry_out(struct task_struct *p, const struct decision *d, struct drain *drain)
{
	struct domain_ctx *domc = domain_at(drain->domain);
	struct task_ctx *taskc = task_ctx(p);
	struct transfer transfer;
	u64 decided_seq, now;
	s32 kick;

	if (!domc)
		return;
	decided_seq = taskc ? taskc->decided_seq : 0;
	if (!taskc || !taskc->waits_on || taskc->seq != d->seq || decided_seq == d->seq) {
		count(&domc->counts.stale);
		return;
	}
	if (!is_sound(p, taskc, d)) {
		bounce(p, taskc, domc);
		return;
	}
	/*
	 * Two domains may have decided: the task's own, and one that was asked as well (ask_for).
	 * The first to write `decided_seq` has the task.
	 */
	if (__sync_val_compare_and_swap(&taskc->decided_seq, decided_seq, d->seq) != decided_seq) {
		count(&domc->counts.stale);
		return;
	}
	transfer.seq = d->seq;
	transfer.from = taskc->waits_on;
	transfer.to = destination(p, taskc, d, &kick);
	transfer.slice_ns = d->slice_ns;
	transfer.vtime = d->vtime;
	if (d->flags & DECISION_PREEMPT)
		transfer.vtime = first_vtime(transfer.to, d->vtime);

	/*
	 * Written before the move, since the task may run on another CPU right after it.
	 *
	 * A new generation may begin at this moment, and must not count as decided. So nothing that
	 * says so (`seq`, `waits_on`) is written here. If the new generation is by a decision that
	 * stands (stand()), it may be given the key of this decision, or this decision that of the
	 * new generation. The decision after it fixes that.
	 */
	taskc->carried = d->carried;
	taskc->decided_by = d->domain;
	taskc->slice_ns = d->slice_ns;
	taskc->spent_ns = 0;
	taskc->kept = 0;
	taskc->policy_vtime = d->vtime;
	taskc->policy_vtime_used_ns = taskc->used_ns;
	taskc->vtime_rate = d->vtime_rate;
	if (d->vtime_rate && !domc->keeps_vtime)
		domc->keeps_vtime = 1;
	taskc->stands = d->flags & DECISION_STANDS && d->vtime_rate ? standing : 0;
	if (taskc->stands) {
		taskc->stands_weight = taskc->weight;
		taskc->stands_max_lag = d->max_lag;
		taskc->stands_since_ns = scx_bpf_now();
	}
	taskc->overtakes =
		d->flags & DECISION_OVERTAKES && d->vtime_rate && !is_idle_class(p, taskc);
	taskc->ready_on = transfer.to;

	/*
	 * The thread may decide before the kernel has inserted the task, which it does after
	 * ops.enqueue. The first move then waits for that with the run-queue lock, but fails, since
	 * its iterator is older than the insertion. The second succeeds.
	 */
	if (!move_task(p, &transfer) && !move_task(p, &transfer)) {
		count(&domc->counts.stale);
		/* It may have been claimed, and the kernel counts it as idle only after it has run. */
		if (kick >= 0 && kick != drain->cpu)
			scx_bpf_kick_cpu(kick, SCX_KICK_IDLE);
		return;
	}
	now = scx_bpf_now();
	count(&domc->counts.decided);
	note_work(domc, d->domain);
	note_latency(domc, now - taskc->runnable_ns);
	domc->carried_out++;
	if (d->domain != taskc->notified) {
		note_theft(taskc->notified, d->domain);
		/*
		 * A task that an idle CPU has asked for may go home again: note_run_domain() moves the
		 * home if it does not.
		 */
		if (taskc->asked_seq != d->seq || is_stranded(taskc->notified))
			set_home(taskc, d->domain);
	}
	if (kick < 0) {
		if (transfer.to == (DSQ_READY | d->domain))
			domc->to_ready++;
		else
			kick_for_part(p, domc, d->domain,
				      (u32)(transfer.to & ~DSQ_KIND) - nr_domains);
		return;
	}
	note_own(kick);
	if (d->flags & DECISION_PREEMPT) {
		preempt(drain->domain, kick, drain->cpu);
	} else if (kick != drain->cpu) {
		scx_bpf_kick_cpu(kick, SCX_KICK_IDLE);
		/* Other CPUs cannot run it, and the task that runs there may have to give way. */
		if (taskc->overtakes && !taskc->burst_ns && !is_idle(kick))
			set_alarm(kick, now);
	}
}

/*
 * A decision is copied before it is checked: user space has the ring mapped and can write to it at
 * any time, so what was checked there need not be what is used a moment later.
 */
static long carry_out_next(struct bpf_dynptr *message, void *context)
{
	struct drain *drain = context;
	struct domain_ctx *domc = domain_at(drain->domain);
	struct task_struct *p;
	struct decision d;

	if (!domc)
		return 1;
	if (!bpf_dynptr_read(&d, sizeof(d), message, 0, 0)) {
		p = bpf_task_from_pid(d.pid);
		if (p) {
			carry_out(p, &d, drain);
			bpf_task_release(p);
		} else {
			count(&domc->counts.stale);
		}
	}
	if (++domc->nr_drained % DRAIN_MAX)
		return 0;
	drain->cut = true;
	return 1;
}

/*
 * Whether `cpu`, which asks for work, runs a task that has become ready in domain `d`: not the domain
 * thread's own CPU, nor one of another domain, nor one whose task may go on.
 */
static bool runs_ready_of(u32 d, s32 cpu)
{
	struct cpu_ctx *cpuc = cpu_at(cpu);

	return cpuc && cpuc->domain == d && !cpuc->dedicated && !READ_ONCE(cpuc->running);
}

/*
 * Step 1 of ops.dispatch: carries out what the thread of domain `d` has decided. Answers whether
 * the drain was cut, so that the ring may hold more.
 *
 * Interrupts are off meanwhile, and a real-time task waits. So a drain ends at each DRAIN_MAX-th
 * decision of the ring. `drained` then remains behind `submitted`, and the next CPU that asks for
 * work goes on. There is one: an idle CPU that is kicked, or this one, which asks again before it
 * goes idle (run_next).
 *
 * Only one CPU can drain a ring at a time. It may have seen the ring's end just before the last
 * decisions came, while the CPU that the domain thread has left for their sake is refused. So a CPU
 * that has drained checks again for what was submitted meanwhile.
 *
 * Global, so that the verifier checks it once.
 */
__weak int drain_decisions(u32 d, s32 cpu)
{
	struct drain drain = { .domain = d, .cpu = cpu, .cut = false };
	struct domain_ctx *domc = domain_at(d);
	u64 submitted;
	u32 to_ready;
	void *ring;
	u32 i;

	if (!domc || !is_undrained(domc))
		return 0;
	ring = bpf_map_lookup_elem(&decision_rings, &d);
	if (!ring)
		return 0;
	bpf_for(i, 0, DRAINS_MAX) {
		submitted = READ_ONCE(domc->submitted);
		if (submitted == READ_ONCE(domc->drained))
			break;
		/* Negative: another CPU drains, and will wake this one if there is work left. */
		if (bpf_user_ringbuf_drain(ring, carry_out_next, &drain, BPF_RB_NO_WAKEUP) < 0)
			return 0;
		if (drain.cut)
			break;
		WRITE_ONCE(domc->drained, submitted);
	}
	if (drain.cut)
		count(&domc->counts.cut);
	note_ready(domc, d);
	if (__sync_lock_test_and_set(&domc->carried_out, 0) && domc->starved_since_ns)
		domc->starved_since_ns = 0;
	to_ready = __sync_lock_test_and_set(&domc->to_ready, 0);
	if (to_ready && runs_ready_of(d, cpu))
		to_ready--;
	if (to_ready)
		kick_idle(domc, d, to_ready);
	else if (drain.cut)
		kick_idle(domc, d, 1);
	return drain.cut;
}

#endif /* MANYLAND_DECISIONS_BPF_H */
