//! Tests of a round of one domain's scheduler, over queues in memory.

use super::*;
use crate::domains::testing::{Call, Kept, Queues, Sent, Witness};
use crate::domains::testing::{adopted, decide, domains, places, scheduler};
use crate::ids::Pid;
use crate::policy::deadline::Deadline;
use crate::policy::fifo::Fifo;
use crate::policy::vruntime::Vruntime;
use crate::policy::{Slices, testing::SLICES};
use crate::topology::Granularity;
use proptest::prelude::*;
use std::collections::HashMap;

#[test]
fn time_never_goes_back_for_a_policy() {
    let mut scheduler = scheduler(1, Box::new(Witness::new().0));
    decide(&mut scheduler, Sent::Plain(Kept::new(1).queue(1000)));
    assert_eq!(scheduler.context.now_ns, 1000);
    scheduler.seam().now_ns = 400;
    scheduler.round();
    assert_eq!(scheduler.context.now_ns, 1000);
    scheduler.seam().now_ns = 1700;
    scheduler.round();
    assert_eq!(scheduler.context.now_ns, 1700);
}

#[test]
fn a_policy_that_decides_late_is_asked_for_what_the_cpus_can_take() {
    let (mut witness, _) = Witness::new();
    witness.late = true;
    let mut scheduler = scheduler(3, Box::new(witness));
    for pid in 0..10 {
        scheduler.seam().sent.push_back(Sent::Plain(Kept::new(pid).queue(1)));
    }
    let mut round = |ready| {
        scheduler.seam().ready = ready;
        let left = scheduler.round();
        (left, scheduler.seam().decided.len())
    };
    assert_eq!(round(0), (Left::Waiting, 3), "one for each CPU");
    assert_eq!(round(3), (Left::Waiting, 3), "nothing was consumed");
    // Two were consumed: as many again, and one for each CPU, less the one that is left.
    assert_eq!(round(1), (Left::Waiting, 7));
    assert_eq!(round(0), (Left::Nothing, 10));
}

#[test]
fn a_task_from_another_domain_is_adopted_at_its_virtual_time() {
    let domains = domains("L3Cache:2 Core:2 PU:1", Granularity::L3);
    let (board, mut deques) = Board::new(2, false);
    let mut make = |id: usize, virtual_time| {
        let (mut witness, log) = Witness::new();
        witness.virtual_time = virtual_time;
        let domain = domains.iter().nth(id).unwrap();
        let queues = Queues { room: usize::MAX, ..Queues::default() };
        let policy = Box::new(witness);
        let deque = deques.remove(0);
        let (places, cpus) = (places(domain), domain.cpus);
        (Scheduler::new(queues, domain, &places, cpus, policy, board.clone(), deque), log)
    };
    let (mut here, here_log) = make(0, 500);
    let (mut there, there_log) = make(1, 90);
    let (mut remains, mut moves) = (Kept::new(1), Kept::new(2));
    for task in [&mut remains, &mut moves] {
        let decision = decide(&mut here, Sent::Plain(task.queue(1)));
        task.carry_out(&decision);
    }
    let decision = decide(&mut here, Sent::Plain(remains.queue(2)));
    remains.carry_out(&decision);
    let decision = decide(&mut there, Sent::Plain(moves.queue(2)));
    moves.carry_out(&decision);
    decide(&mut there, Sent::Plain(moves.queue(3)));
    // Decided by a domain that does not exist, which no kernel says.
    decide(&mut there, Sent::Plain(Kept { decided_by: 2, ..Kept::new(3) }.queue(3)));

    assert_eq!(adopted(&here_log), []);
    assert_eq!(adopted(&there_log), [(Pid(2), 500)]);
    assert_eq!(moves.decided_by, 1);
    assert!(matches!(there_log.lock().unwrap()[0], Call::Adopted { .. }), "before enqueue");
}

fn policies(late: bool) -> Vec<Box<dyn Policy>> {
    let (mut witness, _) = Witness::new();
    witness.late = late;
    let Slices { base, .. } = SLICES;
    vec![
        Box::new(witness),
        Box::new(Fifo::new(base)),
        Box::new(Vruntime::new(SLICES)),
        Box::new(Deadline::new(SLICES)),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    /// Some tasks become runnable.
    Queue(u8),
    /// The thread makes a round, with room for some decisions, some idle CPUs and some ready tasks.
    Round { room: u8, idle: u8, ready: u8 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..20u8).prop_map(Step::Queue),
        (0..12u8, any::<u8>(), 0..10u8).prop_map(|(room, idle, ready)| Step::Round {
            room,
            idle,
            ready
        }),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// With every policy, and a queue of decisions that is full at random.
    #[test]
    fn nothing_is_lost_and_nothing_decided_twice(steps in steps(), late in any::<bool>()) {
        for policy in policies(late) {
            let mut scheduler = scheduler(8, policy);
            let mut queued = HashMap::new();
            let mut next = 0;
            for step in &steps {
                match *step {
                    Step::Queue(count) => {
                        for _ in 0..count {
                            let mut task = Kept { seq: u64::from(next) << 40, ..Kept::new(next) };
                            let message = task.queue(1 + u64::from(next));
                            queued.insert((message.pid, message.seq), false);
                            scheduler.seam().sent.push_back(Sent::Plain(message));
                            next += 1;
                        }
                    }
                    Step::Round { room, idle, ready } => {
                        let queues = scheduler.seam();
                        queues.room = room.into();
                        queues.ready = ready.into();
                        queues.idle = CpuSet::from_words(std::array::from_fn(|i| match i {
                            0 => idle.into(),
                            _ => 0,
                        }));
                        let left = scheduler.round();
                        settle(&mut scheduler, &mut queued)?;
                        let waiting = queued.values().any(|decided| !decided);
                        prop_assert_eq!(left == Left::Waiting, waiting);
                        prop_assert_eq!(scheduler.is_waiting(), waiting);
                    }
                }
            }
            scheduler.seam().room = usize::MAX;
            scheduler.seam().ready = 0;
            while scheduler.round() == Left::Waiting {
                prop_assert!(!scheduler.seam().decided.is_empty(), "a round without progress");
                settle(&mut scheduler, &mut queued)?;
            }
            settle(&mut scheduler, &mut queued)?;
            prop_assert!(queued.values().all(|&decided| decided));
        }
    }
}

/// Ticks off what was decided, once for each task.
fn settle(
    scheduler: &mut Scheduler<Queues>,
    queued: &mut HashMap<(u32, u64), bool>,
) -> Result<(), TestCaseError> {
    for decision in std::mem::take(&mut scheduler.seam().decided) {
        let was = queued.insert((decision.pid, decision.seq), true);
        prop_assert_eq!(was, Some(false), "pid {}", decision.pid);
    }
    Ok(())
}
