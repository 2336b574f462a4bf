//! A task as the kernel knows it: its `task_struct`, which bpf/ reads, and where it is.
//!
//! Invariant: a runnable task that does not run is on exactly one queue.

use super::dsq::Position;
use super::groups::GroupId;
use super::native::{self, cpumask, css_set, sched_ext_entity, task_group, task_struct};
use crate::cpuset::CpuSet;
use crate::ids::CpuId;
use crate::simulator::TaskId;
use std::ptr::NonNull;

/// What a task does, as the kernel numbers it: it is runnable, or blocks.
pub const TASK_RUNNING: u32 = 0;
pub const TASK_INTERRUPTIBLE: u32 = 1;

/// The queue that a task is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// None: it sleeps or runs.
    Nothing,
    /// The local queue of its CPU.
    Local,
    /// The DSQ of this number, at this position.
    Dsq(u64, Position),
}

/// A task. The C side has pointers to its first field.
#[repr(C)]
pub struct Task {
    pub c: task_struct,
    pub on: On,
    /// When the CPU that it left last is done with it.
    pub leaves_cpu_ns: u64,
    /// Whether it may not leave its CPU for now.
    pub migration_disabled: bool,
    /// Its real-time priority; 0: sched_ext schedules it.
    pub real_time: u8,
    pub group: GroupId,
    /// Whether it is still there.
    pub alive: bool,
    storage: Vec<u64>,
}

/// How a task begins.
pub struct Birth<'a> {
    pub flags: u32,
    pub name: &'a str,
    pub cpu: CpuId,
    pub cpus: &'a CpuSet,
    pub weight: u32,
    /// Its real-time priority; 0: sched_ext schedules it.
    pub real_time: u8,
    pub group: GroupId,
}

impl Task {
    /// A task that sleeps. Its address never changes, and [`Task::free`] ends it.
    pub fn create(
        id: TaskId,
        birth: &Birth<'_>,
        groups: (*mut css_set, *mut task_group),
    ) -> NonNull<Task> {
        let mut comm = [0; 16];
        for (to, byte) in comm[..15].iter_mut().zip(birth.name.bytes()) {
            *to = byte as _;
        }
        let task = NonNull::from(Box::leak(Box::new(Task {
            c: task_struct {
                __state: TASK_RUNNING,
                pid: id.pid() as i32,
                tgid: id.pid() as i32,
                flags: birth.flags,
                jobctl: 0,
                signal: std::ptr::null_mut(),
                migration_disabled: 0,
                prio: 120,
                policy: 0,
                nr_cpus_allowed: 0,
                cpus_ptr: std::ptr::null(),
                cpus_mask: cpumask { bits: [0; _] },
                nvcsw: 0,
                se: native::sched_entity { sum_exec_runtime: 0 },
                cgroups: groups.0,
                sched_task_group: groups.1,
                scx: sched_ext_entity {
                    slice: native::SCX_SLICE_DFL,
                    dsq_vtime: 0,
                    ddsp_dsq_id: native::SCX_DSQ_INVALID,
                    ddsp_enq_flags: 0,
                    weight: birth.weight,
                    flags: 0,
                },
                comm,
                cpu: birth.cpu.0 as i32,
                on_cpu: false,
                storage: std::ptr::null_mut(),
            },
            on: On::Nothing,
            leaves_cpu_ns: 0,
            migration_disabled: false,
            real_time: 0,
            group: birth.group,
            alive: true,
            storage: Vec::new(),
        })));
        // SAFETY: the task was just created, and no reference to it exists.
        unsafe {
            (*task.as_ptr()).c.cpus_ptr = &raw const (*task.as_ptr()).c.cpus_mask;
            (*task.as_ptr()).set_cpus(birth.cpus);
            (*task.as_ptr()).set_class(birth.real_time);
        }
        task
    }

    /// Frees a task.
    ///
    /// # Safety
    /// It was created by [`Task::create`], and nothing points to it.
    pub unsafe fn free(task: NonNull<Task>) {
        // SAFETY: the caller says that it came from a box and that this is its end.
        drop(unsafe { Box::from_raw(task.as_ptr()) });
    }

    /// Allocates what bpf/ keeps of it, zeroed.
    pub fn create_storage(&mut self, bytes: u64) -> *mut std::ffi::c_void {
        self.storage = vec![0; bytes.div_ceil(8) as usize];
        self.storage.as_mut_ptr().cast()
    }

    /// It is of the real-time class with this priority, or with 0 of sched_ext's.
    pub fn set_class(&mut self, real_time: u8) {
        const SCHED_FIFO: u32 = 1;
        self.real_time = real_time;
        (self.c.prio, self.c.policy, self.c.scx.slice) = match real_time {
            0 => (120, 0, native::SCX_SLICE_DFL),
            // No slice ends its run.
            priority => (99 - i32::from(priority), SCHED_FIFO, u64::MAX / 4),
        };
    }

    /// The CPUs that it may use.
    pub fn set_cpus(&mut self, cpus: &CpuSet) {
        self.c.cpus_mask.bits = *cpus.words();
        self.c.nr_cpus_allowed = cpus.len() as i32;
    }

    pub fn may_use(&self, cpu: CpuId) -> bool {
        self.c.cpus_mask.bits[cpu.index() / 64] & (1 << (cpu.index() % 64)) != 0
    }

    /// Whether it may run on a CPU now.
    pub fn may_run_on(&self, cpu: CpuId) -> bool {
        if self.migration_disabled { self.cpu() == cpu } else { self.may_use(cpu) }
    }

    /// The CPU that it is on or was on last.
    pub fn cpu(&self) -> CpuId {
        CpuId(self.c.cpu as u32)
    }

    /// Whether it is about to end.
    pub fn is_exiting(&self) -> bool {
        self.c.flags & native::PF_EXITING as u32 != 0
    }

    /// Whether it is runnable.
    pub fn set_queued(&mut self, queued: bool) {
        let flag = native::SCX_TASK_QUEUED as u32;
        self.c.scx.flags = if queued { self.c.scx.flags | flag } else { self.c.scx.flags & !flag };
    }

    /// What bpf/ keeps of it; it has joined.
    pub fn ctx(&self) -> &native::task_ctx {
        assert!(!self.c.storage.is_null(), "bpf/task.bpf.h has not seen the task");
        // SAFETY: the storage is a task_ctx, whose size bpf/ has named; nothing writes to it while
        // Rust reads.
        unsafe { &*self.c.storage.cast() }
    }
}
