use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// A statistic and its confidence interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The statistic of the sample itself.
    pub estimate: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Percentile bootstrap of several statistics of one sample of `units` (Efron and Tibshirani 1993, section 13.3).
///
/// `statistics` takes how often each unit was drawn and gives one value a statistic. All statistics see the same draws,
/// so that a difference of two of them is a paired one. An interval ends at the quantiles `(1 ∓ confidence) / 2` of the
/// values over all `resamples`, between two of them by linear interpolation. The same seed gives the same interval.
pub fn bootstrap(
    units: usize,
    resamples: usize,
    confidence: f64,
    seed: u64,
    mut statistics: impl FnMut(&[u32]) -> Vec<f64>,
) -> Vec<Interval> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let estimates = statistics(&vec![1; units]);
    let mut replicates: Vec<Vec<f64>> = vec![Vec::with_capacity(resamples); estimates.len()];
    let mut counts = vec![0u32; units];
    for _ in 0..resamples {
        counts.fill(0);
        for _ in 0..units {
            counts[random.random_range(0..units)] += 1;
        }
        for (values, value) in replicates.iter_mut().zip(statistics(&counts)) {
            values.push(value);
        }
    }
    let tail = (1.0 - confidence) / 2.0;
    estimates
        .into_iter()
        .zip(&mut replicates)
        .map(|(estimate, values)| {
            values.sort_by(f64::total_cmp);
            let end = |share| quantile(values, share).unwrap_or(estimate);
            Interval { estimate, low: end(tail), high: end(1.0 - tail) }
        })
        .collect()
}

/// As numpy's default: linear between the two nearest of the sorted values.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(below + (above - below) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_numpys() {
        // numpy.percentile([1, 2, 4, 8], [2.5, 50, 97.5]) = [1.075, 3, 7.7]
        let values = [1.0, 2.0, 4.0, 8.0];
        for (share, expected) in [(0.025, 1.075), (0.5, 3.0), (0.975, 7.7)] {
            assert!((quantile(&values, share).unwrap() - expected).abs() < 1e-12);
        }
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn statistics_see_the_same_draws() {
        let values: Vec<f64> = (0..50).map(f64::from).collect();
        let mean = |counts: &[u32]| counts.iter().zip(&values).map(|(&n, x)| f64::from(n) * x).sum::<f64>() / 50.0;
        let once = bootstrap(50, 500, 0.95, 7, |counts| vec![mean(counts), mean(counts) + 1.0, 1.0]);
        assert_eq!(once, bootstrap(50, 500, 0.95, 7, |counts| vec![mean(counts), mean(counts) + 1.0, 1.0]));
        assert_ne!(once[0], bootstrap(50, 500, 0.95, 8, |counts| vec![mean(counts)])[0]);
        assert!((once[1].low - once[0].low - 1.0).abs() < 1e-12);
        assert_eq!(once[2], Interval { estimate: 1.0, low: 1.0, high: 1.0 });
    }
}
