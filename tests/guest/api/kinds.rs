//! The scheduler on a guest whose cores are taken for different ones.
//!
//! QEMU has one kind of core, and the kernel's files that tell of kinds cannot be written. But the
//! library schedules on a description of the machine as well ([`Builder::run_on`]), and hwloc's XML
//! can name kinds. All else is as it is on a machine with kinds: the table, the BPF side and the
//! domain threads do not ask where the ranks came from.

use super::scheduler::Scheduler;
use crate::role;
use anyhow::{Result, ensure};
use clap::Args;
use scx_manyland::Builder;
use scx_manyland::cpuset::CpuSet;
use scx_manyland::options::{Format, RunOptions};
use scx_manyland::policy::kind::PolicyKind;
use scx_manyland::topology::preference::Prefer;
use scx_manyland::topology::{Granularity, Source, Topology};
use std::fs;
use std::path::PathBuf;

/// A description of the guest's machine with kinds of core.
pub struct Kinds {
    xml: &'static str,
    topology: Topology,
}

impl Kinds {
    /// Two L3s of two cores; those of the second are the fast ones.
    pub fn dense_l3_first() -> Result<Kinds> {
        Self::load(include_str!("../../machines/dense-l3-first.xml"))
    }

    /// Two L3s of two cores; the second of each is a fast one.
    pub fn in_each_l3() -> Result<Kinds> {
        Self::load(include_str!("../../machines/kinds-in-each-l3.xml"))
    }

    /// Four L3s of a core with two threads; the last two are fast.
    pub fn fast_l3s_last() -> Result<Kinds> {
        Self::load(include_str!("../../machines/fast-l3s-last.xml"))
    }

    fn load(xml: &'static str) -> Result<Kinds> {
        fs::write(FILE, xml)?;
        Ok(Kinds { xml, topology: Topology::load(&Source::XmlFile(FILE.into()))? })
    }

    /// The CPUs of the fast kind.
    pub fn fast(&self) -> CpuSet {
        self.topology.kinds()[0].cpus
    }

    /// The CPUs of the slow kind.
    pub fn slow(&self) -> CpuSet {
        self.topology.cpus().difference(&self.fast())
    }

    /// Starts the scheduler on this description.
    pub fn start(&self, domain: &str, prefer: &str) -> Result<Scheduler> {
        self.start_with(domain, prefer, &[])
    }

    /// The same with `strict`, `dedicate`, or `stats` that [`Scheduler::stats`] can read.
    pub fn start_with(&self, domain: &str, prefer: &str, with: &[&str]) -> Result<Scheduler> {
        fs::write(FILE, self.xml)?;
        let with = with.iter().map(|option| format!("--{option}"));
        let mut command = role::command("run-on");
        let scheduler = Scheduler::spawn(command.args([FILE, domain, prefer]).args(with))?;
        let line = format!("prefer: {prefer} (as asked)");
        ensure!(scheduler.said().contains(&line), "not said: {line}: {}", scheduler.said());
        Ok(scheduler)
    }
}

const FILE: &str = "/tmp/kinds.xml";

/// The command line of such a scheduler.
#[derive(Args)]
pub struct RunOnArgs {
    file: PathBuf,
    domain: Granularity,
    prefer: Prefer,
    #[arg(long)]
    strict: bool,
    #[arg(long)]
    dedicate: bool,
    #[arg(long)]
    stats: bool,
}

impl RunOnArgs {
    /// What the scheduler's process does.
    pub fn run(self) -> Result<()> {
        let options = RunOptions {
            domain: self.domain,
            prefer: Some(self.prefer),
            strict: self.strict,
            dedicate: self.dedicate,
            stats_secs: self.stats.then(|| "1".parse()).transpose()?,
            stats_format: Format::Json,
            ..RunOptions::default()
        };
        let machine = Topology::load(&Source::XmlFile(self.file))?;
        Builder::from(PolicyKind::default()).options(options).run_on(machine)
    }
}
