//! From cells to tables, intervals and tests.

use std::path::Path;

use anyhow::Result;

use super::cell::SCORED;
use super::plan::Plan;
use super::result::{
    ArmResult, BlockTests, CellResult, Comparison, LabelTest, RESULT_VERSION, ReliabilityBin, ResultFile,
};
use super::run::Summary;
use crate::predict::Predictions;
use crate::statistics::{bootstrap, friedman, holm, mcnemar, wilcoxon};

/// Reads what the finished cells in `out` said and compares the arms.
///
/// # Errors
/// When a file of a cell cannot be read.
pub fn analyse(plan: &Plan, summary: &Summary, out: &Path, commit: &str) -> Result<ResultFile> {
    let mut result = ResultFile {
        version: RESULT_VERSION,
        program: env!("CARGO_PKG_VERSION").into(),
        commit: commit.into(),
        experiment: plan.file.clone(),
        data: plan.data(),
        cells: summary.cells.clone(),
        left_out: plan.left_out.clone(),
        arms: Vec::new(),
        comparisons: Vec::new(),
        blocks: Vec::new(),
        searches: plan.searches.clone(),
    };
    for data in 0..plan.data.len() {
        let arms = outcomes(plan, summary, data, out)?;
        let (arms, comparisons) = compare(plan, data, &arms);
        result.arms.extend(arms);
        result.comparisons.extend(comparisons);
    }
    result.blocks = blocks(plan, &result.arms);
    Ok(result)
}

/// What an arm decided on a data set.
struct Outcome<'a> {
    arm: &'a str,
    complete: bool,
    seeds: Vec<Seed<'a>>,
}

/// The folds of one seed, one after the other.
struct Seed<'a> {
    seed: u64,
    cells: Vec<&'a CellResult>,
    truth: Vec<bool>,
    probabilities: Vec<f32>,
    predicted: Vec<bool>,
}

fn outcomes<'a>(plan: &'a Plan, summary: &'a Summary, data: usize, out: &Path) -> Result<Vec<Outcome<'a>>> {
    let codes = &plan.data[data].codes;
    let mut outcomes = Vec::new();
    for (index, arm) in plan.file.arms.iter().enumerate() {
        let mut outcome = Outcome { arm: &arm.name, complete: true, seeds: Vec::new() };
        for &seed in &plan.file.seeds {
            let cells: Vec<_> = plan
                .cells
                .iter()
                .zip(&summary.cells)
                .filter(|(cell, _)| cell.data == data && cell.arm == index && cell.seed == seed)
                .collect();
            if cells.is_empty() {
                continue;
            }
            if cells.iter().any(|(_, result)| result.metrics.is_none()) {
                outcome.complete = false;
                continue;
            }
            let mut own = Seed {
                seed,
                cells: cells.iter().map(|(_, result)| *result).collect(),
                truth: Vec::new(),
                probabilities: Vec::new(),
                predicted: Vec::new(),
            };
            for (cell, result) in cells {
                let mut said = Predictions::default();
                said.append(&out.join("cells").join(plan.folder(cell)).join(SCORED), codes)?;
                let probabilities = said.probabilities();
                let thresholds = result.thresholds.iter().cycle();
                own.predicted.extend(probabilities.iter().zip(thresholds).map(|(p, threshold)| p >= threshold));
                own.truth.extend(said.truth);
                own.probabilities.extend(probabilities);
            }
            outcome.seeds.push(own);
        }
        if !outcome.seeds.is_empty() {
            outcomes.push(outcome);
        }
    }
    Ok(outcomes)
}

fn compare(plan: &Plan, data: usize, outcomes: &[Outcome<'_>]) -> (Vec<ArmResult>, Vec<Comparison>) {
    let (name, labels) = (&plan.data[data].source.name, plan.data[data].codes.len());
    let Some(documents) = outcomes.first().and_then(|arm| arm.seeds.first()).map(|seed| seed.truth.len() / labels)
    else {
        return (Vec::new(), Vec::new());
    };
    let reference = outcomes.iter().position(|arm| arm.complete && arm.arm == plan.file.reference());
    let events: Vec<Vec<Vec<Event>>> = outcomes
        .iter()
        .map(|arm| arm.seeds.iter().map(|seed| events(&seed.truth, &seed.predicted, labels)).collect())
        .collect();
    // Per arm: micro, macro, every label; then per arm the differences of micro and macro to the reference.
    let width = labels + 2;
    let statistics = |counts: &[u32]| -> Vec<f64> {
        let mut values: Vec<f64> = events.iter().flat_map(|seeds| scores(seeds, counts, labels)).collect();
        if let Some(reference) = reference {
            for arm in 0..outcomes.len() {
                for score in 0..2 {
                    values.push(values[arm * width + score] - values[reference * width + score]);
                }
            }
        }
        values
    };
    let file = &plan.file;
    let intervals = bootstrap(documents, file.resamples, file.confidence, file.seeds[0], statistics);

    let mut arms = Vec::new();
    let mut comparisons = Vec::new();
    for (index, outcome) in outcomes.iter().enumerate() {
        let own = &intervals[index * width..(index + 1) * width];
        arms.push(arm_result(name, outcome, own, plan.data[data].folds.len()));
        let Some(reference) = reference.filter(|&reference| reference != index && outcome.complete) else { continue };
        let place = outcomes.len() * width + 2 * index;
        comparisons.push(Comparison {
            data: name.clone(),
            arm: outcome.arm.into(),
            micro_f1: intervals[place],
            macro_f1: intervals[place + 1],
            labels: label_tests(&outcome.seeds[0], &outcomes[reference].seeds[0], labels),
        });
    }
    (arms, comparisons)
}

fn arm_result(data: &str, outcome: &Outcome<'_>, intervals: &[crate::statistics::Interval], folds: usize) -> ArmResult {
    let cells = || outcome.seeds.iter().flat_map(|seed| &seed.cells);
    let mean = |value: &dyn Fn(&CellResult) -> Option<f64>| {
        let values: Option<Vec<f64>> = cells().map(|cell| value(cell)).collect();
        values.filter(|values| !values.is_empty()).map(|values| average(&values))
    };
    let by_seed: Vec<f64> = outcome
        .seeds
        .iter()
        .map(|seed| f1(&events(&seed.truth, &seed.predicted, 1), &vec![1; seed.truth.len()]))
        .collect();
    let fold = |fold: usize| {
        let own: Vec<f64> = cells()
            .filter(|cell| cell.fold == fold + 1)
            .filter_map(|cell| Some(cell.metrics.as_ref()?.micro_f1))
            .collect();
        average(&own)
    };
    let pairs: Vec<(f32, bool)> = outcome
        .seeds
        .iter()
        .flat_map(|seed| seed.probabilities.iter().copied().zip(seed.truth.iter().copied()))
        .collect();
    let (calibration_error, reliability) = reliability(&pairs);
    ArmResult {
        data: data.into(),
        arm: outcome.arm.into(),
        seeds: outcome.seeds.iter().map(|seed| seed.seed).collect(),
        complete: outcome.complete,
        micro_f1: intervals[0],
        macro_f1: intervals[1],
        micro_f1_std: deviation(&by_seed),
        micro_auprc: mean(&|cell| cell.metrics.as_ref()?.micro_auprc),
        micro_auroc: mean(&|cell| cell.metrics.as_ref()?.micro_auroc),
        label_f1: intervals[2..].to_vec(),
        fold_micro_f1: (0..folds).map(fold).collect(),
        precision_recall: precision_recall(pairs),
        calibration_error,
        reliability,
    }
}

/// A (document, label) pair that is true, predicted or both.
#[derive(Clone, Copy)]
struct Event {
    document: u32,
    label: u32,
    truth: bool,
    predicted: bool,
}

fn events(truth: &[bool], predicted: &[bool], labels: usize) -> Vec<Event> {
    let pairs = truth.iter().zip(predicted).enumerate();
    pairs
        .filter(|(_, (truth, predicted))| **truth || **predicted)
        .map(|(index, (&truth, &predicted))| Event {
            document: (index / labels) as u32,
            label: (index % labels) as u32,
            truth,
            predicted,
        })
        .collect()
}

/// Micro-F1, macro-F1 and F1 of each label, averaged over seeds, when each document counts so often.
fn scores(seeds: &[Vec<Event>], counts: &[u32], labels: usize) -> Vec<f64> {
    let mut means = vec![0.0; labels + 2];
    for events in seeds {
        // Twice the true positives, and what they are divided by.
        let mut sums = vec![(0u64, 0u64); labels];
        for event in events {
            let count = u64::from(counts[event.document as usize]);
            let (hits, total) = &mut sums[event.label as usize];
            *hits += 2 * count * u64::from(event.truth && event.predicted);
            *total += count * (u64::from(event.truth) + u64::from(event.predicted));
        }
        let ratio = |hits: u64, total: u64| if total == 0 { 0.0 } else { hits as f64 / total as f64 };
        let (hits, total) = sums.iter().fold((0, 0), |(hits, total), sum| (hits + sum.0, total + sum.1));
        let own: Vec<f64> = sums.iter().map(|&(hits, total)| ratio(hits, total)).collect();
        let all = [ratio(hits, total), average(&own)].into_iter().chain(own);
        means.iter_mut().zip(all).for_each(|(mean, value)| *mean += value / seeds.len() as f64);
    }
    means
}

fn f1(events: &[Event], counts: &[u32]) -> f64 {
    scores(&[events.iter().map(|event| Event { label: 0, ..*event }).collect()], counts, 1)[0]
}

/// McNemar for each label, corrected together.
fn label_tests(arm: &Seed<'_>, reference: &Seed<'_>, labels: usize) -> Vec<LabelTest> {
    let tests: Vec<_> = (0..labels)
        .map(|label| {
            let (mut only_arm, mut only_reference) = (0, 0);
            for index in (label..arm.truth.len()).step_by(labels) {
                let right = |seed: &Seed<'_>| seed.predicted[index] == seed.truth[index];
                match (right(arm), right(reference)) {
                    (true, false) => only_arm += 1,
                    (false, true) => only_reference += 1,
                    _ => {}
                }
            }
            mcnemar(only_arm, only_reference)
        })
        .collect();
    let corrected = holm(&tests.iter().map(|test| test.p).collect::<Vec<_>>());
    tests.into_iter().zip(corrected).map(|(test, holm)| LabelTest { test, holm }).collect()
}

/// Tests over the folds of each data set and over all.
fn blocks(plan: &Plan, arms: &[ArmResult]) -> Vec<BlockTests> {
    let names: Vec<&str> = plan.data.iter().map(|data| data.source.name.as_str()).collect();
    let groups = names.iter().map(|&name| (Some(name), vec![name]));
    let all = (names.len() > 1).then(|| (None, names.clone()));
    groups.chain(all).filter_map(|(name, data)| block_tests(plan, arms, name, &data)).collect()
}

fn block_tests(plan: &Plan, arms: &[ArmResult], name: Option<&str>, data: &[&str]) -> Option<BlockTests> {
    let scores = |arm: &str| -> Option<Vec<f64>> {
        let mut scores = Vec::new();
        for data in data {
            let own = arms.iter().find(|result| result.complete && result.arm == arm && result.data == *data)?;
            scores.extend(&own.fold_micro_f1);
        }
        Some(scores)
    };
    let there: Vec<(&str, Vec<f64>)> =
        plan.file.arms.iter().filter_map(|arm| Some((arm.name.as_str(), scores(&arm.name)?))).collect();
    let blocks = there.first()?.1.len();
    if blocks < 2 {
        return None;
    }
    let rows: Vec<Vec<f64>> =
        (0..blocks).map(|block| there.iter().map(|(_, scores)| scores[block]).collect()).collect();
    let reference = there.iter().find(|(arm, _)| *arm == plan.file.reference());
    let tests: Vec<_> = there
        .iter()
        .map(|(arm, scores)| {
            let (name, reference) = reference?;
            if arm == name { None } else { wilcoxon(scores, reference) }
        })
        .collect();
    let p: Vec<f64> = tests.iter().flatten().map(|test| test.p).collect();
    let mut corrected = holm(&p).into_iter();
    let wilcoxon_holm = tests.iter().map(|test| test.as_ref().and_then(|_| corrected.next())).collect();
    Some(BlockTests {
        data: name.map(Into::into),
        blocks,
        arms: there.iter().map(|(arm, _)| (*arm).to_owned()).collect(),
        friedman: friedman(&rows, 1.0 - plan.file.confidence),
        wilcoxon: tests,
        wilcoxon_holm,
    })
}

/// (recall, precision) from the highest probability to the lowest, at most about 200 points.
fn precision_recall(mut pairs: Vec<(f32, bool)>) -> Vec<(f64, f64)> {
    const POINTS: f64 = 200.0;
    pairs.sort_by(|one, other| other.0.total_cmp(&one.0));
    let positives = pairs.iter().filter(|(_, truth)| *truth).count();
    if positives == 0 {
        return Vec::new();
    }
    let mut curve: Vec<(f64, f64)> = Vec::new();
    let (mut hits, mut seen) = (0, 0);
    for group in pairs.chunk_by(|one, other| one.0 == other.0) {
        hits += group.iter().filter(|(_, truth)| *truth).count();
        seen += group.len();
        let point = (hits as f64 / positives as f64, hits as f64 / seen as f64);
        // The first point, and then one for each step of recall.
        if curve.last().is_none_or(|last| point.0 - last.0 >= 1.0 / POINTS) {
            curve.push(point);
        }
    }
    curve
}

/// Expected calibration error and the bins that hold anything.
fn reliability(pairs: &[(f32, bool)]) -> (f64, Vec<ReliabilityBin>) {
    const BINS: usize = 10;
    let mut sums = [(0.0, 0.0, 0usize); BINS];
    for &(probability, truth) in pairs {
        let (total, hits, count) = &mut sums[((probability * BINS as f32) as usize).min(BINS - 1)];
        *total += f64::from(probability);
        *hits += f64::from(u8::from(truth));
        *count += 1;
    }
    let bins: Vec<ReliabilityBin> = sums
        .into_iter()
        .filter(|&(_, _, count)| count > 0)
        .map(|(total, hits, count)| ReliabilityBin {
            probability: total / count as f64,
            rate: hits / count as f64,
            pairs: count,
        })
        .collect();
    let error = |bin: &ReliabilityBin| (bin.probability - bin.rate).abs() * bin.pairs as f64 / pairs.len() as f64;
    (bins.iter().map(error).sum(), bins)
}

fn average(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn deviation(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let mean = average(values);
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weighted_scores_are_scores_of_repeated_documents() {
        let truth = [true, false, true, true, false, false];
        let predicted = [true, true, false, true, false, false];
        let events = events(&truth, &predicted, 2);
        let twice_the_second = scores(std::slice::from_ref(&events), &[1, 2, 0], 2);
        // Label 0: one hit, two misses; label 1: two hits, one false alarm.
        let expected = [6.0 / 9.0, (2.0 / 4.0 + 4.0 / 5.0) / 2.0, 2.0 / 4.0, 4.0 / 5.0];
        for (value, expected) in twice_the_second.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-12, "{twice_the_second:?}");
        }
        assert_eq!(scores(&[events], &[0, 0, 0], 2), [0.0; 4]);
    }

    #[test]
    fn calibration_is_the_gap_between_said_and_true() {
        let pairs = [(0.25, false), (0.25, true), (0.25, false), (0.25, false), (1.0, false), (1.0, true)];
        let (error, bins) = reliability(&pairs);
        assert_eq!(bins.len(), 2);
        assert!((error - 0.5 * 2.0 / 6.0).abs() < 1e-12, "{error}");
        assert_eq!(reliability(&[]).1, []);
    }

    #[test]
    fn the_curve_ends_where_everything_is_found() {
        let pairs = vec![(0.9, true), (0.8, false), (0.7, true), (0.1, false)];
        assert_eq!(precision_recall(pairs), [(0.5, 1.0), (1.0, 2.0 / 3.0)]);
        assert_eq!(precision_recall(vec![(0.9, false)]), []);
    }
}
