//! Shows domains as text, for people, and as JSON, for programs.
//!
//! Invariant: text has one line for each domain after its heading; JSON is one line.

use super::{Domain, Domains, Granularity, Kind, Topology};
use crate::cpuset::CpuSet;
use crate::ids::DomainId;
use serde::Serialize;

/// How many of the nearest domains a line of text names.
const NEAREST_SHOWN: usize = 4;

#[derive(Serialize)]
struct DomainsAsJson<'a> {
    granularity: Granularity,
    cpus: usize,
    domains: Vec<DomainAsJson<'a>>,
}

#[derive(Serialize)]
struct DomainAsJson<'a> {
    id: DomainId,
    cpus: &'a CpuSet,
    numa_node: Option<u32>,
    kinds: &'a [Kind],
    nearest: &'a [DomainId],
}

impl Domains {
    /// The domains as one JSON object on one line, without a line feed.
    pub fn to_json(&self) -> String {
        let json = DomainsAsJson {
            granularity: self.granularity(),
            cpus: self.iter().map(|domain| domain.cpus.len()).sum(),
            domains: self.iter().map(DomainAsJson::from).collect(),
        };
        serde_json::to_string(&json).expect("numbers, strings and lists always have a JSON form")
    }
}

impl<'a> From<&'a Domain> for DomainAsJson<'a> {
    fn from(domain: &'a Domain) -> Self {
        DomainAsJson {
            id: domain.id,
            cpus: &domain.cpus,
            numa_node: domain.numa_node,
            kinds: &domain.kinds,
            nearest: &domain.nearest,
        }
    }
}

impl Topology {
    /// The machine and its domains as a map for people: a line about the machine, a heading, and
    /// a line for each domain. Ends with a line feed.
    pub fn map(&self, domains: &Domains) -> String {
        let mut rows = vec![heading(self)];
        rows.extend(domains.iter().map(|domain| row(self, domain)));
        format!("{}\n{}", self.summary(domains), table(&rows))
    }

    fn summary(&self, domains: &Domains) -> String {
        let granularity = domains.granularity();
        let cores = domains.iter().map(|domain| domain.cores.len()).sum();
        let mut parts = vec![
            count(self.cpus().len(), "CPU"),
            count(cores, "core"),
            count(self.packages().len(), "package"),
            count(self.numa_nodes().len(), "NUMA node"),
            count(self.l3_caches().len(), "L3 cache"),
        ];
        if self.kinds().len() > 1 {
            parts.push(count(self.kinds().len(), "kind of core"));
        }
        let mut line =
            format!("{}: {} by {granularity}", parts.join(", "), count(domains.len(), "domain"));
        let finer = finer_levels(domains);
        if !finer.is_empty() {
            let wanted = match granularity {
                Granularity::Kind => Granularity::L3,
                other => other,
            };
            line += &format!(" (for CPUs without {wanted}: {})", finer.join(", "));
        }
        line
    }
}

/// How many domains are of a finer level than asked for, as in `2 by l2`.
fn finer_levels(domains: &Domains) -> Vec<String> {
    std::iter::successors(domains.granularity().finer(), |level| level.finer())
        .map(|level| (level, domains.iter().filter(|domain| domain.level == level).count()))
        .filter(|&(_, count)| count > 0)
        .map(|(level, count)| format!("{count} by {level}"))
        .collect()
}

fn count(n: usize, what: &str) -> String {
    match (n, what.split_once(' ')) {
        (1, _) => format!("1 {what}"),
        (_, Some(("kind", rest))) => format!("{n} kinds {rest}"),
        _ => format!("{n} {what}s"),
    }
}

fn heading(topology: &Topology) -> Vec<String> {
    let mut cells = ["domain", "CPUs", "count", "cores", "node"].map(str::to_string).to_vec();
    if topology.kinds().len() > 1 {
        cells.push("kinds, fastest first".to_string());
    }
    cells.push("nearest".to_string());
    cells
}

fn row(topology: &Topology, domain: &Domain) -> Vec<String> {
    let mut cells = vec![
        domain.id.to_string(),
        domain.cpus.to_string(),
        domain.cpus.len().to_string(),
        domain.cores.len().to_string(),
        domain.numa_node.map_or("-".to_string(), |node| node.to_string()),
    ];
    if topology.kinds().len() > 1 {
        let kind = |kind: &Kind| format!("rank {}: {}", kind.rank, kind.cpus);
        cells.push(domain.kinds.iter().map(kind).collect::<Vec<_>>().join("; "));
    }
    let shown = domain.nearest.iter().take(NEAREST_SHOWN).map(DomainId::to_string);
    let more = (domain.nearest.len() > NEAREST_SHOWN).then(|| "...".to_string());
    let nearest = shown.chain(more).collect::<Vec<_>>().join(" ");
    cells.push(if nearest.is_empty() { "-".to_string() } else { nearest });
    cells
}

/// Aligns columns, the numbers to the right.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths = (0..columns).map(width).collect::<Vec<_>>();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().enumerate().map(|(column, cell)| match column {
            0 | 2..=4 => format!("{cell:>0$}", widths[column]),
            _ => format!("{cell:<0$}", widths[column]),
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use crate::topology::{Granularity, Source, Topology};

    fn load(description: &str) -> Topology {
        Topology::load(&Source::Synthetic(description.to_string())).unwrap()
    }

    #[test]
    fn json_has_exactly_the_promised_shape() {
        let machine = load("L3Cache:2 Core:2 PU:2");
        assert_eq!(
            machine.partition(Granularity::L3).unwrap().to_json(),
            r#"{"granularity":"l3","cpus":8,"domains":["#.to_string()
                + r#"{"id":0,"cpus":[0,1,2,3],"numa_node":0,"kinds":[{"rank":0,"cpus":[0,1,2,3]}],"#
                + r#""nearest":[1]},"#
                + r#"{"id":1,"cpus":[4,5,6,7],"numa_node":0,"kinds":[{"rank":0,"cpus":[4,5,6,7]}],"#
                + r#""nearest":[0]}]}"#
        );
        let across = load("NUMANode:2 Core:2 PU:1").partition(Granularity::Machine).unwrap();
        assert!(across.to_json().contains(r#""numa_node":null"#));
    }

    #[test]
    fn text_is_an_aligned_table_under_a_line_about_the_machine() {
        let machine = load("Package:2 NUMANode:1 L3Cache:3 Core:2 PU:2");
        let map = machine.map(&machine.partition(Granularity::L3).unwrap());
        let expected = "\
24 CPUs, 12 cores, 2 packages, 2 NUMA nodes, 6 L3 caches: 6 domains by l3
domain  CPUs   count  cores  node  nearest
     0  0-3        4      2     0  1 2 3 4 ...
     1  4-7        4      2     0  0 2 3 4 ...
     2  8-11       4      2     0  0 1 3 4 ...
     3  12-15      4      2     1  4 5 0 1 ...
     4  16-19      4      2     1  3 5 0 1 ...
     5  20-23      4      2     1  3 4 0 1 ...
";
        assert_eq!(map, expected);
    }

    #[test]
    fn text_says_which_domains_are_finer_than_asked_for() {
        let machine = load("Package:1 L2Cache:2 Core:2 PU:1");
        let map = machine.map(&machine.partition(Granularity::Kind).unwrap());
        let line = map.lines().next().unwrap();
        assert!(line.ends_with("2 domains by kind (for CPUs without l3: 2 by l2)"), "{line}");
    }
}
