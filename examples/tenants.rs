//! Tenants: cgroups share the CPUs by their weights, and those that weigh more wait less.
//!
//! Under `vruntime` a light and a heavy cgroup have what they are due, and both wait for it alike. Here
//! a cgroup that someone gave a weight above the usual 100 is also the one that answers first: when its
//! tasks wake up they go before those of others, as far as the cgroup has not had its share. So a
//! service in a heavy cgroup next to batch jobs has the latency of an idle machine, and no cgroup
//! has more CPU time than its weight says.
//!
//! It keeps virtual time by the effective weights of tasks (`Task::weight`), as the policies of the
//! library do, and puts a heavy cgroup's task ahead by a slice for each doubling of its weight. What
//! a task pays is not what moves it ahead: start-time fair queueing with a warp (Duda and Cheriton,
//! "Borrowed-virtual-time scheduling", 1999).
//!
//! `make try EXAMPLE=tenants` runs it in a guest.

use scx_manyland::policy::run_queue::RunQueue;
use scx_manyland::policy::{Choice, Context, DEFAULT_WEIGHT, Policy, Slices, Task};
use scx_manyland::{Builder, DomainAllocator};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: DomainAllocator = DomainAllocator;

/// The most that a task is put ahead, in slices.
const MOST: u64 = 4;

/// Virtual time by weight, with a warp by the weight of the cgroup. The first word of a task's memo
/// is the virtual time that it has come to, the second is 1 once that is known.
struct Tenants {
    waiting: RunQueue,
    slices: Slices,
    vtime: u64,
}

impl Tenants {
    fn new(slices: Slices) -> Tenants {
        Tenants { waiting: RunQueue::with_capacity(4096), slices, vtime: 0 }
    }

    fn slice_ns(&self) -> u64 {
        self.slices.base.as_nanos() as u64
    }

    /// How far ahead tasks of a cgroup of this weight go when they wake up.
    fn warp(&self, weight: u32) -> u64 {
        let doublings = (weight.max(1) / DEFAULT_WEIGHT).checked_ilog2().unwrap_or(0);
        u64::from(doublings).min(MOST) * self.slice_ns()
    }
}

impl Policy for Tenants {
    fn enqueue(&mut self, mut task: Task, context: &Context) {
        self.vtime = self.vtime.max(context.vtime);
        let used = u64::from(DEFAULT_WEIGHT) * std::mem::take(&mut task.used_ns);
        let used = used / u64::from(task.weight.max(1));
        let vtime = match task.memo[1] {
            0 => self.vtime,
            _ => task.memo[0] + used,
        };
        // A sleeper has no lag from the time it slept. It has not gone further ahead than a lone task
        // could run, either.
        let most = self.vtime + MOST * self.slice_ns() * u64::from(DEFAULT_WEIGHT);
        task.memo = [vtime.clamp(self.vtime.saturating_sub(self.slice_ns()), most), 1];
        let weight = context.group_of(&task).map_or(DEFAULT_WEIGHT, |group| group.weight);
        let warp = if task.wakeup { self.warp(weight) } else { 0 };
        self.waiting.push(task.memo[0].saturating_sub(warp), task);
    }

    fn next(&mut self, _: &Context) -> Option<Choice> {
        let (key, task) = self.waiting.pop_min()?;
        let slice = self.slices.shared_by(self.waiting.len());
        Some(task.run_for(slice).at_virtual_time(key))
    }

    fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn virtual_time(&self) -> u64 {
        self.vtime
    }

    fn wakeups_preempt(&self) -> bool {
        true
    }

    fn wants_groups(&self) -> bool {
        true
    }

    fn give_away(&mut self, may: &mut dyn FnMut(&Task) -> bool) -> Option<Task> {
        self.waiting.take_last(may).map(|(_, task)| task)
    }

    fn adopt(&mut self, task: &mut Task, source: u64) {
        let ahead = task.memo[0].saturating_sub(source);
        task.memo[0] = self.vtime + ahead;
    }
}

fn main() -> ExitCode {
    Builder::new(|setup| Tenants::new(setup.slices)).main()
}

#[cfg(test)]
mod tests {
    use super::*;
    use scx_manyland::ids::{CgroupId, Pid};
    use scx_manyland::policy::Group;
    use scx_manyland::simulator::workload::Workload;
    use scx_manyland::simulator::{Setup, simulate};
    use scx_manyland::topology::{Source, Topology};
    use std::time::Duration;

    const SLICES: Slices =
        Slices { base: Duration::from_millis(4), min: Duration::from_micros(500) };

    #[test]
    fn a_task_of_a_heavy_cgroup_goes_before_others_that_woke_up_earlier() {
        let (mut policy, mut context) = (Tenants::new(SLICES), Context::with_cpus(1));
        context.vtime = 1 << 40;
        for (slot, weight) in [(1, 100), (2, 800)] {
            let id = CgroupId(u64::from(slot));
            let group = Group {
                id,
                parent: None,
                level: 1,
                weight,
                idle: false,
                share: 0.5,
                limit: None,
                throttled: false,
            };
            context.remember_group(slot, group);
        }
        for (pid, group_slot) in [(1, 1), (2, 2), (3, 0), (4, 2)] {
            policy.enqueue(Task { group_slot, ..Task::new(Pid(pid)) }, &context);
        }
        let sequence = std::iter::from_fn(|| policy.next(&context)).map(|it| it.task.pid.0);
        assert_eq!(sequence.collect::<Vec<_>>(), [2, 4, 1, 3]);
    }

    /// A service next to batch jobs, in a cgroup of weight 1,600 or of the usual weight.
    #[test]
    fn a_heavy_cgroup_waits_less_and_has_no_more_than_its_share() {
        let machine = Topology::load(&Source::Synthetic("L3Cache:1 Core:2 PU:1".into())).unwrap();
        let run = |weight: u32| {
            let text = format!(
                r#"{{"global": {{"taskgroups": {{"/service": {{"cpu.weight": {weight}}}}}}},
                "tasks": {{
                    "service": {{"instance": 2, "taskgroup": "/service", "run": 500, "sleep": 9000}},
                    "batch": {{"instance": 8, "taskgroup": "/batch", "run": 3000, "sleep": 100}},
                    "hog": {{"instance": 2, "taskgroup": "/service/jobs", "run": 100000}}}}}}"#
            );
            let setup = Setup {
                scheduler: Builder::new(|setup| Tenants::new(setup.slices)),
                length: Some(Duration::from_secs(10)),
                ..Setup::default()
            };
            let report = simulate(&machine, &Workload::parse(&text).unwrap(), &setup, None);
            let report = report.unwrap();
            let group = |name| report.groups.iter().find(|group| group.name == name).unwrap();
            (group("service").run_delay_us.mean, group("batch").cpu_s)
        };
        let (heavy, light) = (run(1600), run(100));
        println!("heavy: {heavy:?}, light: {light:?}");
        assert!(1.5 * heavy.0 < light.0, "{heavy:?}, {light:?}");
        // 1 of 17 of two CPUs, for 10 s.
        assert!(heavy.1 > 0.8 && heavy.1 < 3.0, "{heavy:?}");
    }
}
