/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A domain thread finds no CPU in its domain: a cpuset or a partition withholds the CPUs from it,
 * or real-time tasks or long slices have them. CPUs of other domains run it then. Its memory does not
 * move, and its domain's tasks do not either.
 *
 *   at home -- note_cpus_of_thread(): may use no CPU there --> AWAY_CONFINED
 *   at home -- find_left_threads(): parked for AWAY_NS ------> AWAY_LEFT, until a CPU there asks
 *
 * A thread that is away still parks in THREAD of its domain. A CPU of another domain runs it
 *   - before its own tasks, if the thread has been parked for its patience and has work;
 *   - else if the CPU has nothing else to run.
 *
 * Invariant: a runnable domain thread is found by every CPU that it may use, at the latest
 * AWAY_NS and a heartbeat after it parked. While no thread is away this costs a CPU that asks for
 * work the reading of one flag.
 */
#ifndef MANYLAND_AWAY_BPF_H
#define MANYLAND_AWAY_BPF_H

#include "decisions.bpf.h"
#include "domain_thread.bpf.h"

/* For ops.set_cpumask of a domain thread: from now on it may use `cpus`. */
static void note_cpus_of_thread(struct task_ctx *taskc, const struct cpumask *cpus)
{
	struct domain_ctx *domc = domain_at(taskc->home);

	if (!domc)
		return;
	/* Its mask is without the CPU that --dedicate keeps for the thread. */
	if (has_cpu_of(taskc->home, cpus) ||
	    domain_of_cpu(bpf_cpumask_any_distribute(cpus)) == taskc->home) {
		__sync_fetch_and_and(&domc->away, ~AWAY_CONFINED);
		return;
	}
	__sync_fetch_and_or(&domc->away, AWAY_CONFINED);
	WRITE_ONCE(any_away, 1);
}

/* A CPU of the thread's domain asks for work, so the thread need not run elsewhere. */
static void note_asked(struct domain_ctx *domc)
{
	if (READ_ONCE(domc->away) & AWAY_LEFT)
		__sync_fetch_and_and(&domc->away, ~AWAY_LEFT);
}

/* For the heartbeat: finds the threads that the CPUs of their domains have left parked. */
static void find_left_threads(void)
{
	u64 now = scx_bpf_now();
	struct domain_ctx *domc;
	u32 any = 0, d;

	/* A timer implies RCU, but Linux before 6.18 does not see that. */
	bpf_rcu_read_lock();
	bpf_for(d, 0, nr_domains) {
		domc = domain_at(d);
		if (!domc)
			continue;
		if (domc->state == THREAD_PARKED &&
		    (s64)(now - domc->state_since_ns) > (s64)AWAY_NS) {
			__sync_fetch_and_or(&domc->away, AWAY_LEFT);
			/* In time each of them, since the thread may not use all. */
			kick_idle_elsewhere(d, now / HEARTBEAT_NS);
		}
		if (READ_ONCE(domc->away))
			any = 1;
	}
	bpf_rcu_read_unlock();
	WRITE_ONCE(any_away, any);
}

/* Whether the parked thread of domain `d` is away, and goes before other domains' tasks. */
static bool goes_first_elsewhere(struct domain_ctx *domc, u32 d, u64 now)
{
	return thread_is_due(domc, d, now, patience_ns) ||
	       /* A CPU of the domain has nothing to run, and cannot run the thread. */
	       (domc->starved_since_ns && (s64)(now - domc->state_since_ns) >= (s64)patience_ns);
}

/*
 * Runs a thread of another domain that is away. Each call checks some of the domains, and the next
 * one those that follow. With `spare` the CPU has nothing else to run.
 *
 * Global, so that the verifier checks it once.
 */
__weak int run_away_thread(u32 cpu, bool spare)
{
	struct cpu_ctx *cpuc = cpu_at(cpu);
	u64 now = scx_bpf_now();
	struct domain_ctx *domc;
	u32 i, d;

	if (!cpuc || cpuc->dedicated || !nr_domains)
		return 0;
	bpf_for(i, 0, spare ? nr_domains : AWAY_CHECKS_MAX) {
		d = (cpuc->asked * AWAY_CHECKS_MAX + cpu + i) % nr_domains;
		domc = domain_at(d);
		if (!domc || !READ_ONCE(domc->away) || domc->state != THREAD_PARKED)
			continue;
		if ((spare || goes_first_elsewhere(domc, d, now)) && run_from(DSQ_THREAD | d))
			return 1;
	}
	return 0;
}

/*
 * `prev` leaves this CPU. If it is the thread of another domain, no CPU there knows that it has
 * submitted decisions: this one carries them out, and wakes a CPU for them.
 */
static void drain_for_away(struct task_struct *prev, s32 cpu, u32 here)
{
	struct task_ctx *taskc = prev ? task_ctx(prev) : NULL;
	struct domain_ctx *domc;
	u32 d;

	if (!taskc || !taskc->is_thread || taskc->home == here)
		return;
	d = taskc->home;
	domc = domain_at(d);
	if (!domc || !is_undrained(domc))
		return;
	drain_decisions(d, cpu);
	if (scx_bpf_dsq_nr_queued(DSQ_READY | d) > 0)
		kick_idle(domc, d, 1);
}

#endif /* MANYLAND_AWAY_BPF_H */
