//! From the search to the result: points trained in full.

use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::file::ranked;
use super::objective::{Fidelity, Objective};
use crate::pso::{Point, Record};
use crate::statistics::ranks;

/// What came of training some points in full.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Promotion {
    /// The points, in the order of their full score, the failed ones last.
    pub points: Vec<Promoted>,
    /// Spearman's rank correlation of reduced and full scores over these points; `None` for fewer than three.
    pub rank_correlation: Option<f64>,
}

/// A point at both fidelities.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Promoted {
    /// Number of its evaluation in the search.
    pub evaluation: u64,
    /// The point.
    pub point: Point,
    /// Score at reduced fidelity.
    pub reduced: f64,
    /// Score in full; `None` when the training diverged.
    pub full: Option<f64>,
}

/// Trains the best points of a search in full, and `spread` others, evenly over the ranks below.
///
/// Runs go to `folder/EVALUATION`; those that are done are not done again. `progress` is called before each.
///
/// # Errors
/// When training cannot be done at all.
pub fn promote(
    objective: &Objective,
    records: &[Record],
    folder: &Path,
    mut progress: impl FnMut(&Record),
) -> Result<Promotion> {
    let file = objective.file();
    let mut points = Vec::new();
    for record in choose(&ranked(records), file.promote, file.spread) {
        progress(record);
        let full = objective.evaluate(&record.point, Fidelity::Full, &folder.join(record.evaluation.to_string()))?;
        points.push(Promoted {
            evaluation: record.evaluation,
            point: record.point.clone(),
            reduced: record.score.unwrap_or(f64::NEG_INFINITY),
            full: full.score(),
        });
    }
    let (reduced, full): (Vec<f64>, Vec<f64>) =
        points.iter().filter_map(|point| Some((point.reduced, point.full?))).unzip();
    points.sort_by(|one, other| other.full.partial_cmp(&one.full).unwrap_or(core::cmp::Ordering::Equal));
    Ok(Promotion { rank_correlation: spearman(&reduced, &full), points })
}

/// The first of a ranking, and some spread evenly over the rest, its last among them.
fn choose<'a>(ranked: &[&'a Record], count: usize, spread: usize) -> Vec<&'a Record> {
    let top = (count - spread).min(ranked.len());
    let (best, rest) = ranked.split_at(top);
    let spread = spread.min(rest.len());
    let others = (1..=spread).map(|index| rest[(index * rest.len()).div_ceil(spread) - 1]);
    best.iter().copied().chain(others).collect()
}

/// Spearman's rank correlation: Pearson's over ranks, ties sharing the mean of theirs.
fn spearman(one: &[f64], other: &[f64]) -> Option<f64> {
    if one.len() < 3 {
        return None;
    }
    let (one, other) = (ranks(one), ranks(other));
    let mean = (one.len() + 1) as f64 / 2.0;
    let product = |left: &[f64], right: &[f64]| -> f64 {
        left.iter().zip(right).map(|(left, right)| (left - mean) * (right - mean)).sum()
    };
    let scale = (product(&one, &one) * product(&other, &other)).sqrt();
    (scale > 0.0).then(|| product(&one, &other) / scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pso::Status;

    #[test]
    fn rank_correlation_is_spearmans() {
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[10.0, 20.0, 90.0]), Some(1.0));
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), Some(-1.0));
        // scipy.stats.spearmanr([1, 2, 2, 4, 5], [2, 1, 3, 3, 9]) = 0.7631578947368421
        let value = spearman(&[1.0, 2.0, 2.0, 4.0, 5.0], &[2.0, 1.0, 3.0, 3.0, 9.0]).unwrap();
        assert!((value - 0.763_157_894_736_842_1).abs() < 1e-12, "{value}");
        assert_eq!(spearman(&[1.0, 1.0, 1.0], &[3.0, 2.0, 1.0]), None);
        assert_eq!(spearman(&[1.0, 2.0], &[3.0, 2.0]), None);
    }

    #[test]
    fn the_best_are_promoted_and_some_of_the_rest() {
        let record = |evaluation: u64| Record {
            evaluation,
            attempt: 1,
            worker: String::new(),
            status: Status::Scored,
            point: Point::new(),
            score: Some(-(evaluation as f64)),
            started: 0.0,
            heartbeat: 0.0,
            finished: None,
        };
        let records: Vec<Record> = (0..10).map(record).collect();
        let ranked: Vec<&Record> = records.iter().collect();
        let chosen = |count, spread| -> Vec<u64> {
            choose(&ranked, count, spread).iter().map(|record| record.evaluation).collect()
        };
        assert_eq!(chosen(3, 0), [0, 1, 2]);
        assert_eq!(chosen(5, 3), [0, 1, 4, 7, 9]);
        assert_eq!(chosen(30, 3), (0..10).collect::<Vec<_>>());
    }
}
