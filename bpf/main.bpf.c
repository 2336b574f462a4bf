/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The BPF side of scx_manyland: a complete scheduler that asks the domain threads for decisions and
 * keeps the machine running without them.
 *
 * The way of a task, part by part (docs/architecture.md draws it):
 *
 *  1. It wakes up. select_cpu.bpf.h claims an idle CPU for it, and it runs there at once.
 *     idle.bpf.h knows the idle CPUs, core_kinds.bpf.h the preferred kinds of core, and home.bpf.h
 *     the domain where the search begins.
 *  2. No CPU is idle. enqueue.bpf.h makes it ready at once if its last decision holds
 *     (standing.bpf.h). Otherwise it waits, on a queue of the kernel, and notify.bpf.h puts a
 *     notice into the ring of its domain.
 *  3. The domain thread decides. decisions.bpf.h moves the task from its queue of waiting tasks to
 *     a queue of ready ones.
 *  4. A CPU asks for work. dispatch.bpf.h runs ready tasks and the domain thread
 *     (domain_thread.bpf.h) when it is due.
 *     away.bpf.h has what happens if that thread finds no CPU in its domain.
 *  5. No decision comes. safety_net.bpf.h runs the waiting task.
 *  6. The CPU finds nothing in its domain. steal.bpf.h runs a task of another domain there.
 *  7. The task runs and stops. task.bpf.h keeps its states, vtime.bpf.h charges what it has used.
 *  8. It gives way, in one of five ways:
 *       - decisions.bpf.h preempts it for a decision that says so;
 *       - it yields, and yield.bpf.h moves it behind the others;
 *       - preempt.bpf.h preempts it for a task that wakes up, or for the domain thread,
 *         idle_class.bpf.h one of SCHED_IDLE for any other, and kthread.bpf.h all for a thread of
 *         the kernel; rest.bpf.h keeps the rest of its slice;
 *       - a higher scheduling class preempts it, and higher_class.bpf.h finds another CPU for it;
 *       - it has a CPU for itself, and core_upgrade.bpf.h moves it to a better core.
 *
 * Off that way:
 *   - unstored.bpf.h runs tasks of which the kernel had no memory to know anything;
 *   - frequency.bpf.h asks for as much of a CPU's frequency as its tasks need;
 *   - heartbeat.bpf.h, five times a second, finds lost wake-ups and starved tasks;
 *   - balance.bpf.h evens out the loads of the domains;
 *   - groups.bpf.h knows the cgroups, and the group of each task; shares.bpf.h computes from
 *     cpu.weight what each is due; limit.bpf.h has their limits, and
 *     throttle.bpf.h the tasks that wait because of one;
 *   - part.bpf.h has queues for tasks that may use a part of a domain;
 *   - dump.bpf.h says what the scheduler thought, for the kernel's dump;
 *   - stranded.bpf.h lets tasks leave a domain that higher scheduling classes have;
 *   - state.bpf.h has the options, maps and states, stats.bpf.h the counters, and abi.h what user
 *     space sees.
 *
 * Invariant: every runnable task is on a queue of the kernel, always. Whatever user space does or
 * does not do, a CPU that the task may use finds it there.
 */
#include <scx/common.bpf.h>
#include <scx/compat.bpf.h>

#include "abi.h"

char _license[] SEC("license") = "GPL";

#include "state.bpf.h"
#include "groups.bpf.h"
#include "shares.bpf.h"
#include "limit.bpf.h"
#include "vtime.bpf.h"
#include "wanted.bpf.h"
#include "idle.bpf.h"
#include "part.bpf.h"
#include "crowd.bpf.h"
#include "rest.bpf.h"
#include "alarm.bpf.h"
#include "preempt.bpf.h"
#include "idle_class.bpf.h"
#include "core_kinds.bpf.h"
#include "core_upgrade.bpf.h"
#include "home.bpf.h"
#include "balance.bpf.h"
#include "own_cpu.bpf.h"
#include "domain_thread.bpf.h"
#include "select_cpu.bpf.h"
#include "enqueue.bpf.h"
#include "standing.bpf.h"
#include "unstored.bpf.h"
#include "yield.bpf.h"
#include "kthread.bpf.h"
#include "slice_end.bpf.h"
#include "kernel_work.bpf.h"
#include "notify.bpf.h"
#include "decisions.bpf.h"
#include "away.bpf.h"
#include "dispatch.bpf.h"
#include "safety_net.bpf.h"
#include "throttle.bpf.h"
#include "steal.bpf.h"
#include "stranded.bpf.h"
#include "higher_class.bpf.h"
#include "frequency.bpf.h"
#include "task.bpf.h"
#include "heartbeat.bpf.h"
#include "stats.bpf.h"
#include "gauge.bpf.h"
#include "dump.bpf.h"

static s32 create_queues(void)
{
	s32 err;
	u32 i;

	bpf_for(i, 0, nr_cpus) {
		err = scx_bpf_create_dsq(DSQ_OWN | i, NUMA_NO_NODE);
		if (!err)
			err = scx_bpf_create_dsq(DSQ_BOUND | i, NUMA_NO_NODE);
		if (err)
			return err;
	}
	bpf_for(i, 0, nr_domains + PARTS_MAX) {
		err = scx_bpf_create_dsq(DSQ_READY | i, NUMA_NO_NODE);
		if (!err)
			err = scx_bpf_create_dsq(DSQ_WAITING | i, NUMA_NO_NODE);
		if (!err && i < nr_domains)
			err = scx_bpf_create_dsq(DSQ_THREAD | i, NUMA_NO_NODE);
		if (err)
			return err;
	}
	bpf_for(i, 0, THROTTLED_QUEUES) {
		err = scx_bpf_create_dsq(DSQ_THROTTLED | i, NUMA_NO_NODE);
		if (err)
			return err;
	}
	return 0;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(manyland_init)
{
	s32 err = create_queues();
	u32 d;

	if (err)
		return err;
	/* One more: the mask of all domains. */
	bpf_for(d, 0, nr_domains + 1) {
		err = create_mask(bpf_map_lookup_elem(&masks, &d), d, false);
		if (!err && d < nr_domains)
			err = create_idle_class_mask(d);
		if (err)
			return err;
	}
	err = create_set_masks();
	if (!err)
		err = prepare_release();
	if (err)
		return err;
	err = create_alarms();
	if (err)
		return err;
	begin_frequencies();
	return start_heartbeat();
}

void BPF_STRUCT_OPS(manyland_exit, struct scx_exit_info *info)
{
	u32 kind = info->kind;

	bpf_probe_read_kernel_str(exit_record.reason, sizeof(exit_record.reason), info->reason);
	bpf_probe_read_kernel_str(exit_record.message, sizeof(exit_record.message), info->msg);
	exit_record.code = info->exit_code;
	record_dump(info);
	__sync_val_compare_and_swap(&exit_record.kind, 0, kind);
	bpf_ringbuf_output(&exits, &kind, sizeof(kind), BPF_RB_FORCE_WAKEUP);
}

/* clang-format off */
SCX_OPS_DEFINE(manyland_ops,
	       .select_cpu = (void *)manyland_select_cpu,
	       .enqueue = (void *)manyland_enqueue,
	       .dispatch = (void *)manyland_dispatch,
	       .yield = (void *)manyland_yield,
	       .tick = (void *)manyland_tick,
	       .running = (void *)manyland_running,
	       .stopping = (void *)manyland_stopping,
	       .cpu_release = (void *)manyland_cpu_release,
	       .update_idle = (void *)manyland_update_idle,
	       .set_cpumask = (void *)manyland_set_cpumask,
	       .init_task = (void *)manyland_init_task,
	       .exit_task = (void *)manyland_exit_task,
	       .enable = (void *)manyland_enable,
	       .disable = (void *)manyland_disable,
	       .cgroup_init = (void *)manyland_cgroup_init,
	       .cgroup_exit = (void *)manyland_cgroup_exit,
	       .cgroup_move = (void *)manyland_cgroup_move,
	       .cgroup_set_weight = (void *)manyland_cgroup_set_weight,
	       .cgroup_set_bandwidth = (void *)manyland_cgroup_set_bandwidth,
	       .cgroup_set_idle = (void *)manyland_cgroup_set_idle,
	       .dump = (void *)manyland_dump,
	       .dump_cpu = (void *)manyland_dump_cpu,
	       .dump_task = (void *)manyland_dump_task,
	       .init = (void *)manyland_init,
	       .exit = (void *)manyland_exit,
	       /*
		* The longest that the kernel allows: of 20,000 tasks on 4 CPUs that run for a tick
		* each, every task runs once in 20 s.
		*/
	       .timeout_ms = 30000,
	       .name = "manyland");
/* clang-format on */
