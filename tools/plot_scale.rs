//! How far one domain thread goes, and how far one for each L3: `make plot-scale`.
//!
//!     plot_scale FILE.svg [TOPOLOGY.xml]
//!
//! Simulates machines of 16 to 1,024 CPUs under tasks that all want a short turn again and again,
//! draws the decisions that were carried out and how busy the busiest thread was, and prints the
//! figures; for the machine in an XML file (as `lstopo` writes it) as well, if there is one.

use anyhow::{Context, Result};
use plotters::prelude::*;
use scx_manyland::Builder;
use scx_manyland::policy::kind::PolicyKind;
use scx_manyland::simulator::report::Report;
use scx_manyland::simulator::workload::Workload;
use scx_manyland::simulator::{Setup, simulate};
use scx_manyland::topology::{Granularity, Source, Topology};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// L3s of 8 cores with two threads each, as in today's large servers.
const CPUS_PER_L3: usize = 16;
/// The machines, in L3s. From two on they are on two packages.
const L3S: [usize; 9] = [1, 2, 4, 8, 16, 24, 32, 48, 64];
/// Tasks for each CPU.
const TASKS: usize = 3;
/// How long each runs before it sleeps as long (microseconds).
const TURN_US: u64 = 50;
/// Virtual time.
const LENGTH: Duration = Duration::from_millis(60);

const GRANULARITIES: [(Granularity, &str, RGBColor); 2] = [
    (Granularity::Machine, "one thread for the machine", RGBColor(200, 60, 40)),
    (Granularity::L3, "one thread for each L3", RGBColor(30, 100, 190)),
];

struct Point {
    cpus: usize,
    decided_m: f64,
    busy_percent: f64,
}

fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let file = args.next().context("usage: plot_scale FILE.svg [TOPOLOGY.xml]")?;
    println!(
        "| CPUs | domains | decisions/s | undecided | thread busy | run delay p50, p99 (us) | CPUs busy |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut lines = Vec::new();
    for (granularity, ..) in GRANULARITIES {
        let points: Result<Vec<_>> = L3S
            .iter()
            .map(|&l3s| {
                let packages = if l3s > 1 { 2 } else { 1 };
                let machine = format!("Package:{packages} L3Cache:{} Core:8 PU:2", l3s / packages);
                measure(&Topology::load(&Source::Synthetic(machine))?, granularity)
            })
            .collect();
        lines.push(points?);
    }
    if let Some(path) = args.next() {
        println!("| {} | | | | | | |", path.file_stem().unwrap_or_default().to_string_lossy());
        let machine = Topology::load(&Source::XmlFile(path))?;
        for (granularity, ..) in GRANULARITIES {
            measure(&machine, granularity)?;
        }
    }
    draw(&file, &lines).with_context(|| format!("cannot draw {}", file.display()))
}

fn measure(machine: &Topology, granularity: Granularity) -> Result<Point> {
    let cpus = machine.cpus().len();
    let tasks = format!(
        "{{\"tasks\": {{\"turn\": {{\"instance\": {}, \"run\": {TURN_US}, \"sleep\": {TURN_US}}}}}}}",
        TASKS * cpus
    );
    let mut setup = Setup {
        // Each wake-up decided anew: the question is how much of that a thread can do.
        scheduler: Builder::from(PolicyKind::default()).with(|options| {
            options.domain = granularity;
            options.standing = 0;
        }),
        length: Some(LENGTH),
        ..Setup::default()
    };
    // All are there from the start.
    setup.costs.set("fork=200")?;
    let report = simulate(machine, &Workload::parse(&tasks)?, &setup, None)?;
    let point = Point {
        cpus,
        decided_m: report.decided() as f64 / report.seconds / 1e6,
        busy_percent: 100.0 * busiest(&report),
    };
    let late = report.late() as f64 / (report.decided() + report.late()).max(1) as f64;
    let delay = &report.groups[0].run_delay_us;
    println!(
        "| {cpus} | {} | {:.2} million | {:.2} % | {:.0} % | {:.0}, {:.0} | {:.1} % |",
        report.domains.len(),
        point.decided_m,
        100.0 * late,
        point.busy_percent,
        delay.p50,
        delay.p99,
        100.0 * report.busy
    );
    Ok(point)
}

fn busiest(report: &Report) -> f64 {
    report.domains.iter().map(|domain| domain.thread_busy).fold(0.0, f64::max)
}

fn draw(file: &Path, lines: &[Vec<Point>]) -> Result<()> {
    let area = SVGBackend::new(file, (1000, 420)).into_drawing_area();
    area.fill(&WHITE)?;
    let halves = area.split_evenly((1, 2));
    let decided = |point: &Point| point.decided_m;
    let busy = |point: &Point| point.busy_percent;
    chart(&halves[0], lines, "decisions carried out (million/s)", decided)?;
    chart(&halves[1], lines, "CPU time of the busiest domain thread (%)", busy)?;
    area.present()?;
    Ok(())
}

fn chart(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    lines: &[Vec<Point>],
    title: &str,
    value: impl Fn(&Point) -> f64,
) -> Result<()> {
    let all = || lines.iter().flatten();
    let most = all().map(&value).fold(0.0, f64::max);
    let widest = all().map(|point| point.cpus).max().unwrap_or(CPUS_PER_L3);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(44)
        .build_cartesian_2d(0..widest, 0.0..1.08 * most)?;
    chart.configure_mesh().x_desc("CPUs").light_line_style(WHITE.mix(0.0)).draw()?;
    for (points, (_, label, colour)) in lines.iter().zip(GRANULARITIES) {
        let at = |point: &Point| (point.cpus, value(point));
        chart
            .draw_series(LineSeries::new(points.iter().map(at), colour.stroke_width(2)))?
            .label(label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(points.iter().map(|point| Circle::new(at(point), 3, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}
