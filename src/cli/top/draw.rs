//! How `top` draws a [`View`]: in the terminal's own two colours, so that it can be read on any
//! background, and within 80 columns.

use super::view::{CgroupRow, Key, Row, State, View};
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Paragraph, Row as TableRow, Table};

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const REVERSED: Style = Style::new().add_modifier(Modifier::REVERSED);

/// The columns: what is above them, their width, and what they can be sorted by.
const COLUMNS: [(&str, u16, Option<Key>); 12] = [
    ("DOM", 3, Some(Key::Domain)),
    ("CPUS", 9, None),
    ("TASKS", 5, None),
    ("WAIT", 4, Some(Key::Waiting)),
    ("READY", 5, None),
    ("DEC/S", 6, Some(Key::Decisions)),
    ("LATE%", 5, Some(Key::Late)),
    ("P99us", 6, Some(Key::Latency)),
    ("4us-16ms", 8, None),
    ("THRD%", 5, Some(Key::Thread)),
    ("IN/S", 5, Some(Key::Stolen)),
    ("OUT/S", 5, None),
];

/// The columns of cgroups, and their widths. A name follows, which is as wide as there is room.
const CGROUP_COLUMNS: [(&str, u16); 6] =
    [("WEIGHT", 6), ("DUE", 7), ("HAD", 7), ("RUNNABLE", 8), ("THROT/S", 7), ("THROT%", 6)];

/// The least height of the cgroups' part: a blank line, the head, and a row.
const LEAST_CGROUP_LINES: u16 = 3;

/// Draws the whole screen.
pub fn draw(frame: &mut Frame<'_>, view: &View) {
    let rows = [Constraint::Length(2), Constraint::Min(1), Constraint::Length(1)];
    let [head, body, foot] = Layout::vertical(rows).areas(frame.area());
    match &view.state {
        State::None { other } => {
            let text = match other {
                Some(other) => format!(
                    "The scheduler \"{other}\" is attached, which does not answer as scx_manyland."
                ),
                None => "No scheduler runs: the kernel's own is at work.".to_owned(),
            };
            frame.render_widget(Paragraph::new("scx_manyland").style(BOLD), head);
            middle(frame, body, vec![text.into(), "Waiting for scx_manyland to start.".into()]);
        }
        State::Begun(received) => {
            frame.render_widget(Paragraph::new(title(received)), head);
            middle(frame, body, vec!["Measuring the first interval.".into()]);
        }
        State::Runs { received, rows, cgroups } => {
            frame.render_widget(Paragraph::new(title(received)), head);
            let (above, below) = divide(body, rows.len(), cgroups.len());
            table(frame, above, view, rows);
            if let Some(below) = below {
                cgroup_table(frame, below, cgroups);
            }
        }
    }
    let keys = format!(
        " q quit  p {}  s sort ({}{})  r reverse  arrows scroll  every {} s",
        if view.is_paused { "GO ON" } else { "pause" },
        view.key.name(),
        if view.is_reversed { ", reversed" } else { "" },
        view.every.as_secs_f64()
    );
    frame.render_widget(Paragraph::new(keys).style(REVERSED), foot);
}

fn middle(frame: &mut Frame<'_>, area: Rect, lines: Vec<Line<'_>>) {
    let above = area.height.saturating_sub(lines.len() as u16) / 2;
    let [_, area] = Layout::vertical([Constraint::Length(above), Constraint::Min(1)]).areas(area);
    frame.render_widget(Paragraph::new(lines).alignment(Alignment::Center), area);
}

fn title(received: &scx_manyland::run::client::Received) -> Vec<Line<'static>> {
    let about = &received.about;
    let process = &received.line.process;
    let domains = received.line.domains.len();
    vec![
        Line::styled(
            format!(
                "scx_manyland {}  policy {}  {domains} domain{} ({})  attached for {}",
                received.version,
                about.policy,
                if domains == 1 { "" } else { "s" },
                about.domain,
                duration(received.seconds)
            ),
            BOLD,
        ),
        Line::from(format!(
            "patience {} us  memory {} KiB  page faults {}",
            process.patience_us, process.rss_kib, process.page_faults
        )),
    ]
}

fn duration(seconds: f64) -> String {
    let seconds = seconds as u64;
    let (days, hours) = (seconds / 86400, seconds / 3600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes}:{seconds:02}"),
        (0, _) => format!("{hours}:{minutes:02}:{seconds:02}"),
        _ => format!("{days} d {hours}:{minutes:02}"),
    }
}

/// Where domains are, and cgroups, which get what the domains leave: all domains are shown that were
/// without them.
fn divide(body: Rect, domains: usize, cgroups: usize) -> (Rect, Option<Rect>) {
    let for_domains = u16::try_from(domains + 1).unwrap_or(u16::MAX);
    let left = body.height.saturating_sub(for_domains);
    if cgroups == 0 || left < LEAST_CGROUP_LINES {
        return (body, None);
    }
    let rows = [Constraint::Length(for_domains), Constraint::Length(1), Constraint::Min(1)];
    let [above, _, below] = Layout::vertical(rows).areas(body);
    (above, Some(below))
}

fn table(frame: &mut Frame<'_>, area: Rect, view: &View, rows: &[Row]) {
    let head = COLUMNS.map(|(name, width, key)| {
        let style = if key == Some(view.key) { REVERSED } else { BOLD };
        Cell::from(right(name.to_owned(), width)).style(style)
    });
    let shown = rows.iter().skip(view.above).map(|row| {
        TableRow::new(COLUMNS.iter().zip(cells(row)).map(|(column, cell)| right(cell, column.1)))
    });
    let widths = COLUMNS.map(|(_, width, _)| Constraint::Length(width));
    let table = Table::new(shown, widths).header(TableRow::new(head)).column_spacing(1);
    frame.render_widget(table, area);
}

fn cgroup_table(frame: &mut Frame<'_>, area: Rect, cgroups: &[CgroupRow]) {
    let columns: u16 = CGROUP_COLUMNS.iter().map(|(_, width)| width + 1).sum();
    let name_width = area.width.saturating_sub(columns);
    let head = CGROUP_COLUMNS.iter().map(|(name, width)| right((*name).to_owned(), *width));
    let head = TableRow::new(head.chain(["CGROUP".to_owned()])).style(BOLD);
    let rows = cgroups.iter().map(|row| {
        let cells = CGROUP_COLUMNS.iter().zip(cgroup_cells(row));
        let cells = cells.map(|(column, cell)| right(cell, column.1));
        TableRow::new(cells.chain([end(&row.name, name_width)]))
    });
    let widths = CGROUP_COLUMNS.iter().map(|(_, width)| *width).chain([name_width]);
    let table = Table::new(rows, widths.map(Constraint::Length)).header(head).column_spacing(1);
    frame.render_widget(table, area);
}

/// A name; the end of one that is too long, where names differ most.
fn end(name: &str, width: u16) -> String {
    let width = usize::from(width);
    let letters: Vec<char> = name.chars().collect();
    match letters.len() > width {
        true => ['…'].iter().chain(&letters[letters.len() + 1 - width.max(1)..]).collect(),
        false => letters.into_iter().collect(),
    }
}

/// A text at the right of its column; the start of one that is too long.
fn right(text: String, width: u16) -> String {
    let width = usize::from(width);
    match text.chars().count() > width {
        true => text.chars().take(width - 1).chain(['…']).collect(),
        false => format!("{text:>width$}"),
    }
}

fn cells(row: &Row) -> [String; COLUMNS.len()] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        row.domain.to_string(),
        row.cpus.clone(),
        short(row.tasks as f64),
        short(row.waiting as f64),
        short(row.ready as f64),
        short(row.decisions),
        or_dash(row.late_percent.map(|it| format!("{it:.1}"))),
        or_dash(row.p99_us.map(short)),
        bars(&row.bars),
        format!("{:.1}", row.thread_percent),
        short(row.stolen_in),
        short(row.stolen_out),
    ]
}

fn cgroup_cells(row: &CgroupRow) -> [String; CGROUP_COLUMNS.len()] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        row.weight.map_or_else(|| "idle".to_owned(), |weight| weight.to_string()),
        format!("{:.2}", row.due),
        format!("{:.2}", row.had),
        short(row.runnable.into()),
        or_dash(row.throttles.map(short)),
        or_dash(row.throttled_percent.map(|it| format!("{it:.1}"))),
    ]
}

/// A number in at most five characters.
fn short(number: f64) -> String {
    match number {
        ..9.95 if number.fract() != 0.0 => format!("{number:.1}"),
        ..10_000.0 => format!("{number:.0}"),
        ..1_000_000.0 => format!("{:.0}k", number / 1e3),
        ..1_000_000_000.0 => format!("{:.0}M", number / 1e6),
        _ => format!("{:.0}G", number / 1e9),
    }
}

/// Bars as high as their share of the highest; none where there is nothing.
fn bars(counts: &[u64]) -> String {
    const LEVELS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let level = |&count: &u64| LEVELS[(count * 8).div_ceil(most) as usize];
    counts.iter().map(level).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (number, expected) in [
            (0.0, "0"),
            (0.25, "0.2"),
            (9.0, "9"),
            (9.94, "9.9"),
            (123.4, "123"),
            (9999.0, "9999"),
            (12_345.0, "12k"),
            (999_999.0, "1000k"),
            (3_400_000.0, "3M"),
            (5e10, "50G"),
        ] {
            assert_eq!(short(number), expected);
        }
    }

    #[test]
    fn what_is_too_long_ends_in_dots() {
        assert_eq!(right("0-7,16-23".to_owned(), 9), "0-7,16-23");
        assert_eq!(right("0-7".to_owned(), 5), "  0-7");
        assert_eq!(right("0-15,32-47".to_owned(), 9), "0-15,32-…");
    }

    #[test]
    fn durations_have_days_where_there_are_some() {
        for (seconds, expected) in
            [(59.9, "0:59"), (3599.0, "59:59"), (3600.0, "1:00:00"), (90_061.0, "1 d 1:01")]
        {
            assert_eq!(duration(seconds), expected);
        }
    }

    #[test]
    fn what_is_there_has_a_bar() {
        assert_eq!(bars(&[0, 1, 500, 1000]), " ▁▄█");
        assert_eq!(bars(&[0; 3]), "   ");
    }

    #[test]
    fn all_columns_fit_into_80() {
        let widths: u16 = COLUMNS.iter().map(|(_, width, _)| width).sum();
        assert!(widths + COLUMNS.len() as u16 <= 81, "{widths}");
        let widths: u16 = CGROUP_COLUMNS.iter().map(|(_, width)| width + 1).sum();
        assert!(widths + 30 <= 80, "names have less than 30: {widths}");
    }

    #[test]
    fn cgroups_get_the_lines_that_domains_leave() {
        let body = Rect::new(0, 2, 80, 21);
        let heights = |domains, cgroups| {
            let (above, below) = divide(body, domains, cgroups);
            (above.height, below.map(|below| below.height))
        };
        assert_eq!(heights(2, 0), (21, None));
        assert_eq!(heights(2, 5), (3, Some(17)));
        assert_eq!(heights(17, 5), (18, Some(2)), "a head and a row");
        assert_eq!(heights(18, 5), (21, None));
        assert_eq!(heights(512, 64), (21, None));
    }

    #[test]
    fn the_end_of_a_long_name_is_shown() {
        assert_eq!(end("/a.slice/b", 10), "/a.slice/b");
        assert_eq!(end("/a.slice/b", 9), "….slice/b");
        assert_eq!(end("/ü/ü", 3), "…/ü");
        assert_eq!([end("/a", 1), end("/a", 0)], ["…", "…"]);
    }
}
