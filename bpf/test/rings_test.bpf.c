/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The kernel's ends of a pair of rings, for tests/guest/cases/rings.rs. They write notices and read
 * decisions as the scheduler's BPF side does, with records whose every field follows from their
 * number. The last two programs are for benches/, which want tasks rather than patterns.
 *
 * The programs need nothing of sched_ext, so that the test runs on any kernel with BPF.
 */
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>

#include "../abi.h"

char _license[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
} notices SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_USER_RINGBUF);
	__uint(max_entries, 1 << 16);
} decisions SEC(".maps");

/* How far the program `hold` has come (0), and how far it may go (1). */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, u32);
	__type(value, u64);
} steps SEC(".maps");

/* What a program is asked for, and answers. */
struct errand {
	u64 first; /* the number of the first record */
	u64 count; /* how many at most */
	u64 done; /* answer: how many there were */
	u64 wrong; /* answer: how many of those were not what their number says */
};

#define HOLD_MAX_NS 10000000000ULL

static void fill(struct notice *m, u64 n, u16 flags)
{
	u32 i;

	m->pid = n;
	m->cpu = n + 1;
	m->seq = ~n;
	m->at_ns = n + 2;
	m->used_ns = n + 3;
	m->burst_ns = n + 4;
	m->switches = n + 5;
	m->weight = n + 6;
	m->flags = flags;
	m->decided_by = n;
	for (i = 0; i < COMM_LEN; i++)
		m->comm[i] = n + i;
	m->cgroup = n + 10;
	m->group = n + 12;
	m->unused = 0;
	m->vtime = n + 11;
	for (i = 0; i < MEMO_WORDS; i++)
		m->carried.memo[i] = n << i;
	m->carried.used_ns = n + 7;
	m->carried.switches = n + 8;
	m->carried.at_ns = n + 9;
}

static bool write_plain(u64 n)
{
	struct notice *m = bpf_ringbuf_reserve(&notices, sizeof(*m), 0);

	if (!m)
		return false;
	fill(m, n, 0);
	if (n % 11 == 5)
		bpf_ringbuf_discard(m, BPF_RB_NO_WAKEUP);
	else
		bpf_ringbuf_submit(m, BPF_RB_NO_WAKEUP);
	return true;
}

static bool write_part(u64 n)
{
	struct notice_part *m = bpf_ringbuf_reserve(&notices, sizeof(*m), 0);
	u32 i;

	if (!m)
		return false;
	fill(&m->notice, n, NOTICE_PART);
	for (i = 0; i < CPU_WORDS; i++)
		m->cpus[i] = n * (i + 1);
	if (n % 11 == 5)
		bpf_ringbuf_discard(m, BPF_RB_NO_WAKEUP);
	else
		bpf_ringbuf_submit(m, BPF_RB_NO_WAKEUP);
	return true;
}

/* Every third record is a large one, every eleventh is discarded; it ends when the ring is full. */
SEC("syscall")
int write_notices(struct errand *errand)
{
	u64 first = errand->first, done = 0;
	u32 i;

	bpf_for(i, 0, errand->count) {
		if (!((first + i) % 3 ? write_plain(first + i) : write_part(first + i)))
			break;
		done++;
	}
	errand->done = done;
	return 0;
}

static long wait_for_release(u64 index, void *until)
{
	u32 key = 1;
	u64 *released = bpf_map_lookup_elem(&steps, &key);

	return !released || *(volatile u64 *)released || bpf_ktime_get_ns() > *(u64 *)until;
}

/* Writes records `first` and `first + 1`, the second at once, the first when it is released. */
SEC("syscall")
int hold(struct errand *errand)
{
	u64 until = bpf_ktime_get_ns() + HOLD_MAX_NS, n = errand->first;
	struct notice *held;
	u64 *reached;
	u32 key = 0, i;

	reached = bpf_map_lookup_elem(&steps, &key);
	held = bpf_ringbuf_reserve(&notices, sizeof(*held), 0);
	if (!held)
		return 0;
	fill(held, n, 0);
	errand->done = 1 + write_plain(n + 1);
	if (reached)
		*(volatile u64 *)reached = 1;
	bpf_for(i, 0, 1000) {
		if (bpf_loop(1 << 22, wait_for_release, &until, 0) < 1 << 22)
			break;
	}
	bpf_ringbuf_submit(held, BPF_RB_NO_WAKEUP);
	return 0;
}

static bool is_right(const struct decision *d, u64 n)
{
	return d->seq == ~n && d->slice_ns == n + 1 && d->vtime == n + 2 && d->pid == (u32)n &&
	       d->cpu == (u32)n + 3 && d->flags == (u32)n + 4 && d->domain == (u32)n + 5 &&
	       d->vtime_rate == (u32)n + 6 && d->carried.memo[0] == n &&
	       d->carried.memo[1] == n << 1 && d->carried.used_ns == n + 7 &&
	       d->carried.switches == n + 8 && d->carried.at_ns == n + 9;
}

static long read_next(struct bpf_dynptr *message, void *context)
{
	const struct decision *d = bpf_dynptr_data(message, 0, sizeof(*d));
	struct errand *errand = context;

	if (!d || !is_right(d, errand->first + errand->done))
		errand->wrong++;
	errand->done++;
	return errand->done == errand->count;
}

/* Drains up to `count` decisions from the ring. */
SEC("syscall")
int read_decisions(struct errand *errand)
{
	struct errand local = { .first = errand->first, .count = errand->count };

	bpf_user_ringbuf_drain(&decisions, read_next, &local, BPF_RB_NO_WAKEUP);
	errand->done = local.done;
	errand->wrong = local.wrong;
	return 0;
}

/* How many tasks wake up, and on how many CPUs. */
#define TASKS 512
#define CPUS 8

/* Writes notices of tasks that wake up, until there are `count` or the ring is full. */
SEC("syscall")
int queue_tasks(struct errand *errand)
{
	u64 n, done = 0;
	struct notice *m;
	u32 i;

	bpf_for(i, 0, errand->count) {
		m = bpf_ringbuf_reserve(&notices, sizeof(*m), 0);
		if (!m)
			break;
		n = errand->first + i;
		__builtin_memset(m, 0, sizeof(*m));
		m->pid = 1000 + n % TASKS;
		m->cpu = n % CPUS;
		m->seq = n;
		m->at_ns = n * 1000;
		m->used_ns = 100000 + n % 7 * 10000;
		m->switches = 1;
		m->weight = 100;
		m->flags = NOTICE_WAKEUP | NOTICE_ANYWHERE;
		m->carried.at_ns = 1;
		bpf_ringbuf_submit(m, BPF_RB_NO_WAKEUP);
		done++;
	}
	errand->done = done;
	return 0;
}

static long count_decision(struct bpf_dynptr *message, void *context)
{
	const struct decision *d = bpf_dynptr_data(message, 0, sizeof(*d));
	struct errand *errand = context;

	errand->done++;
	errand->wrong += !d || !d->slice_ns;
	return 0;
}

/* Drains all decisions from the ring; one without a slice is wrong. */
SEC("syscall")
int drain_decisions(struct errand *errand)
{
	struct errand local = {};

	bpf_user_ringbuf_drain(&decisions, count_decision, &local, BPF_RB_NO_WAKEUP);
	errand->done = local.done;
	errand->wrong = local.wrong;
	return 0;
}
