use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal};

use super::{ranks, ties};

/// What [`wilcoxon`] says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wilcoxon {
    /// Pairs that differ.
    pub pairs: usize,
    /// The smaller of the rank sums of positive and negative differences.
    pub statistic: f64,
    /// Two-sided p-value of "differences are symmetric about 0".
    pub p: f64,
    /// Whether it is exact.
    pub exact: bool,
}

/// Wilcoxon's signed-rank test of paired scores (Wilcoxon 1945). Pairs without a difference are left out.
///
/// Up to 50 pairs the p-value is exact, also with ties: it counts the signs that could be, over the ranks that there
/// are. Beyond that it is the normal approximation with the correction for ties. `None` when no pair differs.
pub fn wilcoxon(first: &[f64], second: &[f64]) -> Option<Wilcoxon> {
    const MOST_EXACT: usize = 50;
    let differences: Vec<f64> =
        first.iter().zip(second).map(|(one, other)| one - other).filter(|difference| *difference != 0.0).collect();
    let sizes: Vec<f64> = differences.iter().map(|difference| difference.abs()).collect();
    let pairs = sizes.len();
    let ranks = ranks(&sizes);
    let total: f64 = ranks.iter().sum();
    let positive: f64 = ranks.iter().zip(&differences).filter(|(_, sign)| **sign > 0.0).map(|(rank, _)| rank).sum();
    let statistic = positive.min(total - positive);
    let exact = pairs <= MOST_EXACT;
    let p = match pairs {
        0 => return None,
        _ if exact => share_of_signs(&ranks, statistic),
        _ => {
            let count = pairs as f64;
            let correction: f64 = ties(&sizes).iter().map(|&tie| (tie as f64).powi(3) - tie as f64).sum::<f64>() / 48.0;
            let variance = count * (count + 1.0) * (2.0 * count + 1.0) / 24.0 - correction;
            2.0 * Normal::standard().cdf((statistic - total / 2.0) / variance.sqrt())
        }
    };
    Some(Wilcoxon { pairs, statistic, p: p.min(1.0), exact })
}

/// Share of all choices of signs whose smaller rank sum is at most `statistic`: both tails.
fn share_of_signs(ranks: &[f64], statistic: f64) -> f64 {
    // Ranks are whole or half numbers; twice a rank is whole.
    let doubled: Vec<usize> = ranks.iter().map(|rank| (2.0 * rank) as usize).collect();
    let mut share = vec![0.0; doubled.iter().sum::<usize>() + 1];
    share[0] = 1.0;
    let mut reached = 0;
    for rank in doubled {
        reached += rank;
        for sum in (0..=reached).rev() {
            let with = if sum >= rank { share[sum - rank] } else { 0.0 };
            share[sum] = (share[sum] + with) / 2.0;
        }
    }
    2.0 * share[..=(2.0 * statistic) as usize].iter().sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_folds_that_agree_cannot_say_more_than_one_in_sixteen() {
        let result = wilcoxon(&[0.8, 0.7, 0.9, 0.6, 0.5], &[0.7, 0.5, 0.6, 0.2, 0.05]).unwrap();
        assert_eq!((result.pairs, result.statistic, result.p, result.exact), (5, 0.0, 0.0625, true));
        assert_eq!(wilcoxon(&[0.5, 0.5], &[0.5, 0.5]), None);
        assert_eq!(wilcoxon(&[], &[]), None);
    }
}
