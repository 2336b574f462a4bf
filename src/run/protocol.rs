//! The protocol of the statistics socket, as the schedulers of the scx project speak it: a request
//! is one line of JSON, and so is its response. Nothing here makes a system call.
//!
//! | request | response |
//! |---|---|
//! | `{"req":"stats"}`, `{"req":"stats","args":{"target":"top"}}` | what came since this connection's last |
//! | `{"req":"stats","args":{"target":"totals"}}` | what came since the scheduler attached |
//! | `{"req":"stats","args":{"target":"options"}}` | the options of the run |
//! | `{"req":"stats","args":{"target":"cgroups"}}` | the busiest cgroups since this connection's last such response |
//! | `{"req":"stats_meta"}` | what the fields mean |
//! | anything else | `{"errno":22,"args":{"resp":TEXT}}` |
//!
//! Invariant: a connection's memory does not grow. What it has sent is read only when its last
//! response has left, and a line longer than [`LINE_BYTES`] is refused and ends it.

use super::line::{DomainLine, Line};
use crate::abi::statistics::{
    DomainStatistics, Kind, Latencies, Percentiles, STATISTICS, Scope, Statistic, Value,
};
use crate::cpuset::CpuSet;
use crate::domains::latency::Snapshot;
use crate::ids::DomainId;
use anyhow::{Context, Result, bail};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;

/// The longest request, in bytes, with its newline.
pub const LINE_BYTES: usize = 4096;

/// The names of the structs in the meta data.
const TOP: &str = "Manyland";
const TOTALS: &str = "ManylandTotals";
const DOMAIN: &str = "ManylandDomain";
const DOMAIN_TOTALS: &str = "ManylandDomainTotals";

/// The powers of two, in nanoseconds, that latencies are counted up to: 1 us to 2 s.
pub const POWERS: std::ops::RangeInclusive<u32> = 10..=31;

/// What a reader asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// What came since the connection's last response.
    Top,
    /// What came since the scheduler attached.
    Totals,
    /// The options of the run.
    Options,
    /// The busiest cgroups since the connection's last such response.
    Cgroups,
    /// What the fields mean.
    Meta,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The number of the error, as the kernel has it.
    pub errno: i32,
    /// In words.
    pub text: String,
}

impl Refusal {
    fn invalid(text: String) -> Refusal {
        Refusal { errno: libc::EINVAL, text }
    }

    /// There is no room for another reader.
    pub fn busy(readers: usize) -> Refusal {
        let text = format!("{readers} readers are connected, and there is no room for more");
        Refusal { errno: libc::EBUSY, text }
    }
}

impl Request {
    /// Parses a line.
    ///
    /// # Errors
    /// The response to a line that is no request.
    pub fn parse(line: &[u8]) -> Result<Request, Refusal> {
        #[derive(Deserialize)]
        struct Form {
            req: String,
            #[serde(default)]
            args: BTreeMap<String, String>,
        }
        let form: Form = serde_json::from_slice(line)
            .map_err(|error| Refusal::invalid(format!("not a request: {error}")))?;
        let target = form.args.get("target").map_or("top", String::as_str);
        match (form.req.as_str(), target) {
            ("stats", "top") => Ok(Request::Top),
            ("stats", "totals") => Ok(Request::Totals),
            ("stats", "options") => Ok(Request::Options),
            ("stats", "cgroups") => Ok(Request::Cgroups),
            ("stats", _) => Err(Refusal::invalid(format!("there are no statistics {target:?}"))),
            ("stats_meta", _) => Ok(Request::Meta),
            (other, _) => Err(Refusal::invalid(format!("there is no request {other:?}"))),
        }
    }
}

/// Appends a response.
pub fn respond(output: &mut Vec<u8>, errno: i32, resp: &impl Serialize) {
    #[derive(Serialize)]
    struct Args<'a, T: Serialize> {
        resp: &'a T,
    }
    #[derive(Serialize)]
    struct Form<'a, T: Serialize> {
        errno: i32,
        args: Args<'a, T>,
    }
    let form = Form { errno, args: Args { resp } };
    serde_json::to_writer(&mut *output, &form).expect("memory accepts what is written");
    output.push(b'\n');
}

/// Appends a refusal.
pub fn refuse(output: &mut Vec<u8>, refusal: &Refusal) {
    respond(output, refusal.errno, &refusal.text);
}

/// A connection: what came and is not answered, and what is answered and has not left.
pub struct Connection {
    input: Box<[u8; LINE_BYTES]>,
    came: usize,
    output: Vec<u8>,
    left: usize,
    ends: bool,
}

impl Connection {
    /// Nothing has come. Responses of up to `bytes` bytes need no memory.
    pub fn new(bytes: usize) -> Connection {
        let (input, output) = (Box::new([0; LINE_BYTES]), Vec::with_capacity(bytes));
        Connection { input, came: 0, output, left: 0, ends: false }
    }

    /// Forgets everything, for another reader.
    pub fn clear(&mut self) {
        (self.came, self.left, self.ends) = (0, 0, false);
        self.output.clear();
    }

    /// Where what comes goes. There is always some, unless the connection ends.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.input[self.came..]
    }

    /// Bytes came into [`Connection::room`]; 0 if no more will come. Then what came last counts as
    /// a line.
    pub fn received(&mut self, bytes: usize) {
        self.came += bytes;
        if bytes == 0 {
            self.ends = true;
        }
    }

    /// Answers the next line with `answer`, if one came and the last response has left. Whether it
    /// did.
    pub fn answer(
        &mut self,
        answer: impl FnOnce(Request, &mut Vec<u8>) -> Result<(), Refusal>,
    ) -> bool {
        if !self.to_send().is_empty() || self.came == 0 {
            return false;
        }
        self.output.clear();
        self.left = 0;
        let came = &self.input[..self.came];
        let end = match came.iter().position(|&byte| byte == b'\n') {
            Some(newline) => newline + 1,
            None if self.ends => self.came,
            None if self.came == LINE_BYTES => {
                let text = format!("a request has at most {LINE_BYTES} bytes");
                refuse(&mut self.output, &Refusal { errno: libc::E2BIG, text });
                (self.came, self.ends) = (0, true);
                return true;
            }
            None => return false,
        };
        let result = Request::parse(&came[..end])
            .and_then(|request| answer(request, &mut self.output))
            .map_err(|refusal| {
                self.output.clear();
                refuse(&mut self.output, &refusal);
            });
        // The response says it.
        let _ = result;
        self.input.copy_within(end..self.came, 0);
        self.came -= end;
        true
    }

    /// What has to be sent.
    pub fn to_send(&self) -> &[u8] {
        &self.output[self.left..]
    }

    /// So much of it was sent.
    pub fn sent(&mut self, bytes: usize) {
        self.left += bytes;
    }

    /// Whether everything is answered, has left, and no more comes.
    pub fn is_over(&self) -> bool {
        self.ends && self.came == 0 && self.to_send().is_empty()
    }
}

/// What a reader wants to know of the run besides numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// The policy's name.
    pub policy: String,
    /// What a domain is made of.
    pub domain: String,
    /// The CPUs of each domain, as the kernel lists them.
    pub cpus: Vec<String>,
    /// Its options, by their names.
    pub options: Json,
}

impl About {
    /// How many CPUs the domains have together.
    pub fn nr_cpus(&self) -> usize {
        let count = |list: &String| CpuSet::from_list(list).map_or(0, |cpus| cpus.len());
        self.cpus.iter().map(count).sum()
    }
}

/// The response to [`Request::Top`], and with `latencies` that to [`Request::Totals`].
pub struct Reply<'a> {
    /// Of the run.
    pub about: &'a About,
    /// The length of the interval.
    pub seconds: f64,
    /// The numbers.
    pub line: &'a Line,
    /// How long each domain thread ran, in microseconds.
    pub thread_us: &'a [u64],
    /// Their histograms since attach, for each domain.
    pub latencies: Option<&'a [Latencies<Snapshot>]>,
}

/// The field of the seconds.
const SECONDS: &str = "interval_seconds";
/// The field of a domain thread's run time.
const THREAD: &str = "thread_us";

/// The fields of a histogram.
#[derive(Clone, Copy)]
struct TimesFields {
    /// How many times were below each power of two of nanoseconds, and what is said of them.
    within: (&'static str, &'static str),
    /// The sum of all.
    sum: (&'static str, &'static str),
}

/// Of each latency.
const TIMES: Latencies<TimesFields> = Latencies {
    decision_us: TimesFields {
        within: (
            "decisions_within_ns",
            "decisions whose latency was below the key, in nanoseconds",
        ),
        sum: (
            "decisions_sum_ns",
            "the sum of these latencies, each rounded up by a quarter at most",
        ),
    },
    run_delay_us: TimesFields {
        within: (
            "run_delays_within_ns",
            "wake-ups after which the task ran within the key, in nanoseconds",
        ),
        sum: ("run_delays_sum_ns", "the sum of these delays, each rounded up by a quarter at most"),
    },
};

impl Serialize for Reply<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("scheduler", "manyland")?;
        map.serialize_entry("version", env!("CARGO_PKG_VERSION"))?;
        map.serialize_entry("policy", &self.about.policy)?;
        map.serialize_entry("domain", &self.about.domain)?;
        map.serialize_entry(SECONDS, &self.seconds)?;
        let mut result = Ok(());
        self.line.process.for_each(|name, value| {
            if result.is_ok() {
                result = map.serialize_entry(name, &value);
            }
        });
        result?;
        map.serialize_entry("domains", &DomainReplies(self))?;
        map.end()
    }
}

/// The part of a reply that is of the domains.
struct DomainReplies<'a>(&'a Reply<'a>);

impl Serialize for DomainReplies<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Reply { about, line, thread_us, latencies, .. } = self.0;
        serializer.collect_map(line.domains.iter().enumerate().map(|(at, domain)| {
            let cpus = about.cpus.get(at).map_or("", String::as_str);
            let latencies = latencies.and_then(|all| all.get(at));
            let thread_us = thread_us.get(at).copied().unwrap_or(0);
            (domain.id, DomainReply { cpus, thread_us, statistics: &domain.statistics, latencies })
        }))
    }
}

struct DomainReply<'a> {
    cpus: &'a str,
    thread_us: u64,
    statistics: &'a DomainStatistics,
    latencies: Option<&'a Latencies<Snapshot>>,
}

impl Serialize for DomainReply<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("cpus", self.cpus)?;
        map.serialize_entry(THREAD, &self.thread_us)?;
        let mut result = Ok(());
        self.statistics.for_each(|name, value| {
            let mut entry = |key: &str, value: Option<f64>| match value {
                // The script of the scx project knows no null.
                None => Ok(()),
                Some(value) => map.serialize_entry(key, &value),
            };
            if result.is_ok() {
                result = match value {
                    Value::Number(number) => map.serialize_entry(name, &number),
                    Value::Latency(of) => entry(&format!("{name}_p50"), of.p50)
                        .and_then(|()| entry(&format!("{name}_p99"), of.p99)),
                };
            }
        });
        result?;
        if let Some(latencies) = self.latencies {
            for (fields, times) in TIMES.zip(latencies).into_array() {
                map.serialize_entry(fields.sum.0, &times.sum_ns())?;
                map.serialize_entry(fields.within.0, &Within(times))?;
            }
        }
        map.end()
    }
}

/// How many latencies are shorter than each power of two, and how many there are.
struct Within<'a>(&'a Snapshot);

impl Serialize for Within<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bounded = POWERS.map(|power| (1u64 << power, self.0.below_power(power)));
        serializer.collect_map(bounded.chain([(u64::MAX, self.0.below_power(u64::BITS))]))
    }
}

/// The response to [`Request::Meta`].
pub fn meta() -> Json {
    let text = |desc: &str| json!({ "datum": "string", "desc": desc });
    let domains = |of: &str| {
        let dict = json!({ "key": "u64", "datum": { "struct": of } });
        json!({ "dict": dict, "desc": "each domain, by its number" })
    };
    let top = |interval: &str, of: &str| {
        let mut fields = fields(Scope::Process);
        fields.insert("scheduler".into(), text("the scheduler's name"));
        fields.insert("version".into(), text("its version"));
        fields.insert("policy".into(), text("the name of its policy"));
        fields.insert("domain".into(), text("what a domain is made of (--domain)"));
        fields.insert(SECONDS.into(), json!({ "datum": "float", "desc": interval }));
        fields.insert("domains".into(), domains(of));
        fields
    };
    let mut domain = fields(Scope::Domain);
    domain.insert("cpus".into(), text("the domain's CPUs"));
    let desc = "microseconds that the domain thread ran";
    domain.insert(THREAD.into(), json!({ "datum": "u64", "desc": desc }));
    let mut domain_totals = domain.clone();
    let within = json!({ "key": "u64", "datum": "u64" });
    for TimesFields { within: (name, desc), sum } in TIMES.into_array() {
        domain_totals.insert(sum.0.into(), json!({ "datum": "u64", "desc": sum.1 }));
        domain_totals.insert(name.into(), json!({ "dict": within, "desc": desc }));
    }
    // `_om_prefix` and `_om_label` are for the OpenMetrics script of the scx project.
    json!({
        TOP: {
            "name": TOP, "top": "true", "desc": "since this connection's last response",
            "user": { "_om_prefix": "manyland_" },
            "fields": top("seconds that the counters are of", DOMAIN),
        },
        DOMAIN: {
            "name": DOMAIN, "desc": "a domain",
            "user": { "_om_prefix": "manyland_domain_", "_om_label": "domain" },
            "fields": domain,
        },
        TOTALS: {
            "name": TOTALS, "desc": "since the scheduler attached (target: totals)",
            "fields": top("seconds since the scheduler attached", DOMAIN_TOTALS),
        },
        DOMAIN_TOTALS: { "name": DOMAIN_TOTALS, "desc": "a domain", "fields": domain_totals },
    })
}

/// The fields that the statistics of a scope have in a reply.
fn fields(scope: Scope) -> Map<String, Json> {
    let mut fields = Map::new();
    for Statistic { name, meaning, kind, .. } in STATISTICS.iter().filter(|it| it.scope == scope) {
        let mut insert = |name: String, datum: &str, desc: String| {
            fields.insert(name, json!({ "datum": datum, "desc": desc }))
        };
        match kind {
            Kind::Counter | Kind::Gauge => {
                insert((*name).to_owned(), "u64", (*meaning).to_owned());
            }
            Kind::Latency => {
                insert(format!("{name}_p50"), "float", format!("half are not longer: {meaning}"));
                insert(format!("{name}_p99"), "float", format!("99 % are not longer: {meaning}"));
            }
        }
    }
    fields
}

/// A histogram as a reader gets it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// How many times were below how many nanoseconds; below [`u64::MAX`] all were.
    pub within: BTreeMap<u64, u64>,
    /// The sum of all in nanoseconds, each rounded up by a quarter at most.
    pub sum_ns: u64,
}

impl Times {
    /// Parses its fields; `None` if they are not there.
    fn parse(from: &mut Map<String, Json>, fields: &TimesFields) -> Option<Times> {
        let within = serde_json::from_value(from.remove(fields.within.0)?).ok()?;
        Some(Times { within, sum_ns: from.get(fields.sum.0)?.as_u64()? })
    }

    /// How many were below a power of two of nanoseconds, or [`u64::MAX`]; 0 if that is not known.
    pub fn below(&self, ns: u64) -> u64 {
        self.within.get(&ns).copied().unwrap_or(0)
    }
}

/// A reply as a reader gets it.
#[derive(Debug)]
pub struct Received {
    /// The scheduler's version.
    pub version: String,
    /// Of the run.
    pub about: About,
    /// The length of the interval.
    pub seconds: f64,
    /// The numbers.
    pub line: Line,
    /// How long each domain thread ran, in microseconds.
    pub thread_us: Vec<u64>,
    /// The histograms of each domain; empty unless the totals were asked for.
    pub times: Vec<Latencies<Times>>,
}

/// Parses a response line to what it answers.
///
/// # Errors
/// If the request was refused, or the line is no response.
pub fn parse_response(line: &str) -> Result<Json> {
    #[derive(Deserialize)]
    struct Form {
        errno: i32,
        args: BTreeMap<String, Json>,
    }
    let mut form: Form = serde_json::from_str(line).context("not a response of a scheduler")?;
    let resp = form.args.remove("resp").unwrap_or_default();
    match form.errno {
        0 => Ok(resp),
        errno => bail!("the scheduler refuses: {} (errno {errno})", resp.as_str().unwrap_or("")),
    }
}

impl Received {
    /// Parses the answer to [`Request::Top`] or [`Request::Totals`].
    ///
    /// # Errors
    /// If it is the answer of another scheduler, or of another version of this one.
    pub fn parse(answer: Json) -> Result<Received> {
        const OTHER: &str = "these are not the statistics of this version of scx_manyland";
        #[derive(Deserialize)]
        struct Form {
            scheduler: String,
            version: String,
            policy: String,
            domain: String,
            #[serde(rename = "interval_seconds")]
            seconds: f64,
            domains: BTreeMap<u32, Map<String, Json>>,
        }
        let process = serde_json::from_value(answer.clone()).context(OTHER)?;
        let form: Form = serde_json::from_value(answer).context(OTHER)?;
        let mut about = About { policy: form.policy, domain: form.domain, ..About::default() };
        if form.scheduler != "manyland" {
            bail!("{OTHER}");
        }
        let (mut domains, mut thread_us, mut times) = (Vec::new(), Vec::new(), Vec::new());
        for (id, mut fields) in form.domains {
            let cpus = fields.get("cpus").and_then(Json::as_str).context(OTHER)?;
            about.cpus.push(cpus.to_owned());
            thread_us.push(fields.get(THREAD).and_then(Json::as_u64).context(OTHER)?);
            if fields.contains_key(TIMES.decision_us.within.0) {
                let mut of = |latency| Times::parse(&mut fields, latency).context(OTHER);
                let decision_us = of(&TIMES.decision_us)?;
                times.push(Latencies { decision_us, run_delay_us: of(&TIMES.run_delay_us)? });
            }
            for it in STATISTICS.iter().filter(|it| it.kind == Kind::Latency) {
                let mut percentile =
                    |of| fields.remove(&format!("{}_{of}", it.name)).and_then(|it| it.as_f64());
                let value = Percentiles { p50: percentile("p50"), p99: percentile("p99") };
                fields.insert(it.name.to_owned(), serde_json::to_value(value)?);
            }
            let statistics = serde_json::from_value(Json::Object(fields)).context(OTHER)?;
            domains.push(DomainLine { id: DomainId(id), statistics });
        }
        let line = Line { domains, process, cgroups: None };
        let Form { version, seconds, .. } = form;
        Ok(Received { version, about, seconds, line, thread_us, times })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    /// What the clients of the scx project (1.1.x) send, byte for byte: `scx_stats` as a library
    /// (scxtop, `--monitor` of the schedulers) and the OpenMetrics script.
    const OF_SCX: [(&str, Request); 5] = [
        ("{\"req\":\"stats\",\"args\":{}}\n", Request::Top),
        ("{\"req\":\"stats_meta\",\"args\":{}}\n", Request::Meta),
        ("{\"req\":\"stats\",\"args\":{\"target\":\"top\"}}\n", Request::Top),
        ("{\"req\": \"stats_meta\", \"args\": {}}\n", Request::Meta),
        ("{\"req\": \"stats\", \"args\": {}}\n", Request::Top),
    ];

    fn snapshot(bucket: usize, count: u64) -> Snapshot {
        let counts = std::array::from_fn(|at| AtomicU64::new(if at == bucket { count } else { 0 }));
        let mut snapshot = Snapshot::empty();
        snapshot.copy_from(&counts);
        snapshot
    }

    /// Two domains, of which the second has decided nothing.
    fn line() -> Line {
        let decision_us = Percentiles { p50: Some(12.5), p99: Some(80.0) };
        let of = |id, decided, decision_us| {
            let statistics =
                DomainStatistics { decided, tasks: 3, decision_us, ..Default::default() };
            DomainLine { id: DomainId(id), statistics }
        };
        let mut line = Line {
            domains: vec![of(0, 1000, decision_us), of(1, 0, Percentiles::default())],
            process: Default::default(),
            cgroups: None,
        };
        line.process.rss_kib = 4711;
        line
    }

    fn about() -> About {
        let cpus = vec!["0-1".to_owned(), "2-3".to_owned()];
        About { policy: "vruntime".to_owned(), domain: "l3".to_owned(), cpus, options: Json::Null }
    }

    /// The same histogram for decisions and, with one more time in it, for run delays.
    fn latencies(bucket: usize, count: u64) -> Latencies<Snapshot> {
        let [decision_us, run_delay_us] = [count, count + 1].map(|it| snapshot(bucket, it));
        Latencies { decision_us, run_delay_us }
    }

    fn reply(latencies: Option<&[Latencies<Snapshot>]>) -> String {
        let mut output = Vec::new();
        let (about, line) = (about(), line());
        let thread_us = &[300, 4];
        let reply = Reply { about: &about, seconds: 2.5, line: &line, thread_us, latencies };
        respond(&mut output, 0, &reply);
        String::from_utf8(output).unwrap()
    }

    /// The lines that a connection answers to bytes that come in pieces.
    fn answers<'a, I: IntoIterator<Item = &'a [u8]>>(pieces: I) -> (Vec<String>, bool) {
        let (mut connection, mut answers) = (Connection::new(0), Vec::new());
        for mut piece in pieces {
            loop {
                let room = connection.room();
                let bytes = piece.len().min(room.len());
                room[..bytes].copy_from_slice(&piece[..bytes]);
                piece = &piece[bytes..];
                connection.received(bytes);
                while connection.answer(|request, output| {
                    respond(output, 0, &format!("{request:?}"));
                    Ok(())
                }) {
                    let text = String::from_utf8(connection.to_send().to_vec()).unwrap();
                    assert_eq!(text.matches('\n').count(), 1, "{text}");
                    connection.sent(text.len());
                    answers.push(text);
                }
                if piece.is_empty() || connection.ends {
                    break;
                }
            }
        }
        (answers, connection.is_over())
    }

    #[test]
    fn what_the_clients_of_scx_send_is_understood() {
        for (line, expected) in OF_SCX {
            assert_eq!(Request::parse(line.as_bytes()), Ok(expected), "{line}");
            let (answers, over) = answers([line.as_bytes()]);
            assert_eq!(
                answers,
                [format!("{{\"errno\":0,\"args\":{{\"resp\":\"{expected:?}\"}}}}\n")]
            );
            assert!(!over, "a connection is good for more than one request");
        }
    }

    #[test]
    fn requests_may_come_in_pieces_and_together() {
        let bytes = OF_SCX.map(|(line, _)| line).concat();
        let expected = OF_SCX.map(|(line, _)| answers([line.as_bytes()]).0.concat());
        assert_eq!(answers(bytes.as_bytes().chunks(1)).0, expected);
        assert_eq!(answers([bytes.as_bytes()]).0, expected);
        let half = &OF_SCX[0].0.trim_end().as_bytes();
        assert_eq!(answers([*half]), (vec![], false));
        let (answered, over) = answers([*half, b""]);
        assert_eq!((answered.len(), over), (1, true), "the end of the input ends a line");
    }

    #[test]
    fn what_is_no_request_is_refused_in_one_line() {
        for (line, word) in [
            ("\n", "EOF"),
            ("nonsense\n", "expected"),
            ("{\"req\":\"stats\"\n", "EOF"),
            ("{\"req\":\"reboot\"}\n", "reboot"),
            ("{\"req\":\"stats\",\"args\":{\"target\":\"moon\"}}\n", "moon"),
            ("{\"req\":\"stats\",\"args\":{\"target\":1}}\n", "string"),
            ("[[[[[[\n", "request"),
            ("\u{0}\u{1}\n", "expected"),
        ] {
            let (answers, over) = answers([line.as_bytes()]);
            let error = parse_response(&answers[0]).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("errno 22"), "{line:?}: {error}");
            assert!(!over && answers.len() == 1);
        }
        assert!(Request::parse(b"\xff\xfe{}\n").is_err());
    }

    #[test]
    fn a_megabyte_without_a_newline_is_refused_and_ends_the_connection() {
        let (answers, over) = answers([&[b'x'; 1 << 20][..]]);
        assert_eq!(answers.len(), 1);
        let error = parse_response(&answers[0]).unwrap_err().to_string();
        assert!(error.contains("4096 bytes") && over, "{error}");
    }

    #[test]
    fn nothing_is_read_before_the_last_response_has_left() {
        let mut connection = Connection::new(0);
        let two = [OF_SCX[0].0, OF_SCX[1].0].concat();
        connection.room()[..two.len()].copy_from_slice(two.as_bytes());
        connection.received(two.len());
        let yes = |request, output: &mut Vec<u8>| {
            respond(output, 0, &format!("{request:?}"));
            Ok(())
        };
        assert!(connection.answer(yes));
        let first = connection.to_send().len();
        connection.sent(first - 1);
        assert!(!connection.answer(yes), "the newline has not left");
        connection.sent(1);
        assert!(connection.answer(yes) && connection.to_send().len() >= first);
        connection.clear();
        assert!(!connection.answer(yes) && connection.to_send().is_empty());
    }

    #[test]
    fn an_answer_that_fails_is_refused() {
        let mut connection = Connection::new(0);
        let line = OF_SCX[0].0;
        connection.room()[..line.len()].copy_from_slice(line.as_bytes());
        connection.received(line.len());
        connection.answer(|_, output| {
            output.extend_from_slice(b"half");
            Err(Refusal::busy(16))
        });
        let text = String::from_utf8(connection.to_send().to_vec()).unwrap();
        assert!(parse_response(&text).unwrap_err().to_string().contains("16 readers"), "{text}");
    }

    #[test]
    fn a_reply_is_what_a_reader_makes_of_it() {
        let received = Received::parse(parse_response(&reply(None)).unwrap()).unwrap();
        assert_eq!((received.seconds, &received.about), (2.5, &about()));
        assert_eq!(received.version, env!("CARGO_PKG_VERSION"));
        assert!(received.times.is_empty() && received.thread_us == [300, 4]);
        let json = |line: &Line| serde_json::to_value(line).unwrap();
        assert_eq!(json(&received.line), json(&line()), "as --stats-format json prints it");
        let latencies = [latencies(40, 7), latencies(200, 9)];
        let totals = Received::parse(parse_response(&reply(Some(&latencies))).unwrap()).unwrap();
        let [first, second] = &totals.times[..] else { panic!("two domains") };
        for (times, count) in [(&first.decision_us, 7), (&first.run_delay_us, 8)] {
            // The bucket 40 ends at 1279 ns.
            assert_eq!(times.sum_ns, count * 1279);
            assert_eq!(times.within.len(), POWERS.count() + 1);
            // It begins at 2^10 ns.
            let below = [1024, 2048, u64::MAX].map(|ns| times.below(ns));
            assert_eq!(below, [0, count, count]);
        }
        assert_eq!(second.decision_us.below(1 << 31), 0);
        assert_eq!(second.decision_us.below(u64::MAX), 9);
    }

    #[test]
    fn another_schedulers_reply_is_told() {
        for answer in [json!({}), json!({ "at": 1.5, "nr_nodes": 2 }), json!(null)] {
            assert!(Received::parse(answer).unwrap_err().to_string().contains("statistics"));
        }
    }

    /// The rules of the OpenMetrics script: one top; numbers become gauges; the only nesting is a
    /// dict of structs, which have `_om_label`; a value that is a dict has dicts in it; no null.
    #[test]
    fn a_reply_follows_the_rules_of_the_openmetrics_script() {
        let meta = meta();
        let meta = meta.as_object().unwrap();
        let tops: Vec<_> = meta.iter().filter(|(_, it)| it.get("top").is_some()).collect();
        let [(_, top)] = tops[..] else { panic!("{} are the top", tops.len()) };
        assert_eq!(top["top"], "true");
        let answer = parse_response(&reply(None)).unwrap();
        let mut names = Vec::new();
        follows(meta, top, &answer, &mut names);
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "a gauge has one name");
        assert!(names.contains(&"manyland_domain_decided".to_owned()), "{names:?}");
        assert!(names.contains(&"manyland_domain_decision_us_p99".to_owned()), "{names:?}");
        // The structs that are no part of the top are as true.
        let latencies = [latencies(40, 7), latencies(40, 9)];
        let totals = parse_response(&reply(Some(&latencies))).unwrap();
        follows(meta, &meta[TOTALS], &totals, &mut Vec::new());
    }

    /// Holds an answer to a struct of the meta data, and notes the names of its gauges.
    fn follows(meta: &Map<String, Json>, of: &Json, answer: &Json, names: &mut Vec<String>) {
        let prefix = of["user"]["_om_prefix"].as_str().unwrap_or_default();
        let fields = of["fields"].as_object().unwrap();
        for name in answer.as_object().unwrap().keys() {
            assert!(fields.contains_key(name), "{name} has no meaning");
        }
        for (name, field) in fields {
            assert!(!field["desc"].as_str().unwrap().is_empty());
            let Some(value) = answer.get(name) else {
                assert!(name.contains("_p"), "{name} is missing");
                continue;
            };
            match (field["datum"].as_str(), &field["dict"]) {
                (Some("u64"), _) => assert!(value.is_u64(), "{name}: {value}"),
                (Some("float"), _) => assert!(value.is_f64(), "{name}: {value}"),
                (Some("string"), _) => assert!(value.is_string(), "{name}: {value}"),
                (None, dict) => {
                    for (key, value) in value.as_object().unwrap() {
                        key.parse::<u64>().unwrap();
                        match dict["datum"]["struct"].as_str() {
                            Some(inner) => follows(meta, &meta[inner], value, &mut Vec::new()),
                            None => assert!(value.is_u64()),
                        }
                    }
                    if let Some(inner) = dict["datum"]["struct"].as_str() {
                        let inner = &meta[inner];
                        if of.get("top").is_some() {
                            assert_eq!(inner["user"]["_om_label"], "domain");
                        }
                        let some = value.as_object().unwrap().values().next().unwrap();
                        follows(meta, inner, some, names);
                    }
                    continue;
                }
                other => panic!("{name}: {other:?}"),
            }
            if field["datum"] != "string" {
                names.push(format!("{prefix}{name}"));
            }
        }
    }
}
