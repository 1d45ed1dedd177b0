//! `kdh label`.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::ValueEnum;
use kdh_runtime::{LabelReport, LabelerOptions, Overflow, Report};
use serde::Serialize;

use crate::source::{self, BundleArgs, EngineArgs, EngineReport};
use crate::{Outcome, print, print_json};

/// Label a text
///
/// Prints the labels that the text is given, each with the sentences that carry it: their share of the evidence, their
/// byte range and their words. Then the labels that it is not given.
///
/// A text of more tokens than the model takes is truncated, and the last line says so.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Text to label, UTF-8, at most 1 MiB; `-` reads standard input
    #[arg(value_name = "FILE", default_value = "-")]
    text: PathBuf,
    #[command(flatten)]
    bundle: BundleArgs,
    #[command(flatten)]
    engine: EngineArgs,
    /// What to do with a text of more tokens than the model takes
    #[arg(long, value_enum, default_value = "truncate")]
    on_overflow: OverflowArg,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum OverflowArg {
    /// Label the first tokens
    Truncate,
    /// Refuse the text
    Refuse,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let path = args.bundle.path()?;
    let text = source::read_text(&args.text, LabelerOptions::DEFAULT_MAX_TEXT_BYTES)?;
    let on_overflow = match args.on_overflow {
        OverflowArg::Truncate => Overflow::Truncate,
        OverflowArg::Refuse => Overflow::Refuse,
    };
    let labeler = args.engine.labeler(&path, LabelerOptions::new().on_overflow(on_overflow))?;
    let report = labeler.label(&mut labeler.scratch(), &text).with_context(|| args.text.display().to_string())?;
    if args.json {
        print_json(&JsonReport::new(&report, EngineReport::new(&labeler)))?
    } else {
        print(&table(&report, &text, &EngineReport::new(&labeler)))?
    }
    Ok(Outcome::Done)
}

fn table(report: &Report<'_>, text: &str, engine: &EngineReport<'_>) -> String {
    let width = |column: for<'l> fn(&LabelReport<'l>) -> &'l str| {
        report.labels.iter().map(|label| column(label).chars().count()).max().unwrap_or_default()
    };
    let (codes, names) = (width(|label| label.code).max("label".len()), width(|label| label.name));
    let mut table = format!("{:codes$}  {:names$}  probability  threshold\n", "label", "");
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
    if report.labels.iter().any(|label| !label.positive()) {
        table.push_str("\nnot given\n");
    }
    for label in report.labels.iter().filter(|label| !label.positive()) {
        row(&mut table, label);
    }
    let Report { text_tokens, kept_tokens, unknown_tokens, sentences, .. } = report;
    let _ = write!(table, "\n{text_tokens} tokens ({unknown_tokens} unknown), {sentences} sentences");
    if report.truncated() {
        let _ = write!(table, "; truncated: the model has seen the first {kept_tokens} tokens only");
    }
    let _ = writeln!(table, "\n{engine}");
    table
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

#[derive(Serialize)]
struct JsonReport<'r> {
    labels: Vec<JsonLabel<'r>>,
    text_tokens: usize,
    kept_tokens: usize,
    dropped_tokens: usize,
    unknown_tokens: usize,
    sentences: usize,
    truncated: bool,
    engine: EngineReport<'r>,
}

#[derive(Serialize)]
struct JsonLabel<'r> {
    code: &'r str,
    name: &'r str,
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
    fn new(report: &'r Report<'_>, engine: EngineReport<'r>) -> Self {
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
            positive: label.positive(),
            probability: label.probability,
            threshold: label.threshold,
            logit: label.logit,
            evidence: evidence(label),
        });
        Self {
            labels: labels.collect(),
            text_tokens: report.text_tokens,
            kept_tokens: report.kept_tokens,
            dropped_tokens: report.dropped_tokens(),
            unknown_tokens: report.unknown_tokens,
            sentences: report.sentences,
            truncated: report.truncated(),
            engine,
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
