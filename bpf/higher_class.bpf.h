/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A higher scheduling class runs on a CPU: a real-time or deadline task, with --partial any task
 * that did not choose SCHED_EXT. The tasks that were about to run there find another CPU.
 *
 * A task is not worth a move if the CPU is soon free again, as it is after a threaded interrupt. So
 * where all recent interruptions were brief, the task remains: ready there by its decision, or in
 * the CPU's OWN if it had the CPU for itself and no other task wants it.
 *
 * Invariant: no task that may run elsewhere is left in the local queue of such a CPU, or in its OWN
 * for longer than two heartbeats.
 *
 * Before Linux 6.19 there is one gap. A task may be sent to an idle CPU at the moment in which a
 * task of a higher scheduling class wakes there. It waits until that one sleeps.
 */
#ifndef MANYLAND_HIGHER_CLASS_BPF_H
#define MANYLAND_HIGHER_CLASS_BPF_H

#include "idle.bpf.h"
#include "part.bpf.h"
#include "stats.bpf.h"
#include "wanted.bpf.h"

/* From the kernel's headers, which are not part of its type information. */
#define MAX_RT_PRIO 100
#define SCHED_EXT 7

/* How often a CPU empties its local queue at most without having asked for work meanwhile. */
#define EMPTIED_MAX 16

/* How many tasks of a CPU's OWN one heartbeat scans at most. */
#define RESCUES_MAX 64

/* A higher scheduling class leaves a CPU within this time after a brief interruption. */
#define BRIEF_NS 1000000

/* After this number of brief interruptions in a row the next one is expected to be brief. */
#define BRIEF_MIN 64

/* For ops.dispatch: no higher scheduling class has the CPU any more. */
static void note_end_of_interruption(struct cpu_ctx *cpuc)
{
	u64 began = cpuc->interrupted_ns;

	if (!began)
		return;
	cpuc->interrupted_ns = 0;
	if ((s64)(scx_bpf_now() - began) >= BRIEF_NS)
		cpuc->brief = 0;
	else if (cpuc->brief < BRIEF_MIN)
		cpuc->brief++;
}

/* Whether the task that was interrupted on the CPU of `cpuc` need not have remained. */
static bool is_interrupted_for_long(struct cpu_ctx *cpuc)
{
	u64 began = READ_ONCE(cpuc->interrupted_ns);

	return began && (s64)(scx_bpf_now() - began) >= BRIEF_NS;
}

/*
 * Whether `p`, which a higher scheduling class has preempted on `cpu` of its home `d`, remains
 * there: for the rest of a decided slice, or because no other task wants the CPU.
 */
static bool remains(struct task_struct *p, struct task_ctx *taskc, u32 d, s32 cpu)
{
	struct cpu_ctx *cpuc = cpu_at(cpu);

	return cpuc && cpuc->brief == BRIEF_MIN && cpuc->domain == d &&
	       bpf_cpumask_test_cpu(cpu, p->cpus_ptr) &&
	       (taskc->rest_ns >= REST_MIN_NS || (taskc->free && !is_wanted(cpu, cpuc)));
}

/*
 * For ops.stopping: a task that leaves a CPU with a part of its slice left is preempted by a higher
 * scheduling class.
 *
 * The kernel would keep it in the local queue, and before Linux 6.19 does not let it out again.
 * There it calls ops.cpu_release while the task is still current, and holds every task that runs a
 * BPF program for one that may not migrate. Without a slice the task goes to ops.enqueue, as at the
 * end of one, which resumes a run that was decided.
 */
static void give_up_rest(struct task_struct *p, struct task_ctx *taskc, struct cpu_ctx *cpuc)
{
	if (!p->scx.slice)
		return;
	if (cpuc) {
		cpuc->interrupted_ns = scx_bpf_now();
		cpuc->gives_way = GIVES_WAY_TO_CLASS;
	}
	if (taskc && taskc->run_kind == RUN_DECIDED)
		taskc->rest_ns = p->scx.slice;
	scx_bpf_task_set_slice(p, 0);
	note_displaced(scx_bpf_task_cpu(p));
}

/* Before Linux 6.19, only this callback can empty the local queue. */
void BPF_STRUCT_OPS(manyland_cpu_release, s32 cpu, struct scx_cpu_release_args *args)
{
	scx_bpf_reenqueue_local();
}

static bool is_of_higher_class(struct task_struct *p)
{
	return p->pid && (p->prio < MAX_RT_PRIO || (partial && p->policy != SCHED_EXT));
}

/*
 * Whether the CPU of `cpuc` may empty its local queue once more before it asks for work again. What
 * is left there may run on this CPU only, and comes back each time: the CPU's kernel threads, and
 * tasks that exit or must not migrate now. Linux 7.3 ends a scheduler of which it has enqueued a
 * task 256 times in a row without the task running.
 */
static bool may_empty_again(struct cpu_ctx *cpuc)
{
	if (cpuc->emptied_at != cpuc->asked) {
		cpuc->emptied_at = cpuc->asked;
		cpuc->emptied = 0;
	}
	if (cpuc->emptied >= EMPTIED_MAX)
		return false;
	cpuc->emptied++;
	return true;
}

/* Since Linux 6.19: `next` is switched in. */
SEC("?tp_btf/sched_switch")
int BPF_PROG(note_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	struct cpu_ctx *cpuc;

	if (!is_of_higher_class(next) || scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL) <= 0)
		return 0;
	cpuc = cpu_at(bpf_get_smp_processor_id());
	if (cpuc && may_empty_again(cpuc))
		scx_bpf_reenqueue_local_from_anywhere();
	return 0;
}

/*
 * Moves the tasks that may run elsewhere from OWN of `cpu` to READY of its domain `d`, or of their
 * part of it.
 */
static __noinline bool move_out(s32 cpu, u32 d)
{
	struct bpf_iter_scx_dsq it;
	struct task_struct *p;
	struct task_ctx *taskc;
	bool moved = false;
	u32 part, i;
	u64 ready;

	if (!bpf_iter_scx_dsq_new(&it, DSQ_OWN | cpu, 0)) {
		bpf_for(i, 0, RESCUES_MAX) {
			p = bpf_iter_scx_dsq_next(&it);
			if (!p)
				break;
			taskc = task_ctx(p);
			part = taskc ? part_in(taskc, d) : NO_PART;
			ready = DSQ_READY | (part == NO_PART ? d : nr_domains + part);
			if (p->nr_cpus_allowed == 1 || !scx_bpf_dsq_move_vtime(&it, p, ready, 0))
				continue;
			moved = true;
			note_displaced(cpu);
			if (taskc)
				taskc->ready_on = ready;
		}
	}
	bpf_iter_scx_dsq_destroy(&it);
	return moved;
}

/*
 * For the heartbeat: tasks are ready for a CPU. If it has not asked for work since the last one, or
 * an interruption was expected to be brief and is not, they leave it.
 */
__weak int rescue(s32 cpu)
{
	struct cpu_ctx *cpuc = cpu_at(cpu);
	struct domain_ctx *domc;

	if (!cpuc || cpuc->dedicated)
		return 0;
	if (cpuc->asked_before != cpuc->asked && !is_interrupted_for_long(cpuc)) {
		cpuc->asked_before = cpuc->asked;
		return 0;
	}
	cpuc->asked_before = cpuc->asked;
	domc = domain_at(cpuc->domain);
	/* A timer implies RCU, but Linux before 6.18 does not see that. */
	bpf_rcu_read_lock();
	if (domc && move_out(cpu, cpuc->domain)) {
		note_work(domc, cpuc->domain);
		kick_idle(domc, cpuc->domain, 1);
	}
	bpf_rcu_read_unlock();
	return 0;
}

#endif /* MANYLAND_HIGHER_CLASS_BPF_H */
