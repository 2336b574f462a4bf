//! The seam of a simulated machine: the rings of a domain and its real shared memory, in this
//! process.
//!
//! Invariant: as on a real machine, the domain thread sees nothing of the kernel's side but this.

use super::rings::{Decisions, Notices};
use crate::abi;
use crate::cpuset::CpuSet;
use crate::domains::seam::{Message, ReadGroup, Seam};
use crate::ids::DomainId;
use crate::kernel::groups;
use crate::policy::Group;
use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
use std::rc::Rc;

/// The rings of a domain, and what its thread has done since the machine asked last.
pub struct Channel {
    /// Kernel to thread.
    pub notices: RefCell<Notices>,
    /// Thread to kernel.
    pub decisions: RefCell<Decisions>,
    /// The moment of the thread's round.
    pub now_ns: Cell<u64>,
    /// The notices that this round has drained.
    pub drained: Cell<usize>,
    /// The domains whose bells it has rung.
    pub called: RefCell<Vec<DomainId>>,
}

/// The memory of all domains, and that of the groups.
#[derive(Clone, Copy)]
pub struct Memory(NonNull<[abi::domain_ctx]>, NonNull<[abi::group]>);

// SAFETY: a machine and its schedulers are on one thread, which owns the memory.
unsafe impl Send for Memory {}

impl Memory {
    /// The arrays of their memory.
    pub fn new(domains: NonNull<[abi::domain_ctx]>, groups: NonNull<[abi::group]>) -> Memory {
        Memory(domains, groups)
    }

    /// The group of a slot, if the slot is one's.
    fn group(&self, slot: u32) -> Option<Group> {
        // SAFETY: the machine owns the memory and outlives its schedulers; nothing else runs while
        // a scheduler reads it.
        unsafe { groups::group(self.1.cast(), slot) }
    }

    /// The memory of a domain, which must exist.
    pub fn domain(&self, domain: usize) -> NonNull<abi::domain_ctx> {
        assert!(domain < self.0.len(), "there is no domain {domain}");
        // SAFETY: the array has that many domains.
        unsafe { self.0.cast().add(domain) }
    }
}

/// What a domain's scheduler sees of the machine.
pub struct KernelSeam {
    channel: Rc<Channel>,
    memory: Memory,
    domain: usize,
}

impl KernelSeam {
    /// The seam of a domain.
    pub fn new(channel: Rc<Channel>, memory: Memory, domain: usize) -> KernelSeam {
        KernelSeam { channel, memory, domain }
    }

    fn read<T>(&self, domain: usize, field: impl FnOnce(&abi::domain_ctx) -> T) -> T {
        // SAFETY: the machine owns the memory and outlives its schedulers; nothing else runs while
        // a scheduler reads it.
        field(unsafe { self.memory.domain(domain).as_ref() })
    }
}

impl Seam for KernelSeam {
    fn now_ns(&self) -> u64 {
        self.read(self.domain, |domc| domc.state_since_ns)
    }

    fn pending(&self) -> usize {
        self.channel.notices.borrow().pending()
    }

    fn drain(&mut self, receive: impl FnMut(Message<'_>)) -> usize {
        let drained = self.channel.notices.borrow_mut().drain(self.channel.now_ns.get(), receive);
        self.channel.drained.set(drained);
        drained
    }

    fn submit(&mut self, decision: &abi::decision) -> bool {
        self.channel.decisions.borrow_mut().submit(decision)
    }

    fn idle(&self) -> CpuSet {
        self.read(self.domain, |domc| CpuSet::from_words(domc.idle))
    }

    fn idle_in(&self, domain: DomainId) -> usize {
        self.read(domain.index(), |domc| domc.nr_idle as usize)
    }

    fn call(&self, domain: DomainId) {
        self.channel.called.borrow_mut().push(domain);
    }

    fn ready(&self) -> usize {
        self.read(self.domain, |domc| domc.ready as usize)
    }

    fn vtime(&self) -> u64 {
        self.read(self.domain, |domc| domc.policy_vtime)
    }

    fn nr_queued(&self) -> usize {
        self.read(self.domain, |domc| domc.nr_queued as usize)
    }

    fn groups(&self) -> ReadGroup {
        let memory = self.memory;
        Box::new(move |slot| memory.group(slot))
    }
}
