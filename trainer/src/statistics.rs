//! Statistics of classifiers that were scored on the same documents or folds.
//!
//! What is compared is always paired: two arms on the same documents ([`bootstrap`], [`mcnemar`]), or several arms on
//! the same folds ([`wilcoxon`], [`friedman`]). A test compares every function with scipy, statsmodels and
//! scikit-posthocs.

mod bootstrap;
mod friedman;
mod mcnemar;
mod wilcoxon;

pub use bootstrap::{Interval, bootstrap};
pub use friedman::{Friedman, friedman, studentized_range};
pub use mcnemar::{McNemar, holm, mcnemar};
pub use wilcoxon::{Wilcoxon, wilcoxon};

/// Ranks from 1 for the smallest; equal values share the mean of their ranks.
pub(crate) fn ranks(values: &[f64]) -> Vec<f64> {
    let rank = |value: &f64| {
        let below = values.iter().filter(|other| *other < value).count();
        let same = values.iter().filter(|other| *other == value).count();
        below as f64 + (same + 1) as f64 / 2.0
    };
    values.iter().map(rank).collect()
}

/// Sizes of the groups of equal values.
fn ties(values: &[f64]) -> Vec<usize> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.chunk_by(|one, other| one == other).map(<[f64]>::len).collect()
}
