/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What each CPU asks of its frequency: enough for its utilisation, the part of recent time in which
 * it ran tasks of ours.
 *
 * The kernel's governor schedutil knows only what a sched_ext scheduler asks for, and at attach asks
 * for the highest. It adds a fourth as headroom by itself, and what higher scheduling classes and
 * interrupts use. Other governors ignore all of this.
 *
 * Like the kernel's own measure, utilisation halves in 32 ms without work, and time at a lower
 * frequency counts as less. A task that has computed for that time without sleeping needs all that
 * the CPU has, also on the CPU that it has just moved to.
 *
 * Invariant: a CPU asks at most once in FREQUENCY_NS, and only for a change of FREQUENCY_STEP or
 * more, or for the highest or the lowest. It asks for itself, so that the kernel has locked the run
 * queue that it needs; for a CPU without work the heartbeat asks, which has locked none.
 */
#ifndef MANYLAND_FREQUENCY_BPF_H
#define MANYLAND_FREQUENCY_BPF_H

#include "state.bpf.h"
#include "stats.bpf.h"

#define FREQUENCY_NS 1000000
#define FREQUENCY_STEP (SCX_CPUPERF_ONE / 16)

/* Utilisation halves in 1 << HALF_LIFE_SHIFT ns. */
#define HALF_LIFE_SHIFT 25
#define UTILISATION_ONE (1U << 16)

/*
 * What is left of `utilisation` after `ns` without work: halves for each whole half-life, and for
 * the rest x of one a parabola for 2^-x, of the same slope at 0.
 */
static u32 decayed(u32 utilisation, u64 ns)
{
	u64 halves = ns >> HALF_LIFE_SHIFT;
	u32 x = ns >> (HALF_LIFE_SHIFT - 10) & 1023;
	u32 keep = UTILISATION_ONE - (45426 - 12658 * x / 1024) * x / 1024;

	return halves > 16 ? 0 : (u32)((u64)utilisation * keep / UTILISATION_ONE >> halves);
}

/* Adds what `cpu` has run up to `now` to its utilisation. */
static void sample_utilisation(struct cpu_ctx *cpuc, s32 cpu, u64 now)
{
	u64 elapsed = now - cpuc->sampled_ns;
	u64 busy = cpuc->busy_ns < elapsed ? cpuc->busy_ns : elapsed;
	u64 idle = elapsed - busy;
	u32 share;

	busy = busy * scx_bpf_cpuperf_cur(cpu) / SCX_CPUPERF_ONE;
	elapsed = idle + busy;
	if (!elapsed)
		return;
	share = busy * UTILISATION_ONE / elapsed;
	cpuc->utilisation = decayed(cpuc->utilisation, elapsed) +
			    (u64)share * (UTILISATION_ONE - decayed(UTILISATION_ONE, elapsed)) /
				    UTILISATION_ONE;
	cpuc->busy_ns = 0;
	cpuc->sampled_ns = now;
}

/* What of the range up to `most` is enough for this utilisation: whole steps, the nearest. */
static u32 frequency_for(u32 utilisation, u32 most)
{
	u32 enough = (u64)most * utilisation / UTILISATION_ONE + FREQUENCY_STEP / 2;

	/* An average never quite comes to its end. */
	return enough >= most ? most : enough / FREQUENCY_STEP * FREQUENCY_STEP;
}

/* Asks for a frequency of `cpu` that is enough for its utilisation, or for the highest. */
static void ask_for_frequency(struct cpu_ctx *cpuc, s32 cpu, bool highest)
{
	u32 most = scx_bpf_cpuperf_cap(cpu), target = most;
	struct domain_ctx *domc;

	if (!highest)
		target = frequency_for(cpuc->utilisation, most);
	/* One step less, unless it is the last one, may be the ups and downs of an average. */
	if (target == cpuc->frequency ||
	    (target && target < cpuc->frequency && target + FREQUENCY_STEP >= cpuc->frequency))
		return;
	cpuc->frequency = target;
	scx_bpf_cpuperf_set(cpu, target);
	domc = domain_at(cpuc->domain);
	if (domc)
		count(&domc->counts.frequency);
}

/* Samples the utilisation of `cpu`, and asks for what it needs. Global, for the verifier. */
__weak int follow_utilisation(s32 cpu, u64 now, bool highest)
{
	struct cpu_ctx *cpuc = cpu_at(cpu);

	if (!cpuc)
		return 0;
	sample_utilisation(cpuc, cpu, now);
	ask_for_frequency(cpuc, cpu, highest);
	return 0;
}

static bool sample_is_due(struct cpu_ctx *cpuc, u64 now)
{
	return (s64)(now - cpuc->sampled_ns) >= FREQUENCY_NS;
}

/* Whether a task that has computed for `ns` needs the highest frequency. */
static bool is_long(u64 ns)
{
	return ns >= 1ULL << HALF_LIFE_SHIFT;
}

/* A task, of which BPF may know nothing, begins to run on `cpu`. */
static void begin_busy(struct cpu_ctx *cpuc, s32 cpu, struct task_ctx *taskc, u64 now)
{
	if (no_freq_scaling)
		return;
	cpuc->busy_since_ns = now;
	if (sample_is_due(cpuc, now))
		follow_utilisation(cpu, now, taskc && is_long(taskc->burst_ns));
}

/* Adds the time of the task that runs, which may stop now. */
static void add_busy(struct cpu_ctx *cpuc, u64 now, bool stops)
{
	if (no_freq_scaling)
		return;
	if (cpuc->busy_since_ns)
		cpuc->busy_ns += now - cpuc->busy_since_ns;
	cpuc->busy_since_ns = stops ? 0 : now;
}

void BPF_STRUCT_OPS(manyland_tick, struct task_struct *p)
{
	struct cpu_ctx *cpuc = cpu_at(scx_bpf_task_cpu(p));
	struct task_ctx *taskc = task_ctx(p);
	u64 now = scx_bpf_now();

	if (!cpuc || no_freq_scaling)
		return;
	add_busy(cpuc, now, false);
	if (sample_is_due(cpuc, now))
		follow_utilisation(scx_bpf_task_cpu(p), now,
				   taskc && is_long(taskc->burst_ns + now - taskc->started_ns));
}

/*
 * For the heartbeat: CPUs on which no task has run since the last one. A task that begins there at
 * the same moment has the low frequency for a tick at most: then its CPU asks.
 */
static void lower_idle_frequencies(void)
{
	struct cpu_ctx *cpuc;
	u64 now = scx_bpf_now();
	u32 i;

	if (no_freq_scaling)
		return;
	bpf_for(i, 0, nr_cpus) {
		cpuc = cpu_at(i);
		if (cpuc && cpuc->frequency && !cpuc->busy_since_ns &&
		    (s64)(now - cpuc->sampled_ns) >= (s64)HEARTBEAT_NS / 2)
			follow_utilisation(i, now, false);
	}
}

/* At attach the kernel asks for the highest frequency of each CPU. */
static void begin_frequencies(void)
{
	struct cpu_ctx *cpuc;
	u32 i;

	bpf_for(i, 0, nr_cpus) {
		cpuc = cpu_at(i);
		if (!cpuc)
			continue;
		cpuc->frequency = SCX_CPUPERF_ONE;
		cpuc->sampled_ns = scx_bpf_now();
	}
}

#endif /* MANYLAND_FREQUENCY_BPF_H */
