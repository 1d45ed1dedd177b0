use kdh_format::{Calibration, Policy};

use super::sample::Sample;
use crate::decision::calibrated;
use crate::metrics::MetricsError;
use crate::metrics::thresholds;

/// A label's threshold, and whether it is the one of all labels together.
pub(super) type Threshold = (f32, bool);

/// Chooses one threshold a label on calibrated probabilities.
pub(super) fn choose(
    policy: Policy,
    sample: &Sample,
    calibration: &[Calibration],
    manifest: &[f32],
    seed: u64,
) -> Result<Vec<Threshold>, MetricsError> {
    let probabilities = sample.probabilities(calibration);
    let labels = sample.labels;
    Ok(match policy {
        Policy::MaxF1 => {
            let selection = thresholds::select(&sample.truth, &probabilities, labels, FOLDS, REPEATS, seed)?;
            let pooled = selection.policy == thresholds::Policy::Global;
            selection.thresholds.into_iter().map(|threshold| (threshold, pooled)).collect()
        }
        Policy::RecallFloor(floor) => {
            each(sample, &probabilities, needed_positives(floor), |scored| recall_threshold(scored, floor))
        }
        Policy::PrecisionFloor(floor) => {
            each(sample, &probabilities, needed_positives(floor), |scored| precision_threshold(scored, floor))
        }
        Policy::RiskControl(alpha) => vec![(risk_threshold(sample, &probabilities, alpha), false); labels],
        _ => through(calibration, manifest),
    })
}

/// Positives that a label needs for a floor of its own: with fewer not even the best threshold reaches it after the
/// correction for having been chosen.
pub(super) fn needed_positives(floor: f32) -> usize {
    let floor = f64::from(floor).min(0.9999);
    (floor / (1.0 - floor) - 1e-4).ceil().max(1.0) as usize
}

/// Labelled documents that risk control needs: `1 / (n + 1) <= alpha`.
pub(super) fn needed_documents(alpha: f32) -> usize {
    (1.0 / f64::from(alpha).max(1e-4) - 1.0 - 1e-4).ceil().max(1.0) as usize
}

const FOLDS: usize = 5;
const REPEATS: usize = 3;

/// Thresholds on uncalibrated probabilities, taken through the calibration: the same decisions, but where the calibration is
/// flat and tells logits no longer apart.
fn through(calibration: &[Calibration], manifest: &[f32]) -> Vec<Threshold> {
    let logit = |threshold: f32| {
        let p = f64::from(threshold);
        // Finite, and beyond every logit that is not saturated.
        ((p / (1.0 - p)).ln().clamp(-1e4, 1e4)) as f32
    };
    let of = |(calibration, &threshold): (&Calibration, &f32)| (calibrated(calibration, logit(threshold)), false);
    calibration.iter().zip(manifest).map(of).collect()
}

/// Each label's own threshold if it has `needed` positives and reaches the floor, otherwise the one of all labels.
fn each(
    sample: &Sample,
    probabilities: &[f32],
    needed: usize,
    threshold: impl Fn(&mut Vec<(f32, bool)>) -> Option<f32>,
) -> Vec<Threshold> {
    let mut all: Vec<(f32, bool)> = probabilities.iter().copied().zip(sample.truth.iter().copied()).collect();
    let of_all = threshold(&mut all);
    let own = |label: usize| {
        let column = probabilities.iter().copied().zip(sample.truth.iter().copied());
        let mut column = column.skip(label).step_by(sample.labels).collect();
        let own = if sample.positives(label) < needed { None } else { threshold(&mut column) };
        // No threshold at all reaches the floor: the label is never given.
        own.map_or((of_all.unwrap_or(1.0), true), |own| (own, false))
    };
    (0..sample.labels).map(own).collect()
}

/// Split conformal prediction within the positives: the k-th smallest score with `k = floor((n + 1) (1 - floor))`, so that a
/// new positive falls below it with probability `k / (n + 1)` at most.
fn recall_threshold(scored: &mut Vec<(f32, bool)>, floor: f32) -> Option<f32> {
    scored.retain(|(_, truth)| *truth);
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    let k = ((scored.len() + 1) as f64 * (1.0 - f64::from(floor)) + 1e-4).floor() as usize;
    scored.get(k.checked_sub(1)?).map(|&(score, _)| score)
}

/// The lowest score at and above which `positives / (given + 1)` is at least the floor.
fn precision_threshold(scored: &mut [(f32, bool)], floor: f32) -> Option<f32> {
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut positives, mut best) = (0_usize, None);
    for (index, &(score, truth)) in scored.iter().enumerate() {
        positives += usize::from(truth);
        let last_of_its_score = scored.get(index + 1).is_none_or(|next| next.0 < score);
        if last_of_its_score && positives as f64 >= f64::from(floor) * (index + 2) as f64 {
            best = Some(score);
        }
    }
    best
}

/// Conformal risk control (Angelopoulos et al. 2022, section 2): the largest threshold at which `(missed + 1) / (n + 1)` is at
/// most `alpha`, where `missed` sums over the `n` labelled documents the share of their labels that is below it. 0 when no
/// threshold is.
fn risk_threshold(sample: &Sample, probabilities: &[f32], alpha: f32) -> f32 {
    // Every positive's score, and what its document's share grows by when the threshold passes it.
    let mut steps: Vec<(f32, f64)> = Vec::new();
    for (truth, row) in sample.truth.chunks_exact(sample.labels).zip(probabilities.chunks_exact(sample.labels)) {
        let positives = truth.iter().filter(|truth| **truth).count();
        let scores = row.iter().zip(truth).filter(|(_, truth)| **truth);
        steps.extend(scores.map(|(&score, _)| (score, 1.0 / positives as f64)));
    }
    steps.sort_by(|a, b| a.0.total_cmp(&b.0));
    let documents = sample.labelled() as f64;
    let (mut missed, mut best, mut below) = (0.0, 0.0, 0);
    while let Some(&(score, _)) = steps.get(below) {
        // At this threshold the scores below it are missed.
        if (missed + 1.0) / (documents + 1.0) > f64::from(alpha) {
            break;
        }
        best = score;
        while let Some(&(_, share)) = steps.get(below).filter(|step| step.0 == score) {
            missed += share;
            below += 1;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_what_the_floor_asks_for() {
        assert_eq!([0.5, 0.8, 0.9, 0.95].map(needed_positives), [1, 4, 9, 19]);
        assert_eq!([0.5, 0.1, 0.05].map(needed_documents), [1, 9, 19]);
    }

    #[test]
    fn recall_is_what_a_new_positive_has() {
        let positives = |count: usize| (0..count).map(|n| (n as f32 / 100.0, true)).collect::<Vec<_>>();
        // 19 positives: (19 + 1) * 0.1 = 2, the second smallest.
        assert_eq!(recall_threshold(&mut positives(19), 0.9), Some(0.01));
        assert_eq!(recall_threshold(&mut positives(9), 0.9), Some(0.0));
        assert_eq!(recall_threshold(&mut positives(8), 0.9), None);
        assert_eq!(recall_threshold(&mut vec![(0.3, false)], 0.9), None);
    }

    #[test]
    fn precision_counts_one_error_more() {
        let mut scored: Vec<(f32, bool)> = (0..10).map(|n| (0.9 - 0.01 * n as f32, true)).collect();
        scored.extend([(0.2, false), (0.1, true)]);
        // 10 / (10 + 1) is above 0.9, 10 / 12 is not, 11 / 13 is not.
        assert_eq!(precision_threshold(&mut scored.clone(), 0.9), Some(scored[9].0));
        assert_eq!(precision_threshold(&mut scored.clone(), 0.8), Some(0.1));
        assert_eq!(precision_threshold(&mut [(0.9, true)], 0.9), None);
    }

    #[test]
    fn risk_is_bounded_with_the_correction() {
        let scores: Vec<f32> = (1..20).map(|n| n as f32 / 20.0).collect();
        let sample = Sample { labels: 1, logits: scores.clone(), truth: vec![true; 19] };
        // (missed + 1) / 20 <= 0.1: one may be missed, so the threshold is the second smallest.
        assert_eq!(risk_threshold(&sample, &scores, 0.1), 0.1);
        assert_eq!(risk_threshold(&sample, &scores, 0.05), 0.05);
        assert_eq!(risk_threshold(&sample, &scores, 0.04), 0.0);
    }

    #[test]
    fn the_manifests_thresholds_decide_the_same() {
        let calibration = [Calibration::Platt { slope: 0.7, intercept: -0.4 }, Calibration::Temperature(3.0)];
        let chosen = through(&calibration, &[0.3, 0.8]);
        for logit in (-100..100).map(|n| n as f32 / 20.0 + 0.01) {
            for ((calibration, before), (threshold, _)) in calibration.iter().zip([0.3, 0.8]).zip(&chosen) {
                let given = 1.0 / (1.0 + (-logit).exp()) >= before;
                assert_eq!(calibrated(calibration, logit) >= *threshold, given, "{logit}");
            }
        }
        assert_eq!(through(&[Calibration::Identity, Calibration::Identity], &[0.0, 1.0]), [(0.0, false), (1.0, false)]);
    }
}
