//! `kdh recalibrate`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use kdh_runtime::LabelerOptions;
use kdh_runtime::atomic_file::write_atomically;
use kdh_runtime::dataset::{self, Document};
use kdh_runtime::fitting::{self, Estimate, FitError, FitResult, Options, Strangeness};
use kdh_runtime::format::Policy;
use serde_json::json;

use crate::source::{self, BundleArgs, EngineArgs};
use crate::{Outcome, print, print_json};

/// Fit calibration and thresholds to a site's own labelled texts
///
/// The model does not change: a few hundred texts that the site has labelled say how its logits become probabilities, where
/// thresholds lie for each purpose, and how strange a text may be. Writes a new bundle, without signatures, with a rollback
/// counter one higher and with what was measured: everything by cross-validation, with 95 % bootstrap intervals.
///
/// Refuses, and says how many more texts are needed, when the sample is too small for what is asked (exit code 1).
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Labelled texts, JSON Lines as for `kdh eval`
    #[arg(value_name = "SITE.jsonl")]
    data: PathBuf,
    #[command(flatten)]
    bundle: BundleArgs,
    #[command(flatten)]
    engine: EngineArgs,
    /// Bundle to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Operating point NAME=POLICY, the first one the default; repeatable
    ///
    /// Policies: manifest (the model's own thresholds), max-f1, recall:R, precision:P, and risk:A (the expected share of a
    /// text's labels that is missed is at most A). Without the option: default=manifest, max-f1=max-f1,
    /// recall-0.9=recall:0.9, precision-0.9=precision:0.9, risk-0.1=risk:0.1.
    #[arg(long = "point", value_name = "NAME=POLICY")]
    points: Vec<String>,
    /// Labels with too few texts get the threshold of all labels together, instead of a refusal
    #[arg(long)]
    pool_small_labels: bool,
    /// Texts of the model's kind, to learn what is not strange; labels are not looked at
    ///
    /// Without them the bundle's own statistics stay, and only the threshold is set to the site's texts.
    #[arg(long, value_name = "TEXTS.jsonl")]
    reference: Option<PathBuf>,
    /// Strange texts that the score must know, ids as GROUP/NUMBER; several files separated by commas
    #[arg(long, value_name = "TEXTS.jsonl", value_delimiter = ',', requires = "reference")]
    far: Vec<PathBuf>,
    /// Texts of a neighbouring kind, on which the score is measured only
    #[arg(long, value_name = "TEXTS.jsonl", requires = "reference")]
    near: Option<PathBuf>,
    /// Fewest tokens of a text
    #[arg(long, value_name = "TOKENS", default_value_t = Options::default().limits.min_tokens)]
    min_tokens: u32,
    /// Largest share of unknown tokens
    #[arg(long, value_name = "RATE", default_value_t = Options::default().limits.max_unknown_rate)]
    max_unknown_rate: f32,
    /// Share of texts of the model's kind that may be taken for strange ones
    #[arg(long, value_name = "RATE", default_value_t = Options::default().false_abstention_rate)]
    false_abstention_rate: f64,
    /// What the texts are, for people: origin, who labelled them
    #[arg(long, value_name = "TEXT", default_value = "")]
    data_name: String,
    /// Who recalibrates, for people
    #[arg(long, value_name = "NAME", default_value = "")]
    author: String,
    /// Today, for people; the program reads no clock
    #[arg(long, value_name = "YYYY-MM-DD", default_value = "")]
    date: String,
    /// Rollback counter of the new bundle; one more than the old one's otherwise
    #[arg(long, value_name = "NUMBER")]
    rollback_counter: Option<u64>,
    /// Seed of shuffles and bootstraps
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Write a page with reliability diagrams and tables
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let path = args.bundle.path()?;
    let shown = || path.display().to_string();
    let file = source::open(&path)?;
    let bundle = file.verify().with_context(shown)?;
    let labeler = args.engine.labeler(&path, LabelerOptions::new())?;
    let options = args.options(bundle.rollback_counter())?;
    let read = |path: &Path| dataset::read(path).with_context(|| path.display().to_string());
    let documents = read(&args.data)?;
    let reference = args.reference.as_deref().map(read).transpose()?.unwrap_or_default();
    let near = args.near.as_deref().map(read).transpose()?.unwrap_or_default();
    let mut far: Vec<Document> = Vec::new();
    for path in &args.far {
        far.extend(read(path)?);
    }
    let strangeness = Strangeness { reference: &reference, far: &far, near: &near };

    // Hidden unless standard error is a terminal.
    let progress = ProgressBar::new((documents.len() + strangeness.documents()) as u64);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} texts, {eta} left") {
        progress.set_style(style);
    }
    let refitted = fitting::refit(&bundle, &labeler, &documents, &strangeness, &options, || progress.inc(1));
    progress.finish_and_clear();
    let refitted = match refitted {
        Err(error @ FitError::TooFew(_)) => {
            if args.json {
                print_json(&json!({"ok": false, "error": error.to_string()}))?;
            } else {
                print(&format!("REFUSED: {error}\n"))?;
            }
            return Ok(Outcome::CheckFailed);
        }
        refitted => refitted.with_context(|| args.data.display().to_string())?,
    };
    write_atomically(&args.output, &refitted.bundle)
        .with_context(|| format!("cannot write {}", args.output.display()))?;
    if let Some(path) = &args.html {
        let page = fitting::page(&format!("kdh recalibrate: {}", args.output.display()), &refitted.result);
        write_atomically(path, page.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if args.json {
        let mut value = serde_json::to_value(&refitted.result)?;
        value["ok"] = true.into();
        value["file"] = json!(args.output);
        value["bytes"] = refitted.bundle.len().into();
        print_json(&value)?
    } else {
        let bytes = refitted.bundle.len();
        print(&format!("{}\n{}: {bytes} bytes, unsigned\n", table(&refitted.result), args.output.display()))?
    }
    Ok(Outcome::Done)
}

impl Args {
    fn options(&self, rollback_counter: u64) -> anyhow::Result<Options> {
        let mut options = Options::default();
        if !self.points.is_empty() {
            options.points = self.points.iter().map(|point| parse_point(point)).collect::<anyhow::Result<_>>()?;
        }
        options.limits.min_tokens = self.min_tokens;
        options.limits.max_unknown_rate = self.max_unknown_rate;
        options.false_abstention_rate = self.false_abstention_rate;
        options.pool_small_labels = self.pool_small_labels;
        options.data = self.data_name.clone();
        options.author = self.author.clone();
        options.date = self.date.clone();
        options.command = self.command();
        options.rollback_counter = Some(self.rollback_counter.unwrap_or_else(|| rollback_counter.saturating_add(1)));
        options.seed = self.seed;
        if !(0.0..1.0).contains(&self.false_abstention_rate) {
            return Err(anyhow!("--false-abstention-rate must be at least 0 and below 1"));
        }
        Ok(options)
    }

    /// The names of the files, without their folders, which may say more than a bundle should.
    fn command(&self) -> String {
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut command = format!("kdh recalibrate {}", name(&self.data));
        for (option, path) in [("--reference", &self.reference), ("--near", &self.near)] {
            if let Some(path) = path {
                let _ = write!(command, " {option} {}", name(path));
            }
        }
        if !self.far.is_empty() {
            let _ = write!(command, " --far {}", self.far.iter().map(name).collect::<Vec<_>>().join(","));
        }
        for point in &self.points {
            let _ = write!(command, " --point {point}");
        }
        if self.pool_small_labels {
            command.push_str(" --pool-small-labels");
        }
        let _ = write!(command, " --seed {}", self.seed);
        command
    }
}

fn parse_point(point: &str) -> anyhow::Result<(String, Policy)> {
    let wrong =
        || anyhow!("--point {point}: give NAME=POLICY; policies are manifest, max-f1, recall:R, precision:P, risk:A");
    let (name, policy) = point.split_once('=').ok_or_else(wrong)?;
    let (kind, value) = policy.split_once(':').unwrap_or((policy, ""));
    let number = || {
        let value: f32 = value.parse().map_err(|_| wrong())?;
        if value > 0.0 && value < 1.0 {
            Ok(value)
        } else {
            Err(anyhow!("--point {point}: {value} is not between 0 and 1"))
        }
    };
    let policy = match kind {
        "manifest" => Policy::Manifest,
        "max-f1" => Policy::MaxF1,
        "recall" => Policy::RecallFloor(number()?),
        "precision" => Policy::PrecisionFloor(number()?),
        "risk" => Policy::RiskControl(number()?),
        _ => return Err(wrong()),
    };
    Ok((name.to_owned(), policy))
}

fn table(result: &FitResult) -> String {
    let mut table =
        format!("{} labelled texts\n\n{:16} log loss  calibration error  by chance\n", result.documents, "");
    for method in &result.methods {
        let chosen = if method.method == result.method { "chosen" } else { "" };
        let _ = writeln!(
            table,
            "{:16} {:8.4} {:18.4} {:10.4}  {chosen}",
            format!("{:?}", method.method),
            method.log_loss,
            method.calibration_error,
            method.calibration_error_of_chance
        );
    }
    let cell = |of: Estimate| format!("{:.3} ({:.3} to {:.3})", of.estimate, of.low, of.high);
    let _ = writeln!(table, "\n{:16} {:24} {:24} {:24} missed share", "", "micro-F1", "precision", "recall");
    for point in &result.points {
        let of = &point.measured;
        let [f1, precision, recall, missed] =
            [of.micro_f1, of.micro_precision, of.micro_recall, of.missed_share].map(cell);
        let _ = writeln!(table, "{:16} {f1:24} {precision:24} {recall:24} {missed}", point.name);
    }
    for point in &result.points {
        if let Some(risk) = point.risk_on_halves {
            let _ =
                writeln!(table, "{}: missed share on the other half, 200 random halves: {}", point.name, cell(risk));
        }
    }
    for point in &result.points {
        let _ = writeln!(table, "\n{:24} threshold  precision                recall", point.name);
        for ((code, positives), label) in result.labels.iter().zip(&result.positives).zip(&point.labels) {
            let pooled = if label.pooled { "  (threshold of all labels)" } else { "" };
            let _ = writeln!(
                table,
                "  {code:10} {positives:4} texts {:10.3}  {:24} {}{pooled}",
                label.threshold,
                cell(label.precision),
                cell(label.recall)
            );
        }
    }
    if let Some(score) = &result.out_of_distribution {
        let _ = writeln!(
            table,
            "\nout of distribution: {} directions, residual x {:.3} - largest logit x {}, threshold {:.3}",
            score.directions, score.residual_weight, score.logit_weight, score.threshold
        );
        for group in &score.groups {
            let _ = writeln!(
                table,
                "  {:12} {:4} texts  AUROC {:.4}, {:.1} % above the threshold{}",
                group.group,
                group.texts,
                group.auroc,
                100.0 * group.abstained,
                if group.near { " (near: measured only)" } else { "" }
            );
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_names_and_policies() {
        assert_eq!(parse_point("ward=recall:0.95").unwrap(), ("ward".into(), Policy::RecallFloor(0.95)));
        assert_eq!(parse_point("a=max-f1").unwrap(), ("a".into(), Policy::MaxF1));
        assert_eq!(parse_point("r=risk:0.1").unwrap(), ("r".into(), Policy::RiskControl(0.1)));
        for wrong in ["ward", "ward=", "ward=recall", "ward=recall:1.5", "ward=recall:x", "ward=best"] {
            assert!(parse_point(wrong).is_err(), "{wrong}");
        }
    }
}
