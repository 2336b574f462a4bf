//! The kernel as bpf/ sees it: sched_ext's dispatch queues, idle CPUs, kicks, wake-ups and slices,
//! ring buffers, task storage and a timer, in virtual time.
//!
//! The scheduler that runs on it is bpf/ itself, compiled for this machine (`src/simulator/shim/`).
//! [`Kernel`] calls its callbacks; they call the functions of [`calls`], which work on the kernel
//! that made the call.
//!
//! | module | the kernel's |
//! |---|---|
//! | [`wakeup`] | `try_to_wake_up()`, `do_enqueue_task()`, changes of affinity and weight |
//! | [`schedule`] | `__schedule()`, `balance_one()`, the picking of a task |
//! | [`dsq`] | dispatch queues |
//! | [`groups`] | cgroups |
//! | [`idle`] | `scx_select_cpu_dfl()` and the masks of idle CPUs, kicks |
//! | [`rings`], [`seam`] | ring buffers; what user space sees of them |
//! | [`frequency`] | what is asked of the frequencies |
//! | [`real_time`] | the real-time class, which goes before sched_ext |
//! | [`task`] | `task_struct` |
//!
//! [`hostile`] is what a domain thread must not achieve.
//!
//! A path through the kernel, such as a wake-up or a dispatch, happens at one moment. Its costs add
//! up in `spent_ns`, and its consequences happen that much later.
//!
//! Invariant: while a callback runs, only the functions of [`calls`] use the kernel. Virtual time
//! never goes back.

mod calls;
pub mod dsq;
pub mod frequency;
pub mod groups;
pub mod hostile;
pub mod idle;
pub mod interleave;
pub mod native;
pub mod real_time;
pub mod rings;
pub mod schedule;
pub mod seam;
pub mod task;
pub mod wakeup;

use super::TaskId;
use super::costs::Costs;
use super::events::{Event, Events};
use crate::abi;
use crate::cpuset::CpuSet;
use crate::ids::{CpuId, DomainId};
use crate::kernel::load::{
    cpu_count, fill_cpu, fill_neighbours, fill_step, ring_bytes, shards, write_options,
};
use crate::kernel::options::RunOptions;
use crate::topology::preference::Preferences;
use crate::topology::{Domains, Topology};
use anyhow::{Result, ensure};
use dsq::Dsq;
use groups::{Groups, ROOT};
use hostile::Hostility;
use idle::Idle;
use interleave::Interleaving;
use native::{sim_map, sim_options, task_struct};
use rings::{Decisions, Notices};
use schedule::Cpu;
use seam::{Channel, Memory};
use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::Rc;
use task::{Birth, Task};

/// The version of the simulated kernel: 6.18.
const KERNEL: u32 = 6 << 16 | 18;

/// What a path through the kernel has done that others record.
pub enum Happening {
    /// A CPU has written a notice into the ring of a domain.
    Notice { domain: usize, task: TaskId, from_ns: u64, to_ns: u64 },
    /// A CPU has carried out a decision, which the thread began to make at `begun_ns`.
    CarriedOut { domain: usize, task: TaskId, begun_ns: u64, latency_ns: u64 },
}

/// An array of values that C reads and writes as well.
struct Shared<T>(Box<[T]>);

impl<T> Shared<T> {
    /// # Safety
    /// All zeros are a value of `T`.
    unsafe fn zeroed(count: usize) -> Shared<T> {
        // SAFETY: the caller says that zeros are a value.
        Shared((0..count).map(|_| unsafe { std::mem::zeroed() }).collect())
    }

    fn map(&mut self) -> sim_map {
        sim_map {
            memory: self.0.as_mut_ptr().cast(),
            entries: self.0.len() as u32,
            size: size_of::<T>() as u32,
        }
    }
}

impl Maps {
    /// The index of the value at an address in the map that has timers.
    fn timer_index(&self, value: usize) -> u32 {
        let first = self.alarms.0.as_ptr().addr();
        let index = value.wrapping_sub(first) / size_of::<native::slice_alarm>();
        if value >= first && index < self.alarms.0.len() { index as u32 } else { 0 }
    }
}

/// The memory of the maps.
struct Maps {
    domains: Shared<abi::domain_ctx>,
    neighbours: Shared<abi::neighbours>,
    cpus: Shared<abi::cpu_ctx>,
    run_delays: Shared<abi::run_delays>,
    masks: Shared<native::domain_mask>,
    preferences: Shared<abi::preference>,
    set_masks: Shared<native::domain_mask>,
    parts: Shared<native::part>,
    groups: Shared<abi::group>,
    group_loads: Shared<native::group_load>,
    group_sums: Shared<native::group_sum>,
    active_groups: Shared<native::active_word>,
    /// A ring is known by the address of its entry.
    notice_rings: Shared<u64>,
    decision_rings: Shared<u64>,
    heartbeats: Shared<native::heartbeat>,
    alarms: Shared<native::slice_alarm>,
    limits: Shared<abi::limit>,
    release_timers: Shared<native::release_timer>,
}

/// A timer of bpf/.
struct Timer {
    /// The address of the value that it is in, of which it is the first field.
    value: usize,
    callback: usize,
    /// How often it was started: an event of an earlier time is void.
    started: u64,
}

/// The kernel.
pub struct Kernel {
    pub costs: Costs,
    pub events: Events,
    pub now_ns: u64,
    /// What the current path through the kernel has cost so far.
    pub spent_ns: u64,
    /// The CPU of that path.
    pub here: CpuId,
    /// When that path began.
    pub path_ns: u64,
    /// The clock of the run queue that it has locked.
    rq_clock_ns: u64,
    /// Whether the clocks of idle CPUs stand still, as with an unstable TSC.
    pub unstable_clocks: bool,
    /// How paths overlap, if they do.
    pub interleaving: Option<Interleaving>,
    pub cpus: Vec<Cpu>,
    pub online: CpuSet,
    idle: Idle,
    tasks: Vec<Option<NonNull<Task>>>,
    /// The real-time tasks that wait for a CPU, in their sequence.
    real_time: Vec<TaskId>,
    /// The queues of each kind, by number.
    dsqs: Vec<Vec<Dsq>>,
    channels: Vec<Rc<Channel>>,
    memory: Memory,
    /// Domains with decisions that the kernel cannot see yet, and when it sees the next.
    unpublished: Vec<usize>,
    next_publication_ns: u64,
    /// The task whose ops.select_cpu or ops.enqueue may insert it.
    inserting: Option<TaskId>,
    timers: Vec<Timer>,
    flags: u64,
    /// Calls of the scheduler's callbacks, and decisions carried out.
    pub scheduling_events: u64,
    /// How many tasks the current ops.dispatch has walked past that its CPU may not run, and the
    /// most of one.
    pub(super) walked: u64,
    pub longest_walk: u64,
    happenings: Vec<Happening>,
    /// What the domain threads do to the kernel side, if they are not to be trusted.
    hostility: Option<Rc<RefCell<Hostility>>>,
    options: sim_options,
    maps: Box<Maps>,
    masks: Vec<NonNull<native::bpf_cpumask>>,
    /// What runs on an idle CPU.
    swapper: NonNull<Task>,
    groups: Groups,
}

thread_local! {
    /// The kernel whose callback runs on this thread.
    static CURRENT: Cell<Option<K>> = const { Cell::new(None) };
}

fn no_options() -> sim_options {
    // SAFETY: they are numbers and booleans.
    unsafe { std::mem::zeroed() }
}

impl Kernel {
    /// The kernel of a machine with bpf/ loaded; [`Kernel::attach`] starts that.
    ///
    /// # Errors
    /// If there are more domains or CPUs than bpf/ has numbers for.
    pub fn load(
        topology: &Topology,
        domains: &Domains,
        options: &RunOptions,
        preferences: &Preferences,
        dedicated: &CpuSet,
        costs: Costs,
        now_ns: u64,
    ) -> Result<K> {
        let count = cpu_count(domains) as usize;
        let mut data = no_options();
        write_options!(data, options, domains, preferences);
        data.nr_cpus = cpu_count(domains);
        data.nr_possible_cpus = topology.cpus().len() as u32;
        let flags = native::SCX_OPS_KEEP_BUILTIN_IDLE
            | native::SCX_OPS_ALLOW_QUEUED_WAKEUP
            | native::SCX_OPS_ENQ_EXITING
            | native::SCX_OPS_ENQ_LAST;
        let steps = preferences.all_steps().count();
        let slots = abi::limits_GROUPS_MAX as usize;
        // SAFETY: the values of all maps are made of integers and of pointers that may be null.
        let mut maps = unsafe {
            Box::new(Maps {
                domains: Shared::zeroed(domains.len()),
                neighbours: Shared::zeroed(domains.len()),
                cpus: Shared::zeroed(count),
                run_delays: Shared::zeroed(count),
                masks: Shared::zeroed(domains.len() + 1),
                preferences: Shared::zeroed(steps.max(1)),
                set_masks: Shared::zeroed(preferences.set_count().max(1)),
                parts: Shared::zeroed(abi::limits_PARTS_MAX as usize),
                groups: Shared::zeroed(slots),
                group_loads: Shared::zeroed(shards(domains) as usize * slots),
                group_sums: Shared::zeroed(slots),
                active_groups: Shared::zeroed(slots / 64),
                notice_rings: Shared::zeroed(domains.len()),
                decision_rings: Shared::zeroed(domains.len()),
                heartbeats: Shared::zeroed(1),
                alarms: Shared::zeroed(count + domains.len()),
                limits: Shared::zeroed(abi::limits_GROUPS_MAX as usize),
                release_timers: Shared::zeroed(1),
            })
        };
        for (domain, value) in domains.iter().zip(&mut maps.neighbours.0) {
            fill_neighbours(value, domain);
        }
        for (cpu, value) in (0..).zip(&mut maps.cpus.0) {
            fill_cpu(value, CpuId(cpu), domains, dedicated, preferences);
        }
        for (step, value) in preferences.all_steps().zip(&mut maps.preferences.0) {
            fill_step(value, step, preferences);
        }
        let channels = domains.iter().map(|domain| {
            let bytes = |record| ring_bytes(domain.cpus.len(), record);
            let notices = Notices::new(bytes(size_of::<abi::notice>()), domain.id.0);
            let decisions = Decisions::new(bytes(size_of::<abi::decision>()));
            Rc::new(Channel {
                notices: RefCell::new(notices),
                decisions: RefCell::new(decisions),
                now_ns: Cell::new(0),
                drained: Cell::new(0),
                called: RefCell::default(),
            })
        });
        let channels = channels.collect();
        let first = maps.domains.0.as_mut_ptr();
        let first = NonNull::new(first).expect("a box is not null");
        let group = NonNull::new(maps.groups.0.as_mut_ptr()).expect("a box is not null");
        let memory = Memory::new(
            NonNull::slice_from_raw_parts(first, domains.len()),
            NonNull::slice_from_raw_parts(group, maps.groups.0.len()),
        );
        let mut groups = Groups::new();
        let birth = Birth {
            flags: native::PF_KTHREAD as u32,
            name: "swapper",
            cpu: CpuId(0),
            cpus: topology.cpus(),
            weight: crate::policy::DEFAULT_WEIGHT,
            real_time: 0,
            group: ROOT,
        };
        let swapper = Task::create(TaskId(u32::MAX - 1), &birth, groups.of_tasks(ROOT));
        Ok(K(NonNull::from(Box::leak(Box::new(Kernel {
            costs,
            events: Events::default(),
            now_ns,
            spent_ns: 0,
            here: topology.cpus().first().expect("a machine has a CPU"),
            path_ns: now_ns,
            rq_clock_ns: now_ns,
            unstable_clocks: false,
            interleaving: None,
            cpus: Cpu::all(topology, domains, count, now_ns),
            online: *topology.cpus(),
            idle: Idle::all(topology),
            tasks: Vec::new(),
            real_time: Vec::new(),
            dsqs: Vec::new(),
            channels,
            memory,
            unpublished: Vec::new(),
            next_publication_ns: u64::MAX,
            inserting: None,
            timers: Vec::new(),
            flags,
            scheduling_events: 0,
            walked: 0,
            longest_walk: 0,
            happenings: Vec::new(),
            hostility: None,
            options: data,
            maps,
            masks: Vec::new(),
            swapper,
            groups,
        })))))
    }

    /// Makes this thread's C side that of this machine.
    pub fn enter_thread(&mut self) {
        let maps = &mut *self.maps;
        let all = [
            (native::SIM_DOMAINS, maps.domains.map()),
            (native::SIM_NEIGHBOURS, maps.neighbours.map()),
            (native::SIM_CPUS, maps.cpus.map()),
            (native::SIM_RUN_DELAYS, maps.run_delays.map()),
            (native::SIM_MASKS, maps.masks.map()),
            (native::SIM_PREFERENCES, maps.preferences.map()),
            (native::SIM_SET_MASKS, maps.set_masks.map()),
            (native::SIM_PARTS, maps.parts.map()),
            (native::SIM_GROUPS, maps.groups.map()),
            (native::SIM_GROUP_LOADS, maps.group_loads.map()),
            (native::SIM_GROUP_SUMS, maps.group_sums.map()),
            (native::SIM_ACTIVE_GROUPS, maps.active_groups.map()),
            (native::SIM_NOTICE_RINGS, maps.notice_rings.map()),
            (native::SIM_DECISION_RINGS, maps.decision_rings.map()),
            (native::SIM_HEARTBEATS, maps.heartbeats.map()),
            (native::SIM_ALARMS, maps.alarms.map()),
            (native::SIM_LIMITS, maps.limits.map()),
            (native::SIM_RELEASE_TIMERS, maps.release_timers.map()),
        ];
        debug_assert!(all.len() == native::SIM_MAPS as usize);
        debug_assert!((0..).zip(&all).all(|(number, (of, _))| number == *of));
        let maps = all.map(|(_, map)| map);
        // SAFETY: the options and the maps are complete; they are copied, and the memory of the
        // maps is the kernel's, which outlives every callback.
        unsafe { native::sim_enter(&raw const self.options, maps.as_ptr(), KERNEL) };
    }

    /// A new event: a path through the kernel begins at `now_ns`.
    pub fn begin(&mut self, now_ns: u64) {
        debug_assert!(now_ns >= self.now_ns);
        self.now_ns = now_ns;
        self.spent_ns = 0;
        self.path_ns = now_ns;
        self.rq_clock_ns = now_ns;
        self.publish();
    }

    /// A path through the kernel begins on a CPU, after the one that the CPU is in already.
    pub fn enter_cpu(&mut self, cpu: CpuId) {
        let c = &self.cpus[cpu.index()];
        let running_ns = if c.current.is_some() { c.since_ns } else { 0 };
        self.spent_ns = c.in_kernel_until_ns.max(running_ns).saturating_sub(self.now_ns);
        self.here = cpu;
        self.rq_clock_ns = self.at();
        self.publish();
    }

    /// What the clock of the path's CPU shows: `scx_bpf_now()`.
    fn clock(&self) -> u64 {
        let c = &self.cpus[self.here.index()];
        let behind_ns =
            if c.current.is_some() { c.behind_ns } else { self.idle_clock_is_behind(c) };
        self.rq_clock_ns - behind_ns.min(self.rq_clock_ns)
    }

    /// By how much the clock of an idle CPU is behind. With an unstable TSC it goes on for a tick, and
    /// stands still until the first tick of the next task. (The kernel sets it at interrupts, but not
    /// while a runnable task of the CPU is on a queue of sched_ext, as a throttled one is.)
    fn idle_clock_is_behind(&self, cpu: &Cpu) -> u64 {
        if !self.unstable_clocks {
            return 0;
        }
        self.rq_clock_ns.saturating_sub(cpu.idle_since_ns + self.costs.tick)
    }

    /// The moment at which the current path through the kernel is.
    pub fn at(&self) -> u64 {
        self.now_ns + self.spent_ns
    }

    /// Costs time.
    pub fn spend(&mut self, cost_ns: u64) {
        self.spent_ns += cost_ns;
        if self.at() >= self.next_publication_ns {
            self.publish();
        }
    }

    /// Lets the kernel's side see the decisions that are made by now.
    fn publish(&mut self) {
        let at_ns = self.at();
        if at_ns < self.next_publication_ns {
            return;
        }
        let (channels, memory) = (&self.channels, self.memory);
        let mut next_ns = u64::MAX;
        self.unpublished.retain(|&domain| {
            let mut decisions = channels[domain].decisions.borrow_mut();
            // SAFETY: no reference to the memory exists.
            unsafe { (*memory.domain(domain).as_ptr()).submitted += decisions.publish(at_ns) };
            next_ns = next_ns.min(decisions.next_ns().unwrap_or(u64::MAX));
            decisions.next_ns().is_some()
        });
        self.next_publication_ns = next_ns;
    }

    /// After the times of a domain's fresh decisions were set.
    pub fn submitted(&mut self, domain: usize) {
        let next_ns = self.channels[domain].decisions.borrow().next_ns();
        if let Some(next_ns) = next_ns {
            if !self.unpublished.contains(&domain) {
                self.unpublished.push(domain);
            }
            self.next_publication_ns = self.next_publication_ns.min(next_ns);
        }
    }

    /// What has happened since the last call.
    pub fn take_happenings(&mut self) -> Vec<Happening> {
        std::mem::take(&mut self.happenings)
    }

    /// Gives the list back, so that it need not grow again.
    pub fn recycle(&mut self, mut happenings: Vec<Happening>) {
        happenings.clear();
        if self.happenings.is_empty() {
            self.happenings = happenings;
        }
    }

    /// Whether something has happened.
    pub fn has_happenings(&self) -> bool {
        !self.happenings.is_empty()
    }

    /// The domain threads are not to be trusted from now on.
    pub fn distrust(&mut self, hostility: Hostility) {
        let hostility = Rc::new(RefCell::new(hostility));
        for channel in &self.channels {
            channel.decisions.borrow_mut().hostility = Some(hostility.clone());
        }
        self.hostility = Some(hostility);
    }

    /// bpf/ calls the kernel; meanwhile a domain thread that is not to be trusted may write to what
    /// it shares with bpf/.
    fn be_written_to(&mut self) {
        let Some(hostility) = &self.hostility else { return };
        let Some([target, value, bits]) = hostility.borrow_mut().write() else { return };
        let domain = usize::from(target) % self.channels.len();
        let domc = self.memory.domain(domain).as_ptr();
        match target / 64 {
            0 => {
                // SAFETY: no reference to the memory exists.
                unsafe { (*domc).sleeping = value.into() };
            }
            1 if value < 64 => {
                // SAFETY: as above.
                unsafe { (*domc).submitted = (*domc).submitted.wrapping_add(value.into()) };
            }
            _ => self.channels[domain].decisions.borrow_mut().write(target, value, bits),
        }
    }

    /// What must be 0 once all tasks have ended.
    ///
    /// # Panics
    /// If something is not.
    pub fn check_counts(&self) {
        for domain in 0..self.channels.len() {
            let domc = self.domain(domain);
            assert_eq!((domc.tasks, domc.unnotified), (0, 0), "domain {domain}");
        }
        let threads = self.channels.len() as u32;
        let loads = self.maps.group_loads.0.iter();
        assert_eq!(loads.fold(0, |sum, it| sum | it.load), 0, "groups count tasks as runnable");
        assert_eq!(self.tasks_in_groups(), threads, "groups have tasks that have ended");
        assert!(self.maps.cpus.0.iter().all(|cpu| cpu.own_sent == 0), "tasks are on their way");
    }

    /// The rings of a domain.
    pub fn channel(&self, domain: usize) -> &Rc<Channel> {
        &self.channels[domain]
    }

    /// The memory that bpf/ shares with user space.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// A domain's part of it.
    pub fn domain(&self, domain: usize) -> &abi::domain_ctx {
        // SAFETY: C writes to the memory only while `self` is borrowed for writing.
        unsafe { self.memory.domain(domain).as_ref() }
    }

    /// What BPF has counted of a CPU.
    pub fn run_delays(&self, cpu: CpuId) -> &abi::run_delays {
        &self.maps.run_delays.0[cpu.index()]
    }

    /// A domain thread says whether it is about to sleep.
    pub fn set_sleeping(&mut self, domain: usize, sleeping: bool) {
        // SAFETY: no reference to the memory exists.
        unsafe { (*self.memory.domain(domain).as_ptr()).sleeping = sleeping.into() };
    }

    /// Whether other tasks want the CPU that is dedicated to a domain's thread.
    pub fn shares_cpu(&self, domain: usize) -> bool {
        self.domain(domain).shared_cpu != 0
    }

    /// A task, which must have been created.
    pub fn task(&self, id: TaskId) -> &Task {
        let task = self.tasks[id.index()].expect("the task was created");
        // SAFETY: tasks live as long as the kernel. C writes to them only while `self` is borrowed
        // for writing.
        unsafe { task.as_ref() }
    }

    /// A task.
    pub fn task_mut(&mut self, id: TaskId) -> &mut Task {
        let mut task = self.tasks[id.index()].expect("the task was created");
        // SAFETY: as above, and `self` is borrowed for writing.
        unsafe { task.as_mut() }
    }

    /// The task of a pid that may be any number.
    fn find(&self, pid: u32) -> Option<TaskId> {
        let id = TaskId(pid.checked_sub(1)?);
        self.tasks.get(id.index())?.map(|_| id)
    }

    /// What C is given for a task.
    fn pointer(&self, id: TaskId) -> *mut task_struct {
        self.tasks[id.index()].expect("the task was created").as_ptr().cast()
    }

    /// The number of the task that C means.
    ///
    /// # Safety
    /// `p` came from [`Kernel::pointer`].
    unsafe fn id_of(p: *const task_struct) -> TaskId {
        // SAFETY: the caller says that it is a task.
        TaskId::of_pid(unsafe { (*p).pid } as u32)
    }

    /// Plans the wake-up of a domain's thread by what this CPU does.
    pub fn wake_thread_at(&mut self, at_ns: u64, domain: usize) {
        let cpu = self.here;
        self.events.at(at_ns, Event::ThreadWake { domain: DomainId(domain as u32), cpu });
    }
}

/// The kernel as paths through it use it: its address.
///
/// A path calls bpf/, which calls back, and other paths go on meanwhile. So no path keeps a
/// reference to the kernel over a call: each use of a handle lends the kernel for one expression.
#[derive(Clone, Copy)]
pub struct K(NonNull<Kernel>);

impl Deref for K {
    type Target = Kernel;

    fn deref(&self) -> &Kernel {
        // SAFETY: the kernel outlives its handles (Machine drops it), and is used by one thread.
        // Callers keep the reference for an expression, in which no call of bpf/ happens.
        unsafe { self.0.as_ref() }
    }
}

impl DerefMut for K {
    fn deref_mut(&mut self) -> &mut Kernel {
        // SAFETY: as above.
        unsafe { self.0.as_mut() }
    }
}

impl K {
    /// The kernel whose callback runs on this thread.
    fn current() -> K {
        CURRENT.get().expect("a callback runs")
    }

    /// Frees the kernel.
    ///
    /// # Safety
    /// No handle is used any more.
    pub unsafe fn free(self) {
        // SAFETY: Kernel::load() has made it from a box, and the caller says that this is its end.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }

    /// A path begins on a CPU.
    pub fn enter_cpu(mut self, cpu: CpuId) {
        Kernel::enter_cpu(&mut self, cpu);
    }

    /// Costs time.
    pub fn spend(mut self, cost_ns: u64) {
        Kernel::spend(&mut self, cost_ns);
    }

    /// Plans an event.
    pub fn plan(mut self, at_ns: u64, event: Event) {
        self.events.at(at_ns, event);
    }

    /// Calls a callback of bpf/.
    fn call<R>(self, callback: impl FnOnce(&native::sched_ext_ops) -> R) -> R {
        CURRENT.set(Some(self));
        // SAFETY: the table is constant.
        callback(unsafe { &native::manyland_ops })
    }

    /// Attaches bpf/, and the CPUs become idle.
    ///
    /// # Errors
    /// If bpf/ refuses.
    pub fn attach(mut self, domains: &Domains) -> Result<()> {
        self.enter_thread();
        // SAFETY: no callback runs, and the machine that this thread had before is gone.
        unsafe { native::sim_begin() };
        for domain in domains.iter() {
            let mut domc = self.memory.domain(domain.id.index());
            // SAFETY: no other reference to the memory exists.
            let domc = unsafe { domc.as_mut() };
            domc.nr_cpus = domain.cpus.len() as u32;
        }
        let err = self.call(|ops| {
            let init = ops.init.expect("bpf/main.bpf.c has it");
            // SAFETY: as in call().
            unsafe { init() }
        });
        ensure!(err == 0, "the kernel side cannot be initialised: error {}", -err);
        self.introduce_root();
        for cpu in self.online.iter().collect::<Vec<_>>() {
            self.here = cpu;
            self.update_idle(cpu, true);
        }
        Ok(())
    }

    /// Creates a task, and lets bpf/ know of it. It is the child of what runs on this CPU, or the
    /// thread of a domain.
    ///
    /// # Errors
    /// If bpf/ refuses.
    pub fn create(
        mut self,
        id: TaskId,
        birth: &Birth<'_>,
        thread_of: Option<DomainId>,
    ) -> Result<()> {
        if self.tasks.len() <= id.index() {
            self.tasks.resize(id.index() + 1, None);
        }
        assert!(self.tasks[id.index()].is_none(), "{id:?} was created before");
        let group = self.groups.of_tasks(birth.group);
        self.tasks[id.index()] = Some(Task::create(id, birth, group));
        if let Some(domain) = thread_of {
            self.mark_thread(id, domain)?;
        }
        let p = self.pointer(id);
        let mut args = native::scx_init_task_args { fork: thread_of.is_none() };
        let err = self.call(|ops| {
            let (init, enable) = (ops.init_task, ops.enable);
            let (init, enable) = init.zip(enable).expect("bpf/main.bpf.c has them");
            let set_cpumask = ops.set_cpumask.expect("bpf/main.bpf.c has it");
            // SAFETY: as in call(); the task and the arguments outlive the callbacks.
            unsafe {
                let err = init(p, &raw mut args);
                if err == 0 && birth.real_time == 0 {
                    enable(p);
                    // As `switching_to_scx()`: the task is older than the scheduler.
                    if !args.fork {
                        set_cpumask(p, (*p).cpus_ptr);
                    }
                }
                err
            }
        });
        ensure!(err == 0, "the kernel side refuses a task: error {}", -err);
        Ok(())
    }

    /// The task makes itself known as the thread of a domain, on this CPU.
    fn mark_thread(mut self, id: TaskId, domain: DomainId) -> Result<()> {
        let here = self.here.index();
        let before = self.cpus[here].current.replace(id);
        let mut mark = crate::abi::thread_mark { domain: domain.0 };
        // SAFETY: as in call(); the context outlives the program.
        let err = self.call(|_| unsafe { native::mark_thread(&raw mut mark) });
        self.cpus[here].current = before;
        ensure!(err == 0, "the kernel side does not take a domain thread: error {}", -err);
        Ok(())
    }

    /// A task that has ended leaves bpf/.
    pub fn exit(mut self, id: TaskId) {
        self.task_mut(id).alive = false;
        let is_enabled = self.task(id).real_time == 0;
        let p = self.pointer(id);
        let mut args = native::scx_exit_task_args { cancelled: false };
        self.call(|ops| {
            let (disable, exit) = (ops.disable, ops.exit_task);
            let (disable, exit) = disable.zip(exit).expect("bpf/main.bpf.c has them");
            // SAFETY: as in call(); the task and the arguments outlive the callbacks.
            unsafe {
                if is_enabled {
                    disable(p);
                }
                exit(p, &raw mut args);
            }
        });
    }

    /// Whether a timer of bpf/ was started anew since its start of this number.
    pub fn is_restarted(&self, timer: usize, started: u64) -> bool {
        self.timers[timer].started != started
    }

    /// A timer of bpf/ fires.
    pub fn fire_timer(self, number: usize) {
        let timer = &self.timers[number];
        let (callback, value) = (timer.callback, timer.value);
        let mut key = self.maps.timer_index(value);
        self.call(|_| {
            type Callback =
                extern "C" fn(*mut std::ffi::c_void, *mut u32, *mut std::ffi::c_void) -> i32;
            // SAFETY: it is the address of such a function, which bpf/ has named for the timer.
            let callback: Callback = unsafe { std::mem::transmute(callback) };
            callback(
                std::ptr::null_mut(),
                &raw mut key,
                std::ptr::with_exposed_provenance_mut(value),
            );
        });
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        for task in self.tasks.drain(..).flatten().chain([self.swapper]) {
            // SAFETY: no callback runs, so nothing points to tasks.
            unsafe { Task::free(task) };
        }
        for mask in self.masks.drain(..) {
            // SAFETY: it came from a box (sim_create_cpumask), and no callback runs.
            drop(unsafe { Box::from_raw(mask.as_ptr()) });
        }
    }
}
