/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Another sched_ext scheduler, for the guest tests. It is nothing except a name, so the kernel does
 * for each task what it does by default: one queue for the machine, first in, first out.
 */
#include <scx/common.bpf.h>
#include <scx/compat.bpf.h>

char _license[] SEC("license") = "GPL";

SCX_OPS_DEFINE(other_ops, .timeout_ms = 10000, .name = "other");
