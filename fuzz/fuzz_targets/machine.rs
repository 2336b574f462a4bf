//! What holds of every machine that was loaded, whoever described it.

use clap::ValueEnum;
use scx_manyland::cpuset::CpuSet;
use scx_manyland::topology::{Granularity, Source, Topology};

/// Loads it. That is either refused with one line, or gives a machine that every granularity cuts
/// into whole parts.
pub fn load(source: &Source) {
    let machine = match Topology::load(source) {
        Ok(machine) => machine,
        Err(error) => return assert!(!format!("{error:#}").is_empty()),
    };
    for &granularity in Granularity::value_variants() {
        let Ok(domains) = machine.partition(granularity) else { continue };
        let mut rest: CpuSet = *machine.cpus();
        for domain in domains.iter() {
            assert!(!domain.cpus.is_empty() && domain.cpus.is_subset(&rest), "{granularity:?}");
            rest = rest.difference(&domain.cpus);
        }
        assert!(rest.is_empty(), "{granularity:?} leaves {rest}");
        machine.map(&domains);
        domains.to_json();
    }
}
