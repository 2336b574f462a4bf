//! The figures of a run, as text or as one JSON object.
//!
//! Invariant: no figure depends on the machine that simulates. For the speed of the simulation the
//! caller divides [`Report::scheduling_events`] by the time it has measured.

use super::Setup;
use super::machine::Machine;
use super::measure::{Moves, Times, jain};
use super::task::{SimTask, State, THREADS};
use super::workload::Workload;
use crate::abi::domain_counts;
use crate::abi::statistics::{Percentiles, STATISTICS};
use crate::domains::latency::Snapshot;
use crate::ids::DomainId;
use crate::topology::Domains;
use serde::{Serialize, Serializer};
use std::fmt::Write;

/// The part of its life for which a task must be runnable to count as one that always competes for
/// the CPU.
const ALWAYS_RUNNABLE: f64 = 0.95;

/// The figures of a run. Times are virtual.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The policy.
    pub policy: String,
    /// The granularity of the domains.
    pub domain: String,
    /// The seed of the random numbers.
    pub seed: u64,
    /// Its length, in seconds.
    pub seconds: f64,
    /// The number of CPUs.
    pub cpus: usize,
    /// The part of the CPUs' time that tasks and domain threads used (0 to 1). Waking others and
    /// moving are included.
    pub busy: f64,
    /// The part of the CPUs' time that the kernel's side of scheduling used (0 to 1): dispatching,
    /// enqueueing, switching.
    pub overhead: f64,
    /// Calls of the scheduler's callbacks (select_cpu, enqueue, dispatch, running, stopping),
    /// notices consumed by domain threads and decisions carried out.
    pub scheduling_events: u64,
    /// The most tasks that a CPU walked past in one search for work because it may not run them.
    pub longest_walk: u64,
    /// What was asked last of each CPU's frequency, of 1,024.
    #[serde(skip)]
    pub frequencies: Vec<u32>,
    /// The shortest time between two such requests of one CPU, in microseconds.
    #[serde(skip)]
    pub frequency_interval_us: f64,
    /// How often a task or a domain thread was switched in.
    pub switches: u64,
    /// The moves of tasks between CPUs, by what these share.
    pub migrations: Migrations,
    /// Jain's index of CPU time over weight, among unbound tasks that always competed for a CPU;
    /// null if there are fewer than two.
    pub fairness: Option<f64>,
    /// The longest times that a CPU was idle while a task waited that could have run there; null
    /// without [`Setup::inspect`].
    pub idle_beside_waiting_us: Option<Idle>,
    /// The kinds of task.
    pub groups: Vec<GroupReport>,
    /// The domains.
    pub domains: Vec<DomainReport>,
}

/// The longest times, in microseconds, that a CPU was idle while a task waited.
#[derive(Debug, Serialize)]
pub struct Idle {
    /// CPUs of the task's home.
    pub at_home: f64,
    /// CPUs of other domains, if the task may run anywhere.
    pub elsewhere: f64,
    /// How often a task was ready by a decision for an earlier wait.
    #[serde(skip)]
    pub wrongly_ready: u64,
}

/// Moves of tasks between CPUs.
#[derive(Debug, Serialize)]
pub struct Migrations {
    /// Between SMT siblings.
    pub in_core: u64,
    /// Between cores under one L3.
    pub in_l3: u64,
    /// Between L3s on one NUMA node.
    pub in_node: u64,
    /// Between NUMA nodes.
    pub between_nodes: u64,
}

impl From<Moves> for Migrations {
    fn from(moves: Moves) -> Migrations {
        let Moves { in_core, in_l3, in_node, between_nodes } = moves;
        Migrations { in_core, in_l3, in_node, between_nodes }
    }
}

/// The figures of one group of tasks.
#[derive(Debug, Serialize)]
pub struct GroupReport {
    /// Its name.
    pub name: String,
    /// How many tasks there were.
    pub tasks: usize,
    /// How many have ended.
    pub ended: usize,
    /// Passes through a phase.
    pub passes: u64,
    /// Passes through a phase, for each second.
    pub passes_per_s: f64,
    /// CPU time of all of them, in seconds.
    pub cpu_s: f64,
    /// From runnable to running.
    pub run_delay_us: RunDelay,
    /// Jain's index of CPU time over weight among them; null if fewer than two have run.
    pub fairness: Option<f64>,
    /// CPU time of each task, in seconds, by the time of its creation.
    #[serde(skip)]
    pub cpu_s_of_each: Vec<f64>,
}

/// Delays, in microseconds.
#[derive(Debug, Serialize)]
pub struct RunDelay {
    /// How many there were.
    pub count: u64,
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The longest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
}

impl From<&Times> for RunDelay {
    fn from(times: &Times) -> RunDelay {
        RunDelay {
            count: times.count(),
            p50: us(times.quantile(0.5)),
            p99: us(times.quantile(0.99)),
            max: us(times.max()),
            mean: times.mean() / 1e3,
        }
    }
}

/// The figures of one domain. The counts are those of the statistics.
#[derive(Debug, Serialize)]
pub struct DomainReport {
    /// Its number.
    pub id: DomainId,
    /// Its CPUs.
    pub cpus: String,
    /// The part of the run for which its thread had a CPU (0 to 1).
    pub thread_busy: f64,
    /// The rounds of its scheduler.
    pub rounds: u64,
    /// From the notice of a task to its carried-out decision.
    pub decision_us: RunDelay,
    /// From the wake-up of a task until it ran on one of the domain's CPUs, as BPF counts it.
    pub run_delay_us: Percentiles,
    /// What it counted.
    #[serde(flatten, serialize_with = "by_name")]
    pub counts: domain_counts,
    /// Tasks whose home it was at the end.
    pub tasks: u32,
}

fn by_name<S: Serializer>(counts: &domain_counts, serializer: S) -> Result<S::Ok, S::Error> {
    let mut counters = Vec::with_capacity(STATISTICS.len());
    counts.for_each(|name, count| counters.push((name, count)));
    serializer.collect_map(counters)
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// CPU time over weight.
fn share(task: &SimTask) -> f64 {
    task.account.ran_ns as f64 / f64::from(task.weight)
}

impl Report {
    pub(super) fn of(
        machine: &Machine<'_>,
        domains: &Domains,
        workload: &Workload,
        setup: &Setup,
    ) -> Report {
        let measures = &machine.measures;
        let length_ns = measures.length_ns.max(1);
        let cpus: usize = domains.iter().map(|domain| domain.cpus.len()).sum();
        let cpu_ns = (length_ns * cpus as u64) as f64;
        let started = machine.tasks.iter().filter(|task| task.state != State::Unborn);
        let competing: Vec<f64> = started
            .filter(|task| {
                let life_ns = (super::machine::START_NS + length_ns - task.account.born_ns) as f64;
                let runnable_ns = (task.account.ran_ns + task.account.waited_ns) as f64;
                task.group != THREADS
                    && task.cpus.is_none()
                    && runnable_ns >= ALWAYS_RUNNABLE * life_ns
            })
            .map(share)
            .collect();
        Report {
            policy: setup.scheduler.name.clone(),
            domain: domains.granularity().to_string(),
            seed: setup.seed,
            seconds: seconds(length_ns),
            cpus,
            busy: measures.busy_ns as f64 / cpu_ns,
            overhead: measures.overhead_ns as f64 / cpu_ns,
            scheduling_events: measures.scheduling_events,
            longest_walk: measures.longest_walk,
            frequencies: machine.frequencies().map(|frequency| frequency.target).collect(),
            frequency_interval_us: us(machine
                .frequencies()
                .map(|it| it.shortest_ns)
                .min()
                .unwrap_or(0)),
            switches: measures.switches,
            migrations: measures.moves.into(),
            fairness: (competing.len() > 1).then(|| jain(&competing)).flatten(),
            idle_beside_waiting_us: machine.idleness().map(|idleness| Idle {
                at_home: us(idleness.at_home_ns),
                elsewhere: us(idleness.elsewhere_ns),
                wrongly_ready: idleness.wrongly_ready,
            }),
            groups: (0..workload.groups.len())
                .map(|group| group_report(machine, workload, group))
                .collect(),
            domains: domains.iter().map(|domain| domain_report(machine, domain)).collect(),
        }
    }

    /// The decisions carried out, of all domains.
    pub fn decided(&self) -> u64 {
        self.domains.iter().map(|domain| domain.counts.decided).sum()
    }

    /// How often a task ran undecided, in all domains.
    pub fn late(&self) -> u64 {
        self.domains.iter().map(|domain| domain.counts.late).sum()
    }

    /// The figures as one line of JSON, with a line feed.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a report is plain data") + "\n"
    }

    /// The figures as tables for people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        self.write_text(&mut text).expect("writing to a string does not fail");
        text
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "{:.3} s on {} CPUs, {} domain{} ({}), policy {}, seed {}",
            self.seconds,
            self.cpus,
            self.domains.len(),
            if self.domains.len() == 1 { "" } else { "s" },
            self.domain,
            self.policy,
            self.seed
        )?;
        writeln!(
            out,
            "CPUs busy {:.1} %, and {:.1} % with scheduling; {} scheduling events, {} switches",
            100.0 * self.busy,
            100.0 * self.overhead,
            self.scheduling_events,
            self.switches
        )?;
        let Migrations { in_core, in_l3, in_node, between_nodes } = self.migrations;
        writeln!(
            out,
            "migrations: {in_core} within a core, {in_l3} within an L3, {in_node} between L3s, \
             {between_nodes} between nodes"
        )?;
        if let Some(fairness) = self.fairness {
            writeln!(
                out,
                "fairness among those that always wanted a CPU (Jain's index): {fairness:.4}"
            )?;
        }
        if let Some(Idle { at_home, elsewhere, .. }) = self.idle_beside_waiting_us {
            writeln!(
                out,
                "longest that a CPU was idle beside a waiting task: {at_home:.1} us at its home, {elsewhere:.1} us elsewhere"
            )?;
        }
        writeln!(
            out,
            "\n{:<16} {:>6} {:>10} {:>10} {:>9} {:>10} {:>10} {:>10} {:>8}",
            "group",
            "tasks",
            "passes",
            "passes/s",
            "CPU s",
            "delay p50",
            "p99 us",
            "max us",
            "fairness"
        )?;
        for group in &self.groups {
            let RunDelay { p50, p99, max, .. } = group.run_delay_us;
            let fairness = group.fairness.map_or("-".to_owned(), |index| format!("{index:.4}"));
            writeln!(
                out,
                "{:<16} {:>6} {:>10} {:>10.1} {:>9.3} {p50:>10.1} {p99:>10.1} {max:>10.1} {fairness:>8}",
                group.name, group.tasks, group.passes, group.passes_per_s, group.cpu_s
            )?;
        }
        writeln!(
            out,
            "\n{:>6} {:>7} {:>9} {:>9} {:>9} {:>8} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9}",
            "domain",
            "thread",
            "queued",
            "decided",
            "standing",
            "late",
            "bypassed",
            "extended",
            "stale",
            "stol.in",
            "stol.out",
            "moved",
            "dec. p50",
            "p99 us"
        )?;
        for domain in &self.domains {
            writeln!(
                out,
                "{:>6} {:>5.1} % {:>9} {:>9} {:>9} {:>8} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9.1} {:>9.1}",
                domain.id,
                100.0 * domain.thread_busy,
                domain.counts.queued,
                domain.counts.decided,
                domain.counts.standing,
                domain.counts.late,
                domain.counts.bypassed,
                domain.counts.extended,
                domain.counts.stale,
                domain.counts.stolen_in,
                domain.counts.stolen_out,
                domain.counts.moved_in,
                domain.decision_us.p50,
                domain.decision_us.p99
            )?;
        }
        Ok(())
    }
}

fn group_report(machine: &Machine<'_>, workload: &Workload, group: usize) -> GroupReport {
    let measures = &machine.measures.groups[group];
    let tasks: Vec<&SimTask> = machine.tasks.iter().filter(|task| task.group == group).collect();
    let shares: Vec<f64> = tasks.iter().map(|task| share(task)).collect();
    let cpu_s_of_each: Vec<f64> = tasks.iter().map(|task| seconds(task.account.ran_ns)).collect();
    GroupReport {
        name: workload.groups[group].name.clone(),
        tasks: tasks.len(),
        ended: tasks.iter().filter(|task| task.state == State::Dead).count(),
        passes: measures.passes,
        passes_per_s: measures.passes as f64 / seconds(machine.measures.length_ns.max(1)),
        cpu_s: cpu_s_of_each.iter().sum(),
        run_delay_us: (&measures.run_delay).into(),
        fairness: (shares.len() > 1).then(|| jain(&shares)).flatten(),
        cpu_s_of_each,
    }
}

fn domain_report(machine: &Machine<'_>, domain: &crate::topology::Domain) -> DomainReport {
    let domc = machine.domain(domain.id.index());
    let measures = &machine.measures.domains[domain.id.index()];
    DomainReport {
        id: domain.id,
        cpus: domain.cpus.to_string(),
        thread_busy: measures.thread_ns as f64 / machine.measures.length_ns.max(1) as f64,
        rounds: measures.rounds,
        decision_us: (&measures.decision).into(),
        run_delay_us: machine.run_delays(&domain.cpus).percentiles_since(&Snapshot::empty()),
        counts: domc.counts,
        tasks: domc.tasks,
    }
}
