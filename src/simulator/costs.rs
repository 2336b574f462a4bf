//! What scheduling itself costs, in nanoseconds: the speed of the simulated machine.
//!
//! `docs/simulator.md` says how each default was measured.
//!
//! Invariant: every cost has a name for `--cost` and is above 0, so that time passes whatever tasks
//! do.

use anyhow::{Context, Result, bail, ensure};
use std::fmt::Write;

/// The largest possible cost: ten seconds.
const MOST_NS: u64 = 10_000_000_000;

macro_rules! costs {
    ($($(#[doc = $doc:literal])+ $name:ident = $default:literal,)+) => {
        /// The costs, all in nanoseconds.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Costs {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Default for Costs {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        impl Costs {
            const NAMES: &[&str] = &[$(stringify!($name),)+];

            fn get_mut(&mut self, name: &str) -> Option<&mut u64> {
                match name {
                    $(stringify!($name) => Some(&mut self.$name),)+
                    _ => None,
                }
            }

            /// A line for each cost: its name, its value, its meaning.
            pub fn describe(&self) -> String {
                let mut text = String::new();
                $(
                    let what = concat!($($doc,)+);
                    let _ = writeln!(text, "{:<14} {:>9} ns {what}", stringify!($name), self.$name);
                )+
                text
            }
        }
    };
}

costs! {
    /// A notice to a domain thread: reserve, fill and submit.
    queue = 27,
    /// Consuming a notice, in the domain thread.
    consume = 3,
    /// Deciding for a task in an empty run queue: notice to task, policy, CPU choice, decision.
    decide = 100,
    /// What each doubling of the run queue's length adds to a decision.
    decide_doubling = 9,
    /// Submitting a decision.
    submit = 6,
    /// Carrying out a decision: drain, checks, move from DSQ to DSQ.
    drain = 47,
    /// How long the lock of a DSQ is held for one task.
    lock = 20,
    /// A dispatch, without what it finds.
    dispatch = 120,
    /// Finding a DSQ by its number, for its length or its tasks.
    look = 5,
    /// Moving a task over from the run queue of another CPU.
    take_over = 150,
    /// Switching from one task to another.
    switch = 1200,
    /// Waking up a task: the kernel's own part, and the CPU choice.
    wake = 800,
    /// From a kick, or a wake-up that is handed over, to what the other CPU does.
    kick = 1500,
    /// From the first notice to the wake-up of a sleeping domain thread.
    thread_wake = 500,
    /// Each activation of a domain thread, whatever it finds: into poll and out again.
    round = 550,
    /// Ringing the bell of another domain's thread.
    bell = 250,
    /// A step of a task's program that is not a run: a system call or a lock.
    step = 60,
    /// Creating a task.
    fork = 28000,
    /// Ending a task, beyond what `fork` has of that: freeing its memory, which others may preempt.
    exit = 1000,
    /// Refilling the caches of a core after a move within an L3.
    move_core = 1200,
    /// Refilling them after a move to another L3.
    move_l3 = 5000,
    /// Refilling them after a move to another NUMA node.
    move_node = 10000,
    /// The time by which the timer of the BPF side is overdue, which tells it how slow the machine is.
    timer = 1000,
    /// The time by which one of its timers, the third, is overdue besides, as after a pause of the firmware.
    timer_once = 1,
    /// Time between two ticks, at which slices end (CONFIG_HZ=250).
    tick = 4000000,
}

impl Costs {
    /// Sets a cost from `NAME=NANOSECONDS`.
    ///
    /// ```
    /// use scx_manyland::simulator::costs::Costs;
    /// let mut costs = Costs::default();
    /// costs.set("drain=1000")?;
    /// assert_eq!(costs.drain, 1000);
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// If there is no such cost, or its value is not a number from 1 to 10,000,000,000.
    pub fn set(&mut self, text: &str) -> Result<()> {
        let Some((name, value)) = text.split_once('=') else {
            bail!("{text:?} is no cost: it must be NAME=NANOSECONDS");
        };
        let cost = self.get_mut(name).with_context(|| {
            format!("no cost is called {name:?}; choose one of: {}", Self::NAMES.join(", "))
        })?;
        let value_ns =
            value.parse().with_context(|| format!("the cost {text:?} is not a number"))?;
        ensure!(
            (1..=MOST_NS).contains(&value_ns),
            "the cost {text:?} must be from 1 to {MOST_NS} ns"
        );
        *cost = value_ns;
        Ok(())
    }

    /// The cost, in nanoseconds, to decide for one task while `waiting` others wait.
    pub fn decide_among(&self, waiting: usize) -> u64 {
        self.decide + self.decide_doubling * u64::from((waiting as u64 + 1).ilog2())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cost_can_be_set_by_its_name() {
        let mut costs = Costs::default();
        for name in Costs::NAMES {
            costs.set(&format!("{name}=12345")).unwrap();
            assert_eq!(costs.get_mut(name).copied(), Some(12345));
        }
        assert_eq!(costs.describe().matches("12345 ns").count(), Costs::NAMES.len());
    }

    #[test]
    fn what_is_no_cost_is_refused() {
        for (text, expected) in [
            ("drain", "must be NAME=NANOSECONDS"),
            ("drian=5", "no cost is called \"drian\""),
            ("drain=x", "is not a number"),
            ("drain=0", "must be from 1"),
        ] {
            let error = format!("{:#}", Costs::default().set(text).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
