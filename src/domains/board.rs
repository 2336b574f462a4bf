//! What the schedulers of all domains see of each other: virtual times, and public deques.
//!
//! Invariant: only a domain's own thread writes its virtual time and publishes in its deque.

use super::handover::Exchange;
use super::sync::Deque;
use crate::ids::DomainId;
use crate::policy::Task;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the schedulers of all domains see of each other.
pub struct Board {
    /// Each domain's virtual time at the end of its last round.
    virtual_times: Box<[AtomicU64]>,
    /// The public deques; `None` where domains do not steal.
    pub(super) exchange: Option<Exchange<Task>>,
}

impl Board {
    /// The board of `domains` domains, and the deque of each. They steal from each other if `steal`
    /// says so and there are at least two.
    pub fn new(domains: usize, steal: bool) -> (Arc<Self>, Vec<Deque<Task>>) {
        let (exchange, deques) = Exchange::new(domains);
        let board = Self {
            virtual_times: (0..domains).map(|_| AtomicU64::new(0)).collect(),
            exchange: (steal && domains > 1).then_some(exchange),
        };
        (Arc::new(board), deques)
    }

    /// The virtual time of a domain at the end of its last round; `None` if there is no such
    /// domain.
    pub(super) fn virtual_time(&self, domain: DomainId) -> Option<u64> {
        Some(self.virtual_times.get(domain.index())?.load(Ordering::Relaxed))
    }

    /// Publishes the virtual time of a domain.
    pub(super) fn publish_virtual_time(&self, domain: DomainId, time: u64) {
        self.virtual_times[domain.index()].store(time, Ordering::Relaxed);
    }
}
