//! A scheduler's part in stealing: what it gives away, reclaims, and steals from others.
//!
//! [`handover`](super::handover) tells the protocol between the threads.

use super::scheduler::Scheduler;
use super::seam::Seam;
use super::sync::Deque;
use crate::policy::Task;

impl<S: Seam> Scheduler<S> {
    /// Reclaims the published tasks that no thief has stolen; whether there were any.
    pub(super) fn reclaim(&mut self) -> bool {
        let mut any = false;
        while let Some(task) = self.deque.take_back() {
            self.policy.enqueue(task, &self.context);
            any = true;
        }
        any
    }

    /// Steals tasks of other domains, nearest first, for CPUs that have nothing to do here.
    pub(super) fn steal(&mut self) {
        let Some(exchange) = &self.board.exchange else { return };
        let me = self.context.domain.index();
        if !exchange.is_called(me) {
            return;
        }
        exchange.answer(me);
        let idle = self.seam.idle().intersection(&self.context.cpus).len();
        // This thread's own CPU will be idle too, unless a task is ready for it.
        let own = usize::from(self.shares_cpu && self.context.ready == 0);
        let mut room = (idle + own).saturating_sub(self.policy.waiting());
        for &victim in &self.nearest {
            let source = self.board.virtual_time(victim).expect("a domain has a virtual time");
            while room > 0
                && let Some(mut task) = exchange.steal(victim.index())
            {
                room -= 1;
                self.policy.adopt(&mut task, source);
                self.policy.enqueue(task, &self.context);
            }
        }
    }

    /// Publishes tasks that find no idle CPU here for domains that have one, and calls those.
    pub(super) fn give_away(&mut self) {
        let Some(exchange) = &self.board.exchange else { return };
        let mut surplus = self.policy.waiting().saturating_sub(self.placement.idle_count());
        for &thief in &self.nearest {
            if surplus == 0 {
                return;
            }
            let idle = self.seam.idle_in(thief);
            let mut published = 0;
            while published < idle.min(surplus)
                && self.deque.len() < Deque::<Task>::CAPACITY
                && let Some(task) = self.policy.give_away(&mut |task| task.anywhere)
            {
                self.deque.publish(task);
                published += 1;
            }
            if published > 0 {
                exchange.call(thief.index(), || self.seam.call(thief));
            } else if idle > 0 {
                return;
            }
            surplus -= published;
        }
    }
}
