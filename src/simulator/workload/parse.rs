//! From rt-app's format to a [`Workload`].
//!
//! The format is that of rt-app's `doc/tutorial.txt` (github.com/scheduler-tools/rt-app). Keys of
//! the same event differ by digits behind them (`run0`, `run1`), or are simply repeated.
//!
//! The parser refuses every key that rt-app does not know. It also refuses what rt-app knows and a
//! simulation cannot do, such as memory traffic.
//!
//! Invariant: every key in a file has an effect or is an error, except the keys in [`NO_EFFECT`],
//! which say how rt-app itself measures and logs.

use super::json::{self, Node};
use super::{
    Cgroup, Group, Loops, MAX_TASKS, Max, Meeting, Phase, Priority, Step, Timer, TimerStep,
    Workload,
};
use crate::cpuset::MAX_CPUS;
use crate::ids::CpuId;
use anyhow::{Result, bail};
use std::collections::HashMap;
use std::time::Duration;

/// The longest time in a file, in microseconds: almost three hours.
const LONGEST_US: i64 = 10_000_000_000;

/// The priority of a real-time task that names none, as rt-app has it.
const REAL_TIME_PRIORITY: u8 = 10;

/// Global keys that say nothing about what the tasks do.
const NO_EFFECT: [&str; 13] = [
    "calibration",
    "logdir",
    "log_basename",
    "log_size",
    "ftrace",
    "gnuplot",
    "lock_pages",
    "io_device",
    "mem_buffer_size",
    "cumulative_slack",
    "frag",
    "fragment",
    "spacing",
];

/// Events of unknown length.
const UNKNOWN_COST: [&str; 3] = ["memrun", "mem", "iorun"];

/// Properties of tasks for other scheduling classes or other parts of the kernel.
const NOT_OURS: [&str; 6] =
    ["dl-runtime", "dl-period", "dl-deadline", "util_min", "util_max", "membind_nodes"];

/// Names in a file, and their numbers.
#[derive(Default)]
struct Names(HashMap<String, usize>);

impl Names {
    fn number(&mut self, name: &str) -> usize {
        let next = self.0.len();
        *self.0.entry(name.to_owned()).or_insert(next)
    }
}

#[derive(Default)]
struct Resources {
    mutexes: Names,
    conditions: Names,
    semaphores: Names,
    timers: Names,
    barriers: Names,
    barrier_users: Vec<u32>,
    cgroups: Vec<Cgroup>,
}

impl Resources {
    /// The number of a cgroup, by its path. It and those above begin to be with the first mention.
    fn cgroup(&mut self, node: &Node<'_>, path: &str) -> Result<Option<usize>> {
        let mut parent = None;
        if !path.starts_with('/') {
            bail!(node.error("the path of a cgroup begins with /"));
        }
        for (end, _) in path.match_indices('/').skip(1).chain([(path.len(), "")]) {
            let path = &path[..end];
            if path.len() < 2 || path.ends_with('/') {
                continue;
            }
            let known = self.cgroups.iter().position(|it| it.path == path);
            parent = Some(known.unwrap_or_else(|| {
                let (path, weight) = (path.to_owned(), crate::policy::DEFAULT_WEIGHT);
                self.cgroups.push(Cgroup { path, parent, weight, idle: false, max: None });
                self.cgroups.len() - 1
            }));
        }
        Ok(parent)
    }
}

/// What the parser knows while it reads the steps of a task.
struct TaskReader<'a> {
    name: &'a str,
    instances: u32,
    groups: &'a HashMap<&'a str, usize>,
    resources: &'a mut Resources,
    own_timers: Names,
}

/// Reads a whole file.
pub fn workload(text: &str) -> Result<Workload> {
    let json = json::read(text)?;
    let root = Node::root(&json);
    let (mut tasks, mut global) = (None, None);
    for (key, node) in root.entries()? {
        match key {
            "tasks" => tasks = Some(node),
            "global" => global = Some(node),
            // Older versions of rt-app want them declared. Here a name declares its resource.
            "resources" => drop(node.entries()?),
            _ => bail!(node.error("unknown key (known here: tasks, global, resources)")),
        }
    }
    let Some(tasks) = tasks else { bail!("there is no object \"tasks\"") };
    let mut resources = Resources::default();
    let duration = global.map(|node| read_global(&node, &mut resources)).transpose()?.flatten();
    let entries = tasks.entries()?;
    let mut numbers = HashMap::new();
    for (number, (name, node)) in entries.iter().enumerate() {
        if numbers.insert(*name, number).is_some() {
            bail!(node.error(
                "there are two tasks of this name; give one another name, or use \"instance\""
            ));
        }
    }
    let mut groups = Vec::new();
    for (name, node) in &entries {
        groups.push(read_task(name, node, &numbers, &mut resources)?);
    }
    let count: i64 = groups.iter().map(|group| i64::from(group.instances)).sum();
    match count {
        0 => bail!(tasks.error("there is no task to start with")),
        1..=MAX_TASKS => (),
        _ => bail!(
            tasks.error(format_args!("these are {count} tasks; at most {MAX_TASKS} are simulated"))
        ),
    }
    Ok(Workload {
        groups,
        duration,
        mutexes: resources.mutexes.0.len(),
        conditions: resources.conditions.0.len(),
        semaphores: resources.semaphores.0.len(),
        timers: resources.timers.0.len(),
        barriers: resources.barrier_users,
        cgroups: resources.cgroups,
    })
}

/// The run time of the tasks, from the object "global".
fn read_global(global: &Node<'_>, resources: &mut Resources) -> Result<Option<Duration>> {
    let mut duration = None;
    for (key, node) in global.entries()? {
        match key {
            "duration" => {
                let seconds = node.integer(-1..=LONGEST_US / 1_000_000)?;
                duration = u64::try_from(seconds).ok().map(Duration::from_secs);
            }
            "default_policy" => match read_policy(&node)? {
                Class::RealTime => bail!(node.error("must not be a real-time class")),
                Class::Other | Class::Idle => (),
            },
            "pi_enabled" => {
                if node.boolean()? {
                    bail!(node.error("priority inheritance is not simulated"));
                }
            }
            "taskgroups" => read_cgroups(&node, resources)?,
            _ if NO_EFFECT.contains(&key) => (),
            _ => bail!(node.error("unknown key")),
        }
    }
    Ok(duration)
}

/// The cgroups whose files do not have the values of new ones.
fn read_cgroups(groups: &Node<'_>, resources: &mut Resources) -> Result<()> {
    for (path, files) in groups.entries()? {
        let Some(number) = resources.cgroup(&files, path)? else {
            bail!(files.error("the root has no such files"));
        };
        let mut burst_us = 0;
        for (file, node) in files.entries()? {
            let cgroup = &mut resources.cgroups[number];
            match file {
                "cpu.weight" => cgroup.weight = node.integer(1..=10_000)? as u32,
                "cpu.idle" => cgroup.idle = node.integer(0..=1)? == 1,
                "cpu.max" => cgroup.max = Some(read_max(&node)?),
                "cpu.max.burst" => burst_us = node.integer(0..=LONGEST_US)? as u64,
                _ => bail!(node.error("unknown key")),
            }
        }
        if let Some(max) = &mut resources.cgroups[number].max {
            max.burst_us = burst_us;
        }
    }
    Ok(())
}

/// A quota and a period in microseconds, as the kernel's file has them.
fn read_max(node: &Node<'_>) -> Result<Max> {
    let numbers: Option<Vec<u64>> =
        node.string()?.split_whitespace().map(|number| number.parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[quota_us, period_us @ 1000..=1_000_000]) if quota_us >= 1000 => {
            Ok(Max { quota_us, period_us, burst_us: 0 })
        }
        _ => bail!(node.error(
            "must be a quota and a period in microseconds, at least 1000 each, such as \"50000 100000\""
        )),
    }
}

/// The scheduling classes that are simulated.
#[derive(Clone, Copy)]
enum Class {
    Other,
    Idle,
    RealTime,
}

/// A scheduling class, by rt-app's name of the policy.
fn read_policy(node: &Node<'_>) -> Result<Class> {
    match node.string()? {
        "SCHED_OTHER" => Ok(Class::Other),
        "SCHED_IDLE" => Ok(Class::Idle),
        "SCHED_FIFO" => Ok(Class::RealTime),
        policy @ ("SCHED_RR" | "SCHED_DEADLINE") => {
            bail!(node.error(format_args!("{policy} is not simulated; use SCHED_FIFO")))
        }
        policy => bail!(node.error(format_args!("{policy:?} is no scheduling policy"))),
    }
}

fn read_task<'a>(
    name: &'a str,
    task: &Node<'a>,
    groups: &'a HashMap<&'a str, usize>,
    resources: &'a mut Resources,
) -> Result<Group> {
    let (mut own, mut phases) = (Vec::new(), None);
    let (mut instances, mut delay_ns, mut loops) = (1, 0, None);
    for (key, node) in task.entries()? {
        match key {
            "instance" => instances = node.integer(0..=MAX_TASKS)? as u32,
            "delay" => delay_ns = time_ns(&node)?,
            "loop" => loops = Some(read_loops(&node)?),
            "phases" => phases = Some(node),
            _ => own.push((key, node)),
        }
    }
    let mut reader =
        TaskReader { name, instances, groups, resources, own_timers: Names::default() };
    let first = reader.phase(task, own)?;
    let (phases, loops) = match phases {
        // The task is itself its only phase, and its loops are that phase's.
        None if first.steps.is_empty() => bail!(task.error("the task does nothing")),
        None => {
            let times = if loops.is_some() { Loops::Times(1) } else { Loops::Forever };
            (vec![Phase { loops: loops.unwrap_or(Loops::Times(1)), ..first }], times)
        }
        Some(node) => {
            if !first.steps.is_empty() {
                bail!(task.error("events stand next to \"phases\"; put them into a phase"));
            }
            (read_phases(&mut reader, &node, &first)?, loops.unwrap_or(Loops::Forever))
        }
    };
    let own_timers = reader.own_timers.0.len();
    Ok(Group { name: name.to_owned(), instances, delay_ns, loops, phases, own_timers })
}

fn read_phases(reader: &mut TaskReader<'_>, phases: &Node<'_>, task: &Phase) -> Result<Vec<Phase>> {
    let mut read = Vec::new();
    for (_, node) in phases.entries()? {
        let (mut rest, mut loops) = (Vec::new(), Loops::Times(1));
        for (key, node) in node.entries()? {
            match key {
                "loop" => loops = read_loops(&node)?,
                _ => rest.push((key, node)),
            }
        }
        let phase = reader.phase(&node, rest)?;
        if phase.steps.is_empty() {
            bail!(node.error("the phase has no event"));
        }
        // A phase without CPUs inherits those of the task. The task's priority is set once, at the
        // start.
        let inherited = if read.is_empty() { task.priority } else { None };
        read.push(Phase {
            loops,
            cpus: phase.cpus.or(task.cpus),
            cgroup: phase.cgroup.or(task.cgroup),
            priority: phase.priority.or(inherited),
            ..phase
        });
    }
    if read.is_empty() {
        bail!(phases.error("there is no phase"));
    }
    Ok(read)
}

fn read_loops(node: &Node<'_>) -> Result<Loops> {
    match node.integer(-1..=i64::from(u32::MAX))? {
        -1 => Ok(Loops::Forever),
        0 => bail!(node.error("must be -1 (for ever) or at least 1")),
        times => Ok(Loops::Times(times as u64)),
    }
}

/// A time in microseconds.
fn time_ns(node: &Node<'_>) -> Result<u64> {
    Ok(node.integer(0..=LONGEST_US)? as u64 * 1000)
}

/// The event that a key means, without the digits that make it unique.
fn event_of(key: &str) -> &str {
    key.trim_end_matches(|c: char| c.is_ascii_digit())
}

impl TaskReader<'_> {
    /// The steps and properties of a task or a phase.
    fn phase(&mut self, of: &Node<'_>, entries: Vec<(&str, Node<'_>)>) -> Result<Phase> {
        let mut phase = Phase {
            loops: Loops::Times(1),
            cpus: None,
            priority: None,
            cgroup: None,
            steps: Vec::new(),
        };
        let (mut priority, mut class) = (None, None);
        for (key, node) in entries {
            match key {
                "cpus" => phase.cpus = Some(read_cpus(&node)?),
                "priority" => priority = Some(node),
                "taskgroup" => phase.cgroup = self.resources.cgroup(&node, node.string()?)?,
                "policy" => class = Some(read_policy(&node)?),
                _ if NOT_OURS.contains(&key) => bail!(node.error("this key is not simulated")),
                _ => self.events(key, &node, &mut phase.steps)?,
            }
        }
        phase.priority = match (class, priority) {
            (Some(Class::Idle), Some(_)) => {
                bail!(of.error("\"priority\" means nothing in SCHED_IDLE"))
            }
            (Some(Class::Idle), None) => Some(Priority::Idle),
            (Some(Class::RealTime), None) => Some(Priority::RealTime(REAL_TIME_PRIORITY)),
            (Some(Class::RealTime), Some(node)) => {
                Some(Priority::RealTime(node.integer(1..=99)? as u8))
            }
            (Some(Class::Other), None) => Some(Priority::Nice(0)),
            (_, Some(node)) => Some(Priority::Nice(node.integer(-20..=19)? as i8)),
            (None, None) => None,
        };
        Ok(phase)
    }

    fn events(&mut self, key: &str, node: &Node<'_>, steps: &mut Vec<Step>) -> Result<()> {
        let resources = &mut *self.resources;
        let step = match event_of(key) {
            "run" | "runtime" => Step::Run(time_ns(node)?),
            "sleep" => Step::Sleep(time_ns(node)?),
            "timer" => Step::Timer(self.timer(node)?),
            "lock" => Step::Lock(resources.mutexes.number(node.string()?)),
            "unlock" => Step::Unlock(resources.mutexes.number(node.string()?)),
            "wait" => Step::Wait(self.meeting(node)?),
            "sync" => Step::Sync(self.meeting(node)?),
            "signal" => Step::Signal(resources.conditions.number(node.string()?)),
            "broad" => Step::Broadcast(resources.conditions.number(node.string()?)),
            "suspend" => {
                // An empty string stands for the task's own name.
                let name = match node.string()? {
                    "" => self.name,
                    name => name,
                };
                Step::Suspend(resources.conditions.number(name))
            }
            "resume" => Step::Broadcast(resources.conditions.number(node.string()?)),
            "barrier" => {
                let barrier = resources.barriers.number(node.string()?);
                resources.barrier_users.resize(resources.barriers.0.len(), 0);
                resources.barrier_users[barrier] += self.instances;
                Step::Barrier(barrier)
            }
            "sem_post" => Step::Post(resources.semaphores.number(node.string()?)),
            "pipe_write" => Step::Write(resources.semaphores.number(node.string()?)),
            "sem_wait" | "pipe_read" => Step::Take(resources.semaphores.number(node.string()?)),
            "yield" => {
                node.string()?;
                Step::Yield
            }
            "fork" => match self.groups.get(node.string()?) {
                Some(&group) => Step::Fork(group),
                None => bail!(node.error("there is no task of this name")),
            },
            event if UNKNOWN_COST.contains(&event) => {
                bail!(node.error("how long this takes is not known to the simulator; use \"run\""))
            }
            _ => bail!(node.error("unknown key")),
        };
        steps.push(step);
        Ok(())
    }

    fn meeting(&mut self, node: &Node<'_>) -> Result<Meeting> {
        let (mut condition, mut mutex) = (None, None);
        for (key, value) in node.entries()? {
            match key {
                "ref" => condition = Some(self.resources.conditions.number(value.string()?)),
                "mutex" => mutex = Some(self.resources.mutexes.number(value.string()?)),
                _ => bail!(value.error("unknown key")),
            }
        }
        match (condition, mutex) {
            (Some(condition), Some(mutex)) => Ok(Meeting { condition, mutex }),
            _ => bail!(node.error("needs \"ref\" and \"mutex\"")),
        }
    }

    fn timer(&mut self, node: &Node<'_>) -> Result<TimerStep> {
        let (mut name, mut period_ns, mut absolute) = (None, None, false);
        for (key, value) in node.entries()? {
            match key {
                "ref" => name = Some(value.string()?),
                "period" => period_ns = Some(time_ns(&value)?),
                "mode" => {
                    absolute = match value.string()? {
                        "absolute" => true,
                        "relative" => false,
                        _ => bail!(value.error("must be \"relative\" or \"absolute\"")),
                    }
                }
                _ => bail!(value.error("unknown key")),
            }
        }
        let (Some(name), Some(period_ns)) = (name, period_ns) else {
            bail!(node.error("needs \"ref\" and \"period\""));
        };
        let timer = match name.starts_with("unique") {
            true => Timer::Own(self.own_timers.number(name)),
            false => Timer::Shared(self.resources.timers.number(name)),
        };
        Ok(TimerStep { timer, period_ns, absolute })
    }
}

fn read_cpus(node: &Node<'_>) -> Result<crate::cpuset::CpuSet> {
    let items = node.items()?;
    if items.is_empty() {
        bail!(node.error("needs a CPU"));
    }
    let number = |item: Node<'_>| Ok(CpuId(item.integer(0..=MAX_CPUS as i64 - 1)? as u32));
    items.into_iter().map(number).collect()
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
