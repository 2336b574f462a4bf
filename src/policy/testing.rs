//! One CPU in virtual time, for the tests of policies: only a policy's keys and slices decide which
//! task runs.
//!
//! Invariant: a task is asleep, waiting with the policy, ready, or has ended; the ready ones run by
//! their keys, as the kernel runs them.

use crate::abi::limits_VTIME_RATE_ONE as VTIME_RATE_ONE;
use crate::ids::Pid;
use crate::policy::run_queue::Cyclic;
use crate::policy::{Choice, Context, Policy, Slices, Task};
use std::time::Duration;

/// One millisecond in nanoseconds.
pub const MS: u64 = 1_000_000;

/// The slices of all tests.
pub const SLICES: Slices =
    Slices { base: Duration::from_millis(20), min: Duration::from_millis(1) };

/// A domain of one CPU in which nothing is ready, at time 0.
pub fn idle() -> Context {
    Context::with_cpus(1)
}

/// What the policy decides for a task if no other waits.
pub fn decide_alone(policy: &mut impl Policy, task: Task) -> Choice {
    policy.enqueue(task, &idle());
    policy.next(&idle()).expect("the task that waits")
}

/// What a task does with its time.
#[derive(Clone, Copy)]
pub enum Behaviour {
    /// Runs whenever it may.
    Hog,
    /// Runs for a time, sleeps for a time.
    Periodic { run_ns: u64, sleep_ns: u64 },
    /// Runs for a time, creates another task like it, and ends.
    ForkAndEnd { run_ns: u64 },
}

impl Behaviour {
    fn run_ns(self) -> u64 {
        match self {
            Behaviour::Hog => u64::MAX,
            Behaviour::Periodic { run_ns, .. } | Behaviour::ForkAndEnd { run_ns } => run_ns,
        }
    }
}

/// How many tasks the policy is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Decide {
    /// One, when the CPU is free.
    Late,
    /// All that wait.
    Ahead,
    /// All that wait; a decision stands for seven wake-ups where the policy allows it.
    Standing,
}

impl Decide {
    /// All the ways.
    pub const ALL: [Decide; 3] = [Decide::Late, Decide::Ahead, Decide::Standing];
}

/// For how many wake-ups a decision stands.
const STANDS: u32 = 7;

struct Runner {
    task: Task,
    behaviour: Behaviour,
    left_ns: u64,
    decided_at_ns: Option<u64>,
    /// The last decision, for how many wake-ups it stands, and the CPU time used since.
    stands: Option<(Choice, u32, u64)>,
    total_ns: u64,
    longest_wait_ns: u64,
}

/// One CPU, a policy and some tasks.
pub struct Simulation<P> {
    policy: P,
    decide: Decide,
    context: Context,
    ready: Vec<Choice>,
    runners: Vec<Runner>,
    /// When which runner wakes up.
    asleep: Vec<(u64, usize)>,
}

impl<P: Policy> Simulation<P> {
    pub fn new(policy: P, decide: Decide) -> Simulation<P> {
        Simulation {
            policy,
            decide,
            context: idle(),
            ready: Vec::new(),
            runners: Vec::new(),
            asleep: Vec::new(),
        }
    }

    /// Creates a task; it is runnable at once. Returns its index.
    pub fn spawn(&mut self, weight: u32, behaviour: Behaviour) -> usize {
        let runner = self.runners.len();
        self.runners.push(Runner {
            task: Task { weight, ..Task::new(Pid(runner as i32)) },
            behaviour,
            left_ns: behaviour.run_ns(),
            decided_at_ns: None,
            stands: None,
            total_ns: 0,
            longest_wait_ns: 0,
        });
        self.enqueue(runner, self.context.now_ns, true);
        runner
    }

    /// CPU time a task has used.
    pub fn used_ns(&self, runner: usize) -> u64 {
        self.runners[runner].total_ns
    }

    /// The longest time that a task was runnable and did not run.
    pub fn longest_wait_ns(&self, runner: usize) -> u64 {
        self.runners[runner].longest_wait_ns
    }

    /// Starts a new measurement of waits.
    pub fn forget_waits(&mut self) {
        self.runners.iter_mut().for_each(|runner| runner.longest_wait_ns = 0);
    }

    /// Runs for a time, up to the end of the slice that is running then.
    pub fn run_for(&mut self, ns: u64) {
        let end_ns = self.context.now_ns + ns;
        while self.context.now_ns < end_ns {
            self.wake();
            self.decide();
            if self.ready.is_empty() {
                let next = self.asleep.iter().map(|&(at_ns, _)| at_ns).min();
                self.context.now_ns = next.unwrap_or(end_ns).min(end_ns);
            } else {
                let choice = self.ready.remove(0);
                self.context.ready = self.ready.len();
                self.run(choice);
            }
        }
    }

    fn wake(&mut self) {
        self.asleep.sort_unstable();
        let due = self.asleep.partition_point(|&(at_ns, _)| at_ns <= self.context.now_ns);
        for (at_ns, runner) in self.asleep.drain(..due).collect::<Vec<_>>() {
            self.enqueue(runner, at_ns, true);
        }
    }

    fn decide(&mut self) {
        loop {
            let enough = matches!(self.decide, Decide::Late) && !self.ready.is_empty();
            let Some(choice) = (!enough).then(|| self.policy.next(&self.context)).flatten() else {
                return;
            };
            let runner = &mut self.runners[choice.task.pid.0 as usize];
            let stands = matches!(self.decide, Decide::Standing) && choice.max_lag.is_some();
            runner.stands = stands.then_some((choice, STANDS, 0));
            runner.decided_at_ns = Some(self.context.now_ns);
            runner.task.memo = choice.task.memo;
            (runner.task.used_ns, runner.task.voluntary_switches) = (0, 0);
            self.make_ready(choice);
        }
    }

    fn make_ready(&mut self, choice: Choice) {
        let key = choice.key.map(Cyclic);
        let at = self.ready.partition_point(|other| other.key.map(Cyclic) <= key);
        self.ready.insert(at, choice);
        self.context.ready = self.ready.len();
    }

    /// A task wakes up for which a decision stands. The kernel's side does the same.
    fn stand(&mut self, number: usize) -> bool {
        let runner = &mut self.runners[number];
        let Some((choice, left, used_ns)) = &mut runner.stands else { return false };
        if *left == 0 {
            return false;
        }
        let key = choice.key.expect("it has virtual time");
        let max_lag = choice.max_lag.expect("it stands");
        let rate = u64::from(choice.vtime_rate.per_ns(runner.task.weight));
        let key = key.wrapping_add(std::mem::take(used_ns) * rate / u64::from(VTIME_RATE_ONE));
        *left -= 1;
        choice.key = Some(Cyclic(key).max(Cyclic(self.context.vtime.wrapping_sub(max_lag))).0);
        let choice = *choice;
        self.make_ready(choice);
        true
    }

    fn run(&mut self, choice: Choice) {
        let number = choice.task.pid.0 as usize;
        let runner = &mut self.runners[number];
        let ran_ns = runner.left_ns.min(choice.slice.as_nanos() as u64);
        let key = choice.key.expect("policies here have keys");
        self.context.vtime = Cyclic(key).max(Cyclic(self.context.vtime)).0;
        if let Some((_, _, used_ns)) = &mut runner.stands {
            *used_ns += ran_ns;
        }
        runner.longest_wait_ns =
            runner.longest_wait_ns.max(self.context.now_ns - runner.task.runnable_at_ns);
        runner.task.used_ns += ran_ns;
        runner.task.burst_ns += ran_ns;
        runner.total_ns += ran_ns;
        self.context.now_ns += ran_ns;
        if runner.behaviour.run_ns() != u64::MAX {
            runner.left_ns -= ran_ns;
        }
        if runner.left_ns > 0 {
            return self.enqueue(number, self.context.now_ns, false);
        }
        match runner.behaviour {
            Behaviour::Hog => unreachable!("a hog always has something left to run"),
            Behaviour::Periodic { run_ns, sleep_ns } => {
                runner.left_ns = run_ns;
                runner.task.burst_ns = 0;
                runner.task.voluntary_switches += 1;
                self.asleep.push((self.context.now_ns + sleep_ns, number));
            }
            Behaviour::ForkAndEnd { .. } => {
                let (weight, behaviour) = (runner.task.weight, runner.behaviour);
                self.spawn(weight, behaviour);
            }
        }
    }

    fn enqueue(&mut self, number: usize, at_ns: u64, wakeup: bool) {
        let runner = &mut self.runners[number];
        runner.task.runnable_at_ns = at_ns;
        runner.task.wakeup = wakeup;
        if wakeup && self.stand(number) {
            return;
        }
        let runner = &mut self.runners[number];
        runner.task.since_last_ns =
            runner.decided_at_ns.map_or(0, |decided_at_ns| at_ns - decided_at_ns);
        let task = runner.task;
        self.policy.enqueue(task, &self.context);
    }
}
