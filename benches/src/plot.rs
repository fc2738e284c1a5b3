//! A report as a picture: one group of horizontal bars per case, each as long as its share of the group's largest.

use std::fmt::Write as _;

use crate::report::{Case, Report, median};

const WIDTH: usize = 860;
const LABEL: usize = 250;
const BAR: usize = 380;
const ROW: usize = 24;

/// The picture, as SVG.
pub fn svg(report: &Report) -> String {
    let mut body = String::new();
    let mut y = 16;
    for case in &report.cases {
        group(&mut body, case, &mut y);
    }
    let machine = &report.machine;
    let facts = format!(
        "{} ({} processors), Linux {}",
        machine.processor, machine.processors, machine.kernel
    );
    text(&mut body, 16, y + 8, "#777", 11, &facts);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n{body}</svg>\n",
        height = y + 24
    )
}

fn group(body: &mut String, case: &Case, y: &mut usize) {
    *y += 14;
    text(
        body,
        16,
        *y,
        "#222",
        14,
        &format!("{}: {}", case.scenario, case.name),
    );
    *y += 10;
    let medians: Vec<f64> = case
        .series
        .iter()
        .map(|series| median(&series.figures).unwrap_or(0.0))
        .collect();
    let most = medians.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    for (index, (series, figure)) in case.series.iter().zip(medians).enumerate() {
        let colour = if index == 0 { "#1769aa" } else { "#b8c4ce" };
        let width = (figure / most * BAR as f64).max(1.0);
        let _ = writeln!(
            body,
            "<rect x=\"{LABEL}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{colour}\"/>",
            ROW - 8
        );
        text(body, 24, *y + 12, "#222", 12, &series.peer);
        let mut figure = case.unit.say(figure);
        if let (true, Some(ratio)) = (index > 0, case.ratio(series)) {
            let _ = write!(figure, "  (vswitch is {ratio:.2}×)");
        }
        text(body, LABEL + width as usize + 8, *y + 12, "#222", 12, &figure);
        *y += ROW;
    }
    *y += 8;
}

fn text(body: &mut String, x: usize, y: usize, colour: &str, size: usize, words: &str) {
    let words = words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let _ = writeln!(
        body,
        "<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\" font-size=\"{size}\">{words}</text>"
    );
}
