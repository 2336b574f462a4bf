//! The statistics: their form, what they count, and who reads them.

use crate::api::load;
use crate::api::scheduler::{self, STATS, Scheduler};
use crate::api::{cpus, sched_ext, wait_until};
use crate::machine::Machine;
use crate::protocol::{STEADY, STUTTER};
use crate::suite::tests;
use anyhow::{Context, Result, ensure};
use scx_manyland::abi::domain_counts;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

tests! {
    json_lines_are_complete: 90 s on L3X2;
    text_has_a_row_for_each_domain: 60 s on L3X2;
    ends_when_nobody_reads: 60 s on L3X2;
    patience_is_as_long_as_timers_are_late: 240 s on L3X2;
}

const LONG: Duration = Duration::from_secs(60);

/// What each line says of each domain besides the counters.
const OTHER_KEYS: [&str; 7] =
    ["id", "tasks", "waiting", "ready", "unnotified", "nr_idle", "decision_us"];

/// The names of the counters: the fields of the struct that both sides share.
fn counters() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    domain_counts::ZERO.for_each(|name, _| {
        names.insert(name.to_owned());
    });
    names
}

/// The most that the program may keep resident, of itself and for each domain.
const RSS_KIB: u64 = 16 << 10;
const RSS_KIB_PER_DOMAIN: u64 = 4 << 10;

/// Each line of JSON has all fields, counts from the line before it on, and tells of little memory.
pub fn json_lines_are_complete(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&STATS)?;
    load::hackbench(2, 200, LONG)?;
    let busy = scheduler.await_stats(1)?;
    // The line after the next covers nothing but idle time.
    let stats = scheduler.await_stats(2)?;
    let domains = cpus::l3s()?.len();
    let whole = scheduler.stdout();
    ensure!(
        whole.lines().all(|line| line.starts_with('{')),
        "there is more than JSON on standard output:\n{whole}"
    );
    for line in &stats.lines {
        is_complete(line, domains).with_context(|| format!("in {line}"))?;
        let rss = line["rss_kib"].as_u64().context("no rss_kib")?;
        let limit = RSS_KIB + RSS_KIB_PER_DOMAIN * domains as u64;
        ensure!(rss > 0 && rss <= limit, "{rss} KiB are resident; {limit} KiB are allowed");
    }
    // The default, or more where the guest's timers are late.
    for line in &stats.lines {
        let patience_us = line["patience_us"].as_u64().context("no patience_us")?;
        ensure!((1000..=801_000).contains(&patience_us), "CPUs wait for {patience_us} us");
    }
    ensure!(busy.sum("decided")? > 1000, "too little was decided under load to tell");
    let idle = stats.lines.last().context("no lines")?;
    for domain in idle["domains"].as_array().context("no domains")? {
        for field in ["queued", "decided", "late", "bypassed", "bounced", "activations"] {
            let count = domain[field].as_u64().unwrap_or(u64::MAX);
            ensure!(count < 500, "after the load, {field} is {count} in a second: {idle}");
        }
        ensure!(domain["waiting"] == 0, "on an idle system tasks wait: {idle}");
    }
    println!("after the load: {idle}");
    scheduler.stop()
}

fn is_complete(line: &Value, domains: usize) -> Result<()> {
    ensure!(line["page_faults"].is_u64(), "no page_faults");
    let listed = line["domains"].as_array().context("no domains")?;
    ensure!(listed.len() == domains, "{} domains of {domains}", listed.len());
    let mut expected = counters();
    ensure!(expected.contains("decided"), "the counters' names cannot be read: {expected:?}");
    expected.extend(OTHER_KEYS.map(str::to_owned));
    for (id, domain) in listed.iter().enumerate() {
        let keys = domain.as_object().context("a domain is no object")?.keys().cloned();
        ensure!(keys.collect::<BTreeSet<_>>() == expected, "domain {id} has not {expected:?}");
        for field in expected.iter().filter(|field| *field != "decision_us") {
            ensure!(domain[field].is_u64(), "domain {id}: {field} is no number");
        }
        ensure!(domain["id"] == id, "the domains are not in order");
        for percentile in ["p50", "p99"] {
            let value = domain["decision_us"].get(percentile);
            let value = value.with_context(|| format!("decision_us has no {percentile}"))?;
            ensure!(
                value.is_number() || domain["decided"] == 0,
                "domain {id} decided, and its {percentile} is {value}"
            );
        }
    }
    Ok(())
}

/// As text, each domain has a row.
pub fn text_has_a_row_for_each_domain(_: &Machine) -> Result<()> {
    let scheduler = Scheduler::start(&["--stats", "1"])?;
    wait_until("statistics are printed twice", Duration::from_secs(10), || {
        scheduler.stdout().matches("page faults").count() >= 2
    })?;
    let text = scheduler.stdout();
    println!("{text}");
    let mut lines = text.lines();
    let head = lines.next().context("no head")?;
    ensure!(head.trim_start().starts_with("domain"), "not a head: {head:?}");
    for _ in 0..2 {
        for id in 0..cpus::l3s()?.len() {
            let row: Vec<&str> = lines.next().context("no row")?.split_whitespace().collect();
            ensure!(row.first() == Some(&id.to_string().as_str()), "not domain {id}: {row:?}");
        }
        let last = lines.next().context("no last line")?;
        ensure!(last.contains("page faults") && last.contains("KiB"), "not the last: {last:?}");
    }
    scheduler.stop()
}

/// When nobody reads the statistics any more the program detaches and ends quietly, like other
/// programs.
pub fn ends_when_nobody_reads(_: &Machine) -> Result<()> {
    for output in ["2>/tmp/errors", "--stats-format json 2>/tmp/errors", "2>&1"] {
        fs::write("/tmp/errors", "")?;
        let run = scheduler::run_in_shell(&format!(
            "set -o pipefail; scx_manyland --stats 1 {output} | head -n 1"
        ))?;
        let errors = fs::read_to_string("/tmp/errors")?;
        println!("{run:?} {errors:?}");
        ensure!(run.code == Some(0), "{output}: the exit status is not 0: {run:?} {errors}");
        ensure!(run.stdout.lines().count() == 1, "{output}: not one line: {run:?}");
        ensure!(
            !errors.contains("panicked") && !errors.contains("pipe"),
            "{output}: there is an error: {errors}"
        );
        sched_ext::wait_for_state("disabled", Duration::from_secs(5))?;
    }
    Ok(())
}

/// Where the host takes the CPUs away again and again, timers are late, and CPUs wait longer for
/// their threads; no longer than that.
pub fn patience_is_as_long_as_timers_are_late(_: &Machine) -> Result<()> {
    const LONGER_US: u64 = 100_000;
    let scheduler = Scheduler::start(&STATS)?;
    let patience_us = || {
        let stats = scheduler.stats().ok()?;
        stats.lines.last()?["patience_us"].as_u64()
    };
    println!("{STUTTER}");
    wait_until("CPUs wait longer for their threads", LONG, || {
        patience_us().is_some_and(|us| us >= LONGER_US)
    })?;
    println!("{STEADY}");
    wait_until("CPUs wait no longer than before", 2 * LONG, || {
        patience_us().is_some_and(|us| us < LONGER_US)
    })?;
    scheduler.stop()
}
