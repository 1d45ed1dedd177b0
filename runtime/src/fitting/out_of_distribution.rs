use kdh_format::OutOfDistribution;
use serde::Serialize;

use super::sample::Measured;
use crate::decision::residual;
use crate::metrics::thresholds::SplitMix64;

/// Numbers of directions that are tried.
const RANKS: [usize; 3] = [16, 32, 48];
/// Factors of the residual beside the largest logit that are tried, in units that give both the same mean; 0 is the largest
/// logit alone, infinity the residual alone.
const FACTORS: [f64; 4] = [0.0, 1.0, 2.0, f64::INFINITY];
/// Without strange texts to choose by.
const DEFAULT: (usize, f64) = (32, 2.0);

/// Statistics of a score, and what they were measured to do.
pub(super) struct Fit {
    pub(super) mean: Vec<u8>,
    pub(super) directions: Vec<u8>,
    pub(super) residual_weight: f32,
    pub(super) logit_weight: f32,
    pub(super) threshold: f32,
    pub(super) groups: Vec<GroupResult>,
    /// What was tried: directions, factor, lowest AUROC over the far groups.
    pub(super) tried: Vec<(usize, f64, f64)>,
}

impl Fit {
    pub(super) fn section(&self) -> OutOfDistribution<'_> {
        OutOfDistribution {
            mean: &self.mean,
            directions: &self.directions,
            residual_weight: self.residual_weight,
            logit_weight: self.logit_weight,
            threshold: self.threshold,
        }
    }
}

/// How well the score knows one group of strange texts.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct GroupResult {
    /// Name of the group.
    pub group: String,
    /// Texts of it.
    pub texts: usize,
    /// Probability that a text of the group has a higher score than one of the model's kind, ties counting one half.
    pub auroc: f64,
    /// Share of the texts whose score is above the threshold.
    pub abstained: f64,
    /// The group is near to the model's kind and had no say in the choice of the score.
    pub near: bool,
}

/// A group of strange texts.
pub(super) struct Group {
    pub(super) name: String,
    pub(super) near: bool,
    pub(super) measured: Measured,
}

/// Takes mean and principal directions of the pooled vectors of `reference`, texts of the model's kind, and chooses the
/// score with the highest of the lowest AUROCs of the far groups against `own`, other texts of the model's kind. The
/// threshold is the score that a share `rate` of texts like `own` has above it.
pub(super) fn fit(reference: &Measured, own: &Measured, groups: &[Group], rate: f64) -> Option<Fit> {
    let hidden = reference.hidden;
    if hidden == 0 || own.hidden != hidden || reference.documents() == 0 {
        return None;
    }
    let documents = reference.documents() as f64;
    let mut mean = vec![0.0_f64; hidden];
    for row in reference.pooled() {
        mean.iter_mut().zip(row).for_each(|(mean, &value)| *mean += f64::from(value) / documents);
    }
    let most = RANKS.iter().copied().max().unwrap_or_default().min(reference.documents().saturating_sub(1)).min(hidden);
    let directions: Vec<f32> = principal_directions(reference, &mean, most).iter().map(|&value| value as f32).collect();
    let mean: Vec<f32> = mean.iter().map(|&value| value as f32).collect();
    let parts = |measured: &Measured, rank: usize| -> Vec<(f64, f64)> {
        let directions = &directions[..rank * hidden];
        let rows = measured.pooled().zip(measured.rows());
        rows.map(|(pooled, logits)| (f64::from(residual(&mean, directions, pooled)), largest(logits))).collect()
    };

    let far = || groups.iter().filter(|group| !group.near);
    let (mut best, mut best_worst, mut tried) = (None, f64::NEG_INFINITY, Vec::new());
    for rank in RANKS.into_iter().filter(|&rank| rank <= most) {
        let of_reference = parts(reference, rank);
        let average = |value: fn(&(f64, f64)) -> f64| of_reference.iter().map(value).sum::<f64>() / documents;
        let same_mean = average(|part| part.1.abs()) / average(|part| part.0).max(1e-9);
        for factor in FACTORS {
            let weights = if factor.is_infinite() { (1.0, 0.0) } else { (factor * same_mean, 1.0) };
            let own = scores(&parts(own, rank), weights);
            let worst = far().map(|group| auroc(&scores(&parts(&group.measured, rank), weights), &own));
            let worst = worst.fold(f64::INFINITY, f64::min);
            tried.push((rank, factor, worst));
            let better = if worst.is_finite() { worst > best_worst } else { (rank, factor) == DEFAULT };
            if better || best.is_none() {
                (best, best_worst) = (Some((rank, weights)), worst);
            }
        }
    }
    let (rank, weights) = best?;
    let own = scores(&parts(own, rank), weights);
    let threshold = threshold(&own, rate);
    let results = groups.iter().map(|group| {
        let scores = scores(&parts(&group.measured, rank), weights);
        GroupResult {
            group: group.name.clone(),
            texts: scores.len(),
            auroc: auroc(&scores, &own),
            abstained: share_above(&scores, threshold),
            near: group.near,
        }
    });
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Some(Fit {
        mean: bytes(&mean),
        directions: bytes(&directions[..rank * hidden]),
        residual_weight: weights.0 as f32,
        logit_weight: weights.1 as f32,
        threshold: threshold as f32,
        groups: results.collect(),
        tried,
    })
}

/// Takes over the statistics of another section and sets the threshold anew for texts like `own`.
pub(super) fn refit(of: &OutOfDistribution<'_>, own: &Measured, rate: f64) -> Option<Fit> {
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes.as_chunks::<4>().0.iter().map(|&value| f32::from_le_bytes(value)).collect()
    };
    let (mean, directions) = (floats(of.mean), floats(of.directions));
    if own.hidden != mean.len() {
        return None;
    }
    let rows = own.pooled().zip(own.rows());
    let parts: Vec<(f64, f64)> =
        rows.map(|(pooled, logits)| (f64::from(residual(&mean, &directions, pooled)), largest(logits))).collect();
    let scores = scores(&parts, (f64::from(of.residual_weight), f64::from(of.logit_weight)));
    Some(Fit {
        mean: of.mean.to_vec(),
        directions: of.directions.to_vec(),
        residual_weight: of.residual_weight,
        logit_weight: of.logit_weight,
        threshold: threshold(&scores, rate) as f32,
        groups: Vec::new(),
        tried: Vec::new(),
    })
}

/// Split conformal prediction: the score that a new text of the same kind exceeds with probability `rate` at most, or the
/// highest one when there are too few for that.
fn threshold(scores: &[f64], rate: f64) -> f64 {
    let mut sorted = scores.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = ((sorted.len() + 1) as f64 * (1.0 - rate)).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or_default()
}

fn scores(parts: &[(f64, f64)], weights: (f64, f64)) -> Vec<f64> {
    parts.iter().map(|part| weights.0 * part.0 - weights.1 * part.1).collect()
}

fn largest(logits: &[f32]) -> f64 {
    f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max))
}

fn share_above(scores: &[f64], threshold: f64) -> f64 {
    scores.iter().filter(|score| **score > threshold).count() as f64 / scores.len().max(1) as f64
}

/// Mann-Whitney over its maximum.
fn auroc(positives: &[f64], negatives: &[f64]) -> f64 {
    let wins = |positive: &f64| {
        let beats = |negative: &f64| if positive > negative { 2_usize } else { usize::from(positive == negative) };
        negatives.iter().map(beats).sum::<usize>()
    };
    let pairs = (2 * positives.len() * negatives.len()).max(1);
    positives.iter().map(wins).sum::<usize>() as f64 / pairs as f64
}

/// The `rank` orthonormal directions of the largest variance, one after the other: orthogonal iteration (Golub and Van Loan,
/// "Matrix Computations", section 7.3.2) on the covariance.
fn principal_directions(reference: &Measured, mean: &[f64], rank: usize) -> Vec<f64> {
    let hidden = mean.len();
    let mut covariance = vec![0.0_f64; hidden * hidden];
    for row in reference.pooled() {
        let centred: Vec<f64> = row.iter().zip(mean).map(|(&value, mean)| f64::from(value) - mean).collect();
        for (to, &a) in covariance.chunks_exact_mut(hidden).zip(&centred) {
            to.iter_mut().zip(&centred).for_each(|(to, &b)| *to += a * b);
        }
    }
    let mut random = SplitMix64(1);
    let mut directions: Vec<f64> =
        (0..rank * hidden).map(|_| (random.next() >> 11) as f64 / (1_u64 << 53) as f64 - 0.5).collect();
    for _ in 0..ITERATIONS {
        let mut next = vec![0.0; rank * hidden];
        for (to, from) in next.chunks_exact_mut(hidden).zip(directions.chunks_exact(hidden)) {
            for (row, &value) in covariance.chunks_exact(hidden).zip(from) {
                to.iter_mut().zip(row).for_each(|(to, &entry)| *to += value * entry);
            }
        }
        orthonormalise(&mut next, hidden);
        directions = next;
    }
    directions
}

const ITERATIONS: usize = 60;

/// Gram-Schmidt, twice, because once loses digits; a row that vanishes stays zero.
fn orthonormalise(rows: &mut [f64], width: usize) {
    for _ in 0..2 {
        for index in 0..rows.len() / width {
            let (before, row) = rows.split_at_mut(index * width);
            let row = &mut row[..width];
            for other in before.chunks_exact(width) {
                let dot: f64 = row.iter().zip(other).map(|(a, b)| a * b).sum();
                row.iter_mut().zip(other).for_each(|(a, b)| *a -= dot * b);
            }
            let length = row.iter().map(|value| value * value).sum::<f64>().sqrt();
            let factor = if length > 1e-12 { 1.0 / length } else { 0.0 };
            row.iter_mut().for_each(|value| *value *= factor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors that lie near the first two axes, and one logit.
    fn measured(documents: usize, seed: u64, off: f32) -> Measured {
        let mut random = SplitMix64(seed);
        let mut uniform = || (random.next() >> 40) as f32 / (1 << 24) as f32 - 0.5;
        let hidden = 24;
        let mut pooled = Vec::new();
        for _ in 0..documents {
            pooled.extend((0..hidden).map(|index| match index {
                0 => 10.0 * uniform() + 1.0,
                1 => 4.0 * uniform(),
                _ => 0.1 * uniform() + off,
            }));
        }
        Measured { labels: 1, logits: (0..documents).map(|_| 4.0 + uniform()).collect(), pooled, hidden }
    }

    #[test]
    fn directions_are_those_of_the_variance() {
        let reference = measured(300, 1, 0.0);
        let mean = vec![0.0; 24];
        let directions = principal_directions(&reference, &mean, 2);
        assert!(directions[0].abs() > 0.999 && directions[25].abs() > 0.999, "{directions:?}");
        let dot: f64 = directions[..24].iter().zip(&directions[24..]).map(|(a, b)| a * b).sum();
        assert!(dot.abs() < 1e-9);
    }

    #[test]
    fn knows_what_lies_outside() {
        let (reference, own) = (measured(300, 1, 0.0), measured(200, 2, 0.0));
        let group = |name: &str, near, off| Group { name: name.into(), near, measured: measured(50, 3, off) };
        let fit = fit(&reference, &own, &[group("far", false, 0.3), group("same", true, 0.0)], 0.05).unwrap();
        let [far, same] = &fit.groups[..] else { panic!("two groups") };
        assert!(far.auroc > 0.99 && far.abstained > 0.95, "{far:?}");
        assert!((0.35..0.65).contains(&same.auroc) && same.abstained < 0.2, "{same:?}");
        assert_eq!(fit.section().hidden_size(), 24);

        let again = refit(&fit.section(), &measured(100, 4, 0.3), 0.05).unwrap();
        assert!(again.threshold > fit.threshold && again.mean == fit.mean);
        assert!(refit(&fit.section(), &Measured { hidden: 23, ..measured(9, 4, 0.0) }, 0.05).is_none());
    }

    #[test]
    fn a_threshold_holds_its_rate() {
        let scores: Vec<f64> = (1..=99).map(f64::from).collect();
        assert_eq!((threshold(&scores, 0.01), threshold(&scores, 0.1), threshold(&scores, 0.001)), (99.0, 90.0, 99.0));
        assert_eq!(auroc(&[2.0, 1.0], &[1.0, 0.0]), 0.875);
    }
}
