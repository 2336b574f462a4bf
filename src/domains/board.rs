//! What the schedulers of all domains let each other see: virtual times, and public deques.
//!
//! Invariant: a domain's virtual time and its end of a deque are written by its own thread only.

use super::handover::Exchange;
use super::sync::Deque;
use crate::ids::DomainId;
use crate::policy::Task;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the schedulers of all domains let each other see.
pub struct Board {
    /// Where each domain's virtual time stands.
    virtual_times: Box<[AtomicU64]>,
    /// The public deques; `None` where domains do not steal.
    pub(super) exchange: Option<Exchange<Task>>,
}

impl Board {
    /// For so many domains, which steal from each other or not; and the deque of each.
    pub fn new(domains: usize, steal: bool) -> (Arc<Self>, Vec<Deque<Task>>) {
        let (exchange, deques) = Exchange::new(domains);
        let board = Self {
            virtual_times: (0..domains).map(|_| AtomicU64::new(0)).collect(),
            exchange: (steal && domains > 1).then_some(exchange),
        };
        (Arc::new(board), deques)
    }

    /// The virtual time of a domain at the end of its last round; `None` if there is no such domain.
    pub(super) fn virtual_time(&self, domain: DomainId) -> Option<u64> {
        Some(self.virtual_times.get(domain.index())?.load(Ordering::Relaxed))
    }

    /// Lets the others see the virtual time of a domain.
    pub(super) fn publish_virtual_time(&self, domain: DomainId, time: u64) {
        self.virtual_times[domain.index()].store(time, Ordering::Relaxed);
    }
}
