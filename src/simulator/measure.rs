//! What is measured while the machine runs.
//!
//! Invariant: measuring changes nothing; every number comes from virtual time or from counting.

use hdrhistogram::Histogram;

/// Times in nanoseconds, exact to two digits.
#[derive(Clone)]
pub struct Times(Histogram<u64>);

impl Times {
    fn new() -> Times {
        Times(Histogram::new(2).expect("two digits are allowed"))
    }

    /// Counts a time.
    pub fn record(&mut self, ns: u64) {
        self.0.record(ns).expect("the histogram grows as it must");
    }

    /// How many times it has counted.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time, in nanoseconds, that the share `share` (0 to 1) of them does not exceed.
    pub fn quantile(&self, share: f64) -> u64 {
        self.0.value_at_quantile(share).min(self.0.max())
    }

    /// The mean, in nanoseconds; 0 if there are none.
    pub fn mean(&self) -> f64 {
        self.0.mean()
    }

    /// The longest, in nanoseconds.
    pub fn max(&self) -> u64 {
        self.0.max()
    }
}

/// Moves of tasks between CPUs, by what these share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    pub in_core: u64,
    pub in_l3: u64,
    pub in_node: u64,
    pub between_nodes: u64,
}

/// The figures of one domain.
pub struct DomainMeasures {
    /// From the notice of a task to its carried-out decision.
    pub decision: Times,
    /// CPU time of the domain thread.
    pub thread_ns: u64,
    /// Rounds of its scheduler.
    pub rounds: u64,
}

/// The figures of one group of tasks.
pub struct GroupMeasures {
    /// From runnable to running.
    pub run_delay: Times,
    /// Passes through a phase.
    pub passes: u64,
}

/// The figures of the machine.
pub struct Measures {
    /// Virtual time from start to end.
    pub length_ns: u64,
    /// CPU time of tasks and domain threads. System calls and the refilling of caches after a move
    /// are included.
    pub busy_ns: u64,
    /// CPU time of the kernel's part of scheduling.
    pub overhead_ns: u64,
    /// Calls of the scheduler's callbacks, notices consumed and decisions carried out.
    pub scheduling_events: u64,
    pub longest_walk: u64,
    /// How often a task or a domain thread was switched in.
    pub switches: u64,
    pub moves: Moves,
    pub domains: Vec<DomainMeasures>,
    pub groups: Vec<GroupMeasures>,
}

impl Measures {
    /// All figures at 0.
    pub fn new(domains: usize, groups: usize) -> Measures {
        let domain = || DomainMeasures { decision: Times::new(), thread_ns: 0, rounds: 0 };
        let group = || GroupMeasures { run_delay: Times::new(), passes: 0 };
        Measures {
            length_ns: 0,
            busy_ns: 0,
            overhead_ns: 0,
            scheduling_events: 0,
            longest_walk: 0,
            switches: 0,
            moves: Moves::default(),
            domains: std::iter::repeat_with(domain).take(domains).collect(),
            groups: std::iter::repeat_with(group).take(groups).collect(),
        }
    }
}

/// Jain's index of fairness (Jain, Chiu and Hawe, 1984): 1 if all shares are equal, 1/n if one of
/// them is everything; `None` if there is nothing to share.
///
/// ```
/// use scx_manyland::simulator::measure::jain;
/// assert_eq!(jain(&[2.0, 2.0]), Some(1.0));
/// assert_eq!(jain(&[2.0, 0.0]), Some(0.5));
/// ```
pub fn jain(shares: &[f64]) -> Option<f64> {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    (squares > 0.0).then(|| sum * sum / (shares.len() as f64 * squares))
}
