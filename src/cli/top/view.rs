//! What `top` shows: the rows of an interval, their sequence, and what the keys change. Nothing
//! here draws or waits.
//!
//! Invariant: a row is of the interval between two responses of the same attachment; after another
//! attachment there are no rows until its second response.

use scx_manyland::run::cgroups::Cgroup;
use scx_manyland::run::client::Received;
use scx_manyland::run::line::Busy;
use std::collections::BTreeMap;
use std::time::Duration;

/// What the table can be sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Domain,
    Waiting,
    Decisions,
    Late,
    Latency,
    Thread,
    Stolen,
}

impl Key {
    /// In the sequence in which a key press goes through them.
    pub const ALL: [Key; 7] = [
        Key::Domain,
        Key::Waiting,
        Key::Decisions,
        Key::Late,
        Key::Latency,
        Key::Thread,
        Key::Stolen,
    ];

    /// Its column.
    pub fn name(self) -> &'static str {
        match self {
            Key::Domain => "domain",
            Key::Waiting => "waiting",
            Key::Decisions => "decisions",
            Key::Late => "late",
            Key::Latency => "p99",
            Key::Thread => "thread",
            Key::Stolen => "stolen",
        }
    }

    fn next(self) -> Key {
        let at = Key::ALL.iter().position(|&key| key == self).unwrap_or(0);
        Key::ALL[(at + 1) % Key::ALL.len()]
    }
}

/// How many bars the histogram of latencies has.
pub const BARS: usize = 8;

/// The upper bounds of all bars but the last, in nanoseconds: 4 us to 16 ms, each four times the
/// one before.
const BOUNDS_NS: [u64; BARS - 1] = [1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24];

/// A domain over an interval.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub domain: u32,
    pub cpus: String,
    pub tasks: u64,
    pub waiting: u64,
    pub ready: u64,
    /// Each second, those that stood among them.
    pub decisions: f64,
    /// How many in a hundred of the tasks that found no idle CPU ran undecided; `None` if all tasks
    /// found one.
    pub late_percent: Option<f64>,
    /// The bound below which 99 of 100 latencies are, in microseconds.
    pub p99_us: Option<f64>,
    /// How many latencies fall into each bar.
    pub bars: [u64; BARS],
    /// Of a CPU.
    pub thread_percent: f64,
    /// Tasks that the domain has stolen, and that were stolen from it, each second.
    pub stolen_in: f64,
    pub stolen_out: f64,
}

impl Row {
    fn new(at: usize, then: &Received, now: &Received, seconds: f64) -> Option<Row> {
        let (before, after) = (then.line.domains.get(at)?, now.line.domains.get(at)?);
        let (old, new) = (&before.statistics, &after.statistics);
        let since = |count: u64, earlier: u64| count.saturating_sub(earlier) as f64;
        let decided = since(new.decided, old.decided) + since(new.standing, old.standing);
        let late = since(new.late, old.late);
        let [times, earlier] = [now, then].map(|it| it.times.get(at).map(|it| &it.decision_us));
        let (times, below) = (times?, |ns| earlier.map_or(0, |it| it.below(ns)));
        let within = |ns| since(times.below(ns), below(ns));
        let mut lower = 0.0;
        let bars = std::array::from_fn(|bar| {
            let upper = within(BOUNDS_NS.get(bar).copied().unwrap_or(u64::MAX));
            let count = upper - lower;
            lower = upper;
            count as u64
        });
        let thread_us = since(*now.thread_us.get(at)?, *then.thread_us.get(at)?);
        Some(Row {
            domain: after.id.0,
            cpus: now.about.cpus.get(at)?.clone(),
            tasks: new.tasks,
            waiting: new.waiting,
            ready: new.ready,
            decisions: decided / seconds,
            late_percent: (decided + late > 0.0).then(|| 100.0 * late / (decided + late)),
            p99_us: p99_ns(&times.within, within).map(|ns| ns as f64 / 1000.0),
            bars,
            thread_percent: thread_us / 10_000.0 / seconds,
            stolen_in: since(new.stolen_in, old.stolen_in) / seconds,
            stolen_out: since(new.stolen_out, old.stolen_out) / seconds,
        })
    }

    fn rank(&self, key: Key) -> f64 {
        match key {
            Key::Domain => -f64::from(self.domain),
            Key::Waiting => (self.waiting + self.ready) as f64,
            Key::Decisions => self.decisions,
            Key::Late => self.late_percent.unwrap_or(-1.0),
            Key::Latency => self.p99_us.unwrap_or(-1.0),
            Key::Thread => self.thread_percent,
            Key::Stolen => self.stolen_in + self.stolen_out,
        }
    }
}

/// The least bound below which 99 of 100 are.
fn p99_ns(bounds: &BTreeMap<u64, u64>, within: impl Fn(u64) -> f64) -> Option<u64> {
    let all = within(u64::MAX);
    bounds.keys().copied().find(|&ns| all > 0.0 && within(ns) >= 0.99 * all)
}

/// One of the busiest cgroups over an interval. Of its own tasks, not of those of cgroups below.
#[derive(Clone, Debug, PartialEq)]
pub struct CgroupRow {
    pub name: String,
    /// `cpu.weight`; `None` with `cpu.idle`.
    pub weight: Option<u32>,
    /// How many CPUs its tasks were due, and had.
    pub due: f64,
    pub had: f64,
    pub runnable: u32,
    /// How often it used up its own `cpu.max`, each second; `None` without that, or if it is new.
    pub throttles: Option<f64>,
    /// For how much of the interval that was so.
    pub throttled_percent: Option<f64>,
}

impl CgroupRow {
    fn new(then: &Received, busy: &Busy, it: &Cgroup) -> CgroupRow {
        let known = then.line.cgroups.as_ref();
        let before = known.and_then(|then| then.of.cgroups.iter().find(|old| old.id == it.id));
        let seconds = busy.of.interval_seconds;
        let each_second = |of: fn(&Cgroup) -> u64| {
            let since = of(it).saturating_sub(of(before?)) as f64 / seconds;
            it.quota_us.map(|_| since)
        };
        CgroupRow {
            name: it.shown(),
            weight: (!it.idle).then_some(it.weight),
            due: busy.due_cpus(it),
            had: busy.had_cpus(it),
            runnable: it.runnable,
            throttles: each_second(|it| it.throttles),
            throttled_percent: each_second(|it| it.throttled_us).map(|us| us / 1e4),
        }
    }
}

/// What is known of schedulers at this moment.
#[derive(Debug)]
pub enum State {
    /// None of ours answers; perhaps one of others is attached.
    None { other: Option<String> },
    /// It has answered once.
    Begun(Received),
    /// It answers.
    Runs {
        received: Received,
        rows: Vec<Row>,
        /// The busiest one first; empty while all tasks are in the root.
        cgroups: Vec<CgroupRow>,
    },
}

/// What the screen shows.
#[derive(Debug)]
pub struct View {
    pub state: State,
    pub key: Key,
    pub is_reversed: bool,
    pub is_paused: bool,
    /// How many rows are above the first that is shown.
    pub above: usize,
    pub every: Duration,
}

/// A key that was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Press {
    Sort,
    Reverse,
    Pause,
    Up(usize),
    Down(usize),
}

impl View {
    /// Nothing is known.
    pub fn new(every: Duration) -> View {
        View {
            state: State::None { other: None },
            key: Key::Domain,
            is_reversed: false,
            is_paused: false,
            above: 0,
            every,
        }
    }

    /// A scheduler has answered with its totals.
    pub fn received(&mut self, now: Received) {
        let then = match std::mem::replace(&mut self.state, State::None { other: None }) {
            State::Runs { received, .. } | State::Begun(received) => received,
            State::None { .. } => {
                self.state = State::Begun(now);
                return;
            }
        };
        let seconds = now.seconds - then.seconds;
        if seconds <= 0.0 || then.about != now.about {
            self.state = State::Begun(now);
            return;
        }
        let rows = (0..now.line.domains.len()).filter_map(|at| Row::new(at, &then, &now, seconds));
        let busy = now.line.cgroups.iter();
        let cgroups = busy
            .flat_map(|busy| busy.of.cgroups.iter().map(|it| CgroupRow::new(&then, busy, it)))
            .collect();
        self.state = State::Runs { rows: rows.collect(), cgroups, received: now };
        self.sort();
    }

    /// No scheduler of ours has answered.
    pub fn lost(&mut self, other: Option<String>) {
        self.state = State::None { other };
    }

    /// A key was pressed.
    pub fn press(&mut self, press: Press) {
        match press {
            Press::Sort => self.key = self.key.next(),
            Press::Reverse => self.is_reversed = !self.is_reversed,
            Press::Pause => self.is_paused = !self.is_paused,
            Press::Up(rows) => self.above = self.above.saturating_sub(rows),
            Press::Down(rows) => {
                let all = if let State::Runs { rows, .. } = &self.state { rows.len() } else { 0 };
                self.above = (self.above + rows).min(all.saturating_sub(1));
            }
        }
        self.sort();
    }

    fn sort(&mut self) {
        let (key, is_reversed) = (self.key, self.is_reversed);
        let State::Runs { rows, .. } = &mut self.state else { return };
        rows.sort_by(|a, b| b.rank(key).total_cmp(&a.rank(key)).then(a.domain.cmp(&b.domain)));
        if is_reversed {
            rows.reverse();
        }
        self.above = self.above.min(rows.len().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scx_manyland::abi::statistics::{DomainStatistics, Latencies, ProcessStatistics};
    use scx_manyland::ids::{CgroupId, DomainId};
    use scx_manyland::run::cgroups::Cgroups;
    use scx_manyland::run::line::{DomainLine, Line};
    use scx_manyland::run::protocol::{About, Times};

    /// The totals of two domains after some seconds, of which the second has decided `decided`
    /// times.
    fn totals(seconds: f64, decided: u64) -> Received {
        let of = |id, decided, late| {
            let statistics = DomainStatistics { decided, late, tasks: 7, ..Default::default() };
            DomainLine { id: DomainId(id), statistics }
        };
        let times = |count: u64| {
            let all = (10..=31).map(|power| 1 << power).chain([u64::MAX]);
            let within = all.map(|ns| (ns, if ns < 1 << 14 { 0 } else { count })).collect();
            Latencies { decision_us: Times { within, sum_ns: 0 }, ..Latencies::default() }
        };
        let cpus = vec!["0-1".to_owned(), "2-3".to_owned()];
        Received {
            version: String::new(),
            about: About {
                policy: "fifo".to_owned(),
                domain: "l3".to_owned(),
                cpus,
                ..About::default()
            },
            seconds,
            line: Line {
                domains: vec![of(0, 0, 0), of(1, decided, decided / 4)],
                process: ProcessStatistics::default(),
                cgroups: None,
            },
            thread_us: vec![0, decided * 100],
            times: vec![times(0), times(decided)],
        }
    }

    fn rows(view: &View) -> &[Row] {
        match &view.state {
            State::Runs { rows, .. } => rows,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_row_is_of_the_interval_between_two_responses() {
        let mut view = View::new(Duration::from_secs(1));
        view.received(totals(10.0, 1_000_000));
        assert!(matches!(view.state, State::Begun(_)));
        view.received(totals(12.0, 1_004_000));
        let [idle, busy] = rows(&view) else { panic!("two domains") };
        assert_eq!((busy.decisions, busy.late_percent), (2000.0, Some(20.0)));
        assert_eq!(busy.bars, [0, 4000, 0, 0, 0, 0, 0, 0], "between 4 and 16 us");
        assert_eq!((busy.p99_us, busy.thread_percent), (Some(16.384), 20.0));
        assert_eq!((idle.late_percent, idle.p99_us, idle.bars), (None, None, [0; BARS]));
    }

    /// A cgroup that was due two of four CPUs, and was throttled that often.
    fn cgroup(id: u64, quota_us: Option<u64>, throttles: u64) -> Cgroup {
        Cgroup {
            id: CgroupId(id),
            path: None,
            weight: 300,
            idle: quota_us.is_none(),
            quota_us,
            period_us: quota_us,
            share: 0.5,
            used_us: 3_000_000,
            total_us: 0,
            runnable: 5,
            throttles,
            throttled_us: throttles * 50_000,
        }
    }

    #[test]
    fn the_busiest_cgroups_are_of_the_interval_between_two_responses() {
        let with = |seconds, cgroups| {
            let of = Cgroups { interval_seconds: 2.0, cgroups };
            let mut received = totals(seconds, 0);
            received.line.cgroups = Some(Busy { of, cpus: 4 });
            received
        };
        let mut view = View::new(Duration::from_secs(2));
        view.received(with(10.0, vec![cgroup(1, Some(1), 100), cgroup(2, None, 7)]));
        let now = vec![cgroup(1, Some(1), 110), cgroup(2, None, 9), cgroup(3, Some(1), 1)];
        view.received(with(12.0, now));
        let State::Runs { cgroups, .. } = &view.state else { panic!("{:?}", view.state) };
        let [limited, idle, new] = &cgroups[..] else { panic!("{cgroups:?}") };
        assert_eq!((limited.due, limited.had, limited.runnable), (2.0, 1.5, 5));
        assert_eq!((limited.throttles, limited.throttled_percent), (Some(5.0), Some(25.0)));
        assert_eq!((limited.weight, limited.name.as_str()), (Some(300), "number 1"));
        assert_eq!((idle.weight, idle.throttles, idle.throttled_percent), (None, None, None));
        assert_eq!(new.throttles, None, "when it was throttled is not known");
        view.received(totals(13.0, 0));
        let State::Runs { cgroups, .. } = &view.state else { panic!("{:?}", view.state) };
        assert_eq!(cgroups, &[]);
    }

    #[test]
    fn another_attachment_begins_anew() {
        let mut view = View::new(Duration::from_secs(1));
        view.received(totals(10.0, 1000));
        view.received(totals(11.0, 1100));
        assert_eq!(rows(&view).len(), 2);
        view.received(totals(0.5, 3));
        assert!(matches!(view.state, State::Begun(_)), "its time is shorter");
        view.received(totals(1.5, 13));
        assert_eq!(rows(&view)[1].decisions, 10.0);
        let mut other = totals(9.0, 1000);
        other.about.cpus.pop();
        other.line.domains.pop();
        view.received(other);
        assert!(matches!(view.state, State::Begun(_)), "its domains are others");
        view.lost(None);
        view.received(totals(20.0, 1));
        assert!(matches!(view.state, State::Begun(_)));
    }

    #[test]
    fn keys_sort_reverse_and_scroll() {
        let mut view = View::new(Duration::from_secs(1));
        view.received(totals(10.0, 1000));
        view.received(totals(11.0, 1100));
        let first = |view: &View| rows(view)[0].domain;
        assert_eq!(first(&view), 0);
        for key in &Key::ALL[1..] {
            view.press(Press::Sort);
            assert_eq!(view.key, *key);
            let is_equal = matches!(key, Key::Waiting | Key::Stolen);
            assert_eq!(first(&view), if is_equal { 0 } else { 1 }, "{key:?}");
        }
        view.press(Press::Sort);
        assert_eq!(view.key, Key::Domain);
        view.press(Press::Reverse);
        assert_eq!(first(&view), 1);
        view.press(Press::Down(5));
        assert_eq!(view.above, 1);
        view.press(Press::Up(usize::MAX));
        assert_eq!(view.above, 0);
        view.press(Press::Pause);
        assert!(view.is_paused);
    }
}
