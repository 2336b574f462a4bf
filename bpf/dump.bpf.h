/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the scheduler thought, for the kernel's dump: each domain, each CPU, each runnable task. The
 * kernel makes a dump when it ends the scheduler for an error, and at SysRq-D.
 *
 * Invariant: nothing here has a lock, loops further than over the domains, or writes what others
 * read. Numbers that change meanwhile may not agree with each other.
 */
#ifndef MANYLAND_DUMP_BPF_H
#define MANYLAND_DUMP_BPF_H

#include "state.bpf.h"

/* Microseconds from `then` to `now`; 0 if it never was, or the clocks of two CPUs differ. */
static u64 us_since(u64 then, u64 now)
{
	return then && (s64)(now - then) > 0 ? (now - then) / 1000 : 0;
}

/* The name of a state if it is that one. A switch would become a table of pointers. */
#define NAMED(state, value, name) ((state) == (value) ? (name) : "")

/* A function of its own: the verifier checks it once, not for each domain. */
static __noinline int dump_domain(u32 d, u64 now)
{
	struct domain_ctx *domc = domain_at(d);
	void *ring = bpf_map_lookup_elem(&notice_rings, &d);
	u64 unread = ring ? bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA) : 0;

	if (!domc)
		return 0;
	scx_bpf_dump("domain %u: tasks %u, waiting %d, ready %d, unnotified %u, idle CPUs %u\n", d,
		     domc->tasks, scx_bpf_dsq_nr_queued(DSQ_WAITING | d),
		     scx_bpf_dsq_nr_queued(DSQ_READY | d), domc->unnotified, domc->nr_idle);
	scx_bpf_dump(
		"  thread: %s%s%s%s for %llu us, called %llu us ago, away %u, patience %llu us\n",
		NAMED(domc->state, THREAD_ASLEEP, "asleep"),
		NAMED(domc->state, THREAD_PARKED, "parked"),
		NAMED(domc->state, THREAD_RUNNING, "running"),
		NAMED(domc->state, THREAD_PREEMPTED, "preempted"),
		us_since(domc->state_since_ns, now), us_since(domc->called_ns, now), domc->away,
		domc->patience_ns / 1000);
	/*
	 * The thread had drained all when it went to sleep, and the first notice after that called
	 * it.
	 */
	scx_bpf_dump("  notices: %llu bytes unread, the oldest %llu us old at most\n", unread,
		     unread ? us_since(domc->called_ns, now) : 0);
	scx_bpf_dump("  decisions: %llu submitted, %llu drained; starved for %llu us, load %llu\n",
		     domc->submitted, domc->nr_drained, us_since(domc->starved_since_ns, now),
		     domc->load);
	return 0;
}

void BPF_STRUCT_OPS(manyland_dump, struct scx_dump_ctx *dctx)
{
	u64 now = scx_bpf_now();
	u32 d;

	scx_bpf_dump("manyland: %u domains, slice %llu us, strict %d, no_steal %d\n", nr_domains,
		     slice_ns / 1000, strict, no_steal);
	bpf_for(d, 0, nr_domains)
		dump_domain(d, now);
}

/* A CPU that is idle and has no tasks is not in the dump: the kernel leaves it out then. */
void BPF_STRUCT_OPS(manyland_dump_cpu, struct scx_dump_ctx *dctx, s32 cpu, bool idle)
{
	struct cpu_ctx *cpuc = cpu_at(cpu);
	s32 own = scx_bpf_dsq_nr_queued(DSQ_OWN | cpu);
	s32 bound = scx_bpf_dsq_nr_queued(DSQ_BOUND | cpu);

	if (!cpuc || (idle && own <= 0 && bound <= 0))
		return;
	scx_bpf_dump("  manyland: domain %u, runs pid %u, own %d, bound %d, own_due %u, own_sent "
		     "%u, asked %u\n",
		     cpuc->domain, cpuc->running, own, bound, cpuc->own_due, cpuc->own_sent,
		     cpuc->asked);
}

static const char *task_state_name(struct task_ctx *taskc)
{
	if (taskc->is_thread)
		return "domain thread";
	if (is_waiting(taskc))
		return "waiting";
	return is_ready(taskc) ? "ready" : "runs or is sent";
}

void BPF_STRUCT_OPS(manyland_dump_task, struct scx_dump_ctx *dctx, struct task_struct *p)
{
	struct task_ctx *taskc = task_ctx(p);
	u64 now = scx_bpf_now();

	if (!taskc) {
		scx_bpf_dump("      manyland: unstored\n");
		return;
	}
	scx_bpf_dump("      manyland: %s, home %u, since %llu us, generation %llu (decided %llu), "
		     "vtime %llu\n",
		     task_state_name(taskc), taskc->home, us_since(taskc->runnable_ns, now),
		     taskc->seq, taskc->decided_seq, taskc->vtime);
	scx_bpf_dump("      on queues 0x%x, 0x%x; notified domain %u%s; run kind %u, last decision "
		     "%llu us, stands %u\n",
		     taskc->waits_on, taskc->ready_on, taskc->notified,
		     taskc->unnotified ? " (its ring was full)" : "", taskc->run_kind,
		     taskc->slice_ns / 1000, taskc->stands);
}

/*
 * The dump of an exit, in pieces of DUMP_PIECE bytes. Written by BPF once, before `exit_record.kind`.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct dump_piece);
} exit_dump SEC(".maps");

static void record_dump(struct scx_exit_info *info)
{
	struct dump_piece *piece;
	u32 i;

	bpf_for(i, 0, nr_dump_pieces) {
		piece = bpf_map_lookup_elem(&exit_dump, &i);
		if (piece)
			bpf_probe_read_kernel(piece->text, sizeof(piece->text),
					      info->dump + i * DUMP_PIECE);
	}
}

#endif /* MANYLAND_DUMP_BPF_H */
