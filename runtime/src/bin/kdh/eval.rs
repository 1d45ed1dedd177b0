//! `kdh eval`.

use std::fmt::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Context;
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use kdh_runtime::evaluation::{self, Boundaries, Distribution, Evaluation, EvidenceQuality};
use kdh_runtime::{LabelerOptions, dataset};
use serde::Serialize;
use serde_json::json;

use crate::source::{BundleArgs, EngineArgs, EngineReport};
use crate::texts::TextArgs;
use crate::{Outcome, print, print_json};

mod charts;
mod page;

/// Measure a bundle on labelled texts
///
/// The acceptance test that a site runs on its own data: how often the labels are right, how long a text takes on this
/// machine, how many tokens it has. One text at a time, on one thread.
///
/// DATA.jsonl has one JSON object a line: {"id": "a1", "text": "...", "labels": ["CODE", ...]}, and perhaps "sentences":
/// [{"start": 0, "end": 13, "labels": ["CODE"]}, ...] with byte offsets. Every label must be one of the model's; `kdh
/// inspect` shows them.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Labelled texts, JSON Lines
    #[arg(value_name = "DATA.jsonl")]
    data: PathBuf,
    #[command(flatten)]
    bundle: BundleArgs,
    #[command(flatten)]
    engine: EngineArgs,
    /// Where sentences come from
    #[arg(long, value_enum, default_value = "box")]
    boundaries: BoundariesArg,
    #[command(flatten)]
    texts: TextArgs,
    /// Measure with texts of so many consecutive ones joined, and the labels of all of them: what long texts cost
    #[arg(long, value_name = "N", default_value = "1")]
    concatenate: NonZeroUsize,
    /// Write every text's id, labels and logits to a file, JSON Lines, without the text: as `kdh-train eval` does
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,
    /// Measure leave-one-sentence-out too, the baseline of the evidence: a run of the model for every sentence
    #[arg(long)]
    leave_one_out: bool,
    /// Write a page with curves of each label, calibration, confusion, times and the worst errors, which it names by id
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum BoundariesArg {
    /// From the splitter that runs on the box
    Box,
    /// From the data's own sentences
    Corpus,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let path = args.bundle.path()?;
    let data = || args.data.display().to_string();
    let documents = dataset::concatenate(&dataset::read(&args.data).with_context(data)?, args.concatenate);
    let labeler = args.engine.labeler(&path, args.texts.options(LabelerOptions::new()))?;
    let boundaries = match args.boundaries {
        BoundariesArg::Box => Boundaries::Box,
        BoundariesArg::Corpus => Boundaries::Corpus,
    };
    // Hidden unless standard error is a terminal.
    let progress = ProgressBar::new(documents.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} texts, {eta} left") {
        progress.set_style(style);
    }
    let mut predictions = String::new();
    let mut probabilities = Vec::new();
    let evaluation =
        evaluation::run(&labeler, &documents, boundaries, args.texts.windows().as_ref(), |document, report| {
            if args.predictions.is_some() {
                let (codes, logits): (Vec<&str>, Vec<f32>) =
                    report.labels.iter().map(|label| (label.code, label.logit)).unzip();
                let line = json!({"id": document.id, "codes": codes, "labels": document.labels, "logits": logits});
                let _ = writeln!(predictions, "{line}");
            }
            probabilities.extend(report.labels.iter().map(|label| label.probability));
            progress.inc(1);
        });
    progress.finish_and_clear();
    let evaluation = evaluation.with_context(data)?;
    let leave_one_out = if args.leave_one_out {
        evaluation::leave_one_out(&labeler, &documents, || ()).with_context(data)?
    } else {
        None
    };
    let engine = EngineReport::new(&labeler);
    if let Some(path) = &args.predictions {
        std::fs::write(path, predictions).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &args.html {
        let codes: Vec<&str> = labeler.codes().collect();
        let thresholds: Vec<f32> = labeler.thresholds().collect();
        let ids: Vec<String> = documents.iter().map(|document| document.id.clone()).collect();
        let measured = page::Measured {
            codes: &codes,
            thresholds: &thresholds,
            ids: &ids,
            truth: &dataset::truth(&documents, &codes)?,
            probabilities: &probabilities,
            total_ms: &evaluation.total_ms,
        };
        let page = page::page(&measured, &format!("{}{engine}\n", table(&evaluation, leave_one_out)))?;
        std::fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if args.json {
        print_json(&JsonEvaluation { evaluation: &evaluation, leave_one_out, engine })?
    } else {
        print(&format!("{}{engine}\n", table(&evaluation, leave_one_out)))?
    }
    Ok(Outcome::Done)
}

#[derive(Serialize)]
struct JsonEvaluation<'e> {
    #[serde(flatten)]
    evaluation: &'e Evaluation,
    #[serde(skip_serializing_if = "Option::is_none")]
    leave_one_out: Option<EvidenceQuality>,
    engine: EngineReport<'e>,
}

fn table(evaluation: &Evaluation, leave_one_out: Option<EvidenceQuality>) -> String {
    let mut table = format!("{}\n", evaluation.metrics.to_string().trim_end());
    let _ = writeln!(table, "\n{:18} {:>8} {:>8} {:>8} {:>8} {:>8}", "", "mean", "p50", "p90", "p99", "max");
    let mut row = |name: &str, decimals: usize, distribution: &Distribution| {
        let Distribution { mean, p50, p90, p99, max, .. } = distribution;
        let _ = write!(table, "{name:18}");
        for value in [mean, p50, p90, p99, max] {
            let _ = write!(table, " {value:8.decimals$}");
        }
        table.push('\n');
    };
    row("tokenize, ms", 3, &evaluation.latency_ms.tokenize);
    row("encoder, ms", 3, &evaluation.latency_ms.encoder);
    row("total, ms", 3, &evaluation.latency_ms.total);
    row("tokens a text", 1, &evaluation.tokens_per_text);
    let boundaries = match evaluation.boundaries {
        Boundaries::Corpus => "the data",
        _ => "the box",
    };
    let _ = writeln!(
        table,
        "\nsentences from {boundaries}; {} texts truncated, {} in several windows; {:.3} % of the tokens unknown",
        evaluation.truncated,
        evaluation.windowed,
        100.0 * evaluation.unknown_token_rate
    );
    let _ = writeln!(
        table,
        "expected calibration error {:.4} (mean over labels); the model abstains on {} texts, which the scores count",
        evaluation.calibration_error, evaluation.abstained
    );
    if let Some(of) = evaluation.evidence {
        let _ = writeln!(
            table,
            "evidence, {} labels of texts: precision at 1 {:.3} (random order {:.3}), mean average precision {:.3} ({:.3})",
            of.pairs,
            of.precision_at_1,
            of.random_precision_at_1,
            of.mean_average_precision,
            of.random_mean_average_precision
        );
    }
    if let Some(of) = leave_one_out {
        let _ = writeln!(
            table,
            "evidence by leaving one sentence out: precision at 1 {:.3}, mean average precision {:.3}",
            of.precision_at_1, of.mean_average_precision
        );
    }
    table
}
