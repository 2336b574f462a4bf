//! Tests of a round of one domain's scheduler, over queues in memory.

use super::*;
use crate::domains::testing::{Kept, Queues, Sent, cpus, domains, places, scheduler};
use crate::ids::{CpuId, Pid};
use crate::policy::Choice;
use crate::policy::deadline::Deadline;
use crate::policy::fifo::Fifo;
use crate::policy::vruntime::Vruntime;
use crate::policy::{Slices, testing::SLICES};
use crate::topology::Granularity;
use proptest::prelude::*;
use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

/// What a policy has been told, in order.
type Log = Arc<Mutex<Vec<Call>>>;

enum Call {
    Adopted { pid: Pid, source: u64 },
    Enqueued(Task),
}

/// First in, first out; writes down what it is told, and leaves a count in the memo.
struct Witness {
    waiting: VecDeque<Task>,
    late: bool,
    cpu: Option<CpuId>,
    preempt: bool,
    reach: Option<u64>,
    virtual_time: u64,
    log: Log,
}

impl Witness {
    fn new() -> (Self, Log) {
        let log = Log::default();
        let waiting = VecDeque::new();
        let witness = Self {
            waiting,
            late: false,
            cpu: None,
            preempt: false,
            reach: None,
            virtual_time: 0,
            log: log.clone(),
        };
        (witness, log)
    }
}

impl Policy for Witness {
    fn enqueue(&mut self, task: Task, _: &Context) {
        self.log.lock().unwrap().push(Call::Enqueued(task));
        self.waiting.push_back(task);
    }

    fn next(&mut self, _: &Context) -> Option<Choice> {
        let mut task = self.waiting.pop_front()?;
        task.memo = [task.memo[0] + 1, u64::MAX - task.memo[0]];
        let choice = task.run_for(Duration::from_millis(1));
        Some(Choice { cpu: self.cpu, preempt: self.preempt, reach: self.reach, ..choice })
    }

    fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn decides_late(&self) -> bool {
        self.late
    }

    fn virtual_time(&self) -> u64 {
        self.virtual_time
    }

    fn adopt(&mut self, task: &mut Task, source: u64) {
        self.log.lock().unwrap().push(Call::Adopted { pid: task.pid, source });
    }
}

fn enqueued(log: &Log) -> Vec<Task> {
    let told = log.lock().unwrap();
    let tasks = told.iter().filter_map(|told| match told {
        Call::Enqueued(task) => Some(*task),
        Call::Adopted { .. } => None,
    });
    tasks.collect()
}

fn adopted(log: &Log) -> Vec<(Pid, u64)> {
    let told = log.lock().unwrap();
    let adopted = told.iter().filter_map(|told| match told {
        Call::Adopted { pid, source } => Some((*pid, *source)),
        Call::Enqueued(_) => None,
    });
    adopted.collect()
}

/// Lets the scheduler decide one message, and answers the decision.
fn decide(scheduler: &mut Scheduler<Queues>, message: Sent) -> abi::decided {
    scheduler.seam().sent.push_back(message);
    assert_eq!(scheduler.round(), Left::Nothing);
    let decided = std::mem::take(&mut scheduler.seam().decided);
    let [decision] = decided[..] else { panic!("{} decisions", decided.len()) };
    decision
}

#[test]
fn totals_become_what_is_new_since_the_last_decision() {
    let (witness, log) = Witness::new();
    let mut scheduler = scheduler(2, Box::new(witness));
    // Near the end of what the counters hold, so that they wrap around.
    let mut task = Kept { used_ns: u64::MAX - 10, switches: u64::MAX - 1, ..Kept::new(7) };
    let first = decide(&mut scheduler, Sent::Plain(task.queue(1000)));
    task.carry_out(&first);
    task.used_ns = task.used_ns.wrapping_add(500);
    task.switches = task.switches.wrapping_add(3);
    // This decision comes too late, and the task runs and waits again.
    decide(&mut scheduler, Sent::Plain(task.queue(3000)));
    task.used_ns += 40;
    task.switches += 2;
    let third = decide(&mut scheduler, Sent::Plain(task.queue(4500)));
    task.carry_out(&third);
    decide(&mut scheduler, Sent::Plain(task.queue(4600)));

    let seen: Vec<_> = enqueued(&log)
        .iter()
        .map(|t| (t.used_ns, t.voluntary_switches, t.since_last_ns, t.memo[0]))
        .collect();
    let joined = u64::MAX - 10;
    assert_eq!(seen, [(joined, 0, 0, 0), (500, 3, 2000, 1), (540, 5, 3500, 1), (0, 0, 100, 2)]);
    assert_eq!(third.carried.memo, [2, u64::MAX - 1]);
    assert_eq!((third.carried.used_ns, third.carried.at_ns), (529, 4500));
}

#[test]
fn a_message_older_than_the_last_decision_is_no_time_ago() {
    let (witness, log) = Witness::new();
    let mut scheduler = scheduler(1, Box::new(witness));
    let mut task = Kept::new(1);
    let first = decide(&mut scheduler, Sent::Plain(task.queue(1000)));
    task.carry_out(&first);
    decide(&mut scheduler, Sent::Plain(task.queue(900)));
    assert_eq!(enqueued(&log)[1].since_last_ns, 0);
}

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
fn without_an_order_of_the_policy_tasks_are_ordered_as_they_were_decided() {
    let mut scheduler = scheduler(1, Box::new(Witness::new().0));
    for round in 0..3 {
        for pid in 0..4 {
            let message = Sent::Plain(Kept::new(10 * round + pid).queue(1));
            scheduler.seam().sent.push_back(message);
        }
        scheduler.round();
    }
    let decided = &scheduler.seam().decided;
    assert!(decided.is_sorted_by(|a, b| a.order < b.order && a.pid < b.pid));
}

#[test]
fn a_bound_task_gets_its_cpu_idle_or_not() {
    for idle in [cpus([]), cpus([0, 1, 2, 3])] {
        let (mut witness, _) = Witness::new();
        witness.cpu = Some(CpuId(0));
        let mut scheduler = scheduler(4, Box::new(witness));
        scheduler.seam().idle = idle;
        let mut message = Kept { prev_cpu: 3, ..Kept::new(1) }.queue(1);
        message.flags |= abi::queued_flags_QUEUED_BOUND as u16;
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
    const PREEMPT: u32 = abi::decided_flags_DECIDED_PREEMPT;
    let decision = |cpu: Option<u32>, bound: bool| {
        let (mut witness, _) = Witness::new();
        (witness.cpu, witness.preempt) = (cpu.map(CpuId), true);
        let mut scheduler = scheduler(4, Box::new(witness));
        scheduler.seam().idle = cpus([0]);
        let mut message = Kept { prev_cpu: 3, ..Kept::new(1) }.queue(1);
        if bound {
            message.flags |= abi::queued_flags_QUEUED_BOUND as u16;
        }
        let decision = decide(&mut scheduler, Sent::Plain(message));
        (decision.cpu, decision.flags)
    };
    assert_eq!(decision(Some(2), false), (2, PREEMPT));
    assert_eq!(decision(None, true), (3, PREEMPT));
    assert_eq!(decision(None, false), (0, abi::decided_flags_DECIDED_IDLE));
}

#[test]
fn a_choice_stands_unless_it_preempts_or_its_policy_decides_late() {
    let decision = |reach: Option<u64>, preempt: bool, late: bool| {
        let (mut witness, _) = Witness::new();
        (witness.reach, witness.preempt, witness.late) = (reach, preempt, late);
        witness.cpu = preempt.then_some(CpuId(0));
        let mut scheduler = scheduler(1, Box::new(witness));
        let decision = decide(&mut scheduler, Sent::Plain(Kept::new(1).queue(1)));
        (decision.flags & abi::decided_flags_DECIDED_STANDS != 0, decision.reach)
    };
    assert_eq!(decision(Some(70), false, false), (true, 70));
    assert_eq!(decision(None, false, false), (false, 0));
    assert!(!decision(Some(70), true, false).0);
    assert!(!decision(Some(70), false, true).0);
}

#[test]
fn a_task_is_placed_on_allowed_cpus_of_the_domain_only() {
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
    let mut place = |allowed: &[u32]| {
        let allowed = cpus(allowed.iter().copied());
        let decision = decide(&mut scheduler, Kept::new(1).queue_part(1, &allowed));
        (decision.cpu, decision.flags)
    };
    const IDLE: u32 = abi::decided_flags_DECIDED_IDLE;
    const READY: (u32, u32) = (abi::none_NO_CPU, 0);
    assert_eq!(place(&[0, 6]), (6, IDLE));
    assert_eq!(place(&[1, 4, 5]), (4, IDLE));
    assert_eq!(place(&[5]), READY);
    assert_eq!(place(&[0, 1, 7]), READY);
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
    assert_eq!(round(3), (Left::Waiting, 3), "nothing was taken");
    // Two were taken: as many again, and one for each CPU, less the one that is left.
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
    let (mut stays, mut moves) = (Kept::new(1), Kept::new(2));
    for task in [&mut stays, &mut moves] {
        let decision = decide(&mut here, Sent::Plain(task.queue(1)));
        task.carry_out(&decision);
    }
    let decision = decide(&mut here, Sent::Plain(stays.queue(2)));
    stays.carry_out(&decision);
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
    /// So many tasks become runnable.
    Queue(u8),
    /// The thread looks, finding room for so many decisions, these CPUs idle, so many ready.
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

/// Ticks off what was decided, once each.
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
