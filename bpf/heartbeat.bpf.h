/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What is done five times a second rather than on the way of a task:
 *   - finding wake-ups that were lost in a race, and starved tasks (safety_net.bpf.h);
 *   - letting other domains run a thread that its own does not (away.bpf.h);
 *   - moving tasks off CPUs on which a higher scheduling class runs (higher_class.bpf.h);
 *   - measuring the lateness of the machine's timers (domain_thread.bpf.h);
 *   - lowering the frequencies of CPUs without work (frequency.bpf.h);
 *   - evening out the loads of the domains (balance.bpf.h).
 *
 * Invariant: nothing depends on the heartbeat except the time after which a rare accident is
 * repaired.
 */
#ifndef MANYLAND_HEARTBEAT_BPF_H
#define MANYLAND_HEARTBEAT_BPF_H

#include "away.bpf.h"
#include "balance.bpf.h"
#include "crowd.bpf.h"
#include "domain_thread.bpf.h"
#include "frequency.bpf.h"
#include "higher_class.bpf.h"
#include "part.bpf.h"
#include "safety_net.bpf.h"
#include "stranded.bpf.h"

static long start_timer(struct heartbeat *h)
{
	h->due_ns = bpf_ktime_get_ns() + HEARTBEAT_NS;
	return bpf_timer_start(&h->timer, HEARTBEAT_NS, 0);
}

/*
 * Kicks a CPU of each domain in which tasks wait although a CPU is idle: the gap in idle.bpf.h has
 * swallowed its wake-up, or the domain thread does not decide. Each of the domain's CPUs may run these
 * tasks; serve_parts() has those that may use some only.
 */
static void find_lost_wakeups(void)
{
	struct domain_ctx *domc;
	u32 i;

	/* The masks are under RCU. A timer implies it, but Linux before 6.18 does not see that. */
	bpf_rcu_read_lock();
	bpf_for(i, 0, nr_domains) {
		domc = domain_at(i);
		if (domc && any_idle(domc) &&
		    (scx_bpf_dsq_nr_queued(DSQ_WAITING | i) > 0 ||
		     scx_bpf_dsq_nr_queued(DSQ_READY | i) > 0 ||
		     scx_bpf_dsq_nr_queued(DSQ_THREAD | i) > 0))
			kick_idle(domc, i, 1);
	}
	bpf_rcu_read_unlock();
}

/*
 * For each part: forgets it if no task uses it, kicks an idle CPU for tasks there, and makes starved
 * ones the first of its READY, which then comes before all other queues. Global, so that the
 * verifier checks it once.
 */
__weak int serve_parts(void)
{
	struct domain_ctx *domc;
	struct part *part;
	u64 ready, waiting;
	u32 slot;
	s32 cpu;

	bpf_for(slot, 0, PARTS_MAX) {
		part = part_at(slot);
		domc = part ? domain_at(part->domain) : NULL;
		if (!domc || !(READ_ONCE(domc->parts) >> slot & 1))
			continue;
		if (!READ_ONCE(part->users)) {
			__sync_fetch_and_and(&domc->parts, ~(1ULL << slot));
			/* A task may have claimed it since. */
			if (READ_ONCE(part->users))
				__sync_fetch_and_or(&domc->parts, 1ULL << slot);
			continue;
		}
		ready = DSQ_READY | (nr_domains + slot);
		waiting = DSQ_WAITING | (nr_domains + slot);
		if (scx_bpf_dsq_nr_queued(ready) <= 0 && scx_bpf_dsq_nr_queued(waiting) <= 0) {
			level_crowd(&part->crowd, domc);
			continue;
		}
		if (feed_starved(waiting, ready, domc->ready_vtime))
			part->vtime = domc->ready_vtime - slice_ns;
		cpu = idle_cpu_of(slot);
		if (cpu >= 0)
			scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
	}
	return 0;
}

/* Sets the patience of each domain, and boosts the starved tasks of its queues. */
static void serve_domains(u64 lateness_ns)
{
	struct domain_ctx *domc;
	u32 boosts, i;

	bpf_for(i, 0, nr_domains) {
		domc = domain_at(i);
		if (domc)
			set_patience(domc, lateness_ns);
		if (domc && (scx_bpf_dsq_nr_queued(DSQ_WAITING | i) > 0 ||
			     scx_bpf_dsq_nr_queued(DSQ_READY | i) > 0)) {
			boosts = feed_starved(DSQ_WAITING | i, DSQ_READY | i, domc->ready_vtime);
			WRITE_ONCE(domc->ready_boosts, boosts);
		}
	}
}

/*
 * Whether slices that are shorter than a tick end on `cpu` in time, as was asked for. In a crowd so large
 * that tasks would wait for longer than the kernel allows they do so unasked.
 */
static bool has_short_slices(s32 cpu, struct cpu_ctx *cpuc)
{
	struct domain_ctx *domc = domain_at(cpuc->domain);
	u32 bound = scx_bpf_dsq_nr_queued(DSQ_BOUND | cpu) + scx_bpf_dsq_nr_queued(DSQ_OWN | cpu);

	return short_slices || bound >= SHORT_SLICES_PER_CPU ||
	       (domc && READ_ONCE(domc->nr_queued) / SHORT_SLICES_PER_CPU >= domc->nr_cpus);
}

/* The time between two ticks, from the kernel's count of them since the last heartbeat. */
static u32 measure_tick(struct heartbeat *h)
{
	u64 ticks = bpf_jiffies64(), now = bpf_ktime_get_ns(), passed = ticks - h->ticks,
	    tick_ns = 0;

	if (h->ticks && passed)
		tick_ns = (now - h->ticks_at_ns) / passed;
	h->ticks = ticks;
	h->ticks_at_ns = now;
	return tick_ns;
}

/* No task waits bound to the CPU of `cpuc`: those that come are level with the domain. */
static void level_unused(struct cpu_ctx *cpuc)
{
	struct domain_ctx *domc = cpuc ? domain_at(cpuc->domain) : NULL;

	if (domc && !cpuc->runs_bound)
		level_bound(cpuc, domc);
}

/*
 * Boosts the starved tasks of each CPU's queues. Ready ones leave a CPU that does not ask for work.
 */
static void serve_cpus(u32 tick_ns)
{
	struct cpu_ctx *cpuc;
	u32 boosts, i;

	bpf_for(i, 0, nr_cpus) {
		cpuc = cpu_at(i);
		if (cpuc)
			cpuc->short_ns = has_short_slices(i, cpuc) ? tick_ns : 0;
		if (has_tasks_of_its_own(i)) {
			rescue(i);
			cpuc = cpu_at(i);
			if (!cpuc)
				continue;
			boosts = feed_starved(DSQ_BOUND | i, DSQ_OWN | i, cpuc->own_vtime);
			if (READ_ONCE(cpuc->own_boosts) < boosts)
				WRITE_ONCE(cpuc->own_boosts, boosts);
			/* OWN may have tasks without a check being due for them. */
			note_own(i);
			scx_bpf_kick_cpu(i, SCX_KICK_IDLE);
		} else {
			level_unused(cpu_at(i));
		}
	}
}

/* Lets the tasks of stranded domains leave. */
static void evacuate_domains(void)
{
	struct domain_ctx *domc;
	u32 i;

	if (strict)
		return;
	bpf_for(i, 0, nr_domains) {
		domc = domain_at(i);
		if (domc && domc->stranded)
			evacuate(i, domc->move_to);
	}
}

static int heartbeat(void *map, u32 *key, struct heartbeat *h)
{
	u64 lateness_ns = lateness(h);

	find_lost_wakeups();
	find_left_threads();
	serve_domains(lateness_ns);
	serve_parts();
	sample_loads();
	if (!no_steal && nr_domains > 1) {
		balance_loads();
		evacuate_domains();
	}
	serve_cpus(measure_tick(h));
	lower_idle_frequencies();
	start_timer(h);
	return 0;
}

static s32 start_heartbeat(void)
{
	struct domain_ctx *domc;
	struct heartbeat *h;
	u32 key = 0, i;

	h = bpf_map_lookup_elem(&heartbeats, &key);
	if (!h)
		return -ENOENT;
	bpf_for(i, 0, nr_domains) {
		domc = domain_at(i);
		if (domc)
			set_patience(domc, 0);
	}
	bpf_timer_init(&h->timer, &heartbeats, CLOCK_MONOTONIC);
	bpf_timer_set_callback(&h->timer, heartbeat);
	return start_timer(h);
}

#endif /* MANYLAND_HEARTBEAT_BPF_H */
