/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the BPF side knows: its options, the numbers of the dispatch queues, the states of a task,
 * and the maps.
 *
 * Invariant: a domain or CPU number that comes out of a map written by the loader is below the
 * map's size. Every other number goes through domain_at() or cpu_at(), which may return NULL.
 */
#ifndef MANYLAND_STATE_BPF_H
#define MANYLAND_STATE_BPF_H

/*
 * How options and global state are declared. The simulator compiles this for a thread of each
 * machine and says otherwise.
 */
#ifndef OPTION
#define OPTION const volatile
#define GLOBAL
#endif

/* Options. The loader sets every one of them before load (src/kernel/load.rs). */
OPTION u32 nr_cpus; /* one more than the highest number of a CPU */
OPTION u32 nr_domains;
OPTION u32 nr_possible_cpus; /* a task with as many allowed CPUs may run anywhere */
OPTION u32 nr_offered_cpus; /* CPUs that domains offer; one with fewer may not */
OPTION bool smt; /* some core has SMT siblings */
OPTION bool by_kind; /* there are several kinds of core, and a table of preferences */
OPTION bool prefer_slow; /* slower cores are the better ones */
OPTION u32 nr_steps; /* steps of each domain's list in that table */
OPTION u32 nr_sets; /* sets of CPUs that the steps name */
OPTION u64 slice_ns; /* the slice of a task that runs without a decision */
OPTION u64 slice_min_ns; /* the least slice of such a task while many wait */
OPTION u64 patience_ns; /* how long a domain thread may keep a CPU waiting */
OPTION u32 standing; /* for how many of a task's next wake-ups a decision may stand */
OPTION bool strict; /* no safety net, no stealing */
OPTION bool no_steal; /* domains do not help each other */
OPTION bool no_freq_scaling; /* frequencies are left at what the kernel chose at attach */
OPTION bool short_slices; /* timers end slices that are shorter than a tick (slice_end.bpf.h) */
OPTION bool no_preempt; /* no running task gives way to one that wakes up */
OPTION u32 nr_shards; /* in which groups count their runnable tasks (shares.bpf.h) */
OPTION bool partial; /* only tasks that chose SCHED_EXT are ours */
OPTION u32 nr_dump_pieces; /* how much of an exit's dump is kept, by DUMP_PIECE */
OPTION s32 khugepaged_pid; /* a reclaim thread without a flag of its own; 0: none */

/*
 * The dispatch queues. All except THREAD are sorted by vtime. The number of the CPU, the domain or
 * the part is in the low bits.
 */
enum dsq_kind {
	DSQ_OWN = 1 << 16, /* decided, for this CPU */
	DSQ_BOUND = 2 << 16, /* waiting, may run on this CPU only */
	DSQ_READY =
		3 << 16, /* decided, for any CPU of the domain, or of a part of it (part.bpf.h) */
	DSQ_WAITING = 4 << 16, /* waiting */
	DSQ_THREAD = 5 << 16, /* the domain thread itself */
	/* Not a queue but a CPU's local one: decided, and the running task gives way to it. */
	DSQ_OVERTAKES = 6 << 16,
	DSQ_THROTTLED = 7 << 16, /* their group has used up its CPU time (throttle.bpf.h) */
	DSQ_KIND = 0xff << 16,
};

/* With less than this left of its slice, a run is over. */
#define REST_MIN_NS 50000

/* No part of a domain. */
#define NO_PART 0xffff

/* By what a task runs. */
enum run_kind {
	RUN_FREE, /* no decision was needed */
	RUN_UNDECIDED, /* by the safety net: the decision that it waited for did not come */
	RUN_DECIDED,
};

/* Why a task gives way, if not because its slice has ended (rest.bpf.h, yield.bpf.h). */
enum gives_way {
	GIVES_WAY_NOT = 0,
	GIVES_WAY_TO_WOKEN, /* another task has woken up, or the domain thread (preempt.bpf.h) */
	GIVES_WAY_TO_KTHREAD, /* a thread of the kernel that is bound to its CPU has woken up there */
	GIVES_WAY_TO_CLASS, /* a higher scheduling class has preempted it */
	GIVES_WAY_YIELDS, /* it has yielded */
	GIVES_WAY_TO_YIELDER, /* its slice has ended, and the first of the others has yielded */
};

/* What a task that wakes up goes before, by the choice of ops.select_cpu. */
enum goes_before {
	GOES_BEFORE_NONE = 0,
	GOES_BEFORE_IDLE_CLASS, /* a task of SCHED_IDLE (idle_class.bpf.h) */
	GOES_BEFORE_LATER, /* one with a later key (preempt.bpf.h) */
};

/*
 * The states of a task, and the functions that lead from one to the next.
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
 *   sleeping  `waits_on` and `ready_on` are 0
 *   waiting   on WAITING or BOUND; a notice names it to the domain thread;
 *             `waits_on` is set, and `decided_seq` is not `seq` yet
 *   ready     on READY or OWN, by a decision (or without one, as a starved task);
 *             `ready_on` is set; if it waited before, `waits_on` still says where
 *   running   `waits_on` and `ready_on` are 0; `run_kind` says by what it runs
 *
 * A task has no context if the kernel had no memory for it when the task began. begin_again() tries
 * again each time that it becomes runnable. Until then no thread decides for it, and it is ready at
 * once (run_in_turn).
 *
 * `seq` is the generation: it counts the times that the task has begun to wait or become ready. A
 * decision for an earlier generation is stale.
 */
struct task_ctx {
	u64 seq; /* the generation of the last wait, or of the last time that it became ready */
	u64 decided_seq; /* the last generation that was decided */
	u64 asked_seq; /* the last generation that another domain's thread was asked to decide */
	u64 runnable_ns; /* when the generation `seq` began */
	u64 woken_ns; /* when it woke up; 0: it has run since, or waits for more than a CPU */
	/*
	 * CPU time since it joined, except what cost no other task anything, plus what it gave up
	 * by yielding.
	 */
	u64 used_ns;
	u64 burst_ns; /* CPU time since it last slept */
	u64 usual_ns; /* average CPU time between two sleeps, each counted as a slice at most */
	u64 began_ns; /* when it was last switched in */
	u64 started_ns; /* when it was last switched in, or charged since */
	u64 run_slice_ns; /* its slice then */
	u64 vtime; /* CPU time by weight: its position in the safety net's virtual time */
	u32 run_kind; /* of this run or the last one: enum run_kind */
	struct carried carried;
	u64 slice_ns; /* of the last decision */
	u64 spent_ns; /* CPU time since the last decision */
	u64 policy_vtime; /* the vtime of the last decision, as of the last time that it held */
	u64 policy_vtime_used_ns; /* `used_ns` when `policy_vtime` was written */
	u64 rest_ns; /* what a preemption has left of a decided slice */
	u64 had_ns; /* what it used of its slice before it last gave way to a woken task */
	/* Of a thread of the kernel that is not bound to a CPU (kernel_work.bpf.h). */
	u64 kernel_due_ns; /* from when on it goes before other tasks */
	u64 kernel_used_ns; /* `used_ns` when that was written */
	/*
	 * Of the last decision. 0: the task gives way at the end of its slice, as a task does that
	 * runs without a decision.
	 */
	u32 vtime_rate;
	u32 stands; /* for how many more wake-ups the last decision stands */
	u32 stands_weight; /* the weight that the task must still have then */
	u64 stands_max_lag; /* `max_lag` of that decision */
	u64 stands_since_ns; /* when that decision was carried out */
	u32 ran_on; /* the CPU that it ran on last; it may wait on the run queue of another one */
	u32 home; /* the domain whose thread decides for it */
	/*
	 * The queue on which the generation `seq` waits, or waited until it became ready. 0: it did
	 * not wait, or it has run.
	 */
	u32 waits_on;
	u32 group; /* the slot of its group (groups.bpf.h) */
	u32 weight; /* its effective weight as user space knows it (weigh) */
	u32 counted_weight; /* the weight with which it counts as runnable; 0: it does not */
	u32 counted_at; /* where: an index of `group_loads` */
	u32 limited_by; /* the slot of the nearest limit, of its group or above; 0: there is none */
	u32 limits_as_of; /* `limits_changed` when that was found */
	u32 leased_from; /* while it runs: the slot of the limit that its lease is from; or 0 */
	s64 lease_ns; /* what is left of that lease; below 0: it has used more */
	u64 exec_ns; /* its CPU time by the kernel's account, as far as the lease has paid for it */
	u64 leased_ns; /* when that was, by the clock of limits (limit.bpf.h) */
	u64 granted; /* a lease for its next run, and the slot that it is from (limit.bpf.h); or 0 */
	u64 throttled_ns; /* when it was throttled last, by the clock of limits (limit.bpf.h) */
	u64 limit_vtime; /* CPU time by weight: its position among the throttled tasks of its group */
	u16 in_part; /* one more than the part that it is a user of; 0: of none */
	u32 notified; /* the domain that was notified of it, or should have been */
	u32 unnotified; /* 1: that domain's ring was full, so no decision will come */
	u32 ready_on; /* the queue on which it is ready; 0: it is not */
	u32 sent_on; /* the OWN that it was sent to, until it runs or becomes runnable anew; or 0 */
	u16 decided_by; /* the domain of the last decision, or NO_DOMAIN */
	u16 away_in; /* the domain, not its home, that it ran in last */
	u16 away; /* how many times in a row it ran there */
	u16 puller; /* the home, not its own, of the task that woke it last */
	u16 pulls; /* how many times in a row tasks of that home woke it */
	u8 kept; /* slices that it has got by its last decision, since that (keeps_decision) */
	u8 fresh; /* it has started another program since it last woke up */
	u8 free; /* it runs because no other task wanted the CPU */
	u8 interrupted; /* it has left its CPU for a moment, and goes on there by the same decision */
	u8 yielded; /* it gave way by yielding, and has not run since */
	u8 by_message; /* what made it wake up said that it is about to sleep */
	u8 goes_before; /* enum goes_before: what gives way on the CPU that ops.select_cpu has chosen */
	u8 overtakes; /* by its key running tasks may give way to it: DECISION_OVERTAKES */
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

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct run_delays);
} run_delays SEC(".maps");

/*
 * The CPUs of a domain that tasks may use, in the form that the kernel's helpers need. The mask
 * after those of the domains has the CPUs of all of them.
 */
struct domain_mask {
	struct bpf_cpumask __kptr *mask;
	struct bpf_cpumask __kptr *idle_class; /* those that run tasks of SCHED_IDLE now */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct domain_mask);
} masks SEC(".maps");

/* Some CPUs of a domain, for tasks that may use only these of it (part.bpf.h). */
struct part {
	u32 users; /* tasks; 0: the part is free */
	u32 domain;
	u64 vtime; /* vtime (the policy's unit) of the task last run from its READY */
	struct crowd crowd;
	u64 cpus[CPU_WORDS]; /* all that its tasks may use */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PARTS_MAX);
	__type(key, u32);
	__type(value, struct part);
} parts SEC(".maps");

/*
 * The lists of all domains, `nr_steps` steps each, one after the other. Written by the loader,
 * before attach.
 */
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

/* A message tells the main thread that the scheduler has left, so that it need not poll. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} exits SEC(".maps");

GLOBAL struct exit_record exit_record;

/* 1: a domain thread may be away, so CPUs of other domains check (away.bpf.h). */
GLOBAL u32 any_away;
/* A task of SCHED_IDLE has run (idle_class.bpf.h). */
GLOBAL bool has_idle_class;

/* The timer of the heartbeat (heartbeat.bpf.h), by the kernel's monotonic clock. */
struct heartbeat {
	struct bpf_timer timer;
	u64 due_ns; /* when it should come next */
	u64 once_ns; /* the greatest lateness of the last heartbeats: lateness() (domain_thread.bpf.h) */
	u64 lateness_ns; /* the one after that */
	u64 ticks; /* how many ticks the kernel had counted at the last one */
	u64 ticks_at_ns; /* when that was */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct heartbeat);
} heartbeats SEC(".maps");

/* A timer for what cannot wait for a tick (alarm.bpf.h). */
struct slice_alarm {
	struct bpf_timer timer;
	u64 due_ns; /* when it rings; 0: it is not set */
};

/* Those of the CPUs first, then those of the domains. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct slice_alarm);
} alarms SEC(".maps");

/* The timer that releases throttled tasks (throttle.bpf.h). */
struct release_timer {
	struct bpf_timer timer;
	u64 due_ns; /* when it comes next; 0: it does not */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct release_timer);
} release_timers SEC(".maps");

static struct task_ctx *task_ctx(struct task_struct *p)
{
	return bpf_task_storage_get(&tasks, p, NULL, 0);
}

/*
 * The context of `p`, with memory for it if it has none yet. NULL: there was none. The kernel draws
 * on a pool of its own and waits for nothing. It charges the memory cgroup of the process that has
 * loaded the scheduler.
 */
static struct task_ctx *new_task_ctx(struct task_struct *p)
{
	return bpf_task_storage_get(&tasks, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
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

static bool is_waiting(struct task_ctx *taskc)
{
	return taskc->waits_on && taskc->decided_seq != taskc->seq;
}

static bool is_ready(struct task_ctx *taskc)
{
	return taskc->ready_on;
}

/* Whether the task waits, or has waited until it became ready, in BOUND. */
static bool waits_bound(struct task_ctx *taskc)
{
	return (taskc->waits_on & DSQ_KIND) == DSQ_BOUND;
}

/*
 * Whether `p` is a thread that others may wait for without knowing it. Such a thread never waits
 * for user space.
 */
static bool bypasses_user_space(struct task_struct *p)
{
	if (p->flags & PF_KTHREAD && p->nr_cpus_allowed == 1)
		return true;
	return p->flags & (PF_KSWAPD | PF_KCOMPACTD) ||
	       (khugepaged_pid && p->pid == khugepaged_pid);
}

/* Whether a task that may run on `cpu` only waits there, or one is ready there. */
static bool has_tasks_of_its_own(s32 cpu)
{
	return scx_bpf_dsq_nr_queued(DSQ_BOUND | cpu) > 0 ||
	       scx_bpf_dsq_nr_queued(DSQ_OWN | cpu) > 0;
}

/* Tasks were moved to OWN of `cpu`: makes the CPU check that queue. */
static void note_own(s32 cpu)
{
	struct cpu_ctx *cpuc = cpu_at(cpu);

	if (cpuc)
		WRITE_ONCE(cpuc->own_due, 1);
}

/* Whether OWN of a CPU may hold tasks, or will in a moment. */
static bool may_have_own(struct cpu_ctx *cpuc)
{
	return READ_ONCE(cpuc->own_due) || READ_ONCE(cpuc->own_sent);
}

/* The task runs, has become runnable anew or leaves: it is not in the OWN that it was sent to. */
static void settle_sent(struct task_ctx *taskc)
{
	struct cpu_ctx *cpuc;

	if (!taskc->sent_on)
		return;
	cpuc = cpu_at(taskc->sent_on & ~DSQ_KIND);
	if (cpuc)
		__sync_fetch_and_sub(&cpuc->own_sent, 1);
	taskc->sent_on = 0;
}

/*
 * Moves the first task of a queue that may run on this CPU into the CPU's local queue. Returns
 * whether there was one.
 */
static bool run_from(u64 dsq)
{
	return scx_bpf_dsq_move_to_local(dsq, 0);
}

#endif /* MANYLAND_STATE_BPF_H */
