//! The results as tables for people: one for each workload, or one of the most important figures.

use super::reading::Better;
use super::results::{Entry, Figure, Results};
use std::fmt::Write;

/// The whole output: the head, a table for each workload, and how to read it.
pub fn text(results: &Results) -> String {
    let mut text = String::new();
    for (title, line) in results.machine.lines() {
        let _ = writeln!(text, "{title:<14} {line}");
    }
    let seconds = results.duration.as_secs_f64();
    let _ = writeln!(text, "{:<14} {} rounds, {seconds} s a run", "runs", results.rounds);
    for (number, workload) in results.workloads.iter().enumerate() {
        let figures = results.figures_of(number);
        if !figures.is_empty() {
            let _ = writeln!(text, "\n{}: {}", workload.name, workload.description);
            write_table(&mut text, results, &figures);
        }
    }
    for note in notes(results) {
        let _ = writeln!(text, "\n{note}");
    }
    text
}

/// One table of the most important figures of all workloads, a column for each contender.
pub fn brief(results: &Results) -> String {
    let rows: Vec<_> =
        (0..results.workloads.len()).flat_map(|workload| brief_rows(results, workload)).collect();
    let columns = (0..results.contenders.len()).map(|contender| {
        let head = vec![results.contenders[contender].name.clone(), String::new()];
        let cells = rows.iter().map(|row| row.cells[contender].clone()).collect();
        column(head, cells)
    });
    let labels = rows.iter().map(|row| vec![row.label.clone()]).collect();
    let directions = rows.iter().map(|row| vec![row.direction.to_owned()]).collect();
    let columns: Vec<_> = std::iter::once(column(vec![String::new()], labels))
        .chain(columns)
        .chain([column(vec!["good is".to_owned()], directions)])
        .collect();
    let mut text = String::new();
    for line in 0..=rows.len() {
        let cells: Vec<_> = columns.iter().map(|column| column[line].as_str()).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    let _ = writeln!(text, "{}", brief_notes(results));
    text
}

/// A row of the table of the most important figures.
struct Row {
    label: String,
    /// Of each contender: median and spread, and the ratio.
    cells: Vec<Vec<String>>,
    direction: &'static str,
}

fn brief_rows(results: &Results, workload: usize) -> Vec<Row> {
    let of = &results.workloads[workload];
    let figures = results.figures_of(workload);
    let important = figures.iter().filter(|it| of.headlines.contains(&it.name.as_str()));
    let row = |figure: &Figure| Row {
        label: format!("{}: {}", of.name, label(figure)),
        cells: (0..results.contenders.len()).map(|it| brief_cells(figure, it)).collect(),
        direction: match figure.better {
            Better::Higher => "more",
            Better::Lower => "less",
            Better::Neither => "",
        },
    };
    important.map(row).collect()
}

fn brief_cells(figure: &Figure, contender: usize) -> Vec<String> {
    let entry = figure.entries.iter().find(|entry| entry.contender == contender);
    let Some(entry) = entry else { return vec!["-".to_owned(), String::new()] };
    let median = format!("{} ({})", number_of(entry.summary.median), spread(entry));
    vec![median, entry.ratio.map_or(String::new(), |ratio| format!("x {ratio:.2}"))]
}

/// The lines of a column of the same width; its cells have the same number of parts.
fn column(head: Vec<String>, cells: Vec<Vec<String>>) -> Vec<String> {
    let parts = head.len();
    let lines: Vec<_> = std::iter::once(head).chain(cells).collect();
    let width = |part: usize| lines.iter().map(|line| line[part].len()).max().unwrap_or(0);
    let widths: Vec<_> = (0..parts).map(width).collect();
    let padded = |line: &Vec<String>| {
        let cells = line.iter().zip(&widths).filter(|(_, width)| **width > 0);
        cells.map(|(cell, width)| format!("{cell:<width$}")).collect::<Vec<_>>().join("  ")
    };
    lines.iter().map(padded).collect()
}

fn brief_notes(results: &Results) -> String {
    let mut text = format!(
        "Medians of {} rounds (least .. most); x: the ratio to the kernel's own scheduler.",
        results.rounds
    );
    for (name, least) in results.least_decided() {
        let _ = write!(
            text,
            "\n{name}: {least:.1} % or more of the tasks without an idle CPU ran by a decision."
        );
    }
    let failed = results.failures.iter().map(|failure| results.failure(failure));
    let interrupted = results.interrupted.then(|| INTERRUPTED.to_owned());
    for line in failed.chain(interrupted) {
        let _ = write!(text, "\n{line}");
    }
    text
}

const INTERRUPTED: &str = "It was interrupted: these are the results up to then.";

/// The notes under the figures.
pub fn notes(results: &Results) -> Vec<String> {
    let mut notes = Vec::new();
    if results.contenders.len() > 1 {
        notes.push(
            "ratio: to the median under the kernel's own scheduler. result: given where the rounds \
             differ by more than chance (rank-sum test, p <= 0.03, which needs at least 4 rounds) \
             and by more than 1 %. decided: how many of the tasks that found no idle CPU ran by a \
             decision of user space; below 95 % nothing counts as better. stood: how many of them \
             ran by a decision for an earlier wake-up (--standing)."
                .to_owned(),
        );
    }
    notes.extend(results.failures.iter().map(|failure| results.failure(failure)));
    if results.interrupted {
        notes.push(INTERRUPTED.to_owned());
    }
    notes
}

fn write_table(text: &mut String, results: &Results, figures: &[Figure]) {
    let names = results.contenders.iter().map(|contender| contender.name.len());
    let width = names.chain([9]).max().unwrap_or(0);
    let labels = figures.iter().map(|figure| label(figure).len());
    let label_width = labels.chain([6]).max().unwrap_or(0);
    let _ = writeln!(
        text,
        "  {:<label_width$}  {:<width$} {:>10} {:>21} {:>6} {:>8} {:>7}  result",
        "figure", "scheduler", "median", "spread", "ratio", "decided", "stood"
    );
    for figure in figures {
        for (number, entry) in figure.entries.iter().enumerate() {
            let label = if number == 0 { label(figure) } else { String::new() };
            let name = &results.contenders[entry.contender].name;
            let line = format!(
                "  {label:<label_width$}  {name:<width$} {:>10} {:>21} {:>6} {:>8} {:>7}  {}",
                number_of(entry.summary.median),
                spread(entry),
                entry.ratio.map_or(String::new(), |ratio| format!("{ratio:.2}")),
                percent(entry.decided_percent),
                percent(entry.stood_percent),
                entry.verdict.map_or("", |verdict| verdict.words()),
            );
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }
}

/// A percentage, or an empty text if there is none.
pub fn percent(share: Option<f64>) -> String {
    share.map_or(String::new(), |percent| format!("{percent:.1} %"))
}

/// A figure's name and unit.
pub fn label(figure: &Figure) -> String {
    format!("{}, {}", figure.name, figure.unit)
}

/// From the least to the most.
pub fn spread(entry: &Entry) -> String {
    format!("{} .. {}", number_of(entry.summary.least), number_of(entry.summary.most))
}

/// A number to three digits or more.
pub fn number_of(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        0.0 => "0".to_owned(),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::contender::Decisions;
    use super::super::reading::Better;
    use super::super::results::{Failure, tests::results};
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let numbers = [0.0, 0.0123, 1.0, 9.876, 98.76, 987.6, 1234567.8, -12.34];
        let texts = ["0", "0.012", "1.00", "9.88", "98.8", "988", "1234568", "-12.3"];
        assert_eq!(numbers.map(number_of), texts);
    }

    #[test]
    fn a_brief_table_has_the_most_important_figures() {
        let decisions = Decisions { decided: 690, standing: 300, late: 10 };
        let kernel = [40.0, 50.0, 60.0];
        let mut results = results(Better::Lower, &kernel, &[0.0, 1.0, 2.0], decisions);
        let expected = [
            "                  kernel               manyland                  good is",
            "race: speed, 1/s  50.0 (40.0 .. 60.0)  1.00 (0 .. 2.00)  x 0.02  less",
            "Medians of 3 rounds (least .. most); x: the ratio to the kernel's own scheduler.",
            "manyland: 99.0 % or more of the tasks without an idle CPU ran by a decision.",
        ];
        assert_eq!(brief(&results).lines().collect::<Vec<_>>(), expected);
        let reason = "it did not attach".to_owned();
        results.failures.push(Failure { round: 1, workload: 0, contender: 1, reason });
        results.runs.retain(|run| run.contender == 0);
        let text = brief(&results);
        assert!(text.contains("race: speed, 1/s  50.0 (40.0 .. 60.0)  -         less"), "{text}");
        assert!(text.contains("manyland dropped out in round 1, at race: it did not attach"));
    }

    #[test]
    fn a_table_says_it_all() {
        let decisions = Decisions { decided: 690, standing: 300, late: 10 };
        let kernel = [10.0, 11.0, 12.0, 13.0, 14.0];
        let mut results = results(Better::Higher, &kernel, &kernel.map(|v| v * 2.0), decisions);
        results.interrupted = true;
        let reason = "it did not attach".to_owned();
        results.failures.push(Failure { round: 2, workload: 0, contender: 1, reason });
        let text = text(&results);
        let lines = text.lines().collect::<Vec<_>>();
        let expected = [
            "race: two runners",
            "  figure      scheduler     median                spread  ratio  decided   stood  result",
            "  speed, 1/s  kernel          12.0          10.0 .. 14.0",
            "              manyland        24.0          20.0 .. 28.0   2.00   99.0 %  30.0 %  better",
        ];
        let at = lines.iter().position(|line| *line == expected[0]).expect("the workload's line");
        assert_eq!(lines[at..at + expected.len()], expected);
        assert!(text.contains("runs           5 rounds, 1 s a run"), "{text}");
        assert!(text.contains("manyland dropped out in round 2, at race: it did not attach"));
        assert!(text.contains("interrupted"));
    }
}
