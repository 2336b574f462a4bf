//! What holds of the domains of any machine that hwloc can describe, at every granularity.

use clap::ValueEnum;
use proptest::prelude::*;
use scx_manyland::cpuset::CpuSet;
use scx_manyland::ids::DomainId;
use scx_manyland::topology::{Granularity, Source, Topology};

/// A synthetic machine whose CPU numbers are shuffled and have holes.
fn description() -> impl Strategy<Value = (String, Vec<u32>)> {
    let level = |name, most: u32| prop_oneof![1 => Just((name, 0)), 3 => (1..=most).prop_map(move |n| (name, n))];
    let levels = (
        level("Package", 3),
        level("NUMANode", 2),
        level("L3Cache", 3),
        level("L2Cache", 3),
        level("Core", 4),
        (1..=2_u32).prop_map(|n| ("PU", n)),
    );
    levels
        .prop_flat_map(|(package, node, l3, l2, core, pu)| {
            let levels = [package, node, l3, l2, core, pu].into_iter().filter(|&(_, n)| n > 0);
            let levels = levels.collect::<Vec<_>>();
            let cpus = levels.iter().map(|&(_, n)| n).product::<u32>();
            let holes = proptest::collection::vec(0..2_u32, cpus as usize);
            (Just(levels), holes)
        })
        .prop_flat_map(|(levels, holes)| {
            let mut next = 0;
            let numbers = holes.into_iter().map(|hole| {
                next += hole + 1;
                next - 1
            });
            (Just(levels), Just(numbers.collect::<Vec<_>>()).prop_shuffle())
        })
        .prop_map(|(levels, numbers)| {
            let levels = levels.iter().map(|(name, n)| format!("{name}:{n}")).collect::<Vec<_>>();
            let list = numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
            (format!("{}(indexes={list})", levels.join(" ")), numbers)
        })
}

fn is_partition(whole: &CpuSet, parts: impl Iterator<Item = CpuSet>) -> bool {
    let mut rest = *whole;
    for part in parts {
        if part.is_empty() || !part.is_subset(&rest) {
            return false;
        }
        rest = rest.difference(&part);
    }
    rest.is_empty()
}

/// The domains of every granularity partition the machine.
fn domains_are_sound(machine: &Topology) -> Result<(), TestCaseError> {
    for &granularity in Granularity::value_variants() {
        let domains = machine.partition(granularity).unwrap();
        prop_assert!(is_partition(machine.cpus(), domains.iter().map(|domain| domain.cpus)));
        for domain in &domains {
            prop_assert!(is_partition(&domain.cpus, domain.cores.iter().copied()));
            prop_assert!(is_partition(&domain.cpus, domain.kinds.iter().map(|k| k.cpus)));
            for cpu in domain.cpus.iter() {
                prop_assert_eq!(domains.domain_of(cpu), Some(domain.id));
            }
            let mut all = domain.nearest.clone();
            all.push(domain.id);
            all.sort();
            prop_assert!(all.into_iter().eq((0..domains.len() as u32).map(DomainId)));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn domains_partition_the_machine((description, numbers) in description(), isolated: u64) {
        let machine = Topology::load(&Source::Synthetic(description)).unwrap();
        prop_assert_eq!(machine.cpus().len(), numbers.len());
        domains_are_sound(&machine)?;
        // The same without some of its CPUs, of which at least one remains.
        let cpus = *machine.cpus();
        let gone: CpuSet = cpus.iter().filter(|cpu| isolated >> (cpu.0 % 64) & 1 == 1).collect();
        let rest = machine.without(&gone);
        let left = cpus.difference(&gone);
        prop_assert_eq!(*rest.cpus(), if left.is_empty() { cpus } else { left });
        domains_are_sound(&rest)?;
    }
}
