//! What a wake-up costs in the kernel's side, in instructions by function, on machines of several
//! sizes: `make count`.
//!
//!     count_wakeups [LEAST]
//!
//! Functions that never need LEAST instructions are summed up.
//!
//! Each kind of wake-up happens once in the simulator, which runs bpf/ natively, under callgrind.
//! Counted are the lines of bpf/ and what the shim inlines there. What the simulator's model of the
//! kernel does is not in the figures; its functions are listed by how often they are called.
//!
//! Invariant: the same build prints the same bytes.

mod callgrind;
mod kinds;
mod source;

use anyhow::{Context, Result, bail, ensure};
use callgrind::Profile;
use kinds::{Kind, MACHINES};
use source::{Functions, kernel_names};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const USAGE: &str = "usage: count_wakeups [LEAST]";
/// What callgrind counts within: the function of `src/simulator/mod.rs`.
const WITHIN: &str = "scx_manyland::simulator::go_on_counted*";
/// The kernel's functions as far as they are inlined.
const SHIM: &str = "src/simulator/shim/scx/common.bpf.h";

/// A row of a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    /// Its place: that of the file, and in the file.
    place: (usize, usize),
    name: String,
    file: String,
}

/// What one wake-up costs.
#[derive(Default)]
struct Cost {
    /// Instructions by function of bpf/.
    functions: BTreeMap<Row, u64>,
    /// Those of the shim's inlined functions.
    inlined: BTreeMap<Row, u64>,
    /// Calls of the kernel's functions.
    calls: BTreeMap<Row, u64>,
}

/// The source that lines are looked up in.
struct Source {
    root: PathBuf,
    /// The files of bpf/ in the sequence in which they are included, then the shim.
    files: Vec<(String, Functions)>,
    kernel_names: BTreeMap<String, String>,
}

impl Source {
    fn load() -> Result<Source> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
        let read = |file: &str| {
            let path = root.join(file);
            std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))
        };
        let main = read("bpf/main.bpf.c")?;
        let included = main.lines().filter_map(|line| line.strip_prefix("#include \""));
        let names = included.map(|name| format!("bpf/{}", name.trim_end_matches('"')));
        let files = names
            .chain(["bpf/main.bpf.c".to_owned(), SHIM.to_owned()])
            .map(|name| Ok((name.clone(), Functions::of(&read(&name)?))))
            .collect::<Result<_>>()?;
        let kernel_names = kernel_names(&read(SHIM)?);
        Ok(Source { root, files, kernel_names })
    }

    /// The place of a file among those of bpf/ and the shim.
    fn place(&self, file: &str) -> Option<usize> {
        let file = Path::new(file).strip_prefix(&self.root).ok()?;
        self.files.iter().position(|(name, _)| Path::new(name) == file)
    }

    /// The row of a line, if it is one of bpf/ or of the shim.
    fn row(&self, line: &callgrind::Line<'_>) -> Option<Row> {
        let file = self.place(line.file)?;
        let named = self.files[file].1.at(line.line);
        // Of some instructions the compiler only knows in which function they end up.
        let (file, (place, name)) = match named {
            Some(named) => (file, named),
            None => self.files.iter().enumerate().find_map(|(file, (_, functions))| {
                Some((file, (functions.place(line.function)?, line.function)))
            })?,
        };
        let (path, name) = (self.files[file].0.clone(), name.to_owned());
        Some(Row { place: (file, place), name, file: path })
    }

    fn cost(&self, profile: &Profile<'_>) -> Result<Cost> {
        let mut cost = Cost::default();
        for line in &profile.lines {
            let Some(row) = self.row(line) else {
                ensure!(
                    self.place(line.file).is_none(),
                    "{}:{} belongs to no function",
                    line.file,
                    line.line
                );
                continue;
            };
            let rows = if row.file == SHIM { &mut cost.inlined } else { &mut cost.functions };
            *rows.entry(row).or_insert(0) += line.instructions;
        }
        for calls in profile.calls.iter().filter(|calls| calls.callee.starts_with("sim_")) {
            let Some(name) = self.kernel_names.get(calls.callee) else { continue };
            let row = Row { place: (0, 0), name: name.clone(), file: String::new() };
            *cost.calls.entry(row).or_insert(0) += calls.count;
        }
        Ok(cost)
    }
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => print(0),
        [least] => print(least.parse().context(USAGE)?),
        ["happen", kind, domains] => {
            let kind: usize = kind.parse()?;
            Kind::ALL.get(kind).context("no such kind")?.happen(domains.parse()?)
        }
        _ => bail!(USAGE),
    }
}

/// The costs of a kind, on each machine.
fn costs_of(number: usize, source: &Source) -> Result<Vec<Cost>> {
    let costs = MACHINES.iter().map(|domains| {
        let args = ["happen".to_owned(), number.to_string(), domains.to_string()];
        let text = callgrind::run(&args, WITHIN)?;
        source.cost(&Profile::read(&text)?)
    });
    costs.collect()
}

fn print(least: u64) -> Result<()> {
    let source = Source::load()?;
    let costs: Vec<Vec<Cost>> =
        (0..Kind::ALL.len()).map(|kind| costs_of(kind, &source)).collect::<Result<_>>()?;
    let machines = MACHINES.map(|domains| domains.to_string()).join(" / ");
    println!("Instructions; where the machine matters, with {machines} domains.\n");
    print_table(&[
        Part { rows: part(&costs, |cost| &cost.functions), least, sum: Some("all of bpf/") },
        Part { rows: part(&costs, |cost| &cost.inlined), least: 0, sum: None },
    ]);
    println!("\nCalls of the kernel.\n");
    print_table(&[Part { rows: part(&costs, |cost| &cost.calls), least: 0, sum: Some("all") }]);
    Ok(())
}

/// The figures of a row: of each kind, on each machine.
type Figures = Vec<Vec<u64>>;

/// A part of a table.
struct Part {
    rows: Vec<(String, Figures)>,
    /// Rows without a figure as large as this are summed up.
    least: u64,
    /// The name of the row with the sum of all.
    sum: Option<&'static str>,
}

fn part(costs: &[Vec<Cost>], of: impl Fn(&Cost) -> &BTreeMap<Row, u64>) -> Vec<(String, Figures)> {
    let rows: BTreeSet<&Row> = costs.iter().flatten().flat_map(|cost| of(cost).keys()).collect();
    let figures = |row: &Row| -> Figures {
        let figure = |cost| of(cost).get(row).copied().unwrap_or(0);
        costs.iter().map(|kind| kind.iter().map(figure).collect()).collect()
    };
    rows.into_iter().map(|row| (row.name.clone(), figures(row))).collect()
}

fn sum(rows: &[(String, Figures)]) -> Figures {
    let mut sum = vec![vec![0; MACHINES.len()]; Kind::ALL.len()];
    for (_, figures) in rows {
        for (sum, figures) in sum.iter_mut().zip(figures) {
            sum.iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure);
        }
    }
    sum
}

fn print_table(parts: &[Part]) {
    println!("| function | {} |", Kind::ALL.map(Kind::name).join(" | "));
    println!("|---|{}", "---|".repeat(Kind::ALL.len()));
    for part in parts {
        let is_large = |(_, figures): &&(String, Figures)| {
            figures.iter().flatten().any(|&figure| figure >= part.least)
        };
        let (large, small): (Vec<_>, Vec<_>) = part.rows.iter().partition(is_large);
        for (name, figures) in large {
            print_row(&format!("`{name}`"), figures);
        }
        if !small.is_empty() {
            let small: Vec<_> = small.into_iter().cloned().collect();
            print_row(&format!("{} others", small.len()), &sum(&small));
        }
        if let Some(name) = part.sum {
            print_row(&format!("**{name}**"), &sum(&part.rows));
        }
    }
}

/// Prints a row: in each cell the figures of all machines, or one if they are the same.
fn print_row(name: &str, figures: &Figures) {
    let cell = |figures: &Vec<u64>| match figures[..] {
        [first, ..] if figures.iter().all(|&figure| figure == first) => match first {
            0 => String::new(),
            _ => first.to_string(),
        },
        _ => figures.iter().map(u64::to_string).collect::<Vec<_>>().join(" / "),
    };
    println!("| {name} | {} |", figures.iter().map(cell).collect::<Vec<_>>().join(" | "));
}
