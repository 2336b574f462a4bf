//! Paths through the kernel that overlap: a path pauses where another CPU could go on, at the calls
//! of bpf/ and at run-queue locks, for as long as the seed says.
//!
//! Each path has a stack of its own (a coroutine). While one pauses, others run; its CPU does
//! nothing else until it has ended, as with interrupts disabled.
//!
//! Invariant: at most one path holds a run-queue lock, and a path that waits for one resumes when
//! that is free.

use super::K;
use crate::ids::CpuId;
use crate::simulator::events::Event;
use corosensei::Yielder;

/// One call of bpf/ in this number pauses.
const PAUSES: u8 = 4;
/// The longest pause. One in [`LONG_PAUSES`] may last for up to [`LONG_PAUSE_NS`].
const PAUSE_NS: u64 = 1000;
const LONG_PAUSES: u8 = 16;
const LONG_PAUSE_NS: u64 = 30_000;
/// In every third seed the host of a guest stops CPUs besides: at one call in this number, for up to
/// [`HOST_PAUSE_NS`], far longer than the gap of idle.bpf.h.
const HOST_PAUSES: u8 = 128;
const HOST_PAUSE_NS: u64 = 1_000_000;
/// How long a CPU waits until it checks again what another one does.
const SPIN_NS: u64 = 100;

/// Why a path pauses.
#[derive(Clone, Copy, Debug)]
pub enum Pause {
    /// Until this moment.
    Until(u64),
    /// Until the run-queue lock that it waits for is free.
    Lock,
}

/// What a path knows that the next one must not change.
#[derive(Clone, Copy, Default)]
pub struct Context {
    here: CpuId,
    rq_clock_ns: u64,
    inserting: Option<crate::simulator::TaskId>,
    path_ns: u64,
}

/// The paths that overlap.
pub struct Interleaving {
    random: fastrand::Rng,
    /// Whether there is a host that stops CPUs.
    in_guest: bool,
    /// The path that runs, and how it pauses.
    pub path: usize,
    pub yielder: *const Yielder<(), Pause>,
    /// Which CPUs are in a path, and what waits for its end.
    pub busy: Vec<bool>,
    pub deferred: Vec<Vec<Event>>,
    /// Which run queues are locked, and the paths that wait for that.
    locked: Vec<bool>,
    waiting: Vec<Vec<usize>>,
}

impl Interleaving {
    /// For a machine of `cpus` CPUs.
    pub fn new(seed: u64, cpus: usize) -> Interleaving {
        Interleaving {
            random: fastrand::Rng::with_seed(seed ^ 0x1eaf),
            in_guest: seed.is_multiple_of(3),
            path: 0,
            yielder: std::ptr::null(),
            busy: vec![false; cpus],
            deferred: vec![Vec::new(); cpus],
            locked: vec![false; cpus],
            waiting: vec![Vec::new(); cpus],
        }
    }
}

impl K {
    /// What the path that runs must find again when it resumes.
    pub fn context(self) -> Context {
        Context {
            here: self.here,
            rq_clock_ns: self.rq_clock_ns,
            inserting: self.inserting,
            path_ns: self.path_ns,
        }
    }

    /// A path resumes at this moment.
    pub fn resume(mut self, context: Context) {
        self.here = context.here;
        self.rq_clock_ns = context.rq_clock_ns;
        self.inserting = context.inserting;
        self.path_ns = context.path_ns;
    }

    fn suspend(self, pause: Pause) {
        let Some(interleaving) = &self.interleaving else { return };
        let yielder = interleaving.yielder;
        debug_assert!(!yielder.is_null());
        // SAFETY: it is that of the coroutine that runs, set when it began or resumed.
        unsafe { (*yielder).suspend(pause) };
    }

    /// Another CPU may go on here, if the seed says so.
    pub(super) fn pause(mut self) {
        self.be_written_to();
        let Some(interleaving) = &mut self.interleaving else { return };
        if interleaving.random.u8(0..PAUSES) > 0 {
            return;
        }
        let most_ns = if interleaving.in_guest && interleaving.random.u8(0..HOST_PAUSES) == 0 {
            HOST_PAUSE_NS
        } else if interleaving.random.u8(0..LONG_PAUSES) == 0 {
            LONG_PAUSE_NS
        } else {
            PAUSE_NS
        };
        let delay_ns = interleaving.random.u64(0..most_ns);
        self.suspend(Pause::Until(self.at() + delay_ns));
    }

    /// Whether a CPU is in the middle of a path.
    pub fn is_busy(self, cpu: CpuId) -> bool {
        self.interleaving.as_ref().is_some_and(|interleaving| interleaving.busy[cpu.index()])
    }

    /// Other CPUs go on for a moment.
    pub(super) fn spin(self) {
        self.suspend(Pause::Until(self.at() + SPIN_NS));
    }

    /// Locks the run queue of a CPU.
    pub(super) fn lock_run_queue(mut self, cpu: CpuId) {
        while let Some(interleaving) = &mut self.interleaving {
            if !std::mem::replace(&mut interleaving.locked[cpu.index()], true) {
                return;
            }
            let path = interleaving.path;
            interleaving.waiting[cpu.index()].push(path);
            self.suspend(Pause::Lock);
        }
    }

    /// Unlocks it.
    pub(super) fn unlock_run_queue(mut self, cpu: CpuId) {
        let at_ns = self.at();
        let Some(interleaving) = &mut self.interleaving else { return };
        debug_assert!(interleaving.locked[cpu.index()]);
        interleaving.locked[cpu.index()] = false;
        for path in std::mem::take(&mut interleaving.waiting[cpu.index()]) {
            self.plan(at_ns, Event::Resume(path));
        }
    }
}
