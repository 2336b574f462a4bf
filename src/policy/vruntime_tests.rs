//! Tests of [`Vruntime`]: shares, sequence and bounds.

use super::*;
use crate::ids::Pid;
use crate::policy::fair::CROWD_PER_CPU;
use crate::policy::testing::{Behaviour, Decide, MS, SLICES, Simulation, decide_alone, idle};
use proptest::prelude::*;

fn base_ns() -> u64 {
    SLICES.base.as_nanos() as u64
}

/// The distance of a task's key from the virtual time.
fn key_from_vtime(policy: &mut Vruntime, task: Task) -> i64 {
    policy.enqueue(task, &idle());
    let vtime = policy.virtual_time();
    policy.next(&idle()).unwrap().key.unwrap().wrapping_sub(vtime) as i64
}

#[test]
fn shares_one_cpu_in_the_ratio_of_weights() {
    for decide in Decide::ALL {
        let mut cpu = Simulation::new(Vruntime::new(SLICES), decide);
        let heavy = cpu.spawn(1024, Behaviour::Hog);
        let light = cpu.spawn(110, Behaviour::Hog);
        cpu.run_for(60_000 * MS);
        let ratio = cpu.used_ns(heavy) as f64 / cpu.used_ns(light) as f64;
        assert!((ratio / (1024.0 / 110.0) - 1.0).abs() < 0.02, "{ratio} with {decide:?}");
    }
}

#[test]
fn giving_way_often_does_not_enlarge_the_share() {
    for decide in Decide::ALL {
        let mut cpu = Simulation::new(Vruntime::new(SLICES), decide);
        let hog = cpu.spawn(100, Behaviour::Hog);
        let polite = Behaviour::Periodic { run_ns: MS, sleep_ns: MS / 100 };
        let polite: Vec<_> = (0..30).map(|_| cpu.spawn(100, polite)).collect();
        cpu.run_for(60_000 * MS);
        for polite in polite {
            let ratio = cpu.used_ns(polite) as f64 / cpu.used_ns(hog) as f64;
            assert!((0.98..1.02).contains(&ratio), "{ratio} with {decide:?}");
        }
    }
}

#[test]
fn a_mostly_sleeping_task_runs_before_hogs() {
    for decide in Decide::ALL {
        let mut cpu = Simulation::new(Vruntime::new(SLICES), decide);
        for _ in 0..8 {
            cpu.spawn(100, Behaviour::Hog);
        }
        let sleeper = cpu.spawn(100, Behaviour::Periodic { run_ns: MS / 10, sleep_ns: 50 * MS });
        cpu.run_for(1000 * MS);
        cpu.forget_waits();
        cpu.run_for(10_000 * MS);
        // One slice of the task that runs when it wakes.
        assert!(cpu.longest_wait_ns(sleeper) <= base_ns() / 8, "{decide:?}");
    }
}

#[test]
fn a_task_that_gives_way_runs_before_one_that_merely_slept() {
    let mut polite = Task::new(Pid(1));
    polite.memo = [0, decide_alone(&mut Vruntime::new(SLICES), Task::new(Pid(0))).task.memo[1]];
    let mut slept = polite;
    (polite.voluntary_switches, polite.since_last_ns) = (20, 100 * MS);
    (slept.voluntary_switches, slept.since_last_ns) = (1, 100 * MS);
    let polite_key = key_from_vtime(&mut Vruntime::new(SLICES), polite);
    let slept_key = key_from_vtime(&mut Vruntime::new(SLICES), slept);
    assert!(polite_key < slept_key);
    assert_eq!(polite_key, -(base_ns() as i64));
}

#[test]
fn decisions_stand_for_tasks_that_wake_up_among_few() {
    let max_lag = |task: Task, ready: usize| {
        let mut context = Context::with_cpus(4);
        context.ready = ready;
        let mut policy = Vruntime::new(SLICES);
        policy.enqueue(task, &context);
        policy.next(&context).unwrap().max_lag
    };
    let woken = Task::new(Pid(1));
    assert_eq!(max_lag(woken, 0), Some(base_ns()));
    assert_eq!(max_lag(Task { wakeup: false, ..woken }, 0), None);
    assert_eq!(max_lag(woken, 4 * CROWD_PER_CPU as usize), Some(base_ns()));
    assert_eq!(max_lag(woken, 4 * CROWD_PER_CPU as usize + 1), None);
    // A boost adds to the maximum lag.
    let mut polite = decide_alone(&mut Vruntime::new(SLICES), woken).task;
    (polite.voluntary_switches, polite.since_last_ns) = (20, 100 * MS);
    assert_eq!(max_lag(polite, 0), Some(2 * base_ns()));
}

#[test]
fn a_sleeper_banks_no_more_than_one_base_slice() {
    for weight in [1, 100, 1024, 10_000] {
        let mut policy = Vruntime::new(SLICES);
        let mut sleeper = decide_alone(&mut policy, Task::new(Pid(1))).task;
        policy.fair = policy.fair.starting_at(1_000_000 * MS);
        (sleeper.weight, sleeper.since_last_ns) = (weight, u64::MAX);
        let credit = base_ns() * 100 / u64::from(weight.max(100));
        assert_eq!(key_from_vtime(&mut policy, sleeper), -(credit as i64));
    }
}

#[test]
fn a_sleepers_credit_shrinks_in_a_crowd_that_only_the_kernels_side_has_counted_yet() {
    let credit = |nr_queued| {
        let mut context = Context::with_cpus(4);
        context.nr_queued = nr_queued;
        let mut policy = Vruntime::new(SLICES);
        let mut sleeper = decide_alone(&mut policy, Task::new(Pid(1))).task;
        policy.fair = policy.fair.starting_at(1_000_000 * MS);
        (sleeper.wakeup, sleeper.since_last_ns) = (true, u64::MAX);
        policy.enqueue(sleeper, &context);
        let key = policy.next(&context).unwrap().key.unwrap();
        (1_000_000 * MS).wrapping_sub(key)
    };
    let few = 4 * CROWD_PER_CPU as usize;
    assert_eq!(credit(0), base_ns());
    assert_eq!(credit(few), base_ns());
    assert_eq!(credit(10 * few), base_ns() / 10);
}

#[test]
fn no_debt_is_larger_than_the_lightest_task_can_cause() {
    let mut policy = Vruntime::new(SLICES);
    let mut task = decide_alone(&mut policy, Task::new(Pid(1))).task;
    task.used_ns = u64::MAX;
    let lead = (1 + 100) * (2 * base_ns() + 10 * MS);
    assert_eq!(key_from_vtime(&mut policy, task), lead as i64);
}

#[test]
fn new_tasks_start_behind_the_virtual_time_with_a_minimal_slice() {
    let mut policy = Vruntime::new(SLICES);
    policy.enqueue(Task::new(Pid(1)), &idle());
    let first = policy.next(&idle()).unwrap();
    assert_eq!(first.slice, SLICES.min);
    assert_eq!(first.key, Some(SLICES.min.as_nanos() as u64));
    policy.enqueue(first.task, &idle());
    assert_eq!(policy.next(&idle()).unwrap().slice, SLICES.base);
    // What it ran without a decision is no debt.
    let ran_undecided = Task { used_ns: 500 * MS, ..Task::new(Pid(2)) };
    assert_eq!(decide_alone(&mut Vruntime::new(SLICES), ran_undecided).key, first.key);
}

#[test]
fn a_fork_storm_does_not_starve_an_old_hog() {
    const CHAINS: u64 = 50;
    for decide in Decide::ALL {
        let mut cpu = Simulation::new(Vruntime::new(SLICES), decide);
        let hog = cpu.spawn(100, Behaviour::Hog);
        cpu.run_for(1000 * MS);
        let used_before = cpu.used_ns(hog);
        for _ in 0..CHAINS {
            cpu.spawn(100, Behaviour::ForkAndEnd { run_ns: MS });
        }
        cpu.run_for(20_000 * MS);
        // Its lead is a base slice when the storm begins; a round of the storm uses up 1 ms of it.
        let bound = (base_ns() / MS + 1) * (CHAINS + 1) * MS;
        assert!(cpu.longest_wait_ns(hog) <= bound, "{} {decide:?}", cpu.longest_wait_ns(hog));
        let share = (cpu.used_ns(hog) - used_before) as f64 / (20_000 * MS) as f64;
        assert!(share > 0.9 / (CHAINS + 1) as f64, "{share} {decide:?}");
    }
}

#[test]
fn a_task_keeps_its_lag_in_another_domain() {
    let (mut here, mut there) = (Vruntime::new(SLICES), Vruntime::new(SLICES));
    here.fair = here.fair.starting_at(u64::MAX - 5);
    there.fair = there.fair.starting_at(700 * MS);
    let mut task = decide_alone(&mut here, Task::new(Pid(1))).task;
    task.used_ns = 3 * MS;
    let before_move = task.memo[0].wrapping_sub(here.virtual_time());
    let source = here.virtual_time();
    there.adopt(&mut task, source);
    assert_eq!(task.memo[0], (700 * MS).wrapping_add(before_move));
    assert_eq!(key_from_vtime(&mut there, task), (before_move + 3 * MS) as i64);

    let mut stranger = Task::new(Pid(2));
    there.adopt(&mut stranger, source);
    assert_eq!(stranger.memo, [0, 0]);
}

#[test]
fn a_task_that_moves_while_it_waits_pays_once() {
    let (mut here, mut there) = (Vruntime::new(SLICES), Vruntime::new(SLICES));
    let mut task = decide_alone(&mut here, Task::new(Pid(1))).task;
    (task.used_ns, task.voluntary_switches) = (3 * MS, 2);
    here.enqueue(task, &idle());
    let once = here.next(&idle()).unwrap();
    there.fair = there.fair.starting_at(here.virtual_time());
    there.enqueue(once.task, &idle());
    let twice = there.next(&idle()).unwrap();
    assert_eq!((twice.key, twice.task.memo), (once.key, once.task.memo));
}

#[test]
fn the_average_rises_falls_and_stays_bounded() {
    let mut rate = 0;
    for _ in 0..100 {
        rate = average(rate, 1, 20 * MS);
    }
    assert!((49_000..=50_000).contains(&rate), "{rate} mHz of 50 Hz");
    assert_eq!(average(rate, 0, u64::MAX), 0);
    assert_eq!(average(u64::MAX, u32::MAX, 0), FULL_RATE_MHZ);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// From any virtual time, so also across its wrap, in each way of deciding.
    #[test]
    fn shares_follow_any_weights_from_any_virtual_time(
        weights in prop::collection::vec(10..2000u32, 2..8),
        before_wrap in 0..20_000 * MS,
        way in 0..3usize,
    ) {
        let mut policy = Vruntime::new(SLICES);
        policy.fair = policy.fair.starting_at(0u64.wrapping_sub(before_wrap));
        let decide = Decide::ALL[way];
        let mut cpu = Simulation::new(policy, decide);
        let tasks: Vec<_> = weights.iter().map(|&w| cpu.spawn(w, Behaviour::Hog)).collect();
        cpu.run_for(120_000 * MS);
        let sum: u32 = weights.iter().sum();
        for (&task, &weight) in tasks.iter().zip(&weights) {
            let fair_ns = 120_000.0 * MS as f64 * f64::from(weight) / f64::from(sum);
            // Two percent, and the slice that is running.
            let off = (cpu.used_ns(task) as f64 - fair_ns).abs();
            prop_assert!(off < 0.02 * fair_ns + base_ns() as f64, "{weights:?} {weight} {off}");
        }
    }

    /// Whatever the message of a task says.
    #[test]
    fn no_message_leads_out_of_the_window(
        vtime in any::<u64>(),
        memo in any::<[u64; 2]>(),
        used_ns in any::<u64>(),
        since_last_ns in any::<u64>(),
        voluntary_switches in any::<u32>(),
        weight in any::<u32>(),
    ) {
        let mut policy = Vruntime::new(SLICES);
        policy.fair = policy.fair.starting_at(vtime);
        let task = Task { memo, used_ns, since_last_ns, voluntary_switches, weight, ..Task::new(Pid(1)) };
        let key = key_from_vtime(&mut policy, task);
        let lead = (100 + 100) * (2 * base_ns() + 10 * MS);
        prop_assert!(key >= -2 * base_ns() as i64 && key <= lead as i64, "{key}");
    }
}
