/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the BPF side and the Rust side share: constants, the two messages of a domain's pair of
 * rings, and the memory of a domain that both sides map.
 *
 * Invariant: every field except `sleeping` has one writer side, which its comment or that of its
 * group names. BPF checks what user space writes before it uses it.
 */
#ifndef MANYLAND_ABI_H
#define MANYLAND_ABI_H

#ifndef __VMLINUX_H__
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int s32;
typedef long long s64;
typedef unsigned long long u64;
#endif

enum limits {
	MAX_CPUS = 1024,
	MAX_DOMAINS = 512,
	CPU_WORDS = MAX_CPUS / 64,
	DOMAIN_WORDS = MAX_DOMAINS / 64,
	RUNS_MAX = 8, /* runs of numbers in a list of neighbours */
	GROUPS_MAX = 8192, /* cgroups with a slot of their own (groups.bpf.h) */
	THROTTLED_QUEUES = 256, /* queues of throttled tasks (throttle.bpf.h) */
	PARTS_MAX = 64, /* sets of CPUs, each a part of a domain, that have queues of their own */
	COMM_LEN = 16,
	MEMO_WORDS = 2,
	EXIT_TEXT_LEN = 1024,
	DUMP_PIECE = 4096, /* bytes of a piece of an exit's dump */
	VTIME_RATE_ONE = 1 << 16, /* the rate of 1 for each nanosecond */
	CROWD_PER_CPU = 8, /* with more waiting tasks for each CPU there is a crowd */
	LATENCY_PARTS = 4, /* buckets for each power of two of a latency */
	LATENCY_BUCKETS = 64 * LATENCY_PARTS,
	CAPACITY_ONE = 64, /* the capacity of a CPU that no higher scheduling class runs on */
};

/*
 * The constants that both sides obey. They stand here only: user space and the simulator use them
 * as `abi::NAME`.
 */

/* The weight of a task of nice 0; a task's own weight and a group's go from 1 to 10,000. */
static const u32 WEIGHT_NICE_0 = 100;
/* The largest effective weight of a task: a group of one task may outweigh one of thousands. */
static const u32 WEIGHT_MAX = 1000000;

/* The longest slice that a decision may ask for. */
static const u64 SLICE_MAX_NS = 1000000000;
/* How long --strict keeps the safety net closed. */
static const u64 STALL_NS = 1000000000;
/* A task that has waited for this time runs before all others. */
static const u64 STARVED_NS = 3000000000;
/* The time between two heartbeats, each of which searches for wake-ups lost in a race. */
static const u64 HEARTBEAT_NS = 200000000;
/* How long a decision may stand. */
static const u64 STANDING_NS = 100000000;
/* A parked thread runs before the ready tasks after this time, even if it seems to have no work. */
static const u64 PARKED_MAX_NS = 100000000;
/* A thread that has been parked for this time is away (enum away). */
static const u64 AWAY_NS = 200000000;
/* The most domains whose thread may be away that a CPU checks when it asks for work. */
static const u32 AWAY_CHECKS_MAX = 4;
/* A running thread keeps a CPU waiting for this multiple of its patience at most. */
static const u32 WORK_PATIENCES = 4;
/*
 * The most decisions that a CPU carries out at once, with interrupts off. The next CPU that asks
 * for work goes on.
 */
static const u32 DRAIN_MAX = 32;
/* The most drains in a row that a CPU makes for a thread that submits without end. */
static const u32 DRAINS_MAX = 4;

/*
 * A task gives way to one that wakes up only after it has run for this time: as long as that usually
 * runs for, and within these limits.
 */
static const u64 PROTECTED_MIN_NS = 100000;
static const u64 PROTECTED_MAX_NS = 500000;
/* A thread that has begun to run within this time makes no task give way for its notices, */
static const u64 HURRY_NS = 1000000;
/* and within this time not for those of tasks that a message made wake up. */
static const u64 HURRY_MESSAGE_NS = 4000000;
/* With as many waiting tasks for each CPU timers end slices that are shorter than a tick. */
static const u32 SHORT_SLICES_PER_CPU = 1000;
/* How much later its key must be at least, besides what the woken task usually runs for. */
static const u64 PREEMPTION_MARGIN_NS = 250000;
/* The tasks of a CPU give way once in this time on average, */
static const u64 PREEMPTION_NS = 500000;
/* for a message once in this time, */
static const u64 MESSAGE_NS = 2000000;
/* and this many times in a row at most. */
static const u32 PREEMPTIONS_MAX = 5;

/* The most slices by which the vtime of a task that ran alone is ahead of `net_vtime`. */
static const u32 DEBT_SLICES = 4;
/* The most tasks of a queue, from its end, that a heartbeat checks: others may overtake those. */
static const u32 STARVED_CHECKS_MAX = 32;
/* The most tasks of another domain that a CPU checks to ask for one of them. */
static const u32 ASKS_MAX = 8;

/* Runs in a row in one other domain, after which a task has its home there. */
static const u32 AWAY_MAX = 4;
/* Wake-ups in a row by tasks of one other domain, after which a task has its home there. */
static const u32 PULLS_MAX = 8;
/* Two loads are evened out when they differ by more than the larger one divided by this. */
static const u32 LOAD_MARGIN = 4;
/*
 * Tasks that may leave a domain between two heartbeats: the excess divided by MOVES_PART, and
 * MOVES_MIN at least.
 */
static const s32 MOVES_MIN = 4;
static const u32 MOVES_PART = 4;
/* The most tasks that leave a domain whose CPUs higher scheduling classes have, each heartbeat. */
static const u32 STRANDED_MAX = 32;
/* The most tasks of a queue from which its weight is estimated. */
static const u32 LOAD_SAMPLE = 32;

/*
 * Of how many sets of CPUs that are parts of one domain there are queues (PARTS_MAX in all), and
 * among how many a set is searched for.
 */
static const u32 PARTS_PER_DOMAIN = 16;
static const u32 PART_PROBES = 8;

/* No domain, no CPU. */
enum none {
	NO_DOMAIN = 0xffff,
	NO_CPU = 0xffffffff,
};

enum notice_flags {
	NOTICE_WAKEUP = 1 << 0, /* it woke up or was created, rather than used up its slice */
	NOTICE_BOUND = 1 << 1, /* it may run on `cpu` only */
	NOTICE_PART = 1 << 2, /* it may not use all CPUs of the domain: a struct notice_part */
	NOTICE_ANYWHERE = 1 << 3, /* it may run on every CPU that domains offer */
};

/*
 * What user space remembers of a task. The domain thread writes it into a decision. BPF keeps it in
 * the task's local storage and hands it back with the next notice. So user space needs no table of
 * tasks, and has nothing to forget when a task ends.
 */
struct carried {
	u64 memo[MEMO_WORDS]; /* the policy's */
	u64 used_ns; /* `used_ns` of the notice that was decided */
	u64 switches; /* `switches` of that notice */
	/*
	 * `at_ns` of that notice, plus the time that the task has waited since (which BPF adds). 0:
	 * it has had no decision.
	 */
	u64 at_ns;
};

/* Kernel to domain thread: this task waits for a decision. Written by BPF. */
struct notice {
	u32 pid;
	u32 cpu; /* the CPU that it is bound to, or else ran on last */
	u64 seq; /* the generation: which wait of the task this is */
	u64 at_ns; /* when the wait began, by the scheduler's clock */
	/*
	 * CPU time since it joined, except what it used while no other task wanted the CPU, plus
	 * what it gave up by yielding.
	 */
	u64 used_ns;
	u64 burst_ns; /* CPU time since it last slept */
	u64 switches; /* voluntary context switches since it was created */
	u32 weight; /* its effective weight: 1 to WEIGHT_MAX; 100 is nice 0 in the root group */
	u16 flags; /* enum notice_flags */
	u16 decided_by; /* the domain of the last decision, or NO_DOMAIN */
	char comm[COMM_LEN];
	u64 cgroup; /* id of its cgroup in the unified hierarchy; 0: the kernel has no cgroups */
	u32 group; /* its slot in the map `groups`, of the nearest that has the CPU controller */
	u32 unused;
	/*
	 * The policy's virtual time of the crowd that the task is of (crowd.bpf.h). 0: the domain's
	 * counts.
	 */
	u64 vtime;
	struct carried carried;
};

/* The notice of a task that may use a part of the domain's CPUs. Written by BPF. */
struct notice_part {
	struct notice notice;
	u64 cpus[CPU_WORDS]; /* all that it may use; bits past the machine's CPUs mean nothing */
};

enum decision_flags {
	DECISION_IDLE = 1 << 0, /* `cpu` is meant only if it is still idle */
	DECISION_PREEMPT = 1 << 1, /* the task that runs on `cpu` gives way at once */
	DECISION_STANDS = 1 << 2, /* it holds for some later wake-ups too; needs a vtime rate */
	/* At a later wake-up a running task may give way to it by its key; needs a vtime rate. */
	DECISION_OVERTAKES = 1 << 3,
};

/* Domain thread to kernel: run this task. Written by the domain thread. */
struct decision {
	u64 seq; /* the generation that is decided: `seq` of the notice */
	u64 slice_ns;
	u64 vtime; /* the key among the ready tasks, in the policy's unit: lower runs earlier */
	u32 pid;
	u32 cpu; /* or NO_CPU: the first CPU of the domain that asks for work */
	u32 flags; /* enum decision_flags */
	u32 domain; /* the domain that is to run it */
	/*
	 * How much `vtime` grows in a nanosecond of CPU time, times VTIME_RATE_ONE. 0: the task
	 * gives way at the end of its slice.
	 */
	u32 vtime_rate;
	u32 unused;
	/*
	 * With DECISION_STANDS: how much less than the policy's virtual time the task's vtime may
	 * be at a later wake-up, in units of `vtime`.
	 */
	u64 max_lag;
	struct carried carried;
};

/* What a domain counts, from attach on: the counters of statistics.def. Written by BPF. */
struct domain_counts {
#define DOMAIN(kind, name, meaning) DOMAIN_##kind(name)
#define DOMAIN_COUNTER(name) u64 name;
#define DOMAIN_GAUGE(name)
#define DOMAIN_LATENCY(name)
#define PROCESS(kind, name, meaning)
#include "statistics.def"
#undef DOMAIN
#undef DOMAIN_COUNTER
#undef DOMAIN_GAUGE
#undef DOMAIN_LATENCY
#undef PROCESS
};

/* The state of the domain thread, as BPF sees it (drawn in domain_thread.bpf.h). */
enum thread_state {
	THREAD_ASLEEP = 0, /* nothing waits, or it was stopped from outside */
	THREAD_PARKED = 1, /* runnable, in THREAD(d) */
	THREAD_RUNNING = 2,
	THREAD_PREEMPTED = 3, /* runnable, preempted by a higher scheduling class */
};

/* Why the domain thread is away: CPUs of other domains run it too. */
enum away {
	AWAY_CONFINED = 1 << 0, /* it may not use any CPU of its domain */
	AWAY_LEFT = 1 << 1, /* the CPUs of its domain have not asked for work for AWAY_NS */
};

/*
 * The memory of one domain. Each group of fields has cache lines of its own. Times are nanoseconds
 * of the scheduler's clock.
 */
struct domain_ctx {
	/*
	 * Written by BPF: which of the domain's CPUs are idle (bit `cpu % 64` of word `cpu / 64`),
	 * and how many.
	 */
	u64 idle[CPU_WORDS];
	u32 nr_idle;

	/* Written by the domain thread: how many decisions it has submitted. */
	u64 submitted __attribute__((aligned(64)));
	/*
	 * Written by both sides: the domain thread sets it when it is about to sleep, BPF clears it
	 * when a notice wakes the thread.
	 */
	u32 sleeping;

	/* Written by BPF, up to `tasks`. */

	/* The decisions of which CPUs have found the end: `submitted` at the time. */
	u64 drained __attribute__((aligned(64)));
	u64 nr_drained; /* how many decisions CPUs have drained */
	u64 state_since_ns; /* since when the thread is in its state */
	u64 called_ns; /* when a notice last woke it */
	u32 state; /* enum thread_state */
	u32 away; /* enum away; 0: the thread runs in its domain */
	/* One more than the dedicated CPU, if tasks that are bound to it want it as well; or 0. */
	u32 shared_cpu;
	u32 ready; /* tasks in READY when they were last counted */
	u32 carried_out; /* decisions carried out since the last drain ended */
	u32 to_ready; /* those of them that moved a task to READY */
	/* Since when a CPU has had nothing to run although tasks waited; 0: none has. */
	u64 starved_since_ns;
	u64 ready_vtime; /* vtime (the policy's unit) of the task last run from READY */
	/* 1: READY or WAITING may hold tasks: the domain is in `working_domains` (domain_set.bpf.h). */
	u32 has_work;
	u64 parts; /* the parts of the domain that tasks use, one bit each (part.bpf.h) */
	/*
	 * The policy's virtual time, in its unit: the largest vtime of all decided tasks that have
	 * begun to run, advanced by what the safety net has run.
	 */
	u64 policy_vtime;
	u32 keeps_vtime; /* 1: its policy keeps virtual time, as a decision had a vtime rate */
	u64 stood_ns; /* when a task last became ready by an earlier decision (standing.bpf.h) */
	s32 ready_boosts; /* how many tasks from READY run before all others */
	u64 patience_ns; /* how long its CPUs wait for the thread now */
	u64 net_vtime; /* the safety net's virtual time, in nanoseconds of a task of nice 0 */
	u64 weight; /* sum of the weights of running, ready and waiting tasks, at the last sample */
	u64 queue_weight; /* the part of it that is ready or waits */
	u64 run_weight; /* the part of it that runs */
	u64 load_weight; /* what these tasks count for `load` */
	u32 nr_queued; /* how many tasks were ready or waiting at the last sample */
	u64 load; /* `load_weight` for each CPU of `capacity`, averaged over the last samples */
	u32 taken; /* CPUs on which a higher scheduling class seemed to run, at the last sample */
	u32 capacity; /* what higher scheduling classes leave of its CPUs, averaged likewise */
	u32 asks; /* how often its CPUs had asked for work at the last sample */
	u32 asks_now; /* the same, while the sample is not complete */
	u32 open; /* CPUs that are idle or run a task of ours, at the last sample */
	u32 stranded; /* 1: its CPUs have not asked since the sample before, but run other classes */
	u32 move_to; /* the domain that some tasks are to move to */
	s32 moves; /* how many; two CPUs at the same time may count it below 0 */
	u64 unnotified_since_ns; /* since when it has had unnotified tasks */
	/* 1: the thread is to decide for a task to which a running one would give way (preempt.bpf.h) */
	u32 urgent;
	u32 hurried; /* 1: a task gives way to the parked thread for its sake */
	u64 activated_ns; /* when the thread was last switched in */
	u64 urgent_vtime; /* if that has come past this key, */
	u64 urgent_protected_ns; /* and has run for this time */
	u32 nr_idle_class; /* CPUs that run tasks of SCHED_IDLE (idle_class.bpf.h) */
	u32 unnotified; /* how many tasks wait of which the thread could not be notified */
	u32 waiting; /* tasks that wait for a decision, when the program `gauge` last ran */
	u32 tasks; /* how many tasks have their home here */

	/* Written by BPF. */
	struct domain_counts counts __attribute__((aligned(64)));

	/*
	 * Written by BPF, by one CPU at a time: how many decisions had a latency in each bucket. A
	 * latency lasts from the notice of a task to its decision, carried out.
	 */
	u64 latency[LATENCY_BUCKETS] __attribute__((aligned(64)));

	/* Written by the loader, before attach. */
	u32 nr_cpus __attribute__((aligned(64)));
} __attribute__((aligned(64)));

/* The other domains, nearest first. Written by the loader, before attach. */
struct neighbours {
	u16 nearest[MAX_DOMAINS];
	/*
	 * The same list, cut where a number is less than the one before it: one bit for each domain
	 * of such a run. The last run may have all that is left.
	 */
	u32 nr_runs;
	u64 runs[RUNS_MAX][DOMAIN_WORDS];
};

/*
 * One step of a domain's preferences: where its tasks search for an idle CPU, on machines with more
 * than one kind of core. Written by the loader, before attach.
 */
struct preference {
	u32 set; /* the CPUs of one kind in one domain */
	u16 domain; /* the domain of that set */
	u16 rank; /* of that kind: higher is faster */
	u32 whole_core; /* 1: only a CPU whose SMT siblings are all idle */
};

/* The virtual times of the tasks that may use the same CPUs only (crowd.bpf.h). Written by BPF. */
struct crowd {
	u64 policy_vtime, net_vtime;
};

/* One CPU. */
struct cpu_ctx {
	/* Written by the loader, before attach. */

	u32 domain; /* or NO_DOMAIN: offline or isolated when the scheduler attached */
	u32 dedicated; /* 1: kept free of tasks for the domain thread */
	u32 set; /* as in `struct preference` */
	u32 rank; /* of its kind: higher is faster */
	u32 sibling; /* the next CPU in the circle of its core's CPUs; itself: it has no sibling */

	/* Written by BPF. */

	u32 weight; /* of the task that runs; 0: none of ours */
	u64 own_vtime; /* vtime (the policy's unit) of the task last run from OWN */
	struct crowd bound; /* of the tasks that may run on it only */
	/*
	 * CPU time of tasks that were decided or needed no decision, not yet added to the domain's
	 * `net_vtime`.
	 */
	u32 served_ns;
	u32 undecided_ns; /* CPU time of undecided tasks, not yet added to `policy_vtime` */
	/* While there are unnotified tasks: 1: the current dispatch is the safety net's. */
	u16 net_next;
	u16 gives_way; /* enum gives_way: of the task that runs, and is about to leave the CPU */
	u32 brief; /* how many interruptions in a row were brief, up to BRIEF_MIN */
	u64 interrupted_ns; /* when a higher scheduling class preempted it; 0: it has asked since */
	u32 asked; /* how often it has asked for work */
	u32 asked_before; /* `asked` at the last heartbeat that found tasks in OWN or BOUND */
	u32 emptied_at; /* `asked` when it last emptied its local queue (higher_class.bpf.h) */
	u32 emptied; /* how often it has emptied that queue since it last asked for work */
	u32 running; /* the pid of the task that runs, if user space decides for it; 0: none */
	u32 runs_bound; /* 1: the task that runs may run on it only */
	u32 own_boosts; /* how many tasks from OWN run before all others */
	u32 own_due; /* 1: a check of OWN is due, since tasks were moved there */
	u64 sampled_ns; /* when its utilisation was sampled last */
	u64 busy_since_ns; /* since when its task runs, or its time was last added; 0: none runs */
	u64 busy_ns; /* what tasks have run here since the last sample */
	u32 utilisation; /* a decayed average of the time in which it ran tasks (frequency.bpf.h) */
	u32 frequency; /* what it has asked for last, of SCX_CPUPERF_ONE */
	u32 own_sent; /* how many tasks were sent to OWN, or are on the way, and have not run yet */
	u32 limited_by; /* the slot that limited the task that stopped last; 0: none did */
	u32 idle_class; /* 1: it runs a task of SCHED_IDLE */

	/* Written by BPF for the wake-ups of other CPUs (preempt.bpf.h). */

	u64 run_vtime __attribute__((aligned(64))); /* the key of the running task at `run_ns` */
	u64 run_ns; /* when its slice began; while `run_rate` is 0, since when that is so */
	u64 slice_began_ns; /* when its slice would have begun, had it run without a break */
	u64 protected_ns; /* how long it runs at least before it gives way */
	u64 preemptions_ns; /* the CPU's budget is used up until about this time */
	u64 slice_ends_ns; /* when its slice ends, if that is shorter than a tick; or 0 (slice_end.bpf.h) */
	u32 run_rate; /* how its key grows, as a vtime rate; 0: nothing that may give way runs */
	u32 short_ns; /* slices that are shorter than this end by its alarm; 0: all end at ticks */
} __attribute__((aligned(64)));

/*
 * How many tasks that began to run on a CPU after a wake-up had waited for a time in each bucket.
 * Written by BPF, under the lock of the CPU's run queue.
 */
struct run_delays {
	u64 counts[LATENCY_BUCKETS];
} __attribute__((aligned(64)));

/* A cgroup that has the CPU controller. Written by BPF (groups.bpf.h). */
struct group {
	u64 id; /* of its cgroup, as in `struct notice`; 0: the slot is free */
	u32 parent; /* the slot of its parent, or of the next free slot */
	u32 level; /* how far below the root */
	u32 generation; /* how many groups have had the slot before */
	u32 weight; /* cpu.weight: 1 to 10,000 */
	u32 idle; /* 1: cpu.idle */
	u32 below_idle; /* 1: it is idle, or a group above it is */
	u32 tasks; /* tasks in it, not in groups below */
	u32 runnable; /* those of them that count as runnable, when the program `gauge` last ran */
	u32 throttled; /* 1: it has used up its CPU time, and a task wants more */
	u64 share; /* of the machine, that its own runnable tasks are due; 2^32: all of it */
	u64 factor; /* their effective weights over their own ones, times 2^16; 0: not known yet */
	u64 quota_ns; /* cpu.max; 0: no limit */
	u64 period_ns;
	u64 burst_ns;
	u64 ran_before_ns; /* CPU time of tasks of groups that had the slot before */
	u64 ran_ns; /* CPU time of its own tasks, when `gauge` last ran */
	u64 throttles; /* how often it had used up its CPU time, then */
	u64 throttled_ns; /* for how long, then */
} __attribute__((aligned(64)));

/*
 * How much CPU time a group may still use (limit.bpf.h), in the slot of the group. Written by BPF.
 * What is not 0 in a group without a limit is of a limit that it had.
 */
struct limit {
	s64 pool_ns; /* what it may still use in this period; below 0: it has used more */
	u64 due_ns; /* when the period ends, and the quota is added to the pool */
	u64 quota_ns; /* 0: the group has no limit, or one that the CPUs cannot exceed */
	u64 period_ns;
	u64 burst_ns;
	u32 above; /* the slot of the nearest limit above */
	u32 above_as_of; /* `limits_changed` when `above` was found */
	u32 queue; /* the number of its queue of throttled tasks */
	u32 slot; /* its own */
	u64 vtime; /* the virtual time of its throttled tasks: the key of the last released */

	u64 serve_ns __attribute__((aligned(64))); /* when the timer serves the group next */
	u64 search_ns; /* when its queue is searched next for tasks throttled for long */
	u64 throttled_at_ns; /* when a task of the group was last throttled */
	u64 throttled_since_ns; /* since when the pool is empty and a task wants CPU time; or 0 */
	u64 throttled_ns; /* for how long that was so, before */
	u64 throttles; /* how often that began */
} __attribute__((aligned(64)));

/* The context of the program `mark_thread`. Written by the domain thread that runs it. */
struct thread_mark {
	u32 domain;
};

/* A piece of the kernel's dump at an exit. */
struct dump_piece {
	char text[DUMP_PIECE];
};

/* Why the scheduler left. Written by BPF once, `kind` last. */
struct exit_record {
	u32 kind; /* enum scx_exit_kind; 0: still running */
	u32 unused;
	u64 code;
	char reason[128];
	char message[EXIT_TEXT_LEN];
};

#endif /* MANYLAND_ABI_H */
