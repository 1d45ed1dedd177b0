use kdh_format::Head;

use super::window::WindowSentence;
use crate::engine::Logits;
use crate::report::{Evidence, MAX_EVIDENCE, Ranking};

/// How the logits of a text's windows become one document logit for each label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Aggregation {
    /// As the model's head does within a window: over the sentences of all windows, each counted once. For the
    /// sentence-evidence head the log-sum-exp of the sentence logits plus the head's bias, for the mean head the mean of
    /// the sentence logits, weighted by tokens.
    #[default]
    Head,
    /// The largest of the windows' document logits.
    Max,
    /// Noisy-or (Pearl 1988, section 4.3.2): the label is absent when it is absent from every window, as if windows were
    /// independent: `1 - prod(1 - p)`.
    NoisyOr,
}

/// What the windows so far say of one label, in constant memory.
#[derive(Clone)]
pub(super) struct LabelEvidence {
    /// Log-sum-exp of the sentence logits, as largest logit and sum of `exp(logit - largest)`.
    largest: f64,
    sum: f64,
    /// Tokens of the sentences, and the sum of the sentence logits weighted by them.
    tokens: f64,
    weighted: f64,
    /// What the head adds to the log-sum-exp.
    bias: f64,
    /// Largest document logit of a window.
    max: f64,
    /// `-sum(ln(1 - p))` over the windows.
    absent: f64,
    ranking: Ranking,
}

impl LabelEvidence {
    pub(super) fn new() -> Self {
        Self {
            largest: f64::NEG_INFINITY,
            sum: 0.0,
            tokens: 0.0,
            weighted: 0.0,
            bias: 0.0,
            max: f64::NEG_INFINITY,
            absent: 0.0,
            ranking: Ranking::new(),
        }
    }

    /// Takes a sentence, which is counted once.
    pub(super) fn sentence(&mut self, sentence: &WindowSentence, logit: f32) {
        let (value, tokens) = (f64::from(logit), f64::from(sentence.tokens));
        if value > self.largest {
            self.sum *= (self.largest - value).exp();
            self.largest = value;
        }
        self.sum += (value - self.largest).exp();
        self.tokens += tokens;
        self.weighted += tokens * value;
        self.ranking.push(sentence.start, sentence.end, logit);
    }

    /// Takes a window: its document logit and all its sentence logits.
    pub(super) fn window(&mut self, document: f32, sentences: impl Iterator<Item = f32> + Clone) {
        let document = f64::from(document);
        if self.max == f64::NEG_INFINITY {
            let largest = sentences.clone().map(f64::from).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = sentences.map(|logit| (f64::from(logit) - largest).exp()).sum();
            self.bias = document - (largest + sum.ln());
        }
        self.max = self.max.max(document);
        self.absent += softplus(document);
    }

    /// The document logit of the whole text.
    pub(super) fn logit(&self, aggregation: Aggregation, head: Head) -> f32 {
        let logit = match aggregation {
            Aggregation::Head if head == Head::Mean => self.weighted / self.tokens,
            Aggregation::Head => self.log_sum_exp() + self.bias,
            Aggregation::Max => self.max,
            // ln(p / (1 - p)) with 1 - p = exp(-absent).
            Aggregation::NoisyOr => self.absent + (-(-self.absent).exp_m1()).ln(),
        };
        logit as f32
    }

    /// The sentences that carry the label.
    pub(super) fn evidence(&self) -> heapless::Vec<Evidence, MAX_EVIDENCE> {
        let all = self.log_sum_exp();
        self.ranking.evidence(|logit| (f64::from(logit) - all).exp() as f32)
    }

    fn log_sum_exp(&self) -> f64 {
        self.largest + self.sum.ln()
    }
}

/// `ln(1 + exp(x))`, for any `x`.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// The logits of one label's sentences in a window.
pub(super) fn column<'a>(
    logits: &'a Logits<'_>,
    labels: usize,
    sentences: usize,
    label: usize,
) -> impl Iterator<Item = f32> + Clone + use<'a> {
    logits.sentences.chunks_exact(labels.max(1)).take(sentences).filter_map(move |row| row.get(label).copied())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(windows: &[(f32, &[f32])]) -> LabelEvidence {
        let mut label = LabelEvidence::new();
        for (document, sentences) in windows {
            label.window(*document, sentences.iter().copied());
            for &logit in *sentences {
                label.sentence(&WindowSentence { start: 0, end: 1, tokens: 3 }, logit);
            }
        }
        label
    }

    #[test]
    fn windows_by_hand() {
        // Log-sum-exp of (0, 0) plus 1, and of (1) plus 1.
        let two = of(&[(2.0_f32.ln() + 1.0, &[0.0, 0.0]), (2.0, &[1.0])]);
        let head = two.logit(Aggregation::Head, Head::SentenceEvidence);
        assert!((head - ((2.0 + 1.0_f32.exp()).ln() + 1.0)).abs() < 1e-6, "{head}");
        assert_eq!(two.logit(Aggregation::Max, Head::SentenceEvidence), 2.0);
        assert!((two.logit(Aggregation::Head, Head::Mean) - 1.0 / 3.0).abs() < 1e-6);
        // Two windows of 1/2 each: 3/4, whose logit is ln 3.
        let or = of(&[(0.0, &[0.0]), (0.0, &[0.0])]).logit(Aggregation::NoisyOr, Head::Mean);
        assert!((or - 3.0_f32.ln()).abs() < 1e-6, "{or}");
    }

    #[test]
    fn logits_of_any_size_stay_finite() {
        for logit in [1e4, -1e4, 3e38, -3e38, 0.0] {
            let label = of(&[(logit, &[logit]), (logit / 2.0, &[logit, -logit])]);
            for aggregation in [Aggregation::Head, Aggregation::Max, Aggregation::NoisyOr] {
                for head in [Head::SentenceEvidence, Head::Mean] {
                    let found = label.logit(aggregation, head);
                    assert!(!found.is_nan(), "{logit} {aggregation:?}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn one_window_is_its_own_aggregate(
            sentences in prop::collection::vec(-12.0_f32..12.0, 1..40),
            bias in -3.0_f32..3.0,
        ) {
            let sum: f64 = sentences.iter().map(|&logit| f64::from(logit).exp()).sum();
            let document = sum.ln() as f32 + bias;
            let label = of(&[(document, &sentences)]);
            for aggregation in [Aggregation::Head, Aggregation::Max, Aggregation::NoisyOr] {
                let found = label.logit(aggregation, Head::SentenceEvidence);
                prop_assert!((found - document).abs() < 1e-4, "{aggregation:?}: {found} {document}");
            }
        }
    }
}
