//! The report: one HTML page that needs nothing else.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Result, ensure};

use super::charts::{Line, Lines, Row, Rows, lines, rows};
use super::result::{ArmResult, CellResult, DataResult, RESULT_VERSION, ResultFile};
use crate::statistics::Interval;

/// Makes the page. `seconds` are those of each cell, by the name of its folder.
///
/// The page holds ids of leaking documents and no text of any; it refers to nothing outside itself and has no script.
///
/// # Errors
/// When the result has another version than this program writes, or a chart cannot be drawn.
pub fn html(result: &ResultFile, seconds: &BTreeMap<String, f64>) -> Result<String> {
    ensure!(
        result.version == RESULT_VERSION,
        "the result has version {}, this program reads {RESULT_VERSION}: run the experiment again",
        result.version
    );
    let mut page = String::new();
    let experiment = &result.experiment;
    let title = escape(&experiment.name);
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style></head>\n<body><main>\n<h1>Experiment {title}</h1>\n"
    );
    let page = &mut page;
    summary(page, result);
    for data in &result.data {
        data_set(page, result, data)?;
    }
    block_tests(page, result);
    searches(page, result)?;
    provenance(page, result, seconds);
    page.push_str("</main></body></html>\n");
    Ok(std::mem::take(page))
}

const STYLE: &str = "\
:root{color-scheme:light}\
body{margin:0;background:#fff;color:#262c34;font:16px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}\
main{max-width:1060px;margin:0 auto;padding:24px}\
h1{font-size:28px;margin:0 0 8px}h2{font-size:22px;margin:44px 0 8px;padding-top:12px;border-top:2px solid #e2e5e9}\
h3{font-size:17px;margin:28px 0 6px}\
p,li{max-width:84ch}small{color:#5a6370}.note{color:#5a6370;font-size:14px}\
.wide{overflow-x:auto}\
table{border-collapse:collapse;font-size:14px;margin:8px 0;font-variant-numeric:tabular-nums}\
th,td{padding:4px 10px;border-bottom:1px solid #e2e5e9;text-align:right;white-space:nowrap}\
th:first-child,td:first-child{text-align:left}th{background:#f5f6f8;font-weight:600}\
tr.reference td{font-weight:600}td.marked{background:#fff3d6}td.failed{color:#a01428;white-space:normal;text-align:left}\
code,pre{font:13px/1.45 ui-monospace,'DejaVu Sans Mono',monospace}\
pre{background:#f5f6f8;padding:12px;overflow-x:auto}\
figure{margin:8px 0}";

fn summary(page: &mut String, result: &ResultFile) {
    let experiment = &result.experiment;
    let failed = result.cells.iter().filter(|cell| cell.error.is_some()).count();
    let splits = match experiment.folds {
        Some(folds) => format!("{folds} stratified folds over training and dev documents together"),
        None => "the dev documents are scored".into(),
    };
    let _ = writeln!(
        page,
        "<p>Data sets: {}; arms: {}; seeds: {}; {splits}. Cells: {}, {failed} of them failed. Every arm is compared with \
         <b>{}</b>.</p>",
        result.data.len(),
        experiment.arms.len(),
        list(experiment.seeds.iter().map(u64::to_string)),
        result.cells.len(),
        escape(experiment.reference())
    );
    let _ = writeln!(
        page,
        "<p class=\"note\">Scores are over the scored documents of all folds together, averaged over seeds. {inner} % of \
         the training side, a stratified part, trained nothing: it chose the epoch and the thresholds. In the arms \
         that were trained here no scored document chose anything; what made predictions and teachers' logits that come \
         from files, this program does not know. Intervals are {level} % percentile intervals of {resamples} bootstrap resamples of the scored \
         documents, the same for all arms; they say how far other documents could move a score, not how far another \
         training could.</p>",
        inner = trim(100.0 * experiment.inner),
        level = trim(100.0 * experiment.confidence),
        resamples = experiment.resamples
    );
    if !result.left_out.is_empty() {
        let _ = writeln!(
            page,
            "<p>Left out, because their files are not there yet: {}.</p>",
            list(result.left_out.iter().map(|name| escape(name)))
        );
    }
    if failed > 0 {
        page.push_str("<h3>What failed</h3>\n<div class=\"wide\"><table><tr><th>cell</th><th>why</th></tr>");
        for cell in result.cells.iter().filter(|cell| cell.error.is_some()) {
            let _ = write!(
                page,
                "<tr><td>{} {} seed {} fold {}</td><td class=\"failed\">{}</td></tr>",
                escape(&cell.data),
                escape(&cell.arm),
                cell.seed,
                cell.fold,
                escape(cell.error.as_deref().unwrap_or_default())
            );
        }
        page.push_str("</table></div>\n");
    }
}

fn data_set(page: &mut String, result: &ResultFile, data: &DataResult) -> Result<()> {
    let name = escape(&data.name);
    let _ = writeln!(page, "<h2>{name}</h2>");
    let sizes: Vec<String> = data
        .folds
        .iter()
        .map(|fold| format!("{} train, {} inner, {} scored", fold.train, fold.inner, fold.scored))
        .collect();
    let sizes = match sizes.as_slice() {
        [one] => one.clone(),
        all => format!("{} folds; the first: {}", all.len(), all.first().map_or("", String::as_str)),
    };
    let _ = writeln!(page, "<p>{} documents, {} labels. {sizes}.</p>", data.documents, data.labels.len());
    leaks(page, data);
    let arms: Vec<&ArmResult> = result.arms.iter().filter(|arm| arm.data == data.name).collect();
    if arms.is_empty() {
        page.push_str("<p>No cell of this data set is done.</p>\n");
        return Ok(());
    }
    arm_table(page, result, &arms);

    let color = |arm: &str| result.experiment.arms.iter().position(|own| own.name == arm).unwrap_or(0);
    heading(page, "Micro-F1 of every arm");
    let chart = Rows {
        x: "micro-F1",
        zero: false,
        rows: arms
            .iter()
            .map(|arm| Row { name: arm.arm.clone(), intervals: vec![(arm.micro_f1, color(&arm.arm))] })
            .collect(),
        legend: Vec::new(),
    };
    figure(page, &rows(&chart)?);

    let comparisons: Vec<_> = result.comparisons.iter().filter(|comparison| comparison.data == data.name).collect();
    if !comparisons.is_empty() {
        let reference = escape(result.experiment.reference());
        heading(page, &format!("Ablation: micro-F1 of each arm less that of {reference}"));
        let chart = Rows {
            x: "difference of micro-F1 (left of zero: worse than the reference)",
            zero: true,
            rows: comparisons
                .iter()
                .map(|comparison| Row {
                    name: comparison.arm.clone(),
                    intervals: vec![(comparison.micro_f1, color(&comparison.arm))],
                })
                .collect(),
            legend: Vec::new(),
        };
        figure(page, &rows(&chart)?);
    }

    heading(page, "F1 of each label");
    let shown = chosen(result, &arms);
    let chart = Rows {
        x: "F1",
        zero: false,
        rows: data
            .labels
            .iter()
            .enumerate()
            .map(|(label, name)| Row {
                name: format!("{} (n = {})", name.code, data.support.get(label).unwrap_or(&0)),
                intervals: shown.iter().filter_map(|arm| Some((*arm.label_f1.get(label)?, color(&arm.arm)))).collect(),
            })
            .collect(),
        legend: shown.iter().map(|arm| (arm.arm.clone(), color(&arm.arm))).collect(),
    };
    figure(page, &rows(&chart)?);
    if shown.len() < arms.len() {
        let _ = writeln!(page, "<p class=\"note\">The chart shows {} arms; the table has all.</p>", shown.len());
    }
    label_table(page, data, &arms);
    mcnemar_table(page, result, data);

    heading(page, "Precision and recall");
    let curve = |arm: &&ArmResult| Line {
        name: arm.arm.clone(),
        points: arm.precision_recall.clone(),
        color: color(&arm.arm),
        minor: false,
        marked: false,
    };
    let chart = Lines {
        x: "recall",
        y: "precision",
        x_range: Some((0.0, 1.0)),
        y_range: Some((0.0, 1.02)),
        whole: false,
        diagonal: false,
        lines: arms.iter().map(curve).collect(),
    };
    figure(page, &lines(&chart)?);

    heading(page, "Calibration");
    let curve = |arm: &&ArmResult| Line {
        name: format!("{} ({:.3})", arm.arm, arm.calibration_error),
        points: arm.reliability.iter().map(|bin| (bin.probability, bin.rate)).collect(),
        color: color(&arm.arm),
        minor: false,
        marked: true,
    };
    let chart = Lines {
        x: "probability that the arm gives",
        y: "share that is true",
        x_range: Some((0.0, 1.0)),
        y_range: Some((0.0, 1.02)),
        whole: false,
        diagonal: true,
        lines: arms.iter().map(curve).collect(),
    };
    figure(page, &lines(&chart)?);
    page.push_str(
        "<p class=\"note\">Ten bins of equal width over all documents and labels; in brackets the expected calibration \
         error. On the grey line probabilities are what they say.</p>\n",
    );
    losses(page, result, data, &color)
}

fn leaks(page: &mut String, data: &DataResult) {
    const SHOWN: usize = 20;
    if data.leaks.is_empty() {
        page.push_str("<p>Leakage check: no scored document is in the training side, nor nearly so.</p>\n");
        return;
    }
    let _ = write!(
        page,
        "<p>Leakage check: {} pairs of a document of the training side and a scored one.</p>\n<div class=\"wide\"><table>\
         <tr><th>kind</th><th>fold</th><th>training side</th><th>scored</th><th>similarity</th></tr>",
        data.leaks.len()
    );
    for leak in data.leaks.iter().take(SHOWN) {
        let _ = write!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.3}</td></tr>",
            escape(&leak.kind),
            leak.fold,
            escape(&leak.train),
            escape(&leak.scored),
            leak.similarity
        );
    }
    page.push_str("</table></div>\n");
    if data.leaks.len() > SHOWN {
        let _ = writeln!(page, "<p class=\"note\">{} more are in result.json.</p>", data.leaks.len() - SHOWN);
    }
}

fn arm_table(page: &mut String, result: &ResultFile, arms: &[&ArmResult]) {
    page.push_str(
        "<div class=\"wide\"><table><tr><th>arm</th><th>micro-F1</th><th>SD of<br>seeds</th><th>macro-F1</th>\
         <th>difference<br>of micro-F1</th><th>difference<br>of macro-F1</th><th>micro-<br>AUPRC</th>\
         <th>micro-<br>AUROC</th><th>ECE</th></tr>",
    );
    for arm in arms {
        let class = if arm.arm == result.experiment.reference() { " class=\"reference\"" } else { "" };
        let seeds = if arm.seeds.len() < 2 { "–".into() } else { format!("{:.4}", arm.micro_f1_std) };
        let note = if arm.complete { "" } else { " (incomplete)" };
        let _ = write!(
            page,
            "<tr{class}><td>{}{note}</td><td>{:.4}<br><small>{}</small></td><td>{seeds}</td>\
             <td>{:.4}<br><small>{}</small></td>",
            escape(&arm.arm),
            arm.micro_f1.estimate,
            range(&arm.micro_f1),
            arm.macro_f1.estimate,
            range(&arm.macro_f1)
        );
        match result.comparisons.iter().find(|own| own.data == arm.data && own.arm == arm.arm) {
            None => page.push_str("<td>–</td><td>–</td>"),
            Some(comparison) => {
                for difference in [&comparison.micro_f1, &comparison.macro_f1] {
                    // Coloured where zero lies outside.
                    let class = if difference.low * difference.high > 0.0 { " class=\"marked\"" } else { "" };
                    let _ = write!(
                        page,
                        "<td{class}>{:+.4}<br><small>{}</small></td>",
                        difference.estimate,
                        range(difference)
                    );
                }
            }
        }
        let _ = write!(
            page,
            "<td>{}</td><td>{}</td><td>{:.4}</td>",
            optional(arm.micro_auprc),
            optional(arm.micro_auroc),
            arm.calibration_error
        );
        page.push_str("</tr>");
    }
    page.push_str(
        "</table></div>\n<p class=\"note\">A difference is coloured where its interval does not hold zero.</p>\n",
    );
}

fn label_table(page: &mut String, data: &DataResult, arms: &[&ArmResult]) {
    page.push_str("<div class=\"wide\"><table><tr><th>arm</th>");
    for label in &data.labels {
        let _ = write!(page, "<th title=\"{}\">{}</th>", escape(&label.name), escape(&label.code));
    }
    page.push_str("</tr>");
    for arm in arms {
        let _ = write!(page, "<tr><td>{}</td>", escape(&arm.arm));
        for f1 in &arm.label_f1 {
            let _ = write!(page, "<td title=\"{}\">{:.3}</td>", range(f1), f1.estimate);
        }
        page.push_str("</tr>");
    }
    page.push_str("</table></div>\n");
}

fn mcnemar_table(page: &mut String, result: &ResultFile, data: &DataResult) {
    let comparisons: Vec<_> = result.comparisons.iter().filter(|comparison| comparison.data == data.name).collect();
    if comparisons.is_empty() {
        return;
    }
    heading(page, "McNemar's test of each label against the reference");
    page.push_str("<div class=\"wide\"><table><tr><th>arm</th>");
    for label in &data.labels {
        let _ = write!(page, "<th>{}</th>", escape(&label.code));
    }
    page.push_str("</tr>");
    let alpha = 1.0 - result.experiment.confidence;
    for comparison in comparisons {
        let _ = write!(page, "<tr><td>{}</td>", escape(&comparison.arm));
        for label in &comparison.labels {
            let class = if label.holm < alpha { " class=\"marked\"" } else { "" };
            let test = &label.test;
            let _ = write!(
                page,
                "<td{class}>{}:{}<br><small>{}</small></td>",
                test.only_first,
                test.only_second,
                probability(label.holm)
            );
        }
        page.push_str("</tr>");
    }
    page.push_str(
        "</table></div>\n<p class=\"note\">Documents that only the arm decides rightly : documents that only the reference \
         does, and the p-value after Holm's correction over the labels of the row; exact below 25 such documents. Both \
         with their first seed.</p>\n",
    );
}

/// Loss of every epoch, of the first seed and fold.
fn losses(page: &mut String, result: &ResultFile, data: &DataResult, color: &dyn Fn(&str) -> usize) -> Result<()> {
    let first: Vec<&CellResult> = result
        .cells
        .iter()
        .filter(|cell| cell.data == data.name && cell.fold == 1 && !cell.epochs.is_empty())
        .filter(|cell| Some(&cell.seed) == result.experiment.seeds.first())
        .collect();
    if first.is_empty() {
        return Ok(());
    }
    heading(page, "Loss");
    let mut curves = Vec::new();
    for cell in first {
        for (minor, value) in [(false, true), (true, false)] {
            let points = cell.epochs.iter().enumerate();
            curves.push(Line {
                name: cell.arm.clone(),
                points: points
                    .map(|(at, epoch)| (at as f64 + 1.0, if value { epoch.inner_loss } else { epoch.train_loss }))
                    .collect(),
                color: color(&cell.arm),
                minor,
                marked: !minor,
            });
        }
    }
    let chart = Lines {
        x: "epoch, both stages together",
        y: "loss",
        x_range: None,
        y_range: None,
        whole: true,
        diagonal: false,
        lines: curves,
    };
    figure(page, &lines(&chart)?);
    page.push_str(
        "<p class=\"note\">First seed and fold. Strong: binary cross-entropy of documents of the inner part, which can be \
         compared between arms. Thin: the loss that is trained, with its sentence and teacher terms, which cannot.</p>\n",
    );
    Ok(())
}

fn block_tests(page: &mut String, result: &ResultFile) {
    if result.blocks.is_empty() {
        return;
    }
    page.push_str("<h2>Tests over folds</h2>\n");
    for tests in &result.blocks {
        let over = tests.data.as_deref().map_or("all data sets".into(), escape);
        let _ = writeln!(page, "<h3>{over}: {} blocks</h3>", tests.blocks);
        if tests.data.is_none() {
            page.push_str(
                "<p class=\"note\">Data sets that are samples of one corpus are not independent of each other.</p>\n",
            );
        }
        page.push_str("<div class=\"wide\"><table><tr><th>arm</th><th>mean rank</th><th>Wilcoxon, pairs</th><th>W</th><th>p</th><th>p (Holm)</th></tr>");
        for (index, arm) in tests.arms.iter().enumerate() {
            let rank = tests.friedman.as_ref().and_then(|friedman| friedman.mean_ranks.get(index));
            let _ = write!(
                page,
                "<tr><td>{}</td><td>{}</td>",
                escape(arm),
                rank.map_or("–".into(), |rank| format!("{rank:.2}"))
            );
            match (tests.wilcoxon.get(index), tests.wilcoxon_holm.get(index)) {
                (Some(Some(test)), Some(&Some(holm))) => {
                    let _ = write!(
                        page,
                        "<td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                        test.pairs,
                        test.statistic,
                        probability(test.p),
                        probability(holm)
                    );
                }
                _ => page.push_str("<td>–</td><td>–</td><td>–</td><td>–</td></tr>"),
            }
        }
        page.push_str("</table></div>\n");
        match &tests.friedman {
            Some(friedman) => {
                let _ = writeln!(
                    page,
                    "<p>Friedman: χ² = {:.3}, p = {}. Nemenyi: two arms differ when their mean ranks lie more than {:.2} \
                     apart.</p>",
                    friedman.statistic,
                    probability(friedman.p),
                    friedman.critical_difference
                );
            }
            None => page.push_str("<p>Friedman's test needs three arms.</p>\n"),
        }
    }
    page.push_str(
        "<p class=\"note\">Scores are micro-F1 averaged over seeds. With n folds that all agree Wilcoxon's exact p-value is \
         2/2ⁿ: 0.0625 for five. Training parts of folds overlap, which these tests do not know.</p>\n",
    );
}

fn searches(page: &mut String, result: &ResultFile) -> Result<()> {
    if result.searches.is_empty() {
        return Ok(());
    }
    page.push_str("<h2>Swarm search</h2>\n");
    let mut curves = Vec::new();
    for (color, search) in result.searches.iter().enumerate() {
        let mut best = f64::NEG_INFINITY;
        let scored = search.scores.iter().enumerate().filter_map(|(at, score)| Some((at as f64 + 1.0, (*score)?)));
        let points: Vec<(f64, f64)> = scored.collect();
        let so_far = points.iter().map(|&(at, score)| {
            best = best.max(score);
            (at, best)
        });
        curves.push(Line { name: search.name.clone(), points: so_far.collect(), color, minor: false, marked: false });
        curves.push(Line { name: String::new(), points, color, minor: true, marked: true });
    }
    let chart = Lines {
        x: "evaluation",
        y: "score at reduced fidelity",
        x_range: None,
        y_range: None,
        whole: true,
        diagonal: false,
        lines: curves,
    };
    figure(page, &lines(&chart)?);
    page.push_str("<p class=\"note\">Strong: the best so far. Thin: every evaluation, in the order in which it was handed out.</p>\n");
    Ok(())
}

fn provenance(page: &mut String, result: &ResultFile, seconds: &BTreeMap<String, f64>) {
    page.push_str("<h2>Provenance</h2>\n");
    let commit = if result.commit.is_empty() { "not given".into() } else { escape(&result.commit) };
    let total: f64 = seconds.values().sum();
    let _ = writeln!(
        page,
        "<p>kdh-train {}, commit {commit}. {:.0} s of training and scoring in all.</p>",
        escape(&result.program),
        total
    );
    page.push_str("<details><summary>Seconds, thresholds and key of every cell</summary><div class=\"wide\"><table><tr><th>cell</th><th>micro-F1</th><th>seconds</th><th>documents cut</th><th>policy</th><th>thresholds</th></tr>");
    for cell in &result.cells {
        let name = format!("{}.{}.seed-{}.fold-{}.{:.12}", cell.data, cell.arm, cell.seed, cell.fold, cell.key);
        let policy = cell.policy.and_then(|policy| serde_json::to_value(policy).ok());
        let _ = write!(
            page,
            "<tr><td><code>{}</code></td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&name),
            optional(cell.metrics.as_ref().map(|metrics| metrics.micro_f1)),
            seconds.get(&name).map_or("–".into(), |seconds| format!("{seconds:.1}")),
            cell.cut_documents,
            policy.as_ref().and_then(|policy| policy.as_str()).unwrap_or(if cell.error.is_some() {
                "–"
            } else {
                "given"
            }),
            list(cell.thresholds.iter().map(|threshold| format!("{threshold:.2}")))
        );
    }
    page.push_str("</table></div></details>\n<details><summary>The experiment as it was read</summary><pre>");
    page.push_str(&escape(&serde_json::to_string_pretty(&result.experiment).unwrap_or_default()));
    page.push_str("</pre></details>\n");
}

/// The reference and up to three others, those with the highest micro-F1.
fn chosen<'a>(result: &ResultFile, arms: &[&'a ArmResult]) -> Vec<&'a ArmResult> {
    const MOST: usize = 4;
    let mut order = arms.to_vec();
    order.sort_by(|one, other| other.micro_f1.estimate.total_cmp(&one.micro_f1.estimate));
    order.sort_by_key(|arm| arm.arm != result.experiment.reference());
    order.truncate(MOST);
    order
}

fn heading(page: &mut String, text: &str) {
    let _ = writeln!(page, "<h3>{text}</h3>");
}

fn figure(page: &mut String, svg: &str) {
    let _ = writeln!(page, "<figure>{svg}</figure>");
}

fn range(interval: &Interval) -> String {
    format!("[{:.3}, {:.3}]", interval.low, interval.high)
}

fn optional(value: Option<f64>) -> String {
    value.map_or("–".into(), |value| format!("{value:.4}"))
}

fn probability(p: f64) -> String {
    if p < 0.001 { "&lt; 0.001".into() } else { format!("{p:.3}") }
}

/// Without needless zeros.
fn trim(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
