use core::ops::Range;

use serde::Serialize;

use super::EvaluationError;
use crate::dataset::Document;
use crate::labeler::{LabelError, Labeler, Overflow};
use crate::text::Sentences;

/// How well a ranking of sentences finds those that carry a label: over the pairs of a document and a label that it has,
/// where the data's sentences say which carry it.
///
/// A sentence of the box carries what a sentence of the data does that it shares half of the shorter one with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct EvidenceQuality {
    /// Pairs of a document and one of its labels.
    pub pairs: usize,
    /// Share of the pairs whose first sentence carries the label.
    pub precision_at_1: f64,
    /// Mean average precision.
    pub mean_average_precision: f64,
    /// The precision at 1 that a random order is expected to have.
    pub random_precision_at_1: f64,
    /// The mean average precision that a random order is expected to have.
    pub random_mean_average_precision: f64,
}

/// The baseline that needs a run of the model for every sentence: how far a label's document logit falls when the sentence
/// is left out of the text. `done` is called after each document.
///
/// # Errors
///
/// [`EvaluationError`] when a document cannot be labelled.
pub fn leave_one_out(
    labeler: &Labeler,
    documents: &[Document],
    mut done: impl FnMut(),
) -> Result<Option<EvidenceQuality>, EvaluationError> {
    let codes: Vec<&str> = labeler.codes().collect();
    let mut scratch = labeler.scratch();
    let mut meter = Meter::default();
    for (index, document) in documents.iter().enumerate() {
        let failed = |error| EvaluationError::Label { line: index + 1, error };
        let text = document.text.as_str();
        labeler.encode(&mut scratch, text, Sentences::new(text), Overflow::Truncate).map_err(failed)?;
        labeler.run(&mut scratch).map_err(failed)?;
        let whole = scratch.engine.logits().document.to_vec();
        let ranges: Vec<Range<usize>> =
            scratch.encoding.sentences().map(|sentence| sentence.start as usize..sentence.end as usize).collect();
        let mut falls = vec![Vec::new(); codes.len()];
        for out in &ranges {
            let rest = [text.get(..out.start), text.get(out.end..)].map(Option::unwrap_or_default).concat();
            let after = match labeler.encode(&mut scratch, &rest, Sentences::new(&rest), Overflow::Truncate) {
                // The only sentence: without it there is nothing.
                Err(LabelError::NoTokens) => vec![f32::NEG_INFINITY; codes.len()],
                encoded => {
                    encoded.map_err(failed)?;
                    labeler.run(&mut scratch).map_err(failed)?;
                    scratch.engine.logits().document.to_vec()
                }
            };
            for (falls, (before, after)) in falls.iter_mut().zip(whole.iter().zip(after)) {
                falls.push(before - after);
            }
        }
        for (code, falls) in codes.iter().zip(&falls) {
            meter.add(document, code, &ranges, falls);
        }
        done();
    }
    Ok(meter.quality())
}

/// Sums over pairs.
#[derive(Default)]
pub(super) struct Meter {
    pairs: usize,
    first: f64,
    average_precision: f64,
    random_first: f64,
    random_average_precision: f64,
}

impl Meter {
    /// Takes a label's scores of the sentences at `ranges`, if the document has the label and says where.
    pub(super) fn add(&mut self, document: &Document, code: &str, ranges: &[Range<usize>], scores: &[f32]) {
        if !document.labels.iter().any(|label| label == code) {
            return;
        }
        let of_data = || document.sentences.iter().filter(|of| of.labels.iter().any(|label| label == code));
        let carries = |range: &Range<usize>| of_data().any(|of| half_shared(range, &(of.start..of.end)));
        let mut ranked: Vec<(f32, bool)> =
            scores.iter().zip(ranges).map(|(&score, range)| (score, carries(range))).collect();
        let relevant = ranked.iter().filter(|sentence| sentence.1).count();
        if relevant == 0 {
            return;
        }
        // Of equal sentences the earlier one comes first, as in a report.
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (mut found, mut precisions) = (0_usize, 0.0);
        for (rank, (_, carries)) in ranked.iter().enumerate() {
            if *carries {
                found += 1;
                precisions += found as f64 / (rank + 1) as f64;
            }
        }
        let (all, relevant) = (ranked.len() as f64, relevant as f64);
        self.pairs += 1;
        self.first += f64::from(u8::from(ranked.first().is_some_and(|first| first.1)));
        self.average_precision += precisions / relevant;
        self.random_first += relevant / all;
        self.random_average_precision += random_average_precision(ranked.len(), relevant);
    }

    pub(super) fn quality(&self) -> Option<EvidenceQuality> {
        let mean = |sum: f64| sum / self.pairs as f64;
        (self.pairs > 0).then(|| EvidenceQuality {
            pairs: self.pairs,
            precision_at_1: mean(self.first),
            mean_average_precision: mean(self.average_precision),
            random_precision_at_1: mean(self.random_first),
            random_mean_average_precision: mean(self.random_average_precision),
        })
    }
}

/// The expected average precision of a random order of `all` sentences: a sentence at rank k carries the label with
/// probability R / N, and then each before it with (R - 1) / (N - 1).
fn random_average_precision(all: usize, relevant: f64) -> f64 {
    let others = if all > 1 { (relevant - 1.0) / (all - 1) as f64 } else { 0.0 };
    let at = |rank: usize| (1.0 + (rank - 1) as f64 * others) / rank as f64;
    (1..=all).map(at).sum::<f64>() / all as f64
}

fn half_shared(a: &Range<usize>, b: &Range<usize>) -> bool {
    let shared = a.end.min(b.end).saturating_sub(a.start.max(b.start));
    shared > 0 && 2 * shared >= a.len().min(b.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::DocumentSentence;

    fn document() -> Document {
        let sentence = |start, end, label: &str| DocumentSentence { start, end, labels: vec![label.into()] };
        Document {
            id: "1".into(),
            text: "0123456789".repeat(4),
            labels: vec!["A".into()],
            sentences: vec![sentence(0, 9, "A"), sentence(10, 19, "B"), sentence(20, 29, "A"), sentence(30, 39, "B")],
        }
    }

    #[test]
    fn counts_the_first_and_the_average() {
        let ranges = [0..9, 10..19, 20..29, 30..39];
        let mut meter = Meter::default();
        // Ranks of those that carry A: 2 and 3.
        meter.add(&document(), "A", &ranges, &[1.0, 2.0, 0.5, 0.1]);
        let quality = meter.quality().unwrap();
        assert_eq!((quality.pairs, quality.precision_at_1), (1, 0.0));
        assert!((quality.mean_average_precision - (0.5 + 2.0 / 3.0) / 2.0).abs() < 1e-9);
        assert_eq!(quality.random_precision_at_1, 0.5);
        // The document does not have B, though a sentence does.
        meter.add(&document(), "B", &ranges, &[1.0, 2.0, 0.5, 0.1]);
        meter.add(&document(), "A", &[0..20, 20..40], &[0.0, 1.0]);
        let quality = meter.quality().unwrap();
        assert_eq!((quality.pairs, quality.precision_at_1), (2, 0.5));
        assert!(Meter::default().quality().is_none());
    }

    #[test]
    fn a_random_order_is_what_all_orders_are_on_average() {
        let ranges = [0..9, 10..19, 20..29, 30..39];
        let mut meter = Meter::default();
        for a in 0..4 {
            for b in (0..4).filter(|b| *b != a) {
                for c in (0..4).filter(|c| ![a, b].contains(c)) {
                    let d = 6 - a - b - c;
                    meter.add(&document(), "A", &ranges, &[a, b, c, d].map(|rank| rank as f32));
                }
            }
        }
        let quality = meter.quality().unwrap();
        assert_eq!(quality.pairs, 24);
        assert!((quality.mean_average_precision - quality.random_mean_average_precision).abs() < 1e-9);
        assert!((quality.precision_at_1 - quality.random_precision_at_1).abs() < 1e-9);
    }
}
