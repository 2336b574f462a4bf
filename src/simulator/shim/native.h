/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the simulator's Rust side sees of the native build of bpf/: the types of the shim, those of
 * state.bpf.h, and the functions of native.c.
 *
 * Invariant: nothing of bpf/ is repeated here.
 */
#ifndef SHIM_NATIVE_H
#define SHIM_NATIVE_H

#include <scx/common.bpf.h>
#include <scx/compat.bpf.h>
#include "shares.bpf.h"
#include "state.bpf.h"
#include "sim_options.h"

extern const struct sched_ext_ops manyland_ops;

/* Makes this thread run the machine with these options and maps. */
void sim_enter(const struct sim_options *options, const struct sim_map *maps, u32 kernel);

/* Another machine is about to attach on this thread. */
void sim_begin(void);

/* The program by which a domain thread makes itself known. */
int mark_thread(struct thread_mark *mark);

/* The tracepoint of a task that starts another program. */
int note_exec(struct task_struct *p);

#endif /* SHIM_NATIVE_H */
