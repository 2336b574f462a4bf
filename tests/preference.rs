//! Which idle CPU a task gets on machines with several kinds of core, as [`filling`] shows it.

mod filling;

use filling::{Machine, set};
use proptest::prelude::*;
use scx_manyland::cpuset::CpuSet;
use scx_manyland::domains::placement::Placement;
use scx_manyland::ids::{CpuId, DomainId};
use scx_manyland::topology::preference::{Prefer, Preferences};
use scx_manyland::topology::{Granularity, Source, Topology};
use std::path::{Path, PathBuf};

impl Machine {
    fn own(name: &str, granularity: Granularity, prefer: Prefer) -> Machine {
        Machine::load(own_machine(name), granularity, prefer, &[])
    }
}

fn own_machine(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/machines").join(name)
}

/// The slow kind has the low CPU numbers and the first L3.
#[test]
fn a_kind_for_each_l3() {
    for granularity in [Granularity::L3, Granularity::Kind, Granularity::Machine] {
        let machine = Machine::own("dense-l3-first.xml", granularity, Prefer::Performance);
        for home in 0..machine.domains.len() as u32 {
            assert_eq!(machine.wake(home, 0, machine.usable), [2, 3, 0, 1], "home {home}");
            assert_eq!(machine.wake(home, 3, set(&[0, 1, 3])), [3, 0, 1], "home {home}");
            assert_eq!(machine.wake(home, 1, set(&[0, 1])), [1, 0], "home {home}");
        }
        let machine = Machine::own("dense-l3-first.xml", granularity, Prefer::Efficiency);
        for home in 0..machine.domains.len() as u32 {
            assert_eq!(machine.wake(home, 3, machine.usable), [0, 1, 3, 2], "home {home}");
        }
    }
}

/// Fast cores have CPUs 0, 4 and 2, 6; slow ones 1, 5 and 3, 7; one L3.
#[test]
fn kinds_that_interleave_in_cpu_numbers() {
    for granularity in [Granularity::L3, Granularity::Kind] {
        let machine = Machine::own("interleaved-kinds.xml", granularity, Prefer::Performance);
        for home in 0..machine.domains.len() as u32 {
            let got = machine.wake(home, 1, machine.usable);
            assert_eq!(got, [0, 2, 1, 3, 4, 6, 5, 7], "{granularity}, home {home}");
        }
        let machine = Machine::own("interleaved-kinds.xml", granularity, Prefer::Efficiency);
        for home in 0..machine.domains.len() as u32 {
            let got = machine.wake(home, 0, machine.usable);
            assert_eq!(got, [1, 3, 5, 7, 0, 2, 4, 6], "{granularity}, home {home}");
        }
    }
    let machine = Machine::own("interleaved-kinds.xml", Granularity::L3, Prefer::Performance);
    assert_eq!(machine.decide(0, 7, machine.usable), [0, 2, 7, 1, 4, 6, 3, 5]);
    // The fast cores' first threads are busy: a whole slow core goes before their siblings.
    assert_eq!(machine.wake(0, 4, set(&[1, 4, 5, 6])), [1, 4, 6, 5]);
}

/// CPUs 0-3 are two fast cores with an L3; 4-6 and 8 are slow and have none.
#[test]
fn a_kind_without_an_l3() {
    for granularity in [Granularity::L3, Granularity::Kind, Granularity::Core] {
        let machine = Machine::own("low-power-cores.xml", granularity, Prefer::Performance);
        for home in 0..machine.domains.len() as u32 {
            let got = machine.wake(home, 8, machine.usable);
            assert_eq!(set(&got[..2]), set(&[0, 2]), "{granularity}, home {home}: {got:?}");
            assert_eq!(set(&got[2..6]), set(&[4, 5, 6, 8]), "{granularity}, home {home}: {got:?}");
            assert_eq!(set(&got[6..]), set(&[1, 3]), "{granularity}, home {home}: {got:?}");
        }
    }
    let machine = Machine::own("low-power-cores.xml", Granularity::L3, Prefer::Efficiency);
    assert_eq!(set(&machine.wake(0, 0, machine.usable)[..4]), set(&[4, 5, 6, 8]));
}

/// Under one L3 are slow CPUs 0-1 and medium 2-3, under the other medium 4-5 and fast 6-7.
#[test]
fn home_goes_first_within_a_kind() {
    let machine = Machine::own("three-kinds.xml", Granularity::L3, Prefer::Performance);
    assert_eq!(machine.wake(0, 0, machine.usable), [6, 7, 2, 3, 4, 5, 0, 1]);
    assert_eq!(machine.wake(1, 0, machine.usable), [6, 7, 4, 5, 2, 3, 0, 1]);
    assert_eq!(machine.decide(0, 0, machine.usable), [2, 3, 0, 1]);
    let machine = Machine::own("three-kinds.xml", Granularity::L3, Prefer::Efficiency);
    assert_eq!(machine.wake(1, 6, machine.usable), [0, 1, 4, 5, 2, 3, 6, 7]);
}

#[test]
fn a_task_gets_the_best_that_it_may_use() {
    let machine = Machine::own("three-kinds.xml", Granularity::L3, Prefer::Performance);
    let mut placement = Placement::new(&machine.whole, &machine.places(0));
    placement.start_batch(machine.usable);
    let allowed = set(&[0, 1, 4]);
    let got = std::iter::from_fn(|| placement.take(CpuId(6), Some(&allowed)));
    assert_eq!(got.map(|cpu| cpu.0).collect::<Vec<_>>(), [4, 0, 1]);
}

#[test]
fn a_dedicated_cpu_is_nobodys() {
    let file = own_machine("dense-l3-first.xml");
    let machine = Machine::load(file, Granularity::L3, Prefer::Performance, &[1, 3]);
    assert_eq!(machine.wake(0, 1, machine.whole.cpus), [2, 0]);
    assert_eq!(machine.preferences.set_of(CpuId(3)), None);
    assert_eq!(machine.preferences.set_of(CpuId(2)), Some((1, 1)));
}

/// A home that has kept none of its CPUs for tasks still has an order.
#[test]
fn a_domain_of_dedicated_cpus_looks_elsewhere() {
    let file = own_machine("dense-l3-first.xml");
    let machine = Machine::load(file, Granularity::L3, Prefer::Performance, &[2, 3]);
    assert_eq!(machine.wake(1, 2, machine.whole.cpus), [0, 1]);
}

#[test]
fn one_kind_and_no_preference_cost_nothing() {
    let machine = Machine::own("interleaved-kinds.xml", Granularity::L3, Prefer::None);
    assert!(!machine.preferences.by_kind() && machine.preferences.steps(DomainId(0)).is_empty());
    assert_eq!(machine.decide(0, 3, machine.usable), [3, 0, 1, 2, 4, 5, 6, 7]);
    let source = Source::Synthetic("L3Cache:2 Core:2 PU:2".to_string());
    let domains = Topology::load(&source).unwrap().partition(Granularity::L3).unwrap();
    assert!(!Preferences::has_kinds(&domains));
    for prefer in [Prefer::Performance, Prefer::Efficiency] {
        let preferences = Preferences::new(&domains, prefer, &CpuSet::EMPTY);
        assert!(!preferences.by_kind() && preferences.set_count() == 0);
        let places = preferences.within(&domains[DomainId(1)]);
        assert!(places.iter().all(|place| place.cpus == domains[DomainId(1)].cpus));
        assert_eq!(places.iter().map(|place| place.whole_core).collect::<Vec<_>>(), [true, false]);
    }
}

proptest! {
    /// On any of our machines, with any CPUs idle: a task gets an idle CPU that it may use if there
    /// is one; never a slow core while a faster whole one is idle (efficiency: never a fast one
    /// while a slower CPU is); and where it was, if nothing is better.
    #[test]
    fn nothing_better_is_left_idle(
        file in prop::sample::select(vec![
            "dense-l3-first.xml", "interleaved-kinds.xml", "low-power-cores.xml", "three-kinds.xml",
        ]),
        granularity in prop::sample::select(vec![
            Granularity::Machine, Granularity::L3, Granularity::L2, Granularity::Kind, Granularity::Core,
        ]),
        prefer in prop::sample::select(vec![Prefer::Performance, Prefer::Efficiency]),
        idle in any::<u16>(),
        allowed in any::<u16>(),
        home in any::<prop::sample::Index>(),
        prev in any::<prop::sample::Index>(),
    ) {
        let machine = Machine::own(file, granularity, prefer);
        let bits = |mask: u16| {
            let cpus = (0..16).filter(|i| mask & 1 << i != 0).map(CpuId);
            cpus.collect::<CpuSet>().intersection(&machine.usable)
        };
        let (idle, allowed) = (bits(idle), bits(allowed));
        let home = home.index(machine.domains.len()) as u32;
        let prev = machine.usable.iter().nth(prev.index(machine.usable.len())).unwrap();
        let mut placement = Placement::new(&machine.whole, &machine.places(home));
        placement.start_batch(idle);
        let got = placement.take(prev, Some(&allowed));
        let open = idle.intersection(&allowed);
        prop_assert_eq!(got.is_some(), !open.is_empty());
        let Some(got) = got else { return Ok(()) };
        prop_assert!(open.contains(got));
        let whole = |cpu: CpuId| {
            machine.whole.cores.iter().any(|core| core.contains(cpu) && core.is_subset(&idle))
        };
        let rank = |cpu| machine.preferences.set_of(cpu).unwrap().1;
        // Greater is better.
        let worth = |cpu| match prefer {
            Prefer::Efficiency => (u16::MAX - rank(cpu), u16::from(whole(cpu))),
            _ => (u16::from(whole(cpu)), rank(cpu)),
        };
        let best = open.iter().map(worth).max().unwrap();
        prop_assert_eq!(worth(got), best);
        let domain = |cpu| machine.domains.domain_of(cpu).unwrap();
        if open.contains(prev) && worth(prev) == best && domain(prev) == domain(got) {
            prop_assert_eq!(got, prev);
        }
        let at_home = |cpu| domain(cpu) == DomainId(home);
        if open.iter().any(|cpu| at_home(cpu) && worth(cpu) == best) {
            prop_assert!(at_home(got));
        }
    }
}
