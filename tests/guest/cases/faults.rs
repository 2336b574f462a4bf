//! RULE 1: user space can be late, stopped or gone, and no task is lost or starved.

use crate::api::fuzzer;
use crate::api::load::{self, Hackbench, Hog, Probe};
use crate::api::process::{self, Frozen};
use crate::api::scheduler::{self, PROGRAM, STATS, Scheduler};
use crate::api::storm::{Kind, Storm};
use crate::api::{cpus, sched_ext, wait_until};
use crate::console;
use crate::machine::Machine;
use crate::suite::tests;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use scx_manyland::cpuset::CpuSet;
use scx_manyland::kernel::probe;
use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

tests! {
    tasks_run_while_the_scheduler_is_stopped: 90 s on L3X2 ANY_KERNEL;
    tasks_run_while_the_strict_scheduler_is_stopped: 90 s on L3X2;
    tasks_run_while_a_domain_thread_is_frozen: 90 s on L3X2 ANY_KERNEL;
    the_lightest_task_has_its_turns: 120 s on L3X2;
    tasks_leave_a_cpu_that_a_real_time_task_takes: 90 s on L3X2 ANY_KERNEL;
    real_time_tasks_that_alternate_end_nothing: 90 s on L3X2 ANY_KERNEL;
    tasks_that_change_their_class_are_not_awaited: 120 s on L3X2;
    no_fork_fails_for_want_of_memory: 400 s on ANY_KERNEL;
    it_attaches_again_after_a_stall: 300 s on SLOW;
    sysrq_s_ends_it: 60 s on L3X2;
    sysrq_d_shows_what_it_thinks: 60 s on L3X2 ANY_KERNEL;
    tasks_die_on_their_way_to_another_domain: 90 s on L3X2;
    a_crowd_is_drained_in_parts: 120 s on L3X1 ANY_KERNEL;
    decisions_may_change_while_they_are_read: 90 s on L3X2;
}

const LONG: Duration = Duration::from_secs(60);

/// How long user space is away.
const AWAY: Duration = Duration::from_secs(5);

/// A task that becomes runnable has to run before this, whoever is away.
const HANG: Duration = Duration::from_secs(3);

/// The whole scheduler is stopped under load, and goes on.
pub fn tasks_run_while_the_scheduler_is_stopped(_: &Machine) -> Result<()> {
    stop_and_continue(&[])
}

/// With `--strict` the same holds once the scheduler is stopped for longer than the stall limit.
pub fn tasks_run_while_the_strict_scheduler_is_stopped(_: &Machine) -> Result<()> {
    stop_and_continue(&["--strict"])
}

fn stop_and_continue(args: &[&str]) -> Result<()> {
    let scheduler = Scheduler::start(&[&STATS[..], args].concat())?;
    // Two bound to each CPU, so that one of them wants it whenever a CPU is free.
    let mut hogs = hogs_on(&cpus::online()?)?;
    hogs.extend(hogs_on(&cpus::online()?)?);
    let mut hackbench = Hackbench::start(1, 1_000_000, LONG)?;
    thread::sleep(Duration::from_secs(2));
    let probe = Probe::start();
    scheduler.send(Signal::SIGSTOP)?;
    thread::sleep(Duration::from_millis(500));
    let threads = scheduler.domain_threads()?;
    for thread in &threads {
        let state = process::state(thread.tid)?;
        ensure!(state == 'T', "{} is in state {state} after SIGSTOP", thread.name);
    }
    they_run(&hogs, AWAY, AWAY / 100)?;
    let worst = probe.worst_delay();
    println!("while it was stopped a task waited for {} ms at most", worst.as_millis());
    ensure!(worst < HANG, "while the scheduler was stopped a task waited for {worst:?}");
    ensure!(sched_ext::state() == "enabled", "sched_ext is {}", sched_ext::state());
    scheduler.send(Signal::SIGCONT)?;
    scheduler.decisions_resume()?;
    ensure!(hackbench.is_running()?, "hackbench has ended");
    scheduler.stop()
}

/// One domain thread does not run for a while; the tasks of its domain do, and so do those of the
/// others.
pub fn tasks_run_while_a_domain_thread_is_frozen(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&STATS)?;
    let threads = scheduler.domain_threads()?;
    let victim = threads.last().context("there are no domain threads")?;
    // Two for each CPU, of which neither domain can rid itself.
    let mut hogs = Vec::new();
    for l3 in cpus::l3s()? {
        for _ in 0..l3.len() * 2 {
            hogs.push((l3, Hog::on(&l3, LONG)?));
        }
    }
    hogs.extend(hogs_on(scheduler.domains()?.last().context("there are no domains")?)?);
    thread::sleep(Duration::from_secs(2));
    let frozen = Frozen::freeze(victim.tid)?;
    let probe = Probe::start();
    // A third is due to each of the six on two CPUs.
    they_run(&hogs, AWAY, AWAY / 8)?;
    let worst = probe.worst_delay();
    println!("while {} was frozen a task waited for {} ms", victim.name, worst.as_millis());
    ensure!(worst < HANG, "while {} was frozen a task waited for {worst:?}", victim.name);
    ensure!(process::state(victim.tid)? == 't', "{} was not frozen", victim.name);
    drop(frozen);
    scheduler.decisions_resume()?;
    for (_, hog) in hogs {
        hog.stop()?;
    }
    scheduler.stop()
}

/// Among many tasks on its CPU the lightest still has its turns, some seconds apart, with and
/// without user space. By its weight alone a turn of a tick would keep it waiting for longer than
/// the kernel's watchdog does.
pub fn the_lightest_task_has_its_turns(_: &Machine) -> Result<()> {
    const OTHERS: usize = 60;
    const WITHIN: Duration = Duration::from_secs(9);
    let scheduler = Scheduler::start(&STATS)?;
    let cpu = CpuSet::from_iter(cpus::online()?.iter().take(1));
    let light = Hog::on(&cpu, LONG)?;
    process::renice(light.pid(), 19)?;
    let _others = (0..OTHERS).map(|_| Hog::on(&cpu, LONG)).collect::<Result<Vec<_>>>()?;
    let turns = |who: &str| -> Result<()> {
        for _ in 0..2 {
            let (before, since) = (light.run_time()?, Instant::now());
            while light.run_time()? == before {
                ensure!(since.elapsed() < WITHIN, "{who}, the lightest did not run for {WITHIN:?}");
                thread::sleep(Duration::from_millis(100));
            }
            println!("{who}, the lightest of {OTHERS} ran after {:?}", since.elapsed());
            ensure!(sched_ext::state() == "enabled", "sched_ext is {}", sched_ext::state());
        }
        Ok(())
    };
    turns("with user space")?;
    scheduler.send(Signal::SIGSTOP)?;
    turns("without user space")?;
    scheduler.send(Signal::SIGCONT)?;
    scheduler.stop()
}

/// A real-time task takes a CPU: the tasks that ran there or were about to go on elsewhere. It
/// pauses now and then, because before Linux 6.19 the kernel can leave a task in the CPU's local
/// queue, out of reach, until then.
pub fn tasks_leave_a_cpu_that_a_real_time_task_takes(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&STATS)?;
    let all = cpus::online()?;
    let hogs: Vec<(CpuSet, Hog)> =
        (0..all.len() * 2).map(|_| Ok((all, Hog::anywhere(LONG)?))).collect::<Result<_>>()?;
    thread::sleep(Duration::from_secs(2));
    let taken = CpuSet::from_iter(all.iter().take(1));
    let intruder = Hog::pausing_on(&taken, LONG)?;
    process::choose_real_time(intruder.pid())?;
    // In the pauses alone a task would get a tenth.
    they_run(&hogs, AWAY, AWAY / 6)?;
    let share = intruder.run_time()?.as_secs_f64() / AWAY.as_secs_f64();
    ensure!(share > 0.5, "the real-time task had its CPU for {:.0} % only", 100.0 * share);
    wait_until("tasks that were driven from a CPU are counted", LONG, || {
        scheduler.stats().and_then(|stats| stats.sum("displaced")).is_ok_and(|number| number > 0)
    })?;
    scheduler.decisions_resume()?;
    scheduler.stop()
}

/// Two real-time tasks alternate on a CPU without a pause. The kernel's own threads of that CPU and
/// a task bound to it wait meanwhile. Each switch would put them back into their queue; Linux 7.3
/// ends a scheduler that does so again and again.
pub fn real_time_tasks_that_alternate_end_nothing(_: &Machine) -> Result<()> {
    let mut scheduler = Scheduler::start(&STATS)?;
    let cpu = CpuSet::from_iter(cpus::online()?.iter().last());
    let hog = Hog::on(&cpu, LONG)?;
    thread::sleep(Duration::from_secs(1));
    let (ping, pong) = (std::io::pipe()?, std::io::pipe()?);
    let mut start = ping.1.try_clone()?;
    let end = Instant::now() + 2 * AWAY;
    let alternate = move |mut from: PipeReader, mut to: PipeWriter| -> Result<u64> {
        process::bind(0, &cpu)?;
        process::become_real_time();
        let mut turns = 0;
        // The one that ends closes its end of a pipe, which ends the other.
        while Instant::now() < end && from.read(&mut [0])? == 1 && to.write_all(&[0]).is_ok() {
            turns += 1;
        }
        Ok(turns)
    };
    let turns = thread::scope(|scope| {
        let first = scope.spawn(move || alternate(ping.0, pong.1));
        let second = scope.spawn(move || alternate(pong.0, ping.1));
        start.write_all(&[0])?;
        drop(start);
        let turns = [first, second].map(|task| task.join().expect("it does not panic"));
        turns.into_iter().sum::<Result<u64>>()
    })?;
    println!("they alternated {turns} times");
    ensure!(turns > 10_000, "they alternated {turns} times only");
    ensure!(!scheduler.has_ended()?, "the scheduler has ended: {}", scheduler.said());
    they_run(&[(cpu, hog)], Duration::from_secs(2), Duration::from_millis(200))?;
    scheduler.stop()
}

/// Tasks wait of which a full ring has kept the thread unnotified, and become real-time tasks. While
/// such tasks were counted, the safety net would have every second turn.
pub fn tasks_that_change_their_class_are_not_awaited(_: &Machine) -> Result<()> {
    const TASKS: usize = 40;
    let scheduler = Scheduler::start(&STATS)?;
    let cpu = CpuSet::from_iter(cpus::online()?.first());
    let hogs = (0..TASKS).map(|_| Hog::on(&cpu, 3 * LONG)).collect::<Result<Vec<_>>>()?;
    // Each turn without a decision leaves a notice behind, so the ring fills.
    const TURNS: Duration = Duration::from_secs(10);
    let ran = || hogs.iter().map(Hog::run_time).sum::<Result<Duration>>();
    scheduler.send(Signal::SIGSTOP)?;
    let before = ran()?;
    wait_until("the hogs have had turns", LONG, || ran().is_ok_and(|now| now > before + TURNS))?;
    for hog in &hogs[..TASKS / 2] {
        kill(Pid::from_raw(hog.pid()), Signal::SIGSTOP)?;
        process::choose_real_time(hog.pid())?;
    }
    scheduler.send(Signal::SIGCONT)?;
    let unnotified = || -> Option<u64> {
        let stats = scheduler.stats().ok()?;
        let domains = stats.lines.last()?["domains"].as_array()?;
        domains.iter().map(|domain| domain["unnotified"].as_u64()).sum()
    };
    ensure!(scheduler.await_stats(2)?.sum("congested")? > 0, "the ring did not fill");
    let awaited = wait_until("no task is unnotified", LONG / 3, || unnotified() == Some(0));
    awaited.with_context(|| format!("{:?} tasks are", unnotified()))?;
    scheduler.stop()
}

/// The scheduler is in a memory cgroup at its limit. Threads that begin outside of it begin all the
/// same, run, and have their share, though there is no memory to know them.
pub fn no_fork_fails_for_want_of_memory(_: &Machine) -> Result<()> {
    const THREADS: usize = 3000;
    const CGROUP: &str = "/sys/fs/cgroup/tight";
    const SPARE: u64 = 1 << 20;
    let set_limit = |limit: String| {
        fs::write(format!("{CGROUP}/memory.max"), limit).context("cannot limit a cgroup's memory")
    };
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory")
        .context("cannot give cgroups the controller of memory")?;
    fs::create_dir_all(CGROUP).context("cannot make a cgroup")?;
    set_limit("max".into())?;
    let enter = format!("echo $$ >{CGROUP}/cgroup.procs && exec \"$@\"");
    let mut command = Command::new("sh");
    let scheduler = Scheduler::spawn(command.args(["-c", &enter, "sh", PROGRAM]).args(STATS))?;
    scheduler.make_room_for_output()?;
    scheduler.await_stats(2)?;
    let used: u64 = fs::read_to_string(format!("{CGROUP}/memory.current"))?.trim().parse()?;
    set_limit((used + SPARE).to_string())?;

    let (ran, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (failed, hogs) = thread::scope(|scope| {
        let mut failed = 0;
        let mut threads = Vec::new();
        for _ in 0..THREADS {
            let life = || {
                ran.fetch_add(1, Ordering::Relaxed);
                while !over.load(Ordering::Relaxed) {
                    thread::park();
                }
            };
            match thread::Builder::new().stack_size(64 << 10).spawn_scoped(scope, life) {
                Ok(thread) => threads.push(thread),
                Err(_) => failed += 1,
            }
        }
        // Two for each CPU, which begin at the limit.
        let hogs = cpus::online().and_then(|cpus| {
            Ok(hogs_on(&cpus)?.into_iter().chain(hogs_on(&cpus)?).collect::<Vec<_>>())
        });
        let shares = hogs.and_then(|hogs| they_run(&hogs, AWAY, AWAY / 8).map(|()| hogs));
        over.store(true, Ordering::Relaxed);
        threads.iter().for_each(|thread| thread.thread().unpark());
        (failed, shares)
    });
    let ran = ran.into_inner();
    let unstored = scheduler.await_stats(2)?.sum("unstored")?;
    println!("{failed} of {THREADS} threads failed to begin, {ran} ran, {unstored} unstored");
    ensure!(failed == 0, "{failed} threads failed to begin");
    ensure!(ran == THREADS, "{ran} threads ran");
    ensure!(unstored > 0, "there was memory for all");
    let hogs = hogs?;
    set_limit("max".into())?;
    scheduler.decisions_resume()?;
    drop(hogs);
    load::hackbench(1, 10, LONG)?;
    scheduler.stop()
}

/// A real-time task that never pauses keeps a bound task waiting until the kernel ends the
/// scheduler. Once that is over the scheduler attaches again, and says why it had to.
pub fn it_attaches_again_after_a_stall(_: &Machine) -> Result<()> {
    let disabled = format!("sched_ext: BPF scheduler \"{}\" disabled", probe::NAME);
    console::expect(&format!("{disabled} (runnable task stall)"))?;
    let scheduler = Scheduler::start(&STATS)?;
    // The kernel counts an attachment a moment after it is enabled.
    wait_until("it says that it is attached", LONG, || scheduler.says_attached())?;
    let before = sched_ext::attachments();
    let cpu = CpuSet::from_iter(cpus::online()?.iter().take(1));
    let intruder = Hog::on(&cpu, 2 * LONG)?;
    process::choose_real_time(intruder.pid())?;
    let bound = Hog::on(&cpu, 3 * LONG)?;
    wait_until("the kernel has ended the scheduler", 2 * LONG, || {
        sched_ext::state() != "enabled" || sched_ext::attachments() > before
    })?;
    drop(intruder);
    wait_until("it is attached again", 2 * LONG, || {
        sched_ext::state() == "enabled" && sched_ext::attachments() > before
    })
    .with_context(|| scheduler.plight())?;
    let said = scheduler.said();
    println!("{said}");
    ensure!(said.contains("failed to run for"), "it does not say why");
    ensure!(said.contains("attaching again"), "it does not say what it does");
    for of_the_dump in
        ["manyland: 2 domains", "  thread: ", "  manyland: domain ", "      manyland: "]
    {
        ensure!(said.contains(of_the_dump), "its dump has no {of_the_dump:?}");
    }
    // A report has the same dump, without the names of programs.
    fs::write("/tmp/said", &said)?;
    let report = scheduler::run(&["report", "-", "--log", "/tmp/said"])?.stdout;
    let dump = report.split_once("[last dump]").context("no dump in the report")?.1;
    for kept in ["CPU states", "manyland: 2 domains", "curr=task[", "] failed to run for"] {
        ensure!(dump.contains(kept), "its report has no {kept:?}: {dump}");
    }
    let name = fs::read_to_string(format!("/proc/{}/comm", bound.pid()))?;
    let (name, pid) = (name.trim(), bound.pid());
    ensure!(said.contains(&format!("{name}[{pid}]")), "its dump does not name {name}[{pid}]");
    ensure!(!dump.contains(&format!("{name}[")), "its report names {name}: {dump}");
    let hogs = hogs_on(&cpus::online()?)?;
    scheduler.decisions_resume()?;
    drop((bound, hogs));
    scheduler.stop()
}

/// SysRq-S asks for the kernel's own scheduler: the program ends, and as one that was asked to.
pub fn sysrq_s_ends_it(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&[])?;
    fs::write("/proc/sysrq-trigger", "S").context("cannot press SysRq-S")?;
    scheduler.leaves()
}

/// SysRq-D makes a dump, which has what the scheduler thought, and ends nothing.
pub fn sysrq_d_shows_what_it_thinks(_: &Machine) -> Result<()> {
    let tracing = Path::new("/sys/kernel/tracing");
    let write = |file: &str, text: &str| {
        let path = tracing.join(file);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    let scheduler = Scheduler::start(&[])?;
    let hogs = hogs_on(&cpus::online()?)?;
    let more = hogs_on(&cpus::online()?)?;
    write("events/sched_ext/sched_ext_dump/enable", "1")?;
    fs::write("/proc/sysrq-trigger", "D").context("cannot press SysRq-D")?;
    let trace = fs::read_to_string(tracing.join("trace")).context("cannot read the trace")?;
    write("events/sched_ext/sched_ext_dump/enable", "0")?;
    println!("{trace}");
    for expected in [
        "manyland: 2 domains",
        "domain 1: tasks ",
        "  thread: ",
        "  notices: ",
        "  decisions: ",
        "  manyland: domain ",
        "      manyland: ",
        " run kind ",
    ] {
        ensure!(trace.contains(expected), "the dump has no {expected:?}");
    }
    drop((hogs, more));
    scheduler.stop()
}

/// Tasks are killed at any moment on their way from a busy domain to an idle one: with the owner's
/// thread, in its deque, with the thief's, decided. What was a decision for them is dropped, and
/// nobody waits for them.
pub fn tasks_die_on_their_way_to_another_domain(_: &Machine) -> Result<()> {
    const TASKS: usize = 20;
    let scheduler = Scheduler::start(&STATS)?;
    let l3s = cpus::l3s()?;
    let hogs = hogs_on(&l3s[0])?;
    thread::sleep(Duration::from_secs(1));
    let before = scheduler.stats()?;
    Storm::start_on(&l3s[0], Kind::Deaths, TASKS, 2 * AWAY)?.finish(LONG)?;
    let after = scheduler.await_stats(1)?;
    let more = |field| anyhow::Ok(after.sum(field)? - before.sum(field)?);
    let (moved, stale) = (more("moved_in")?, more("stale")?);
    println!("{moved} tasks changed their home, {stale} decisions came too late");
    ensure!(moved > 0, "no task was on its way");
    ensure!(stale > 0, "no task died undecided");
    they_run(&hogs, AWAY, AWAY / 100)?;
    load::hackbench(1, 10, LONG)?;
    scheduler.stop()
}

/// Hundreds of decisions that are submitted at once are carried out in parts, and all of them are:
/// a CPU with interrupts off carries out 64 at most, and the next one goes on.
pub fn a_crowd_is_drained_in_parts(_: &Machine) -> Result<()> {
    const TASKS: usize = 1500;
    let scheduler = Scheduler::start(&STATS)?;
    let storm = Storm::start(Kind::Wakeups, TASKS, LONG / 3)?;
    // The ring to the thread fills up while it is stopped.
    let crowd_is_cut = || -> Result<bool> {
        scheduler.send(Signal::SIGSTOP)?;
        thread::sleep(Duration::from_secs(1));
        scheduler.send(Signal::SIGCONT)?;
        Ok(scheduler.await_stats(2)?.sum("cut")? > 0)
    };
    wait_until("a drain was cut", LONG, || crowd_is_cut().is_ok_and(|cut| cut))?;
    storm.finish(LONG)?;
    load::hackbench(1, 10, LONG)?;
    scheduler.stop()
}

/// A process that changes decisions in its ring while the kernel reads them does itself no good and
/// no harm: what was checked is what is carried out.
pub fn decisions_may_change_while_they_are_read(_: &Machine) -> Result<()> {
    const DECISIONS: u64 = 20_000;
    let scheduler = Scheduler::spawn(&mut fuzzer::flipping_command())?;
    let mut hackbench = Hackbench::start(1, 1_000_000, LONG)?;
    let counts = loop {
        ensure!(sched_ext::state() == "enabled", "the kernel has ended it");
        let counts = fuzzer::counts(&scheduler)?;
        if counts.decided > DECISIONS {
            break counts;
        }
        thread::sleep(Duration::from_millis(500));
    };
    println!("{counts:?}");
    ensure!(counts.bounced > 0, "no decision changed before it was checked: {counts:?}");
    ensure!(hackbench.is_running()?, "hackbench has ended");
    drop(hackbench);
    scheduler.stop()
}

/// A hog bound to each of some CPUs.
fn hogs_on(cpus: &CpuSet) -> Result<Vec<(CpuSet, Hog)>> {
    cpus.iter()
        .map(|cpu| {
            let cpu = CpuSet::from_iter([cpu]);
            Ok((cpu, Hog::on(&cpu, 5 * LONG)?))
        })
        .collect()
}

/// Each of them runs for more than `least` of the time.
fn they_run(hogs: &[(CpuSet, Hog)], time: Duration, least: Duration) -> Result<()> {
    let before = hogs.iter().map(|(_, hog)| hog.run_time()).collect::<Result<Vec<_>>>()?;
    thread::sleep(time);
    for ((cpus, hog), before) in hogs.iter().zip(before) {
        let ran = hog.run_time()? - before;
        println!("a hog on {cpus} ran for {} ms of {} s", ran.as_millis(), time.as_secs());
        ensure!(ran > least, "a hog bound to {cpus} ran for {ran:?} in {time:?}");
    }
    Ok(())
}
