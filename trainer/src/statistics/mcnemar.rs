use serde::{Deserialize, Serialize};
use statrs::distribution::{Binomial, ChiSquared, ContinuousCDF, DiscreteCDF};

/// What [`mcnemar`] says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct McNemar {
    /// Documents that only the first classifier decides rightly.
    pub only_first: u64,
    /// Documents that only the second decides rightly.
    pub only_second: u64,
    /// Two-sided p-value of "both are equally often right".
    pub p: f64,
    /// Whether it is exact.
    pub exact: bool,
}

/// McNemar's test of two classifiers on the same documents (McNemar 1947).
///
/// Below 25 documents on which just one of the two is right it is the exact binomial test, from there on the
/// chi-squared one with Edwards' continuity correction.
pub fn mcnemar(only_first: u64, only_second: u64) -> McNemar {
    const FEW: u64 = 25;
    let discordant = only_first + only_second;
    let exact = discordant < FEW;
    let p = if exact {
        (2.0 * fair_coin(only_first.min(only_second), discordant)).min(1.0)
    } else {
        let excess = only_first.abs_diff(only_second) as f64 - 1.0;
        chi_squared_tail(excess.max(0.0).powi(2) / discordant as f64, 1)
    };
    McNemar { only_first, only_second, p, exact }
}

/// Holm's correction of p-values that are looked at together (Holm 1979): compare what it gives with alpha itself.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&one, &other| p[one].total_cmp(&p[other]));
    let mut adjusted = vec![0.0; p.len()];
    let mut largest: f64 = 0.0;
    for (rank, index) in order.into_iter().enumerate() {
        largest = largest.max(p[index] * (p.len() - rank) as f64).min(1.0);
        adjusted[index] = largest;
    }
    adjusted
}

/// Probability of at most `heads` in `flips`.
#[expect(clippy::expect_used, reason = "one half is a probability")]
fn fair_coin(heads: u64, flips: u64) -> f64 {
    Binomial::new(0.5, flips).expect("a probability").cdf(heads)
}

#[expect(clippy::expect_used, reason = "the degrees of freedom are positive")]
pub(super) fn chi_squared_tail(value: f64, degrees: usize) -> f64 {
    ChiSquared::new(degrees.max(1) as f64).expect("positive degrees of freedom").sf(value)
}
