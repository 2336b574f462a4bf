//! The scheduler's own processes may not be everywhere: namespaces, cpusets and real-time tasks
//! leave them a part of the machine. Each domain is decided for all the same.

use crate::api::confine::Cpuset;
use crate::api::load::{self, Hog};
use crate::api::scheduler::{PATIENT, PROGRAM, STATS, Scheduler};
use crate::api::storm::{Kind, Storm};
use crate::api::{cpus, process, wait_until};
use crate::machine::Machine;
use crate::role;
use crate::suite::tests;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use scx_manyland::cpuset::CpuSet;
use std::time::Duration;

tests! {
    a_pid_namespace_hides_no_domain_thread: 90 s on L3X2;
    a_cpuset_takes_a_domain_and_gives_it_back: 120 s on L3X2;
    a_partition_takes_a_domain_and_gives_it_back: 120 s on L3X2;
    a_cpuset_changes_which_cpus_are_dedicated: 150 s on L3X2;
    it_starts_in_a_cpuset: 120 s on L3X2;
    a_domain_thread_runs_beside_real_time_tasks: 90 s on L3X2;
    tasks_leave_a_domain_that_real_time_tasks_have: 90 s on L3X2;
}

const LONG: Duration = Duration::from_secs(300);

/// In a namespace of process numbers BPF knows the domain threads: they decide.
pub fn a_pid_namespace_hides_no_domain_thread(_: &Machine) -> Result<()> {
    let mut command = role::command("pid-namespace");
    let scheduler = Scheduler::spawn(command.arg(PROGRAM).args(PATIENT))?;
    load::hackbench(4, 100, LONG)?;
    let stats = scheduler.await_stats(1)?;
    let (percent, activations) = (stats.percent_decided()?, stats.sum("activations")?);
    println!("{percent:.1} % decided, {activations} activations");
    ensure!(activations > 0, "no domain thread was seen to run");
    ensure!(percent >= 95.0, "user space decided {percent:.1} % of the tasks that had to wait");
    // Its first process is that of the namespace.
    kill(Pid::from_raw(scheduler.pids()[1]), Signal::SIGINT)?;
    scheduler.leaves()
}

/// All processes of the scheduler may use the CPUs of the other domain only, and then all again.
pub fn a_cpuset_takes_a_domain_and_gives_it_back(_: &Machine) -> Result<()> {
    let (rest, taken) = two_domains()?;
    let scheduler = Scheduler::start(&PATIENT)?;
    let hogs = hogs_in(&[rest, taken])?;
    let set = Cpuset::new("confined", &cpus::online()?)?;
    for pid in scheduler.pids() {
        set.take_in(pid)?;
    }
    set.allow(&rest)?;
    its_threads_may_use(&scheduler, &rest)?;
    user_space_decides(&scheduler)?;
    set.allow(&cpus::online()?)?;
    its_threads_may_use(&scheduler, &cpus::online()?)?;
    user_space_decides(&scheduler)?;
    threads_are_at_home(&scheduler)?;
    hogs.into_iter().try_for_each(Hog::stop)?;
    scheduler.stop()
}

/// Others have the CPUs of a domain as a partition: the scheduler serves it from outside. An
/// isolated one it leaves alone.
pub fn a_partition_takes_a_domain_and_gives_it_back(_: &Machine) -> Result<()> {
    let (rest, taken) = two_domains()?;
    let scheduler = Scheduler::start(&PATIENT)?;
    let outside = hogs_in(&[rest])?;
    for (kind, domains) in [("root", &[rest, taken][..]), ("isolated", &[rest])] {
        let others = Cpuset::new("others", &taken)?;
        others.part(kind)?;
        its_threads_may_use(&scheduler, &rest)?;
        has_domains(&scheduler, domains)?;
        let inside: Vec<Hog> =
            (0..2 * taken.len()).map(|_| Hog::anywhere(LONG)).collect::<Result<_>>()?;
        for hog in &inside {
            others.take_in(hog.pid())?;
            process::bind(hog.pid(), &taken)?;
        }
        let before = inside.iter().map(Hog::run_time).collect::<Result<Vec<_>>>()?;
        user_space_decides(&scheduler).with_context(|| format!("a partition ({kind})"))?;
        for (hog, before) in inside.iter().zip(before) {
            ensure!(hog.run_time()? > before, "a task of a partition ({kind}) does not run");
        }
        drop(inside);
    }
    has_domains(&scheduler, &[rest, taken])?;
    its_threads_may_use(&scheduler, &cpus::online()?)?;
    let inside = hogs_in(&[taken])?;
    user_space_decides(&scheduler)?;
    threads_are_at_home(&scheduler)?;
    outside.into_iter().chain(inside).try_for_each(Hog::stop)?;
    scheduler.stop()
}

/// A CPU that its thread may no longer use is kept free for it no longer, and is again later.
pub fn a_cpuset_changes_which_cpus_are_dedicated(_: &Machine) -> Result<()> {
    let (rest, taken) = two_domains()?;
    let own = |domain: &CpuSet| CpuSet::from_iter(domain.iter().last());
    let scheduler = Scheduler::start(&[&STATS[..], &["--dedicate"]].concat())?;
    let its_threads_have = |first: CpuSet, second: CpuSet| {
        wait_until(&format!("the threads have CPUs {first} and {second}"), LONG, || {
            let threads = scheduler.domain_threads().unwrap_or_default();
            let cpus = threads.iter().map(|it| process::affinity(it.tid));
            scheduler.says_attached()
                && cpus.collect::<Result<Vec<_>>>().is_ok_and(|it| it == [first, second])
        })
        .with_context(|| scheduler.plight())
    };
    its_threads_have(own(&rest), own(&taken))?;
    let set = Cpuset::new("confined", &cpus::online()?)?;
    for pid in scheduler.pids() {
        set.take_in(pid)?;
    }
    set.allow(&rest)?;
    its_threads_have(own(&rest), rest)?;
    let hogs: Vec<Hog> = (0..4).map(|_| Hog::anywhere(LONG)).collect::<Result<_>>()?;
    wait_until("the CPU that was kept free has a task", LONG, || {
        hogs.iter()
            .any(|hog| process::processor(hog.pid()).is_ok_and(|it| own(&taken).contains(it)))
    })?;
    set.allow(&cpus::online()?)?;
    its_threads_have(own(&rest), own(&taken))?;
    hogs.into_iter().try_for_each(Hog::stop)?;
    scheduler.stop()
}

/// Started where it may not use a domain's CPUs, it says so, and serves them from where it is.
pub fn it_starts_in_a_cpuset(_: &Machine) -> Result<()> {
    let (rest, taken) = two_domains()?;
    let set = Cpuset::new("confined", &rest)?;
    for options in [&[][..], &["--dedicate"]] {
        let scheduler = Scheduler::spawn(set.command(PROGRAM).args(STATS).args(options))?;
        let said = scheduler.said();
        let lines = said.lines().filter(|line| line.contains(&format!("CPUs {taken}"))).count();
        ensure!(lines == 1, "it does not say in one line that it may not use {taken}: {said}");
        let hogs = hogs_in(&[rest, taken])?;
        scheduler.decisions_resume()?;
        hogs.into_iter().try_for_each(Hog::stop)?;
        scheduler.stop()?;
    }
    Ok(())
}

/// Real-time tasks have all CPUs of a domain: its thread runs elsewhere rather than not at all.
pub fn a_domain_thread_runs_beside_real_time_tasks(_: &Machine) -> Result<()> {
    // The kernel's own threads may wait for those CPUs too, and it bears that for 20 s.
    const STORM: Duration = Duration::from_secs(15);
    let (rest, taken) = two_domains()?;
    // This process is not to wait for those CPUs itself.
    process::bind(0, &rest)?;
    let scheduler = Scheduler::start(&STATS)?;
    let others = hogs_in(&[rest])?;
    let thread = scheduler.domain_threads()?.pop().context("there are no domain threads")?;
    let storm = Storm::start_on(&taken, Kind::RealTime, 100, STORM)?;
    wait_until("each CPU has its real-time task", LONG, || {
        let threads = process::threads(storm.pid()).unwrap_or_default();
        threads.iter().filter(|it| process::is_real_time(it.tid)).count() == taken.len()
    })?;
    let before = process::run_time(thread.tid)?;
    // It waits for a CPU of the real-time tasks, and the thread of that domain has to decide.
    let hog = Hog::on(&CpuSet::from_iter(taken.iter().last()), LONG)?;
    wait_until("the thread of that domain has run", STORM * 2 / 3, || {
        process::run_time(thread.tid).is_ok_and(|ran| ran > before)
    })
    .with_context(|| scheduler.plight())?;
    drop(storm);
    wait_until("the bound hog has run", LONG, || hog.run_time().is_ok_and(|ran| !ran.is_zero()))?;
    others.into_iter().chain([hog]).try_for_each(Hog::stop)?;
    let more = hogs_in(&[rest, taken])?;
    scheduler.decisions_resume()?;
    threads_are_at_home(&scheduler)?;
    more.into_iter().try_for_each(Hog::stop)?;
    scheduler.stop()
}

/// Real-time tasks have all CPUs of a domain, and the other one has no idle CPU: the tasks at home
/// there run all the same, woken or not.
pub fn tasks_leave_a_domain_that_real_time_tasks_have(_: &Machine) -> Result<()> {
    const STORM: Duration = Duration::from_secs(15);
    let (rest, taken) = two_domains()?;
    process::bind(0, &rest)?;
    let scheduler = Scheduler::start(&STATS)?;
    let others = hogs_in(&[rest])?;
    let hogs = load::hogs_at_home(&[taken; 4])?;
    let storm = Storm::start_on(&taken, Kind::RealTime, 100, STORM)?;
    wait_until("each CPU has its real-time task", LONG, || {
        let threads = process::threads(storm.pid()).unwrap_or_default();
        threads.iter().filter(|it| process::is_real_time(it.tid)).count() == taken.len()
    })?;
    let before = hogs.iter().map(Hog::run_time).collect::<Result<Vec<_>>>()?;
    wait_until("each hog has run", STORM * 2 / 3, || {
        let ran = |(hog, before): (&Hog, &Duration)| hog.run_time().is_ok_and(|it| it > *before);
        hogs.iter().zip(&before).all(ran)
    })
    .with_context(|| scheduler.plight())?;
    drop(storm);
    others.into_iter().chain(hogs).try_for_each(Hog::stop)?;
    scheduler.stop()
}

/// The CPUs of two domains: the scheduler keeps the first.
fn two_domains() -> Result<(CpuSet, CpuSet)> {
    let l3s = cpus::l3s()?;
    ensure!(l3s.len() == 2, "not two L3s: {l3s:?}");
    Ok((l3s[0], l3s[1]))
}

/// Two hogs for each CPU of the domains, which stay in their domain.
fn hogs_in(domains: &[CpuSet]) -> Result<Vec<Hog>> {
    let homes = domains.iter().flat_map(|cpus| std::iter::repeat_n(cpus, 2 * cpus.len()));
    homes.map(|cpus| Hog::on(cpus, LONG)).collect()
}

/// Waits until the domain threads may use these CPUs and no others.
fn its_threads_may_use(scheduler: &Scheduler, cpus: &CpuSet) -> Result<()> {
    wait_until(&format!("the domain threads may use CPUs {cpus}"), LONG, || {
        scheduler.domain_threads().is_ok_and(|threads| {
            threads.iter().all(|thread| process::affinity(thread.tid).is_ok_and(|it| it == *cpus))
        })
    })
}

/// Waits until the scheduler is attached with these domains.
pub fn has_domains(scheduler: &Scheduler, domains: &[CpuSet]) -> Result<()> {
    wait_until(&format!("attached with domains {domains:?}"), LONG, || {
        scheduler.says_attached() && scheduler.domains().is_ok_and(|it| it == domains)
    })
    .with_context(|| scheduler.plight())
}

/// Under a load of hogs, each domain decides, and comes to decide for at least 95 % of the tasks that have
/// to wait. A host that lets the guest's CPUs wait makes a thread miss some; not all the time.
pub fn user_space_decides(scheduler: &Scheduler) -> Result<()> {
    const ENOUGH: u64 = 100;
    // What came before is in the lines up to this one.
    let mut before = scheduler.await_stats(1)?.lines.len();
    scheduler.decisions_resume()?;
    let mut seen = Vec::new();
    let mut does = || -> Result<bool> {
        let mut stats = scheduler.await_stats(1)?;
        let after = stats.lines.len();
        stats.lines.drain(..before);
        let (decided, late) = (stats.sum("decided")? + stats.sum("standing")?, stats.sum("late")?);
        if decided + late < ENOUGH {
            return Ok(false);
        }
        before = after;
        seen.push(format!("{decided} decided, {late} not"));
        Ok(late * 19 <= decided)
    };
    let decides =
        wait_until("user space decides for 95 % of the tasks", LONG, || does().unwrap_or(false));
    println!("{}", seen.join("; "));
    decides.with_context(|| scheduler.plight())
}

/// Under a load, each domain thread runs in its domain again.
fn threads_are_at_home(scheduler: &Scheduler) -> Result<()> {
    scheduler.await_stats(1)?;
    let before = scheduler.stats()?.lines.len();
    scheduler.await_stats(3)?;
    let mut stats = scheduler.stats()?;
    stats.lines.drain(..before);
    let (all, away) = (stats.sum("activations")?, stats.sum("away")?);
    println!("at home again: {all} activations, {away} of them away");
    ensure!(all > 0 && 10 * away < all, "{away} of {all} activations were away from home");
    Ok(())
}
