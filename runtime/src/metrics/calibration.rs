//! How well probabilities say how often they are right.

use serde::{Deserialize, Serialize};

use super::{MetricsError, check_matrix};

/// Bins of equal width that [`reliability`] sorts probabilities into.
pub const BINS: usize = 10;

/// One bin of a reliability diagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Bin {
    /// Probabilities in the bin.
    pub count: usize,
    /// Their mean.
    pub mean_probability: f64,
    /// Share of them whose label is true.
    pub observed: f64,
}

/// The reliability diagram of probabilities: [`BINS`] bins of equal width, empty ones too.
pub fn reliability(scored: impl Iterator<Item = (f32, bool)>) -> [Bin; BINS] {
    let mut bins = [Bin::default(); BINS];
    for (probability, truth) in scored {
        // A NaN goes to the first bin.
        let bin = &mut bins[((f64::from(probability) * BINS as f64) as usize).min(BINS - 1)];
        bin.count += 1;
        bin.mean_probability += f64::from(probability);
        bin.observed += f64::from(u8::from(truth));
    }
    for bin in bins.iter_mut().filter(|bin| bin.count > 0) {
        bin.mean_probability /= bin.count as f64;
        bin.observed /= bin.count as f64;
    }
    bins
}

/// Expected calibration error (Guo et al. 2017): the mean distance between said and observed over the bins, weighted by
/// their counts. 0 without probabilities.
pub fn expected_calibration_error(bins: &[Bin]) -> f64 {
    let all: usize = bins.iter().map(|bin| bin.count).sum();
    let gap = |bin: &Bin| bin.count as f64 * (bin.mean_probability - bin.observed).abs();
    if all == 0 { 0.0 } else { bins.iter().map(gap).sum::<f64>() / all as f64 }
}

/// The mean over the labels of each label's [`expected_calibration_error`], on `[documents, labels]` matrices.
///
/// # Errors
///
/// As [`evaluate`](super::evaluate).
pub fn mean_calibration_error(truth: &[bool], probabilities: &[f32], labels: usize) -> Result<f64, MetricsError> {
    check_matrix(truth, probabilities, labels)?;
    let of_label = |label: usize| {
        let column = probabilities.iter().copied().zip(truth.iter().copied()).skip(label).step_by(labels);
        expected_calibration_error(&reliability(column))
    };
    Ok((0..labels).map(of_label).sum::<f64>() / labels as f64)
}

/// Mean negative log-likelihood of the truth, in nats; a probability counts as at least 1e-7 away from 0 and 1.
pub fn log_loss(truth: &[bool], probabilities: &[f32]) -> f64 {
    const EDGE: f64 = 1e-7;
    let loss = |(&truth, &probability): (&bool, &f32)| {
        let probability = f64::from(probability).clamp(EDGE, 1.0 - EDGE);
        -if truth { probability.ln() } else { (1.0 - probability).ln() }
    };
    truth.iter().zip(probabilities).map(loss).sum::<f64>() / (truth.len().max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_gap_between_said_and_observed() {
        let scored = [(0.95, true), (0.95, true), (0.95, false), (0.95, true), (0.05, false), (1.0, true)];
        let bins = reliability(scored.into_iter());
        assert_eq!((bins[0].count, bins[9].count), (1, 5));
        // 5 of 6 in the last bin: said 0.96, observed 0.8; 1 of 6 in the first: said 0.05, observed 0.
        let expected = (5.0 * 0.16 + 0.05) / 6.0;
        assert!((expected_calibration_error(&bins) - expected).abs() < 1e-6);
        assert_eq!(expected_calibration_error(&reliability([].into_iter())), 0.0);
    }

    #[test]
    fn labels_weigh_the_same() {
        let truth = [true, false, true, false];
        let error = mean_calibration_error(&truth, &[1.0, 0.5, 1.0, 0.5], 2).unwrap();
        assert!((error - 0.25).abs() < 1e-9);
        assert!(mean_calibration_error(&truth, &[1.0, 0.5, 1.0], 2).is_err());
        assert!((log_loss(&truth, &[0.5; 4]) - 2.0_f64.ln()).abs() < 1e-9);
        assert!(log_loss(&truth, &[0.0; 4]).is_finite());
    }
}
