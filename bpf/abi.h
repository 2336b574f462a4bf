/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the BPF side and the Rust side share: the two messages of a domain's pair of queues, and the
 * memory of a domain that both sides see.
 *
 * Invariant: every field has one writer side, which its comment names. What user space writes is
 * checked by BPF before it is used.
 */
#ifndef MANYLAND_ABI_H
#define MANYLAND_ABI_H

#ifndef __VMLINUX_H__
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long long u64;
#endif

enum limits {
	MAX_CPUS = 1024,
	MAX_DOMAINS = 512,
	CPU_WORDS = MAX_CPUS / 64,
	COMM_LEN = 16,
	MEMO_WORDS = 2,
	EXIT_TEXT_LEN = 1024,
	VTIME_RATE_ONE = 1 << 16,
	CROWD_PER_CPU = 8, /* from so many waiting tasks for each CPU on they are a crowd */
	LATENCY_PARTS = 4, /* each power of two of a latency is divided in so many buckets */
	LATENCY_BUCKETS = 64 * LATENCY_PARTS,
};

/*
 * The constants by which both sides go. They stand here only: user space and the simulator use them
 * as `abi::NAME`.
 */

/* The weight of a task of nice 0; weights go from 1 to 10,000. */
static const u32 WEIGHT_NICE_0 = 100;

/* The longest slice that a decision may ask for. */
static const u64 SLICE_MAX_NS = 1000000000;
/* With --strict, the safety net opens after this time all the same. */
static const u64 STALL_NS = 1000000000;
/* A task that has waited for so long goes first. */
static const u64 STARVED_NS = 3000000000;
/* How often a wake-up that was lost in a race is searched for. */
static const u64 HEARTBEAT_NS = 200000000;
/* For so long a decision may stand. */
static const u64 STANDING_NS = 100000000;
/* A parked thread goes before the ready tasks after this time even if it seems to have no work. */
static const u64 PARKED_MAX_NS = 100000000;
/* A thread that runs keeps a CPU waiting for so many times its patience at most. */
static const u32 WORK_PATIENCES = 4;
/* A thread that submits without end is not served for longer than so many drains in a row. */
static const u32 DRAINS_MAX = 4;

/* The virtual time of a task that had a CPU for itself is ahead by so many slices at most. */
static const u32 DEBT_SLICES = 4;
/* So many tasks are checked in one heartbeat, from the end of a queue: others may overtake them. */
static const u32 STARVED_CHECKS_MAX = 32;
/* At most so many tasks of another domain are checked for one to ask for. */
static const u32 ASKS_MAX = 8;

/* A task that has run so many times in a row in the same other domain has its home there. */
static const u32 AWAY_MAX = 4;
/* The same for one that the same other domain has woken so many times in a row. */
static const u32 PULLS_MAX = 8;
/* Loads are evened out when one exceeds the other by this part of it. */
static const u32 LOAD_MARGIN = 4;
/* Tasks that may move from a domain between two heartbeats: so many, or this part of the excess. */
static const s32 MOVES_MIN = 4;
static const u32 MOVES_PART = 4;
/* A load is estimated from so many tasks of a queue, and scaled to its length. */
static const u32 LOAD_SAMPLE = 32;

/* No domain, no CPU. */
enum none {
	NO_DOMAIN = 0xffff,
	NO_CPU = 0xffffffff,
};

enum notice_flags {
	NOTICE_WAKEUP = 1 << 0, /* it woke up or was created, rather than used up its slice */
	NOTICE_BOUND = 1 << 1, /* may run on `cpu` only */
	NOTICE_PART = 1 << 2, /* may not run everywhere in the domain; the message is a struct notice_part */
	NOTICE_ANYWHERE = 1 << 3, /* may run on every CPU of the machine */
};

/*
 * What user space remembers of a task. It comes with a decision, BPF keeps it in the task's local
 * storage and hands it back with the next message, so that user space needs no table of tasks and
 * nothing has to be forgotten when a task ends.
 */
struct carried {
	u64 memo[MEMO_WORDS]; /* the policy's */
	u64 used_ns; /* `notice.used_ns` of the message that was decided */
	u64 switches; /* `notice.switches` of that message */
	u64 at_ns; /* `notice.at_ns` of that message, and what it has waited since; 0: never decided */
};

/* Kernel to domain thread: this task waits for a decision. */
struct notice {
	u32 pid;
	u32 cpu; /* where it ran last */
	u64 seq; /* which stay in the waiting state this is */
	u64 at_ns; /* when it began (the scheduler's clock) */
	u64 used_ns; /* CPU time since it joined, but for what it used while nobody else wanted the CPU */
	u64 burst_ns; /* CPU time since it last slept */
	u64 switches; /* voluntary context switches since it was created */
	u32 weight; /* 1 to 10,000; 100 is nice 0 */
	u16 flags; /* enum notice_flags */
	u16 decided_by; /* the domain of the last decision, or NO_DOMAIN */
	char comm[COMM_LEN];
	u64 cgroup; /* the id of its cgroup in the unified hierarchy; 0: the kernel has no cgroups */
	struct carried carried;
};

/* The same for a task that may use some CPUs only. */
struct notice_part {
	struct notice notice;
	u64 cpus[CPU_WORDS]; /* all that it may use; bits past the machine's CPUs mean nothing */
};

enum decision_flags {
	DECISION_IDLE = 1 << 0, /* `cpu` is meant only if it is still idle */
	DECISION_PREEMPT = 1 << 1, /* what runs on `cpu` is to give way at once */
	DECISION_STANDS = 1 << 2, /* it holds for some of the task's next wake-ups too; needs a pace */
};

/* Domain thread to kernel: run this task. */
struct decision {
	u64 seq;
	u64 slice_ns;
	u64 vtime; /* place among the ready tasks: lower runs earlier */
	u32 pid;
	u32 cpu; /* or NO_CPU: whichever CPU of the domain comes first */
	u32 flags; /* enum decision_flags */
	u32 domain; /* the domain that is to run it */
	u32 vtime_rate; /* how fast `order` grows while it runs, PACE_ONE for 1 a nanosecond; 0: unknown */
	u32 unused;
	u64 max_lag; /* of DECISION_STANDS: its place is so far before the domain's front then, at most */
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

/* Where the domain thread is, as BPF sees it. */
enum thread_state {
	THREAD_ASLEEP = 0, /* nothing waits, or somebody has stopped it */
	THREAD_PARKED = 1, /* runnable, in THREAD(d) */
	THREAD_RUNNING = 2,
	THREAD_PREEMPTED = 3, /* runnable, put aside by a higher scheduling class */
};

/* The memory of one domain. Each group of fields has cache lines of its own. */
struct domain_ctx {
	/* BPF: which of the domain's CPUs are idle; bit `cpu % 64` of word `cpu / 64`. */
	u64 idle[CPU_WORDS];
	u32 nr_idle; /* how many of them there are */

	/* Domain thread: how many decisions it has submitted. */
	u64 submitted __attribute__((aligned(64)));
	/* Set by the domain thread: it is about to sleep; cleared by the message that wakes it. */
	u32 sleeping;

	/* BPF. */
	u64 drained __attribute__((aligned(64))); /* how many of those it has seen */
	u64 state_since_ns; /* since when the thread is in its state */
	u64 called_ns; /* when a message woke it last */
	u32 state; /* enum thread_state */
	u32 ready; /* decided and not yet running, at the last look */
	u32 carried_out; /* decisions since the last drain ended, and how many of them went to READY */
	u32 to_ready;
	u64 starved_since_ns; /* a CPU had nothing to run although tasks waited; 0: none had */
	u64 ready_vtime; /* the order of the last task run from READY */
	u32 has_work; /* there may be tasks in READY or WAITING: worth a look of another domain */
	u64 policy_vtime; /* the largest order of those that have begun to run by a decision, moved on by what the safety net has run */
	u32 keeps_vtime; /* its policy keeps virtual time: a decision had a pace */
	u64 stood_ns; /* when a task was put into READY by a decision that stood */
	s32 ready_boosts; /* so many from READY go before all others */
	u64 patience_ns; /* how long its CPUs wait for the thread now */
	u64 net_vtime; /* where the safety net's own virtual time stands */
	u64 weight; /* of all tasks that run, are ready or wait, at the last look */
	u64 queue_weight; /* the same of those that are ready or wait */
	u64 run_weight; /* and of those that run */
	u32 nr_queued; /* how many were ready or waiting at that look */
	u64 load; /* sum of the weights of running, ready and waiting tasks for each CPU, smoothed */
	u32 move_to; /* the domain that some tasks are to move to */
	s32 moves; /* how many; two CPUs at a time may take it below 0 */
	u64 unnotified_since_ns; /* since when tasks wait that the thread was not told of */
	u32 unnotified; /* how many do */
	u32 waiting; /* filled in by the program `gauge` */
	u32 tasks; /* tasks whose home this is */

	struct domain_counts counts __attribute__((aligned(64)));

	/* BPF, one CPU at a time: how long decisions took, from queued to carried out. */
	u64 latency[LATENCY_BUCKETS] __attribute__((aligned(64)));

	/* Loader, before attach. */
	s32 thread_pid __attribute__((aligned(64)));
	u32 nr_cpus;
} __attribute__((aligned(64)));

/* The other domains, nearest first. Written by the loader, before attach. */
struct neighbours {
	u16 nearest[MAX_DOMAINS];
};

/*
 * One step of the order in which a domain's tasks look for an idle CPU, where there is more than
 * one kind of core. Written by the loader, before attach.
 */
struct preference {
	u32 set; /* the CPUs of one kind in one domain */
	u16 domain; /* where they are */
	u16 rank; /* of that kind: higher is faster */
	u32 whole_core; /* 1: only with all its SMT siblings idle */
};

/* One CPU. The first five are written by the loader, the rest by BPF. */
struct cpu_ctx {
	u32 domain; /* or NO_DOMAIN: offline when the scheduler attached */
	u32 dedicated; /* kept free of tasks for the domain thread */
	u32 set; /* as in `struct preference` */
	u32 rank; /* of its kind: higher is faster */
	u32 sibling; /* the next CPU of its core, and after the last the first again; itself: it has none */
	u32 weight; /* of the task that runs; 0: none of ours */
	u64 own_vtime; /* the order of the last task run from this CPU's own queue */
	u32 served_ns; /* CPU time by decisions or without need of one that the virtual time of its domain's safety net does not have yet */
	u32 undecided_ns; /* the same by the safety net that the domain's front does not have yet */
	u32 net_next; /* whose turn it is while tasks wait untold: 1: the safety net's */
	u32 asked; /* how often it has asked for work */
	u32 asked_before; /* the same at the last heartbeat that found tasks in its own queue */
	u32 running; /* the pid of the task that runs by a decision, or could have; 0: none */
	u32 own_boosts; /* so many from its own queue go before all others */
	u32 own_checks; /* so many looks into its own queue are due: there may be tasks */
} __attribute__((aligned(64)));

/* Why the scheduler left. Written by BPF once, `kind` last. */
struct exit_record {
	u32 kind; /* enum scx_exit_kind; 0: still running */
	u32 unused;
	u64 code;
	char reason[128];
	char message[EXIT_TEXT_LEN];
};

#endif /* MANYLAND_ABI_H */
