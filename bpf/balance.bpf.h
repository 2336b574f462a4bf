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

/*
 * No task can use more than a CPU. One of more weight than that counts for a load with what all
 * others have for each CPU that is left to them. Which those are, the sample before says.
 */
GLOBAL struct load_state {
	u64 most; /* what a task counts for at most; 0: any weight */
	u64 all; /* the sum of all weights, in this sample */
	u64 others; /* the part of it of tasks that are not above `most` */
	u32 above; /* how many tasks are */
	u32 cpus; /* CPUs that run our tasks or are idle, in this sample */
} loads;

/* Weights of some tasks of a domain. */
struct weights {
	u64 all;
	u64 counted; /* for the domain's load */
	u64 others; /* of those that count in full */
	u32 above; /* how many do not */
};

/* What a task of this weight counts for a load. */
static u64 counted_weight(u64 weight)
{
	u64 most = READ_ONCE(loads.most);

	return most && weight > most ? most : weight;
}

static void add_weight(struct weights *sum, u64 weight)
{
	u64 counted = counted_weight(weight);

	sum->all += weight;
	sum->counted += counted;
	if (counted == weight)
		sum->others += weight;
	else
		sum->above++;
}

/* Adds tasks to the sample, each of them for `times` in `of`. */
static void add_to_sample(struct domain_ctx *domc, struct weights *sum, u32 times, u32 of)
{
	domc->load_weight += sum->counted * times / of;
	loads.all += sum->all * times / of;
	loads.others += sum->others * times / of;
	loads.above += sum->above * times / of;
}

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
	more = counted_weight(taskc->weight) * CAPACITY_ONE / to_domc->capacity;
	if (from_domc->load <= to_domc->load + more)
		return;
	less = counted_weight(taskc->weight) * CAPACITY_ONE / from_domc->capacity;
	from_domc->moves--;
	from_domc->load -= less < from_domc->load ? less : from_domc->load;
	to_domc->load += more;
	set_home(taskc, from_domc->move_to);
}

/*
 * Adds a queue to the sample of domain `d`, estimated from its first tasks. Global, so that the
 * verifier checks it once.
 */
__weak int sample_queue(u64 dsq, u32 d)
{
	s32 length = scx_bpf_dsq_nr_queued(dsq), seen = 0, i;
	struct domain_ctx *domc = domain_at(d);
	struct weights sum = {};
	struct bpf_iter_scx_dsq it;
	struct task_ctx *taskc;
	struct task_struct *p;
	u32 weight, times = 1, of = 1;

	if (length <= 0 || !domc)
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
			add_weight(&sum, weight);
			seen = i + 1;
		}
	}
	bpf_iter_scx_dsq_destroy(&it);
	bpf_rcu_read_unlock();
	if ((u32)seen >= LOAD_SAMPLE) {
		times = length;
		of = LOAD_SAMPLE;
	}
	domc->queue_weight += sum.all * times / of;
	add_to_sample(domc, &sum, times, of);
	return 0;
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
		sample_queue(DSQ_READY | (nr_domains + i), d);
		sample_queue(DSQ_WAITING | (nr_domains + i), d);
		domc->nr_queued += scx_bpf_dsq_nr_queued(DSQ_READY | (nr_domains + i)) +
				   scx_bpf_dsq_nr_queued(DSQ_WAITING | (nr_domains + i));
	}
	return 0;
}

/* The sample is complete. */
static void limit_weights(void)
{
	u64 most = loads.above < loads.cpus ? loads.others / (loads.cpus - loads.above) :
					      loads.all / (loads.cpus ?: 1);

	WRITE_ONCE(loads.most, most < WEIGHT_NICE_0 ? WEIGHT_NICE_0 : most);
}

/*
 * Sums up the weights of the tasks of each domain, and smooths its load over a few samples. The
 * heartbeat calls it.
 */
__weak int sample_loads(void)
{
	struct domain_ctx *domc;
	struct weights sum;
	struct cpu_ctx *cpuc;
	u32 i;

	loads.all = loads.others = 0;
	loads.above = loads.cpus = 0;
	bpf_for(i, 0, nr_domains) {
		domc = domain_at(i);
		if (!domc)
			continue;
		domc->queue_weight = domc->run_weight = domc->load_weight = 0;
		sample_queue(DSQ_READY | i, i);
		sample_queue(DSQ_WAITING | i, i);
		WRITE_ONCE(domc->nr_queued, scx_bpf_dsq_nr_queued(DSQ_READY | i) +
						    scx_bpf_dsq_nr_queued(DSQ_WAITING | i));
		sample_parts(i);
		domc->taken = 0;
		domc->open = 0;
		domc->asks_now = 0;
	}
	bpf_for(i, 0, nr_cpus) {
		cpuc = cpu_at(i);
		domc = cpuc ? domain_at(cpuc->domain) : NULL;
		if (!domc)
			continue;
		if (cpuc->weight) {
			sum = (struct weights){};
			add_weight(&sum, cpuc->weight);
			domc->run_weight += sum.all;
			add_to_sample(domc, &sum, 1, 1);
		}
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
		loads.cpus += domc->open;
		domc->stranded = domc->taken && !domc->open && domc->asks_now == domc->asks;
		domc->asks = domc->asks_now;
		domc->load = (domc->load * 3 +
			      domc->load_weight * CAPACITY_ONE / (domc->capacity ?: CAPACITY_MIN)) /
			     4;
	}
	limit_weights();
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
