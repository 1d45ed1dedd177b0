//! `kdh label`.

use std::fmt::Write;
use std::path::PathBuf;
use std::thread;

use anyhow::Context;
use kdh_runtime::{LabelReport, LabelerOptions, Report};
use serde::Serialize;

use crate::audit::{self, AuditArgs};
use crate::source::{self, BundleArgs, EngineArgs, EngineReport};
use crate::texts::{Labelled, TextArgs, TextLabeler};
use crate::verify::hex;
use crate::{Outcome, batch, print, print_json};

mod page;

/// Label a text
///
/// Prints the labels that the text is given, each with the sentences that carry it: their share of the evidence, their
/// byte range and their words. Then the labels that it is not given.
///
/// A text of more tokens than the model takes goes through it in windows of whole sentences: all of it is seen, and
/// evidence comes from all of it.
///
/// With --jsonl it labels many texts: IN has one JSON object a line, {"id": "a1", "text": "..."}, and OUT gets one for each,
/// in the same order: {"line": 1, "id": "a1", "kdh_version": ..., "bundle": digest, "labels": [...], ...}, without text. A
/// line that cannot be labelled has "error" instead of labels, and the exit code is 1. When OUT is there, as after a kill, the run goes
/// on behind its last whole line.
///
/// With --audit every result has its record. A text whose result a kill has cost is labelled again, and recorded again.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Text to label, UTF-8, at most 64 MiB (1 MiB unless in windows); `-` reads standard input
    #[arg(value_name = "FILE", default_value = "-")]
    text: PathBuf,
    /// Label the texts of a JSON Lines file
    #[arg(long, num_args = 2, value_names = ["IN", "OUT"], conflicts_with_all = ["text", "json"])]
    jsonl: Option<Vec<PathBuf>>,
    /// Threads of --jsonl; as many as there are cores unless given
    #[arg(long, value_name = "N", requires = "jsonl", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    #[command(flatten)]
    bundle: BundleArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    texts: TextArgs,
    #[command(flatten)]
    audit: AuditArgs,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Write a page that shows the text with the sentences that carry each label, for demonstrations. It holds the text
    #[arg(long, value_name = "FILE", conflicts_with = "jsonl")]
    html: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let path = args.bundle.path()?;
    let options = args.texts.options(LabelerOptions::new());
    if let Some([input, output]) = args.jsonl.as_deref() {
        let labeler = args.engine.labeler(&path, options)?;
        let digest = hex(&labeler.bundle_digest());
        let threads = args.threads.map_or_else(|| thread::available_parallelism().map_or(1, usize::from), usize::from);
        let log = args.audit.open()?;
        return batch::run(&labeler, &digest, &args.texts, threads, log, [input, output]);
    }
    let text = source::read_text(&args.text, args.texts.max_bytes())?;
    let labeler = args.engine.labeler(&path, options)?;
    let (log, mut texts) = (args.audit.open()?, TextLabeler::new(&labeler, &args.texts));
    let (labelled, entry) = audit::timed(&labeler, || Ok(texts.label(&text)?));
    // No labels of which there is no record.
    if let Some(mut log) = log {
        log.append(&entry)?;
        log.sync()?;
    }
    let labelled = labelled.with_context(|| args.text.display().to_string())?;
    let engine = EngineReport::new(&labeler);
    if let Some(path) = &args.html {
        let page = page::page(&labelled.report, &text, &facts(&labelled, &engine));
        std::fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if args.json {
        print_json(&JsonReport { engine: Some(engine), ..JsonReport::new(&labelled) })?
    } else {
        print(&table(&labelled, &text, &engine))?
    }
    Ok(Outcome::Done)
}

fn table(labelled: &Labelled<'_>, text: &str, engine: &EngineReport<'_>) -> String {
    let report = &labelled.report;
    let width = |column: for<'l> fn(&LabelReport<'l>) -> &'l str| {
        report.labels.iter().map(|label| column(label).chars().count()).max().unwrap_or_default()
    };
    let (codes, names) = (width(|label| label.code).max("label".len()), width(|label| label.name));
    let mut table = String::new();
    if !report.abstention.is_empty() {
        let _ = writeln!(table, "the model abstains: {}\n", report.abstention);
    }
    let _ = writeln!(table, "{:codes$}  {:names$}  probability  threshold", "label", "");
    let row = |table: &mut String, label: &LabelReport<'_>| {
        let LabelReport { code, name, probability, threshold, .. } = label;
        let _ = writeln!(table, "{code:codes$}  {name:names$}  {probability:11.3}  {threshold:9.3}");
    };
    for label in report.positive() {
        row(&mut table, label);
        for sentence in &label.evidence {
            let range = format!("{}..{}", sentence.start, sentence.end);
            let words = text.get(sentence.start as usize..sentence.end as usize).unwrap_or_default();
            let _ =
                writeln!(table, "{:codes$}  {:3.0} %  {range:>11}  {}", "", 100.0 * sentence.share, one_line(words));
        }
    }
    if report.positive().next().is_none() {
        table.push_str("no label is given\n");
    }
    if report.labels.iter().any(|label| !given(report, label)) {
        table.push_str("\nnot given\n");
    }
    for label in report.labels.iter().filter(|label| !given(report, label)) {
        row(&mut table, label);
    }
    let _ = write!(table, "\n{}", facts(labelled, engine));
    table
}

/// What the model has seen, and what ran it.
fn facts(labelled: &Labelled<'_>, engine: &EngineReport<'_>) -> String {
    let Report { text_tokens, kept_tokens, unknown_tokens, sentences, .. } = labelled.report;
    let mut facts = format!("{text_tokens} tokens ({unknown_tokens} unknown), {sentences} sentences");
    if labelled.report.truncated() {
        let _ = write!(facts, "; truncated: the model has seen the first {kept_tokens} tokens only");
    } else if labelled.windows > 1 {
        let _ = write!(facts, "; {} windows, all tokens seen", labelled.windows);
    }
    if labelled.splits > 0 {
        let _ = write!(facts, "; sentences longer than a window split in {} places", labelled.splits);
    }
    let report = &labelled.report;
    let calibrated = if report.calibrated { "calibrated" } else { "not calibrated" };
    let _ = write!(facts, "\noperating point {}, probabilities {calibrated}", report.operating_point);
    if let Some(ood) = report.out_of_distribution {
        let _ = write!(facts, "; out-of-distribution score {:.2}, at most {:.2}", ood.score, ood.threshold);
    }
    let _ = writeln!(facts, "\n{engine}");
    facts
}

fn given(report: &Report<'_>, label: &LabelReport<'_>) -> bool {
    report.abstention.is_empty() && label.positive()
}

/// Words of a text for a terminal: on one line, and with nothing that a terminal takes for a command.
fn one_line(words: &str) -> String {
    let mut line = String::with_capacity(words.len());
    for word in words.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }));
    }
    line
}

/// What a model says of a text, for results.
#[derive(Serialize)]
pub(crate) struct JsonReport<'r> {
    labels: Vec<JsonLabel<'r>>,
    /// Reasons; empty when the model does not abstain.
    abstention: Vec<&'static str>,
    out_of_distribution: Option<JsonScore>,
    calibrated: bool,
    operating_point: &'r str,
    text_tokens: usize,
    kept_tokens: usize,
    dropped_tokens: usize,
    unknown_tokens: usize,
    sentences: usize,
    truncated: bool,
    windows: usize,
    splits: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<EngineReport<'r>>,
}

#[derive(Serialize)]
struct JsonScore {
    score: f32,
    threshold: f32,
}

#[derive(Serialize)]
struct JsonLabel<'r> {
    code: &'r str,
    name: &'r str,
    /// The label is given.
    positive: bool,
    probability: f32,
    threshold: f32,
    logit: f32,
    evidence: Vec<JsonEvidence>,
}

#[derive(Serialize)]
struct JsonEvidence {
    start: u32,
    end: u32,
    share: f32,
    probability: f32,
    logit: f32,
}

impl<'r> JsonReport<'r> {
    pub(crate) fn new(labelled: &'r Labelled<'r>) -> Self {
        let report = &labelled.report;
        let evidence = |label: &LabelReport<'_>| {
            let sentences = label.evidence.iter().map(|sentence| JsonEvidence {
                start: sentence.start,
                end: sentence.end,
                share: sentence.share,
                probability: sentence.probability,
                logit: sentence.logit,
            });
            sentences.collect()
        };
        let labels = report.labels.iter().map(|label| JsonLabel {
            code: label.code,
            name: label.name,
            positive: given(report, label),
            probability: label.probability,
            threshold: label.threshold,
            logit: label.logit,
            evidence: evidence(label),
        });
        Self {
            labels: labels.collect(),
            abstention: report.abstention.names().collect(),
            out_of_distribution: report
                .out_of_distribution
                .map(|ood| JsonScore { score: ood.score, threshold: ood.threshold }),
            calibrated: report.calibrated,
            operating_point: report.operating_point,
            text_tokens: report.text_tokens,
            kept_tokens: report.kept_tokens,
            dropped_tokens: report.dropped_tokens(),
            unknown_tokens: report.unknown_tokens,
            sentences: report.sentences,
            truncated: report.truncated(),
            windows: labelled.windows,
            splits: labelled.splits,
            engine: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_cannot_command_the_terminal() {
        assert_eq!(
            one_line(" pulse\r\n72 \u{1b}[2J\u{9b}31m\u{7f} \u{e9}"),
            "pulse 72 \u{fffd}[2J\u{fffd}31m\u{fffd} \u{e9}"
        );
    }
}
