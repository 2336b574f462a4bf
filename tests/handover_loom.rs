//! Model-checks the hand-over of tasks between domains: every interleaving of an owner that
//! publishes and takes back and of a thief that sleeps, is called and steals.
//!
//! The protocol is the very file of the library; the parts it is made of are loom's.
//!
//! Two things must hold in each of them: every task has exactly one taker, and a thief that was
//! called for a task does not sleep on while the task is in the deque.

mod sync {
    //! Loom's atomics, and a deque that is what crossbeam's promises to be: it hands each task to
    //! one taker, first in, first out.

    use loom::sync::{Arc, Mutex};
    use std::collections::VecDeque;

    pub use loom::sync::atomic::{AtomicBool, Ordering};

    pub struct Deque<T>(Arc<Mutex<VecDeque<T>>>);

    impl<T> Deque<T> {
        pub fn new() -> Self {
            Self(Arc::new(Mutex::new(VecDeque::new())))
        }

        pub fn thieves(&self) -> Thieves<T> {
            Thieves(self.0.clone())
        }

        pub fn publish(&self, task: T) {
            self.0.lock().unwrap().push_back(task);
        }

        pub fn take_back(&self) -> Option<T> {
            self.0.lock().unwrap().pop_front()
        }
    }

    pub struct Thieves<T>(Arc<Mutex<VecDeque<T>>>);

    impl<T> Thieves<T> {
        pub fn steal(&self) -> Option<T> {
            self.0.lock().unwrap().pop_front()
        }
    }
}

#[path = "../src/domains/handover.rs"]
mod handover;

use handover::Exchange;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

const OWNER: usize = 0;
const THIEF: usize = 1;

/// An eventfd: rung until it is read.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.heard.notify_one();
    }

    fn sleep(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.heard.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// What the thief does in each of its rounds: sleep until called, answer, look once.
fn steal_when_called(exchange: &Exchange<u32>, bell: &Bell) -> Vec<u32> {
    bell.sleep();
    assert!(exchange.is_called(THIEF), "a bell rings only for who has been called");
    exchange.answer(THIEF);
    std::iter::from_fn(|| exchange.steal(OWNER)).collect()
}

#[test]
fn every_task_has_one_taker() {
    loom::model(|| {
        let (exchange, mut deques) = Exchange::new(2);
        let (exchange, bell) = (Arc::new(exchange), Arc::new(Bell::default()));
        let deque = deques.remove(OWNER);
        let thief = {
            let (exchange, bell) = (exchange.clone(), bell.clone());
            thread::spawn(move || steal_when_called(&exchange, &bell))
        };
        for task in [1, 2] {
            deque.publish(task);
            exchange.call(THIEF, || bell.ring());
        }
        let mut taken: Vec<u32> = std::iter::from_fn(|| deque.take_back()).collect();
        taken.extend(thief.join().unwrap());
        taken.sort();
        assert_eq!(taken, [1, 2]);
    });
}

/// Without an owner that takes back: each task must reach the thief, which sleeps between its
/// looks.
#[test]
fn a_thief_does_not_sleep_through_a_call() {
    loom::model(|| {
        let (exchange, mut deques) = Exchange::new(2);
        let (exchange, bell) = (Arc::new(exchange), Arc::new(Bell::default()));
        let deque = deques.remove(OWNER);
        let thief = {
            let (exchange, bell) = (exchange.clone(), bell.clone());
            thread::spawn(move || {
                let mut taken = Vec::new();
                // A wake-up that is lost leaves it asleep, which loom reports as a deadlock.
                while taken.len() < 2 {
                    taken.extend(steal_when_called(&exchange, &bell));
                }
                taken
            })
        };
        for task in [1, 2] {
            deque.publish(task);
            exchange.call(THIEF, || bell.ring());
        }
        assert_eq!(thief.join().unwrap(), [1, 2]);
    });
}
