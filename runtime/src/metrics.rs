//! Multi-label classification metrics.
//!
//! [`evaluate`] computes what scikit-learn's `f1_score`, `precision_score`, `recall_score`, `hamming_loss`,
//! `accuracy_score`, `roc_auc_score` and `average_precision_score` compute, and a test compares the two.
//!
//! # Conventions
//!
//! - A label is predicted where `probability >= threshold`.
//! - A precision, recall or F1 without a denominator is 0 (`zero_division=0`). For `samples` that includes a document
//!   that has no label and is given none, although nothing is wrong with it: a corpus with many such documents has low
//!   `samples` values at best.
//! - `macro` is the plain mean over labels, `weighted` the mean weighted by support, `samples` the mean over documents,
//!   `micro` is over all (document, label) pairs at once.
//! - AUROC is the probability that a positive scores above a negative, ties counting one half. It is undefined
//!   (`None`, JSON `null`) for a label without positives or without negatives.
//! - AUPRC is the average precision `Σ (Rᵢ − Rᵢ₋₁) Pᵢ` over the distinct scores, without interpolation. It is undefined
//!   for a label without positives, where scikit-learn warns and returns 0.
//! - The macro means of AUROC and AUPRC are over the labels where the value is defined. scikit-learn returns NaN, or
//!   counts a 0, when a label is undefined; where every label is defined the two agree.

use core::fmt;

use serde::{Deserialize, Serialize};

pub mod calibration;
mod ranking;
mod table;
pub mod thresholds;

/// Scores `probabilities` against `truth`.
///
/// `truth` and `probabilities` are row-major `[documents, labels]`; `codes` and `thresholds` have one entry a label.
///
/// # Errors
///
/// [`MetricsError`] when there is no document or no label, the lengths do not fit each other, a probability is not in
/// 0..=1, or a threshold is not finite.
pub fn evaluate(
    codes: &[&str],
    truth: &[bool],
    probabilities: &[f32],
    thresholds: &[f32],
) -> Result<Metrics, MetricsError> {
    let labels = codes.len();
    let documents = check_matrix(truth, probabilities, labels)?;
    check_thresholds(thresholds, labels)?;

    let mut per_label = vec![Counts::default(); labels];
    let mut samples = Mean::default();
    let (mut wrong, mut exact) = (0_usize, 0_usize);
    for (truth, probabilities) in truth.chunks_exact(labels).zip(probabilities.chunks_exact(labels)) {
        let mut document = Counts::default();
        for (label, counts) in per_label.iter_mut().enumerate() {
            let predicted = probabilities[label] >= thresholds[label];
            counts.add(truth[label], predicted);
            document.add(truth[label], predicted);
        }
        samples.add(&document.scores(), 1.0);
        wrong += document.wrong();
        exact += usize::from(document.wrong() == 0);
    }

    let mut pooled = Counts::default();
    let (mut plain, mut weighted) = (Mean::default(), Mean::default());
    for counts in &per_label {
        pooled.pool(counts);
        plain.add(&counts.scores(), 1.0);
        weighted.add(&counts.scores(), counts.support as f64);
    }
    let (micro, plain, weighted, samples) = (pooled.scores(), plain.scores(), weighted.scores(), samples.scores());

    let per_label: Vec<LabelMetrics> = (0..labels)
        .map(|label| {
            let column = |index: usize| (probabilities[index * labels + label], truth[index * labels + label]);
            let ranking = ranking::Ranking::new((0..documents).map(column));
            let (counts, scores) = (per_label[label], per_label[label].scores());
            LabelMetrics {
                code: codes[label].to_owned(),
                f1: scores.f1,
                precision: scores.precision,
                recall: scores.recall,
                auroc: ranking.auroc(),
                auprc: ranking.average_precision(),
                support: counts.support,
                predicted: counts.predicted,
                true_positives: counts.true_positives,
                threshold: thresholds[label],
            }
        })
        .collect();
    let ranking = ranking::Ranking::new(probabilities.iter().copied().zip(truth.iter().copied()));

    Ok(Metrics {
        documents,
        micro_f1: micro.f1,
        micro_precision: micro.precision,
        micro_recall: micro.recall,
        macro_f1: plain.f1,
        macro_precision: plain.precision,
        macro_recall: plain.recall,
        weighted_f1: weighted.f1,
        weighted_precision: weighted.precision,
        weighted_recall: weighted.recall,
        samples_f1: samples.f1,
        samples_precision: samples.precision,
        samples_recall: samples.recall,
        hamming_loss: ratio(wrong, documents * labels),
        subset_accuracy: ratio(exact, documents),
        micro_auroc: ranking.auroc(),
        macro_auroc: mean_of_defined(per_label.iter().map(|label| label.auroc)),
        micro_auprc: ranking.average_precision(),
        macro_auprc: mean_of_defined(per_label.iter().map(|label| label.auprc)),
        support: pooled.support,
        predicted: pooled.predicted,
        true_positives: pooled.true_positives,
        per_label,
    })
}

/// Micro-F1 alone, without an allocation, for a search over thresholds.
///
/// Shapes as in [`evaluate`], with one label for each threshold. A probability that is NaN predicts nothing.
///
/// # Errors
///
/// [`MetricsError`] when there is no document or no label, or the lengths do not fit each other.
pub fn micro_f1(truth: &[bool], probabilities: &[f32], thresholds: &[f32]) -> Result<f64, MetricsError> {
    let labels = thresholds.len();
    check_shape(truth, probabilities, labels)?;
    let mut counts = Counts::default();
    for (truth, probabilities) in truth.chunks_exact(labels).zip(probabilities.chunks_exact(labels)) {
        for ((&truth, &probability), &threshold) in truth.iter().zip(probabilities).zip(thresholds) {
            counts.add(truth, probability >= threshold);
        }
    }
    Ok(counts.scores().f1)
}

/// What [`evaluate`] found. Every number is finite; the module says what each of them means.
///
/// It serialises with its field names. `Display` is a table for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the field names are the field's own names of the metrics, defined by the module")]
pub struct Metrics {
    pub documents: usize,
    pub micro_f1: f64,
    pub micro_precision: f64,
    pub micro_recall: f64,
    pub macro_f1: f64,
    pub macro_precision: f64,
    pub macro_recall: f64,
    pub weighted_f1: f64,
    pub weighted_precision: f64,
    pub weighted_recall: f64,
    pub samples_f1: f64,
    pub samples_precision: f64,
    pub samples_recall: f64,
    /// Share of the (document, label) pairs that are wrong.
    pub hamming_loss: f64,
    /// Share of the documents whose labels are all right.
    pub subset_accuracy: f64,
    pub micro_auroc: Option<f64>,
    pub macro_auroc: Option<f64>,
    pub micro_auprc: Option<f64>,
    pub macro_auprc: Option<f64>,
    /// (document, label) pairs that are true.
    pub support: usize,
    /// (document, label) pairs that are predicted.
    pub predicted: usize,
    /// (document, label) pairs that are true and predicted.
    pub true_positives: usize,
    /// One entry a label, in the order of the codes.
    pub per_label: Vec<LabelMetrics>,
}

/// The metrics of one label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the field names are the field's own names of the metrics, defined by the module")]
pub struct LabelMetrics {
    pub code: String,
    pub f1: f64,
    pub precision: f64,
    pub recall: f64,
    pub auroc: Option<f64>,
    pub auprc: Option<f64>,
    /// Documents that have the label.
    pub support: usize,
    /// Documents that are given the label.
    pub predicted: usize,
    /// Documents that have the label and are given it.
    pub true_positives: usize,
    pub threshold: f32,
}

/// Metrics cannot be computed from what was given.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetricsError {
    /// No document to score.
    NoDocuments,
    /// No label to score.
    NoLabels,
    /// `truth` and `probabilities` are not both `[documents, labels]`.
    MatrixShape {
        /// Entries in `truth`.
        truth: usize,
        /// Entries in `probabilities`.
        probabilities: usize,
        /// Number of labels.
        labels: usize,
    },
    /// The number of thresholds is not the number of labels.
    ThresholdShape {
        /// Number of thresholds.
        thresholds: usize,
        /// Number of labels.
        labels: usize,
    },
    /// A probability is NaN or outside 0..=1.
    Probability {
        /// Row, counted from 0.
        document: usize,
        /// Column, counted from 0.
        label: usize,
    },
    /// A threshold is NaN or infinite.
    Threshold {
        /// Position, counted from 0.
        label: usize,
    },
    /// Cross-validation needs at least two folds, no more folds than documents, and at least one repeat.
    Folds {
        /// Folds asked for.
        folds: usize,
        /// Repeats asked for.
        repeats: usize,
        /// Documents given.
        documents: usize,
    },
}

impl fmt::Display for MetricsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDocuments => f.write_str("no document to score; give at least one"),
            Self::NoLabels => f.write_str("no label to score; give at least one"),
            Self::MatrixShape { truth, probabilities, labels } => write!(
                f,
                "truth has {truth} entries and probabilities {probabilities}; both must be documents times {labels} \
                 labels"
            ),
            Self::ThresholdShape { thresholds, labels } => {
                write!(f, "{thresholds} thresholds for {labels} labels; give one a label")
            }
            Self::Probability { document, label } => write!(
                f,
                "the probability of document {document}, label {label} is not in 0 to 1; give the sigmoid of the logit"
            ),
            Self::Threshold { label } => write!(f, "the threshold of label {label} is not finite"),
            Self::Folds { folds, repeats, documents } => write!(
                f,
                "{folds} folds, {repeats} repeats over {documents} documents; give 2 to {documents} folds and at \
                 least 1 repeat"
            ),
        }
    }
}

impl core::error::Error for MetricsError {}

/// Number of documents.
fn check_matrix(truth: &[bool], probabilities: &[f32], labels: usize) -> Result<usize, MetricsError> {
    let documents = check_shape(truth, probabilities, labels)?;
    match probabilities.iter().position(|probability| !(0.0..=1.0).contains(probability)) {
        Some(index) => Err(MetricsError::Probability { document: index / labels, label: index % labels }),
        None => Ok(documents),
    }
}

/// Number of documents.
fn check_shape(truth: &[bool], probabilities: &[f32], labels: usize) -> Result<usize, MetricsError> {
    if labels == 0 {
        return Err(MetricsError::NoLabels);
    }
    if truth.len() != probabilities.len() || !truth.len().is_multiple_of(labels) {
        return Err(MetricsError::MatrixShape { truth: truth.len(), probabilities: probabilities.len(), labels });
    }
    match truth.len() / labels {
        0 => Err(MetricsError::NoDocuments),
        documents => Ok(documents),
    }
}

fn check_thresholds(thresholds: &[f32], labels: usize) -> Result<(), MetricsError> {
    if thresholds.len() != labels {
        return Err(MetricsError::ThresholdShape { thresholds: thresholds.len(), labels });
    }
    match thresholds.iter().position(|threshold| !threshold.is_finite()) {
        Some(label) => Err(MetricsError::Threshold { label }),
        None => Ok(()),
    }
}

/// What precision, recall and F1 are made of.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    support: usize,
    predicted: usize,
    true_positives: usize,
}

impl Counts {
    fn add(&mut self, truth: bool, predicted: bool) {
        self.support += usize::from(truth);
        self.predicted += usize::from(predicted);
        self.true_positives += usize::from(truth & predicted);
    }

    fn pool(&mut self, other: &Self) {
        self.support += other.support;
        self.predicted += other.predicted;
        self.true_positives += other.true_positives;
    }

    /// False positives and false negatives.
    fn wrong(&self) -> usize {
        self.support + self.predicted - 2 * self.true_positives
    }

    fn scores(&self) -> Scores {
        Scores {
            f1: ratio(2 * self.true_positives, self.support + self.predicted),
            precision: ratio(self.true_positives, self.predicted),
            recall: ratio(self.true_positives, self.support),
        }
    }
}

struct Scores {
    f1: f64,
    precision: f64,
    recall: f64,
}

/// Weighted mean of scores; all 0 when the weights are.
#[derive(Default)]
struct Mean {
    f1: f64,
    precision: f64,
    recall: f64,
    weight: f64,
}

impl Mean {
    fn add(&mut self, scores: &Scores, weight: f64) {
        self.f1 += scores.f1 * weight;
        self.precision += scores.precision * weight;
        self.recall += scores.recall * weight;
        self.weight += weight;
    }

    fn scores(&self) -> Scores {
        let weight = if self.weight == 0.0 { 1.0 } else { self.weight };
        Scores { f1: self.f1 / weight, precision: self.precision / weight, recall: self.recall / weight }
    }
}

fn ratio(numerator: usize, denominator: usize) -> f64 {
    if denominator == 0 { 0.0 } else { numerator as f64 / denominator as f64 }
}

fn mean_of_defined(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let (sum, count) = values.flatten().fold((0.0, 0_usize), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undefined_is_null_and_never_nan() {
        let metrics = evaluate(&["never", "always"], &[false, true, false, true], &[0.0, 1.0, 0.2, 0.9], &[0.5, 0.5]);
        let json = serde_json::to_value(metrics.unwrap()).unwrap();
        assert!(json["per_label"][0]["auroc"].is_null() && json["per_label"][0]["auprc"].is_null());
        assert!(json["per_label"][1]["auroc"].is_null() && json["macro_auroc"].is_null());
        assert_eq!(json["per_label"][1]["auprc"], 1.0);
        assert_eq!(json["macro_auprc"], 1.0);
        assert_eq!(json["micro_auroc"], 1.0);
        let nulls = json.as_object().unwrap().iter().filter(|(_, value)| value.is_null()).count();
        assert_eq!(nulls, 1, "macro_auroc alone");
    }

    #[test]
    fn a_probability_at_the_threshold_is_predicted() {
        let metrics = evaluate(&["a"], &[true, false], &[0.3, 0.29999998], &[0.3]).unwrap();
        assert_eq!((metrics.predicted, metrics.micro_f1), (1, 1.0));
    }

    #[test]
    fn metrics_survive_json() {
        let metrics = evaluate(&["a", "b"], &[true, false, true, true], &[0.7, 0.1, 0.3, 0.9], &[0.3, 0.95]).unwrap();
        let json = serde_json::to_string(&metrics).unwrap();
        assert_eq!(serde_json::from_str::<Metrics>(&json).unwrap(), metrics);
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let (truth, probabilities) = ([true, false], [0.5, 0.5]);
        assert_eq!(evaluate(&[], &[], &[], &[]), Err(MetricsError::NoLabels));
        assert_eq!(evaluate(&["a"], &[], &[], &[0.5]), Err(MetricsError::NoDocuments));
        assert!(matches!(evaluate(&["a"], &truth, &[0.5], &[0.5]), Err(MetricsError::MatrixShape { .. })));
        let three = evaluate(&["a", "b", "c"], &truth, &probabilities, &[0.5; 3]);
        assert!(matches!(three, Err(MetricsError::MatrixShape { .. })));
        assert!(matches!(evaluate(&["a"], &truth, &probabilities, &[]), Err(MetricsError::ThresholdShape { .. })));
        for bad in [f32::NAN, -0.1, 1.1, f32::INFINITY] {
            let error = evaluate(&["a"], &truth, &[0.5, bad], &[0.5]).unwrap_err();
            assert_eq!(error, MetricsError::Probability { document: 1, label: 0 });
        }
        let error = evaluate(&["a"], &truth, &probabilities, &[f32::NAN]).unwrap_err();
        assert_eq!(error, MetricsError::Threshold { label: 0 });
        assert_eq!(micro_f1(&[], &[], &[]), Err(MetricsError::NoLabels));
    }
}
