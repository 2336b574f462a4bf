/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What differs between kernels, answered for the one that is simulated.
 *
 * Invariant: a question of bpf/ about the kernel has its answer here or, for the fields of types,
 * in common.bpf.h.
 */
#ifndef SHIM_COMPAT_BPF_H
#define SHIM_COMPAT_BPF_H

#define KERNEL(major, minor) ((major) << 16 | (minor))

/* The version of the simulated kernel. */
extern _Thread_local u32 sim_kernel;

#define __COMPAT_HAS_scx_bpf_select_cpu_and (sim_kernel >= KERNEL(6, 17))
#define scx_bpf_reenqueue_local_from_anywhere sim_reenqueue_local

static inline bool __COMPAT_is_enq_cpu_selected(u64 enq_flags)
{
	return enq_flags & SCX_ENQ_CPU_SELECTED;
}

#endif /* SHIM_COMPAT_BPF_H */
