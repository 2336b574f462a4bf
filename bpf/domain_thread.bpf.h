/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The domain thread as BPF sees it: its state, where it waits for a CPU, and whether it is overdue.
 *
 *   ASLEEP ----- woken, and a CPU is idle --------------> RUNNING
 *   ASLEEP ----- woken, and none is: park_thread() ------> PARKED
 *   PARKED ----- run_due_thread(), run_parked_thread() --> RUNNING
 *   RUNNING ---- has nothing left to do -----------------> ASLEEP
 *   RUNNING ---- gives way: end_thread() ----------------> PREEMPTED, until ops.enqueue parks it
 *
 * own_cpu.bpf.h says how it shares a CPU that is its own, away.bpf.h where it runs if it finds none in
 * its domain.
 *
 * Invariant: the thread is in `state` since `state_since_ns`. `patience_ns` of a domain is how long
 * its CPUs wait for the thread now; it grows with the lateness of the machine's own timers.
 */
#ifndef MANYLAND_DOMAIN_THREAD_BPF_H
#define MANYLAND_DOMAIN_THREAD_BPF_H

#include "idle.bpf.h"
#include "idle_class.bpf.h"
#include "own_cpu.bpf.h"
#include "preempt.bpf.h"
#include "stats.bpf.h"
#include "vtime.bpf.h"

static void set_thread_state(struct domain_ctx *domc, u32 state)
{
	domc->state_since_ns = scx_bpf_now();
	WRITE_ONCE(domc->state, state);
}

/* Whether the task on `cpu` gives way to the thread of domain `d`, which wakes up. */
static bool thread_overtakes(struct domain_ctx *domc, u32 d, s32 cpu)
{
	struct overtaker it = urgent_overtaker(domc);

	if (!is_hurried(domc, scx_bpf_now()) || !cut_here(d, cpu, &it))
		return false;
	count(&domc->counts.hurried);
	return true;
}

/*
 * The domain thread parks: it has found no idle CPU, or has yielded or used up its slice. If it is
 * bound to one CPU, ops.select_cpu was not called, and it runs at once if that CPU is idle.
 */
static void park_thread(struct task_struct *p, struct task_ctx *taskc, u64 enq_flags)
{
	struct domain_ctx *domc = domain_at(taskc->home);
	s32 cpu = scx_bpf_task_cpu(p);

	if (!domc)
		return;
	if (p->nr_cpus_allowed == 1 && scx_bpf_test_and_clear_cpu_idle(cpu)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_ns, enq_flags);
		return;
	}
	if (enq_flags & SCX_ENQ_WAKEUP && (cut_idle_class(cpu) || cut_on_own_cpu(domc, cpu) ||
					   thread_overtakes(domc, taskc->home, cpu))) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_ns, enq_flags | SCX_ENQ_PREEMPT);
		return;
	}
	set_thread_state(domc, THREAD_PARKED);
	scx_bpf_dsq_insert(p, DSQ_THREAD | taskc->home, slice_ns, enq_flags);
	/*
	 * The waker handed the wake-up to the CPU that the thread ran on: ops.select_cpu was not
	 * called.
	 */
	if (enq_flags & SCX_ENQ_WAKEUP && !__COMPAT_is_enq_cpu_selected(enq_flags))
		kick_idle(domc, taskc->home, 1);
	else
		kick_if_idle(cpu);
	if (READ_ONCE(domc->away))
		kick_idle_elsewhere(taskc->home, 0);
}

/*
 * Each domain thread runs it before attach: the current task is the thread of `mark->domain`. No
 * number names the thread, since its own namespace may give it another one than the kernel's.
 */
SEC("syscall")
int mark_thread(struct thread_mark *mark)
{
	struct task_struct *p = bpf_get_current_task_btf();
	struct task_ctx *taskc;

	if (mark->domain >= nr_domains)
		return -EINVAL;
	taskc = new_task_ctx(p);
	if (!taskc)
		return -ENOMEM;
	taskc->is_thread = 1;
	own_tgid = p->tgid;
	taskc->home = mark->domain;
	return 0;
}

/*
 * The flags for submitting a notice to `domc`: the first one that finds its thread asleep wakes it.
 */
static u64 wake_flags_for(struct domain_ctx *domc)
{
	if (READ_ONCE(domc->sleeping) && __sync_lock_test_and_set(&domc->sleeping, 0)) {
		domc->called_ns = scx_bpf_now();
		return BPF_RB_FORCE_WAKEUP;
	}
	return BPF_RB_NO_WAKEUP;
}

/* Whether the last call of the thread was more than `most_ns` ago. Before the first one it begins. */
static bool was_called_before(struct domain_ctx *domc, u64 now, u64 most_ns)
{
	u64 called = READ_ONCE(domc->called_ns);

	return called && (s64)(now - called) > (s64)most_ns;
}

/* Whether the thread of `domc` was called and has slept on for `most_ns`. */
static bool sleeps_on_for(struct domain_ctx *domc, u64 now, u64 most_ns)
{
	return domc->state == THREAD_ASLEEP && !READ_ONCE(domc->sleeping) &&
	       was_called_before(domc, now, most_ns);
}

/* Whether it has done so for its patience: it is stopped. */
static bool is_stopped(struct domain_ctx *domc, u64 now)
{
	return sleeps_on_for(domc, now, READ_ONCE(domc->patience_ns));
}

/* Publishes for the thread of domain `d` how many tasks READY holds. */
static void note_ready(struct domain_ctx *domc, u32 d)
{
	domc->ready = scx_bpf_dsq_nr_queued(DSQ_READY | d);
}

/*
 * Whether the parked thread has kept notices waiting for longer than `most_ns`, or an urgent one for
 * as long as any task is protected that is about to sleep, or seems to have no work and has been
 * parked for PARKED_MAX_NS. It has work if a CPU finds nothing ready, but no other CPU can run a thread
 * that shares its own.
 */
static bool thread_is_due(struct domain_ctx *domc, u32 d, u64 now, u64 most_ns)
{
	u64 parked;
	void *ring;

	if (domc->state != THREAD_PARKED)
		return false;
	parked = now - domc->state_since_ns;
	if (is_hurried(domc, now) &&
	    (READ_ONCE(domc->hurried) || (s64)parked >= (s64)PROTECTED_MAX_NS))
		return true;
	if ((s64)parked < (s64)most_ns)
		return false;
	if (parked > PARKED_MAX_NS || (READ_ONCE(domc->shared_cpu) && domc->starved_since_ns))
		return true;
	ring = bpf_map_lookup_elem(&notice_rings, &d);
	return ring && bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA) > 0;
}

/*
 * Whether the thread has not been running for `most_ns`: since its last call and, unless it sleeps,
 * since it was parked or preempted.
 */
static bool is_away_for(struct domain_ctx *domc, u64 now, u64 most_ns)
{
	if (domc->state == THREAD_RUNNING)
		return false;
	if (domc->state != THREAD_ASLEEP && (s64)(now - domc->state_since_ns) <= (s64)most_ns)
		return false;
	return was_called_before(domc, now, most_ns);
}

/* Whether the thread is not running although its patience has passed. */
static bool is_away(struct domain_ctx *domc, u64 now)
{
	return is_away_for(domc, now, READ_ONCE(domc->patience_ns));
}

/*
 * Whether the thread of `domc` comes when it is called: it runs, or it sleeps and is not stopped.
 */
static bool is_at_hand(struct domain_ctx *domc, u64 now)
{
	return domc->state == THREAD_RUNNING ||
	       (domc->state == THREAD_ASLEEP && !is_stopped(domc, now));
}

/*
 * The lateness of a timer counts up to this: a pause of the whole machine is over by the next
 * heartbeat.
 */
#define LATENESS_MAX_NS 100000000

/* What remains of a lateness at the next heartbeat, if that one is in time. */
#define DECAYED(ns) ((ns) / 8 * 7)

/*
 * How often a decision may wait for the host. Each of its four steps may do so twice: the thread is
 * woken, it gets a CPU, it decides, a CPU drains the decision.
 */
#define STEPS_TO_DECIDE 8

/*
 * How far two heartbeats, this or recent ones, came after their time. In a guest with more CPUs than
 * its host gives it, each step from a wake-up to a decision is delayed by as much. A thread that
 * needs no longer than that is in time. A single heartbeat after its time was held up by something
 * that is over: by the firmware, a console, or other timers of its CPU.
 */
static u64 lateness(struct heartbeat *h)
{
	u64 now = bpf_ktime_get_ns(), late_ns = 0;

	if (before(h->due_ns, now))
		late_ns = now - h->due_ns < LATENESS_MAX_NS ? now - h->due_ns : LATENESS_MAX_NS;
	h->lateness_ns = DECAYED(h->lateness_ns);
	h->once_ns = DECAYED(h->once_ns);
	if (late_ns > h->once_ns) {
		h->lateness_ns = h->once_ns;
		h->once_ns = late_ns;
	} else if (late_ns > h->lateness_ns) {
		h->lateness_ns = late_ns;
	}
	return h->lateness_ns;
}

/* The domain thread is switched in on `cpu`. */
static void begin_thread(struct task_ctx *taskc, struct cpu_ctx *cpuc, s32 cpu)
{
	struct domain_ctx *domc = domain_at(taskc->home);

	if (!domc)
		return;
	set_thread_state(domc, THREAD_RUNNING);
	domc->activated_ns = domc->state_since_ns;
	WRITE_ONCE(domc->urgent, 0);
	WRITE_ONCE(domc->hurried, 0);
	note_ready(domc, taskc->home);
	count(&domc->counts.activations);
	if (cpuc->domain != taskc->home)
		count(&domc->counts.away);
	begin_on_own_cpu(domc, cpu);
}

/* The domain thread is switched out. */
static void end_thread(struct task_ctx *taskc, bool runnable)
{
	struct domain_ctx *domc = domain_at(taskc->home);

	if (domc)
		set_thread_state(domc, runnable ? THREAD_PREEMPTED : THREAD_ASLEEP);
}

/*
 * For ops.select_cpu of the domain thread: it runs on an idle CPU of its domain if there is one, or
 * else where a task of SCHED_IDLE runs. If it is away, an idle CPU elsewhere will do. For an urgent
 * notice it wakes up on a CPU whose task gives way.
 */
static s32 select_cpu_for_thread(struct task_struct *p, struct task_ctx *taskc, s32 prev_cpu)
{
	struct domain_ctx *domc = domain_at(taskc->home);
	s32 cpu = claim_idle(p, taskc->home, prev_cpu, 0);
	struct overtaker it;

	if (cpu < 0 && domc && READ_ONCE(domc->away))
		cpu = claim_idle_elsewhere(p, taskc->home, prev_cpu, 0);
	if (cpu >= 0) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_ns, 0);
		return cpu;
	}
	cpu = no_preempt ? -1 : choose_idle_class_in(p, taskc->home);
	if (cpu < 0 && domc && is_hurried(domc, scx_bpf_now())) {
		it = urgent_overtaker(domc);
		cpu = cpu_to_preempt(p, taskc->home, bpf_get_smp_processor_id(), prev_cpu, &it);
		if (cpu < 0 && it.later_ns)
			set_alarm(nr_cpus + taskc->home, it.later_ns);
	}
	return cpu >= 0 ? cpu : prev_cpu;
}

/*
 * For the heartbeat, which came `late` ns after its time: sets how long the CPUs of `domc` wait for
 * their thread.
 */
static void set_patience(struct domain_ctx *domc, u64 lateness_ns)
{
	WRITE_ONCE(domc->patience_ns, patience_ns + lateness_ns * STEPS_TO_DECIDE);
}

#endif /* MANYLAND_DOMAIN_THREAD_BPF_H */
