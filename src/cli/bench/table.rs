//! The results as a table for people.

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
    for failure in &results.failures {
        notes.push(format!(
            "{} dropped out in round {}, at {}: {}",
            results.contenders[failure.contender].name,
            failure.round,
            results.workloads[failure.workload].name,
            failure.reason
        ));
    }
    if results.interrupted {
        notes.push("It was interrupted: these are the results up to then.".to_owned());
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
