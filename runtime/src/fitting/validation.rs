use kdh_format::{Interval, Policy};
use serde::Serialize;

use super::calibration::Method;
use super::sample::Sample;
use super::thresholds::choose;
use crate::metrics::MetricsError;
use crate::metrics::calibration::{Bin, log_loss, mean_calibration_error, reliability};
use crate::metrics::thresholds::{SplitMix64, shuffle, split};

/// Folds of a cross-validation, or as many as there are documents.
const FOLDS: usize = 10;
/// Shuffles of the documents.
const REPEATS: usize = 5;
/// Bootstrap samples of an interval.
const BOOTSTRAPS: usize = 400;
/// Random halves that risk control is measured on.
const SPLITS: usize = 200;
/// Truths that are drawn to know the calibration error of chance.
const DRAWS: usize = 100;

/// What a calibration method was measured to do, on documents that it was not fitted on.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct MethodResult {
    /// The method.
    pub method: Method,
    /// Mean negative log-likelihood, nats a decision.
    pub log_loss: f64,
    /// Expected calibration error, mean over the labels, ten bins of equal width.
    pub calibration_error: f64,
    /// The calibration error that perfectly calibrated probabilities of this size would show by chance.
    pub calibration_error_of_chance: f64,
    /// The reliability diagram over all labels together.
    pub reliability: Vec<Bin>,
}

/// Measures a method by repeated cross-validation.
pub(super) fn method(sample: &Sample, method: Method, seed: u64) -> Result<MethodResult, MetricsError> {
    let labels = sample.labels;
    let (mut loss, mut error, mut chance, mut scored) = (0.0, 0.0, 0.0, Vec::new());
    let mut random = SplitMix64(seed ^ 0x5eed);
    for repeat in folds(sample, seed) {
        let mut probabilities = vec![0.0_f32; sample.truth.len()];
        for (held_out, rest) in repeat {
            let calibration = method.fit(&sample.part(&rest));
            let of_fold = sample.part(&held_out).probabilities(&calibration);
            for (row, values) in held_out.iter().zip(of_fold.chunks_exact(labels)) {
                probabilities[row * labels..(row + 1) * labels].copy_from_slice(values);
            }
        }
        loss += log_loss(&sample.truth, &probabilities) / REPEATS as f64;
        error += mean_calibration_error(&sample.truth, &probabilities, labels)? / REPEATS as f64;
        for _ in 0..DRAWS / REPEATS {
            let drawn: Vec<bool> = probabilities.iter().map(|&p| uniform(&mut random) < f64::from(p)).collect();
            chance += mean_calibration_error(&drawn, &probabilities, labels)? / DRAWS as f64;
        }
        scored.extend(probabilities.into_iter().zip(sample.truth.iter().copied()));
    }
    Ok(MethodResult {
        method,
        log_loss: loss,
        calibration_error: error,
        calibration_error_of_chance: chance,
        reliability: reliability(scored.into_iter()).to_vec(),
    })
}

/// What thresholds were measured to do, on documents that chose neither them nor the calibration.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PointResult {
    /// F1 over all decisions.
    pub micro_f1: Estimate,
    /// Precision over all decisions.
    pub micro_precision: Estimate,
    /// Recall over all decisions.
    pub micro_recall: Estimate,
    /// Mean over the documents that have a label of the share of their labels that is missed: the risk of risk control.
    pub missed_share: Estimate,
    /// For each label (precision, recall).
    #[serde(skip)]
    pub per_label: Vec<(Estimate, Estimate)>,
}

/// An estimate with a 95 % interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "an estimate and its interval")]
pub struct Estimate {
    /// The estimate.
    pub estimate: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl From<Estimate> for Interval {
    fn from(estimate: Estimate) -> Self {
        let [low, high] = [estimate.low, estimate.high].map(|end| end as f32);
        Self { estimate: estimate.estimate as f32, low, high }
    }
}

/// Measures a policy by repeated cross-validation of calibration and thresholds together; intervals are percentiles of a
/// bootstrap over documents, each time with the decisions of a random repeat.
pub(super) fn point(
    sample: &Sample,
    method: Method,
    policy: Policy,
    manifest: &[f32],
    seed: u64,
) -> Result<PointResult, MetricsError> {
    let labels = sample.labels;
    let mut repeats = Vec::new();
    for repeat in folds(sample, seed) {
        let mut given = vec![false; sample.truth.len()];
        for (held_out, rest) in repeat {
            let training = sample.part(&rest);
            let calibration = method.fit(&training);
            let thresholds = choose(policy, &training, &calibration, manifest, seed)?;
            let probabilities = sample.part(&held_out).probabilities(&calibration);
            for (row, values) in held_out.iter().zip(probabilities.chunks_exact(labels)) {
                let decisions = values.iter().zip(&thresholds).map(|(value, (threshold, _))| value >= threshold);
                given[row * labels..(row + 1) * labels].iter_mut().zip(decisions).for_each(|(to, from)| *to = from);
            }
        }
        repeats.push(given);
    }
    let whole: Vec<usize> = (0..sample.documents()).collect();
    let of_repeats: Vec<Vec<f64>> = repeats.iter().map(|given| scores(sample, given, &whole)).collect();
    let mut random = SplitMix64(seed ^ 0xb007);
    let mut drawn: Vec<Vec<f64>> = Vec::new();
    for _ in 0..BOOTSTRAPS {
        let rows: Vec<usize> = whole.iter().map(|_| below(&mut random, whole.len())).collect();
        let repeat = below(&mut random, repeats.len());
        drawn.push(scores(sample, &repeats[repeat], &rows));
    }
    let estimate = |index: usize| {
        let of = |all: &[Vec<f64>]| all.iter().map(|scores| scores[index]).collect::<Vec<f64>>();
        interval(mean(&of(&of_repeats)), of(&drawn))
    };
    Ok(PointResult {
        micro_f1: estimate(0),
        micro_precision: estimate(1),
        micro_recall: estimate(2),
        missed_share: estimate(3),
        per_label: (0..labels).map(|label| (estimate(4 + 2 * label), estimate(5 + 2 * label))).collect(),
    })
}

/// The risk of a risk-controlled threshold on the half of the documents that did not choose it, over random halves: what
/// the guarantee is about. The interval spans 95 % of the halves.
pub(super) fn risk(
    sample: &Sample,
    method: Method,
    policy: Policy,
    manifest: &[f32],
    seed: u64,
) -> Result<Estimate, MetricsError> {
    let mut random = SplitMix64(seed ^ 0x5711);
    let mut order: Vec<usize> = (0..sample.documents()).collect();
    let mut risks = Vec::new();
    for _ in 0..SPLITS {
        shuffle(&mut order, &mut random);
        let (chooses, decides) = order.split_at(order.len() / 2);
        let training = sample.part(chooses);
        let calibration = method.fit(&training);
        let thresholds = choose(policy, &training, &calibration, manifest, seed)?;
        let test = sample.part(decides);
        let probabilities = test.probabilities(&calibration);
        let given: Vec<bool> = probabilities
            .iter()
            .zip(thresholds.iter().cycle())
            .map(|(value, (threshold, _))| value >= threshold)
            .collect();
        let rows: Vec<usize> = (0..test.documents()).collect();
        risks.push(scores(&test, &given, &rows)[3]);
    }
    Ok(interval(mean(&risks), risks))
}

/// Micro F1, precision, recall, missed share, then precision and recall of each label; 0 without a denominator.
fn scores(sample: &Sample, given: &[bool], rows: &[usize]) -> Vec<f64> {
    let labels = sample.labels;
    let mut counts = vec![[0_usize; 3]; labels];
    let (mut missed, mut labelled) = (0.0, 0_usize);
    for &row in rows {
        let (mut positives, mut found) = (0_usize, 0_usize);
        for (label, counts) in counts.iter_mut().enumerate() {
            let (truth, given) = (sample.truth[row * labels + label], given[row * labels + label]);
            counts[0] += usize::from(truth);
            counts[1] += usize::from(given);
            counts[2] += usize::from(truth && given);
            positives += usize::from(truth);
            found += usize::from(truth && given);
        }
        if positives > 0 {
            labelled += 1;
            missed += 1.0 - found as f64 / positives as f64;
        }
    }
    let sum = |index: usize| counts.iter().map(|counts| counts[index]).sum::<usize>();
    let (truth, all, hits) = (sum(0), sum(1), sum(2));
    let mut scores = vec![
        ratio(2 * hits, truth + all),
        ratio(hits, all),
        ratio(hits, truth),
        if labelled > 0 { missed / labelled as f64 } else { 0.0 },
    ];
    scores.extend(counts.iter().flat_map(|&[truth, given, hits]| [ratio(hits, given), ratio(hits, truth)]));
    scores
}

/// For each repeat, for each fold: the documents of the fold and those of all others.
fn folds(sample: &Sample, seed: u64) -> Vec<Vec<(Vec<usize>, Vec<usize>)>> {
    let documents = sample.documents();
    let count = FOLDS.min(documents);
    let mut random = SplitMix64(seed);
    let mut order: Vec<usize> = (0..documents).collect();
    let mut repeat = || {
        shuffle(&mut order, &mut random);
        let fold = |fold: usize| {
            let (held_out, rest) = split(&order, fold, count);
            (held_out.to_vec(), rest)
        };
        (0..count).map(fold).collect()
    };
    (0..REPEATS).map(|_| repeat()).collect()
}

/// 2.5 and 97.5 % of the drawn values, never excluding the estimate.
fn interval(estimate: f64, mut drawn: Vec<f64>) -> Estimate {
    drawn.sort_by(f64::total_cmp);
    let at = |share: f64| drawn.get(((drawn.len() as f64 * share) as usize).min(drawn.len().saturating_sub(1)));
    let (low, high) = (at(0.025).copied().unwrap_or(estimate), at(0.975).copied().unwrap_or(estimate));
    Estimate { estimate, low: low.min(estimate), high: high.max(estimate) }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn ratio(numerator: usize, denominator: usize) -> f64 {
    if denominator == 0 { 0.0 } else { numerator as f64 / denominator as f64 }
}

fn uniform(random: &mut SplitMix64) -> f64 {
    (random.next() >> 11) as f64 / (1_u64 << 53) as f64
}

fn below(random: &mut SplitMix64, count: usize) -> usize {
    ((u128::from(random.next()) * count as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two labels whose logits say the truth with noise.
    fn noisy(documents: usize) -> Sample {
        let mut random = SplitMix64(3);
        let (mut logits, mut truth) = (Vec::new(), Vec::new());
        for _ in 0..documents {
            for rate in [0.3, 0.15] {
                let positive = uniform(&mut random) < rate;
                let noise: f64 = (0..4).map(|_| uniform(&mut random) - 0.5).sum();
                logits.push((4.0 * noise + if positive { 2.0 } else { -2.0 }) as f32);
                truth.push(positive);
            }
        }
        Sample { labels: 2, logits, truth }
    }

    #[test]
    fn intervals_hold_what_a_large_sample_shows() {
        let (small, large) = (noisy(200), noisy(5000));
        let measure = |sample: &Sample| point(sample, Method::Platt, Policy::MaxF1, &[0.5; 2], 1).unwrap();
        let (small, large) = (measure(&small), measure(&large));
        for (few, many) in [
            (small.micro_f1, large.micro_f1),
            (small.micro_precision, large.micro_precision),
            (small.micro_recall, large.micro_recall),
        ] {
            assert!(few.low < many.estimate && many.estimate < few.high, "{few:?} {many:?}");
            assert!(many.high - many.low < 0.5 * (few.high - few.low), "{few:?} {many:?}");
        }
    }

    #[test]
    fn risk_is_controlled() {
        let sample = noisy(400);
        for alpha in [0.05, 0.2] {
            let measured = risk(&sample, Method::Platt, Policy::RiskControl(alpha), &[0.5; 2], 1).unwrap();
            assert!(measured.low <= f64::from(alpha) && measured.estimate <= f64::from(alpha) + 0.01, "{measured:?}");
            assert!(measured.estimate > 0.3 * f64::from(alpha), "never misses: {measured:?}");
        }
    }

    #[test]
    fn a_recall_floor_is_reached() {
        let sample = noisy(600);
        let result = point(&sample, Method::Platt, Policy::RecallFloor(0.9), &[0.5; 2], 1).unwrap();
        for (_, recall) in result.per_label {
            assert!(recall.high >= 0.9 && recall.estimate > 0.86, "{recall:?}");
        }
    }
}
