/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The counters, and two histograms: how long tasks wait until their decisions are carried out, and
 * how long after a wake-up they run. src/domains/latency.rs reads the histograms, the statistics read
 * the rest.
 *
 * Invariant: a counter only grows. Every CPU may count at any time, so counting is atomic. A
 * histogram has one writer at a time: the CPU that drains the domain's decisions, or the one that
 * holds the lock of a run queue. Each CPU has its own histogram of run delays, since every wake-up
 * ends in it.
 */
#ifndef MANYLAND_STATS_BPF_H
#define MANYLAND_STATS_BPF_H

#include "groups.bpf.h"
#include "state.bpf.h"

static __always_inline void count(u64 *counter)
{
	__sync_fetch_and_add(counter, 1);
}

/* A task has to leave `cpu`, or a queue to it, for a higher scheduling class. */
static void note_displaced(s32 cpu)
{
	struct domain_ctx *domc = domain_at(domain_of_cpu(cpu));

	if (domc)
		count(&domc->counts.displaced);
}

/* A task that was ready or waiting in domain `from` goes to a CPU of domain `to`. */
__weak int note_theft(u32 from, u32 to)
{
	struct domain_ctx *domc;

	if (from == to)
		return 0;
	domc = domain_at(from);
	if (domc)
		count(&domc->counts.stolen_out);
	domc = domain_at(to);
	if (domc)
		count(&domc->counts.stolen_in);
	return 0;
}

/*
 * The bucket of a latency: four times the power of two, plus the next two bits. One below 0 is in the
 * first: the clocks of two CPUs may be a little apart.
 */
static u32 latency_bucket(u64 ns)
{
	u32 power = 2;
	u64 rest;

	if ((s64)ns < LATENCY_PARTS)
		ns = LATENCY_PARTS;
	rest = ns >> 2;
	if (rest >> 32) {
		power += 32;
		rest >>= 32;
	}
	if (rest >> 16) {
		power += 16;
		rest >>= 16;
	}
	if (rest >> 8) {
		power += 8;
		rest >>= 8;
	}
	if (rest >> 4) {
		power += 4;
		rest >>= 4;
	}
	if (rest >> 2) {
		power += 2;
		rest >>= 2;
	}
	if (rest >> 1)
		power += 1;
	return power * LATENCY_PARTS + ((ns >> (power - 2)) & (LATENCY_PARTS - 1));
}

__weak int note_latency(struct domain_ctx *domc __arg_nonnull, u64 ns)
{
	u32 bucket = latency_bucket(ns);

	if (bucket < LATENCY_BUCKETS)
		domc->latency[bucket]++;
	return 0;
}

/*
 * For ops.select_cpu and ops.enqueue: the task wakes up now. A new task does not, and neither does
 * the thread of a domain.
 */
static void begin_run_delay(struct task_ctx *taskc)
{
	taskc->woken_ns = scx_bpf_now();
}

/* It runs, has left, or waits for another reason than that others have the CPUs. */
static void end_run_delay(struct task_ctx *taskc)
{
	taskc->woken_ns = 0;
}

/* A task that woke up `ns` ago begins to run on `cpu`. Global, so that the verifier checks it once. */
__weak int note_run_delay(u32 cpu, u64 ns)
{
	struct run_delays *delays = bpf_map_lookup_elem(&run_delays, &cpu);
	u32 bucket = latency_bucket(ns);

	if (delays && bucket < LATENCY_BUCKETS)
		delays->counts[bucket]++;
	return 0;
}

#endif /* MANYLAND_STATS_BPF_H */
