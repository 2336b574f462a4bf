//! What is known at one moment, in the formats of Prometheus. Nothing here reads or waits.
//!
//! Invariant: names and units follow Prometheus' conventions: base units, `_total` for what only
//! grows, one name for all domains with the label `domain`, and one for all cgroups with the label
//! `cgroup`. No two samples have the same name and labels.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use scx_manyland::abi::statistics::{Kind, STATISTICS, Scope, Statistic, Value};
use scx_manyland::run::cgroups::Cgroup;
use scx_manyland::run::client::Received;
use scx_manyland::run::line::Busy;
use scx_manyland::run::protocol::Times;
use std::collections::BTreeMap;
use std::fmt::{Error, Write};

/// What the kernel says of sched_ext schedulers.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    /// How often one has been attached since boot.
    pub attachments: Option<u64>,
    /// The events that the kernel counts for the one that is attached.
    pub events: Vec<(String, u64)>,
}

/// Everything that is known at one moment.
#[derive(Debug)]
pub struct State {
    /// Of a scheduler that runs.
    pub received: Option<Received>,
    pub kernel: Kernel,
}

/// The events in the kernel's file: a name and a number on each line.
pub fn parse_events(text: &str) -> Vec<(String, u64)> {
    let event = |line: &str| {
        let (name, count) = line.split_once(' ')?;
        let name = name.strip_prefix("SCX_EV_").unwrap_or(name).to_lowercase();
        Some((name, count.trim().parse().ok()?))
    };
    text.lines().filter_map(event).collect()
}

/// The state as OpenMetrics text.
pub fn openmetrics(state: State) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(state));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("a string has room");
    text
}

/// OpenMetrics text in the older format, which `node_exporter` reads: it knows no `info`, and the
/// suffix of a counter belongs to its name.
pub fn classic(openmetrics: &str) -> String {
    let typed = |line: &'_ str| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        match kind {
            "counter" => Some((name.to_owned(), ("_total", kind.to_owned()))),
            "info" => Some((name.to_owned(), ("_info", "gauge".to_owned()))),
            _ => None,
        }
    };
    let others: BTreeMap<String, (&str, String)> = openmetrics.lines().filter_map(typed).collect();
    let mut text = String::new();
    for line in openmetrics.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let _ = match words[..] {
            ["#", "EOF", ..] | ["#", "UNIT", ..] => Ok(()),
            ["#", what, name, rest] => match others.get(name) {
                Some((suffix, kind)) => {
                    let rest = if what == "TYPE" { kind } else { rest };
                    writeln!(text, "# {what} {name}{suffix} {rest}")
                }
                None => writeln!(text, "{line}"),
            },
            _ => writeln!(text, "{line}"),
        };
    }
    text
}

/// Writes metrics, whose names begin with the scheduler's.
struct Metrics<'a>(DescriptorEncoder<'a>);

impl Metrics<'_> {
    fn gauge<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl IntoIterator<Item = (L, f64)>,
    ) -> Result<(), Error> {
        self.family(MetricType::Gauge, name, help, unit, values)
    }

    fn counter<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl IntoIterator<Item = (L, f64)>,
    ) -> Result<(), Error> {
        self.family(MetricType::Counter, name, help, unit, values)
    }

    fn histogram<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: &[(L, &Times)],
    ) -> Result<(), Error> {
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Histogram)?;
        for (labels, times) in values {
            let (buckets, count) = buckets(times);
            let mut one = metric.encode_family(labels)?;
            let sum = times.sum_ns as f64 / 1e9;
            one.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }

    fn family<L: EncodeLabelSet>(
        &mut self,
        kind: MetricType,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl IntoIterator<Item = (L, f64)>,
    ) -> Result<(), Error> {
        let mut metric = self.0.encode_descriptor(name, help, unit, kind)?;
        for (labels, value) in values {
            let mut one = metric.encode_family(&labels)?;
            match kind {
                MetricType::Counter => one.encode_counter::<NoLabelSet, _, f64>(&value, None)?,
                _ => one.encode_gauge(&value)?,
            }
        }
        Ok(())
    }
}

/// How many times were below each bound, and how many in all.
fn buckets(times: &Times) -> (Vec<(f64, u64)>, u64) {
    let mut below = 0;
    let buckets = times.within.iter().map(|(&ns, &count)| {
        let one = count - below;
        below = count;
        (if ns == u64::MAX { f64::INFINITY } else { ns as f64 / 1e9 }, one)
    });
    (buckets.collect(), below)
}

/// The labels of a metric without any.
const NONE: [(&str, &str); 0] = [];

impl Collector for State {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut metrics = Metrics(encoder);
        let up = f64::from(u8::from(self.received.is_some()));
        metrics.gauge("manyland_up", "Whether scx_manyland schedules.", None, [(NONE, up)])?;
        if let Some(attachments) = self.kernel.attachments {
            let help = "Attachments of sched_ext schedulers since boot.";
            let value = [(NONE, attachments as f64)];
            metrics.counter("sched_ext_attachments", help, None, value)?;
        }
        if !self.kernel.events.is_empty() {
            let help = "Events that the kernel counts for the attached sched_ext scheduler.";
            let values = self.kernel.events.iter();
            let values = values.map(|(event, count)| ([("event", event.as_str())], *count as f64));
            metrics.counter("sched_ext_events", help, None, values)?;
        }
        match &self.received {
            Some(received) => {
                of_process(&mut metrics, received)?;
                of_domains(&mut metrics, received)?;
                received.line.cgroups.as_ref().map_or(Ok(()), |busy| of_cgroups(&mut metrics, busy))
            }
            None => Ok(()),
        }
    }
}

fn of_process(metrics: &mut Metrics<'_>, received: &Received) -> Result<(), Error> {
    let about = &received.about;
    let labels = [
        ("domain", about.domain.as_str()),
        ("policy", about.policy.as_str()),
        ("version", received.version.as_str()),
    ];
    let help = "The scheduler that runs.";
    let mut info = metrics.0.encode_descriptor("manyland", help, None, MetricType::Info)?;
    info.encode_info(&labels)?;
    let seconds = Some(&Unit::Seconds);
    let help = "Time since the scheduler attached.";
    metrics.gauge("manyland_attached", help, seconds, [(NONE, received.seconds)])?;
    let process = &received.line.process;
    let help = "Memory of the scheduler that is resident.";
    let bytes = process.rss_kib as f64 * 1024.0;
    metrics.gauge("manyland_resident_memory", help, Some(&Unit::Bytes), [(NONE, bytes)])?;
    let help = "Time that a CPU waits for its domain thread.";
    let patience = process.patience_us as f64 / 1e6;
    metrics.gauge("manyland_patience", help, seconds, [(NONE, patience)])?;
    let help = "Page faults of the scheduler since it attached.";
    metrics.counter("manyland_page_faults", help, None, [(NONE, process.page_faults as f64)])
}

fn of_domains(metrics: &mut Metrics<'_>, received: &Received) -> Result<(), Error> {
    let names: Vec<String> =
        received.line.domains.iter().map(|domain| domain.id.to_string()).collect();
    let label = |at: usize| [("domain", names[at].as_str())];
    for Statistic { name, meaning, kind, .. } in
        STATISTICS.iter().filter(|it| it.scope == Scope::Domain && it.kind != Kind::Latency)
    {
        let values = received.line.domains.iter().enumerate().map(|(at, domain)| {
            let mut value = 0.0;
            domain.statistics.for_each(|other, of| {
                if let (true, Value::Number(number)) = (other == *name, of) {
                    value = number as f64;
                }
            });
            (label(at), value)
        });
        let (name, help) = (format!("manyland_{name}"), sentence(meaning));
        match kind {
            Kind::Counter => metrics.counter(&name, &help, None, values)?,
            Kind::Gauge | Kind::Latency => metrics.gauge(&name, &help, None, values)?,
        }
    }
    let seconds = Some(&Unit::Seconds);
    let help = "CPU time of the domain thread.";
    let times = received.thread_us.iter().enumerate();
    let times = times.map(|(at, us)| (label(at), *us as f64 / 1e6));
    metrics.counter("manyland_thread_cpu", help, seconds, times)?;
    let help = "Latency of decisions, from the notice to the decision, carried out; in the sum \
                each is rounded up by a quarter at most.";
    let times = received.times.iter().enumerate();
    let of: Vec<_> = times.clone().map(|(at, times)| (label(at), &times.decision_us)).collect();
    metrics.histogram("manyland_decision_latency", help, seconds, &of)?;
    let help = "Time from the wake-up of a task until it ran; in the sum each is rounded up by a \
                quarter at most.";
    let of: Vec<_> = times.map(|(at, times)| (label(at), &times.run_delay_us)).collect();
    metrics.histogram("manyland_run_delay", help, seconds, &of)
}

/// A metric of cgroups. `None`: this cgroup has none.
struct OfCgroup {
    kind: MetricType,
    name: &'static str,
    unit: Option<Unit>,
    help: &'static str,
    value: fn(&Busy, &Cgroup) -> Option<f64>,
}

/// All of them. What is of a limit is missing where there is none.
fn metrics_of_cgroups() -> [OfCgroup; 7] {
    let of = |kind, name, unit, help, value| OfCgroup { kind, name, unit, help, value };
    let gauge = MetricType::Gauge;
    let counter = MetricType::Counter;
    let cpus = Some(Unit::Other("cpus".to_owned()));
    let seconds = Some(Unit::Seconds);
    [
        of(gauge, "weight", None, "The cgroup's cpu.weight.", |_, it| Some(it.weight.into())),
        of(gauge, "idle", None, "Whether the cgroup has cpu.idle.", |_, it| {
            Some(u8::from(it.idle).into())
        }),
        of(
            gauge,
            "due",
            cpus,
            "CPUs that the cgroup's own tasks are due, by all weights, when the last one was runnable.",
            |busy, it| Some(busy.due_cpus(it)),
        ),
        of(
            counter,
            "cpu",
            seconds.clone(),
            "CPU time of the cgroup's own tasks since the scheduler attached.",
            |_, it| Some(it.total_us as f64 / 1e6),
        ),
        of(gauge, "runnable", None, "The cgroup's own tasks that are runnable.", |_, it| {
            Some(it.runnable.into())
        }),
        of(
            counter,
            "throttles",
            None,
            "Times that the cgroup had used up its own cpu.max.",
            |_, it| it.quota_us.map(|_| it.throttles as f64),
        ),
        of(
            counter,
            "throttled",
            seconds,
            "Time for which the cgroup had used up its own cpu.max.",
            |_, it| it.quota_us.map(|_| it.throttled_us as f64 / 1e6),
        ),
    ]
}

fn of_cgroups(metrics: &mut Metrics<'_>, busy: &Busy) -> Result<(), Error> {
    let cgroups = &busy.of.cgroups;
    let names: Vec<String> = cgroups.iter().map(Cgroup::name).collect();
    for OfCgroup { kind, name, unit, help, value } in metrics_of_cgroups() {
        let name = format!("manyland_cgroup_{name}");
        let label = |at: usize| [("cgroup", names[at].as_str())];
        let values = cgroups.iter().enumerate();
        let values = values.filter_map(|(at, it)| Some((label(at), value(busy, it)?)));
        let values: Vec<_> = values.collect();
        if !values.is_empty() {
            metrics.family(kind, &name, help, unit.as_ref(), values)?;
        }
    }
    Ok(())
}

/// A meaning as a sentence.
fn sentence(meaning: &str) -> String {
    let mut letters = meaning.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string());
    format!("{}{}.", first.unwrap_or_default(), letters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_from_the_kernels_file() {
        let text = "SCX_EV_SELECT_CPU_FALLBACK 12\nSCX_EV_BYPASS_DURATION 0\nnonsense\n";
        let expected = [("select_cpu_fallback", 12), ("bypass_duration", 0)];
        assert_eq!(parse_events(text), expected.map(|(name, count)| (name.to_owned(), count)));
    }

    #[test]
    fn without_a_scheduler_that_is_said() {
        let kernel = Kernel { attachments: Some(3), events: Vec::new() };
        let text = openmetrics(State { received: None, kernel });
        assert!(text.contains("\nmanyland_up 0.0\n"), "{text}");
        assert!(text.contains("sched_ext_attachments_total 3"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
        let text = classic(&text);
        assert!(text.contains("# TYPE sched_ext_attachments_total counter\n"), "{text}");
        assert!(!text.contains("EOF"), "{text}");
        let text = classic("# HELP a What runs.\n# TYPE a info\na_info{b=\"c\"} 1\n# EOF\n");
        let expected = "# HELP a_info What runs.\n# TYPE a_info gauge\na_info{b=\"c\"} 1\n";
        assert_eq!(text, expected);
    }
}
