//! The statistics: their names, what they mean, and a value of each.
//!
//! Invariant: `bpf/statistics.def` is the only list. The struct that BPF counts in follows from it
//! through C's preprocessor, and all that is here through the macros below.

use super::domain_counts;
use serde::{Deserialize, Serialize};

include!(concat!(env!("OUT_DIR"), "/statistics.rs"));
pub(crate) use statistics;

/// What a value says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Events since the last line.
    Counter,
    /// The value at the moment of the line.
    Gauge,
    /// Half of the times since the last line (`p50`) and 99 of 100 (`p99`) are not longer.
    Latency,
}

impl Kind {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Latency => "latency",
        }
    }
}

/// What has the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Each domain.
    Domain,
    /// The process.
    Process,
}

/// One of the statistics.
#[derive(Clone, Copy, Debug)]
pub struct Statistic {
    /// Its key in JSON.
    pub name: &'static str,
    /// What it says.
    pub meaning: &'static str,
    /// How its value comes about.
    pub kind: Kind,
    /// What it is of.
    pub scope: Scope,
}

/// Percentiles in microseconds; `None` if nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Half of the times are not longer.
    pub p50: Option<f64>,
    /// 99 of 100 are not longer.
    pub p99: Option<f64>,
}

/// Something of each [`Kind::Latency`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latencies<T> {
    /// From the notice of a task to its decision.
    pub decision_us: T,
    /// From the wake-up of a task until it runs.
    pub run_delay_us: T,
}

impl<T> Latencies<T> {
    /// What `of` makes of each.
    pub fn map<'a, U>(&'a self, mut of: impl FnMut(&'a T) -> U) -> Latencies<U> {
        Latencies { decision_us: of(&self.decision_us), run_delay_us: of(&self.run_delay_us) }
    }

    /// Each with what is of the same latency in `other`.
    pub fn zip<'a, U>(&'a self, other: &'a Latencies<U>) -> Latencies<(&'a T, &'a U)> {
        Latencies {
            decision_us: (&self.decision_us, &other.decision_us),
            run_delay_us: (&self.run_delay_us, &other.run_delay_us),
        }
    }

    /// All, in the sequence of the statistics.
    pub fn into_array(self) -> [T; 2] {
        [self.decision_us, self.run_delay_us]
    }
}

/// The value of one of the statistics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// Of a counter or a gauge.
    Number(u64),
    /// Of a latency.
    Latency(Percentiles),
}

impl From<u64> for Value {
    fn from(number: u64) -> Value {
        Value::Number(number)
    }
}

impl From<Percentiles> for Value {
    fn from(percentiles: Percentiles) -> Value {
        Value::Latency(percentiles)
    }
}

macro_rules! kind {
    (COUNTER) => {
        Kind::Counter
    };
    (GAUGE) => {
        Kind::Gauge
    };
    (LATENCY) => {
        Kind::Latency
    };
}

macro_rules! value {
    (LATENCY) => {
        Percentiles
    };
    ($number:ident) => {
        u64
    };
}

macro_rules! visit {
    (COUNTER, $name:ident, $counts:ident, $visit:ident) => {
        $visit(stringify!($name), $counts.$name)
    };
    ($other:ident, $name:ident, $counts:ident, $visit:ident) => {};
}

macro_rules! define {
    (
        $(DOMAIN($of_domain:ident, $domain:ident, $domain_meaning:literal))*
        $(PROCESS($of_process:ident, $process:ident, $process_meaning:literal))*
    ) => {
        /// All of them, in the sequence that a line has.
        pub const STATISTICS: &[Statistic] = &[
            $(Statistic {
                name: stringify!($domain),
                meaning: $domain_meaning,
                kind: kind!($of_domain),
                scope: Scope::Domain,
            },)*
            $(Statistic {
                name: stringify!($process),
                meaning: $process_meaning,
                kind: kind!($of_process),
                scope: Scope::Process,
            },)*
        ];

        /// What a line says of a domain.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
        pub struct DomainStatistics {
            $(#[doc = $domain_meaning] pub $domain: value!($of_domain),)*
        }

        /// What a line says of the process.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
        pub struct ProcessStatistics {
            $(#[doc = $process_meaning] pub $process: value!($of_process),)*
        }

        impl DomainStatistics {
            /// Calls `visit` with the name and the value of each of the statistics.
            pub fn for_each(&self, mut visit: impl FnMut(&'static str, Value)) {
                $(visit(stringify!($domain), self.$domain.into());)*
            }
        }

        impl ProcessStatistics {
            /// Calls `visit` with the name and the value of each of the statistics.
            pub fn for_each(&self, mut visit: impl FnMut(&'static str, u64)) {
                $(visit(stringify!($process), self.$process);)*
            }
        }

        impl domain_counts {
            /// Calls `visit` with the name and the value of each counter.
            pub fn for_each(&self, mut visit: impl FnMut(&'static str, u64)) {
                $(visit!($of_domain, $domain, self, visit);)*
            }
        }
    };
}

statistics!(define);

impl domain_counts {
    /// Nothing is counted yet.
    // SAFETY: the struct is made of integers, for which zero is a value.
    pub const ZERO: domain_counts = unsafe { std::mem::zeroed() };
}

/// The statistics explained, for people.
pub fn help() -> String {
    let width = STATISTICS.iter().map(|statistic| statistic.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (scope, title) in [(Scope::Domain, "Of each domain:"), (Scope::Process, "Of the process:")]
    {
        text.push_str(title);
        text.push('\n');
        for Statistic { name, meaning, kind, .. } in
            STATISTICS.iter().filter(|it| it.scope == scope)
        {
            text.push_str(&format!("  {name:width$}  {:7}  {meaning}\n", kind.name()));
        }
        text.push('\n');
    }
    text.push_str(
        "A counter counts since the last line and a gauge is of the moment. A latency has two values:\n\
         half of the times since the last line (p50) and 99 of 100 (p99) are not longer.\n",
    );
    text
}
