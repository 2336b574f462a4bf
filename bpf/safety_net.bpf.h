/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tasks that have waited for seconds: the lightest among many (a task of nice 19 has a hundredth of
 * the share of others, so among forty of them its turns are some ten seconds apart), or those that a
 * policy never chooses. They go to the front, for one slice, decided or not. Otherwise the kernel's
 * watchdog would take the whole scheduler for broken.
 *
 * Invariant: no task waits in a queue for much longer than `starved_ns` while CPUs that it may use
 * take others from there, whatever its weight and whatever its policy wants.
 */
#ifndef MANYLAND_SAFETY_NET_BPF_H
#define MANYLAND_SAFETY_NET_BPF_H

#include "dispatch.bpf.h"

/*
 * At most so many tasks of a queue are looked at in one heartbeat, from its end, which is where
 * they are that others are put before.
 */
#define STARVED_LOOKS_MAX 32

/*
 * Moves the tasks at the end of a queue that have waited for too long to the place `order` in `to`, and
 * answers how many.
 */
static __noinline u32 move_to_front(u64 from, u64 to, u64 order)
{
	struct bpf_iter_scx_dsq it;
	u64 now = scx_bpf_now();
	struct task_struct *p;
	struct task_ctx *t;
	u32 moved = 0, i;

	if (!bpf_iter_scx_dsq_new(&it, from, SCX_DSQ_ITER_REV)) {
		bpf_for(i, 0, STARVED_LOOKS_MAX) {
			p = bpf_iter_scx_dsq_next(&it);
			if (!p)
				break;
			t = task_ctx(p);
			if (!t || (s64)(now - t->queued_ns) < (s64)starved_ns)
				continue;
			scx_bpf_dsq_move_set_vtime(&it, order);
			if (scx_bpf_dsq_move_vtime(&it, p, to, 0)) {
				t->ready_on = to;
				moved++;
			}
		}
	}
	bpf_iter_scx_dsq_destroy(&it);
	return moved;
}

/*
 * For the heartbeat: looks for starved tasks in two queues, those of waiting and of ready ones, and
 * answers how many turns they are to have before everybody else.
 */
__weak u32 feed_starved(u64 waiting, u64 ready, u64 last_order)
{
	u32 turns = 0;
	u64 order;

	/* As in heartbeat(). */
	bpf_rcu_read_lock();
	order = first_order_rcu(ready, last_order);
	if (scx_bpf_dsq_nr_queued(ready) > 0)
		turns += move_to_front(ready, ready, order);
	if (scx_bpf_dsq_nr_queued(waiting) > 0)
		turns += move_to_front(waiting, ready, order);
	bpf_rcu_read_unlock();
	return turns;
}

#endif /* MANYLAND_SAFETY_NET_BPF_H */
