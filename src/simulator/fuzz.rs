//! The kernel side (bpf/) against a domain thread that is not to be trusted, on a machine that bytes
//! describe: what the fuzz targets `decisions` and `ring` run (`make fuzz`).
//!
//! Whatever the thread does, every task gets to its end, only on CPUs that it may use (the kernel's
//! model checks that), and nothing remains counted for it.

use super::kernel::hostile::Hostility;
use super::machine::Machine;
use super::workload::{Group, Loops, Phase, Priority, Step, Workload};
use super::{Setup, task::State};
use crate::cpuset::CpuSet;
use crate::ids::CpuId;
use crate::policy::kind::PolicyKind;
use crate::run::builder::Builder;
use crate::topology::{Granularity, Source, Topology};
use std::sync::LazyLock;
use std::time::Duration;

/// By then, every task has come to its end even if each waits for seconds each time.
const LENGTH: Duration = Duration::from_secs(600);

/// Small machines, and what a domain is there. hwloc reads each of them once.
static MACHINES: LazyLock<Vec<(Topology, Granularity)>> = LazyLock::new(|| {
    let machines = [
        ("L3Cache:1 Core:2 PU:1", Granularity::L3),
        ("L3Cache:2 Core:2 PU:1", Granularity::L3),
        ("L3Cache:2 Core:2 PU:2", Granularity::L3),
        ("L3Cache:4 Core:2 PU:1", Granularity::Core),
    ];
    let load = |(machine, granularity): (&str, Granularity)| {
        let machine = Topology::load(&Source::Synthetic(machine.to_owned()));
        (machine.expect("hwloc knows the machine"), granularity)
    };
    machines.into_iter().map(load).collect()
});

/// Runs a machine whose domain threads submit other decisions than those that were made.
///
/// # Panics
/// If the kernel side fails.
pub fn decisions(bytes: &[u8]) {
    run(bytes, Hostility::changing);
}

/// Runs a machine whose domain threads write to the ring of decisions, and to the rest of the shared
/// memory, while the kernel side reads it.
///
/// # Panics
/// If the kernel side fails.
pub fn ring(bytes: &[u8]) {
    run(bytes, Hostility::writing);
}

fn run(bytes: &[u8], hostility: fn(&[u8]) -> Hostility) {
    let mut bytes = Bytes(bytes);
    let choice = bytes.next();
    let (topology, granularity) = &MACHINES[usize::from(choice % 4)];
    let policy = PolicyKind::ALL[usize::from(choice / 4) % PolicyKind::ALL.len()];
    let flags = bytes.next();
    let scheduler = Builder::from(policy).with(|options| {
        options.domain = *granularity;
        options.strict = flags & 1 != 0;
        options.no_steal = flags & 2 != 0;
        // A domain of one CPU has none to dedicate.
        options.dedicate = flags & 4 != 0 && *granularity != Granularity::Core;
        options.standing = if flags & 8 != 0 { 0 } else { 7 };
    });
    let setup = Setup {
        scheduler,
        interleave: flags & 16 != 0,
        seed: bytes.next().into(),
        ..Setup::default()
    };
    let workload = bytes.workload(topology.cpus());
    let domains = topology.partition(*granularity).expect("the machine has such domains");
    let mut machine = Machine::new(topology, &domains, &workload, &setup, None)
        .expect("the kernel side takes the machine");
    machine.distrust(hostility(bytes.0));
    machine.run(LENGTH).expect("there is no trace to write");
    let ended = |group| machine.tasks.iter().filter(move |task| task.group == group);
    for (number, group) in workload.groups.iter().enumerate() {
        for task in ended(number) {
            assert!(task.state == State::Dead, "a task of {group:?} was lost: {task:?}");
        }
    }
    machine.check_counts();
}

/// What is left of the bytes; zeros follow.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    /// A number from 1 to `most`.
    fn count(&mut self, most: u8) -> u8 {
        1 + self.next() % most
    }

    /// Up to 2.55 ms.
    fn time_ns(&mut self) -> u64 {
        u64::from(self.next()) * 10_000
    }

    fn workload(&mut self, cpus: &CpuSet) -> Workload {
        Workload {
            groups: (0..self.count(4)).map(|number| self.group(number, cpus)).collect(),
            duration: None,
            mutexes: 0,
            conditions: 0,
            semaphores: 0,
            timers: 0,
            barriers: Vec::new(),
            cgroups: Vec::new(),
        }
    }

    fn group(&mut self, number: u8, cpus: &CpuSet) -> Group {
        Group {
            name: format!("group {number}"),
            instances: self.count(6).into(),
            delay_ns: self.time_ns(),
            loops: Loops::Times(self.count(3).into()),
            phases: (0..self.count(2)).map(|_| self.phase(cpus)).collect(),
            own_timers: 0,
        }
    }

    fn phase(&mut self, cpus: &CpuSet) -> Phase {
        let priority = match self.next() {
            byte @ 0..40 => Priority::Nice(byte as i8 - 20),
            40..50 => Priority::Idle,
            byte @ 50..60 => Priority::RealTime(byte),
            _ => Priority::Nice(0),
        };
        Phase {
            loops: Loops::Times(self.count(4).into()),
            cpus: self.cpus(cpus),
            priority: Some(priority),
            cgroup: None,
            steps: (0..self.count(3)).map(|_| self.step()).collect(),
        }
    }

    /// All, or some of them.
    fn cpus(&mut self, all: &CpuSet) -> Option<CpuSet> {
        let byte = self.next();
        let some: CpuSet = all.iter().filter(|cpu: &CpuId| byte >> (cpu.0 % 8) & 1 != 0).collect();
        (byte & 0x80 == 0 && !some.is_empty()).then_some(some)
    }

    fn step(&mut self) -> Step {
        match self.next() % 4 {
            0 | 1 => Step::Run(self.time_ns()),
            2 => Step::Sleep(self.time_ns()),
            _ => Step::Yield,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many random inputs are tried: `FUZZ_RUNS`, or a sample.
    fn runs() -> u64 {
        std::env::var("FUZZ_RUNS").map_or(100, |text| text.parse().expect("a number"))
    }

    fn bytes(seed: u64, length: usize) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(seed);
        std::iter::repeat_with(|| random.u8(..)).take(length).collect()
    }

    #[test]
    fn no_task_is_lost_whatever_the_threads_decide() {
        (0..runs()).for_each(|seed| decisions(&bytes(seed, 400)));
        decisions(&[]);
    }

    #[test]
    fn no_task_is_lost_whatever_is_written_to_the_ring() {
        (0..runs()).for_each(|seed| ring(&bytes(seed, 400)));
    }
}
