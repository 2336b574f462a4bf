/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the BPF side knows: its options, the names of the dispatch queues, the states of a task, and
 * the maps.
 *
 * Invariant: a domain or CPU number that comes out of a map written by the loader is below the
 * map's size; every other number goes through domain_at() or cpu_at(), which may answer NULL.
 */
#ifndef MANYLAND_STATE_BPF_H
#define MANYLAND_STATE_BPF_H

/* Options. The loader sets every one of them before load (src/kernel/load.rs). */
const volatile u32 nr_cpus; /* one more than the highest number of a CPU */
const volatile u32 nr_domains;
const volatile u32 nr_possible_cpus; /* a task with so many allowed CPUs may run everywhere */
const volatile bool smt; /* some core has SMT siblings */
const volatile bool by_kind; /* there are several kinds of core, and a table of preferences */
const volatile bool prefer_slow; /* slower cores are the better ones */
const volatile u32 nr_steps; /* of each domain's list in that table */
const volatile u32 nr_sets; /* of CPUs that the steps name */
const volatile u64 slice_ns; /* the slice of a task that runs without a decision */
const volatile u64 slice_min_ns; /* the same while many wait */
const volatile u64 patience_ns; /* how long a domain thread may keep a CPU waiting */
const volatile u32 standing; /* for so many of a task's next wake-ups a decision may stand */
const volatile bool strict; /* no safety net, no stealing */
const volatile bool no_steal; /* domains do not help each other */
const volatile bool partial; /* only tasks that chose SCHED_EXT are ours */
const volatile s32 scheduler_tgid; /* our own process */
const volatile s32 khugepaged_pid; /* a reclaim thread without a flag of its own; 0: none */

/*
 * The dispatch queues, all ordered by vtime but THREAD. The number of the CPU or domain is in the
 * low bits.
 */
enum dsq_kind {
	DSQ_OWN = 1 << 16, /* decided, for this CPU */
	DSQ_BOUND = 2 << 16, /* waiting, may run on this CPU only */
	DSQ_READY = 3 << 16, /* decided, for any CPU of the domain */
	DSQ_WAITING = 4 << 16, /* waiting */
	DSQ_THREAD = 5 << 16, /* the domain thread itself */
	DSQ_KIND = 0xff << 16,
};

/* What a task runs by. */
enum run_kind {
	RUN_FREE, /* no decision was needed */
	RUN_UNDECIDED, /* the safety net: the decision that it waited for did not come */
	RUN_DECIDED,
};

/*
 * The states of a runnable task, and the functions that lead from one to the next.
 *
 *   wakes up, or gives way
 *      |
 *      +-- bypass(), send(): it has an idle CPU ---------------------------------> running
 *      |                                                                              ^
 *      +-- stand(), resume(): its last decision holds -------------> ready -----------+
 *      |                                                               ^              |
 *      +-- wait_for_decision() --> waiting -- carry_out(): decided ----+              |
 *                                     |                                               |
 *                                     +-- run_waiting(), feed_starved(): undecided ---+
 *
 *   waiting   on WAITING or BOUND; a message names it to the domain thread
 *             waits_on, and decided_seq is not seq yet
 *   ready     on READY or OWN, by a decision (or, as a starved task, without one)
 *             ready_on; if it waited before, waits_on still says where
 *   running   waits_on and ready_on are 0, as they are of a task that sleeps; `turn` says what it
 *   runs by
 *
 * `seq` counts the times that the task has begun to wait or become ready: a decision for an earlier
 * one is stale.
 */
struct task_ctx {
	u64 seq; /* the stay in the waiting state that is or was the last */
	u64 decided_seq; /* the last stay that was decided */
	u64 asked_seq; /* the last stay that another domain was asked to decide */
	u64 runnable_ns; /* when the stay `seq` began */
	u64 used_ns; /* CPU time since it joined, but for what cost nobody anything */
	u64 burst_ns; /* CPU time since it last slept */
	u64 usual_ns; /* what that comes to before it sleeps again, on average, or a slice if that is less */
	u64 started_ns; /* when it was last switched in */
	u64 vtime; /* weighted CPU time: the order of the safety net */
	u32 run_kind; /* the one that it has or had last: enum turn */
	struct carried carried;
	u64 slice_ns; /* the slice, the place in the order and the pace of the last decision */
	u64 policy_vtime;
	u64 policy_vtime_used_ns; /* `used_ns` when that order was given */
	u64 rest_ns; /* what a higher class has left of the slice of a decision */
	u32 vtime_rate; /* 0: it gives way at the end of its slice, as whoever runs without a decision does */
	u32 stands; /* for how many more wake-ups that decision stands */
	u32 stands_weight; /* its weight and the rest that is needed then */
	u64 stands_max_lag;
	u64 stands_since_ns;
	u32 ran_on; /* the CPU that it ran on last; it may wait on the run queue of another one */
	u32 home; /* the domain whose thread decides for it */
	u32 waits_on; /* the queue that stay is or was on, until it runs; 0: it was on none */
	u32 notified; /* the domain that was told of it, or should have been */
	u32 unnotified; /* that domain could not be told: no decision will come */
	u32 ready_on; /* the queue it was moved to by a decision, until it runs */
	u16 decided_by; /* the domain of the last decision, or NO_DOMAIN */
	u16 away_in; /* the domain, not its home, that it ran in last */
	u16 away; /* how many times in a row */
	u16 puller; /* the home, not its own, of the task that woke it last */
	u16 pulls; /* how many times in a row */
	u8 fresh; /* it has started another program since it last woke up */
	u8 free; /* it runs because nobody else wanted the CPU */
	u8 is_thread; /* a domain thread; `home` is its domain */
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct task_ctx);
} tasks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct domain_ctx);
} domains SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct neighbours);
} neighbours_of SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct cpu_ctx);
} cpus SEC(".maps");

/* The CPUs of a domain that tasks may use, as the kernel's helpers want them. */
struct domain_mask {
	struct bpf_cpumask __kptr *mask;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct domain_mask);
} masks SEC(".maps");

/* The lists of all domains, one after the other. Written by the loader, before attach. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct preference);
} preferences SEC(".maps");

/* The CPUs of one kind in one domain, for each set. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct domain_mask);
} set_masks SEC(".maps");

struct notice_ring {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, u32);
	__array(values, struct notice_ring);
} notice_rings SEC(".maps");

struct decision_ring {
	__uint(type, BPF_MAP_TYPE_USER_RINGBUF);
	__uint(max_entries, 4096);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, u32);
	__array(values, struct decision_ring);
} decision_rings SEC(".maps");

/* Tells the main thread that the scheduler has left, so that it need not poll. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} exits SEC(".maps");

struct exit_record exit_record;

/* The timer of the heartbeat (heartbeat.bpf.h), by the kernel's monotonic clock. */
struct heartbeat {
	struct bpf_timer timer;
	u64 due_ns; /* when it should come next */
	u64 late_ns; /* how late it has come lately (domain_thread.bpf.h) */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct heartbeat);
} heartbeats SEC(".maps");

static struct task_ctx *task_ctx(struct task_struct *p)
{
	return bpf_task_storage_get(&tasks, p, NULL, 0);
}

static struct domain_ctx *domain_at(u32 d)
{
	return bpf_map_lookup_elem(&domains, &d);
}

static struct cpu_ctx *cpu_at(s32 cpu)
{
	u32 key = cpu;

	return bpf_map_lookup_elem(&cpus, &key);
}

/* The domain of a CPU, or NO_DOMAIN. */
static u32 domain_of_cpu(s32 cpu)
{
	struct cpu_ctx *cpuc = cpu_at(cpu);

	return cpuc ? cpuc->domain : NO_DOMAIN;
}

/* Whether the task waits for a decision. */
static bool is_waiting(struct task_ctx *taskc)
{
	return taskc->waits_on && taskc->decided_seq != taskc->seq;
}

/* Whether the task is on a queue that CPUs run by decisions. */
static bool is_ready(struct task_ctx *taskc)
{
	return taskc->ready_on;
}

/* Whether the task waits, or has waited until it became ready, in BOUND. */
static bool waits_bound(struct task_ctx *taskc)
{
	return (taskc->waits_on & DSQ_KIND) == DSQ_BOUND;
}

/* Threads that others may be waiting for without knowing it never wait for user space. */
static bool bypasses_user_space(struct task_struct *p)
{
	if (p->flags & PF_KTHREAD && p->nr_cpus_allowed == 1)
		return true;
	return p->flags & (PF_KSWAPD | PF_KCOMPACTD) || (khugepaged_pid && p->pid == khugepaged_pid);
}

/*
 * A task is about to be put into a queue of the domain. The flag spares other domains that have
 * nothing to do the look-up of queues that are empty; the domain's own CPUs do not heed it, and
 * take it back when they find its queues empty. If that happens in the moment before the task is
 * there, others come for it only after the next one.
 */
static void note_work(struct domain_ctx *domc)
{
	if (!READ_ONCE(domc->has_work))
		WRITE_ONCE(domc->has_work, 1);
}

/* After tasks were moved to the own queue of `cpu`: it will look there. */
static void note_own(s32 cpu)
{
	struct cpu_ctx *cpuc = cpu_at(cpu);

	if (cpuc)
		WRITE_ONCE(cpuc->own_checks, 1);
}

/*
 * Puts the first task of a queue that may run on this CPU into the CPU's local queue, and answers
 * whether there was one.
 */
static bool run_from(u64 dsq)
{
	return scx_bpf_dsq_move_to_local(dsq, 0);
}

#endif /* MANYLAND_STATE_BPF_H */
