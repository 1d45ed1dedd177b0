use core::cmp::Ordering;

use heapless::Vec;
use kdh_format::MAX_LABELS;

use crate::decision::{Abstention, OutOfDistributionScore};

/// Most sentences that a label's evidence names.
pub const MAX_EVIDENCE: usize = 8;

/// Evidence names sentences until they carry this share of it.
const EVIDENCE_SHARE: f32 = 0.9;

/// What a model says of one text.
///
/// A report holds byte ranges of the text, never the text. Names are borrowed from the
/// [`Labeler`](crate::Labeler).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Report<'l> {
    /// Every label of the model, in the order of the manifest; none when the text is [empty](Abstention::EMPTY), of which the
    /// model says nothing.
    pub labels: Vec<LabelReport<'l>, MAX_LABELS>,
    /// Why the model does not know. [`positive`](Self::positive) gives no label then; `labels` still has what the logits
    /// would say.
    pub abstention: Abstention,
    /// How strange the text is to the model; `None` when the bundle has no statistics for it, or tract runs the model.
    pub out_of_distribution: Option<OutOfDistributionScore>,
    /// Whether the probabilities are calibrated by the bundle.
    pub calibrated: bool,
    /// Name of the operating point whose thresholds hold.
    pub operating_point: &'l str,
    /// Tokens of the whole text, without the special ones.
    pub text_tokens: usize,
    /// Tokens of the text that the model has seen: the first ones.
    pub kept_tokens: usize,
    /// Tokens of the whole text that stand for words that the vocabulary cannot spell.
    pub unknown_tokens: usize,
    /// Sentences that the model has seen.
    pub sentences: usize,
}

/// What a model says of one text about one label.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LabelReport<'l> {
    /// Short code.
    pub code: &'l str,
    /// Name in words.
    pub name: &'l str,
    /// Document logit.
    pub logit: f32,
    /// The calibrated probability; the logistic function of `logit` when the bundle has no calibration.
    pub probability: f32,
    /// The label is given when `probability` is at least this.
    pub threshold: f32,
    /// Sentences that carry the label, the strongest first. Empty unless the probability reaches the threshold.
    ///
    /// The fewest sentences that together carry 90 % of the evidence, [`MAX_EVIDENCE`] at most, at least one.
    pub evidence: Vec<Evidence, MAX_EVIDENCE>,
}

/// A sentence that carries a label.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Evidence {
    /// First byte of the sentence in the text.
    pub start: u32,
    /// One past the last byte of the sentence in the text, even if the model has not seen all of a truncated text's last
    /// sentence.
    pub end: u32,
    /// Sentence logit.
    pub logit: f32,
    /// The logistic function of `logit`: not calibrated.
    pub probability: f32,
    /// The sentence's share of all evidence for the label: the softmax of the label's sentence logits.
    ///
    /// With the sentence-evidence head the document logit is the log-sum-exp of the sentence logits plus a bias, so the
    /// shares are the gradient of the document logit, and sum to 1 over the text's sentences.
    pub share: f32,
}

impl<'l> Report<'l> {
    /// The report of a text without tokens.
    pub(crate) fn of_nothing(operating_point: &'l str) -> Self {
        Self {
            labels: Vec::new(),
            abstention: Abstention::EMPTY,
            out_of_distribution: None,
            calibrated: false,
            operating_point,
            text_tokens: 0,
            kept_tokens: 0,
            unknown_tokens: 0,
            sentences: 0,
        }
    }

    /// The labels that are given: none when the model abstains.
    pub fn positive(&self) -> impl Iterator<Item = &LabelReport<'l>> {
        self.labels.iter().filter(|label| self.abstention.is_empty() && label.positive())
    }

    /// Tokens at the end of the text that the model has not seen.
    pub fn dropped_tokens(&self) -> usize {
        self.text_tokens.saturating_sub(self.kept_tokens)
    }

    /// Whether the model has not seen all of the text.
    pub fn truncated(&self) -> bool {
        self.dropped_tokens() > 0
    }
}

impl LabelReport<'_> {
    /// Whether the probability reaches the threshold: the label is given unless the report abstains.
    pub fn positive(&self) -> bool {
        self.probability >= self.threshold
    }
}

/// The sentences that carry a label: byte range and sentence logit of each sentence come in, in order of the text.
pub(crate) fn evidence(sentences: impl Iterator<Item = (u32, u32, f32)> + Clone) -> Vec<Evidence, MAX_EVIDENCE> {
    let largest = sentences.clone().map(|(_, _, logit)| logit).fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = sentences.clone().map(|(_, _, logit)| (logit - largest).exp()).sum();
    let mut ranking = Ranking::new();
    sentences.for_each(|(start, end, logit)| ranking.push(start, end, logit));
    ranking.evidence(|logit| (logit - largest).exp() / total)
}

/// The strongest sentences of those that came by.
#[derive(Clone)]
pub(crate) struct Ranking(Vec<(u32, u32, f32), MAX_EVIDENCE>);

impl Ranking {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// Takes the next sentence of the text.
    pub(crate) fn push(&mut self, start: u32, end: u32, logit: f32) {
        // Of equal sentences the earlier one comes first.
        let rank = self.0.iter().position(|other| other.2.total_cmp(&logit) == Ordering::Less);
        let rank = rank.unwrap_or(self.0.len());
        if self.0.is_full() && rank < MAX_EVIDENCE {
            self.0.pop();
        }
        // A full list refuses a sentence that is weaker than all of it.
        let _ = self.0.insert(rank, (start, end, logit));
    }

    /// The fewest that carry enough of the evidence, with the share of each sentence by its logit.
    pub(crate) fn evidence(&self, share: impl Fn(f32) -> f32) -> Vec<Evidence, MAX_EVIDENCE> {
        let mut carried = 0.0;
        let mut found = Vec::new();
        for &(start, end, logit) in &self.0 {
            let share = share(logit);
            // Both lists have the same bound.
            let _ = found.push(Evidence { start, end, logit, probability: sigmoid(logit), share });
            carried += share;
            if carried >= EVIDENCE_SHARE {
                break;
            }
        }
        found
    }
}

/// The logistic function.
pub(crate) fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(logits: &[f32]) -> Vec<Evidence, MAX_EVIDENCE> {
        evidence(logits.iter().zip(0..).map(|(&logit, index)| (10 * index, 10 * index + 9, logit)))
    }

    #[test]
    fn one_sentence_carries_it_all() {
        let evidence = of(&[-3.0]);
        assert_eq!(evidence.len(), 1);
        assert_eq!((evidence[0].start, evidence[0].end, evidence[0].share), (0, 9, 1.0));
        assert_eq!(evidence[0].probability, sigmoid(-3.0));
    }

    #[test]
    fn strongest_first_until_enough() {
        // Shares 0.0900, 0.6652, 0.2447: the best two carry 0.91.
        let evidence = of(&[0.0, 2.0, 1.0]);
        let starts: std::vec::Vec<u32> = evidence.iter().map(|sentence| sentence.start).collect();
        assert_eq!(starts, [10, 20]);
        assert!((evidence[0].share - 0.665_240_97).abs() < 1e-6);
    }

    #[test]
    fn equal_sentences_keep_their_order_and_the_list_its_bound() {
        let evidence = of(&[1.5; 30]);
        let starts: std::vec::Vec<u32> = evidence.iter().map(|sentence| sentence.start).collect();
        assert_eq!(starts, [0, 10, 20, 30, 40, 50, 60, 70]);
    }

    #[test]
    fn logits_of_any_size() {
        for logits in [&[1e30, -1e30][..], &[-1e9, -1e9, -1e9], &[88.0, 89.0]] {
            let evidence = of(logits);
            assert!(!evidence.is_empty() && evidence.iter().all(|sentence| sentence.share.is_finite()), "{logits:?}");
        }
        assert!(of(&[]).is_empty());
    }

    #[test]
    fn sigmoid_at_the_ends() {
        assert_eq!((sigmoid(0.0), sigmoid(f32::MAX), sigmoid(f32::MIN)), (0.5, 1.0, 0.0));
    }

    proptest! {
        #[test]
        fn is_the_head_of_the_sorted_sentences(logits in prop::collection::vec(-20.0_f32..20.0, 1..70)) {
            let mut sorted: std::vec::Vec<(usize, f32)> = logits.iter().copied().enumerate().collect();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
            let found = of(&logits);
            prop_assert!(!found.is_empty());
            for (sentence, (index, logit)) in found.iter().zip(sorted) {
                prop_assert_eq!((sentence.start, sentence.logit), (10 * index as u32, logit));
            }
            let carried: f32 = found.iter().map(|sentence| sentence.share).sum();
            prop_assert!(found.len() == MAX_EVIDENCE.min(logits.len()) || carried >= 0.899);
            let without_last: f32 = found.iter().rev().skip(1).map(|sentence| sentence.share).sum();
            prop_assert!(without_last < 0.901);
        }
    }
}
