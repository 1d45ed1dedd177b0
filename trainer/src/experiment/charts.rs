//! Charts as inline SVG.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::statistics::Interval;

/// A line of a chart of lines.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
    /// Which colour; lines of one arm share it.
    pub(super) color: usize,
    /// Drawn thin, and left out of the legend.
    pub(super) minor: bool,
    /// Mark the points themselves.
    pub(super) marked: bool,
}

/// A chart of lines.
pub(super) struct Lines<'a> {
    pub(super) x: &'a str,
    pub(super) y: &'a str,
    /// Ends of the axes; as far as the points go when not given.
    pub(super) x_range: Option<(f64, f64)>,
    pub(super) y_range: Option<(f64, f64)>,
    /// Only whole numbers have a label on the x axis.
    pub(super) whole: bool,
    /// Draw where x and y are equal.
    pub(super) diagonal: bool,
    pub(super) lines: Vec<Line>,
}

/// Rows of intervals under each other.
pub(super) struct Rows<'a> {
    pub(super) x: &'a str,
    /// Draw a line at zero, and see to it that it is in sight.
    pub(super) zero: bool,
    pub(super) rows: Vec<Row>,
    /// What the colours mean.
    pub(super) legend: Vec<(String, usize)>,
}

/// Intervals beside one name.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) intervals: Vec<(Interval, usize)>,
}

const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(38, 44, 52);
const GRID: RGBColor = RGBColor(226, 229, 233);
/// Okabe and Ito's palette and four darker relatives.
const COLORS: [RGBColor; 12] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
    RGBColor(120, 60, 160),
    RGBColor(150, 20, 40),
    RGBColor(100, 130, 20),
    RGBColor(20, 60, 110),
    RGBColor(140, 90, 40),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Draws lines, with a legend to the right.
pub(super) fn lines(chart: &Lines<'_>) -> Result<String> {
    const SIZE: (u32, u32) = (960, 420);
    const LEGEND: i32 = 260;
    let points = || chart.lines.iter().flat_map(|line| &line.points);
    let (x0, x1) = chart.x_range.unwrap_or_else(|| ends(points().map(|point| point.0), 0.0));
    let (y0, y1) = chart.y_range.unwrap_or_else(|| ends(points().map(|point| point.1), 0.06));
    svg(SIZE, |root| {
        let (plot, legend) = root.split_horizontally(SIZE.0 as i32 - LEGEND);
        let mut context = axes(&plot, (x0, x1), (y0, y1))?;
        context
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .x_labels(8)
            .y_labels(8)
            .x_desc(chart.x)
            .y_desc(chart.y)
            .x_label_formatter(&|value| match chart.whole {
                true if (value - value.round()).abs() > 1e-6 => String::new(),
                true => format!("{value:.0}"),
                false => short(*value, x1 - x0),
            })
            .y_label_formatter(&|value| short(*value, y1 - y0))
            .label_style((FONT, 13).into_font().color(&INK))
            .axis_desc_style((FONT, 14).into_font().color(&INK))
            .draw()
            .map_err(failed)?;
        if chart.diagonal {
            let line = PathElement::new(vec![(x0.max(y0), x0.max(y0)), (x1.min(y1), x1.min(y1))], GRID.stroke_width(2));
            context.draw_series([line]).map_err(failed)?;
        }
        for line in &chart.lines {
            let color = color(line.color);
            let style = if line.minor { color.mix(0.45).stroke_width(1) } else { color.stroke_width(2) };
            context.draw_series(LineSeries::new(line.points.iter().copied(), style)).map_err(failed)?;
            if line.marked {
                let dots = line.points.iter().map(|&point| Circle::new(point, 3, color.filled()));
                context.draw_series(dots).map_err(failed)?;
            }
        }
        for (row, line) in chart.lines.iter().filter(|line| !line.minor).enumerate() {
            entry(&legend, (4, 24 + 20 * row as i32), &line.name, line.color)?;
        }
        Ok(())
    })
}

/// Draws intervals.
pub(super) fn rows(chart: &Rows<'_>) -> Result<String> {
    const WIDTH: u32 = 960;
    const NAMES: i32 = 210;
    const AXIS: i32 = 46;
    const STEP: i32 = 13;
    let most = chart.rows.iter().map(|row| row.intervals.len()).max().unwrap_or(1).max(1) as i32;
    let height = (STEP * most).max(18) + 8;
    let legend_rows = chart.legend.len().div_ceil(3) as i32;
    let top = 20 * legend_rows + 10;
    let total = top + height * chart.rows.len() as i32 + AXIS;
    let all = || chart.rows.iter().flat_map(|row| &row.intervals);
    let zero = chart.zero.then_some(0.0);
    let (x0, x1) = ends(all().flat_map(|(interval, _)| [interval.low, interval.high]).chain(zero), 0.06);
    let count = chart.rows.len().max(1) as f64;
    svg((WIDTH, total as u32), |root| {
        let (legend, body) = root.split_vertically(top);
        let (names, plot) = body.split_horizontally(NAMES);
        let mut context: Chart<'_, '_> = ChartBuilder::on(&plot)
            .margin_right(24)
            .x_label_area_size(AXIS)
            .build_cartesian_2d(x0..x1, count..0.0)
            .map_err(failed)?;
        context
            .configure_mesh()
            .disable_y_mesh()
            .y_labels(0)
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .x_labels(8)
            .x_desc(chart.x)
            .x_label_formatter(&|value| short(*value, x1 - x0))
            .label_style((FONT, 13).into_font().color(&INK))
            .axis_desc_style((FONT, 14).into_font().color(&INK))
            .draw()
            .map_err(failed)?;
        if chart.zero {
            let line = PathElement::new(vec![(0.0, 0.0), (0.0, count)], INK.mix(0.6).stroke_width(1));
            context.draw_series([line]).map_err(failed)?;
        }
        for (number, row) in chart.rows.iter().enumerate() {
            for (place, &(interval, index)) in row.intervals.iter().enumerate() {
                let y = number as f64 + (place as f64 + 1.0) / (row.intervals.len() as f64 + 1.0);
                let color = color(index);
                let bar =
                    PathElement::new(vec![(interval.low, y), (interval.high, y)], color.mix(0.75).stroke_width(3));
                context.draw_series([bar]).map_err(failed)?;
                context.draw_series([Circle::new((interval.estimate, y), 4, color.filled())]).map_err(failed)?;
            }
            let style = (FONT, 14).into_font().color(&INK).pos(Pos::new(HPos::Right, VPos::Center));
            let y = height * number as i32 + height / 2;
            names.draw(&Text::new(cut(&row.name, 26), (NAMES - 10, y), style)).map_err(failed)?;
        }
        for (index, (name, color)) in chart.legend.iter().enumerate() {
            let place = (NAMES + 240 * (index as i32 % 3), 10 + 20 * (index as i32 / 3));
            entry(&legend, place, name, *color)?;
        }
        Ok(())
    })
}

fn svg(size: (u32, u32), draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        draw(&root)?;
        root.present().map_err(failed)?;
    }
    // Scales with the page instead of running over its edge.
    let (width, height) = size;
    Ok(text.replacen(
        &format!("<svg width=\"{width}\" height=\"{height}\""),
        &format!("<svg role=\"img\" style=\"width:100%;max-width:{width}px;height:auto\""),
        1,
    ))
}

fn axes<'a, 'b>(area: &Area<'b>, x: (f64, f64), y: (f64, f64)) -> Result<Chart<'a, 'b>> {
    ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(46)
        .y_label_area_size(62)
        .build_cartesian_2d(x.0..x.1, y.0..y.1)
        .map_err(failed)
}

fn entry(area: &Area<'_>, (x, y): (i32, i32), name: &str, index: usize) -> Result<()> {
    let style = (FONT, 13).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
    area.draw(&Rectangle::new([(x, y - 2), (x + 18, y + 2)], color(index).filled())).map_err(failed)?;
    area.draw(&Text::new(cut(name, 32), (x + 24, y), style)).map_err(failed)
}

fn color(index: usize) -> RGBColor {
    COLORS[index % COLORS.len()]
}

fn cut(name: &str, most: usize) -> String {
    if name.chars().count() <= most {
        return name.to_owned();
    }
    name.chars().take(most - 1).chain(['…']).collect()
}

/// From the least to the greatest value and a little more; never nothing.
fn ends(values: impl Iterator<Item = f64>, margin: f64) -> (f64, f64) {
    let finite = values.filter(|value| value.is_finite());
    let (low, high) = finite.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
    match high - low {
        span if span > 1e-9 => (low - margin * span, high + margin * span),
        _ if low == f64::MAX => (0.0, 1.0),
        _ => (low - 0.05, high + 0.05),
    }
}

/// As many decimals as the axis needs.
fn short(value: f64, span: f64) -> String {
    let decimals = if span > 20.0 { 0 } else { (1.5 - span.log10()).ceil().clamp(0.0, 4.0) as usize };
    let value = if value.abs() < span * 1e-6 { 0.0 } else { value };
    format!("{value:.decimals$}")
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("a chart cannot be drawn: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_of_nothing_or_of_one_point_is_a_chart() {
        let line = |points| Line { name: "a <b>".into(), points, color: 0, minor: false, marked: true };
        for points in [vec![], vec![(1.0, 0.5)], vec![(1.0, f64::NAN), (2.0, 0.5)]] {
            let chart = Lines {
                x: "x",
                y: "y",
                x_range: None,
                y_range: None,
                whole: true,
                diagonal: true,
                lines: vec![line(points)],
            };
            let text = lines(&chart).unwrap();
            assert!(text.starts_with("<svg role") && text.contains("a &lt;b&gt;"), "{text}");
        }
        let row = |value| Row {
            name: "r".into(),
            intervals: vec![(Interval { estimate: value, low: value, high: value }, 40)],
        };
        for rows_of in [vec![], vec![row(0.3)], vec![row(-0.2), row(0.2)]] {
            rows(&Rows { x: "x", zero: true, rows: rows_of, legend: vec![("l".into(), 1)] }).unwrap();
        }
    }

    #[test]
    fn axis_labels_have_the_decimals_they_need() {
        assert_eq!(
            (short(0.05, 1.0), short(12.0, 100.0), short(0.8125, 0.02)),
            ("0.05".into(), "12".into(), "0.8125".into())
        );
        assert_eq!(short(-1e-12, 1.0), "0.00");
    }
}
