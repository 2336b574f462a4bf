//! One figure of one run.

use serde::{Deserialize, Serialize};

/// A figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// What it measures, such as `wake-up p99`. The same in every run of the workload.
    pub name: String,
    /// Its unit, such as `us` or `1/s`.
    pub unit: String,
    /// Which direction is the good one.
    pub better: Better,
    pub value: f64,
}

/// Which direction is the good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    Higher,
    Lower,
    /// The figure is shown, not judged.
    Neither,
}

impl Reading {
    pub fn higher(name: impl Into<String>, unit: &str, value: f64) -> Self {
        Self::new(name, unit, Better::Higher, value)
    }

    pub fn lower(name: impl Into<String>, unit: &str, value: f64) -> Self {
        Self::new(name, unit, Better::Lower, value)
    }

    pub fn neutral(name: impl Into<String>, unit: &str, value: f64) -> Self {
        Self::new(name, unit, Better::Neither, value)
    }

    fn new(name: impl Into<String>, unit: &str, better: Better, value: f64) -> Self {
        Self { name: name.into(), unit: unit.to_owned(), better, value }
    }
}
