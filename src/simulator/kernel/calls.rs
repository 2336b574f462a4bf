//! The functions of the kernel that bpf/ calls, under the names of
//! `src/simulator/shim/scx/common.bpf.h`.
//!
//! Invariant: each works on the kernel whose callback runs on this thread, and keeps no reference
//! to it while C runs.

#![allow(clippy::missing_safety_doc, reason = "the caller is bpf/, which the verifier checks")]

use super::dsq::{Dsq, Position};
use super::native::{
    self, bpf_cpumask, bpf_dynptr, bpf_iter_scx_dsq, bpf_timer, cpumask, task_struct,
};
use super::rings::Notices;
use super::task::{On, Task};
use super::{Happening, K, Kernel, Timer};
use crate::abi;
use crate::ids::CpuId;
use crate::simulator::TaskId;
use crate::simulator::events::Event;
use std::ffi::{c_long, c_void};
use std::ptr::{NonNull, null_mut};

/// Lends the kernel whose callback runs.
fn with<R>(work: impl FnOnce(&mut Kernel) -> R) -> R {
    work(&mut K::current())
}

fn is_local(dsq: u64) -> bool {
    dsq == native::SCX_DSQ_LOCAL
}

impl Kernel {
    /// The queue of this number: the low half says which of its kind.
    pub(super) fn dsq(&self, dsq: u64) -> &Dsq {
        &self.dsqs[(dsq >> 16) as usize][(dsq & 0xffff) as usize]
    }

    pub(super) fn dsq_mut(&mut self, dsq: u64) -> &mut Dsq {
        &mut self.dsqs[(dsq >> 16) as usize][(dsq & 0xffff) as usize]
    }

    /// Waits for the lock of a queue and holds it for one task.
    pub(super) fn lock(&mut self, dsq: u64) {
        let (at_ns, hold_ns) = (self.at(), self.costs.lock);
        let dsq = self.dsq_mut(dsq);
        let wait_ns = dsq.locked_until_ns.saturating_sub(at_ns);
        dsq.locked_until_ns = at_ns + wait_ns + hold_ns;
        self.spend(wait_ns + hold_ns);
    }

    fn current(&self) -> NonNull<Task> {
        let current = self.cpus[self.here.index()].current;
        current.and_then(|id| self.tasks[id.index()]).unwrap_or(self.swapper)
    }

    /// As `mark_direct_dispatch()`.
    fn direct_dispatch(
        &mut self,
        p: *mut task_struct,
        dsq: u64,
        slice: u64,
        vtime: Option<u64>,
        enq_flags: u64,
    ) {
        // SAFETY: bpf/ passes on what it was given.
        let id = unsafe { Kernel::id_of(p) };
        assert_eq!(self.inserting.take(), Some(id), "one insertion of the task at hand");
        let scx = &mut self.task_mut(id).c.scx;
        scx.slice = slice.max(1);
        scx.dsq_vtime = vtime.unwrap_or(0);
        scx.ddsp_dsq_id = dsq;
        scx.ddsp_enq_flags = enq_flags;
    }

    fn iterate(&self, it: &mut bpf_iter_scx_dsq) -> *mut task_struct {
        let at = it.begun.then_some(Position { vtime: it.vtime, seq: it.dsq_seq });
        let backwards = it.flags & native::SCX_DSQ_ITER_REV != 0;
        let Some((position, id)) = self.dsq(it.dsq).next(at, backwards, it.opened_seq) else {
            return null_mut();
        };
        (it.begun, it.vtime, it.dsq_seq) = (true, position.vtime, position.seq);
        self.pointer(id)
    }

    /// The domain whose ring C means: the entry of a map.
    fn ring_domain<T>(entries: &[T], ring: *const c_void) -> usize {
        let offset = ring.addr() - entries.as_ptr().addr();
        offset / size_of::<T>()
    }

    fn reserve(&mut self, ring: *const c_void, length: u64) -> *mut c_void {
        let domain = Kernel::ring_domain(&self.maps.notice_rings.0, ring);
        let channel = self.channels[domain].clone();
        let mut notices = channel.notices.borrow_mut();
        let at_ns = self.at();
        let wait_ns = notices.locked_until_ns.saturating_sub(at_ns);
        let complete_ns = at_ns + wait_ns + self.costs.queue;
        let message = notices.reserve(length, complete_ns);
        if !message.is_null() {
            notices.locked_until_ns = complete_ns;
            self.spend(wait_ns + self.costs.queue);
        }
        message.cast()
    }

    fn submit(&mut self, message: *const c_void, flags: u64) {
        // SAFETY: bpf/ submits what it has reserved, and it begins with a notice.
        let (domain, pid) =
            unsafe { (Notices::domain_of(message.cast()), (*message.cast::<abi::notice>()).pid) };
        let to_ns = self.at();
        let from_ns = to_ns - self.costs.queue;
        let task = TaskId::of_pid(pid);
        self.happenings.push(Happening::Notice { domain, task, from_ns, to_ns });
        if flags & native::BPF_RB_FORCE_WAKEUP as u64 != 0 {
            self.wake_thread_at(to_ns + self.costs.thread_wake, domain);
        }
    }
}

/// As `bpf_user_ringbuf_drain()`: one CPU at a time.
fn drain(ring: *const c_void, callback: *const c_void, context: *mut c_void) -> c_long {
    type Callback = unsafe extern "C" fn(*mut bpf_dynptr, *mut c_void) -> c_long;
    const BUSY: c_long = -16;
    // SAFETY: bpf/decisions.bpf.h names such a function.
    let callback: Callback = unsafe { std::mem::transmute(callback) };
    let (domain, channel, is_busy) = with(|kernel| {
        let domain = Kernel::ring_domain(&kernel.maps.decision_rings.0, ring);
        let channel = kernel.channels[domain].clone();
        let mut decisions = channel.decisions.borrow_mut();
        let is_busy = decisions.draining || decisions.draining_until_ns > kernel.at();
        decisions.draining |= !is_busy;
        drop(decisions);
        (domain, channel, is_busy)
    });
    if is_busy {
        return BUSY;
    }
    let mut drained = 0;
    loop {
        let decided = with(|kernel| {
            kernel.spend(0);
            let first = channel.decisions.borrow_mut().first()?;
            kernel.spend(kernel.costs.drain);
            kernel.scheduling_events += 1;
            Some((first, kernel.domain(domain).counts.decided))
        });
        let Some(((message, made), decided)) = decided else { break };
        let mut dynptr = bpf_dynptr { data: message.cast() };
        // SAFETY: as above; the record is not moved until it is released, and no reference to
        // the kernel exists.
        let ends = unsafe { callback(&raw mut dynptr, context) } != 0;
        // SAFETY: the record is a decision.
        let pid = unsafe { (*message.cast::<abi::decision>()).pid };
        channel.decisions.borrow_mut().release();
        with(|kernel| kernel.note_carried_out(domain, pid, made.begun_ns, decided));
        drained += 1;
        if ends {
            break;
        }
    }
    let mut decisions = channel.decisions.borrow_mut();
    decisions.draining = false;
    decisions.draining_until_ns = K::current().at();
    drop(decisions);
    drained
}

impl Kernel {
    /// A decision was drained: it was carried out if the domain's count says so.
    fn note_carried_out(&mut self, domain: usize, pid: u32, begun_ns: u64, decided: u64) {
        if self.domain(domain).counts.decided == decided {
            return;
        }
        // A thread that is not to be trusted may have written another number meanwhile.
        let Some(task) = self.find(pid) else { return };
        let latency_ns = self.at().saturating_sub(self.task(task).ctx().runnable_ns);
        self.happenings.push(Happening::CarriedOut { domain, task, begun_ns, latency_ns });
    }
}

macro_rules! calls {
    ($(fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block)*) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($arg: $type),*) $(-> $result)? $body
        )*
    };
}

calls! {
    fn sim_create_storage(p: *mut task_struct, size: u64) -> *mut c_void {
        // SAFETY: bpf/ passes on what it was given.
        let id = unsafe { Kernel::id_of(p) };
        with(|kernel| kernel.task_mut(id).create_storage(size))
    }

    fn sim_slot_lookup(id: u64) -> *mut u32 {
        with(|kernel| kernel.groups.slot(id))
    }

    fn sim_slot_update(id: u64, slot: u32) -> c_long {
        with(|kernel| kernel.groups.set_slot(id, slot));
        0
    }

    fn sim_slot_delete(id: u64) {
        with(|kernel| kernel.groups.remove_slot(id));
    }

    fn sim_create_cpumask() -> *mut bpf_cpumask {
        let mask = Box::new(bpf_cpumask { cpumask: cpumask { bits: [0; _] } });
        let mask = NonNull::from(Box::leak(mask));
        with(|kernel| kernel.masks.push(mask));
        mask.as_ptr()
    }

    fn sim_any_distribute(mask: *const cpumask) -> u32 {
        // SAFETY: bpf/ passes a mask.
        let mask = unsafe { *mask };
        with(|kernel| kernel.distribute(&mask, &mask)).map_or(u32::MAX, |cpu| cpu.0)
    }

    fn sim_any_and_distribute(a: *const cpumask, b: *const cpumask) -> u32 {
        // SAFETY: bpf/ passes masks.
        let (a, b) = unsafe { (*a, *b) };
        with(|kernel| kernel.distribute(&a, &b)).map_or(u32::MAX, |cpu| cpu.0)
    }

    fn sim_task_from_pid(pid: i32) -> *mut task_struct {
        K::current().pause();
        with(|kernel| {
            let alive = kernel.find(pid as u32).filter(|&id| kernel.task(id).alive);
            alive.map_or(null_mut(), |id| kernel.pointer(id))
        })
    }

    fn sim_current_task() -> *mut task_struct {
        with(|kernel| kernel.current().as_ptr().cast())
    }

    fn sim_processor_id() -> i32 {
        with(|kernel| kernel.here.0 as i32)
    }

    fn sim_now() -> u64 {
        with(|kernel| kernel.clock())
    }

    fn sim_jiffies() -> u64 {
        with(|kernel| kernel.at() / kernel.costs.tick)
    }

    fn sim_ktime() -> u64 {
        with(|kernel| kernel.at())
    }

    fn sim_timer_set_callback(timer: *mut bpf_timer, callback: *const c_void) -> c_long {
        with(|kernel| kernel.add_timer(timer.expose_provenance(), callback.expose_provenance()));
        0
    }

    fn sim_timer_start(timer: *mut bpf_timer, ns: u64) -> c_long {
        with(|kernel| kernel.start_timer(timer.addr(), ns));
        0
    }

    fn sim_ringbuf_reserve(ring: *const c_void, size: u64) -> *mut c_void {
        K::current().pause();
        with(|kernel| kernel.reserve(ring, size))
    }

    fn sim_ringbuf_submit(record: *const c_void, flags: u64) {
        K::current().pause();
        with(|kernel| kernel.submit(record, flags));
    }

    fn sim_ringbuf_pending(ring: *const c_void) -> u64 {
        K::current().pause();
        with(|kernel| {
            let domain = Kernel::ring_domain(&kernel.maps.notice_rings.0, ring);
            kernel.channels[domain].notices.borrow().bytes()
        })
    }

    fn sim_user_ringbuf_drain(
        ring: *const c_void,
        callback: *const c_void,
        context: *mut c_void,
    ) -> c_long {
        drain(ring, callback, context)
    }

    fn sim_create_dsq(dsq: u64) -> i32 {
        with(|kernel| {
            let kind = (dsq >> 16) as usize;
            if kernel.dsqs.len() <= kind {
                kernel.dsqs.resize_with(kind + 1, Vec::new);
            }
            kernel.dsqs[kind].push(Dsq::default());
            debug_assert_eq!(kernel.dsqs[kind].len() as u64 - 1, dsq & 0xffff);
        });
        0
    }

    fn sim_dsq_insert(p: *mut task_struct, dsq: u64, slice: u64, enq_flags: u64) {
        with(|kernel| kernel.direct_dispatch(p, dsq, slice, None, enq_flags));
    }

    fn sim_dsq_insert_vtime(
        p: *mut task_struct,
        dsq: u64,
        slice: u64,
        vtime: u64,
        enq_flags: u64,
    ) {
        with(|kernel| kernel.direct_dispatch(p, dsq, slice, Some(vtime), enq_flags));
    }

    fn sim_dsq_move_to_local(dsq: u64) -> bool {
        K::current().pause();
        K::current().move_to_local(dsq)
    }

    fn sim_dsq_move_vtime(it: *mut bpf_iter_scx_dsq, p: *mut task_struct, dsq: u64) -> bool {
        K::current().pause();
        // SAFETY: bpf/ passes an iterator that it has opened, and a task that it was given.
        let (it, id) = unsafe { (&mut *it, Kernel::id_of(p)) };
        K::current().move_vtime(it, id, dsq)
    }

    fn sim_dsq_nr_queued(dsq: u64) -> i32 {
        K::current().pause();
        with(|kernel| {
            if is_local(dsq) {
                return kernel.cpus[kernel.here.index()].local.len() as i32;
            }
            kernel.spend(kernel.costs.look);
            kernel.dsq(dsq).len() as i32
        })
    }

    fn sim_iter_new(it: *mut bpf_iter_scx_dsq, dsq: u64, flags: u64) -> i32 {
        K::current().pause();
        with(|kernel| {
            kernel.spend(kernel.costs.look);
            let opened = bpf_iter_scx_dsq {
                dsq,
                flags,
                vtime: 0,
                dsq_seq: 0,
                opened_seq: kernel.dsq(dsq).seq,
                begun: false,
                sets_slice: false,
                sets_vtime: false,
                slice_to_set: 0,
                vtime_to_set: 0,
            };
            // SAFETY: bpf/ passes the address of an iterator.
            unsafe { it.write(opened) };
        });
        0
    }

    fn sim_iter_next(it: *mut bpf_iter_scx_dsq) -> *mut task_struct {
        K::current().pause();
        // SAFETY: bpf/ passes an iterator that it has opened.
        let it = unsafe { &mut *it };
        with(|kernel| kernel.iterate(it))
    }

    fn sim_reenqueue_local() -> u32 {
        K::current().reenqueue_local()
    }

    fn sim_idle_cpumask() -> *const cpumask {
        with(|kernel| &raw const kernel.idle.cpus)
    }

    fn sim_idle_smtmask() -> *const cpumask {
        with(|kernel| kernel.idle.cores_or_cpus())
    }

    fn sim_test_and_clear_cpu_idle(cpu: i32) -> bool {
        K::current().pause();
        with(|kernel| {
            let cpu = CpuId(cpu as u32);
            cpu.index() < kernel.cpus.len() && kernel.claim(cpu)
        })
    }

    fn sim_pick_idle_cpu(mask: *const cpumask, flags: u64) -> i32 {
        K::current().pause();
        // SAFETY: bpf/ passes a mask.
        let mask = unsafe { *mask };
        let whole_core = flags & native::SCX_PICK_IDLE_CORE != 0;
        with(|kernel| kernel.pick_idle(&mask, whole_core)).map_or(BUSY, |cpu| cpu.0 as i32)
    }

    fn sim_select_cpu_and(
        p: *mut task_struct,
        prev_cpu: i32,
        wake_flags: u64,
        mask: *const cpumask,
        _flags: u64,
    ) -> i32 {
        K::current().pause();
        // SAFETY: bpf/ passes a task that it was given, and a mask.
        let (id, mask) = unsafe { (Kernel::id_of(p), *mask) };
        let prev = CpuId(prev_cpu as u32);
        with(|kernel| kernel.select_cpu_and(id, prev, wake_flags, &mask))
            .map_or(BUSY, |cpu| cpu.0 as i32)
    }

    fn sim_cpuperf_cap(cpu: i32) -> u32 {
        with(|kernel| kernel.cpus[cpu as usize].frequency.capacity)
    }

    fn sim_cpuperf_set(cpu: i32, perf: u32) {
        with(|kernel| {
            let at_ns = kernel.at();
            kernel.cpus[cpu as usize].frequency.set(perf, at_ns);
        });
    }

    fn sim_kick_cpu(cpu: i32, flags: u64) {
        K::current().pause();
        with(|kernel| kernel.ask_for_kick(CpuId(cpu as u32), flags & native::SCX_KICK_IDLE == 0));
    }
}

/// The kernel's -EBUSY: no CPU is idle.
const BUSY: i32 = -16;

impl Kernel {
    /// A new timer, which is the first field of the value at an address.
    fn add_timer(&mut self, value: usize, callback: usize) {
        let at = self.timers.partition_point(|timer| timer.value < value);
        self.timers.insert(at, Timer { value, callback, started: 0 });
    }

    /// The timer fires on this CPU after `ns`, and after the time by which timers are overdue.
    fn start_timer(&mut self, value: usize, ns: u64) {
        let found = self.timers.binary_search_by_key(&value, |timer| timer.value);
        let number = found.expect("bpf/ has named a function for the timer");
        self.timers[number].started += 1;
        let started = self.timers[number].started;
        let is_heartbeat = self.maps.heartbeats.0.as_ptr().addr() == value;
        let once_ns = if is_heartbeat && started == 3 { self.costs.timer_once } else { 0 };
        let at_ns = self.at() + ns + self.costs.timer + once_ns;
        self.events.at(at_ns, Event::Timer { cpu: self.here, number, started });
    }
}

impl K {
    /// Locks the run queue of another CPU instead of that of the CPU that schedules, if one does.
    /// Whether it has locked it.
    fn lock_other(self, cpu: CpuId) -> bool {
        let here = self.here;
        let holds_own = self.cpus[here.index()].in_balance;
        if holds_own && cpu != here {
            self.unlock_run_queue(here);
        }
        if !holds_own || cpu != here {
            self.lock_run_queue(cpu);
        }
        holds_own
    }

    fn unlock_other(self, cpu: CpuId, held_own: bool) {
        let here = self.here;
        if !held_own || cpu != here {
            self.unlock_run_queue(cpu);
        }
        if held_own && cpu != here {
            self.lock_run_queue(here);
        }
    }

    /// As `consume_dispatch_q()`.
    fn move_to_local(mut self, number: u64) -> bool {
        self.spend(self.costs.look);
        let here = self.here;
        loop {
            let may_run = |id: &TaskId| {
                let task = self.task(*id);
                task.cpu() == here || task.may_run_on(here)
            };
            let found = self.dsq(number).iter().enumerate().find(|(_, id)| may_run(id));
            let passed = found.map_or(self.dsq(number).len(), |(passed, _)| passed);
            self.walked += passed as u64;
            let Some((_, id)) = found else { return false };
            let from = self.task(id).cpu();
            let held_own = self.lock_other(from);
            let is_there = self.task(id).cpu() == from
                && matches!(self.task(id).on, On::Dsq(dsq, _) if dsq == number);
            if is_there {
                self.unlink(id);
                if from != here {
                    self.spend(self.costs.take_over);
                    self.cpus[from.index()].nr_running -= 1;
                    self.cpus[here.index()].nr_running += 1;
                    self.task_mut(id).c.cpu = here.0 as i32;
                }
                self.task_mut(id).on = On::Local;
                self.cpus[here.index()].local.push_back(id);
            }
            self.unlock_other(from, held_own);
            if is_there {
                return true;
            }
        }
    }

    /// As `scx_dsq_move()`: not if the task has left, or came after the iterator was opened.
    fn move_vtime(mut self, it: &mut bpf_iter_scx_dsq, id: TaskId, to: u64) -> bool {
        let slice = it.sets_slice.then_some(it.slice_to_set);
        let vtime = it.sets_vtime.then_some(it.vtime_to_set);
        (it.sets_slice, it.sets_vtime) = (false, false);
        let cpu = self.task(id).cpu();
        let held_own = self.lock_other(cpu);
        let is_there = matches!(self.task(id).on, On::Dsq(from, position)
            if from == it.dsq && position.seq <= it.opened_seq);
        if is_there {
            let scx = &mut self.task_mut(id).c.scx;
            scx.slice = slice.unwrap_or(scx.slice);
            scx.dsq_vtime = vtime.unwrap_or(scx.dsq_vtime);
            let vtime = scx.dsq_vtime;
            self.unlink(id);
            self.insert(id, to, vtime);
        }
        self.unlock_other(cpu, held_own);
        is_there
    }

    /// As `scx_bpf_reenqueue_local()`: the tasks of this CPU's local queue go to ops.enqueue again.
    fn reenqueue_local(mut self) -> u32 {
        let inserting = self.inserting.take();
        let here = self.here;
        let tasks = std::mem::take(&mut self.cpus[here.index()].local);
        let count = tasks.len() as u32;
        for task in tasks {
            self.task_mut(task).on = On::Nothing;
            self.enqueue(task, native::SCX_ENQ_REENQ);
        }
        self.inserting = inserting;
        count
    }
}
