//! Stealing step by step: which domain is called, what it steals, what the owner reclaims.
//!
//! `tests/simulator_properties.rs` tries whole machines: no task is lost, and no CPU idle while a
//! task waits.

use super::board::Board;
use super::scheduler::Scheduler;
use super::testing::{Kept, Queues, Sent, domains, places};
use crate::abi;
use crate::cpuset::CpuSet;
use crate::ids::{CpuId, DomainId};
use crate::policy::Slices;
use crate::policy::kind::PolicyKind;
use crate::topology::Granularity;
use std::time::Duration;

const SLICES: Slices = Slices { base: Duration::from_millis(5), min: Duration::from_micros(500) };

#[derive(Clone, Copy, PartialEq, Debug)]
enum State {
    Asleep,
    Waiting,
    Running(CpuId),
}

struct Actor {
    kept: Kept,
    home: usize,
    state: State,
    runs: u64,
    wakes: u64,
    anywhere: bool,
}

/// A machine of domains whose threads make rounds one at a time, as a test calls them.
struct World {
    schedulers: Vec<Scheduler<Queues>>,
    actors: Vec<Actor>,
    stolen: usize,
}

impl World {
    fn new(machine: &str, tasks: usize, policy: PolicyKind) -> Self {
        let domains = domains(machine, Granularity::L3);
        let (board, deques) = Board::new(domains.len(), true);
        let schedulers = domains
            .iter()
            .zip(deques)
            .map(|(domain, deque)| {
                let queues = Queues { room: usize::MAX, idle: domain.cpus, ..Queues::default() };
                let policy = policy.build(SLICES);
                let places = places(domain);
                Scheduler::new(queues, domain, &places, domain.cpus, policy, board.clone(), deque)
            })
            .collect();
        let actors = (0..tasks)
            .map(|i| Actor {
                kept: Kept::new(i as u32),
                home: 0,
                state: State::Asleep,
                runs: 0,
                wakes: 0,
                anywhere: true,
            })
            .collect();
        Self { schedulers, actors, stolen: 0 }
    }

    fn wake(&mut self, actor: usize, now: u64) {
        let actor = &mut self.actors[actor];
        assert_eq!(actor.state, State::Asleep);
        actor.state = State::Waiting;
        actor.wakes += 1;
        let mut message = actor.kept.queue(now);
        message.flags = abi::notice_flags_NOTICE_WAKEUP as u16;
        if actor.anywhere {
            message.flags |= abi::notice_flags_NOTICE_ANYWHERE as u16;
        }
        self.schedulers[actor.home].seam().sent.push_back(Sent::Plain(message));
    }

    /// A round of one domain thread, and what the kernel makes of its decisions.
    fn round(&mut self, domain: usize) -> Vec<DomainId> {
        let elsewhere: Vec<usize> =
            self.schedulers.iter_mut().map(|s| s.seam().idle.len()).collect();
        self.schedulers[domain].seam().idle_elsewhere = elsewhere;
        self.schedulers[domain].round();
        let queues = self.schedulers[domain].seam();
        let called = queues.called.take();
        for decision in std::mem::take(&mut queues.decided) {
            self.carry_out(domain, &decision);
        }
        called
    }

    fn carry_out(&mut self, domain: usize, decision: &abi::decision) {
        assert_eq!(decision.domain as usize, domain, "a domain decides for itself only");
        let actor = &mut self.actors[decision.pid as usize];
        assert_eq!(actor.state, State::Waiting, "task {} is decided twice", decision.pid);
        actor.kept.carry_out(decision);
        if actor.home != domain {
            assert!(actor.anywhere, "task {} has left where it may run", decision.pid);
            actor.home = domain;
            self.stolen += 1;
        }
        let queues = self.schedulers[domain].seam();
        // READY: the lowest idle CPU comes first; without one the task waits.
        let cpu = match decision.cpu {
            abi::none_NO_CPU => queues.idle.first(),
            cpu => Some(CpuId(cpu)),
        };
        let actor = &mut self.actors[decision.pid as usize];
        let runs_on = cpu.filter(|&cpu| queues.idle.contains(cpu));
        if let Some(cpu) = runs_on {
            queues.idle.remove(cpu);
        }
        actor.runs += 1;
        actor.state = State::Running(runs_on.unwrap_or(CpuId(u32::MAX)));
    }
}

#[test]
fn an_idle_domain_is_called_and_steals_what_it_has_room_for() {
    let mut world = World::new("L3Cache:2 Core:2 PU:1", 5, PolicyKind::Vruntime);
    world.schedulers[0].seam().idle = CpuSet::EMPTY;
    for actor in 0..5 {
        world.wake(actor, 1 + actor as u64);
    }
    assert_eq!(world.round(0), [DomainId(1)]);
    let decided = |world: &World| world.actors.iter().filter(|a| a.state != State::Waiting).count();
    assert_eq!(decided(&world), 3, "two are left for the two idle CPUs over there");
    assert_eq!(world.round(1), []);
    assert_eq!((decided(&world), world.stolen), (5, 2));
    assert!(world.schedulers[1].seam().idle.is_empty());
}

#[test]
fn a_thief_reckons_with_the_cpu_that_it_will_leave() {
    let mut world = World::new("L3Cache:2 Core:1 PU:1", 2, PolicyKind::Vruntime);
    world.schedulers[0].seam().idle = CpuSet::EMPTY;
    for actor in 0..2 {
        world.wake(actor, 1);
    }
    assert_eq!(world.round(0), [DomainId(1)]);
    // The only CPU of the domain is not idle while its thread runs.
    world.schedulers[1].seam().idle = CpuSet::EMPTY;
    world.round(1);
    assert_eq!(world.stolen, 1);
}

#[test]
fn what_no_thief_steals_returns_to_its_domain() {
    let mut world = World::new("L3Cache:2 Core:2 PU:1", 4, PolicyKind::Vruntime);
    world.schedulers[0].seam().idle = CpuSet::EMPTY;
    for actor in 0..4 {
        world.wake(actor, 1);
    }
    world.round(0);
    world.schedulers[1].seam().idle = CpuSet::EMPTY;
    world.round(0);
    assert!(world.actors.iter().all(|a| a.state != State::Waiting && a.home == 0));
    world.round(1);
    assert_eq!(world.stolen, 0, "a thief without an idle CPU steals nothing");
}

#[test]
fn a_thief_that_never_comes_delays_no_task_twice() {
    let mut world = World::new("L3Cache:2 Core:2 PU:1", 4, PolicyKind::Vruntime);
    world.schedulers[0].seam().idle = CpuSet::EMPTY;
    for actor in 0..4 {
        world.wake(actor, 1);
    }
    assert_eq!(world.round(0), [DomainId(1)]);
    assert!(world.actors.iter().any(|a| a.state == State::Waiting));
    assert_eq!(world.round(0), [], "the other domain is idle still, and its thread did not come");
    assert!(world.actors.iter().all(|a| a.state != State::Waiting));
}

#[test]
fn a_task_that_may_not_leave_is_not_given_away() {
    let mut world = World::new("L3Cache:2 Core:2 PU:1", 4, PolicyKind::Vruntime);
    world.schedulers[0].seam().idle = CpuSet::EMPTY;
    for actor in 0..4 {
        world.actors[actor].anywhere = false;
        world.wake(actor, 1);
    }
    assert_eq!(world.round(0), [], "no thread is called for a task it may not steal");
    assert!(world.actors.iter().all(|a| a.state != State::Waiting));
}
