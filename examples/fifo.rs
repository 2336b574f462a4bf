//! First come, first served, 5 ms each: the shortest complete scheduler. It knows neither weights
//! nor sleepers, as the kernel's SCHED_RR (POSIX.1) with one priority.

use scx_manyland::policy::{Choice, Context, Policy, Task};
use scx_manyland::{Builder, DomainAllocator};
use std::{collections::VecDeque, process::ExitCode, time::Duration};

#[global_allocator]
static ALLOCATOR: DomainAllocator = DomainAllocator;

/// First come, first served, 5 ms each.
struct Fifo(VecDeque<Task>);

impl Policy for Fifo {
    fn enqueue(&mut self, task: Task, _: &Context) {
        self.0.push_back(task);
    }

    fn next(&mut self, _: &Context) -> Option<Choice> {
        self.0.pop_front().map(|task| task.run_for(Duration::from_millis(5)))
    }

    fn waiting(&self) -> usize {
        self.0.len()
    }
}

fn main() -> ExitCode {
    Builder::new(|_| Fifo(VecDeque::with_capacity(4096))).main()
}
