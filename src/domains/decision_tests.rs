//! Tests of decisions: which CPU, which key, which flags.

use super::*;
use crate::domains::board::Board;
use crate::domains::testing::{Kept, Queues, Sent, Witness};
use crate::domains::testing::{cpus, decide, domains, places, scheduler};
use crate::ids::CpuId;
use crate::topology::Granularity;

#[test]
fn without_keys_of_the_policy_tasks_run_as_they_were_decided() {
    let mut scheduler = scheduler(1, Box::new(Witness::new().0));
    for round in 0..3 {
        for pid in 0..4 {
            let message = Sent::Plain(Kept::new(10 * round + pid).queue(1));
            scheduler.seam().sent.push_back(message);
        }
        scheduler.round();
    }
    let decided = &scheduler.seam().decided;
    assert!(decided.is_sorted_by(|a, b| a.vtime < b.vtime && a.pid < b.pid));
}

#[test]
fn a_bound_task_gets_its_cpu_idle_or_not() {
    for idle in [cpus([]), cpus([0, 1, 2, 3])] {
        let (mut witness, _) = Witness::new();
        witness.cpu = Some(CpuId(0));
        let mut scheduler = scheduler(4, Box::new(witness));
        scheduler.seam().idle = idle;
        let mut message = Kept { prev_cpu: 3, ..Kept::new(1) }.queue(1);
        message.flags |= abi::notice_flags_NOTICE_BOUND as u16;
        let decision = decide(&mut scheduler, Sent::Plain(message));
        assert_eq!((decision.cpu, decision.flags), (3, 0));
    }
}

#[test]
fn the_cpu_a_policy_chose_is_no_hint() {
    let (mut witness, _) = Witness::new();
    witness.cpu = Some(CpuId(2));
    let mut scheduler = scheduler(4, Box::new(witness));
    scheduler.seam().idle = cpus([0, 1]);
    let decision = decide(&mut scheduler, Sent::Plain(Kept::new(1).queue(1)));
    assert_eq!((decision.cpu, decision.flags), (2, 0));
}

#[test]
fn a_choice_preempts_on_the_cpu_it_names_or_the_task_is_bound_to_and_nowhere_else() {
    const PREEMPT: u32 = abi::decision_flags_DECISION_PREEMPT;
    let decision = |cpu: Option<u32>, bound: bool| {
        let (mut witness, _) = Witness::new();
        (witness.cpu, witness.preempt) = (cpu.map(CpuId), true);
        let mut scheduler = scheduler(4, Box::new(witness));
        scheduler.seam().idle = cpus([0]);
        let mut message = Kept { prev_cpu: 3, ..Kept::new(1) }.queue(1);
        if bound {
            message.flags |= abi::notice_flags_NOTICE_BOUND as u16;
        }
        let decision = decide(&mut scheduler, Sent::Plain(message));
        (decision.cpu, decision.flags)
    };
    assert_eq!(decision(Some(2), false), (2, PREEMPT));
    assert_eq!(decision(None, true), (3, PREEMPT));
    assert_eq!(decision(None, false), (0, abi::decision_flags_DECISION_IDLE));
}

#[test]
fn a_choice_stands_unless_it_preempts_or_its_policy_decides_late() {
    let decision = |max_lag: Option<u64>, preempt: bool, late: bool| {
        let (mut witness, _) = Witness::new();
        (witness.max_lag, witness.preempt, witness.late) = (max_lag, preempt, late);
        witness.cpu = preempt.then_some(CpuId(0));
        let mut scheduler = scheduler(1, Box::new(witness));
        let decision = decide(&mut scheduler, Sent::Plain(Kept::new(1).queue(1)));
        (decision.flags & abi::decision_flags_DECISION_STANDS != 0, decision.max_lag)
    };
    assert_eq!(decision(Some(70), false, false), (true, 70));
    assert_eq!(decision(None, false, false), (false, 0));
    assert!(!decision(Some(70), true, false).0);
    assert!(!decision(Some(70), false, true).0);
}

#[test]
fn a_task_is_offered_allowed_cpus_of_the_domain_only() {
    let domains = domains("L3Cache:2 Core:4 PU:1", Granularity::L3);
    let domain = domains.iter().nth(1).unwrap();
    let mut usable = domain.cpus;
    usable.remove(CpuId(7));
    let queues = Queues { room: usize::MAX, ..Queues::default() };
    let policy = Box::new(Witness::new().0);
    let (board, mut deques) = Board::new(2, false);
    let deque = deques.pop().unwrap();
    let mut scheduler =
        Scheduler::new(queues, domain, &places(domain), usable, policy, board, deque);
    // CPU 7 belongs to the domain's thread alone; the others' idle bits are not the domain's.
    scheduler.seam().idle = cpus([0, 1, 4, 6, 7]);
    let mut offer = |allowed: &[u32]| {
        let allowed = cpus(allowed.iter().copied());
        let decision = decide(&mut scheduler, Kept::new(1).queue_part(1, &allowed));
        (decision.cpu, decision.flags)
    };
    const IDLE: u32 = abi::decision_flags_DECISION_IDLE;
    const READY: (u32, u32) = (abi::none_NO_CPU, 0);
    assert_eq!(offer(&[0, 6]), (6, IDLE));
    assert_eq!(offer(&[1, 4, 5]), (4, IDLE));
    assert_eq!(offer(&[5]), READY);
    assert_eq!(offer(&[0, 1, 7]), READY);
}

#[test]
fn one_batch_gives_an_idle_cpu_to_one_task() {
    let mut scheduler = scheduler(4, Box::new(Witness::new().0));
    scheduler.seam().idle = cpus([1, 2]);
    for pid in 0..5 {
        let message = Sent::Plain(Kept { prev_cpu: 2, ..Kept::new(pid) }.queue(1));
        scheduler.seam().sent.push_back(message);
    }
    scheduler.round();
    let offered: Vec<_> = scheduler.seam().decided.iter().map(|d| d.cpu).collect();
    const NONE: u32 = abi::none_NO_CPU;
    assert_eq!(offered, [2, 1, NONE, NONE, NONE]);
}
