//! The results as one page with plots, which needs nothing else: no network, no script.

use super::results::{Figure, Results};
use super::table::{label, notes, number_of, percent, spread};
use anyhow::{Result, anyhow};
use plotters::prelude::*;
use std::fmt::Write;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
    h1{font-size:1.5rem}h2{font-size:1.2rem;margin:2.5rem 0 0}table{border-collapse:collapse;margin:.8rem 0}\
    td,th{padding:.15rem .8rem .15rem 0;text-align:right;white-space:nowrap}td.l,th.l{text-align:left}\
    tr.first td{border-top:1px solid #ddd}dt{font-weight:600}dl{display:grid;grid-template-columns:max-content 1fr;gap:0 1rem}\
    dd{margin:0}.better{color:#067a2e}.worse{color:#b3261e}.plots{display:flex;flex-wrap:wrap;gap:.5rem}.scroll{overflow-x:auto}";

/// The size of a plot, in pixels.
const WIDTH: u32 = 480;
const HEIGHT_OF_ROW: u32 = 28;
const HEIGHT_OF_REST: u32 = 78;
/// The sizes of letters; plotters makes them a fifth smaller.
const TITLE: u32 = 18;
const TEXT: u32 = 15;

/// The colours of the contenders, the kernel's own scheduler first. They differ for people with
/// most kinds of colour blindness (after M. Okabe and K. Ito, Color universal design, 2002).
const COLORS: [RGBColor; 6] = [
    RGBColor(90, 90, 90),
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
];

/// The page.
///
/// # Errors
/// If a plot cannot be drawn.
pub fn page(results: &Results) -> Result<String> {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>scx_manyland bench</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\n\
         <h1>scx_manyland bench</h1>\n<dl>"
    );
    for (title, line) in results.machine.lines() {
        let _ = write!(page, "<dt>{title}</dt><dd>{}</dd>", escaped(&line));
    }
    let seconds = results.duration.as_secs_f64();
    let _ =
        writeln!(page, "<dt>runs</dt><dd>{} rounds, {seconds} s a run</dd></dl>", results.rounds);
    for (number, workload) in results.workloads.iter().enumerate() {
        let figures = results.figures_of(number);
        if figures.is_empty() {
            continue;
        }
        let (name, description) = (escaped(&workload.name), escaped(&workload.description));
        let _ = writeln!(page, "<h2>{name}</h2>\n<p>{description}</p>");
        write_table(&mut page, results, &figures);
        page.push_str("<div class=\"plots\">\n");
        for figure in &figures {
            page.push_str(&plot(results, figure)?);
        }
        page.push_str("</div>\n");
    }
    for note in notes(results) {
        let _ = writeln!(page, "<p>{}</p>", escaped(&note));
    }
    page.push_str("</body></html>\n");
    Ok(page)
}

fn write_table(page: &mut String, results: &Results, figures: &[Figure]) {
    page.push_str(
        "<div class=\"scroll\"><table><tr><th class=\"l\">figure</th><th class=\"l\">scheduler</th><th>median</th><th>spread</th>\
         <th>ratio</th><th>decided</th><th>stood</th><th class=\"l\">result</th></tr>\n",
    );
    for figure in figures {
        for (number, entry) in figure.entries.iter().enumerate() {
            let (class, label) = match number {
                0 => (" class=\"first\"", escaped(&label(figure))),
                _ => ("", String::new()),
            };
            let verdict = entry.verdict.map_or("", |verdict| verdict.words());
            let _ = writeln!(
                page,
                "<tr{class}><td class=\"l\">{label}</td><td class=\"l\">{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>\
                 <td class=\"l {verdict}\">{verdict}</td></tr>",
                escaped(&results.contenders[entry.contender].name),
                number_of(entry.summary.median),
                spread(entry),
                entry.ratio.map_or(String::new(), |ratio| format!("{ratio:.2}")),
                percent(entry.decided_percent),
                percent(entry.stood_percent),
            );
        }
    }
    page.push_str("</table></div>\n");
}

/// A row for each contender: a dot for each round and a bar at the median, from 0 on.
fn plot(results: &Results, figure: &Figure) -> Result<String> {
    let rows = figure.entries.len();
    let most = figure.entries.iter().map(|entry| entry.summary.most).fold(0.0, f64::max);
    let end = if most > 0.0 { most * 1.05 } else { 1.0 };
    let names = figure.entries.iter().map(|entry| results.contenders[entry.contender].name.clone());
    let names = names.collect::<Vec<_>>();
    let longest = names.iter().map(String::len).max().unwrap_or(0) as u32;
    let mut svg = String::new();
    {
        let size = (WIDTH, HEIGHT_OF_REST + HEIGHT_OF_ROW * rows as u32);
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE).map_err(cannot_draw)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(label(figure), ("sans-serif", TITLE))
            .margin_right(16)
            .x_label_area_size(28)
            .y_label_area_size((longest * 8).clamp(40, WIDTH / 2))
            .build_cartesian_2d(0.0..end, -0.5..rows as f64 - 0.5)
            .map_err(cannot_draw)?;
        // The first entry gets the top row.
        let row_of = |number: usize| (rows - 1 - number) as f64;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .label_style(("sans-serif", TEXT))
            .light_line_style(TRANSPARENT)
            .x_labels(5)
            .x_label_formatter(&|value| number_of(*value))
            .y_labels(rows)
            .y_label_formatter(&|row| {
                let near = (row - row.round()).abs() < 0.01;
                let number = rows.wrapping_sub(1).wrapping_sub(row.round() as usize);
                names.get(number).filter(|_| near).cloned().unwrap_or_default()
            })
            .draw()
            .map_err(cannot_draw)?;
        for (number, entry) in figure.entries.iter().enumerate() {
            let (row, color) = (row_of(number), COLORS[entry.contender % COLORS.len()]);
            let bar = [(entry.summary.median, row - 0.35), (entry.summary.median, row + 0.35)];
            chart
                .draw_series([PathElement::new(bar, color.stroke_width(3))])
                .map_err(cannot_draw)?;
            let dots = entry
                .values
                .iter()
                .map(|&value| Circle::new((value, row), 4, color.mix(0.5).filled()));
            chart.draw_series(dots).map_err(cannot_draw)?;
        }
        area.present().map_err(cannot_draw)?;
    }
    Ok(svg)
}

fn cannot_draw(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw a plot: {error}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::contender::Decisions;
    use super::super::reading::Better;
    use super::super::results::tests::results;
    use super::*;

    #[test]
    fn a_page_has_the_table_and_a_plot_of_each_figure() {
        let decisions = Decisions { decided: 79, standing: 20, late: 1 };
        let results = results(Better::Lower, &[10.0, 11.0, 12.0], &[0.0, 0.0, 0.0], decisions);
        let page = page(&results).unwrap();
        assert_eq!(page.matches("<svg").count(), 2, "{page}");
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        // A dot for each of three rounds of two contenders, in each of two plots.
        assert_eq!(page.matches("<circle").count(), 12, "{page}");
        assert!(page.contains("A &lt;fast&gt; one") && !page.contains("<fast>"), "{page}");
        assert!(page.contains("speed, 1/s") && page.contains("99.0 %"));
        let names = page.matches("http://www.w3.org/2000/svg").count();
        assert_eq!(page.matches("http").count(), names, "it refers to the network");
    }
}
