/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The kernel and libbpf as far as bpf/ uses them, for a native compiler. It is found before the
 * header of this name that is for BPF, so bpf/main.bpf.c compiles into the simulator as it is.
 *
 * What only reads its arguments is here. What is the kernel's state is in src/simulator/kernel/,
 * whose functions have the prefix `sim_`: libbpf, which is linked too, has other functions under
 * the names of some helpers.
 *
 * Invariant: the types here have the fields that bpf/ uses, under the kernel's names; fields that
 * the kernel does not have are the simulator's, and their comments say so.
 */
#ifndef SHIM_COMMON_BPF_H
#define SHIM_COMMON_BPF_H

#include <stdbool.h>
#include <stddef.h>

#define __VMLINUX_H__
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long long u64;
typedef long long s64;

#include "abi.h"

/* Each simulated machine has a thread of its own, and on it what the loader sets. */
#define OPTION _Thread_local
#define GLOBAL _Thread_local

/* How programs and maps are declared. A map names its memory by a number (native.c). */
#define SEC(name)
#define __arg_trusted
#define BPF_STRUCT_OPS(name, args...) name(args)
#define BPF_STRUCT_OPS_SLEEPABLE(name, args...) name(args)
#define BPF_PROG(name, args...) name(args)
#define SCX_OPS_DEFINE(name, args...) const struct sched_ext_ops name = { args }
#define __uint(name, number) int (*name)[number]
#define __type(name, type) typeof(type) *name
#define __array(name, type) typeof(type) *name[]
#define __kptr
#define __arg_nonnull
#define __weak __attribute__((weak))
#define __noinline __attribute__((noinline))
#define __always_inline inline __attribute__((always_inline))
#define bpf_for(i, start, end) \
	for (int at__ = (start), end__ = (end); at__ < end__ && ((i) = at__, true); at__++)
#define READ_ONCE(x) (*(volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, value) ((void)(*(volatile typeof(x) *)&(x) = (value)))

/* The simulated kernel has all the fields that bpf/ asks for. */
#define bpf_core_field_exists(field) true
#define bpf_core_field_offset(type, field) offsetof(type, field)
#define bpf_core_enum_value(type, name) (name)

/* A field of what `p` points to, or one behind a pointer in there. */
#define BPF_CORE_READ_1(p, a) ((p)->a)
#define BPF_CORE_READ_2(p, a, b) ((p)->a->b)
#define BPF_CORE_READ_BY(p, a, b, which, ...) which
#define BPF_CORE_READ(args...) \
	BPF_CORE_READ_BY(args, BPF_CORE_READ_2, BPF_CORE_READ_1, )(args)

enum {
	ENOENT = 2,
	ENOMEM = 12,
	EINVAL = 22,
	BPF_ANY = 0,
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_ARRAY_OF_MAPS = 12,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_MAP_TYPE_TASK_STORAGE = 29,
	BPF_MAP_TYPE_USER_RINGBUF = 31,
	BPF_F_NO_PREALLOC = 1,
	BPF_F_MMAPABLE = 1 << 10,
	BPF_LOCAL_STORAGE_GET_F_CREATE = 1,
	BPF_RB_NO_WAKEUP = 1,
	BPF_RB_FORCE_WAKEUP = 2,
	BPF_RB_AVAIL_DATA = 0,
	CLOCK_MONOTONIC = 1,
	NUMA_NO_NODE = -1,
	PF_EXITING = 0x4,
	PF_KCOMPACTD = 0x10000,
	PF_KSWAPD = 0x20000,
	PF_KTHREAD = 0x200000,
};

enum scx_number : u64 {
	SCX_CPUPERF_ONE = 1024,
	SCX_DSQ_INVALID = 1ULL << 63,
	SCX_DSQ_LOCAL = 1ULL << 63 | 2,
	SCX_DSQ_LOCAL_ON = 3ULL << 62,
	SCX_DSQ_ITER_REV = 1 << 16,
	SCX_ENQ_WAKEUP = 1,
	SCX_ENQ_HEAD = 1 << 4,
	SCX_ENQ_CPU_SELECTED = 1 << 10,
	SCX_ENQ_PREEMPT = 1ULL << 32,
	SCX_ENQ_REENQ = 1ULL << 40,
	SCX_ENQ_LAST = 1ULL << 41,
	SCX_KICK_IDLE = 1,
	SCX_OPS_KEEP_BUILTIN_IDLE = 1,
	SCX_OPS_ENQ_LAST = 1 << 1,
	SCX_OPS_ENQ_EXITING = 1 << 2,
	SCX_OPS_ALLOW_QUEUED_WAKEUP = 1 << 5,
	SCX_PICK_IDLE_CORE = 1,
	SCX_SLICE_DFL = 20000000,
	SCX_TASK_QUEUED = 1,
	SCX_WAKE_FORK = 4,
	SCX_WAKE_TTWU = 8,
	SCX_WAKE_SYNC = 16,
};

struct cpumask {
	u64 bits[CPU_WORDS];
};

struct bpf_cpumask {
	struct cpumask cpumask;
};

struct kernfs_node {
	u64 id;
};

enum cgroup_subsys_id {
	cpu_cgrp_id,
	CGROUP_SUBSYS_COUNT,
};

struct cgroup;

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};

struct task_group {
	struct cgroup_subsys_state css;
	s32 idle;
};

struct cgroup {
	struct cgroup_subsys_state self;
	s32 level;
	struct kernfs_node *kn;
	struct cgroup_subsys_state *subsys[CGROUP_SUBSYS_COUNT];
};

struct css_set {
	struct cgroup *dfl_cgrp;
};

struct sched_ext_entity {
	u64 slice;
	u64 dsq_vtime;
	u64 ddsp_dsq_id;
	u64 ddsp_enq_flags;
	u32 weight;
	u32 flags;
};

struct sched_entity {
	u64 sum_exec_runtime;
};

struct signal_struct {
	u32 flags;
};

struct task_struct {
	u32 __state;
	s32 pid, tgid;
	u32 flags;
	u64 jobctl;
	struct signal_struct *signal;
	u32 migration_disabled;
	s32 prio;
	u32 policy;
	s32 nr_cpus_allowed;
	const struct cpumask *cpus_ptr;
	struct cpumask cpus_mask;
	u64 nvcsw;
	struct css_set *cgroups;
	struct task_group *sched_task_group;
	struct sched_entity se;
	struct sched_ext_entity scx;
	char comm[COMM_LEN];
	/* The simulator's: the CPU that it is on or was on last, whether it runs, its task_ctx. */
	s32 cpu;
	bool on_cpu;
	void *storage;
};

struct scx_init_task_args {
	bool fork;
};

struct scx_exit_task_args {
	bool cancelled;
};

struct scx_cgroup_init_args {
	u32 weight;
	u64 bw_period_us, bw_quota_us, bw_burst_us;
};

struct scx_cpu_release_args {
	struct task_struct *task;
};

struct scx_exit_info {
	u32 kind;
	s64 exit_code;
	const char *reason, *msg;
	char *dump;
};

struct scx_dump_ctx {
	u64 at_ns;
};

/* The simulated kernel makes no dumps. What bpf/ would say is formatted all the same. */
#define scx_bpf_dump(fmt, args...) ((void)__builtin_snprintf(NULL, 0, fmt, ##args))

struct sched_ext_ops {
	s32 (*select_cpu)(struct task_struct *p, s32 prev_cpu, u64 wake_flags);
	void (*enqueue)(struct task_struct *p, u64 enq_flags);
	void (*dispatch)(s32 cpu, struct task_struct *prev);
	bool (*yield)(struct task_struct *from, struct task_struct *to);
	void (*tick)(struct task_struct *p);
	void (*running)(struct task_struct *p);
	void (*stopping)(struct task_struct *p, bool runnable);
	void (*cpu_release)(s32 cpu, struct scx_cpu_release_args *args);
	void (*update_idle)(s32 cpu, bool idle);
	void (*set_cpumask)(struct task_struct *p, const struct cpumask *cpumask);
	s32 (*init_task)(struct task_struct *p, struct scx_init_task_args *args);
	void (*exit_task)(struct task_struct *p, struct scx_exit_task_args *args);
	void (*enable)(struct task_struct *p);
	void (*disable)(struct task_struct *p);
	s32 (*cgroup_init)(struct cgroup *cgrp, struct scx_cgroup_init_args *args);
	void (*cgroup_exit)(struct cgroup *cgrp);
	void (*cgroup_move)(struct task_struct *p, struct cgroup *from, struct cgroup *to);
	void (*cgroup_set_weight)(struct cgroup *cgrp, u32 weight);
	void (*cgroup_set_bandwidth)(struct cgroup *cgrp, u64 period_us, u64 quota_us, u64 burst_us);
	void (*cgroup_set_idle)(struct cgroup *cgrp, bool idle);
	void (*dump)(struct scx_dump_ctx *dctx);
	void (*dump_cpu)(struct scx_dump_ctx *dctx, s32 cpu, bool idle);
	void (*dump_task)(struct scx_dump_ctx *dctx, struct task_struct *p);
	s32 (*init)(void);
	void (*exit)(struct scx_exit_info *info);
	u32 timeout_ms;
	const char *name;
};

/* The simulator's: `vtime` and `dsq_seq` are those of the task that it has come to. */
struct bpf_iter_scx_dsq {
	u64 dsq;
	u64 flags;
	s64 vtime;
	u64 dsq_seq;
	u64 opened_seq; /* of the last task that was inserted before it was opened */
	bool begun;
	bool sets_slice, sets_vtime;
	u64 slice_to_set, vtime_to_set;
};

struct bpf_dynptr {
	void *data;
};

struct bpf_timer {
	u64 opaque[2];
};

/* The memory of a map on this machine, set by sim_enter(). */
struct sim_map {
	char *memory;
	u32 entries;
	u32 size;
};

enum sim_map_number {
	SIM_DOMAINS,
	SIM_NEIGHBOURS,
	SIM_CPUS,
	SIM_RUN_DELAYS,
	SIM_MASKS,
	SIM_PREFERENCES,
	SIM_SET_MASKS,
	SIM_PARTS,
	SIM_GROUPS,
	SIM_GROUP_LOADS,
	SIM_GROUP_SUMS,
	SIM_ACTIVE_GROUPS,
	SIM_NOTICE_RINGS,
	SIM_DECISION_RINGS,
	SIM_HEARTBEATS,
	SIM_ALARMS,
	SIM_LIMITS,
	SIM_RELEASE_TIMERS,
	SIM_MAPS,
};

extern _Thread_local struct sim_map sim_maps[SIM_MAPS];

static inline void *sim_lookup(const void *map, const u32 *key)
{
	struct sim_map *memory = &sim_maps[*(const u64 *)map];

	return *key < memory->entries ? memory->memory + (u64)*key * memory->size : NULL;
}
/* The one map with keys of 64 bits is a hash of the simulated kernel's. */
u32 *sim_slot_lookup(u64 id);
long sim_slot_update(u64 id, u32 slot);
void sim_slot_delete(u64 id);
#define bpf_map_lookup_elem(map, key) \
	_Generic((key), u64 *: sim_slot_lookup(*(key)), default: sim_lookup(map, (const u32 *)(key)))
#define bpf_map_update_elem(map, key, value, flags) sim_slot_update(*(key), *(value))
#define bpf_map_delete_elem(map, key) sim_slot_delete(*(key))

void *sim_create_storage(struct task_struct *p, u64 size);
#define bpf_task_storage_get(map, p, unused, flags)                        \
	({                                                                 \
		struct task_struct *p__ = (p);                             \
		if (!p__->storage && (flags) & BPF_LOCAL_STORAGE_GET_F_CREATE) \
			p__->storage = sim_create_storage(p__, sizeof(*(map)->value)); \
		(typeof((map)->value))p__->storage;                        \
	})

/* Masks. */
static inline bool bpf_cpumask_test_cpu(u32 cpu, const struct cpumask *mask)
{
	return cpu < MAX_CPUS && mask->bits[cpu / 64] & 1ULL << cpu % 64;
}

static inline bool bpf_cpumask_intersects(const struct cpumask *a, const struct cpumask *b)
{
	u64 both = 0;

	for (int i = 0; i < CPU_WORDS; i++)
		both |= a->bits[i] & b->bits[i];
	return both;
}

static inline bool bpf_cpumask_subset(const struct cpumask *a, const struct cpumask *b)
{
	u64 rest = 0;

	for (int i = 0; i < CPU_WORDS; i++)
		rest |= a->bits[i] & ~b->bits[i];
	return !rest;
}

static inline bool bpf_cpumask_empty(const struct cpumask *mask)
{
	return bpf_cpumask_subset(mask, &(struct cpumask){});
}

static inline void bpf_cpumask_set_cpu(u32 cpu, struct bpf_cpumask *mask)
{
	mask->cpumask.bits[cpu / 64] |= 1ULL << cpu % 64;
}

static inline bool bpf_cpumask_test_and_set_cpu(u32 cpu, struct bpf_cpumask *mask)
{
	bool was = bpf_cpumask_test_cpu(cpu, &mask->cpumask);

	bpf_cpumask_set_cpu(cpu, mask);
	return was;
}

static inline bool bpf_cpumask_test_and_clear_cpu(u32 cpu, struct bpf_cpumask *mask)
{
	bool was = bpf_cpumask_test_cpu(cpu, &mask->cpumask);

	mask->cpumask.bits[cpu / 64] &= ~(1ULL << cpu % 64);
	return was;
}

struct bpf_cpumask *sim_create_cpumask(void);
u32 sim_any_distribute(const struct cpumask *mask);
#define bpf_cpumask_create sim_create_cpumask
#define bpf_cpumask_release(mask) ((void)(mask))
#define bpf_cpumask_any_distribute sim_any_distribute
u32 sim_any_and_distribute(const struct cpumask *a, const struct cpumask *b);
#define bpf_cpumask_any_and_distribute sim_any_and_distribute
#define bpf_kptr_xchg(at, value) \
	({ typeof(*(at)) *at__ = (at), old__ = *at__; *at__ = (value); old__; })

/* Tasks. The simulated ones are freed with their machine, so nothing counts references. */
struct task_struct *sim_task_from_pid(s32 pid);
struct task_struct *sim_current_task(void);
s32 sim_processor_id(void);
#define bpf_task_from_pid sim_task_from_pid
#define bpf_task_release(p) ((void)(p))
#define bpf_get_current_task_btf sim_current_task
#define bpf_get_smp_processor_id sim_processor_id
#define bpf_rcu_read_lock() ((void)0)
#define bpf_rcu_read_unlock() ((void)0)

static inline s32 scx_bpf_task_cpu(const struct task_struct *p)
{
	return p->cpu;
}

static inline bool scx_bpf_task_running(const struct task_struct *p)
{
	return p->on_cpu;
}

static inline void scx_bpf_task_set_slice(struct task_struct *p, u64 slice)
{
	p->scx.slice = slice;
}

/* Time. */
u64 sim_now(void);
u64 sim_ktime(void);
#define scx_bpf_now sim_now
#define bpf_ktime_get_ns sim_ktime
u64 sim_jiffies(void);
#define bpf_jiffies64 sim_jiffies
long sim_timer_set_callback(struct bpf_timer *timer, void *callback);
long sim_timer_start(struct bpf_timer *timer, u64 ns);
#define bpf_timer_init(timer, map, clock) ((void)(timer))
#define bpf_timer_set_callback(timer, callback) sim_timer_set_callback(timer, (void *)(callback))
#define bpf_timer_start(timer, ns, flags) sim_timer_start(timer, ns)

/* Ring buffers. */
void *sim_ringbuf_reserve(void *ring, u64 size);
void sim_ringbuf_submit(void *record, u64 flags);
u64 sim_ringbuf_pending(void *ring);
long sim_user_ringbuf_drain(void *ring, void *callback, void *context);
#define bpf_ringbuf_reserve(ring, size, flags) sim_ringbuf_reserve(ring, size)
#define bpf_ringbuf_submit sim_ringbuf_submit
#define bpf_ringbuf_query(ring, what) sim_ringbuf_pending(ring)
#define bpf_ringbuf_output(ring, data, size, flags) ((void)(data))
#define bpf_user_ringbuf_drain(ring, callback, context, flags) \
	sim_user_ringbuf_drain(ring, (void *)(callback), context)
#define bpf_dynptr_data(dynptr, offset, size) ((dynptr)->data)
#define bpf_dynptr_read(to, size, dynptr, offset, flags) \
	(__builtin_memcpy(to, (const char *)(dynptr)->data + (offset), size), 0)

#define bpf_probe_read_kernel(to, size, from) ((void)__builtin_memcpy(to, from, size), 0)
#define bpf_probe_read_kernel_str(to, size, from) ((void)__builtin_strncpy(to, from, (size) - 1))

/* Dispatch queues. */
s32 sim_create_dsq(u64 dsq);
void sim_dsq_insert(struct task_struct *p, u64 dsq, u64 slice, u64 enq_flags);
void sim_dsq_insert_vtime(struct task_struct *p, u64 dsq, u64 slice, u64 vtime, u64 enq_flags);
bool sim_dsq_move_to_local(u64 dsq);
bool sim_dsq_move_vtime(struct bpf_iter_scx_dsq *it, struct task_struct *p, u64 dsq);
s32 sim_dsq_nr_queued(u64 dsq);
int sim_iter_new(struct bpf_iter_scx_dsq *it, u64 dsq, u64 flags);
struct task_struct *sim_iter_next(struct bpf_iter_scx_dsq *it);
u32 sim_reenqueue_local(void);
#define scx_bpf_create_dsq(dsq, node) sim_create_dsq(dsq)
#define scx_bpf_dsq_insert sim_dsq_insert
#define scx_bpf_dsq_insert_vtime sim_dsq_insert_vtime
#define scx_bpf_dsq_move_to_local(dsq, flags) sim_dsq_move_to_local(dsq)
#define scx_bpf_dsq_move_vtime(it, p, dsq, flags) sim_dsq_move_vtime(it, p, dsq)
#define scx_bpf_dsq_nr_queued sim_dsq_nr_queued
#define bpf_iter_scx_dsq_new sim_iter_new
#define bpf_iter_scx_dsq_next sim_iter_next
#define bpf_iter_scx_dsq_destroy(it) ((void)(it))
#define scx_bpf_reenqueue_local sim_reenqueue_local

static inline void scx_bpf_dsq_move_set_slice(struct bpf_iter_scx_dsq *it, u64 slice)
{
	it->sets_slice = true;
	it->slice_to_set = slice;
}

static inline void scx_bpf_dsq_move_set_vtime(struct bpf_iter_scx_dsq *it, u64 vtime)
{
	it->sets_vtime = true;
	it->vtime_to_set = vtime;
}

/* Idle CPUs. */
const struct cpumask *sim_idle_cpumask(void);
const struct cpumask *sim_idle_smtmask(void);
bool sim_test_and_clear_cpu_idle(s32 cpu);
s32 sim_pick_idle_cpu(const struct cpumask *mask, u64 flags);
s32 sim_select_cpu_and(struct task_struct *p, s32 prev_cpu, u64 wake_flags,
		       const struct cpumask *mask, u64 flags);
void sim_kick_cpu(s32 cpu, u64 flags);
#define scx_bpf_get_idle_cpumask sim_idle_cpumask
#define scx_bpf_get_idle_smtmask sim_idle_smtmask
#define scx_bpf_put_idle_cpumask(mask) ((void)(mask))
#define scx_bpf_test_and_clear_cpu_idle sim_test_and_clear_cpu_idle
#define scx_bpf_pick_idle_cpu sim_pick_idle_cpu
#define scx_bpf_select_cpu_and sim_select_cpu_and
#define scx_bpf_kick_cpu sim_kick_cpu

/* Frequencies. */
u32 sim_cpuperf_cap(s32 cpu);
void sim_cpuperf_set(s32 cpu, u32 perf);
#define scx_bpf_cpuperf_cap sim_cpuperf_cap
#define scx_bpf_cpuperf_cur(cpu) ((void)(cpu), (u32)SCX_CPUPERF_ONE)
#define scx_bpf_cpuperf_set sim_cpuperf_set

#endif /* SHIM_COMMON_BPF_H */
