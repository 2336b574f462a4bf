//! Loads the BPF side for a list of domains, and attaches it.
//!
//! The sequence matters: the options go into read-only data before load; the rings, the domains and
//! their CPUs are described after load and before attach. The domain threads make themselves known
//! in between, so that BPF knows them when it meets them.
//!
//! Invariant: no task is scheduled by us before [`Loaded::attach`], and none after [`Attached`] is
//! dropped.

use super::dump::{ExitDump, PIECE, pieces};
use super::exit::Exit;
use super::groups::SharedGroups;
use super::probe;
use super::rings::{DecisionRing, HEADER, NoticeRing};
use super::run_delays::RunDelays;
use super::shared::SharedDomains;
use super::skeleton::{BpfSkel, BpfSkelBuilder, OpenBpfSkel};
use crate::abi;
use crate::cpuset::CpuSet;
use crate::ids::{CpuId, DomainId};
use crate::kernel::options::RunOptions;
use crate::kernel::threads;
use crate::topology::preference::{Preferences, Step};
use crate::topology::{Domain, Domains};
use anyhow::{Context, Result, ensure};
use libbpf_rs::btf::types;
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{
    Link, MapCore, MapFlags, MapHandle, MapType, OpenObject, PrintLevel, ProgramInput,
};
use nix::errno::Errno;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A ring holds this many messages for each CPU of its domain, within the bounds below.
const MESSAGES_PER_CPU: usize = 256;
const MESSAGES_MIN: usize = 1024;
const MESSAGES_MAX: usize = 64 * 1024;

/// The bytes of a ring for `cpus` CPUs whose records are `record` bytes long: a power of two.
pub(crate) fn ring_bytes(cpus: usize, record: usize) -> u32 {
    let messages = (cpus * MESSAGES_PER_CPU).clamp(MESSAGES_MIN, MESSAGES_MAX);
    let bytes = (messages * (record + HEADER as usize)).next_power_of_two();
    u32::try_from(bytes).expect("the bounds above keep a ring below 4 GiB")
}

/// What to say if the kernel does not accept the BPF side.
fn refusal() -> String {
    let what = "cannot load the BPF side into this kernel";
    match probe::release() {
        Some((release, version)) if version < probe::OLDEST => {
            let (major, minor) = probe::OLDEST;
            format!("{what}, Linux {release}; use {major}.{minor} or newer")
        }
        _ => format!("{what}; start it with -v, and the kernel says why"),
    }
}

/// What libbpf says while it loads is for `--verbose`; the result says the rest.
fn listen() {
    fn print(_: PrintLevel, message: String) {
        log::debug!("{}", message.trim_end());
    }
    libbpf_rs::set_print(Some((PrintLevel::Info, print)));
}

/// The BPF side in the kernel, not yet attached.
pub struct Loaded<'obj> {
    skeleton: BpfSkel<'obj>,
    shared: Arc<SharedDomains>,
    groups: Arc<SharedGroups>,
    run_delays: RunDelays,
    dump: ExitDump,
    /// Inner maps: the outer maps hold them too, but descriptors are needed to map them.
    rings: Vec<(MapHandle, MapHandle)>,
    /// One more than the highest number of a CPU.
    nr_cpus: u32,
}

impl<'obj> Loaded<'obj> {
    /// Loads the BPF side into `storage`.
    ///
    /// # Errors
    /// If the kernel refuses a map or a program.
    pub fn new(
        storage: &'obj mut MaybeUninit<OpenObject>,
        options: &RunOptions,
        domains: &Domains,
        preferences: &Preferences,
    ) -> Result<Self> {
        listen();
        let btf = probe::vmlinux()?;
        let mut open =
            BpfSkelBuilder::default().open(storage).context("cannot open the BPF side")?;
        set_enumerators(&mut open, &btf)?;
        let nr_cpus = online_cpu_count(domains);
        set_options(&mut open, options, domains, preferences, nr_cpus)?;
        set_flags(&mut open, options, &btf)?;
        choose_preemption_hook(&mut open, &btf);
        choose_group_callbacks(&mut open, &btf);
        set_sizes(&mut open, domains, preferences, nr_cpus, pieces(options.exit_dump_len))?;
        let skeleton = open.load().with_context(refusal)?;
        let shared = SharedDomains::new(skeleton.maps.domains.as_fd(), domains.len())?;
        let groups = SharedGroups::new(skeleton.maps.groups.as_fd())?;
        let run_delays = RunDelays::new(skeleton.maps.run_delays.as_fd(), nr_cpus)?;
        let dump = ExitDump::new(skeleton.maps.exit_dump.as_fd(), pieces(options.exit_dump_len))?;
        let rings = Vec::new();
        let mut loaded = Self { skeleton, shared, groups, run_delays, dump, rings, nr_cpus };
        loaded.create_rings(domains)?;
        Ok(loaded)
    }

    /// The memory of the domains.
    pub fn shared(&self) -> &Arc<SharedDomains> {
        &self.shared
    }

    /// The memory of the groups.
    pub fn groups(&self) -> &Arc<SharedGroups> {
        &self.groups
    }

    fn create_rings(&mut self, domains: &Domains) -> Result<()> {
        let create = |kind: MapType, name: &str, bytes: u32| {
            let options = libbpf_rs::libbpf_sys::bpf_map_create_opts {
                sz: size_of::<libbpf_rs::libbpf_sys::bpf_map_create_opts>() as u64,
                ..Default::default()
            };
            MapHandle::create(kind, Some(name), 0, 0, bytes, &options)
                .with_context(|| format!("cannot create a ring of {bytes} bytes"))
        };
        for domain in domains.iter() {
            let cpus = domain.cpus.len();
            let key = domain.id.0.to_ne_bytes();
            let notices =
                create(MapType::RingBuf, "notices", ring_bytes(cpus, size_of::<abi::notice>()))?;
            let decisions = create(
                MapType::UserRingBuf,
                "decisions",
                ring_bytes(cpus, size_of::<abi::decision>()),
            )?;
            let maps = &self.skeleton.maps;
            for (outer, inner) in
                [(&maps.notice_rings, &notices), (&maps.decision_rings, &decisions)]
            {
                outer
                    .update(&key, &inner.as_fd().as_raw_fd().to_ne_bytes(), MapFlags::ANY)
                    .with_context(|| format!("cannot give domain {} its queues", domain.id))?;
            }
            self.rings.push((notices, decisions));
        }
        Ok(())
    }

    /// Maps the pair of queues of a domain.
    ///
    /// # Errors
    /// If the kernel refuses a mapping.
    pub fn queues(&self, domain: DomainId) -> Result<(NoticeRing, DecisionRing)> {
        let (notices, decisions) = &self.rings[domain.index()];
        Ok((
            NoticeRing::new(notices.as_fd().try_clone_to_owned()?, notices.max_entries())?,
            DecisionRing::new(decisions.as_fd().try_clone_to_owned()?, decisions.max_entries())?,
        ))
    }

    /// What a domain thread makes itself known with.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub fn mark(&self) -> Result<ThreadMark> {
        let program = self.skeleton.progs.mark_thread.as_fd();
        Ok(ThreadMark(program.try_clone_to_owned().context("cannot keep a BPF program open")?))
    }

    /// Describes the domains and attaches. The domain threads have made themselves known
    /// ([`ThreadMark`]); `dedicated` are the CPUs they keep to themselves. `preferences` are those
    /// that it was loaded with.
    ///
    /// # Errors
    /// If the kernel refuses; another scheduler may have come first.
    pub fn attach(
        mut self,
        domains: &Domains,
        dedicated: &CpuSet,
        preferences: &Preferences,
    ) -> Result<Attached<'obj>> {
        for domain in domains.iter() {
            self.shared.domain(domain.id).describe(&domain.cpus);
            describe(
                &self.skeleton.maps.neighbours_of,
                domain.id.0,
                |neighbours: &mut abi::neighbours| fill_neighbours(neighbours, domain),
            )
            .context("cannot describe the domains to the kernel")?;
        }
        for cpu in 0..self.nr_cpus {
            describe(&self.skeleton.maps.cpus, cpu, |value: &mut abi::cpu_ctx| {
                fill_cpu(value, CpuId(cpu), domains, dedicated, preferences);
            })
            .context("cannot describe the CPUs to the kernel")?;
        }
        self.describe_preferences(preferences)?;
        let link = self.skeleton.maps.manyland_ops.attach_struct_ops().context(
            match probe::attached() {
                Some(other) => format!("cannot attach: scheduler \"{other}\" is already running"),
                None if probe::has_isolcpus() => "cannot attach: a kernel that was started with \
                     isolcpus= refuses all sched_ext schedulers; isolate CPUs by a partition of \
                     cpusets instead"
                    .into(),
                None => "cannot attach: the kernel refused the scheduler; `dmesg` says why".into(),
            },
        )?;
        let exec = self
            .skeleton
            .progs
            .note_exec
            .attach()
            .context("cannot be notified of tasks that start another program")?;
        let switches = self
            .skeleton
            .progs
            .note_switch
            .autoload()
            .then(|| self.skeleton.progs.note_switch.attach())
            .transpose()
            .context("cannot be notified of CPUs that a higher scheduling class preempts")?;
        Ok(Attached { loaded: self, link: Some(link), _exec: exec, _switches: switches })
    }

    /// Writes the table of preferences: the lists of all domains, one after the other.
    fn describe_preferences(&self, preferences: &Preferences) -> Result<()> {
        for (key, step) in (0_u32..).zip(preferences.all_steps()) {
            let fill = |value: &mut abi::preference| fill_step(value, step, preferences);
            describe(&self.skeleton.maps.preferences, key, fill)
                .context("cannot describe the kinds of core to the kernel")?;
        }
        Ok(())
    }
}

/// Lists the other domains, nearest first.
pub(crate) fn fill_neighbours(neighbours: &mut abi::neighbours, domain: &Domain) {
    for (to, from) in neighbours.nearest.iter_mut().zip(&domain.nearest) {
        *to = from.0 as u16;
    }
    let (mut run, mut before) = (0, None);
    for id in &domain.nearest {
        if before > Some(id) && run + 1 < neighbours.runs.len() {
            run += 1;
        }
        before = Some(id);
        neighbours.runs[run][id.index() / 64] |= 1 << (id.index() % 64);
        neighbours.nr_runs = run as u32 + 1;
    }
}

/// Describes a CPU.
pub(crate) fn fill_cpu(
    value: &mut abi::cpu_ctx,
    cpu: CpuId,
    domains: &Domains,
    dedicated: &CpuSet,
    preferences: &Preferences,
) {
    let domain = domains.domain_of(cpu).map(|id| &domains.as_slice()[id.index()]);
    value.domain = domain.map_or(abi::none_NO_DOMAIN, |domain| domain.id.0);
    value.dedicated = dedicated.contains(cpu).into();
    if let Some((set, rank)) = preferences.set_of(cpu) {
        value.set = set as u32;
        value.rank = rank.into();
    }
    value.sibling = domain.map_or(cpu, |domain| domain.next_sibling(cpu)).0;
}

/// Describes a step of the table of preferences.
pub(crate) fn fill_step(value: &mut abi::preference, step: &Step, preferences: &Preferences) {
    let set = preferences.set(step.set);
    value.set = step.set as u32;
    value.domain = set.domain.0 as u16;
    value.rank = set.rank;
    value.whole_core = step.whole_core.into();
}

/// The BPF program by which a domain thread makes itself known, before attach. Only the thread
/// itself can do so: in a namespace it does not know the number by which the kernel knows it.
pub struct ThreadMark(OwnedFd);

impl ThreadMark {
    /// Marks the calling thread as that of `domain`.
    ///
    /// # Errors
    /// If the kernel has no memory for the mark.
    pub fn set(&self, domain: DomainId) -> Result<()> {
        let mut mark = abi::thread_mark { domain: domain.0 };
        let mut options = libbpf_rs::libbpf_sys::bpf_test_run_opts {
            sz: size_of::<libbpf_rs::libbpf_sys::bpf_test_run_opts>() as u64,
            ctx_in: (&raw mut mark).cast(),
            ctx_size_in: size_of_val(&mark) as u32,
            ..Default::default()
        };
        // SAFETY: the program's descriptor is open, and the options and the context that they
        // point to outlive the call.
        let error = unsafe {
            libbpf_rs::libbpf_sys::bpf_prog_test_run_opts(self.0.as_raw_fd(), &raw mut options)
        };
        ensure!(error == 0, "cannot run a BPF program: {}", Errno::from_raw(-error));
        ensure!(options.retval == 0, "{}", Errno::from_raw(-(options.retval as i32)));
        Ok(())
    }
}

/// How many groups (cgroups that have the CPU controller) the BPF side tells apart.
#[derive(Clone, Copy, Debug, Default)]
pub struct GroupCounts {
    /// All, the root included.
    pub all: u32,
    /// How many slots have been a group's, except that of the root. Higher ones are free.
    pub used_slots: u32,
    /// Cgroups for which there was no slot.
    pub folded: u32,
    /// Tasks that count as runnable, when the gauges were last refreshed.
    pub runnable: u32,
    /// Those that a limit can throttle, and those that have used it up, when the gauges were last
    /// refreshed.
    pub limited: u32,
    /// See `limited`.
    pub throttled: u32,
    /// How often a group had used up its CPU time, since attach.
    pub throttles: u64,
    /// For how long, all groups together.
    pub throttled_ns: u64,
    /// Tasks that have ended after their cgroup was removed, when the gauges were last refreshed.
    pub outliving: u32,
}

/// The scheduler at work. Dropping it detaches.
pub struct Attached<'obj> {
    loaded: Loaded<'obj>,
    link: Option<Link>,
    _exec: Link,
    _switches: Option<Link>,
}

impl Attached<'_> {
    /// The memory of the domains.
    pub fn shared(&self) -> &Arc<SharedDomains> {
        &self.loaded.shared
    }

    /// How long tasks waited for a CPU after their wake-ups.
    pub fn run_delays(&self) -> &RunDelays {
        &self.loaded.run_delays
    }

    /// The descriptor that becomes readable when the scheduler has left.
    pub fn exits(&self) -> BorrowedFd<'_> {
        self.loaded.skeleton.maps.exits.as_fd()
    }

    /// Why it left; `None` if it has not.
    pub fn exit(&self) -> Option<Exit> {
        let bss = self.loaded.skeleton.maps.bss_data.as_deref()?;
        // SAFETY: the kernel's side writes the record once, the kind last; a volatile read keeps
        // the compiler from reading the mapped memory earlier.
        let record: abi::exit_record = unsafe {
            std::ptr::read_volatile((&raw const bss.exit_record).cast::<abi::exit_record>())
        };
        Exit::from_record(&record)
    }

    /// What each group was due and had, when the gauges were last refreshed.
    pub fn groups(&self) -> &SharedGroups {
        &self.loaded.groups
    }

    /// How many groups there are.
    pub fn group_counts(&self) -> GroupCounts {
        let Some(bss) = self.loaded.skeleton.maps.bss_data.as_deref() else {
            return GroupCounts::default();
        };
        // SAFETY: BPF writes the numbers while they are read, so each is read once, as it is.
        unsafe {
            GroupCounts {
                all: std::ptr::read_volatile(&raw const bss.group_state.nr),
                used_slots: std::ptr::read_volatile(&raw const bss.group_state.used_slots),
                folded: std::ptr::read_volatile(&raw const bss.group_state.folded),
                runnable: std::ptr::read_volatile(&raw const bss.group_state.runnable),
                outliving: std::ptr::read_volatile(&raw const bss.group_state.outliving),
                limited: std::ptr::read_volatile(&raw const bss.group_state.limited),
                throttled: std::ptr::read_volatile(&raw const bss.group_state.throttled),
                throttles: std::ptr::read_volatile(&raw const bss.nr_throttles),
                throttled_ns: std::ptr::read_volatile(&raw const bss.throttled_ns),
            }
        }
    }

    /// Brings the gauges in the shared memory (waiting, ready) up to date.
    ///
    /// # Errors
    /// If the kernel refuses to run the program.
    pub fn refresh_gauges(&self) -> Result<()> {
        self.loaded
            .skeleton
            .progs
            .gauge
            .test_run(ProgramInput::default())
            .context("cannot ask the kernel how many tasks wait")?;
        Ok(())
    }

    /// The kernel's dump, once an error has ended the scheduler; empty before.
    pub fn dump(&self) -> String {
        self.loaded.dump.text()
    }

    /// Gives the machine back to the kernel's own scheduler, and answers why it was ours no more.
    pub fn detach(mut self) -> Option<Exit> {
        drop(self.link.take());
        self.exit()
    }
}

/// The value of a map.
///
/// # Safety
/// It is made of integers alone.
unsafe trait MapValue {}

// SAFETY: bpf/abi.h has integers in it.
unsafe impl MapValue for abi::neighbours {}
// SAFETY: as above.
unsafe impl MapValue for abi::cpu_ctx {}
// SAFETY: as above.
unsafe impl MapValue for abi::preference {}

/// Writes the value of `key`: zero, except for what `fill` sets.
fn describe<T: MapValue>(
    map: &impl MapCore,
    key: u32,
    fill: impl FnOnce(&mut T),
) -> libbpf_rs::Result<()> {
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: zero is a value of a struct of integers.
    fill(unsafe { value.assume_init_mut() });
    // SAFETY: all its bytes were zeroed above and have not moved since, its padding too.
    let bytes = unsafe { std::slice::from_raw_parts(value.as_ptr().cast(), size_of::<T>()) };
    map.update(&key.to_ne_bytes(), bytes, MapFlags::ANY)
}

/// Writes what follows from the options of a run and from the machine's domains into the options of
/// the kernel's side: `data` is its read-only data, or the simulator's copy of it.
macro_rules! write_options {
    ($data:expr, $options:expr, $domains:expr, $preferences:expr) => {{
        let (options, domains, preferences) = ($options, $domains, $preferences);
        let slices = options.slices();
        $data.slice_ns = slices.base.as_nanos() as u64;
        $data.slice_min_ns = slices.min.as_nanos() as u64;
        $data.patience_ns = options.patience().as_nanos() as u64;
        $data.standing = options.standing;
        $data.strict = options.strict;
        $data.no_steal = options.no_steal;
        $data.no_preempt = options.no_preempt;
        $data.short_slices = options.slice_min_us.is_some();
        $data.partial = options.partial;
        $data.nr_shards = $crate::kernel::load::shards(domains);
        $data.no_freq_scaling = options.no_freq_scaling;
        let offered = $crate::kernel::load::offered_cpus(domains, options);
        $data.nr_offered_cpus = u32::try_from(offered)?;
        $data.nr_domains = u32::try_from(domains.len())?;
        $data.smt = domains.iter().any($crate::topology::Domain::has_smt);
        $data.by_kind = preferences.by_kind();
        $data.prefer_slow =
            preferences.prefer() == $crate::topology::preference::Prefer::Efficiency;
        $data.nr_steps = u32::try_from(preferences.steps($crate::ids::DomainId(0)).len())?;
        $data.nr_sets = u32::try_from(preferences.set_count())?;
    }};
}
#[cfg(feature = "simulator")]
pub(crate) use write_options;

/// In how many shards groups count their runnable tasks: one for each domain, unless there are many.
pub(crate) fn shards(domains: &Domains) -> u32 {
    domains.len().min(32) as u32
}

/// One more than the highest number of a CPU of the domains.
pub(crate) fn cpu_count(domains: &Domains) -> u32 {
    let highest = domains.iter().flat_map(|d| d.cpus.iter()).max();
    highest.map_or(1, |cpu| cpu.0 + 1)
}

/// One more than the highest number of a CPU of the domains, or of one that is online.
fn online_cpu_count(domains: &Domains) -> u32 {
    let online = listed_cpus("online").unwrap_or(CpuSet::EMPTY);
    let highest = online.iter().max().map_or(0, |cpu| cpu.0 + 1);
    cpu_count(domains).max(highest)
}

/// A list of CPUs of the kernel's.
fn listed_cpus(name: &str) -> Option<CpuSet> {
    let list = std::fs::read_to_string(format!("/sys/devices/system/cpu/{name}")).ok()?;
    CpuSet::from_list(&list)
}

/// How many CPUs domains offer to tasks, or a few less: each domain thread may keep one.
pub(crate) fn offered_cpus(domains: &Domains, options: &RunOptions) -> usize {
    let own = if options.dedicate { domains.len() } else { 0 };
    domains.iter().map(|domain| domain.cpus.len()).sum::<usize>() - own
}

/// The pid of khugepaged, a reclaim thread that has no flag of its own; 0 if there is none.
fn khugepaged() -> i32 {
    threads::named(|name| name == "khugepaged").first().copied().unwrap_or(0)
}

fn set_options(
    open: &mut OpenBpfSkel<'_>,
    options: &RunOptions,
    domains: &Domains,
    preferences: &Preferences,
    nr_cpus: u32,
) -> Result<()> {
    let data = open.maps.rodata_data.as_deref_mut().context("the BPF side has no options")?;
    write_options!(data, options, domains, preferences);
    data.nr_cpus = nr_cpus;
    // Without the list no number of CPUs says that a task may run anywhere.
    let possible = listed_cpus("possible").map_or(usize::MAX, |cpus| cpus.len());
    data.nr_possible_cpus = u32::try_from(possible).unwrap_or(u32::MAX);
    data.khugepaged_pid = khugepaged();
    data.nr_dump_pieces = pieces(options.exit_dump_len);
    Ok(())
}

fn set_flags(
    open: &mut OpenBpfSkel<'_>,
    options: &RunOptions,
    btf: &libbpf_rs::btf::Btf<'_>,
) -> Result<()> {
    // A flag that this kernel does not have asks for what it does anyway.
    let flag = |name| probe::enumerator(btf, "scx_ops_flags", name).unwrap_or(0);
    let mut flags = flag("SCX_OPS_KEEP_BUILTIN_IDLE")
        | flag("SCX_OPS_ALLOW_QUEUED_WAKEUP")
        | flag("SCX_OPS_ENQ_EXITING")
        | flag("SCX_OPS_ENQ_LAST");
    if options.partial {
        flags |= flag("SCX_OPS_SWITCH_PARTIAL");
    }
    let ops = open.struct_ops.manyland_ops_mut();
    ops.flags = flags;
    ops.exit_dump_len = pieces(options.exit_dump_len) * PIECE as u32;
    for (to, from) in ops.name.iter_mut().zip(probe::NAME.bytes().chain([0])) {
        *to = from as std::ffi::c_char;
    }
    Ok(())
}

/// How the BPF side learns that a higher scheduling class preempts a CPU: by a tracepoint where the
/// kernel lets it empty the CPU's queue from there, else by the callback that was made for it.
fn choose_preemption_hook(open: &mut OpenBpfSkel<'_>, btf: &libbpf_rs::btf::Btf<'_>) {
    let from_anywhere =
        btf.type_by_name::<types::Func<'_>>("scx_bpf_reenqueue_local___v2").is_some();
    if from_anywhere {
        open.struct_ops.manyland_ops_mut().cpu_release = std::ptr::null_mut();
    }
    open.progs.note_switch.set_autoload(from_anywhere);
}

/// Leaves out the callbacks for cgroups that the kernel does not have: those of cpu.max came with
/// Linux 6.17, those of cpu.idle later, and all need CONFIG_EXT_GROUP_SCHED.
fn choose_group_callbacks(open: &mut OpenBpfSkel<'_>, btf: &libbpf_rs::btf::Btf<'_>) {
    let ops = open.struct_ops.manyland_ops_mut();
    macro_rules! leave_out_what_lacks {
        ($($member:ident)+) => {
            $(if !probe::has_member(btf, "sched_ext_ops", stringify!($member)) {
                ops.$member = std::ptr::null_mut();
            })+
        };
    }
    leave_out_what_lacks!(
        cgroup_init cgroup_exit cgroup_move cgroup_set_weight cgroup_set_bandwidth cgroup_set_idle
    );
}

fn set_sizes(
    open: &mut OpenBpfSkel<'_>,
    domains: &Domains,
    preferences: &Preferences,
    nr_cpus: u32,
    dump_pieces: u32,
) -> Result<()> {
    let count = u32::try_from(domains.len())?;
    let maps = &mut open.maps;
    for map in [
        &mut maps.domains,
        &mut maps.neighbours_of,
        &mut maps.notice_rings,
        &mut maps.decision_rings,
    ] {
        map.set_max_entries(count)?;
    }
    // The last one is that of all domains.
    maps.masks.set_max_entries(count + 1)?;
    maps.cpus.set_max_entries(nr_cpus)?;
    maps.run_delays.set_max_entries(nr_cpus)?;
    maps.alarms.set_max_entries(nr_cpus + count)?;
    maps.exit_dump.set_max_entries(dump_pieces.max(1))?;
    maps.group_loads.set_max_entries(shards(domains) * abi::limits_GROUPS_MAX)?;
    let steps = preferences.all_steps().count();
    maps.preferences.set_max_entries(u32::try_from(steps.max(1))?)?;
    maps.set_masks.set_max_entries(u32::try_from(preferences.set_count().max(1))?)?;
    Ok(())
}

/// Gives the BPF side the running kernel's values of the enumerators it uses.
fn set_enumerators(open: &mut OpenBpfSkel<'_>, btf: &libbpf_rs::btf::Btf<'_>) -> Result<()> {
    let data = open.maps.rodata_data.as_deref_mut().context("the BPF side has no options")?;
    macro_rules! set {
        ($($enumeration:literal: $($field:ident = $name:literal),+;)+) => {
            $($(data.$field = probe::enumerator(btf, $enumeration, $name).with_context(|| {
                format!("cannot attach: this kernel's sched_ext does not know {}", $name)
            })?;)+)+
        };
    }
    set! {
        "scx_dsq_id_flags":
            __SCX_DSQ_LOCAL = "SCX_DSQ_LOCAL",
            __SCX_DSQ_LOCAL_ON = "SCX_DSQ_LOCAL_ON";
        "scx_enq_flags":
            __SCX_ENQ_WAKEUP = "SCX_ENQ_WAKEUP",
            __SCX_ENQ_PREEMPT = "SCX_ENQ_PREEMPT",
            __SCX_ENQ_LAST = "SCX_ENQ_LAST";
        "scx_kick_flags":
            __SCX_KICK_IDLE = "SCX_KICK_IDLE";
        "scx_ent_flags":
            __SCX_TASK_QUEUED = "SCX_TASK_QUEUED";
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Granularity, Source, Topology};

    /// The domains that a walk over the runs meets, if all are in the set.
    fn walked(neighbours: &abi::neighbours) -> Vec<DomainId> {
        let mut walked = Vec::new();
        for run in &neighbours.runs[..neighbours.nr_runs as usize] {
            let numbers = 0..64 * run.len() as u32;
            walked.extend(numbers.filter(|id| run[*id as usize / 64] >> (id % 64) & 1 != 0));
        }
        walked.into_iter().map(DomainId).collect()
    }

    #[test]
    fn runs_of_neighbours_keep_their_sequence() {
        for machine in [
            "L3Cache:1 Core:2 PU:1",
            "L3Cache:6 Core:2 PU:1",
            "Package:2 NUMANode:2 L3Cache:3 Core:1 PU:1",
            "L3Cache:130 Core:1 PU:1",
        ] {
            let topology = Topology::load(&Source::Synthetic(machine.to_owned())).unwrap();
            for domain in &topology.partition(Granularity::L3).unwrap() {
                let none = || abi::neighbours { nearest: [0; _], nr_runs: 0, runs: [[0; _]; _] };
                let mut neighbours = none();
                fill_neighbours(&mut neighbours, domain);
                assert_eq!(walked(&neighbours), domain.nearest, "{machine}: {}", domain.id);
            }
        }
    }
}
