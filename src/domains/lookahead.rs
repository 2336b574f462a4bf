//! How many tasks a policy that chooses at the last moment is asked for at once.
//!
//! Such a policy wants a small depth, and a CPU that finds READY empty waits for the domain thread.
//! The depth in between follows what the CPUs consume: one task for each CPU of the domain, plus as
//! many as they started from READY between the last two rounds. So the next activation still finds
//! one left.
//!
//! Invariant: the depth is at least 1 while no task is ready, and never more than the CPUs consumed
//! in one interval plus one each.

/// Measures how fast the CPUs consume the ready tasks.
#[derive(Debug)]
pub struct Lookahead {
    cpus: usize,
    ready_after: usize,
}

impl Lookahead {
    /// For a domain of `cpus` CPUs.
    pub fn new(cpus: usize) -> Self {
        Self { cpus, ready_after: 0 }
    }

    /// How many more tasks to decide now, while `ready` tasks are left and `idle` CPUs have no
    /// task.
    pub fn budget(&self, ready: usize, idle: usize) -> usize {
        let consumed = self.ready_after.saturating_sub(ready);
        (self.cpus + consumed).saturating_sub(ready).max(idle).max(usize::from(ready == 0))
    }

    /// Notes how many tasks are ready after a batch.
    pub fn note(&mut self, ready: usize) {
        self.ready_after = ready;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn asks_for_one_task_a_cpu_to_begin_with() {
        assert_eq!(Lookahead::new(4).budget(0, 0), 4);
    }

    #[test]
    fn grows_with_what_the_cpus_consume() {
        let mut lookahead = Lookahead::new(4);
        lookahead.note(6);
        assert_eq!(lookahead.budget(1, 0), 4 + 5 - 1);
        lookahead.note(9);
        assert_eq!(lookahead.budget(9, 0), 0, "nothing was consumed, nothing is missing");
    }

    #[test]
    fn never_leaves_an_idle_cpu_without_a_task() {
        let mut lookahead = Lookahead::new(2);
        lookahead.note(8);
        assert_eq!(lookahead.budget(8, 2), 2);
        assert_eq!(Lookahead::new(1).budget(0, 0), 1);
    }

    proptest! {
        /// However tasks come and go.
        #[test]
        fn lies_between_one_task_and_what_the_cpus_consume(
            cpus in 1..64usize,
            steps in prop::collection::vec((0..200usize, 0..64usize), 1..50),
        ) {
            let mut lookahead = Lookahead::new(cpus);
            let mut after = 0;
            for (ready, idle) in steps {
                let idle = idle.min(cpus);
                let budget = lookahead.budget(ready, idle);
                prop_assert!(budget >= idle.max(usize::from(ready == 0)));
                prop_assert!(budget <= (cpus + after - ready.min(after)).max(1));
                after = ready + budget;
                lookahead.note(after);
            }
        }
    }
}
