//! All faults mixed at random, for as long as is asked for: `make soak MINUTES=30 SEED=1`.

use super::scene::{Load, Scene};
use super::{ROWS, Row};
use crate::api::sched_ext;
use crate::api::storm::{Kind, Storm};
use crate::machine::{FAULTS, Machine};
use crate::suite::{Action, GuestTest};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

/// How long each fault lasts.
const PART: Duration = Duration::from_secs(10);

/// How many faults an attachment goes through, and how many storms go on meanwhile at most.
const PARTS: usize = 4;
const STORMS: usize = 2;

/// The storms that go on during other faults.
const BESIDE: [(Kind, usize); 7] = [
    (Kind::Forks, 500),
    (Kind::Mutex, 100),
    (Kind::Affinity, 200),
    (Kind::Wakeups, 500),
    (Kind::Deaths, 30),
    (Kind::Classes, 100),
    (Kind::Cgroups, 50),
];

/// Its test, whose limit grows with the environment's MINUTES.
pub fn test() -> GuestTest {
    let minutes = std::env::var("MINUTES").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    GuestTest {
        machine: &FAULTS,
        path: "soak".into(),
        action: Action::Case(soaks),
        limit: Duration::from_secs(60 * (minutes + 10)),
        slow: true,
        fails_with: None,
    }
}

/// Runs rounds until the time of the environment's MINUTES is up, from SEED.
fn soaks(_: &Machine) -> Result<()> {
    let number = |key: &str| -> Result<Option<u64>> {
        let value = std::env::var(key).ok();
        value.map(|text| text.parse().with_context(|| format!("{key}={text}"))).transpose()
    };
    let minutes = number("MINUTES")?.unwrap_or(1);
    let seed = number("SEED")?.unwrap_or_else(|| fastrand::u64(..1_000_000));
    println!("soaking for {minutes} minutes from SEED={seed}");
    fastrand::seed(seed);
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    let mut rounds = 0;
    while Instant::now() < end {
        rounds += 1;
        round().with_context(|| format!("in round {rounds} of SEED={seed}"))?;
    }
    println!("{rounds} rounds");
    Ok(())
}

/// One attachment, some faults, and its end, which may be a sudden one.
fn round() -> Result<()> {
    let mut scheduler = super::ours()?;
    let mut load = Load::start()?;
    let mut storms = Vec::new();
    for _ in 0..fastrand::usize(..=STORMS) {
        let (kind, number) = BESIDE[fastrand::usize(..BESIDE.len())];
        println!("{number} of {kind:?}");
        storms.push(Storm::start(kind, number, PART * PARTS as u32)?);
    }
    let rows: Vec<&Row> = ROWS.iter().filter(|row| row.mixes).collect();
    for _ in 0..PARTS {
        let row = rows[fastrand::usize(..rows.len())];
        println!("{row}");
        let mut scene = Scene::part(scheduler, PART);
        (row.fault)(&mut scene).with_context(|| row.to_string())?;
        scene.pass();
        scheduler = scene.scheduler.context("the row has left no scheduler")?;
        ensure!(!scheduler.has_ended()?, "{row}: the scheduler has ended: {}", scheduler.said());
    }
    scheduler.decisions_resume()?;
    for storm in storms {
        storm.finish(Duration::from_secs(120))?;
    }
    let lost = load.stop(Some(&scheduler))?;
    ensure!(lost.is_empty(), "tasks lost: {}", lost.join(", "));
    if fastrand::bool() {
        return scheduler.stop();
    }
    scheduler.die_by(Signal::SIGKILL)?;
    sched_ext::wait_for_state("disabled", Duration::from_secs(5))
}
