/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A task becomes runnable: onto an idle CPU at once, or into a queue and a message to its domain.
 *
 * Invariant: when ops.enqueue returns, the task is on exactly one queue of the kernel. If it is
 * WAITING or BOUND, the domain thread has been told; if it could not be told, the task is counted
 * as untold, and while there are any the safety net has every second turn. It is READY at once only by a decision of
 * its home's thread that stands.
 */
#ifndef MANYLAND_ENQUEUE_BPF_H
#define MANYLAND_ENQUEUE_BPF_H

#include "core_upgrade.bpf.h"
#include "home.bpf.h"
#include "notify.bpf.h"

/* So often a CPU may look for a task on its way to the CPU's own queue in vain. */
#define LOOKS_BEFORE 4

/* With less than this left of its slice a turn is over. */
#define REST_MIN_NS 50000

/* `p` runs on a CPU that was claimed for it: no decision is needed. */
static void note_bypass(struct task_ctx *t, u32 d)
{
	struct domain_ctx *dom = domain_at(d);

	t->waits_on = 0;
	t->ready_on = 0;
	t->free = 1;
	if (dom)
		count(&dom->counts.bypassed);
}

/*
 * Whether the kernel still has a verdict of another scheduler that has left since: that of a wake-up that was on its way then. Linux
 * before 7.0 keeps it, and warns of the next one. What it says is what bypass() wants.
 */
static bool goes_local_anyway(struct task_struct *p)
{
	return bpf_core_field_exists(p->scx.ddsp_dsq_id) && p->scx.ddsp_dsq_id == SCX_DSQ_LOCAL;
}

/* The same where its run queue is, or is about to be, that of the CPU. */
static void bypass(struct task_struct *p, struct task_ctx *t, u32 d, u64 enq_flags)
{
	note_bypass(t, d);
	if (goes_local_anyway(p))
		scx_bpf_task_set_slice(p, slice_ns);
	else
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_ns, enq_flags);
}

/*
 * The same where it is that of another CPU, for ops.enqueue. Into the CPU's own queue, before all others, and not into its local one:
 * there the kernel would move it only after it has let go of the lock, and before Linux 7.0 it keeps that verdict if the task is
 * taken off meanwhile to change its affinity. Then it carries it out all the same, and ends the scheduler because the task may not
 * use the CPU. (The kick comes after the insertion: the kernel makes it once it has let go of the lock.)
 */
static void send(struct task_struct *p, struct task_ctx *t, u32 d, s32 cpu, u64 enq_flags)
{
	struct cpu_ctx *c = cpu_at(cpu);

	note_bypass(t, d);
	if (c) {
		__sync_fetch_and_add(&c->own_turns, 1);
		WRITE_ONCE(c->own_looks, LOOKS_BEFORE);
	}
	scx_bpf_dsq_insert_vtime(p, DSQ_OWN | cpu, slice_ns, c ? c->own_order : 0, enq_flags);
	scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

/*
 * `p` had `cpu` for itself, and ops.dispatch has seen a better core idle. If that is taken by now, it
 * goes on where it is: ops.dispatch has kicked the CPU, so it will look at its local queue.
 */
static void climb(struct task_struct *p, struct task_ctx *t, s32 cpu, u64 enq_flags)
{
	struct domain_ctx *dom = domain_at(domain_of_cpu(cpu));
	s32 better = claim_better(p, t, cpu);

	if (better < 0) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_ns, enq_flags);
		return;
	}
	if (dom)
		count(&dom->counts.climbed);
	send(p, t, t->home, better, enq_flags);
}

/* The CPU of the waker of `p`, if it is of `home` and `p` may wait or run there, or a negative number. */
static s32 wakers_cpu(struct task_struct *p, u32 home)
{
	s32 cpu = bpf_get_smp_processor_id();
	struct cpu_ctx *c = cpu_at(cpu);

	return c && c->domain == home && !c->dedicated && bpf_cpumask_test_cpu(cpu, p->cpus_ptr) ? cpu : -1;
}

/*
 * The CPU of a waker that says that it is about to sleep, for a task at home there. Two that talk to
 * each other keep their cache so, at the moments in which the home has no other CPU for them.
 */
static s32 beside_waker(struct task_struct *p, u32 home)
{
	if (bpf_get_current_task_btf()->flags & PF_EXITING || scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL) > 0)
		return -1;
	return wakers_cpu(p, home);
}

/*
 * The CPU that `p` is to run on at once, or a negative number: an idle one at home, that of its waker,
 * an idle one elsewhere.
 */
static s32 claim_for(struct task_struct *p, struct task_ctx *t, s32 prev_cpu, u64 wake_flags)
{
	u32 home = home_of(p, t);
	struct domain_ctx *dom = domain_at(home);
	s32 cpu = -1;

	if (!dom || must_queue(prev_cpu, home))
		return -1;
	if (by_kind) {
		cpu = claim_preferred(p, home, prev_cpu);
	} else {
		if (any_idle(dom))
			cpu = claim_idle(p, home, prev_cpu, wake_flags);
		if (cpu < 0 && !strict && !no_steal && any_idle_elsewhere(home)) {
			if (wake_flags & SCX_WAKE_SYNC)
				cpu = beside_waker(p, home);
			if (cpu < 0)
				cpu = claim_idle_elsewhere(p, home, prev_cpu, wake_flags);
		}
	}
	/* A task without a cache to stay near lives where it finds room. */
	if (cpu >= 0 && (wake_flags & SCX_WAKE_FORK || t->fresh))
		set_home(t, domain_of_cpu(cpu));
	t->fresh = 0;
	return cpu;
}

/*
 * The CPU on whose run queue `p` is to wait, for any CPU of its home to take it. Its waker will soon sleep, so that CPU asks for
 * work next: if it takes `p`, nothing has to be moved, and no other run queue be locked.
 */
static s32 likely_cpu(struct task_struct *p, struct task_ctx *t, s32 prev_cpu)
{
	s32 cpu = wakers_cpu(p, t->home);

	return cpu >= 0 ? cpu : prev_cpu;
}

s32 BPF_STRUCT_OPS(manyland_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	struct task_ctx *t = task_ctx(p);
	s32 cpu;

	if (!t)
		return prev_cpu;
	if (t->is_thread) {
		cpu = claim_idle(p, t->home, prev_cpu, 0);
		if (cpu < 0)
			return prev_cpu;
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_ns, 0);
		return cpu;
	}
	if (!(wake_flags & SCX_WAKE_FORK))
		note_waker(p, t);
	cpu = claim_for(p, t, prev_cpu, wake_flags);
	if (cpu < 0)
		return likely_cpu(p, t, prev_cpu);
	bypass(p, t, t->home, 0);
	return cpu;
}

/*
 * As claim_for(), where ops.select_cpu was not asked: the task has been preempted, or may no longer use
 * its CPU. It happens at the end of each slice, so the masks are looked at only if the mirror has a CPU.
 */
static s32 claim_again(struct task_struct *p, struct domain_ctx *dom, u32 home, s32 cpu)
{
	s32 idle = -1;

	if (by_kind)
		return claim_preferred(p, home, cpu);
	if (any_idle(dom))
		idle = claim_idle(p, home, cpu, 0);
	if (idle < 0 && !strict && !no_steal)
		idle = claim_idle_elsewhere(p, home, cpu, 0);
	return idle;
}

static void set_thread_state(struct domain_ctx *dom, u32 state)
{
	dom->state_since_ns = scx_bpf_now();
	WRITE_ONCE(dom->state, state);
}

/* The domain thread has found no idle CPU, or has yielded or used up its slice. */
static void park_thread(struct task_struct *p, struct task_ctx *t, u64 enq_flags)
{
	struct domain_ctx *dom = domain_at(t->home);
	s32 cpu = scx_bpf_task_cpu(p);

	if (!dom)
		return;
	if (p->nr_cpus_allowed == 1 && scx_bpf_test_and_clear_cpu_idle(cpu)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_ns, enq_flags);
		return;
	}
	set_thread_state(dom, THREAD_PARKED);
	scx_bpf_dsq_insert(p, DSQ_THREAD | t->home, slice_ns, enq_flags);
	/* Its wake-up was handed over to the CPU it ran on: ops.select_cpu was not called. */
	if (enq_flags & SCX_ENQ_WAKEUP && !__COMPAT_is_enq_cpu_selected(enq_flags))
		kick_idle(dom, t->home, 1);
	else
		kick_if_idle(cpu);
}

/* Threads that others may be waiting for without knowing it never wait for user space. */
static bool goes_straight(struct task_struct *p)
{
	if (p->flags & PF_KTHREAD && p->nr_cpus_allowed == 1)
		return true;
	return p->flags & (PF_KSWAPD | PF_KCOMPACTD) || (khugepaged_pid && p->pid == khugepaged_pid);
}

/*
 * Whether the last decision for `p` holds for this wake-up too: its policy has said so, and nothing that it was told of the task
 * has changed but what it has used. While the thread is stopped none does: those that wait for it would wait for these as well.
 */
static bool stands(struct task_struct *p, struct task_ctx *t, struct domain_ctx *dom, u32 d)
{
	u64 now = scx_bpf_now();

	return t->stands && !strict && t->decided_by == d && t->stands_weight == p->scx.weight &&
	       (s64)(now - t->stands_since_ns) < (s64)standing_ns && !is_stopped(dom, now);
}

/* `p` is ready at once, at the place that its last decision has for it now. */
static __always_inline void make_ready(struct task_struct *p, struct task_ctx *t, struct domain_ctx *dom, u32 d,
				       u64 dsq, u64 slice, u64 enq_flags)
{
	settle_untold(t);
	t->seq++;
	t->decided_seq = t->seq;
	t->order_used_ns = t->used_ns;
	t->free = 0;
	t->queued_ns = scx_bpf_now();
	t->told = d;
	t->waits_on = 0;
	t->ready_on = dsq;
	note_work(dom);
	WRITE_ONCE(dom->stood_ns, t->queued_ns);
	scx_bpf_dsq_insert_vtime(p, dsq, slice, t->order, enq_flags);
}

/*
 * `p` is ready at once, by a decision that stands. A late answer to an earlier message may be carried out at the same
 * time: it finds another `seq` and moves nothing (carry_out() says what it may leave behind).
 */
static void stand(struct task_struct *p, struct task_ctx *t, struct domain_ctx *dom, u32 d, u64 enq_flags)
{
	u64 earliest = dom->front - t->stands_reach;

	t->stands--;
	t->order = order_now(t);
	if (before(t->order, earliest))
		t->order = earliest;
	count(&dom->counts.standing);
	make_ready(p, t, dom, d, DSQ_READY | d, t->slice_ns, enq_flags);
}

/*
 * Whether a higher class has taken the CPU from `p` in the middle of a turn that was decided, of which so much is left. That is
 * no reason for a new decision: until it came, whoever is ready would have the CPU, however far behind `p` it stands.
 */
static u64 rest_of_turn(struct task_ctx *t, u32 d, u64 enq_flags)
{
	u64 rest = t->rest_ns;

	t->rest_ns = 0;
	if (enq_flags & SCX_ENQ_WAKEUP || t->decided_by != d || rest < REST_MIN_NS)
		return 0;
	return rest < t->slice_ns ? rest : t->slice_ns;
}

/*
 * Who is bound to the CPU waits in the CPU's own queue, which the CPU empties as soon as it is free. (The kernel carries out the
 * insertion after the flag is set, but under the lock of the run queue, which the CPU needs for its look.)
 */
static __always_inline void resume(struct task_struct *p, struct task_ctx *t, struct domain_ctx *dom, u32 d,
				   s32 bound_to, u64 rest, u64 enq_flags)
{
	t->order = order_now(t);
	if (bound_to >= 0)
		note_own(bound_to);
	make_ready(p, t, dom, d, bound_to >= 0 ? DSQ_OWN | bound_to : DSQ_READY | d, rest, enq_flags);
}

void BPF_STRUCT_OPS(manyland_enqueue, struct task_struct *p, u64 enq_flags)
{
	s32 cpu = scx_bpf_task_cpu(p), idle;
	struct task_ctx *t = task_ctx(p);
	struct domain_ctx *dom;
	u64 dsq, floor, credit, rest;
	bool bound;
	u16 flags = 0;
	u32 d;

	if (!t || goes_straight(p)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_ns, enq_flags);
		return;
	}
	if (t->is_thread) {
		park_thread(p, t, enq_flags);
		return;
	}
	if (enq_flags & SCX_ENQ_REENQ)
		note_displaced(cpu);
	if ((by_kind || smt) && enq_flags & SCX_ENQ_LAST) {
		climb(p, t, cpu, enq_flags);
		return;
	}

	bound = p->nr_cpus_allowed == 1;
	if (!bound)
		maybe_level(p, t, enq_flags & SCX_ENQ_WAKEUP);
	d = bound ? domain_of_cpu(cpu) : home_of(p, t);
	dom = domain_at(d);
	if (!dom) {
		/* Its CPU has come online since, or is a domain thread's: there is nobody to ask. */
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_ns, enq_flags);
		return;
	}

	if (must_queue(cpu, d)) {
		/* Others are before it. */
	} else if (bound) {
		if (!scx_bpf_task_running(p) && scx_bpf_test_and_clear_cpu_idle(cpu)) {
			bypass(p, t, d, enq_flags);
			return;
		}
	} else if (!__COMPAT_is_enq_cpu_selected(enq_flags)) {
		idle = claim_again(p, dom, d, cpu);
		if (idle >= 0) {
			send(p, t, d, idle, enq_flags);
			return;
		}
	}

	rest = rest_of_turn(t, d, enq_flags);
	if (rest) {
		resume(p, t, dom, d, bound ? cpu : -1, rest, enq_flags);
		return;
	}

	if (enq_flags & SCX_ENQ_WAKEUP && !bound && stands(p, t, dom, d)) {
		stand(p, t, dom, d, enq_flags);
		kick_if_idle(cpu);
		return;
	}

	if (enq_flags & SCX_ENQ_WAKEUP)
		flags |= QUEUED_WAKEUP;
	if (bound)
		flags |= QUEUED_BOUND;
	/* Whoever slept has a credit, and whoever had a CPU for itself owes four slices, not more. */
	credit = sleepers_credit(dom);
	floor = dom->waiting_vtime - credit;
	if (before(t->vtime, floor))
		t->vtime = floor;
	else if (before(dom->waiting_vtime + 4 * slice_ns, t->vtime))
		t->vtime = dom->waiting_vtime + 4 * slice_ns;

	dsq = bound ? DSQ_BOUND | cpu : DSQ_WAITING | d;
	settle_untold(t);
	t->seq++;
	t->free = 0;
	t->queued_ns = scx_bpf_now();
	t->told = d;
	t->waits_on = dsq;
	note_work(dom);
	if (tell(p, t, dom, d, flags))
		count(&dom->counts.queued);
	else
		note_untold(t, dom);
	scx_bpf_dsq_insert_vtime(p, dsq, slice_ns, net_order(p, t, credit), enq_flags);
	kick_if_idle(cpu);
}

/* A new affinity may leave the home domain without a CPU for the task. */
void BPF_STRUCT_OPS(manyland_set_cpumask, struct task_struct *p, const struct cpumask *cpumask)
{
	struct task_ctx *t = task_ctx(p);
	u32 here;

	if (!t || t->is_thread || has_cpu_of(t->home, cpumask))
		return;
	here = domain_of_cpu(bpf_cpumask_any_distribute(cpumask));
	if (here != NO_DOMAIN)
		set_home(t, here);
}

#endif /* MANYLAND_ENQUEUE_BPF_H */
