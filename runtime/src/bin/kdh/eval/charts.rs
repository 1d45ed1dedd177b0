//! Charts as inline SVG.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// A line of a chart of shares.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(34, 34, 34);
const GRID: RGBColor = RGBColor(226, 229, 233);
const BAR: RGBColor = RGBColor(42, 111, 151);
/// Okabe and Ito's palette and four darker relatives; the next round of labels is thinner.
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

/// Lines from 0 to 1 on both axes, with a legend.
pub(super) fn lines((x, y): (&str, &str), diagonal: bool, lines: &[Line]) -> Result<String> {
    let height = 420.max(30 + 20 * lines.len() as u32);
    svg((960, height), |root| {
        let (plot, legend) = root.split_horizontally(760);
        let mut chart = ChartBuilder::on(&plot)
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(54)
            .build_cartesian_2d(0.0..1.0, 0.0..1.02)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .x_desc(x)
            .y_desc(y)
            .label_style((FONT, 13).into_font().color(&INK))
            .axis_desc_style((FONT, 14).into_font().color(&INK))
            .draw()
            .map_err(failed)?;
        if diagonal {
            let line = PathElement::new(vec![(0.0, 0.0), (1.0, 1.0)], GRID.stroke_width(2));
            chart.draw_series([line]).map_err(failed)?;
        }
        for (index, line) in lines.iter().enumerate() {
            let style = color(index).stroke_width(if index < COLORS.len() { 2 } else { 1 });
            chart.draw_series(LineSeries::new(line.points.iter().copied(), style)).map_err(failed)?;
            let dots = line.points.iter().map(|&point| Circle::new(point, 2, color(index).filled()));
            chart.draw_series(dots).map_err(failed)?;
            let y = 20 + 20 * index as i32;
            legend.draw(&Rectangle::new([(4, y), (18, y + 10)], color(index).filled())).map_err(failed)?;
            let font = (FONT, 13).into_font().color(&INK);
            legend.draw(&Text::new(line.name.clone(), (24, y - 2), font)).map_err(failed)?;
        }
        Ok(())
    })
}

/// How many values lie where, in 40 bins from the smallest to the largest.
pub(super) fn histogram(x: &str, values: &[f64]) -> Result<String> {
    const BINS: usize = 40;
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !(low.is_finite() && high.is_finite()) {
        return Ok(String::new());
    }
    let width = ((high - low) / BINS as f64).max(1e-6);
    let mut counts = [0_usize; BINS];
    for value in values {
        if let Some(count) = counts.get_mut((((value - low) / width) as usize).min(BINS - 1)) {
            *count += 1;
        }
    }
    let highest = counts.iter().copied().max().unwrap_or(0).max(1) as f64;
    svg((960, 260), |root| {
        let mut chart = ChartBuilder::on(root)
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(54)
            .build_cartesian_2d(low..low + width * BINS as f64, 0.0..1.05 * highest)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .disable_mesh()
            .axis_style(INK)
            .x_desc(x)
            .y_desc("texts")
            .y_label_formatter(&|count| format!("{count:.0}"))
            .label_style((FONT, 13).into_font().color(&INK))
            .axis_desc_style((FONT, 14).into_font().color(&INK))
            .draw()
            .map_err(failed)?;
        let bars = counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(bin, &count)| {
            let from = low + width * bin as f64;
            Rectangle::new([(from, 0.0), (from + 0.9 * width, count as f64)], BAR.filled())
        });
        chart.draw_series(bars).map_err(failed)?;
        Ok(())
    })
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn svg(size: (u32, u32), draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        draw(&root)?;
        root.present().map_err(failed)?;
    }
    Ok(svg)
}

fn color(index: usize) -> RGBColor {
    COLORS[index % COLORS.len()]
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("a chart cannot be drawn: {error}")
}
