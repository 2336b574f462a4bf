/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Alarms: timers for what cannot wait for a tick. Each CPU has one, for the end of what its running
 * task may have (slice_end.bpf.h), and each domain, for when its thread may make a task give way
 * (preempt.bpf.h).
 *
 * What it rings for is checked only when it rings. So an alarm is not set again for each switch of
 * tasks, and never cancelled.
 *
 * Invariant: an alarm with `due_ns` rings at that time, or has been lost for ALARM_LOST_NS.
 */
#ifndef MANYLAND_ALARM_BPF_H
#define MANYLAND_ALARM_BPF_H

#include "vtime.bpf.h"

/* An alarm rings no sooner than after this: a timer has its price. */
#define ALARM_MIN_NS 20000

/* Nor later than after this: there is a tick before, whatever the kernel's configuration. */
#define ALARM_MAX_NS 10000000

/* After this it is set anew. */
#define ALARM_LOST_NS 100000000

/* Sets an alarm to ring at `at_ns`, unless it rings before. */
static __noinline int set_alarm(u32 index, u64 at_ns)
{
	struct slice_alarm *alarm = bpf_map_lookup_elem(&alarms, &index);
	u64 now = scx_bpf_now(), due;

	if (!alarm || before(now + ALARM_MAX_NS, at_ns))
		return 0;
	if (before(at_ns, now + ALARM_MIN_NS))
		at_ns = now + ALARM_MIN_NS;
	due = READ_ONCE(alarm->due_ns);
	if (due && !before(at_ns, due) && !before(due + ALARM_LOST_NS, now))
		return 0;
	WRITE_ONCE(alarm->due_ns, at_ns);
	bpf_timer_start(&alarm->timer, at_ns - now, 0);
	return 0;
}

#endif /* MANYLAND_ALARM_BPF_H */
