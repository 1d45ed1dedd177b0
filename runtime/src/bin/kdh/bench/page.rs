//! The page of `kdh bench --html`: one file, pictures included, that loads nothing.

use std::fmt::Write;

use super::{ByTokens, Sample, Statistics, ms};
use crate::html::escaped;

/// The page. `table` is what the terminal shows.
pub(super) fn page(result: &super::Result<'_>, table: &str, samples: &[Sample]) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'\">\n<title>kdh bench: {0}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>kdh bench: {0}</h1>\n<pre>{1}</pre>\n",
        escaped(&result.bundle),
        escaped(table)
    );
    let mut section = |title: &str, statistics: &Statistics, samples: Vec<&Sample>| {
        let _ = writeln!(page, "<h2>{}</h2>", escaped(title));
        page.push_str(&histogram(&samples, statistics, result.deadline_ms));
        page.push_str(&time_series(&samples, result.deadline_ms));
    };
    for (text, ByTokens { tokens, statistics }) in result.by_tokens.iter().enumerate() {
        let own = samples.iter().filter(|sample| sample.text == text).collect();
        section(&format!("{tokens} tokens"), statistics, own);
    }
    if result.by_tokens.is_empty() {
        section("all texts", &result.statistics, samples.iter().collect());
    }
    page.push_str("</body>\n</html>\n");
    page
}

const STYLE: &str = "body{font:15px sans-serif;margin:2em;color:#222}pre{font-size:13px;overflow-x:auto}svg{display:block;\
margin:.5em 0;max-width:100%}text{font-size:12px;fill:#222}.bar{fill:#2a6f97}.tail{fill:#c1121f}\
.axis{stroke:#222}.range{stroke:#2a6f97;stroke-width:2;stroke-linecap:round}\
.deadline{stroke:#c1121f;stroke-dasharray:4 3}";

/// Size of a picture, and where its axes cross.
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 200.0;
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 165.0;
const TOP: f64 = 25.0;

/// How many texts took how long, from the shortest time to p99; the last bar is everything beyond.
fn histogram(samples: &[&Sample], statistics: &Statistics, deadline_ms: Option<f64>) -> String {
    const BARS: usize = 60;
    let (Some(min), Some(p99)) = (statistics.time("total", "min"), statistics.time("total", "p99")) else {
        return String::new();
    };
    let width = ((p99 - min) / BARS as f64).max(1e-6);
    let mut counts = [0_usize; BARS + 1];
    for sample in samples {
        let time = ms(sample.timing.total);
        let bar = if time > p99 { BARS } else { (((time - min) / width) as usize).min(BARS - 1) };
        counts[bar] += 1;
    }
    let highest = counts.iter().copied().max().unwrap_or(1).max(1);
    let step = (WIDTH - LEFT - 20.0) / (BARS + 1) as f64;
    let mut svg = picture("Texts by total time");
    for (bar, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let height = ((BOTTOM - TOP) * count as f64 / highest as f64).max(1.0);
        let class = if bar == BARS { "tail" } else { "bar" };
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"/>",
            LEFT + bar as f64 * step,
            BOTTOM - height,
            step - 1.0
        );
    }
    if let Some(deadline) = deadline_ms.filter(|deadline| (min..=p99).contains(deadline)) {
        let x = LEFT + (deadline - min) / width * step;
        let _ = writeln!(svg, "<line class=\"deadline\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{BOTTOM}\"/>");
    }
    label(&mut svg, LEFT - 6.0, TOP + 10.0, "end", &highest.to_string());
    label(&mut svg, LEFT, BOTTOM + 18.0, "start", &format!("{min:.3} ms"));
    label(&mut svg, LEFT + BARS as f64 * step, BOTTOM + 18.0, "end", &format!("p99 {p99:.3} ms"));
    label(&mut svg, WIDTH - 20.0, BOTTOM + 32.0, "end", "red: beyond p99");
    svg + "</svg>\n"
}

/// Shortest to longest time in each of at most 400 slices of the measurement.
fn time_series(samples: &[&Sample], deadline_ms: Option<f64>) -> String {
    const SLICES: usize = 400;
    let last = samples.iter().map(|sample| sample.at).fold(0.0, f64::max).max(1e-9);
    let longest = samples.iter().map(|sample| ms(sample.timing.total)).fold(0.0, f64::max).max(1e-9);
    let mut slices = [None::<(f64, f64)>; SLICES];
    for sample in samples {
        let time = ms(sample.timing.total);
        let slice = &mut slices[((sample.at / last * SLICES as f64) as usize).min(SLICES - 1)];
        *slice = Some(slice.map_or((time, time), |(low, high)| (low.min(time), high.max(time))));
    }
    let step = (WIDTH - LEFT - 20.0) / SLICES as f64;
    let y = |time: f64| BOTTOM - (BOTTOM - TOP) * time / longest;
    let mut svg = picture("Total time over the measurement, shortest to longest of each slice");
    let mut path = String::new();
    for (slice, (low, high)) in slices.iter().enumerate().filter_map(|(slice, range)| Some((slice, (*range)?))) {
        let x = LEFT + (slice as f64 + 0.5) * step;
        let _ = write!(path, "M{x:.1} {:.1}V{:.1}", y(low), y(high));
    }
    let _ = writeln!(svg, "<path class=\"range\" d=\"{path}\"/>");
    if let Some(deadline) = deadline_ms.filter(|deadline| *deadline <= longest) {
        let (y, right) = (y(deadline), WIDTH - 20.0);
        let _ = writeln!(svg, "<line class=\"deadline\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"/>");
    }
    label(&mut svg, LEFT - 6.0, TOP + 10.0, "end", &format!("{longest:.3} ms"));
    label(&mut svg, LEFT - 6.0, BOTTOM, "end", "0");
    label(&mut svg, LEFT, BOTTOM + 18.0, "start", "0 s");
    label(&mut svg, WIDTH - 20.0, BOTTOM + 18.0, "end", &format!("{last:.2} s"));
    svg + "</svg>\n"
}

fn picture(title: &str) -> String {
    let right = WIDTH - 20.0;
    let mut svg =
        format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\">\n");
    label(&mut svg, LEFT, 14.0, "start", title);
    let _ = writeln!(svg, "<line class=\"axis\" x1=\"{LEFT}\" y1=\"{BOTTOM}\" x2=\"{right}\" y2=\"{BOTTOM}\"/>");
    let _ = writeln!(svg, "<line class=\"axis\" x1=\"{LEFT}\" y1=\"{TOP}\" x2=\"{LEFT}\" y2=\"{BOTTOM}\"/>");
    svg
}

fn label(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escaped(text));
}
