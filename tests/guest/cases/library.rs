//! Policies of others: what they decide is what happens.

use crate::api::load::{self, Hog, Probe};
use crate::api::policies::{GROUP, TERRIBLE, URGENT, Wish};
use crate::api::process;
use crate::api::scheduler::{PATIENT, STATS, Scheduler};
use crate::api::{cpus, sched_ext, wait_until};
use crate::machine::Machine;
use crate::suite::tests;
use anyhow::{Context, Result, ensure};
use nix::sched::sched_getcpu;
use scx_manyland::cpuset::CpuSet;
use scx_manyland::ids::CpuId;
use std::fs;
use std::io::{self, Read, Write};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

tests! {
    the_shortest_policy_decides: 90 s on L3X1;
    newcomers_run_briefly: 120 s on L3X1;
    rules_weigh_and_change: 240 s on L3X1;
    tasks_run_where_a_policy_prefers: 150 s on L3X1;
    tasks_stay_where_a_policy_leaves_them: 90 s on L3X1;
    a_policy_sees_cgroups: 90 s on L3X1;
    a_decision_preempts_a_task: 150 s on L3X1;
    a_decision_preempts_no_domain_thread_and_no_higher_class: 90 s on L3X1;
    a_cpu_of_another_domain_is_refused: 90 s on L3X2;
    whom_a_policy_never_chooses_runs: 120 s on L3X1;
    under_a_policy_that_sleeps_tasks_run_late: 90 s on L3X1;
    a_policy_that_panics_ends_the_scheduler: 90 s on L3X1;
}

const LONG: Duration = Duration::from_secs(100);

/// A turn so long that it stands out from everything else.
const LONG_SLICE: [&str; 2] = ["--slice-us", "1000000"];

fn cpu(number: u32) -> CpuSet {
    CpuSet::from_iter([CpuId(number)])
}

/// The example that the documentation begins with decides for what waits, and takes the options of
/// the command line.
pub fn the_shortest_policy_decides(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::spawn(Command::new("/bin/fifo").args(PATIENT))?;
    load::hackbench(2, 200, LONG)?;
    let share = scheduler.await_stats(2)?.percent_decided()?;
    println!("{share:.1} % decided");
    ensure!(share >= 95.0, "the policy decided for {share:.1} %");
    ensure!(scheduler.said().contains("policy fifo"), "it said: {}", scheduler.said());
    scheduler.stop()
}

/// Under `newcomers` the turns of young tasks are shorter than those of old ones on the same CPU.
/// There are several young ones, because a host that lets the guest's CPUs wait makes a turn longer
/// than its slice now and then.
pub fn newcomers_run_briefly(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::spawn(Command::new("newcomers").args(["--slice-us", "50000"]))?;
    let old = [Hog::on(&cpu(1), LONG)?, Hog::on(&cpu(1), LONG)?];
    for hog in &old {
        has_run(hog, Duration::from_secs(3))?;
    }
    let before = Account::of(&old[0])?;
    let mut young = Account::default();
    for _ in 0..6 {
        let hog = Hog::on(&cpu(1), LONG)?;
        // A tenth of the time after which it is as good as the others.
        has_run(&hog, Duration::from_millis(100))?;
        let account = Account::of(&hog)?;
        young.ran += account.ran;
        young.turns += account.turns;
    }
    let (old, young) = (Account::of(&old[0])?.since(before).turn(), young.turn());
    println!("an old task's turns took {old:?}, a young one's {young:?}");
    ensure!(2 * old > 3 * young, "turns of {old:?} for an old task and {young:?} for young ones");
    scheduler.stop()
}

fn has_run(hog: &Hog, time: Duration) -> Result<()> {
    wait_until(&format!("a hog has run for {time:?}"), Duration::from_secs(40), || {
        hog.run_time().is_ok_and(|ran| ran > time)
    })
}

/// How long a task has run, in how many turns.
#[derive(Clone, Copy, Default)]
struct Account {
    ran: Duration,
    turns: u64,
}

impl Account {
    fn of(hog: &Hog) -> Result<Account> {
        Ok(Account { ran: hog.run_time()?, turns: process::involuntary_switches(hog.pid())? })
    }

    fn since(self, before: Account) -> Account {
        Account { ran: self.ran - before.ran, turns: self.turns - before.turns }
    }

    fn turn(self) -> Duration {
        self.ran / u32::try_from(self.turns).unwrap_or(u32::MAX).max(1)
    }
}

/// `rules` shares a CPU by the weights in its file, and otherwise as soon as the file says
/// otherwise.
pub fn rules_weigh_and_change(_: &Machine) -> Result<()> {
    const FILE: &str = "/tmp/rules";
    let first = "light-* 10\nheavy-* 1000\n";
    fs::write(FILE, first)?;
    let scheduler = Scheduler::spawn(Command::new("/bin/rules").arg(FILE))?;
    let light = Hog::named("light-task", &cpu(1), LONG)?;
    let heavy = Hog::named("heavy-task", &cpu(1), LONG)?;
    comes_to_run_most(&heavy, &light)?;
    fs::write("/tmp/rules.new", "light-* 1000\nheavy-* 10\n")?;
    fs::rename("/tmp/rules.new", FILE)?;
    said(&scheduler, "rules: 2 in force")?;
    comes_to_run_most(&light, &heavy)?;
    fs::write(FILE, "light-* none\n")?;
    said(&scheduler, "the old ones stay")?;
    comes_to_run_most(&light, &heavy)?;
    scheduler.stop()
}

/// Waits until one of two tasks runs four times as much as the other. What they have run before
/// their weights changed is still to be made up for.
fn comes_to_run_most(more: &Hog, less: &Hog) -> Result<()> {
    let ran = || -> Result<(f64, f64)> {
        let before = (more.run_time()?, less.run_time()?);
        thread::sleep(Duration::from_secs(2));
        let (more, less) = (more.run_time()? - before.0, less.run_time()? - before.1);
        println!("in 2 s one ran {} ms, the other {} ms", more.as_millis(), less.as_millis());
        Ok((more.as_secs_f64(), less.as_secs_f64()))
    };
    wait_until("one runs four times as much as the other", Duration::from_secs(60), || {
        ran().is_ok_and(|(more, less)| more > 4.0 * less)
    })
}

fn said(scheduler: &Scheduler, what: &str) -> Result<()> {
    wait_until(&format!("it says {what:?}"), Duration::from_secs(10), || {
        scheduler.said().contains(what)
    })
}

/// Three hogs for each CPU are on the CPU that their policy prefers for them, though they may run
/// anywhere. Not always: where a virtual CPU does not run for a while, the tasks that are meant for
/// it go elsewhere.
pub fn tasks_run_where_a_policy_prefers(_: &Machine) -> Result<()> {
    let online = cpus::online()?;
    for (wish, least, most) in [(Wish::Prefer, 0.5, 1.0), (Wish::None, 0.0, 0.45)] {
        let scheduler = wish.start(&STATS)?;
        let mut hogs = Vec::new();
        for cpu in online.iter() {
            for _ in 0..3 {
                hogs.push((cpu, Hog::named(&format!("hog-{cpu}"), &online, LONG)?));
            }
        }
        thread::sleep(Duration::from_secs(3));
        let (mut seen, mut preferred) = (0, 0);
        for _ in 0..50 {
            for (cpu, hog) in &hogs {
                seen += 1;
                preferred += u32::from(process::processor(hog.pid())? == *cpu);
            }
            thread::sleep(Duration::from_millis(20));
        }
        let share = f64::from(preferred) / f64::from(seen);
        println!("with the wish {wish:?}, {:.0} % were on the preferred CPU", 100.0 * share);
        ensure!(
            (least..=most).contains(&share),
            "with the wish {wish:?}, {:.0} % were on the preferred CPU",
            100.0 * share
        );
        ensure!(scheduler.await_stats(1)?.sum("bounced")? == 0, "a right decision was bounced");
        for (_, hog) in hogs {
            hog.stop()?;
        }
        scheduler.stop()?;
    }
    Ok(())
}

/// A policy is told which CPU a task ran on last, whichever CPU wakes it: a thread that the busy
/// CPUs 0 and 1 wake in turn stays where the policy leaves it. Not always, as above.
pub fn tasks_stay_where_a_policy_leaves_them(_: &Machine) -> Result<()> {
    const WAKEUPS: usize = 50;
    let online = cpus::online()?;
    let scheduler = Wish::Stay.start(&STATS)?;
    // No CPU is idle, so everything is decided.
    let mut hogs = Vec::new();
    for number in online.iter() {
        hogs.push(Hog::on(&cpu(number.0), LONG)?);
        hogs.push(Hog::on(&cpu(number.0), LONG)?);
    }
    let (mut calls, mut call) = io::pipe()?;
    let (answer, answers) = mpsc::channel();
    let sleeper = thread::spawn(move || -> Result<()> {
        process::bind(0, &cpu(2))?;
        thread::sleep(Duration::from_millis(100));
        process::bind(0, &online)?;
        answer.send(sched_getcpu()?)?;
        while calls.read(&mut [0])? > 0 {
            answer.send(sched_getcpu()?)?;
        }
        Ok(())
    });
    let mut ran_on = vec![answers.recv()?];
    for wakeup in 0..WAKEUPS {
        process::bind(0, &cpu(wakeup as u32 % 2))?;
        thread::sleep(Duration::from_millis(20));
        call.write_all(&[0])?;
        ran_on.push(answers.recv()?);
    }
    drop(call);
    sleeper.join().expect("it does not panic")?;
    let stayed = ran_on.windows(2).filter(|pair| pair[0] == pair[1]).count();
    println!("it stayed at {stayed} of {WAKEUPS} wake-ups: {ran_on:?}");
    ensure!(4 * stayed > 3 * WAKEUPS, "it stayed at {stayed} of {WAKEUPS} wake-ups: {ran_on:?}");
    scheduler.stop()
}

/// A policy that puts one cgroup's tasks on CPU 2 knows them from others.
pub fn a_policy_sees_cgroups(_: &Machine) -> Result<()> {
    fs::create_dir_all(GROUP).context("cannot make a cgroup")?;
    let scheduler = Wish::Group.start(&[])?;
    let hogs =
        (0..3 * cpus::online()?.len()).map(|_| Hog::anywhere(LONG)).collect::<Result<Vec<_>>>()?;
    let (inside, outside) = hogs.split_at(3);
    for hog in inside {
        let procs = format!("{GROUP}/cgroup.procs");
        fs::write(&procs, hog.pid().to_string())
            .with_context(|| format!("cannot write {procs}"))?;
    }
    thread::sleep(Duration::from_secs(3));
    let (mut there, mut elsewhere) = (0, 0);
    for _ in 0..50 {
        for (hogs, count) in [(inside, &mut there), (outside, &mut elsewhere)] {
            for hog in hogs {
                *count += u32::from(process::processor(hog.pid())? == CpuId(2));
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
    let share = |seen: u32, hogs: &[Hog]| f64::from(seen) / (50 * hogs.len()) as f64;
    let (inside, outside) = (share(there, inside), share(elsewhere, outside));
    println!("{inside:.2} of the looks at tasks in the cgroup saw CPU 2, {outside:.2} at others");
    ensure!(
        inside > 0.5 && outside < 0.45,
        "CPU 2: {inside:.2} in the cgroup, {outside:.2} outside"
    );
    scheduler.stop()
}

/// A task that wakes up beside hogs with slices of a second runs at once if its decision preempts,
/// and else when its turn comes.
pub fn a_decision_preempts_a_task(_: &Machine) -> Result<()> {
    let patient = Contest::run(Wish::None)?;
    let urgent = Contest::run(Wish::Preempt)?;
    println!("without preempting {patient:?}, preempting {urgent:?}");
    ensure!(patient.preempted == 0, "tasks were preempted that nobody asked for: {patient:?}");
    ensure!(urgent.preempted > urgent.wakes / 2, "few tasks were preempted: {urgent:?}");
    // One and four or five, if the tests' agent, a real-time task, did not cut turns short.
    let (at_once, in_turn) = (urgent.turns_per_wake(), patient.turns_per_wake());
    ensure!(
        at_once < 0.75 * in_turn,
        "hogs had {at_once:.1} turns for each wake-up that preempts, {in_turn:.1} for one that does not"
    );
    Ok(())
}

/// What came of a probe called [`URGENT`] beside four hogs on one CPU.
#[derive(Debug)]
struct Contest {
    /// How often it woke up and ran.
    wakes: u64,
    /// How many turns the hogs had meanwhile.
    turns: u64,
    /// How many tasks gave way to a decision.
    preempted: u64,
}

impl Contest {
    fn run(wish: Wish) -> Result<Contest> {
        let scheduler = wish.start(&[&STATS[..], &LONG_SLICE].concat())?;
        let hogs = (0..4).map(|_| Hog::on(&cpu(1), LONG)).collect::<Result<Vec<_>>>()?;
        thread::sleep(Duration::from_secs(2));
        let turns = || -> Result<u64> {
            hogs.iter().map(|hog| process::involuntary_switches(hog.pid())).sum()
        };
        let before = (turns()?, hogs.iter().map(Hog::run_time).collect::<Result<Vec<_>>>()?);
        let probe = Probe::named(URGENT, &cpu(1));
        thread::sleep(Duration::from_secs(8));
        let wakes = probe.wakes();
        let turns = turns()? - before.0;
        for (hog, before) in hogs.iter().zip(before.1) {
            ensure!(hog.run_time()? > before, "a hog did not run beside an urgent task");
        }
        let preempted = scheduler.await_stats(1)?.sum("preempted")?;
        for hog in hogs {
            hog.stop()?;
        }
        scheduler.stop()?;
        Ok(Contest { wakes, turns, preempted })
    }

    fn turns_per_wake(&self) -> f64 {
        self.turns as f64 / self.wakes.max(1) as f64
    }
}

/// Neither a domain thread that spins on its own CPU nor a real-time task gives way to a decision
/// that preempts.
pub fn a_decision_preempts_no_domain_thread_and_no_higher_class(_: &Machine) -> Result<()> {
    let scheduler = Wish::Preempt.start(&[&STATS[..], &["--dedicate"]].concat())?;
    let dedicated = cpus::online()?.iter().last().context("there are no CPUs")?;
    let beside_thread = Probe::named(URGENT, &CpuSet::from_iter([dedicated]));
    let intruder = Hog::pausing_on(&cpu(1), LONG)?;
    process::choose_real_time(intruder.pid())?;
    let beside_intruder = Probe::named(URGENT, &cpu(1));
    thread::sleep(Duration::from_secs(5));
    let wakes = (beside_thread.wakes(), beside_intruder.wakes());
    let preempted = scheduler.await_stats(1)?.sum("preempted")?;
    println!("woke up {wakes:?} times, preempting {preempted}");
    ensure!(wakes.0 > 0 && wakes.1 > 0, "an urgent task did not run: {wakes:?}");
    // Somebody else may be there while the real-time task pauses.
    ensure!(4 * preempted < wakes.1, "{preempted} were preempted for {} wake-ups", wakes.1);
    intruder.stop()?;
    scheduler.stop()
}

/// A policy may name a CPU of its own domain only. Otherwise its decisions are bounced, and the
/// tasks run all the same.
pub fn a_cpu_of_another_domain_is_refused(_: &Machine) -> Result<()> {
    let online = cpus::online()?;
    let scheduler = Wish::Prefer.start(&[&STATS[..], &["--no-steal"]].concat())?;
    // All have the home of this process, and half of them prefer the other domain.
    let ends = [online.first(), online.iter().last()].map(|cpu| cpu.expect("there are CPUs"));
    let hogs = (0..8)
        .map(|number| Hog::named(&format!("hog-{}", ends[number % 2]), &online, LONG))
        .collect::<Result<Vec<_>>>()?;
    thread::sleep(Duration::from_secs(6));
    let stats = scheduler.await_stats(1)?;
    println!("{} bounced, {} decided", stats.sum("bounced")?, stats.sum("decided")?);
    ensure!(stats.sum("bounced")? > 0, "no decision was bounced");
    // Those with a CPU of the other domain run when nothing is ready, and as starved ones every
    // three seconds at least.
    let before = hogs.iter().map(Hog::run_time).collect::<Result<Vec<_>>>()?;
    thread::sleep(Duration::from_secs(9));
    for (hog, before) in hogs.into_iter().zip(before) {
        let ran = hog.run_time()? - before;
        println!("it ran for {} ms of 9 s", ran.as_millis());
        ensure!(ran > Duration::ZERO, "a hog did not run for 9 s");
        hog.stop()?;
    }
    scheduler.stop()
}

/// Whom a policy never chooses runs every few seconds all the same, also in the CPU's own queue
/// behind the domain's others.
pub fn whom_a_policy_never_chooses_runs(_: &Machine) -> Result<()> {
    let scheduler = Wish::Pid.start(&STATS)?;
    let _chosen =
        (0..2 * cpus::online()?.len()).map(|_| Hog::anywhere(LONG)).collect::<Result<Vec<_>>>()?;
    let never = [Hog::on(&cpu(1), LONG)?, Hog::on(&cpu(1), LONG)?, Hog::anywhere(LONG)?];
    for hog in &never {
        has_run(hog, Duration::from_nanos(1))?;
    }
    let before = never.iter().map(Hog::run_time).collect::<Result<Vec<_>>>()?;
    // Three seconds, and as much again for a slow host.
    let within = Duration::from_secs(9);
    let since = Instant::now();
    for (hog, before) in never.iter().zip(before) {
        while hog.run_time()? == before {
            ensure!(since.elapsed() < within, "a task that is never chosen did not run for 9 s");
            thread::sleep(Duration::from_millis(100));
        }
        println!("it ran within {:?}", since.elapsed());
    }
    ensure!(sched_ext::state() == "enabled", "sched_ext is {}", sched_ext::state());
    scheduler.stop()
}

/// Tasks do not wait for a policy that does what it must not: the safety net runs them, and they
/// are counted.
pub fn under_a_policy_that_sleeps_tasks_run_late(_: &Machine) -> Result<()> {
    let scheduler = Wish::Sleep.start(&STATS)?;
    let hogs =
        (0..3 * cpus::online()?.len()).map(|_| Hog::anywhere(LONG)).collect::<Result<Vec<_>>>()?;
    thread::sleep(Duration::from_secs(5));
    let stats = scheduler.await_stats(1)?;
    let (decided, late) = (stats.sum("decided")?, stats.sum("late")?);
    println!("{decided} decided, {late} late");
    ensure!(late > decided, "{late} tasks were late under a policy that sleeps, {decided} decided");
    for hog in hogs {
        let ran = hog.run_time()?;
        ensure!(ran > Duration::from_millis(200), "a hog ran for {ran:?} only");
        hog.stop()?;
    }
    scheduler.stop()
}

/// A panic in a policy is told, and the kernel's own scheduler is back.
pub fn a_policy_that_panics_ends_the_scheduler(_: &Machine) -> Result<()> {
    let scheduler = Wish::Panic.start(&[])?;
    let hog = Hog::on(&cpu(1), LONG)?;
    thread::sleep(Duration::from_secs(1));
    ensure!(sched_ext::state() == "enabled", "sched_ext is {}", sched_ext::state());
    let probe = Probe::named(TERRIBLE, &cpu(1));
    sched_ext::wait_for_state("disabled", Duration::from_secs(30))?;
    said(&scheduler, "panicked: a task is terrible (tests/")?;
    println!("{}", scheduler.said());
    let before = hog.run_time()?;
    ensure!(probe.wakes() > 0, "the probe did not run");
    wait_until("a hog runs on", Duration::from_secs(10), || {
        hog.run_time().is_ok_and(|ran| ran > before)
    })
}
