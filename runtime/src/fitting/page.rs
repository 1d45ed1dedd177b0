//! One self-contained page of what was fitted: no script, nothing loaded, no text of a document.

use core::fmt::Write;

use super::{Estimate, FitResult, Method, MethodResult};

/// The page, as HTML. It holds codes of labels and figures.
pub fn page(title: &str, result: &FitResult) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'\">\n<title>{0}</title>\n<style>{STYLE}</style>\n</head>\n\
         <body>\n<h1>{0}</h1>\n<p>{1} labelled texts; everything by ten-fold cross-validation, five times; 95 % bootstrap \
         intervals.</p>\n",
        escaped(title),
        result.documents
    );
    calibration(&mut page, result);
    points(&mut page, result);
    out_of_distribution(&mut page, result);
    page.push_str("</body>\n</html>\n");
    page
}

const STYLE: &str = "body{font:15px sans-serif;margin:2em;color:#222;max-width:72em}table{border-collapse:collapse;\
margin:1em 0}td,th{padding:.2em .7em;text-align:right;border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}\
svg{margin-right:2em}text{font-size:12px;fill:#222}.axis{stroke:#222;fill:none}.diagonal{stroke:#999;stroke-dasharray:4 3}\
.line{stroke:#2a6f97;stroke-width:2;fill:none}.dot{fill:#2a6f97}";

fn calibration(page: &mut String, result: &FitResult) {
    page.push_str(
        "<h2>Calibration</h2>\n<table><tr><th>method</th><th>log loss</th><th>calibration error</th><th>by \
                   chance</th></tr>\n",
    );
    for method in &result.methods {
        let chosen = if method.method == result.method { " (chosen)" } else { "" };
        let _ = writeln!(
            page,
            "<tr><td>{:?}{chosen}</td><td>{:.4}</td><td>{:.4}</td><td>{:.4}</td></tr>",
            method.method, method.log_loss, method.calibration_error, method.calibration_error_of_chance
        );
    }
    page.push_str(
        "</table>\n<p>Calibration error: expected calibration error, ten bins, mean over the labels. By chance: what \
         perfectly calibrated probabilities would show on a sample of this size.</p>\n",
    );
    for (title, method) in [("before", Method::Identity), ("after", result.method)] {
        if let Some(method) = result.of(method) {
            reliability(page, title, method);
        }
    }
}

/// Side of a diagram, and its margin.
const SIDE: f64 = 260.0;
const MARGIN: f64 = 40.0;

fn reliability(page: &mut String, title: &str, method: &MethodResult) {
    let x = |value: f64| MARGIN + value * SIDE;
    let y = |value: f64| MARGIN + (1.0 - value) * SIDE;
    let size = SIDE + 2.0 * MARGIN;
    let _ = writeln!(
        page,
        "<svg width=\"{size}\" height=\"{size}\" role=\"img\" aria-label=\"Reliability {title}\">\n<text x=\"{MARGIN}\" \
         y=\"20\">Reliability {title}: said (right) and observed (up)</text>\n<rect class=\"axis\" x=\"{MARGIN}\" \
         y=\"{MARGIN}\" width=\"{SIDE}\" height=\"{SIDE}\"/>\n<line class=\"diagonal\" x1=\"{}\" y1=\"{}\" x2=\"{}\" \
         y2=\"{}\"/>",
        x(0.0),
        y(0.0),
        x(1.0),
        y(1.0)
    );
    let bins: Vec<_> = method.reliability.iter().filter(|bin| bin.count > 0).collect();
    let most = bins.iter().map(|bin| bin.count).max().unwrap_or(1) as f64;
    let line: Vec<String> =
        bins.iter().map(|bin| format!("{:.1},{:.1}", x(bin.mean_probability), y(bin.observed))).collect();
    let _ = writeln!(page, "<polyline class=\"line\" points=\"{}\"/>", line.join(" "));
    for bin in bins {
        let radius = 3.0 + 7.0 * (bin.count as f64 / most).sqrt();
        let _ = writeln!(
            page,
            "<circle class=\"dot\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius:.1}\"><title>{} decisions</title></circle>",
            x(bin.mean_probability),
            y(bin.observed),
            bin.count
        );
    }
    page.push_str("</svg>\n");
}

fn points(page: &mut String, result: &FitResult) {
    page.push_str(
        "<h2>Operating points</h2>\n<table><tr><th>name</th><th>micro-F1</th><th>precision</th><th>recall</th>\
                   <th>missed share</th></tr>\n",
    );
    for point in &result.points {
        let of = &point.measured;
        let cells = [of.micro_f1, of.micro_precision, of.micro_recall, of.missed_share].map(cell).concat();
        let _ = writeln!(page, "<tr><td>{}</td>{cells}</tr>", escaped(&point.name));
    }
    page.push_str(
        "</table>\n<p>Missed share: mean over the texts with a label of the share of their labels that is not \
                   given.</p>\n",
    );
    for point in &result.points {
        let _ = writeln!(
            page,
            "<h3>{}</h3>\n<table><tr><th>label</th><th>texts</th><th>threshold</th><th>precision</th><th>recall</th></tr>",
            escaped(&point.name)
        );
        for ((code, positives), label) in result.labels.iter().zip(&result.positives).zip(&point.labels) {
            let pooled = if label.pooled { " (of all labels)" } else { "" };
            let cells = [label.precision, label.recall].map(cell).concat();
            let _ = writeln!(
                page,
                "<tr><td>{}</td><td>{positives}</td><td>{:.3}{pooled}</td>{cells}</tr>",
                escaped(code),
                label.threshold
            );
        }
        page.push_str("</table>\n");
        if let Some(risk) = point.risk_on_halves {
            let _ = writeln!(
                page,
                "<p>Missed share on the other half, over 200 random halves: {:.3}; 95 % of the halves from {:.3} to \
                 {:.3}.</p>",
                risk.estimate, risk.low, risk.high
            );
        }
    }
}

fn out_of_distribution(page: &mut String, result: &FitResult) {
    let Some(score) = &result.out_of_distribution else { return };
    let _ = writeln!(
        page,
        "<h2>Out of distribution</h2>\n<p>{} directions, threshold {:.2}.</p>\n<table><tr><th>group</th><th>texts</th>\
         <th>AUROC</th><th>abstained</th></tr>",
        score.directions, score.threshold
    );
    for group in &score.groups {
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{:.3}</td><td>{:.1} %</td></tr>",
            escaped(&group.group),
            group.texts,
            group.auroc,
            100.0 * group.abstained
        );
    }
    page.push_str("</table>\n");
}

fn cell(of: Estimate) -> String {
    format!("<td>{:.3} ({:.3}&ndash;{:.3})</td>", of.estimate, of.low, of.high)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
