//! The scheduler's BPF side with a madman in place of each domain thread: it reads what tasks wait,
//! and writes decisions of which any part may be wrong, or that change while they are read.

use super::flipper::Flipper;
use super::scheduler::Scheduler;
use crate::role;
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use nix::sched::{CpuSet as NixCpuSet, sched_setaffinity};
use nix::sys::signal::{SigSet, Signal};
use scx_manyland::abi;
use scx_manyland::cpuset::CpuSet;
use scx_manyland::ids::DomainId;
use scx_manyland::kernel::exit::Exit;
use scx_manyland::kernel::load::Loaded;
use scx_manyland::kernel::probe;
use scx_manyland::kernel::rings::{DecisionRing, NoticeRing};
use scx_manyland::kernel::shared::SharedDomain;
use scx_manyland::options::RunOptions;
use scx_manyland::topology::preference::{Prefer, Preferences};
use scx_manyland::topology::{Granularity, Source, Topology};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs;
use std::mem::MaybeUninit;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// Where it says what it did so far, whenever it is asked (by SIGUSR1).
const COUNTS: &str = "/tmp/fuzzer.json";

/// What became of the decisions.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    pub submitted: u64,
    /// Those that found the queue full, and were not submitted.
    pub full: u64,
    pub decided: u64,
    pub bounced: u64,
    pub stale: u64,
}

/// The command that runs it until it is told to stop.
pub fn command() -> Command {
    let mut command = role::command("fuzz");
    command.arg(fastrand::u64(..).to_string());
    command
}

/// The same with decisions that are right when they are submitted. Their CPU changes to one that
/// does not exist, and back, while the kernel reads them.
pub fn flipping_command() -> Command {
    let mut command = command();
    command.arg("--flip");
    command
}

/// Asks a running one.
pub fn counts(scheduler: &Scheduler) -> Result<Counts> {
    let _ = fs::remove_file(COUNTS);
    scheduler.send(Signal::SIGUSR1)?;
    let mut counts = None;
    super::wait_until("the madman answers", Duration::from_secs(20), || {
        counts = fs::read(COUNTS).ok().and_then(|text| serde_json::from_slice(&text).ok());
        counts.is_some()
    })?;
    counts.context("no counts")
}

/// Its command line.
#[derive(Args)]
pub struct FuzzArgs {
    seed: u64,
    /// Decide rightly, and change the decisions while they are read
    #[arg(long)]
    flip: bool,
}

impl FuzzArgs {
    /// What its process does.
    pub fn run(self) -> Result<()> {
        eprintln!("seed {}", self.seed);
        fuzz(self.seed, self.flip)
    }
}

fn fuzz(seed: u64, flip: bool) -> Result<()> {
    probe::check()?;
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR1] {
        signals.add(signal);
    }
    signals.thread_block()?;

    let domains = Topology::load(&Source::Live)?.partition(Granularity::L3)?;
    let preferences = Preferences::new(&domains, Prefer::None, &CpuSet::EMPTY);
    let mut storage = MaybeUninit::uninit();
    let loaded = Loaded::new(&mut storage, &RunOptions::default(), &domains, &preferences)?;
    let stop = AtomicBool::new(false);
    let (submitted, full) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        let mut starts = Vec::new();
        for domain in domains.iter() {
            let (tell, told) = channel::<Result<()>>();
            let (mark, id) = (loaded.mark()?, domain.id);
            let (start, may_start) = channel::<()>();
            let (notices, decisions) = loaded.queues(domain.id)?;
            let shared = loaded.shared().domain(domain.id);
            let (domains, stop, submitted, full) = (domains.len() as u32, &stop, &submitted, &full);
            let random = fastrand::Rng::with_seed(seed ^ u64::from(domain.id.0));
            let cpus = domain.cpus;
            let right = flip.then_some(domain.id);
            let known = VecDeque::new();
            let mut madman = Madman { notices, decisions, shared, random, domains, known, right };
            thread::Builder::new().name(format!("manyland/{}", domain.id)).spawn_scoped(
                scope,
                move || {
                    let mut set = NixCpuSet::new();
                    cpus.iter().for_each(|cpu| set.set(cpu.index()).expect("a CPU fits a set"));
                    let _ = sched_setaffinity(nix::unistd::Pid::from_raw(0), &set);
                    let _ = tell.send(mark.set(id));
                    if may_start.recv().is_err() {
                        return;
                    }
                    while !stop.load(Ordering::Relaxed) {
                        let (done, refused) = madman.round();
                        submitted.fetch_add(done, Ordering::Relaxed);
                        full.fetch_add(refused, Ordering::Relaxed);
                    }
                },
            )?;
            told.recv()??;
            starts.push(start);
        }
        let attached = loaded.attach(&domains, &CpuSet::EMPTY, &preferences)?;
        if flip {
            let (flipper, stop) = (Flipper::new()?, &stop);
            scope.spawn(move || flipper.run(stop));
        }
        for start in &starts {
            start.send(()).map_err(|_| anyhow!("a madman is gone"))?;
        }
        while signals.wait()? == Signal::SIGUSR1 {
            let mut counts = Counts {
                submitted: submitted.load(Ordering::Relaxed),
                full: full.load(Ordering::Relaxed),
                ..Counts::default()
            };
            for domain in domains.iter() {
                let of = attached.shared().domain(domain.id).counts();
                counts.decided += of.decided;
                counts.bounced += of.bounced;
                counts.stale += of.stale;
            }
            fs::write(COUNTS, serde_json::to_vec(&counts)?)?;
        }
        stop.store(true, Ordering::Relaxed);
        match attached.detach() {
            Some(Exit::Failed(why)) => bail!("the kernel has ended the scheduler: {why}"),
            _ => Ok(()),
        }
    })
}

/// One domain's.
struct Madman {
    notices: NoticeRing,
    decisions: DecisionRing,
    shared: SharedDomain,
    random: fastrand::Rng,
    domains: u32,
    /// Tasks that waited at some time, and the stay in which they did; the latest last.
    known: VecDeque<(u32, u64)>,
    /// The domain of every decision, where all are right.
    right: Option<DomainId>,
}

impl Madman {
    /// Decides for a while, and answers how many decisions were submitted and how many found no
    /// room.
    fn round(&mut self) -> (u64, u64) {
        const KNOWN: usize = 256;
        let Self { notices, known, .. } = self;
        notices.drain(|message| {
            let m = message.notice();
            if known.len() == KNOWN {
                known.pop_front();
            }
            known.push_back((m.pid, m.seq));
        });
        // Now and then more than the queue holds.
        let wanted = match self.right {
            Some(_) => self.known.len() as u64,
            None if self.random.u8(..) == 0 => 4096,
            None => self.random.u64(..32),
        };
        let (mut done, mut refused) = (0, 0);
        for _ in 0..wanted {
            let decision = match self.right {
                Some(domain) => self.right_decision(domain),
                None => self.decision(),
            };
            if self.decisions.submit(&decision) {
                self.shared.announce_decision();
                done += 1;
            } else {
                refused += 1;
            }
        }
        match self.random.u8(..8) {
            0 => thread::sleep(Duration::from_micros(self.random.u64(..3_000))),
            1..6 => thread::yield_now(),
            _ => {}
        }
        (done, refused)
    }

    /// A decision for the task that has waited for longest, which is known no more afterwards.
    fn right_decision(&mut self, domain: DomainId) -> abi::decision {
        let (pid, seq) = self.known.pop_front().expect("as many are wanted as are known");
        abi::decision {
            pid,
            seq,
            cpu: abi::none_NO_CPU,
            domain: domain.0,
            slice_ns: 1_000_000,
            vtime: 0,
            flags: 0,
            vtime_rate: 0,
            unused: 0,
            max_lag: 0,
            carried: abi::carried { memo: [0; 2], used_ns: 0, switches: 0, at_ns: 0 },
        }
    }

    /// A decision for a task that waits or waited, most of which is right, or right in no part.
    fn decision(&mut self) -> abi::decision {
        const LATEST: usize = 8;
        let random = &mut self.random;
        let (pid, seq) = match self.known.len() {
            0 => (random.u32(..5_000), random.u64(..)),
            n if random.u8(..4) == 0 => self.known[random.usize(..n)],
            n => self.known[n - 1 - random.usize(..n.min(LATEST))],
        };
        let mut wrong = |one_in: u8| random.u8(..one_in) == 0;
        let (pid_is, seq_is, slice_is) = (wrong(16), wrong(16), wrong(8));
        let (cpu_is, domain_is, rest_is) = (wrong(4), wrong(4), wrong(2));
        let word = |random: &mut fastrand::Rng| match random.u8(..4) {
            0 => 0,
            1 => u64::MAX,
            2 => random.u64(..64),
            _ => random.u64(..),
        };
        let random = &mut self.random;
        abi::decision {
            pid: if pid_is { word(random) as u32 } else { pid },
            seq: if seq_is { word(random) } else { seq },
            slice_ns: if slice_is { word(random) } else { random.u64(1_000..5_000_000) },
            vtime: word(random),
            cpu: if cpu_is { word(random) as u32 } else { abi::none_NO_CPU },
            flags: match rest_is {
                true => word(random) as u32,
                false if random.bool() => abi::decision_flags_DECISION_STANDS,
                false => 0,
            },
            domain: if domain_is { word(random) as u32 } else { random.u32(..self.domains) },
            vtime_rate: if rest_is { word(random) as u32 } else { random.u32(..1 << 18) },
            unused: word(random) as u32,
            max_lag: word(random),
            carried: abi::carried {
                memo: [word(random), word(random)],
                used_ns: word(random),
                switches: word(random),
                at_ns: word(random),
            },
        }
    }
}
