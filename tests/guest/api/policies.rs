//! Policies that ask for what the shipped ones do not, in a program that uses the library as any
//! other would.

use super::scheduler::Scheduler;
use crate::role;
use anyhow::Result;
use clap::{Args, ValueEnum};
use scx_manyland::ids::{CgroupId, CpuId};
use scx_manyland::policy::{Choice, Context, Policy, Setup, Task};
use scx_manyland::{Builder, RunOptions};
use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::Duration;

/// The name of tasks that [`Wish::Preempt`] lets preempt.
pub const URGENT: &str = "urgent";

/// The name of tasks at which [`Wish::Panic`] and [`Wish::PanicAnywhere`] panic.
pub const TERRIBLE: &str = "terrible";

/// The folder of the cgroup whose tasks [`Wish::Group`] singles out; made before the scheduler
/// starts.
pub const GROUP: &str = "/sys/fs/cgroup/tried";

/// How long [`Wish::Sleep`] takes: longer than any patience that is an option's default.
const NAP: Duration = Duration::from_millis(5);

/// What a policy asks for, of a scheduler that runs tasks in order of their arrival.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Wish {
    /// Nothing.
    None,
    /// That a task whose name ends in a number runs on the CPU of this number.
    Prefer,
    /// That every task stays on the CPU that it ran on last.
    Stay,
    /// That the tasks in the cgroup [`GROUP`] run on CPU 2.
    Group,
    /// That a task called [`URGENT`] runs at once where it is bound to.
    Preempt,
    /// That whoever has the smallest pid runs, always.
    Pid,
    /// Nothing, but it sleeps over each decision, which a policy must not.
    Sleep,
    /// Nothing any more, once it has seen a task called [`TERRIBLE`].
    Panic,
    /// The same, if that task may run anywhere.
    PanicAnywhere,
}

impl Wish {
    /// Starts a scheduler that asks for it.
    pub fn start(self, args: &[&str]) -> Result<Scheduler> {
        let value = self.to_possible_value().expect("no wish is left out");
        Scheduler::spawn(role::command("policy").arg(value.get_name()).args(args))
    }
}

/// The command line of such a scheduler.
#[derive(Args)]
pub struct PolicyArgs {
    wish: Wish,
    /// Run it as the shipped program does, without privileges
    #[arg(long)]
    confined: bool,
    #[command(flatten)]
    run: RunOptions,
}

impl PolicyArgs {
    /// What the scheduler's process does.
    pub fn run(self) -> Result<()> {
        let (wish, slice) = (self.wish, self.run.slices().base);
        let group = fs::metadata(GROUP).map_or(CgroupId(0), |folder| CgroupId(folder.ino()));
        let make = move |_: &Setup<'_>| {
            let waiting = VecDeque::with_capacity(4096);
            Wishing { waiting, wish, slice, group }
        };
        let builder = Builder::new(make).options(self.run);
        if self.confined { builder.run_confined() } else { builder.run() }
    }
}

struct Wishing {
    waiting: VecDeque<Task>,
    wish: Wish,
    slice: Duration,
    group: CgroupId,
}

impl Policy for Wishing {
    fn enqueue(&mut self, task: Task, _: &Context) {
        let panics = match self.wish {
            Wish::Panic => true,
            Wish::PanicAnywhere => task.anywhere,
            _ => false,
        };
        let is_terrible = task.name() == TERRIBLE;
        assert!(!(panics && is_terrible), "a task is {TERRIBLE}");
        self.waiting.push_back(task);
    }

    fn next(&mut self, _: &Context) -> Option<Choice> {
        let choice = self.waiting.pop_front()?.run_for(self.slice);
        let (name, pid) = (choice.task.name(), choice.task.pid);
        Some(match self.wish {
            Wish::Preempt if name == URGENT => choice.preempting(),
            Wish::Prefer => match name.rsplit('-').next().and_then(|number| number.parse().ok()) {
                Some(cpu) => choice.on(CpuId(cpu)),
                None => choice,
            },
            Wish::Stay => {
                let cpu = choice.task.prev_cpu;
                choice.on(cpu)
            }
            Wish::Pid => choice.at_virtual_time(u64::from(pid.0.unsigned_abs())),
            Wish::Group if choice.task.cgroup == self.group => choice.on(CpuId(2)),
            Wish::Sleep => {
                thread::sleep(NAP);
                choice
            }
            Wish::None | Wish::Group | Wish::Preempt | Wish::Panic | Wish::PanicAnywhere => choice,
        })
    }

    fn waiting(&self) -> usize {
        self.waiting.len()
    }
}
