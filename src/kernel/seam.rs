//! The real machine below a domain thread: its pair of rings, its shared memory, and its sleep.
//!
//! Invariant: draining, deciding and submitting make no system call. [`BpfSeam::sleep`] makes one,
//! and a second one when the bell has woken it.

use super::groups::SharedGroups;
use super::rings::{DecisionRing, NoticeRing};
use super::shared::SharedDomain;
use crate::abi;
use crate::cpuset::CpuSet;
use crate::domains::seam::{Message, ReadGroup, Seam};
use crate::ids::DomainId;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// One domain of the real machine.
pub struct BpfSeam {
    notices: NoticeRing,
    decisions: DecisionRing,
    shared: SharedDomain,
    bell: Arc<EventFd>,
    others: Arc<[SharedDomain]>,
    bells: Arc<[Arc<EventFd>]>,
    groups: Arc<SharedGroups>,
}

impl BpfSeam {
    /// Puts the parts of domain `id` together: its rings, the memory of all domains, the bells
    /// of all domain threads, and the memory of the groups. A write to a bell wakes its thread.
    ///
    /// # Panics
    /// If there is no such domain.
    pub fn new(
        id: DomainId,
        (notices, decisions): (NoticeRing, DecisionRing),
        others: Arc<[SharedDomain]>,
        bells: Arc<[Arc<EventFd>]>,
        groups: Arc<SharedGroups>,
    ) -> Self {
        let shared = others[id.index()].clone();
        let bell = bells[id.index()].clone();
        Self { notices, decisions, shared, bell, others, bells, groups }
    }

    /// Sleeps until a notice arrives or the bell rings.
    ///
    /// When the thread leaves the CPU, the kernel also drains the decisions submitted so far.
    pub fn sleep(&mut self) {
        self.shared.set_sleeping(true);
        if !self.notices.has_messages() {
            // SAFETY: the ring owns the descriptor and outlives the call.
            let ring = unsafe { BorrowedFd::borrow_raw(self.notices.fd()) };
            let mut sources = [
                PollFd::new(ring, PollFlags::POLLIN),
                PollFd::new(self.bell.as_fd(), PollFlags::POLLIN),
            ];
            // An error means a signal or no memory for the wait; in both cases the loop polls
            // again.
            let _ = poll(&mut sources, PollTimeout::NONE);
            if sources[1].any() == Some(true) {
                let _ = self.bell.read();
            }
        }
        self.shared.set_sleeping(false);
    }

    /// Whether the kernel has decisions to drain.
    pub fn has_undrained(&self) -> bool {
        self.shared.has_undrained()
    }

    /// Whether the thread's dedicated CPU has other tasks, which are bound to it.
    pub fn shares_cpu(&self) -> bool {
        self.shared.shares_cpu()
    }

    /// Whether there are notices to drain.
    pub fn has_messages(&self) -> bool {
        self.notices.has_messages()
    }
}

impl Seam for BpfSeam {
    fn now_ns(&self) -> u64 {
        self.shared.state_since_ns()
    }

    fn pending(&self) -> usize {
        self.notices.pending()
    }

    fn drain(&mut self, receive: impl FnMut(Message<'_>)) -> usize {
        self.notices.drain(receive)
    }

    fn submit(&mut self, decision: &abi::decision) -> bool {
        let submitted = self.decisions.submit(decision);
        if submitted {
            self.shared.announce_decision();
        }
        submitted
    }

    fn idle(&self) -> CpuSet {
        self.shared.idle()
    }

    fn idle_in(&self, domain: DomainId) -> usize {
        self.others[domain.index()].idle_count()
    }

    fn call(&self, domain: DomainId) {
        // Only a full counter makes this fail, and then the bell rings already.
        let _ = self.bells[domain.index()].write(1);
    }

    fn ready(&self) -> usize {
        self.shared.ready()
    }

    fn vtime(&self) -> u64 {
        self.shared.policy_vtime()
    }

    fn nr_queued(&self) -> usize {
        self.shared.nr_queued()
    }

    fn groups(&self) -> ReadGroup {
        let groups = self.groups.clone();
        Box::new(move |slot| groups.group(slot))
    }
}
