//! Newcomers run briefly: a build does not disturb a game.
//!
//! A compiler run lives for a second or two, a game for hours. So a task's slice grows with the CPU
//! time that it has used in its life: the shortest slice at its birth, the full one from a second
//! on. Tasks run first come, first served, so a task that wakes up waits for one slice of each task
//! ahead of it. Behind a build of sixty jobs that is sixty short slices.
//!
//! Slices that grow with the time a job has used are the idea of feedback queues (Corbató,
//! Merwin-Daggett and Daley, "An experimental time-sharing system", 1962). scx_rustland was first
//! shown with a game that ran while a kernel was built (Andrea Righi, 2024).
//!
//! `make try EXAMPLE=newcomers` runs it in a guest. The kernel checks slices at its tick (1 to 10
//! ms), and shorter ones end there.

use scx_manyland::policy::{Choice, Context, Policy, Slices, Task};
use scx_manyland::{Builder, DomainAllocator};
use std::{collections::VecDeque, process::ExitCode, time::Duration};

#[global_allocator]
static ALLOCATOR: DomainAllocator = DomainAllocator;

/// The CPU time after which a task is not a newcomer.
const GROWN_UP: Duration = Duration::from_secs(1);

/// First come, first served, newcomers for a short time. The first word of a task's memo is the CPU
/// time it has used in its life, in nanoseconds, except the time while no other task wanted the
/// CPU.
struct Newcomers {
    waiting: VecDeque<Task>,
    slices: Slices,
}

impl Newcomers {
    fn new(slices: Slices) -> Newcomers {
        Newcomers { waiting: VecDeque::with_capacity(4096), slices }
    }

    fn slice(&self, task: &Task) -> Duration {
        let lived = Duration::from_nanos(task.memo[0]).min(GROWN_UP);
        let grown = self.slices.base.mul_f64(lived.as_secs_f64() / GROWN_UP.as_secs_f64());
        grown.max(self.slices.min)
    }
}

impl Policy for Newcomers {
    fn enqueue(&mut self, mut task: Task, _: &Context) {
        // 0 remains, so that a task that goes to another domain undecided is charged only once.
        let used_ns = std::mem::take(&mut task.used_ns);
        task.memo[0] = task.memo[0].saturating_add(used_ns);
        self.waiting.push_back(task);
    }

    fn next(&mut self, _: &Context) -> Option<Choice> {
        let task = self.waiting.pop_front()?;
        Some(task.run_for(self.slice(&task)))
    }

    fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn give_away(&mut self, may: &mut dyn FnMut(&Task) -> bool) -> Option<Task> {
        let last = self.waiting.iter().rposition(may)?;
        self.waiting.remove(last)
    }
}

fn main() -> ExitCode {
    Builder::new(|setup| Newcomers::new(setup.slices)).main()
}

#[cfg(test)]
mod tests {
    use super::*;
    use scx_manyland::ids::Pid;

    const SLICES: Slices =
        Slices { base: Duration::from_millis(5), min: Duration::from_micros(500) };

    fn policy() -> (Newcomers, Context) {
        (Newcomers::new(SLICES), Context::with_cpus(1))
    }

    /// The task after it has run for some time and wants to go on.
    fn ran(task: Task, time: Duration) -> Task {
        Task { used_ns: time.as_nanos() as u64, ..task }
    }

    #[test]
    fn a_slice_grows_with_the_time_used_from_the_shortest_to_the_full_one() {
        let (mut policy, context) = policy();
        let mut task = Task::new(Pid(1));
        let mut slices = Vec::new();
        for _ in 0..12 {
            policy.enqueue(task, &context);
            let choice = policy.next(&context).unwrap();
            slices.push(choice.slice);
            task = ran(choice.task, Duration::from_millis(100));
        }
        assert_eq!(slices[0], SLICES.min);
        assert_eq!(slices[5], SLICES.base / 2);
        assert!(slices.is_sorted());
        assert_eq!(slices[10..], [SLICES.base; 2]);
    }

    #[test]
    fn a_wake_up_waits_for_short_slices_of_a_build() {
        let wait = |lived: Duration| {
            let (mut policy, context) = policy();
            for job in 0..60 {
                policy.enqueue(ran(Task::new(Pid(job)), lived), &context);
            }
            let game = Pid(1000);
            policy.enqueue(Task::new(game), &context);
            let mut before = Duration::ZERO;
            while let Some(choice) = policy.next(&context)
                && choice.task.pid != game
            {
                before += choice.slice;
            }
            before
        };
        assert_eq!(wait(Duration::ZERO), 60 * SLICES.min);
        assert_eq!(wait(GROWN_UP), 60 * SLICES.base);
    }

    #[test]
    fn a_task_that_is_given_away_is_charged_once_and_was_the_last_that_may_go() {
        let (mut here, context) = policy();
        let mut there = Newcomers::new(SLICES);
        for pid in 1..=3 {
            here.enqueue(ran(Task::new(Pid(pid)), GROWN_UP / 2), &context);
        }
        assert!(here.give_away(&mut |_| false).is_none());
        let task = here.give_away(&mut |task| task.pid != Pid(3)).unwrap();
        assert_eq!((task.pid, here.waiting()), (Pid(2), 2));
        there.enqueue(task, &context);
        assert_eq!(there.next(&context).unwrap().slice, SLICES.base / 2);
    }
}
