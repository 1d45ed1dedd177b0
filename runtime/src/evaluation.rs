//! Measures a labeler on labelled documents: how often it is right, and how long it takes.

use core::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

pub use evidence::{EvidenceQuality, leave_one_out};

use crate::benchmark::Sorted;
use crate::dataset::{self, DatasetError, Document};
use crate::document::DocumentOptions;
use crate::labeler::{LabelError, Labeler, Overflow};
use crate::metrics::calibration::mean_calibration_error;
use crate::metrics::{Metrics, MetricsError, evaluate};
use crate::report::Report;
use crate::text::Sentences;
use evidence::Meter;

mod evidence;

/// Labels `documents` one after the other and scores the labels; `done` is called after each document with its report.
///
/// A text that is more than the model takes goes through it in `windows`; the sentences of those are the box's. Without
/// `windows`, and with [`Boundaries::Corpus`], it is truncated. Both are counted, whatever the labeler's options say.
///
/// # Errors
///
/// [`EvaluationError`] when a document has a label that the model does not have, cannot be labelled, or has no sentences
/// where `boundaries` asks for them.
pub fn run(
    labeler: &Labeler,
    documents: &[Document],
    boundaries: Boundaries,
    windows: Option<&DocumentOptions>,
    mut done: impl FnMut(&Document, &Report<'_>),
) -> Result<Evaluation, EvaluationError> {
    let codes: Vec<&str> = labeler.codes().collect();
    let thresholds: Vec<f32> = labeler.thresholds().collect();
    let truth = dataset::truth(documents, &codes).map_err(EvaluationError::Data)?;
    let windows = windows.filter(|_| boundaries == Boundaries::Box);
    let mut scratch = labeler.scratch();
    let mut document_scratch = windows.map(|_| labeler.document_scratch());
    let mut probabilities = Vec::with_capacity(truth.len());
    let [mut tokenize, mut encoder, mut total, mut tokens] = [const { Vec::new() }; 4];
    let (mut truncated, mut windowed, mut unknown, mut abstained) = (0, 0, 0, 0);
    let mut meter = Meter::default();
    for (index, document) in documents.iter().enumerate() {
        let at_line = |error| EvaluationError::Label { line: index + 1, error };
        let text = document.text.as_str();
        let start = Instant::now();
        match boundaries {
            Boundaries::Box => labeler.encode(&mut scratch, text, Sentences::new(text), Overflow::Truncate),
            Boundaries::Corpus if document.sentences.is_empty() => {
                return Err(EvaluationError::NoSentences { line: index + 1 });
            }
            Boundaries::Corpus => {
                let sentences = document.sentences.iter().map(|sentence| sentence.start..sentence.end);
                labeler.encode(&mut scratch, text, sentences, Overflow::Truncate)
            }
        }
        .map_err(at_line)?;
        let encoded = Instant::now();
        let mut in_windows = false;
        let (report, ran) = match (windows, &mut document_scratch) {
            (Some(options), Some(document_scratch)) if labeler.overflows(&scratch) => {
                let document = labeler.label_document(document_scratch, options, text).map_err(at_line)?;
                in_windows = true;
                windowed += usize::from(document.windows > 1);
                (document.report, Instant::now())
            }
            _ => {
                labeler.run(&mut scratch).map_err(at_line)?;
                let ran = Instant::now();
                (labeler.decide(&scratch), ran)
            }
        };
        let end = Instant::now();

        probabilities.extend(report.labels.iter().map(|label| label.probability));
        tokenize.push(milliseconds(encoded - start));
        encoder.push(milliseconds(ran - encoded));
        total.push(milliseconds(end - start));
        tokens.push(report.text_tokens as f64);
        truncated += usize::from(report.truncated());
        abstained += usize::from(!report.abstention.is_empty());
        // The logits of a text of several windows are those of its last window.
        if !in_windows {
            let ranges = scratch.encoding.sentences().map(|sentence| sentence.start as usize..sentence.end as usize);
            let (ranges, logits) = (ranges.collect::<Vec<_>>(), scratch.engine.logits().sentences);
            for (label, of_label) in report.labels.iter().enumerate() {
                let column = || logits.iter().skip(label).step_by(codes.len()).copied().take(ranges.len());
                meter.add(document, of_label.code, &ranges, &column().collect::<Vec<f32>>());
            }
        }
        unknown += report.unknown_tokens;
        done(document, &report);
    }
    let metrics = evaluate(&codes, &truth, &probabilities, &thresholds).map_err(EvaluationError::Metrics)?;
    let calibration_error =
        mean_calibration_error(&truth, &probabilities, codes.len()).map_err(EvaluationError::Metrics)?;
    let text_tokens: f64 = tokens.iter().sum();
    Ok(Evaluation {
        total_ms: total.clone(),
        metrics,
        boundaries,
        latency_ms: Latency {
            tokenize: Distribution::new(tokenize),
            encoder: Distribution::new(encoder),
            total: Distribution::new(total),
        },
        tokens_per_text: Distribution::new(tokens),
        unknown_token_rate: if text_tokens > 0.0 { unknown as f64 / text_tokens } else { 0.0 },
        truncated,
        abstained,
        calibration_error,
        evidence: meter.quality(),
        windowed,
    })
}

/// Where sentences come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Boundaries {
    /// From the splitter that runs on the box.
    Box,
    /// From the documents' own `sentences`.
    Corpus,
}

/// What [`run`] measured. It serialises with its field names, the metrics beside the rest.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Evaluation {
    /// How often the labels are right.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// Where the sentences came from.
    pub boundaries: Boundaries,
    /// Time for one text, in milliseconds.
    pub latency_ms: Latency,
    /// Milliseconds of each text, from text to report, in the order of the documents. Not serialised.
    #[serde(skip)]
    pub total_ms: Vec<f64>,
    /// Tokens of a whole text, without special tokens.
    pub tokens_per_text: Distribution,
    /// Share of the tokens that stand for words that the vocabulary cannot spell.
    pub unknown_token_rate: f64,
    /// Texts of which the model has not seen all.
    pub truncated: usize,
    /// Texts of which the model says that it does not know; the scores count what their labels would be.
    pub abstained: usize,
    /// Expected calibration error of the probabilities, ten bins of equal width, mean over the labels.
    pub calibration_error: f64,
    /// How well the sentence logits find the sentences that carry a label; `None` when no sentence of the data has labels.
    pub evidence: Option<EvidenceQuality>,
    /// Texts that took more than one window.
    pub windowed: usize,
}

/// Time for one text, in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Latency {
    /// Tokeniser and sentence splitter.
    pub tokenize: Distribution,
    /// The graph.
    pub encoder: Distribution,
    /// From text to report.
    pub total: Distribution,
}

/// Mean and percentiles (nearest rank) of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are the statistics")]
pub struct Distribution {
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

impl Distribution {
    /// All zero without values.
    fn new(values: Vec<f64>) -> Self {
        let sorted = Sorted::new(values);
        let percentile = |percent: usize| sorted.percentile(10 * percent).unwrap_or_default();
        Self {
            mean: sorted.mean().unwrap_or_default(),
            p50: percentile(50),
            p90: percentile(90),
            p99: percentile(99),
            max: percentile(100),
        }
    }
}

/// A labeler cannot be measured. It never holds text of a document.
#[derive(Debug)]
#[non_exhaustive]
pub enum EvaluationError {
    /// A document has a label that the model does not have.
    Data(DatasetError),
    /// A document gets no labels.
    Label {
        /// The document's line, counted from 1.
        line: usize,
        /// Why.
        error: LabelError,
    },
    /// [`Boundaries::Corpus`], and a document has no sentences.
    NoSentences {
        /// The document's line, counted from 1.
        line: usize,
    },
    /// The scores cannot be computed.
    Metrics(MetricsError),
}

impl fmt::Display for EvaluationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(error) => error.fmt(f),
            Self::Label { line, error } => write!(f, "line {line}: {error}"),
            Self::NoSentences { line } => {
                write!(f, "line {line}: the document has no sentences; use the boundaries of the box")
            }
            Self::Metrics(error) => error.fmt(f),
        }
    }
}

// The texts above already hold the text of the cause, so `source` stays empty: a chain would print it twice.
impl core::error::Error for EvaluationError {}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_by_nearest_rank() {
        let of = |values: &[f64]| Distribution::new(values.to_vec());
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let expected = Distribution { mean: 50.5, p50: 50.0, p90: 90.0, p99: 99.0, max: 100.0 };
        assert_eq!(of(&hundred), expected);
        let expected = Distribution { mean: 2.0, p50: 2.0, p90: 3.0, p99: 3.0, max: 3.0 };
        assert_eq!(of(&[3.0, 1.0, 2.0]), expected);
        assert_eq!(of(&[7.0]), Distribution { mean: 7.0, p50: 7.0, p90: 7.0, p99: 7.0, max: 7.0 });
        assert_eq!(of(&[]), Distribution { mean: 0.0, p50: 0.0, p90: 0.0, p99: 0.0, max: 0.0 });
    }
}
