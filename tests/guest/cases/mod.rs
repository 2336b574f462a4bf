//! The tests themselves. They run in the guest. Each module lists its own, with their machines.

use crate::suite::Case;

pub mod affinity;
pub mod attach;
pub mod bench;
pub mod cgroups;
pub mod confined;
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
pub mod isolated;
pub mod kernel_work;
pub mod library;
pub mod limits;
pub mod load;
pub mod memory;
pub mod options;
pub mod report;
pub mod rings;
pub mod security;
pub mod statistics;
pub mod stealing;
pub mod turns;

/// All of them. Those of the harness come last, for they cost guests.
pub fn all() -> impl Iterator<Item = &'static Case> {
    let modules = [
        guest::TESTS,
        idle::TESTS,
        isolated::TESTS,
        attach::TESTS,
        domains::TESTS,
        affinity::TESTS,
        load::TESTS,
        stealing::TESTS,
        homes::TESTS,
        cores::TESTS,
        hybrid::TESTS,
        fairness::TESTS,
        turns::TESTS,
        cgroups::TESTS,
        options::TESTS,
        faults::TESTS,
        kernel_work::TESTS,
        hotplug::TESTS,
        confined::TESTS,
        limits::TESTS,
        security::TESTS,
        statistics::TESTS,
        report::TESTS,
        bench::TESTS,
        library::TESTS,
        rings::TESTS,
        memory::TESTS,
        errors::TESTS,
        harness::TESTS,
    ];
    modules.into_iter().flatten()
}
