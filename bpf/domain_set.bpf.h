/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which domains have an idle CPU, which have one that runs a task of SCHED_IDLE, and which may have
 * work for CPUs of others: a bit for each domain. A walk over a set visits its domains only, nearest
 * first, so that it does not grow with the machine.
 *
 * Each member has a count of its own, and a domain changes the set only when that becomes 0 or is no
 * longer 0: seldom, so that CPUs of all domains can read the set from their caches.
 *
 * Invariant: where no change is under way, a domain whose count is not 0 is in the set. A domain may
 * be in the set without cause; who visits it checks the count.
 */
#ifndef MANYLAND_DOMAIN_SET_BPF_H
#define MANYLAND_DOMAIN_SET_BPF_H

#include "state.bpf.h"

struct domain_set {
	u64 words[DOMAIN_WORDS];
} __attribute__((aligned(64)));

GLOBAL struct domain_set idle_domains; /* those with an idle CPU; the count is `nr_idle` */
GLOBAL struct domain_set working_domains; /* those with work; the count is `has_work` */
/* Those with CPUs that run tasks of SCHED_IDLE; the count is `nr_idle_class`. */
GLOBAL struct domain_set idle_class_domains;

/* Where a walk is: start_walk() begins one. */
struct domain_walk {
	u64 left; /* domains of the word of the set that it is at */
	u32 run; /* the run of neighbours that it is in */
	u32 word; /* the next word of that */
	u32 base; /* the first domain of `left` */
};

GLOBAL u32 first_step; /* 0, which the verifier does not know */

/*
 * A walk at its beginning. Were that a constant, the verifier would follow each step of each walk with all
 * that the caller does there, rather than any step once.
 */
static __always_inline struct domain_walk start_walk(void)
{
	struct domain_walk walk = {
		.run = READ_ONCE(first_step),
		.word = READ_ONCE(first_step),
	};

	return walk;
}

/* The count of domain `d` is no longer 0. */
static void add_to(struct domain_set *set, u32 d)
{
	u32 word = d / 64;

	if (word < DOMAIN_WORDS)
		__sync_fetch_and_or(&set->words[word], 1ULL << d % 64);
}

/*
 * The count of domain `d` has become 0. Another CPU may have changed it since, and added the domain
 * before this one removes it. Both operations are barriers, so one of the two sees the other.
 */
static void remove_from(struct domain_set *set, u32 d, u32 *count)
{
	u64 bit = 1ULL << d % 64;
	u32 word = d / 64;

	if (word >= DOMAIN_WORDS)
		return;
	__sync_fetch_and_and(&set->words[word], ~bit);
	if (READ_ONCE(*count))
		__sync_fetch_and_or(&set->words[word], bit);
}

/* Whether a domain other than `d` is in the set. */
static bool has_others(struct domain_set *set, u32 d)
{
	u64 bits;
	u32 i;

	bpf_for(i, 0, DOMAIN_WORDS) {
		if (i * 64 >= nr_domains)
			break;
		bits = READ_ONCE(set->words[i]);
		if (i == d / 64)
			bits &= ~(1ULL << d % 64);
		if (bits)
			return true;
	}
	return false;
}

/* The number of the lowest bit that is set, of at least one. */
static u32 lowest_bit(u64 bits)
{
	u32 number = 0;

	if (!(bits & 0xffffffff)) {
		number += 32;
		bits >>= 32;
	}
	if (!(bits & 0xffff)) {
		number += 16;
		bits >>= 16;
	}
	if (!(bits & 0xff)) {
		number += 8;
		bits >>= 8;
	}
	if (!(bits & 0xf)) {
		number += 4;
		bits >>= 4;
	}
	if (!(bits & 0x3)) {
		number += 2;
		bits >>= 2;
	}
	return number + !(bits & 1);
}

/*
 * The next domain of the set by the walk over the neighbours of a domain, which is not one of them.
 * NO_DOMAIN: there is none.
 */
static __noinline u32 next_in(struct domain_set *set, struct neighbours *neighbours,
			      struct domain_walk *walk)
{
	u32 i, bit;

	bpf_for(i, 0, RUNS_MAX * DOMAIN_WORDS) {
		if (walk->left || walk->run >= RUNS_MAX || walk->run >= neighbours->nr_runs)
			break;
		if (walk->word >= DOMAIN_WORDS || walk->word * 64 >= nr_domains) {
			walk->word = 0;
			walk->run++;
			continue;
		}
		walk->left =
			READ_ONCE(set->words[walk->word]) & neighbours->runs[walk->run][walk->word];
		walk->base = walk->word++ * 64;
	}
	if (!walk->left)
		return NO_DOMAIN;
	bit = lowest_bit(walk->left);
	walk->left &= walk->left - 1;
	return walk->base + bit;
}

/*
 * A task is about to be put into a queue of domain `d`. While the domain is not in the set, CPUs of
 * others need not check its queues.
 *
 * The domain's own CPUs check their queues in any case, and remove it when they find them empty.
 * If they do so just before the task is there, other domains come for it only after the next task.
 */
static void note_work(struct domain_ctx *domc, u32 d)
{
	if (READ_ONCE(domc->has_work))
		return;
	WRITE_ONCE(domc->has_work, 1);
	add_to(&working_domains, d);
}

static void note_no_work(struct domain_ctx *domc, u32 d)
{
	if (!READ_ONCE(domc->has_work))
		return;
	WRITE_ONCE(domc->has_work, 0);
	remove_from(&working_domains, d, &domc->has_work);
}

#endif /* MANYLAND_DOMAIN_SET_BPF_H */
