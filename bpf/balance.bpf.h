/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The loads of the domains, and which tasks change their home to even them out.
 *
 * The heartbeat samples the loads and says how many tasks may leave the fullest domain for the
 * emptiest. Tasks that are preempted then move. Where many have to move, tasks that wake up do too,
 * and all leave a stranded domain (stranded.bpf.h).
 *
 * Invariant: a task moves only if its new home, with the task, has less load than its old home had.
 * So moves come to an end.
 */
#ifndef MANYLAND_BALANCE_BPF_H
#define MANYLAND_BALANCE_BPF_H

#include "home.bpf.h"
#include "part.bpf.h"

/* The least capacity that a domain counts as. */
#define CAPACITY_MIN (CAPACITY_ONE / 16)

/* Whether higher scheduling classes have all CPUs of domain `d`. */
static bool is_stranded(u32 d)
{
	struct domain_ctx *domc = domain_at(d);

	return domc && domc->stranded;
}

/*
 * `p` waits again, woken or not: moves it if that levels the loads. A task that wakes up remains
 * with the tasks that it talks to, unless more than MOVES_MIN have to move. Then the preempted ones
 * alone would need too much time.
 */
static void maybe_balance(struct task_struct *p, struct task_ctx *taskc, bool woken)
{
	struct domain_ctx *from_domc = domain_at(taskc->home), *to_domc;
	u64 less, more;

	if (!from_domc)
		return;
	if (from_domc->stranded && may_run_in(p, from_domc->move_to)) {
		set_home(taskc, from_domc->move_to);
		return;
	}
	if (from_domc->moves <= (woken ? MOVES_MIN : 0))
		return;
	to_domc = domain_at(from_domc->move_to);
	if (!to_domc || !from_domc->capacity || !to_domc->capacity ||
	    !may_run_in(p, from_domc->move_to))
		return;
	/* The other domain must have less load with the task than this one has now. */
	more = (u64)taskc->weight * CAPACITY_ONE / to_domc->capacity;
	if (from_domc->load <= to_domc->load + more)
		return;
	less = (u64)taskc->weight * CAPACITY_ONE / from_domc->capacity;
	from_domc->moves--;
	from_domc->load -= less < from_domc->load ? less : from_domc->load;
	to_domc->load += more;
	set_home(taskc, from_domc->move_to);
}

/*
 * The sum of the weights of a queue, estimated from its first tasks. Global, so that the verifier
 * checks it once.
 */
__weak u64 weight_of(u64 dsq)
{
	s32 length = scx_bpf_dsq_nr_queued(dsq), seen = 0, i;
	struct bpf_iter_scx_dsq it;
	struct task_ctx *taskc;
	struct task_struct *p;
	u64 sum = 0;
	u32 weight;

	if (length <= 0)
		return 0;
	bpf_rcu_read_lock();
	if (!bpf_iter_scx_dsq_new(&it, dsq, 0)) {
		bpf_for(i, 0, LOAD_SAMPLE) {
			p = bpf_iter_scx_dsq_next(&it);
			if (!p)
				break;
			weight = p->scx.weight;
			taskc = groups_are_used() ? task_ctx(p) : NULL;
			/* Once: one instruction cannot read from both. */
			if (taskc)
				weight = READ_ONCE(taskc->weight);
			sum += weight;
			seen = i + 1;
		}
	}
	bpf_iter_scx_dsq_destroy(&it);
	bpf_rcu_read_unlock();
	if (seen <= 0)
		return 0;
	return (u32)seen < LOAD_SAMPLE ? sum : sum * (u32)length / LOAD_SAMPLE;
}

/*
 * Samples what higher scheduling classes leave of the domain's CPUs: `taken` of them run neither a
 * task of ours nor nothing. One of these may run the domain thread. The capacity is never 0, so
 * that a domain that has lost all of its CPUs has the greatest load.
 */
static void sample_capacity(struct domain_ctx *domc, u32 taken)
{
	u32 left = domc->nr_cpus, most = domc->nr_cpus * CAPACITY_ONE;

	if (taken && domc->state == THREAD_RUNNING)
		taken--;
	left = taken < left ? left - taken : 0;
	if (!domc->capacity)
		domc->capacity = most;
	/* Rounded up, so that a CPU that comes back counts in full. */
	domc->capacity = (domc->capacity * 3 + left * CAPACITY_ONE + 3) / 4;
	if (domc->capacity > most)
		domc->capacity = most;
	if (domc->capacity < CAPACITY_MIN)
		domc->capacity = CAPACITY_MIN;
}

/* Adds the queues of the parts of domain `d` to its sample. */
__weak int sample_parts(u32 d)
{
	struct domain_ctx *domc = domain_at(d);
	struct part *part;
	u32 i;

	if (!domc || !domc->parts)
		return 0;
	bpf_for(i, 0, PARTS_MAX) {
		part = domc->parts >> i & 1 ? part_at(i) : NULL;
		if (!part || part->domain != d)
			continue;
		domc->queue_weight += weight_of(DSQ_READY | (nr_domains + i)) +
				      weight_of(DSQ_WAITING | (nr_domains + i));
		domc->nr_queued += scx_bpf_dsq_nr_queued(DSQ_READY | (nr_domains + i)) +
				   scx_bpf_dsq_nr_queued(DSQ_WAITING | (nr_domains + i));
	}
	return 0;
}

/*
 * Sums up the weights of the tasks of each domain, and smooths its load over a few samples. The
 * heartbeat calls it.
 */
__weak int sample_loads(void)
{
	struct domain_ctx *domc;
	struct cpu_ctx *cpuc;
	u32 i;

	bpf_for(i, 0, nr_domains) {
		domc = domain_at(i);
		if (!domc)
			continue;
		domc->queue_weight = weight_of(DSQ_READY | i) + weight_of(DSQ_WAITING | i);
		WRITE_ONCE(domc->nr_queued, scx_bpf_dsq_nr_queued(DSQ_READY | i) +
						    scx_bpf_dsq_nr_queued(DSQ_WAITING | i));
		sample_parts(i);
		domc->run_weight = 0;
		domc->taken = 0;
		domc->open = 0;
		domc->asks_now = 0;
	}
	bpf_for(i, 0, nr_cpus) {
		cpuc = cpu_at(i);
		domc = cpuc ? domain_at(cpuc->domain) : NULL;
		if (!domc)
			continue;
		domc->run_weight += cpuc->weight;
		domc->asks_now += cpuc->asked;
		if (!cpuc->weight && !cpuc->dedicated && !is_idle(i))
			domc->taken++;
		else if (!cpuc->dedicated)
			domc->open++;
	}
	bpf_for(i, 0, nr_domains) {
		domc = domain_at(i);
		if (!domc || !domc->nr_cpus)
			continue;
		/* In one store: note_service() reads it at the same time. */
		WRITE_ONCE(domc->weight, domc->queue_weight + domc->run_weight);
		sample_capacity(domc, domc->taken);
		domc->stranded = domc->taken && !domc->open && domc->asks_now == domc->asks;
		domc->asks = domc->asks_now;
		domc->load = (domc->load * 3 +
			      domc->weight * CAPACITY_ONE / (domc->capacity ?: CAPACITY_MIN)) /
			     4;
	}
	return 0;
}

/*
 * Lets the fullest domain in which tasks wait give some of them to the emptiest. A domain in which
 * each task has a CPU would gain nothing. The heartbeat calls it after sample_loads().
 */
__weak int balance_loads(void)
{
	u64 least = ~0ULL, most = 0, moves;
	u32 emptiest = NO_DOMAIN, fullest = NO_DOMAIN, i;
	struct domain_ctx *domc, *to_domc;

	bpf_for(i, 0, nr_domains) {
		domc = domain_at(i);
		if (!domc || !domc->capacity)
			continue;
		domc->moves = 0;
		if (domc->load < least && !domc->stranded) {
			least = domc->load;
			emptiest = i;
		}
		if (domc->load >= most && domc->queue_weight) {
			most = domc->load;
			fullest = i;
		}
	}
	bpf_for(i, 0, nr_domains) {
		domc = domain_at(i);
		if (domc && domc->stranded)
			domc->move_to = emptiest;
	}
	domc = domain_at(fullest);
	to_domc = domain_at(emptiest);
	if (domc && to_domc && domc->capacity && emptiest != fullest &&
	    most - least > most / LOAD_MARGIN) {
		/* First the weight that makes the two even, then a number of tasks. */
		moves = (most - least) * domc->capacity * to_domc->capacity /
			(domc->capacity + to_domc->capacity) / CAPACITY_ONE;
		moves /= WEIGHT_NICE_0 * MOVES_PART;
		domc->move_to = emptiest;
		WRITE_ONCE(domc->moves, moves > MOVES_MIN ? moves : MOVES_MIN);
	}
	return 0;
}

#endif /* MANYLAND_BALANCE_BPF_H */
