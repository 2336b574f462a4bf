//! How many tasks a policy that decides late is asked for at once.
//!
//! Such a policy wants to choose at the last moment, and a CPU that finds READY empty has to wait
//! for the domain thread. The depth in between is what the CPUs are seen to take: one task for each
//! CPU of the domain, plus as many as they took out of READY between the last two looks, so that the
//! next activation still finds one left.
//!
//! Invariant: the depth is at least 1 while no task is ready, and never more than the CPUs took in
//! one interval plus one each.

/// Measures how fast the ready tasks are taken.
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

    /// How many more tasks to decide now, when `ready` are left and `idle` CPUs have nothing.
    pub fn budget(&self, ready: usize, idle: usize) -> usize {
        let taken = self.ready_after.saturating_sub(ready);
        (self.cpus + taken).saturating_sub(ready).max(idle).max(usize::from(ready == 0))
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
    fn grows_with_what_the_cpus_took() {
        let mut lookahead = Lookahead::new(4);
        lookahead.note(6);
        assert_eq!(lookahead.budget(1, 0), 4 + 5 - 1);
        lookahead.note(9);
        assert_eq!(lookahead.budget(9, 0), 0, "nothing was taken, nothing is missing");
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
        fn stays_between_one_task_and_what_the_cpus_took(
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
