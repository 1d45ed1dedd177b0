use serde::{Deserialize, Serialize};
use statrs::distribution::{Continuous, ContinuousCDF, Normal};

use super::mcnemar::chi_squared_tail;
use super::{ranks, ties};

/// What [`friedman`] says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Friedman {
    /// Mean rank of each arm, 1 for the best.
    pub mean_ranks: Vec<f64>,
    /// Friedman's chi-squared statistic, corrected for ties.
    pub statistic: f64,
    /// P-value of "all arms have the same rank".
    pub p: f64,
    /// Nemenyi's critical difference: two arms differ when their mean ranks lie further apart.
    pub critical_difference: f64,
}

/// Friedman's test of several arms over several blocks, and Nemenyi's critical difference (Demšar 2006, section 3.2.2).
///
/// `scores` has one row a block (a fold, a data set) with one score an arm, higher is better. `None` with fewer than
/// three arms or two blocks, where there is nothing to test.
pub fn friedman(scores: &[Vec<f64>], alpha: f64) -> Option<Friedman> {
    let (blocks, arms) = (scores.len(), scores.first()?.len());
    if blocks < 2 || arms < 3 || scores.iter().any(|row| row.len() != arms) {
        return None;
    }
    let mut sums = vec![0.0; arms];
    let mut tied = 0.0;
    for row in scores {
        // Rank 1 is the best.
        let negated: Vec<f64> = row.iter().map(|score| -score).collect();
        sums.iter_mut().zip(ranks(&negated)).for_each(|(sum, rank)| *sum += rank);
        tied += ties(row).iter().map(|&tie| (tie as f64).powi(3) - tie as f64).sum::<f64>();
    }
    let (n, k) = (blocks as f64, arms as f64);
    let correction = 1.0 - tied / (n * k * (k * k - 1.0));
    let raw = 12.0 / (n * k * (k + 1.0)) * sums.iter().map(|sum| sum * sum).sum::<f64>() - 3.0 * n * (k + 1.0);
    // When every block is one tie there is no difference to see.
    let statistic = if correction > 0.0 { (raw / correction).max(0.0) } else { 0.0 };
    Some(Friedman {
        mean_ranks: sums.iter().map(|sum| sum / n).collect(),
        statistic,
        p: chi_squared_tail(statistic, arms - 1),
        critical_difference: critical_value(alpha, arms) / 2f64.sqrt() * (k * (k + 1.0) / (6.0 * n)).sqrt(),
    })
}

/// Probability that the range of `groups` standard normal values is at most `range`: the studentized range with
/// infinitely many degrees of freedom.
pub fn studentized_range(range: f64, groups: usize) -> f64 {
    if range <= 0.0 {
        return 0.0;
    }
    // k ∫ φ(z) (Φ(z) − Φ(z − q))^(k−1) dz by Simpson's rule; φ is below 1e-22 outside.
    const EDGE: f64 = 10.0;
    const STEPS: u32 = 2000;
    let normal = Normal::standard();
    let step = 2.0 * EDGE / f64::from(STEPS);
    let sum: f64 = (0..=STEPS)
        .map(|index| {
            let z = -EDGE + step * f64::from(index);
            let weight = match index {
                0 | STEPS => 1.0,
                _ if index % 2 == 1 => 4.0,
                _ => 2.0,
            };
            weight * normal.pdf(z) * (normal.cdf(z) - normal.cdf(z - range)).powi(groups as i32 - 1)
        })
        .sum();
    (groups as f64 * sum * step / 3.0).min(1.0)
}

/// The range that is exceeded with probability `alpha`.
fn critical_value(alpha: f64, groups: usize) -> f64 {
    let (mut low, mut high) = (0.0, 20.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if studentized_range(middle, groups) < 1.0 - alpha { low = middle } else { high = middle }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_to_test_is_none() {
        assert_eq!(friedman(&[], 0.05), None);
        assert_eq!(friedman(&[vec![0.1, 0.2, 0.3]], 0.05), None);
        assert_eq!(friedman(&[vec![0.1, 0.2], vec![0.1, 0.3]], 0.05), None);
        let same = friedman(&[vec![0.5; 3], vec![0.5; 3]], 0.05).unwrap();
        assert_eq!((same.statistic, same.p, same.mean_ranks), (0.0, 1.0, vec![2.0; 3]));
    }

    #[test]
    fn the_critical_differences_are_those_of_the_table() {
        // Demšar 2006, table 5a: q / sqrt(2) at 0.05 for 2 to 10 classifiers.
        let table = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164];
        for (groups, expected) in (2..).zip(table) {
            let value = critical_value(0.05, groups) / 2f64.sqrt();
            assert!((value - expected).abs() < 1e-3, "{groups}: {value}");
        }
    }
}
