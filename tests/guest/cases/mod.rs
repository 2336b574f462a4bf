//! The tests themselves. They run in the guest; [`crate::suite`] says on which machines.

pub mod affinity;
pub mod attach;
pub mod bench;
pub mod cores;
pub mod domains;
pub mod errors;
pub mod fairness;
pub mod faults;
pub mod guest;
pub mod harness;
pub mod homes;
pub mod hotplug;
pub mod hybrid;
pub mod idle;
pub mod library;
pub mod load;
pub mod options;
pub mod rings;
pub mod security;
pub mod statistics;
pub mod stealing;
