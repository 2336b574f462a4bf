/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A task wakes up while all CPUs of its home are busy, and a running task gives way to it.
 *
 *   1  The last decision for the woken task stands, so BPF knows its key (standing.bpf.h). Each CPU
 *      publishes the key that its task has come to (publish_run). ops.select_cpu checks a few CPUs
 *      and chooses one whose task comes later (cpu_to_preempt).
 *   2  ops.enqueue holds the lock of that CPU's run queue, so what the CPU publishes is exact there.
 *      It checks once more, and puts the woken task into the CPU's local queue with
 *      SCX_ENQ_PREEMPT (overtake).
 *   3  The other task keeps the rest of its slice (rest.bpf.h), and is ready again at once, without
 *      a message (resume).
 *
 * A running task gives way only
 *   - if its key comes after that of the woken one by what that usually runs for, and a margin;
 *   - after a protected run, as long as the woken one usually runs for, and longer if it is about
 *     to sleep itself (protected_run);
 *   - as often as its CPU's budget allows;
 *   - if no ready task comes before the woken one, and no crowd waits (others_come_first).
 *
 * If no decision stands, the domain thread has to make one. By the same rules a task gives way to
 * the thread, once for all notices that are in its ring (is_urgent, hurry).
 *
 * Where a thread of the kernel or a higher scheduling class has the CPU, nothing is compared. What they
 * have preempted may go on after them, so the CPU is compared again later (returns_ns).
 *
 * Keys of the woken tasks and of running ones are compared as times, so a light task counts as far
 * ahead as it will be at the end of its slice (late_by).
 *
 * Invariant: a CPU gives way PREEMPTIONS_MAX times in a row at most, and on average once in
 * PREEMPTION_NS. No task gives way within the first PROTECTED_MIN_NS of its slice.
 */
#ifndef MANYLAND_PREEMPT_BPF_H
#define MANYLAND_PREEMPT_BPF_H

#include "alarm.bpf.h"
#include "crowd.bpf.h"
#include "idle.bpf.h"
#include "rest.bpf.h"
#include "stats.bpf.h"
#include "vtime.bpf.h"

/* A task that wakes up, or for which the domain thread is to decide: who gives way to it. */
struct overtaker {
	u64 vtime; /* a running task whose key is past this */
	u64 protected_ns; /* and which has run for this time */
	u64 price_ns; /* what that costs of the budget of its CPU */
	s32 cpu; /* the CPU found so far, or negative */
	s32 later_cpu; /* without one: the CPU whose task will give way first, or negative */
	u64 later_ns; /* and when */
};

/* What the key of a task that is lighter than nice 0 counts as later, by its vtime rate. */
static u64 late_by(u32 rate)
{
	return rate > VTIME_RATE_ONE ? slice_ns * (rate - VTIME_RATE_ONE) / VTIME_RATE_ONE : 0;
}

/* The policy's virtual time for a task of domain `d`: that of its crowd, if it is of one. */
static u64 virtual_time_of(struct task_ctx *taskc, struct domain_ctx *domc, u32 d)
{
	return taskc->in_part ? policy_vtime_of(d, nr_domains + taskc->in_part - 1, -1) :
				domc->policy_vtime;
}

/*
 * A task has had the CPU of `cpuc` for itself, so it is not behind virtual time. What it is behind
 * counts as used. Otherwise it would go before tasks that wake up until it has used as much again.
 */
static void forfeit_lag(struct task_ctx *taskc, struct cpu_ctx *cpuc)
{
	struct domain_ctx *domc = domain_at(cpuc->domain);
	u64 now, vtime = policy_vtime_now(taskc);

	if (!domc || !taskc->vtime_rate || taskc->decided_by != cpuc->domain)
		return;
	now = cpuc->runs_bound ? cpuc->bound.policy_vtime :
				 virtual_time_of(taskc, domc, cpuc->domain);
	if (before(vtime, now))
		taskc->used_ns += (now - vtime) * VTIME_RATE_ONE / taskc->vtime_rate;
}

/*
 * How far virtual time would have come since `since_ns` if the tasks that wait in the domain and one
 * on each CPU had shared its CPUs all the time. In fact it stands still while each CPU has one task,
 * since what these use costs no other task anything.
 */
static u64 vtime_passed(struct domain_ctx *domc, u64 since_ns)
{
	u64 cpus = domc->nr_cpus ?: 1;

	return (scx_bpf_now() - since_ns) * cpus / (cpus + READ_ONCE(domc->nr_queued));
}

/*
 * The key of a task as it wakes up: that of its last decision, moved on by what it has used. It is its
 * maximum lag before the virtual time at most. A task that is ahead of virtual time pays for that by
 * its sleep: without this it would be ahead of tasks that have a CPU each for ever.
 *
 * Global, so that the verifier checks it once.
 */
__weak u64 wakeup_vtime(struct task_ctx *taskc __arg_nonnull, u32 d)
{
	struct domain_ctx *domc = domain_at(d);
	u64 now, earliest, vtime = policy_vtime_now(taskc);

	if (!domc)
		return vtime;
	now = virtual_time_of(taskc, domc, d);
	earliest = now - taskc->stands_max_lag;
	if (before(now, vtime)) {
		vtime -= vtime_passed(domc, taskc->started_ns);
		return before(vtime, now) ? now : vtime;
	}
	return before(vtime, earliest) ? earliest : vtime;
}

/*
 * That key for the comparison with a running task, where sleep makes up for the time in which virtual
 * time stood still.
 */
static u64 overtaking_vtime(struct task_ctx *taskc, struct domain_ctx *domc, u32 d)
{
	u64 earliest = virtual_time_of(taskc, domc, d) - taskc->stands_max_lag;
	u64 vtime = policy_vtime_now(taskc) - vtime_passed(domc, taskc->started_ns);

	return before(vtime, earliest) ? earliest : vtime;
}

static __always_inline struct overtaker overtaker(struct task_ctx *taskc, struct domain_ctx *domc,
						  u32 d)
{
	u64 usual = taskc->usual_ns * taskc->vtime_rate / VTIME_RATE_ONE;
	struct overtaker it = {
		.price_ns = taskc->by_message ? MESSAGE_NS : PREEMPTION_NS,
		.cpu = -1,
		.later_cpu = -1,
	};

	it.vtime = overtaking_vtime(taskc, domc, d) + usual + PREEMPTION_MARGIN_NS;
	it.protected_ns = taskc->usual_ns < PROTECTED_MIN_NS ? PROTECTED_MIN_NS :
			  taskc->usual_ns > PROTECTED_MAX_NS ? PROTECTED_MAX_NS :
							       taskc->usual_ns;
	return it;
}

/*
 * A task begins to run on the CPU of `cpuc`, which belongs to the domain `domc`, or goes on there
 * with a new slice: publishes its key. A task that had the CPU for itself (`alone`) is not behind
 * the virtual time. Global, so that the verifier checks it once.
 */
__weak int publish_run(struct task_ctx *taskc __arg_nonnull, struct cpu_ctx *cpuc __arg_nonnull,
		       bool alone)
{
	struct domain_ctx *domc = domain_at(cpuc->domain);
	u32 rate = taskc->vtime_rate;
	u64 now, vtime;

	if (no_preempt || !domc)
		return 0;
	now = domc->policy_vtime;
	vtime = now;
	if (rate && taskc->decided_by == cpuc->domain)
		vtime = taskc->run_kind == RUN_DECIDED ? policy_vtime_now(taskc) :
							 wakeup_vtime(taskc, cpuc->domain);
	else
		rate = rate_by_weight(taskc);
	/* A light task may be seconds behind, for a few slices that it has not had. */
	if (rate > VTIME_RATE_ONE && before(vtime, now - slice_ns))
		vtime = now - slice_ns;
	cpuc->run_vtime = (alone && before(vtime, now) ? now : vtime) + late_by(rate);
	cpuc->run_ns = taskc->started_ns;
	WRITE_ONCE(cpuc->run_rate, rate);
	return 0;
}

/* The task on the CPU of `cpuc` stops: nothing may give way there any more. */
static void end_run(struct cpu_ctx *cpuc)
{
	if (cpuc->running)
		cpuc->run_ns = scx_bpf_now();
	cpuc->running = 0;
	WRITE_ONCE(cpuc->run_rate, 0);
}

/* Whether a task usually sleeps before half of a slice. */
static bool sleeps_soon(u64 usual)
{
	return usual < slice_ns / 2;
}

/*
 * Whether a task of domain `d` that a message makes wake up goes before no running task. The waker has
 * said that it is about to sleep:
 *   - it usually does so, and its CPU is then free at once. An interrupt may say so too, in the name of
 *     any task.
 *   - it does not, but other tasks are ready: what gets many messages later does all that they ask for
 *     in one run.
 */
static bool message_waits(struct domain_ctx *domc, u32 d)
{
	struct task_ctx *wakerc;

	if (scx_bpf_dsq_nr_queued(DSQ_READY | d) > (s32)domc->nr_cpus)
		return true;
	wakerc = task_ctx(bpf_get_current_task_btf());
	return wakerc && sleeps_soon(wakerc->usual_ns);
}

/*
 * How long a task runs at least before it gives way. One that usually sleeps before half of a slice
 * will soon do so again: to wait for that costs the woken task less than the switches cost both.
 */
static u64 protected_run(u64 usual)
{
	if (!sleeps_soon(usual))
		return PROTECTED_MIN_NS;
	return 2 * usual > PROTECTED_MAX_NS ? 2 * usual : PROTECTED_MAX_NS;
}

/* It has a slice. If that ends before the next tick may come, its CPU's alarm ends it (slice_end.bpf.h). */
static void begin_slice(struct task_ctx *taskc, struct cpu_ctx *cpuc, s32 cpu)
{
	cpuc->slice_ends_ns = 0;
	if (taskc->run_slice_ns >= cpuc->short_ns || taskc->usual_ns < taskc->run_slice_ns)
		return;
	cpuc->slice_ends_ns = taskc->started_ns + taskc->run_slice_ns;
	set_alarm(cpu, cpuc->slice_ends_ns);
}

/* Publishes its key at the beginning of a run, which may be that of the rest of a slice. */
static void publish_begin(struct task_ctx *taskc, struct cpu_ctx *cpuc, s32 cpu)
{
	cpuc->slice_began_ns = taskc->started_ns - taskc->had_ns;
	cpuc->protected_ns = protected_run(taskc->usual_ns);
	begin_slice(taskc, cpuc, cpu);
	publish_run(taskc, cpuc, false);
}

/* Notes when the task on the CPU of `cpuc` will give way, unless that soon sleeps. */
static void note_later(struct cpu_ctx *cpuc, struct overtaker *to, u64 at_ns)
{
	if (cpuc->protected_ns <= PROTECTED_MIN_NS &&
	    (!to->later_ns || before(at_ns, to->later_ns)))
		to->later_ns = at_ns;
}

/*
 * Nothing that may give way runs on the CPU of `cpuc`: a thread of the kernel does, or a task of a higher
 * scheduling class. What it has preempted may soon go on, without the CPU asking for work. Answers when
 * to check again whether it has: each time after twice as long.
 */
static u64 returns_ns(struct cpu_ctx *cpuc, u64 now)
{
	u64 away = now - cpuc->run_ns;

	return now + (away < PROTECTED_MIN_NS ? PROTECTED_MIN_NS : away);
}

/*
 * Whether the task on the CPU of `cpuc` gives way. If so, the next CPU that is compared has to have
 * a task that comes later still. If not, `to` has the time when it will.
 */
__weak bool would_give_way(struct cpu_ctx *cpuc __arg_nonnull, struct overtaker *to __arg_nonnull)
{
	u64 vtime, at_ns, affords_ns, passes_ns, now = scx_bpf_now();
	u64 protected_ns = cpuc->protected_ns;
	u32 rate = READ_ONCE(cpuc->run_rate);

	if (!rate) {
		note_later(cpuc, to, returns_ns(cpuc, now));
		return false;
	}
	if (protected_ns < to->protected_ns)
		protected_ns = to->protected_ns;
	at_ns = cpuc->slice_began_ns + protected_ns;
	affords_ns = cpuc->preemptions_ns + to->price_ns - PREEMPTION_NS * PREEMPTIONS_MAX;
	if (before(at_ns, affords_ns))
		at_ns = affords_ns;
	vtime = cpuc->run_vtime + (now - cpuc->run_ns) * rate / VTIME_RATE_ONE;
	if (!before(to->vtime, vtime)) {
		passes_ns = now + 1 + (to->vtime - vtime) * VTIME_RATE_ONE / rate;
		if (before(at_ns, passes_ns))
			at_ns = passes_ns;
	}
	if (before(now, at_ns)) {
		note_later(cpuc, to, at_ns);
		return false;
	}
	to->vtime = vtime;
	return true;
}

/* `p` may be NULL, for the thread of the domain. */
static void compare(struct overtaker *to, struct task_struct *p, u32 d, s32 cpu)
{
	struct cpu_ctx *cpuc = cpu_at(cpu);
	u64 later_ns = to->later_ns;

	if (!cpuc || cpuc->domain != d || cpuc->dedicated ||
	    (p && !bpf_cpumask_test_cpu(cpu, p->cpus_ptr)))
		return;
	if (would_give_way(cpuc, to))
		to->cpu = cpu;
	else if (to->later_ns != later_ns)
		to->later_cpu = cpu;
}

/*
 * A CPU of domain `d` whose task gives way: `near`, or else `other`, or else the one whose task comes
 * last of two more in rotation. Negative: none does.
 *
 * On the CPU of the interrupt, and in the caches of its last run, the woken task is sooner at work
 * than on the CPU whose task comes last of all, which needs a kick.
 */
static s32 cpu_to_preempt(struct task_struct *p, u32 d, s32 near, s32 other, struct overtaker *to)
{
	const struct cpumask *mask = domain_mask(d);

	if (!mask)
		return -1;
	compare(to, p, d, near);
	if (to->cpu < 0)
		compare(to, p, d, other);
	if (to->cpu >= 0)
		return to->cpu;
	compare(to, p, d, bpf_cpumask_any_and_distribute(mask, p ? p->cpus_ptr : mask));
	compare(to, p, d, bpf_cpumask_any_and_distribute(mask, p ? p->cpus_ptr : mask));
	return to->cpu;
}

/* Whether the first task of a queue comes before the key `vtime`, as a running one would. */
static __noinline bool head_comes_before(u64 dsq, u64 vtime)
{
	struct bpf_iter_scx_dsq it;
	struct task_struct *p = NULL;
	struct task_ctx *taskc;
	bool earlier = false;

	if (!bpf_iter_scx_dsq_new(&it, dsq, 0)) {
		p = bpf_iter_scx_dsq_next(&it);
		taskc = p ? task_ctx(p) : NULL;
		if (p)
			earlier = before(
				p->scx.dsq_vtime + (taskc ? late_by(taskc->vtime_rate) : 0), vtime);
	}
	bpf_iter_scx_dsq_destroy(&it);
	return earlier;
}

/* Whether this number of ready tasks is a crowd in `domc`. */
static bool are_crowd(struct domain_ctx *domc, s32 ready)
{
	return ready > (s32)(CROWD_PER_CPU * domc->nr_cpus);
}

/* Whether a crowd is ready in domain `d`, or a task that comes before the key `vtime`. */
static bool others_come_first(struct domain_ctx *domc, u32 d, u64 vtime)
{
	s32 ready = scx_bpf_dsq_nr_queued(DSQ_READY | d);

	return ready > 0 && (are_crowd(domc, ready) || head_comes_before(DSQ_READY | d, vtime));
}

/* The task on the CPU of `cpuc` gives way. */
static void cut(struct cpu_ctx *cpuc, u64 price)
{
	u64 now = scx_bpf_now();

	cpuc->preemptions_ns =
		(before(cpuc->preemptions_ns, now) ? now : cpuc->preemptions_ns) + price;
	give_way(cpuc, GIVES_WAY_TO_WOKEN);
}

/*
 * For ops.enqueue: whether the task on `cpu`, the CPU of the run queue that is locked, gives way to
 * one of domain `d`. It then does.
 */
static bool cut_here(u32 d, s32 cpu, struct overtaker *to)
{
	struct cpu_ctx *cpuc = cpu_at(cpu);

	if (no_preempt || !cpuc || cpuc->domain != d || cpuc->dedicated ||
	    !would_give_way(cpuc, to))
		return false;
	cut(cpuc, to->price_ns);
	return true;
}

/*
 * The same for any CPU, by a kick. A task that leaves the CPU just then keeps the rest of its slice
 * all the same, and the next one remains.
 */
static void cut_elsewhere(s32 cpu)
{
	struct cpu_ctx *cpuc = cpu_at(cpu);
	struct task_struct *running;

	running = cpuc ? bpf_task_from_pid(READ_ONCE(cpuc->running)) : NULL;
	if (!running)
		return;
	cut(cpuc, PREEMPTION_NS);
	/* Not 0: preempt() says why (decisions.bpf.h). */
	scx_bpf_task_set_slice(running, 1);
	bpf_task_release(running);
	scx_bpf_kick_cpu(cpu, 0);
}

/*
 * Whether a task gives way to the thread of `domc`, which an urgent notice waits for. If the thread has
 * begun to run a moment ago, its CPUs ask for work so often that it may soon run again, and then
 * decides for many at once.
 */
static bool is_hurried(struct domain_ctx *domc, u64 now)
{
	return READ_ONCE(domc->urgent) && (s64)(now - domc->activated_ns) >= (s64)HURRY_NS;
}

/*
 * Whether a task that wakes up, and for which domain `d` has to decide, is urgent: a running task
 * would give way to it. The domain thread then gets a CPU at once, or is the next to get one. Global,
 * so that the verifier checks it once.
 */
__weak bool is_urgent(struct task_ctx *taskc __arg_nonnull, u32 d)
{
	struct domain_ctx *domc = domain_at(d);
	struct overtaker it;
	u64 ran_ns;

	if (!domc)
		return false;
	ran_ns = scx_bpf_now() - domc->activated_ns;
	if (no_preempt || !taskc->overtakes || taskc->decided_by != d ||
	    (taskc->by_message && (s64)ran_ns < (s64)HURRY_MESSAGE_NS) ||
	    others_come_first(domc, d, wakeup_vtime(taskc, d)))
		return false;
	it = overtaker(taskc, domc, d);
	if (!domc->urgent || before(it.vtime, domc->urgent_vtime)) {
		domc->urgent_vtime = it.vtime;
		domc->urgent_protected_ns = it.protected_ns;
	}
	WRITE_ONCE(domc->urgent, 1);
	if ((s64)ran_ns < (s64)HURRY_NS)
		set_alarm(nr_cpus + d, domc->activated_ns + HURRY_NS);
	return true;
}

static __always_inline struct overtaker urgent_overtaker(struct domain_ctx *domc)
{
	struct overtaker it = {
		.vtime = domc->urgent_vtime,
		.protected_ns = domc->urgent_protected_ns,
		.price_ns = PREEMPTION_NS,
		.cpu = -1,
		.later_cpu = -1,
	};

	return it;
}

/*
 * The thread of domain `d` is parked, and the notice of `p` is urgent: a running task gives way to
 * the thread, at once or as soon as one may. `p` is on the run queue of `cpu`; it is NULL later.
 */
static void hurry(struct task_struct *p, struct domain_ctx *domc, u32 d, s32 cpu)
{
	struct overtaker it = urgent_overtaker(domc);

	/* It runs on its own CPU only. */
	if (READ_ONCE(domc->shared_cpu))
		return;
	cpu = cpu_to_preempt(p, d, bpf_get_smp_processor_id(), cpu, &it);
	if (cpu < 0) {
		if (it.later_ns)
			set_alarm(nr_cpus + d, it.later_ns);
		return;
	}
	count(&domc->counts.hurried);
	WRITE_ONCE(domc->hurried, 1);
	cut_elsewhere(cpu);
}

#endif /* MANYLAND_PREEMPT_BPF_H */
