//! The machine's meters for a run: the scheduler's CPU time, the busy time of each kind of core,
//! the energy.
//!
//! Invariant: a figure that the machine does not give is left out, not made up.

use super::contender::Running;
use super::reading::Reading;
use super::workloads::Done;
use anyhow::{Context, Result};
use scx_manyland::cpuset::CpuSet;
use scx_manyland::ids::{CpuId, Pid};
use scx_manyland::topology::{Kind, Topology};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the kernel shows the energy counters (RAPL).
pub const POWERCAP: &str = "/sys/class/powercap";

/// The meters that can be read.
pub struct Meters {
    zones: Vec<Zone>,
    /// The kinds of core, where there is more than one.
    kinds: Vec<Kind>,
    cpus: usize,
}

/// The state of all meters at one moment.
pub struct Sample {
    at: Instant,
    energy_uj: Vec<u64>,
    busy: Vec<(CpuId, u64)>,
    scheduler: Option<Duration>,
}

impl Meters {
    /// The meters of a machine whose energy counters are in a folder ([`POWERCAP`]).
    pub fn new(machine: &Topology, powercap: &Path) -> Self {
        let kinds = machine.kinds();
        Self {
            zones: Zone::all(powercap),
            kinds: if kinds.len() > 1 { kinds.to_vec() } else { Vec::new() },
            cpus: machine.cpus().len(),
        }
    }

    /// Whether the machine counts its energy.
    pub fn have_energy(&self) -> bool {
        !self.zones.is_empty()
    }

    /// Reads all meters.
    ///
    /// # Errors
    /// If one that could be read before cannot be now.
    pub fn sample(&self, running: Option<&Running>) -> Result<Sample> {
        let busy = match self.kinds.is_empty() {
            true => Vec::new(),
            false => {
                busy_ticks(&fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?)
            }
        };
        Ok(Sample {
            at: Instant::now(),
            energy_uj: self.zones.iter().map(Zone::read).collect::<Result<_>>()?,
            busy,
            scheduler: running
                .and_then(|running| cpu_time(running.pid(), |name| running.counts(name))),
        })
    }

    /// The readings for the time between two samples, in which the workload did `done`.
    pub fn readings(&self, before: &Sample, after: &Sample, done: Option<&Done>) -> Vec<Reading> {
        let elapsed = (after.at - before.at).as_secs_f64();
        let mut readings = Vec::new();
        if let (Some(before), Some(after)) = (before.scheduler, after.scheduler) {
            let share = after.saturating_sub(before).as_secs_f64() / elapsed / self.cpus as f64;
            readings.push(Reading::neutral("scheduler", "% of the machine", 100.0 * share));
        }
        if self.have_energy() {
            let spent = self.zones.iter().zip(before.energy_uj.iter().zip(&after.energy_uj));
            let joules =
                spent.map(|(zone, (&then, &now))| zone.spent(then, now)).sum::<u64>() as f64 / 1e6;
            readings.push(Reading::lower("power", "W", joules / elapsed));
            if let Some(Done { count, what }) = done.filter(|done| done.count > 0) {
                readings.push(Reading::lower(
                    "energy",
                    &format!("uJ/{what}"),
                    joules * 1e6 / *count as f64,
                ));
            }
        }
        readings.extend(self.shares_of_kinds(before, after));
        readings
    }

    fn shares_of_kinds(&self, before: &Sample, after: &Sample) -> Vec<Reading> {
        let ticks_on = |cpus: &CpuSet| {
            let of = |sample: &Sample| {
                sample
                    .busy
                    .iter()
                    .filter(|(cpu, _)| cpus.contains(*cpu))
                    .map(|(_, ticks)| ticks)
                    .sum::<u64>()
            };
            of(after).saturating_sub(of(before)) as f64
        };
        let ticks = self.kinds.iter().map(|kind| ticks_on(&kind.cpus)).collect::<Vec<_>>();
        let all = ticks.iter().sum::<f64>();
        if all == 0.0 {
            return Vec::new();
        }
        let reading = |(kind, ticks): (&Kind, f64)| {
            Reading::neutral(format!("time on CPUs {}", kind.cpus), "%", 100.0 * ticks / all)
        };
        self.kinds.iter().zip(ticks).map(reading).collect()
    }
}

/// The energy counter of a package.
struct Zone {
    energy: PathBuf,
    /// The value at which the counter wraps to 0.
    range_uj: u64,
}

impl Zone {
    /// The counters that this user may read.
    fn all(powercap: &Path) -> Vec<Zone> {
        let folders =
            fs::read_dir(powercap).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut zones = folders
            .filter_map(|folder| {
                let read = |file| fs::read_to_string(folder.join(file)).ok();
                read("name")?.starts_with("package").then_some(())?;
                let range_uj = read("max_energy_range_uj")?.trim().parse().ok()?;
                let zone = Zone { energy: folder.join("energy_uj"), range_uj };
                zone.read().is_ok().then_some(zone)
            })
            .collect::<Vec<_>>();
        // intel-rapl and intel-rapl-mmio may both show the same package.
        zones.sort_by(|a, b| a.energy.cmp(&b.energy));
        let mmio = |zone: &Zone| zone.energy.to_string_lossy().contains("mmio");
        if zones.iter().any(|zone| !mmio(zone)) {
            zones.retain(|zone| !mmio(zone));
        }
        zones
    }

    fn read(&self) -> Result<u64> {
        let text = fs::read_to_string(&self.energy);
        let text = text.with_context(|| format!("cannot read {}", self.energy.display()))?;
        text.trim().parse().with_context(|| format!("no number in {}", self.energy.display()))
    }

    fn spent(&self, then: u64, now: u64) -> u64 {
        if now >= then { now - then } else { self.range_uj.saturating_sub(then) + now }
    }
}

/// How long each CPU has been busy since boot, in ticks, by the contents of `/proc/stat`.
fn busy_ticks(stat: &str) -> Vec<(CpuId, u64)> {
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        let cpu = CpuId(fields.next()?.strip_prefix("cpu")?.parse().ok()?);
        let ticks = fields.map(str::parse).collect::<Result<Vec<u64>, _>>().ok()?;
        // user nice system idle iowait irq softirq. Stolen time is in none of them; the time of
        // guests is in user.
        Some((cpu, ticks.iter().take(3).chain(ticks.iter().skip(5).take(2)).sum()))
    };
    stat.lines().filter_map(line).collect()
}

/// The run time of the threads of a process group whose names `counts` accepts; `None` if the group
/// has ended.
fn cpu_time(group: Pid, counts: impl Fn(&str) -> bool) -> Option<Duration> {
    let mut sum = Duration::ZERO;
    let threads = members(group).into_iter().map(|pid| fs::read_dir(format!("/proc/{pid}/task")));
    let mut threads = threads.flatten().flatten().flatten().peekable();
    threads.peek()?;
    for thread in threads {
        let read = |file| fs::read_to_string(thread.path().join(file)).ok();
        // A thread may end meanwhile.
        let (Some(name), Some(times)) = (read("comm"), read("schedstat")) else { continue };
        if counts(name.trim()) {
            sum += Duration::from_nanos(times.split(' ').next()?.parse().ok()?);
        }
    }
    Some(sum)
}

/// The processes of a group: a scheduler may have started others.
fn members(group: Pid) -> Vec<Pid> {
    let is_member = |pid: &Pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the name, which may hold anything: the state, the parent, the group.
        let of = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(2));
        of.and_then(|text| text.parse().ok()) == Some(group.0)
    };
    let pid_of = |entry: fs::DirEntry| Some(Pid(entry.file_name().to_str()?.parse().ok()?));
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(pid_of);
    processes.filter(is_member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use scx_manyland::topology::Source;

    #[test]
    fn busy_time_leaves_idle_and_stolen_time_out() {
        let stat = "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 1 2 4 1000 1000 8 16 1000 0 0\ncpu12 5 0 0 0 0 0 0 0 0 0\nintr 7\n";
        assert_eq!(busy_ticks(stat), [(CpuId(0), 31), (CpuId(12), 5)]);
    }

    #[test]
    fn the_time_on_each_kind_is_a_share_of_the_busy_time() {
        let xml = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/machines/dense-l3-first.xml");
        let machine = Topology::load(&Source::XmlFile(xml.into())).unwrap();
        let meters = Meters::new(&machine, Path::new("/no/such/folder"));
        let fast = machine.kinds()[0].cpus;
        let at = Instant::now();
        let sample = |seconds, ticks: fn(bool) -> u64| Sample {
            at: at + Duration::from_secs(seconds),
            energy_uj: vec![],
            busy: machine.cpus().iter().map(|cpu| (cpu, ticks(fast.contains(cpu)))).collect(),
            scheduler: Some(Duration::from_millis(200 * seconds)),
        };
        let readings =
            meters.readings(&sample(0, |_| 7), &sample(1, |fast| if fast { 10 } else { 8 }), None);
        let values = readings.iter().map(|reading| reading.value).collect::<Vec<_>>();
        assert_eq!(values, [5.0, 75.0, 25.0], "{readings:?}");
    }

    #[test]
    fn energy_is_that_of_the_packages_and_may_wrap() {
        let folder = std::env::temp_dir().join(format!("manyland-rapl-{}", std::process::id()));
        let zone = |name: &str, of: &str, energy: u64| {
            let folder = folder.join(name);
            fs::create_dir_all(&folder).unwrap();
            for (file, text) in
                [("name", of), ("energy_uj", &energy.to_string()), ("max_energy_range_uj", "1000")]
            {
                fs::write(folder.join(file), format!("{text}\n")).unwrap();
            }
        };
        let machine = Topology::load(&Source::Synthetic("Core:2 PU:1".into())).unwrap();
        for (name, of, energy) in [
            ("intel-rapl:0", "package-0", 900),
            ("intel-rapl:0:0", "core", 5),
            ("intel-rapl:1", "package-1", 100),
            ("intel-rapl-mmio:0", "package-0", 900),
        ] {
            zone(name, of, energy);
        }
        let meters = Meters::new(&machine, &folder);
        assert!(meters.have_energy());
        let mut before = meters.sample(None).unwrap();
        zone("intel-rapl:0", "package-0", 100);
        zone("intel-rapl:1", "package-1", 400);
        let mut after = meters.sample(None).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        before.at = after.at;
        after.at += Duration::from_millis(1);
        let done = Done { count: 5, what: "job".into() };
        let readings = meters.readings(&before, &after, Some(&done));
        // 200 and 300 uJ in a millisecond.
        assert_eq!(
            readings,
            [Reading::lower("power", "W", 0.5), Reading::lower("energy", "uJ/job", 100.0)]
        );
    }

    #[test]
    fn a_process_group_has_run_for_some_time() {
        let mine = Pid(nix::unistd::getpgrp().as_raw());
        assert!(cpu_time(mine, |_| true).unwrap() > Duration::ZERO);
        assert_eq!(cpu_time(mine, |_| false), Some(Duration::ZERO));
        assert_eq!(cpu_time(Pid(i32::MAX), |_| true), None);
    }
}
