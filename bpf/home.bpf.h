/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where a task has its home, and when that changes.
 *
 * A task keeps its home, and with it its cache, until there is a reason to move:
 *   - its affinity leaves the home without a CPU for it;
 *   - it is new, or has just started another program, and finds an idle CPU elsewhere but not here;
 *   - it has run AWAY_MAX times in a row in the same other domain (stolen, or on an idle CPU there);
 *   - the same other domain has woken it PULLS_MAX times in a row: it talks to a task over there;
 *   - the load of the domains has been uneven for a while (level_loads), and it was preempted or,
 *     where many have to move, woke up.
 *
 * Invariant: `tasks` of a domain is the number of tasks whose home it is; a home has a CPU that the
 * task may use, or it is replaced before the next message.
 */
#ifndef MANYLAND_HOME_BPF_H
#define MANYLAND_HOME_BPF_H

#include "idle.bpf.h"

#define AWAY_MAX 4
#define PULLS_MAX 8

/* Loads are leveled when one exceeds the other by a quarter of it. */
#define LOAD_MARGIN 4
/* So many tasks at least may move from a domain between two looks, or this part of what is too much. */
#define MOVES_MIN 4
#define MOVES_PART 4
/* A load is told from so many tasks of a queue, and scaled to its length. */
#define LOAD_SAMPLE 32

/*
 * Moves a task's home; its virtual time goes along relative to where both domains stand.
 * Global, like other functions that are called from many places: so the verifier looks at it once.
 */
__weak int set_home(struct task_ctx *t __arg_nonnull, u32 home)
{
	struct domain_ctx *from = domain_at(t->home), *to = domain_at(home);

	if (!to || t->home == home)
		return 0;
	if (from) {
		t->vtime -= from->waiting_vtime;
		__sync_fetch_and_sub(&from->tasks, 1);
		count(&from->counts.moved_out);
		count(&to->counts.moved_in);
	}
	t->vtime += to->waiting_vtime;
	__sync_fetch_and_add(&to->tasks, 1);
	t->home = home;
	t->away = 0;
	t->pulls = 0;
	return 0;
}

/* Whether domain `d` offers tasks a CPU of `cpus`. */
static bool has_cpu_of(u32 d, const struct cpumask *cpus)
{
	const struct cpumask *mask = domain_mask(d);

	return mask && bpf_cpumask_intersects(mask, cpus);
}

static bool may_run_in(struct task_struct *p, u32 d)
{
	return p->nr_cpus_allowed >= nr_possible_cpus || has_cpu_of(d, p->cpus_ptr);
}

/*
 * The home domain of `p`, after making sure that it has a CPU that `p` may use. NO_DOMAIN if the
 * domain at hand has none either, because the CPUs are offline or kept for domain threads: a domain
 * whose CPUs must all pass the task by would keep it waiting for ever.
 */
static u32 home_of(struct task_struct *p, struct task_ctx *t)
{
	u32 here;

	if (may_run_in(p, t->home))
		return t->home;
	here = domain_of_cpu(scx_bpf_task_cpu(p));
	if (!has_cpu_of(here, p->cpus_ptr))
		here = domain_of_cpu(bpf_cpumask_any_distribute(p->cpus_ptr));
	if (!has_cpu_of(here, p->cpus_ptr))
		return NO_DOMAIN;
	set_home(t, here);
	return here;
}

/* `p` is switched in, in domain `d`. */
static void note_place(struct task_struct *p, struct task_ctx *t, u32 d)
{
	if (d == t->home || no_steal) {
		t->away = 0;
		return;
	}
	if (t->away_in != d) {
		t->away_in = d;
		t->away = 0;
	}
	if (++t->away >= AWAY_MAX)
		set_home(t, d);
}

/*
 * The current task wakes `p`. Both may do that to each other from two domains at the same moment and
 * change places; then it goes on counting, and one of them will be first.
 */
static void note_waker(struct task_struct *p, struct task_ctx *t)
{
	struct task_ctx *w = task_ctx(bpf_get_current_task_btf());

	if (!w || w->is_thread || no_steal)
		return;
	if (w->home == t->home) {
		t->pulls = 0;
		return;
	}
	if (t->puller != w->home) {
		t->puller = w->home;
		t->pulls = 0;
	}
	if (++t->pulls < PULLS_MAX)
		return;
	t->pulls = 0;
	/* Not into a crowd. */
	if (scx_bpf_dsq_nr_queued(DSQ_READY | w->home) > scx_bpf_dsq_nr_queued(DSQ_READY | t->home) ||
	    !may_run_in(p, w->home))
		return;
	set_home(t, w->home);
	w->pulls = 0;
}

/*
 * `p` waits again, after waking up or not: one of those that level the loads? Who wakes up is left with
 * those it talks to unless so many have to move that the preempted ones would take for ever.
 */
static void maybe_level(struct task_struct *p, struct task_ctx *t, bool woken)
{
	struct domain_ctx *from = domain_at(t->home), *to;
	u64 less, more;

	if (!from || from->moves <= (woken ? MOVES_MIN : 0))
		return;
	to = domain_at(from->move_to);
	if (!to || !from->nr_cpus || !to->nr_cpus || !may_run_in(p, from->move_to))
		return;
	/* Only if the other domain is not as full then as this one is now. */
	more = p->scx.weight / to->nr_cpus;
	if (from->load <= to->load + more)
		return;
	less = p->scx.weight / from->nr_cpus;
	from->moves--;
	from->load -= less < from->load ? less : from->load;
	to->load += more;
	set_home(t, from->move_to);
}

/* The sum of the weights of a queue, told from its first tasks. Not inlined, for the verifier. */
static __noinline u64 weight_of(u64 dsq)
{
	s32 length = scx_bpf_dsq_nr_queued(dsq), seen = 0, i;
	struct bpf_iter_scx_dsq it;
	struct task_struct *p;
	u64 sum = 0;

	if (length <= 0)
		return 0;
	bpf_rcu_read_lock();
	if (!bpf_iter_scx_dsq_new(&it, dsq, 0)) {
		bpf_for(i, 0, LOAD_SAMPLE) {
			p = bpf_iter_scx_dsq_next(&it);
			if (!p)
				break;
			sum += p->scx.weight;
			seen = i + 1;
		}
	}
	bpf_iter_scx_dsq_destroy(&it);
	bpf_rcu_read_unlock();
	if (seen <= 0)
		return 0;
	return (u32)seen < LOAD_SAMPLE ? sum : sum * (u32)length / LOAD_SAMPLE;
}

/* Sums up the weights of the tasks of each domain, and its load from that, smoothed over a few looks. Called by the heartbeat. */
__weak int look_at_loads(void)
{
	struct domain_ctx *dom;
	struct cpu_ctx *c;
	u32 i;

	bpf_for(i, 0, nr_domains) {
		dom = domain_at(i);
		if (!dom)
			continue;
		dom->queue_weight = weight_of(DSQ_READY | i) + weight_of(DSQ_WAITING | i);
		WRITE_ONCE(dom->queued, scx_bpf_dsq_nr_queued(DSQ_READY | i) + scx_bpf_dsq_nr_queued(DSQ_WAITING | i));
		dom->run_weight = 0;
	}
	bpf_for(i, 0, nr_cpus) {
		c = cpu_at(i);
		dom = c ? domain_at(c->domain) : NULL;
		if (dom)
			dom->run_weight += c->weight;
	}
	bpf_for(i, 0, nr_domains) {
		dom = domain_at(i);
		if (!dom || !dom->nr_cpus)
			continue;
		/* At once, for note_service(). */
		WRITE_ONCE(dom->weight, dom->queue_weight + dom->run_weight);
		dom->load = (dom->load * 3 + dom->weight / dom->nr_cpus) / 4;
	}
	return 0;
}

/*
 * Lets the fullest domain in which tasks wait give some of them to the emptiest. Where each task has a CPU, there is nothing to be
 * gained. Called by the heartbeat, after look_at_loads().
 */
__weak int level_loads(void)
{
	u64 least = ~0ULL, most = 0, moves;
	u32 emptiest = NO_DOMAIN, fullest = NO_DOMAIN, i;
	struct domain_ctx *dom, *to;

	bpf_for(i, 0, nr_domains) {
		dom = domain_at(i);
		if (!dom || !dom->nr_cpus)
			continue;
		dom->moves = 0;
		if (dom->load < least) {
			least = dom->load;
			emptiest = i;
		}
		if (dom->load >= most && dom->queue_weight) {
			most = dom->load;
			fullest = i;
		}
	}
	dom = domain_at(fullest);
	to = domain_at(emptiest);
	if (dom && to && dom->nr_cpus && emptiest != fullest && most - least > most / LOAD_MARGIN) {
		/* The weight that makes the two even. */
		moves = (most - least) * dom->nr_cpus * to->nr_cpus / (dom->nr_cpus + to->nr_cpus);
		moves /= WEIGHT_NICE_0 * MOVES_PART;
		dom->move_to = emptiest;
		WRITE_ONCE(dom->moves, moves > MOVES_MIN ? moves : MOVES_MIN);
	}
	return 0;
}

#endif /* MANYLAND_HOME_BPF_H */
