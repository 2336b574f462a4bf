//! The busiest cgroups: what each was due and had, and which one it is.
//!
//! The scheduler knows cgroups by their numbers, and answers with the busiest ones
//! ([`Busiest::since`]). The program that asked gives them names ([`Names`]): the scheduler is confined,
//! and can open no directory.
//!
//! Invariant: nothing here grows in the scheduler; what it needs is there before it is confined.

use crate::abi;
use crate::ids::CgroupId;
use crate::kernel::groups::Usage;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// How many cgroups an answer has at most.
pub const MOST: usize = 64;

/// Room for one of them in an answer, in bytes.
pub const BYTES: usize = 320;

/// Where the names are.
pub const ROOT: &str = "/sys/fs/cgroup";

/// What a cgroup was due and had. Of its own tasks, not of those of cgroups below.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cgroup {
    /// Its number.
    pub id: CgroupId,
    /// Its path below the root of all cgroups, where it is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub path: Option<String>,
    /// `cpu.weight`.
    pub weight: u32,
    /// `cpu.idle`.
    pub idle: bool,
    /// `cpu.max`: microseconds of CPU time for each period, and that in microseconds. Without a limit
    /// of its own both are missing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub quota_us: Option<u64>,
    /// See `quota_us`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub period_us: Option<u64>,
    /// The part of all CPU time that its tasks are due, from 0 to 1, when the last one was runnable.
    pub share: f64,
    /// Microseconds of CPU time of its tasks in the interval.
    pub used_us: u64,
    /// The same since the scheduler attached, or since there is such a cgroup.
    pub total_us: u64,
    /// How many of them are runnable at this moment.
    pub runnable: u32,
    /// How often its quota was used up, since it has one.
    pub throttles: u64,
    /// For how long, in microseconds.
    pub throttled_us: u64,
}

impl Cgroup {
    /// Its path, or else its number.
    pub fn name(&self) -> String {
        self.path.clone().unwrap_or_else(|| format!("number {}", self.id.0))
    }

    /// The same for a terminal, which must not get control characters: they could do anything there.
    pub fn shown(&self) -> String {
        self.name().replace(char::is_control, "?")
    }
}

/// The answer to a reader: the busiest cgroups of its interval, the busiest one first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cgroups {
    /// The length of the interval.
    pub interval_seconds: f64,
    /// At most [`MOST`]. Those that had no CPU time and have no limit are left out.
    pub cgroups: Vec<Cgroup>,
}

/// What each cgroup had when a reader asked last.
pub struct Busiest {
    at: Instant,
    /// Of each slot: the group, and its CPU time.
    ran_ns: Box<[(u64, u64)]>,
}

impl Default for Busiest {
    /// Counts from now on. What cgroups had before counts for their first answer.
    fn default() -> Busiest {
        let ran_ns = vec![(0, 0); abi::limits_GROUPS_MAX as usize].into_boxed_slice();
        Busiest { at: Instant::now(), ran_ns }
    }
}

impl Busiest {
    /// Another reader begins now.
    pub fn begin(&mut self, usages: impl Iterator<Item = (u32, Usage)>) {
        self.at = Instant::now();
        for (slot, usage) in usages {
            self.ran_ns[slot as usize] = (usage.group.id.0, usage.ran_ns);
        }
    }

    /// What came since the last call. `usages` has the groups by their slots.
    pub fn since(&mut self, usages: impl Iterator<Item = (u32, Usage)>) -> Cgroups {
        let now = Instant::now();
        let interval_seconds = (now - self.at).as_secs_f64();
        self.at = now;
        let mut cgroups: Vec<Cgroup> = Vec::with_capacity(MOST + 1);
        for (slot, usage) in usages {
            let (id, before) = self.ran_ns[slot as usize];
            let is_same = id == usage.group.id.0;
            let used_us = usage.ran_ns.saturating_sub(if is_same { before } else { 0 }) / 1000;
            self.ran_ns[slot as usize] = (usage.group.id.0, usage.ran_ns);
            if used_us == 0 && usage.group.limit.is_none() {
                continue;
            }
            let at = cgroups.partition_point(|other| other.used_us >= used_us);
            cgroups.insert(at, line(&usage, used_us));
            cgroups.truncate(MOST);
        }
        Cgroups { interval_seconds, cgroups }
    }
}

fn line(usage: &Usage, used_us: u64) -> Cgroup {
    let group = &usage.group;
    Cgroup {
        id: group.id,
        path: None,
        weight: group.weight,
        idle: group.idle,
        quota_us: group.limit.map(|limit| limit.quota.as_micros() as u64),
        period_us: group.limit.map(|limit| limit.period.as_micros() as u64),
        share: group.share,
        used_us,
        total_us: usage.ran_ns / 1000,
        runnable: usage.runnable,
        throttles: usage.throttles,
        throttled_us: usage.throttled_ns / 1000,
    }
}

/// The paths of cgroups, by their numbers. Read again when an unknown one comes.
pub struct Names {
    root: PathBuf,
    paths: BTreeMap<u64, String>,
}

impl Names {
    /// Of the cgroups below a folder, usually [`ROOT`].
    pub fn new(root: &Path) -> Names {
        Names { root: root.to_owned(), paths: BTreeMap::new() }
    }

    /// Gives each cgroup without a path its own. One that is gone, or outside of this process's
    /// namespace of cgroups, has none.
    pub fn name(&mut self, cgroups: &mut [Cgroup]) {
        let nameless = |it: &&mut Cgroup| it.path.is_none();
        if cgroups.iter_mut().filter(nameless).any(|it| !self.paths.contains_key(&it.id.0)) {
            self.paths.clear();
            read_paths(&self.root, "/", &mut self.paths);
        }
        for cgroup in cgroups.iter_mut().filter(nameless) {
            cgroup.path = self.paths.get(&cgroup.id.0).cloned();
        }
    }
}

/// Adds a folder and those below. What cannot be read is gone. A name that is no UTF-8 is left out with
/// all below: two of them could read the same.
fn read_paths(folder: &Path, path: &str, paths: &mut BTreeMap<u64, String>) {
    let Ok(metadata) = fs::metadata(folder) else { return };
    paths.insert(metadata.ino(), path.to_owned());
    let below = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in below.filter(|it| it.file_type().is_ok_and(|kind| kind.is_dir())) {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = format!("{}/{name}", path.trim_end_matches('/'));
        read_paths(&entry.path(), &path, paths);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Group, Limit};
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::time::Duration;

    fn usage(id: u64, ran_ns: u64, limit: Option<Limit>) -> Usage {
        let id = CgroupId(id);
        let (parent, level, weight, idle, share, throttled) = (None, 1, 100, false, 0.25, false);
        let group = Group { id, parent, level, weight, idle, share, limit, throttled };
        Usage { group, runnable: 2, ran_ns, throttles: 3, throttled_ns: 4_000_000 }
    }

    fn used(answer: &Cgroups) -> Vec<(u64, u64)> {
        answer.cgroups.iter().map(|it| (it.id.0, it.used_us)).collect()
    }

    #[test]
    fn the_busiest_of_the_interval_come_first() {
        let mut busiest = Busiest::default();
        busiest.begin([(1, usage(11, 5_000_000, None)), (2, usage(12, 0, None))].into_iter());
        let limit = Limit { quota: Duration::from_millis(50), period: Duration::from_millis(100) };
        let limited = usage(13, 0, Some(limit));
        let now = [(1, usage(11, 5_001_000, None)), (2, usage(12, 9_000, None)), (3, limited)];
        let answer = busiest.since(now.into_iter());
        assert_eq!(used(&answer), [(12, 9), (11, 1), (13, 0)]);
        assert_eq!(answer.cgroups[1].total_us, 5001);
        assert_eq!(
            (answer.cgroups[2].quota_us, answer.cgroups[2].throttled_us),
            (Some(50_000), 4000)
        );
        // The first slot has another group, and the second has done nothing since.
        let now = [(1, usage(14, 7_000, None)), (2, usage(12, 9_000, None))];
        assert_eq!(used(&busiest.since(now.into_iter())), [(14, 7)]);
    }

    #[test]
    fn an_answer_has_room() {
        let mut busiest = Busiest::default();
        let ran_ns = u64::MAX / 2;
        let most = Duration::from_nanos(u64::MAX / 2);
        let limit = Some(Limit { quota: most, period: most });
        let all = (0..1000).map(|slot| (slot, usage(u64::MAX - u64::from(slot), ran_ns, limit)));
        let answer = busiest.since(all);
        assert_eq!(answer.cgroups.len(), MOST);
        assert!(serde_json::to_string(&answer).unwrap().len() < MOST * BYTES);
    }

    #[test]
    fn cgroups_have_their_paths() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("system.slice/a")).unwrap();
        fs::write(root.path().join("cgroup.procs"), "").unwrap();
        let id = |path: &str| fs::metadata(root.path().join(path)).unwrap().ino();
        let mut names = Names::new(root.path());
        let paths = |names: &mut Names, ids: &[u64]| {
            let usages = ids.iter().map(|&id| line(&usage(id, 1, None), 1));
            let mut cgroups: Vec<_> = usages.collect();
            names.name(&mut cgroups);
            cgroups.into_iter().map(|it| it.path.unwrap_or_default()).collect::<Vec<_>>()
        };
        assert_eq!(paths(&mut names, &[id(""), id("system.slice/a")]), ["/", "/system.slice/a"]);
        fs::create_dir(root.path().join("new")).unwrap();
        let asked = [id("new"), id("cgroup.procs")];
        assert_eq!(paths(&mut names, &asked), ["/new", ""]);
        let odd = root.path().join(OsStr::from_bytes(b"odd\xff"));
        fs::create_dir(&odd).unwrap();
        assert_eq!(paths(&mut names, &[fs::metadata(odd).unwrap().ino()]), [""]);
        let mut named = [line(&usage(id("new"), 1, None), 1)];
        named[0].path = Some("/as/it/came".to_owned());
        names.name(&mut named);
        assert_eq!(named[0].name(), "/as/it/came");
        named[0].path = Some("/a\u{1b}[2J\n".to_owned());
        assert_eq!(named[0].shown(), "/a?[2J?");
        let nameless = line(&usage(17, 1, None), 1);
        assert_eq!(nameless.name(), "number 17");
    }
}
