//! The waiting tasks of one domain, sorted by a 64-bit key; of equal keys the first to arrive is
//! first.
//!
//! Keys are points in a virtual time that may wrap around, compared as the kernel compares time
//! stamps (`time_before64`): `a` is before `b` if the way from `a` up to `b` is shorter than the
//! way from `b` up to `a`. That is a total ordering as long as all waiting keys lie within `2^63`
//! of each other.
//!
//! The structure is a binary heap (Williams, "Algorithm 232: Heapsort", 1964; the standard
//! library's, which sifts to the bottom first after Wegener, "Bottom-up heapsort", 1993) of 16-byte
//! entries, and a slab in which the tasks themselves lie still.
//! `docs/decisions/0001-heap-instead-of-tree.md` compares it with the standard library's B-tree and
//! with heaps of two, four and eight children of our own, from 10 to 10,000 tasks.
//!
//! Invariant: every slot of the slab is either in exactly one entry of the heap or in the list of
//! free slots, and that list has room for all of them. So no task is lost or handed out twice, and
//! nothing allocates while the number of tasks is within the capacity.

use crate::policy::Task;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// How many waiting tasks the policies of this crate reserve room for.
pub const RESERVED: usize = 4096;

/// A number that may wrap around, ordered as the kernel orders time stamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cyclic(pub(super) u64);

impl Ord for Cyclic {
    fn cmp(&self, other: &Cyclic) -> Ordering {
        (self.0.wrapping_sub(other.0) as i64).cmp(&0)
    }
}

impl PartialOrd for Cyclic {
    fn partial_cmp(&self, other: &Cyclic) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A task's key, and its slot in the slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    key: Cyclic,
    /// The number of its arrival in the upper half, its slot in the lower: one comparison, which
    /// the arrival decides. The number wraps around too: a task that has seen `2^31` others arrive
    /// may count as younger than one with the same key.
    ticket: Cyclic,
}

impl Entry {
    fn new(key: u64, arrival: u32, slot: u32) -> Entry {
        Entry { key: Cyclic(key), ticket: Cyclic(u64::from(arrival) << 32 | u64::from(slot)) }
    }

    fn slot(self) -> u32 {
        self.ticket.0 as u32
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        self.key.cmp(&other.key).then(self.ticket.cmp(&other.ticket))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Waiting tasks, the one with the smallest key first.
///
/// ```
/// use scx_manyland::{ids::Pid, policy::{Task, run_queue::RunQueue}};
/// let mut queue = RunQueue::with_capacity(16);
/// queue.push(20, Task::new(Pid(1)));
/// queue.push(10, Task::new(Pid(2)));
/// queue.push(10, Task::new(Pid(3)));
/// let pids: Vec<Pid> = queue.drain().map(|(_, task)| task.pid).collect();
/// assert_eq!(pids, [Pid(2), Pid(3), Pid(1)]);
/// ```
#[derive(Debug)]
pub struct RunQueue {
    heap: BinaryHeap<Reverse<Entry>>,
    tasks: Vec<Task>,
    free: Vec<u32>,
    arrivals: u32,
}

impl RunQueue {
    /// An empty queue that does not allocate until it holds more than `capacity` tasks. Beyond
    /// that it grows by doubling.
    pub fn with_capacity(capacity: usize) -> RunQueue {
        RunQueue {
            heap: BinaryHeap::with_capacity(capacity),
            tasks: Vec::with_capacity(capacity),
            free: Vec::with_capacity(capacity),
            arrivals: 0,
        }
    }

    /// Adds a task at `key`, behind those already waiting there. O(log n) for n tasks at worst,
    /// O(1) on average for random keys.
    ///
    /// # Panics
    /// If `2^32` tasks wait.
    pub fn push(&mut self, key: u64, task: Task) {
        let slot = self.store(task);
        self.heap.push(Reverse(Entry::new(key, self.arrivals, slot)));
        self.arrivals = self.arrivals.wrapping_add(1);
    }

    /// Removes the task with the smallest key, and returns both. O(log n) for n tasks.
    pub fn pop_min(&mut self) -> Option<(u64, Task)> {
        let Reverse(entry) = self.heap.pop()?;
        Some(self.release(entry))
    }

    /// The smallest key.
    pub fn peek_min_key(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse(entry)| entry.key.0)
    }

    /// Removes the task with the largest key of those that are `wanted`, and returns both: the one
    /// that would have waited longest. O(n) for n tasks, since it scans all entries: it is for
    /// handing work to an idle domain, not for every decision.
    pub fn take_last(&mut self, mut wanted: impl FnMut(&Task) -> bool) -> Option<(u64, Task)> {
        let mut last: Option<Entry> = None;
        // From the leaves, where the large keys are, so that few tasks have to be checked.
        for &Reverse(entry) in self.heap.iter().rev() {
            if last.is_none_or(|last| last < entry) && wanted(&self.tasks[entry.slot() as usize]) {
                last = Some(entry);
            }
        }
        let last = last?;
        self.heap.retain(|Reverse(entry)| entry.ticket != last.ticket);
        Some(self.release(last))
    }

    /// Removes the tasks one by one, the smallest key first, and returns them with their keys.
    /// Tasks that the caller does not ask for remain.
    pub fn drain(&mut self) -> impl Iterator<Item = (u64, Task)> + '_ {
        std::iter::from_fn(|| self.pop_min())
    }

    /// How many tasks wait.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether no task waits.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    fn store(&mut self, task: Task) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.tasks[slot as usize] = task;
            return slot;
        }
        let slot = u32::try_from(self.tasks.len()).expect("fewer than 2^32 tasks wait");
        self.tasks.push(task);
        // Here rather than in `release`: to remove a task never allocates.
        self.free.reserve(self.tasks.capacity());
        slot
    }

    fn release(&mut self, entry: Entry) -> (u64, Task) {
        let slot = entry.slot();
        self.free.push(slot);
        (entry.key.0, self.tasks[slot as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Pid;
    use proptest::prelude::*;

    fn task(number: usize) -> Task {
        Task::new(Pid(number as i32))
    }

    fn pids(removed: impl Iterator<Item = (u64, Task)>) -> Vec<i32> {
        removed.map(|(_, task)| task.pid.0).collect()
    }

    #[test]
    fn removes_equal_keys_in_order_of_arrival() {
        let mut queue = RunQueue::with_capacity(0);
        for number in 0..100 {
            queue.push(7, task(number));
        }
        assert_eq!(pids(queue.drain()), (0..100).collect::<Vec<_>>());
        assert!(queue.is_empty());
    }

    #[test]
    fn orders_keys_across_the_wrap_of_64_bits() {
        let mut queue = RunQueue::with_capacity(4);
        for (number, key) in [3, u64::MAX, 0, u64::MAX - 9].into_iter().enumerate() {
            queue.push(key, task(number));
        }
        assert_eq!(queue.peek_min_key(), Some(u64::MAX - 9));
        assert_eq!(pids(queue.drain()), [3, 1, 2, 0]);
    }

    #[test]
    fn orders_arrivals_across_the_wrap_of_their_number() {
        let mut queue = RunQueue::with_capacity(4);
        queue.arrivals = u32::MAX - 1;
        for number in 0..4 {
            queue.push(0, task(number));
        }
        assert_eq!(pids(queue.drain()), [0, 1, 2, 3]);
    }

    #[test]
    fn uses_the_slots_of_removed_tasks_again() {
        let mut queue = RunQueue::with_capacity(2);
        for number in 0..1000 {
            queue.push(number as u64, task(number));
            queue.push(number as u64, task(number));
            queue.pop_min();
            queue.take_last(|_| true);
        }
        assert_eq!(queue.tasks.len(), 2);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(u64),
        PopMin,
        TakeLast { divisor: i32 },
        Drain { at_most: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..1000u64).prop_map(Step::Push),
            3 => Just(Step::PopMin),
            2 => (1..5i32).prop_map(|divisor| Step::TakeLast { divisor }),
            1 => (0..9usize).prop_map(|at_most| Step::Drain { at_most }),
        ]
    }

    proptest! {
        /// Against a sorted vector, from any origin of the keys, so also across the wrap.
        #[test]
        fn does_what_a_sorted_vector_does(
            origin in any::<u64>(),
            steps in prop::collection::vec(step(), 0..300),
        ) {
            let mut queue = RunQueue::with_capacity(8);
            let mut model: Vec<(u64, i32)> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Push(offset) => {
                        queue.push(origin.wrapping_add(offset), task(number));
                        let at = model.partition_point(|&(other, _)| other <= offset);
                        model.insert(at, (offset, number as i32));
                    }
                    Step::PopMin => {
                        let expected = (!model.is_empty()).then(|| model.remove(0));
                        let removed = queue.pop_min().map(|(key, task)| (key, task.pid.0));
                        prop_assert_eq!(removed, expected.map(|(o, n)| (origin.wrapping_add(o), n)));
                    }
                    Step::TakeLast { divisor } => {
                        let at = model.iter().rposition(|&(_, number)| number % divisor == 0);
                        let expected = at.map(|at| model.remove(at));
                        let removed = queue
                            .take_last(|task| task.pid.0 % divisor == 0)
                            .map(|(key, task)| (key, task.pid.0));
                        prop_assert_eq!(removed, expected.map(|(o, n)| (origin.wrapping_add(o), n)));
                    }
                    Step::Drain { at_most } => {
                        let expected: Vec<i32> =
                            model.drain(..at_most.min(model.len())).map(|(_, n)| n).collect();
                        prop_assert_eq!(pids(queue.drain().take(at_most)), expected);
                    }
                }
                prop_assert_eq!(queue.len(), model.len());
                let first = model.first().map(|&(offset, _)| origin.wrapping_add(offset));
                prop_assert_eq!(queue.peek_min_key(), first);
            }
            let rest: Vec<i32> = model.iter().map(|&(_, number)| number).collect();
            prop_assert_eq!(pids(queue.drain()), rest);
        }
    }
}
