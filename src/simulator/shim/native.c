/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The kernel side, compiled for the simulator.
 *
 * Invariant: the numbers of the maps are set before main() and never change; all else that can
 * change belongs to one thread.
 */
#include "main.bpf.c"
#include "sim_options.h"

_Thread_local struct sim_map sim_maps[SIM_MAPS];
_Thread_local u32 sim_kernel;

/* A map's first member, its type, has no meaning at run time: it makes room for the number. */
#define NUMBER(map, number) (*(u64 *)&(map) = (number))

__attribute__((constructor)) static void number_maps(void)
{
	NUMBER(domains, SIM_DOMAINS);
	NUMBER(neighbours_of, SIM_NEIGHBOURS);
	NUMBER(cpus, SIM_CPUS);
	NUMBER(run_delays, SIM_RUN_DELAYS);
	NUMBER(masks, SIM_MASKS);
	NUMBER(preferences, SIM_PREFERENCES);
	NUMBER(set_masks, SIM_SET_MASKS);
	NUMBER(parts, SIM_PARTS);
	NUMBER(groups, SIM_GROUPS);
	NUMBER(group_loads, SIM_GROUP_LOADS);
	NUMBER(group_sums, SIM_GROUP_SUMS);
	NUMBER(active_groups, SIM_ACTIVE_GROUPS);
	NUMBER(notice_rings, SIM_NOTICE_RINGS);
	NUMBER(decision_rings, SIM_DECISION_RINGS);
	NUMBER(heartbeats, SIM_HEARTBEATS);
	NUMBER(alarms, SIM_ALARMS);
	NUMBER(limits, SIM_LIMITS);
	NUMBER(release_timers, SIM_RELEASE_TIMERS);
}

void sim_begin(void)
{
	any_away = 0;
	group_state = (struct group_state){};
	shares = (struct share_state){};
}

void sim_enter(const struct sim_options *options, const struct sim_map *maps, u32 kernel)
{
	set_options(options);
	__builtin_memcpy(sim_maps, maps, sizeof(sim_maps));
	sim_kernel = kernel;
}
