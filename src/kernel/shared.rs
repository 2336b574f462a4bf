//! The memory of the domains that BPF and user space share.
//!
//! Invariant: every access is atomic, and only the side that `bpf/abi.h` names writes a field.

use super::mapping::{Access, Mapping};
use crate::abi;
use crate::abi::statistics::{DomainStatistics, Latencies, Percentiles, statistics};
use crate::cpuset::{CpuSet, MAX_CPUS};
use crate::domains::latency::{BUCKETS, Snapshot};
use crate::ids::DomainId;
use anyhow::{Context, Result, ensure};
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The mapped memory of all domains.
pub struct SharedDomains(Mapping);

// SAFETY: the mapping is only accessed atomically.
unsafe impl Sync for SharedDomains {}

impl SharedDomains {
    /// Maps the array of `count` domains.
    ///
    /// # Errors
    /// If `count` is 0, or if the kernel refuses the mapping.
    pub fn new(map: BorrowedFd<'_>, count: usize) -> Result<Arc<Self>> {
        ensure!(count > 0, "a machine has at least one domain");
        let mapping = Mapping::of_values::<abi::domain_ctx>(map, count, Access::Write)
            .context("cannot map the memory of the domains")?;
        Ok(Arc::new(Self(mapping)))
    }

    /// The memory of one domain.
    ///
    /// # Panics
    /// If there is no such domain.
    pub fn domain(self: &Arc<Self>, id: DomainId) -> SharedDomain {
        let ctx = self.0.value(id.index()).unwrap_or_else(|| panic!("there is no domain {id}"));
        SharedDomain { ctx, _owner: self.clone() }
    }
}

/// The memory of one domain.
#[derive(Clone)]
pub struct SharedDomain {
    ctx: NonNull<abi::domain_ctx>,
    _owner: Arc<SharedDomains>,
}

// SAFETY: the mapping belongs to the process and is only accessed atomically.
unsafe impl Send for SharedDomain {}
// SAFETY: as above.
unsafe impl Sync for SharedDomain {}

/// An atomic view of a field of the shared memory.
macro_rules! field {
    ($self:ident.$($name:ident).+ as $atomic:ty) => {
        // SAFETY: the field lies in the mapping, is aligned, and is only accessed atomically.
        unsafe { <$atomic>::from_ptr(&raw mut (*$self.ctx.as_ptr()).$($name).+) }
    };
}

impl SharedDomain {
    fn idle_words(&self) -> &[AtomicU64; MAX_CPUS / 64] {
        // SAFETY: the array lies in the mapping, is aligned, and is only accessed atomically; the
        // type of one of its words is that of an AtomicU64.
        unsafe { &*(&raw const (*self.ctx.as_ptr()).idle).cast() }
    }

    /// The idle CPUs of the domain, at this moment.
    pub fn idle(&self) -> CpuSet {
        let words = self.idle_words();
        CpuSet::from_words(std::array::from_fn(|i| words[i].load(Ordering::Relaxed)))
    }

    /// How many CPUs of the domain are idle, at this moment.
    pub fn idle_count(&self) -> usize {
        field!(self.nr_idle as AtomicU32).load(Ordering::Relaxed) as usize
    }

    /// Publishes that one more decision is in the ring.
    pub fn announce_decision(&self) {
        // Release pairs with BPF's load when it drains: the decision itself comes first.
        field!(self.submitted as AtomicU64).fetch_add(1, Ordering::Release);
    }

    /// Whether the kernel has decisions left to drain.
    pub fn has_undrained(&self) -> bool {
        let drained = field!(self.drained as AtomicU64).load(Ordering::Relaxed);
        field!(self.submitted as AtomicU64).load(Ordering::Relaxed) != drained
    }

    /// Whether the thread's dedicated CPU has other tasks, which are bound to it.
    pub fn shares_cpu(&self) -> bool {
        field!(self.shared_cpu as AtomicU32).load(Ordering::Relaxed) != 0
    }

    /// Says that the thread is about to sleep, or that it is awake.
    ///
    /// After `true` the caller checks the ring once more. The store and the fence are sequentially
    /// consistent, so the caller sees every notice whose sender has not seen the flag. The other
    /// half of this protocol is in `bpf/notify.bpf.h`.
    pub fn set_sleeping(&self, sleeping: bool) {
        field!(self.sleeping as AtomicU32).store(u32::from(sleeping), Ordering::SeqCst);
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    /// How many tasks were ready (decided, not yet running) when the kernel last counted them.
    pub fn ready(&self) -> usize {
        field!(self.ready as AtomicU32).load(Ordering::Relaxed) as usize
    }

    /// The policy's virtual time: the largest vtime of all tasks that have begun to run by a
    /// decision. Tasks that the safety net has run move it on.
    pub fn policy_vtime(&self) -> u64 {
        field!(self.policy_vtime as AtomicU64).load(Ordering::Relaxed)
    }

    /// How many tasks were ready or waiting when the kernel last counted them.
    pub fn nr_queued(&self) -> usize {
        field!(self.nr_queued as AtomicU32).load(Ordering::Relaxed) as usize
    }

    /// When the domain thread was last switched in, in nanoseconds of the kernel's scheduling
    /// clock.
    pub fn state_since_ns(&self) -> u64 {
        field!(self.state_since_ns as AtomicU64).load(Ordering::Relaxed)
    }

    /// Copies the counts of decision latencies since attach.
    pub fn read_decision_latency(&self, snapshot: &mut Snapshot) {
        // SAFETY: the array lies in the mapping, is aligned, and is only accessed atomically; the
        // type of one of its words is that of an AtomicU64.
        let counts: &[AtomicU64; BUCKETS] =
            unsafe { &*(&raw const (*self.ctx.as_ptr()).latency).cast() };
        snapshot.copy_from(counts);
    }

    /// How long the domain's CPUs wait for its thread now, in nanoseconds.
    pub fn patience_ns(&self) -> u64 {
        field!(self.patience_ns as AtomicU64).load(Ordering::Relaxed)
    }

    /// What the domain has counted since attach.
    pub fn counts(&self) -> abi::domain_counts {
        let mut counts = abi::domain_counts::ZERO;
        macro_rules! load {
            (COUNTER $name:ident) => {
                counts.$name = field!(self.counts.$name as AtomicU64).load(Ordering::Relaxed)
            };
            ($other:ident $name:ident) => {};
        }
        macro_rules! load_all {
            ($(DOMAIN($kind:ident, $name:ident, $_:literal))* $(PROCESS $__:tt)*) => {
                $(load!($kind $name);)*
            };
        }
        statistics!(load_all);
        counts
    }

    /// What the domain has done from `then` to `now`, and its gauges at the last run of the program
    /// `gauge`.
    pub fn statistics(
        &self,
        then: &abi::domain_counts,
        now: &abi::domain_counts,
        latencies: &Latencies<Percentiles>,
    ) -> DomainStatistics {
        macro_rules! value {
            (COUNTER $name:ident) => {
                now.$name - then.$name
            };
            (GAUGE $name:ident) => {
                field!(self.$name as AtomicU32).load(Ordering::Relaxed).into()
            };
            (LATENCY $name:ident) => {
                latencies.$name
            };
        }
        macro_rules! all {
            ($(DOMAIN($kind:ident, $name:ident, $_:literal))* $(PROCESS $__:tt)*) => {
                DomainStatistics { $($name: value!($kind $name)),* }
            };
        }
        statistics!(all)
    }

    /// Describes the domain to BPF, before attach.
    pub fn describe(&self, cpus: &CpuSet) {
        field!(self.nr_cpus as AtomicU32).store(cpus.len() as u32, Ordering::Release);
    }
}
