//! The kinds of wake-up that are counted, each as a workload in which it happens once.
//!
//! Every CPU has a task that computes, except where a kind wants an idle one. A waker that computes
//! too wakes the task in the middle of a tick, so nothing else happens then.
//!
//! Invariant: in [`PART`] one task wakes up, and it does so as its kind says ([`Kind::expected`]).

use anyhow::{Result, ensure};
use scx_manyland::simulator::workload::Workload;
use scx_manyland::simulator::{Setup, simulate_part};
use scx_manyland::topology::{Source, Topology};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;
use std::time::Duration;

/// The machines, in domains.
pub const MACHINES: [u32; 3] = [4, 24, 64];
/// The CPUs of a domain, two to a core.
const CPUS: u32 = 16;

/// The part of the run that is counted: the middle of a tick.
const PART: Range<Duration> = Duration::from_micros(40_500)..Duration::from_micros(43_500);
/// How long the waker computes before (microseconds).
const WAKER_US: u32 = 41_400;

/// How a task wakes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No CPU is idle, and the task's last decision stands. Its waker sleeps, and that CPU runs it.
    Standing,
    /// The same, but the domain thread decides, which sleeps before and afterwards.
    Decided,
    /// Another CPU of its home is idle. It runs there until the CPU is idle again.
    IdleAtHome,
    /// Only a CPU of the farthest domain is idle. It runs there until the CPU is idle again.
    IdleElsewhere,
    /// No CPU is idle, and its last decision stands. The first CPU that asks for work belongs to
    /// the domain to which the task's home is the farthest.
    Stolen,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] =
        [Kind::Standing, Kind::Decided, Kind::IdleAtHome, Kind::IdleElsewhere, Kind::Stolen];

    /// The head of its column.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Standing => "standing",
            Kind::Decided => "decided",
            Kind::IdleAtHome => "bypassed, idle CPU at home",
            Kind::IdleElsewhere => "bypassed, idle CPU elsewhere",
            Kind::Stolen => "standing, stolen",
        }
    }

    /// What the scheduler counts for it.
    fn expected(self) -> &'static [(&'static str, u64)] {
        match self {
            Kind::Standing => &[("standing", 1)],
            // The domain thread is switched in once.
            Kind::Decided => &[("activations", 1), ("decided", 1), ("queued", 1)],
            Kind::IdleAtHome | Kind::IdleElsewhere => &[("bypassed", 1)],
            Kind::Stolen => &[("standing", 1), ("stolen_in", 1), ("stolen_out", 1)],
        }
    }

    /// The tasks, on a machine of so many domains.
    fn tasks(self, domains: u32) -> String {
        let last = domains - 1;
        let home = if self == Kind::Stolen { last } else { 0 };
        let idle = match self {
            Kind::IdleAtHome => Some(2),
            Kind::IdleElsewhere => Some(domains * CPUS - 1),
            Kind::Standing | Kind::Decided | Kind::Stolen => None,
        };
        // Longer than the part, or shorter, so that the CPU becomes idle again.
        let run = if idle.is_some() { 50 } else { 10_000 };
        let then = if idle.is_some() { "run" } else { "sleep" };
        let at_home: Vec<_> = (home * CPUS..(home + 1) * CPUS).map(|cpu| cpu.to_string()).collect();
        let mut tasks = format!(
            r#""woken": {{"phases": {{
                "decided once": {{"cpus": [{}], "sleep": 5000, "run": 100}},
                "counted": {{"cpus": [{}], "sem_wait": "go", "run": {run}, "sleep": 1000000}}
            }}}},
            "waker": {{"cpus": [0], "run": {WAKER_US}, "sem_post": "go", "run0": 20, "{then}": 1000000}}"#,
            at_home.join(", "),
            (0..domains * CPUS).map(|cpu| cpu.to_string()).collect::<Vec<_>>().join(", "),
        );
        for cpu in (1..domains * CPUS).filter(|&cpu| Some(cpu) != idle) {
            let _ = write!(
                tasks,
                r#", "busy{cpu}": {{"cpus": [{cpu}], "delay": 2000, "run": 1000000}}"#
            );
        }
        tasks
    }

    /// Lets it happen, and returns what the scheduler has counted meanwhile.
    fn counters(self, domains: u32) -> Result<BTreeMap<&'static str, u64>> {
        let machine = format!("L3Cache:{domains} Core:{} PU:2", CPUS / 2);
        let machine = Topology::load(&Source::Synthetic(machine))?;
        let workload = Workload::parse(&format!(r#"{{"tasks": {{{}}}}}"#, self.tasks(domains)))?;
        let mut setup = Setup { jitter: 0.0, ..Setup::default() };
        setup.costs.set("fork=1")?;
        setup.scheduler = setup.scheduler.with(|options| {
            // Otherwise a task gives way to it, which is a switch more.
            options.no_preempt = true;
            if self == Kind::Decided {
                options.standing = 0;
            }
        });
        let mut counted = simulate_part(&machine, &workload, &setup, PART)?;
        // Whether a CPU asks for another frequency meanwhile depends on what it ran before.
        counted.remove("frequency");
        Ok(counted)
    }

    /// Lets it happen once.
    ///
    /// # Errors
    /// If something else happens.
    pub fn happen(self, domains: u32) -> Result<()> {
        let counted = self.counters(domains)?;
        let expected: BTreeMap<_, _> = self.expected().iter().copied().collect();
        ensure!(
            counted == expected,
            "{self:?} on {domains} domains: the scheduler counted {counted:?} instead of {expected:?}"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_happens_once_on_each_machine() {
        for kind in Kind::ALL {
            for domains in MACHINES {
                kind.happen(domains).unwrap();
            }
        }
    }
}
