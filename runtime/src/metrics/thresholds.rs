//! Decision thresholds chosen from labelled data.
//!
//! A threshold that is best on a small set is partly luck: the fewer positives a label has, the more of it. So there
//! are three policies from stiff to free, and [`select`] measures out of fold which of them a data set supports.

use serde::{Deserialize, Serialize};

use super::ranking::{Group, Ranking};
use super::{Counts, Mean, MetricsError, check_matrix};

/// Number of positives at which [`Policy::PerLabelShrunk`] stands half-way between the global threshold and the
/// label's own.
pub const HALF_WAY_SUPPORT: f64 = 20.0;

/// How thresholds are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Policy {
    /// One threshold for all labels, the one with the highest micro-F1.
    Global,
    /// Each label's own threshold, the one with the highest F1 of the label, moved towards the global one. With `n`
    /// positives the threshold has the logit `w · own + (1 − w) · global`, `w = n / (n + HALF_WAY_SUPPORT)`.
    PerLabelShrunk,
    /// Each label's own threshold, the one with the highest F1 of the label. A label without positives has the global
    /// threshold.
    PerLabel,
}

impl Policy {
    /// Every policy, from the stiffest to the freest.
    pub const ALL: [Self; 3] = [Self::Global, Self::PerLabelShrunk, Self::PerLabel];
}

/// Chooses one threshold a label on `[documents, labels]` matrices, for `probability >= threshold`.
///
/// A threshold is the midpoint between two adjacent scores, or between the lowest score and 0. Of several that are
/// equally good it is the one nearest to 0.5, the decision that the loss trains. Without any positive all are 0.5.
///
/// # Errors
///
/// As [`evaluate`](super::evaluate).
pub fn choose(truth: &[bool], probabilities: &[f32], labels: usize, policy: Policy) -> Result<Vec<f32>, MetricsError> {
    let documents = check_matrix(truth, probabilities, labels)?;
    let rows: Vec<usize> = (0..documents).collect();
    Ok(choose_on_rows(truth, probabilities, labels, policy, &rows))
}

/// Micro-F1 and macro-F1 of a policy on documents that its thresholds were not chosen on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CrossValidated {
    /// Mean over the repeats of the micro-F1 over all documents.
    pub micro_f1: f64,
    /// Standard deviation of that micro-F1 between repeats (0 for one repeat): how much the split into folds matters,
    /// not how sure the figure is.
    pub micro_f1_std: f64,
    /// Mean over the repeats of the macro-F1 over all documents.
    pub macro_f1: f64,
}

/// Cross-validates the choice of thresholds.
///
/// In each of `repeats` the documents are shuffled and cut into `folds`; each fold is decided with the thresholds
/// chosen on the other folds, and F1 is computed once over the decisions of all folds. The same `seed` gives the same
/// result on every machine.
///
/// # Errors
///
/// As [`evaluate`](super::evaluate), and [`MetricsError::Folds`].
pub fn cross_validated_f1(
    truth: &[bool],
    probabilities: &[f32],
    labels: usize,
    policy: Policy,
    folds: usize,
    repeats: usize,
    seed: u64,
) -> Result<CrossValidated, MetricsError> {
    let documents = check_matrix(truth, probabilities, labels)?;
    if folds < 2 || folds > documents || repeats == 0 {
        return Err(MetricsError::Folds { folds, repeats, documents });
    }
    let mut random = SplitMix64(seed);
    let mut order: Vec<usize> = (0..documents).collect();
    let (mut micro, mut macro_f1) = (Vec::new(), 0.0);
    for _ in 0..repeats {
        shuffle(&mut order, &mut random);
        let mut per_label = vec![Counts::default(); labels];
        for fold in 0..folds {
            let (held_out, rest) = split(&order, fold, folds);
            let thresholds = choose_on_rows(truth, probabilities, labels, policy, &rest);
            for &row in held_out {
                for (label, counts) in per_label.iter_mut().enumerate() {
                    let index = row * labels + label;
                    counts.add(truth[index], probabilities[index] >= thresholds[label]);
                }
            }
        }
        let (mut pooled, mut mean) = (Counts::default(), Mean::default());
        for counts in &per_label {
            pooled.pool(counts);
            mean.add(&counts.scores(), 1.0);
        }
        micro.push(pooled.scores().f1);
        macro_f1 += mean.scores().f1 / repeats as f64;
    }
    let mean = micro.iter().sum::<f64>() / repeats as f64;
    let squares: f64 = micro.iter().map(|value| (value - mean).powi(2)).sum();
    Ok(CrossValidated {
        micro_f1: mean,
        micro_f1_std: if repeats > 1 { (squares / (repeats - 1) as f64).sqrt() } else { 0.0 },
        macro_f1,
    })
}

/// What [`select`] chose.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Selection {
    /// The policy with the highest cross-validated micro-F1.
    pub policy: Policy,
    /// The thresholds that it chooses on all documents, one a label.
    pub thresholds: Vec<f32>,
    /// What every policy got, in the order of [`Policy::ALL`]. The best of three is a slightly optimistic estimate of
    /// itself.
    pub cross_validated: Vec<(Policy, CrossValidated)>,
}

/// Chooses the policy by cross-validation and then its thresholds on all documents. Of equal policies it takes the
/// stiffest.
///
/// # Errors
///
/// As [`cross_validated_f1`].
pub fn select(
    truth: &[bool],
    probabilities: &[f32],
    labels: usize,
    folds: usize,
    repeats: usize,
    seed: u64,
) -> Result<Selection, MetricsError> {
    let mut cross_validated = Vec::new();
    let (mut best, mut best_f1) = (Policy::Global, f64::NEG_INFINITY);
    for policy in Policy::ALL {
        let result = cross_validated_f1(truth, probabilities, labels, policy, folds, repeats, seed)?;
        if result.micro_f1 > best_f1 {
            (best, best_f1) = (policy, result.micro_f1);
        }
        cross_validated.push((policy, result));
    }
    let thresholds = choose(truth, probabilities, labels, best)?;
    Ok(Selection { policy: best, thresholds, cross_validated })
}

/// The rows of one fold, and the rows of all others.
pub(crate) fn split(order: &[usize], fold: usize, folds: usize) -> (&[usize], Vec<usize>) {
    let (start, end) = (fold * order.len() / folds, (fold + 1) * order.len() / folds);
    (&order[start..end], [&order[..start], &order[end..]].concat())
}

fn choose_on_rows(truth: &[bool], probabilities: &[f32], labels: usize, policy: Policy, rows: &[usize]) -> Vec<f32> {
    let scored = |index: usize| (probabilities[index], truth[index]);
    let all = rows.iter().flat_map(|row| row * labels..(row + 1) * labels);
    let global = best_threshold(&Ranking::new(all.map(scored)));
    let own = |label: usize| {
        let ranking = Ranking::new(rows.iter().map(|row| scored(row * labels + label)));
        match ranking.positives() {
            0 => global,
            positives if policy == Policy::PerLabelShrunk => {
                let weight = positives as f64 / (positives as f64 + HALF_WAY_SUPPORT);
                shrink(best_threshold(&ranking), global, weight)
            }
            _ => best_threshold(&ranking),
        }
    };
    match policy {
        Policy::Global => vec![global; labels],
        Policy::PerLabel | Policy::PerLabelShrunk => (0..labels).map(own).collect(),
    }
}

/// The threshold with the highest F1 over the scores of a ranking.
fn best_threshold(ranking: &Ranking) -> f32 {
    let positives = ranking.positives();
    let (mut best, mut best_f1) = (0.5, (0, 1));
    for (index, group) in ranking.groups().iter().enumerate() {
        // F1 as a fraction, so that "equally good" is exact.
        let f1 = (2 * group.positives, group.positives + group.negatives + positives);
        let threshold = midpoint(ranking.groups().get(index + 1), group);
        let (left, right) = (u128::from(f1.0) * u128::from(best_f1.1), u128::from(best_f1.0) * u128::from(f1.1));
        let nearer = (threshold - 0.5).abs() < (best - 0.5_f32).abs();
        if left > right || (left == right && left > 0 && nearer) {
            (best, best_f1) = (threshold, f1);
        }
    }
    best
}

/// Between two adjacent scores; never the lower one, which the threshold is there to refuse.
fn midpoint(lower: Option<&Group>, upper: &Group) -> f32 {
    let lower = lower.map_or(0.0, |group| group.score);
    let middle = lower + (upper.score - lower) / 2.0;
    if middle > lower { middle } else { upper.score }
}

/// Weighted mean of two thresholds on the scale of the logits, where a step means the same everywhere.
fn shrink(own: f32, global: f32, weight: f64) -> f32 {
    // Keeps the logits of 0 and 1 finite.
    const EDGE: f64 = 1e-7;
    let logit = |threshold: f32| {
        let p = f64::from(threshold).clamp(EDGE, 1.0 - EDGE);
        (p / (1.0 - p)).ln()
    };
    let mean = weight * logit(own) + (1.0 - weight) * logit(global);
    (1.0 / (1.0 + (-mean).exp())) as f32
}

pub(crate) fn shuffle(order: &mut [usize], random: &mut SplitMix64) {
    for last in (1..order.len()).rev() {
        // A multiply instead of a remainder: unbiased to one part in 2^64 / length.
        let other = (u128::from(random.next()) * (last as u128 + 1)) >> 64;
        order.swap(last, other as usize);
    }
}

/// Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators".
pub(crate) struct SplitMix64(pub(crate) u64);

impl SplitMix64 {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{evaluate, micro_f1};

    /// Labels that need different thresholds, with noise; the last one is rare.
    fn noisy(documents: usize, seed: u64) -> (Vec<bool>, Vec<f32>) {
        let mut random = SplitMix64(seed);
        let mut uniform = || (random.next() >> 40) as f32 / (1 << 24) as f32;
        let (mut truth, mut probabilities) = (Vec::new(), Vec::new());
        for _ in 0..documents {
            for (rate, scale) in [(0.4, 1.0), (0.3, 0.4), (0.02, 0.8)] {
                let positive = uniform() < rate;
                let score = 0.35 * f32::from(u8::from(positive)) + 0.65 * uniform();
                truth.push(positive);
                probabilities.push(score * scale);
            }
        }
        (truth, probabilities)
    }

    #[test]
    fn no_other_threshold_is_better() {
        for seed in 0..20 {
            let (truth, mut probabilities) = noisy(30, seed);
            // Two decimals, so that there are ties.
            probabilities.iter_mut().for_each(|p| *p = (*p * 100.0).round() / 100.0);
            let global = choose(&truth, &probabilities, 3, Policy::Global).unwrap();
            let own = choose(&truth, &probabilities, 3, Policy::PerLabel).unwrap();
            let metrics = evaluate(&["a", "b", "c"], &truth, &probabilities, &own).unwrap();
            let best = micro_f1(&truth, &probabilities, &global).unwrap();
            for step in 0..=2000 {
                let every = [step as f32 / 2000.0; 3];
                let other = evaluate(&["a", "b", "c"], &truth, &probabilities, &every).unwrap();
                assert!(best >= other.micro_f1);
                for (own, other) in metrics.per_label.iter().zip(&other.per_label) {
                    assert!(own.f1 >= other.f1);
                }
            }
        }
    }

    #[test]
    fn a_threshold_is_a_midpoint() {
        let truth = [true, true, false, false];
        assert_eq!(choose(&truth, &[0.9, 0.8, 0.4, 0.1], 1, Policy::Global).unwrap(), [0.6]);
        assert_eq!(choose(&[true, true], &[0.9, 0.8], 1, Policy::Global).unwrap(), [0.4]);
        // Neighbours without a number between them: the upper one.
        let next = 0.5_f32.next_up();
        assert_eq!(choose(&[true, false], &[next, 0.5], 1, Policy::Global).unwrap(), [next]);
        assert_eq!(choose(&[true, false], &[0.0, 0.0], 1, Policy::Global).unwrap(), [0.0]);
    }

    #[test]
    fn of_equal_thresholds_the_nearest_to_one_half_wins() {
        // F1 is 2/3 at the first cut (1 of 2, nothing wrong) and at the last (2 of 2, 2 wrong).
        let truth = [true, false, false, true];
        assert_eq!(choose(&truth, &[0.75, 0.25, 0.125, 0.0625], 1, Policy::Global).unwrap(), [0.5]);
        assert_eq!(choose(&truth, &[0.99, 0.98, 0.97, 0.9], 1, Policy::Global).unwrap(), [0.45]);
    }

    #[test]
    fn a_label_without_positives_has_the_global_threshold() {
        let (truth, probabilities) = ([true, false, false, false], [0.8, 0.7, 0.2, 0.1]);
        for policy in Policy::ALL {
            let thresholds = choose(&truth, &probabilities, 2, policy).unwrap();
            assert!((thresholds[1] - 0.75).abs() < 1e-6);
            assert_eq!(choose(&[false; 4], &probabilities, 2, policy).unwrap(), [0.5; 2]);
        }
    }

    #[test]
    fn shrinking_stands_between_and_follows_the_support() {
        let (truth, probabilities) = noisy(400, 7);
        let chosen = |policy| choose(&truth, &probabilities, 3, policy).unwrap();
        let (global, shrunk, own) = (chosen(Policy::Global), chosen(Policy::PerLabelShrunk), chosen(Policy::PerLabel));
        for label in 0..3 {
            let (low, high) = (global[label].min(own[label]), global[label].max(own[label]));
            assert!((low..=high).contains(&shrunk[label]));
        }
        assert_eq!(shrink(0.2, 0.5, 1.0), 0.2);
        assert_eq!(shrink(0.2, 0.5, 0.0), 0.5);
        assert!((shrink(0.2, 0.8, 0.5) - 0.5).abs() < 1e-6);
        assert!(shrink(0.0, 1.0, 0.5).is_finite());
    }

    #[test]
    fn cross_validation_is_honest_and_repeatable() {
        let (truth, probabilities) = noisy(300, 3);
        let run = |policy, seed| cross_validated_f1(&truth, &probabilities, 3, policy, 5, 4, seed).unwrap();
        for policy in Policy::ALL {
            let result = run(policy, 1);
            assert_eq!(result, run(policy, 1));
            let thresholds = choose(&truth, &probabilities, 3, policy).unwrap();
            let in_sample = micro_f1(&truth, &probabilities, &thresholds).unwrap();
            assert!(result.micro_f1_std > 0.0 && result.micro_f1_std < 0.05);
            if policy == Policy::Global {
                assert!(result.micro_f1 < in_sample, "in sample the global threshold is the best there is");
            }
        }
        assert_ne!(run(Policy::Global, 1), run(Policy::Global, 2));
    }

    #[test]
    fn every_document_is_held_out_once() {
        let mut order: Vec<usize> = (0..11).collect();
        shuffle(&mut order, &mut SplitMix64(5));
        assert!(!order.is_sorted());
        for folds in [2, 3, 11] {
            let mut seen: Vec<usize> = Vec::new();
            for fold in 0..folds {
                let (held_out, mut rest) = split(&order, fold, folds);
                assert!(!held_out.is_empty());
                seen.extend(held_out);
                rest.extend(held_out);
                rest.sort_unstable();
                assert!(rest.iter().copied().eq(0..11));
            }
            seen.sort_unstable();
            assert!(seen.iter().copied().eq(0..11));
        }
    }

    #[test]
    fn refuses_folds_that_cannot_be_cut() {
        let (truth, probabilities) = noisy(11, 5);
        for (folds, repeats) in [(1, 1), (12, 1), (2, 0)] {
            let error = cross_validated_f1(&truth, &probabilities, 3, Policy::Global, folds, repeats, 9).unwrap_err();
            assert_eq!(error, MetricsError::Folds { folds, repeats, documents: 11 });
        }
    }

    #[test]
    fn selection_frees_the_labels_only_when_the_data_support_it() {
        let (truth, probabilities) = noisy(600, 11);
        let selection = select(&truth, &probabilities, 3, 5, 3, 0).unwrap();
        assert_ne!(selection.policy, Policy::Global, "the scales of these labels differ");
        assert_eq!(selection.thresholds, choose(&truth, &probabilities, 3, selection.policy).unwrap());
        let best = selection.cross_validated.iter().map(|(_, result)| result.micro_f1).fold(0.0, f64::max);
        let chosen = selection.cross_validated.iter().find(|(policy, _)| *policy == selection.policy).unwrap();
        assert_eq!(chosen.1.micro_f1, best);
        assert_eq!(selection.cross_validated.len(), 3);
    }
}
