//! Statistics against scipy, statsmodels and scikit-posthocs.

#![expect(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

use kdh_trainer::statistics::{bootstrap, friedman, holm, mcnemar, studentized_range, wilcoxon};
use serde_json::Value;

/// Made by scripts/fixtures/paired_statistics.py.
const FIXTURE: &str = include_str!("data/statistics.json");

fn fixture(name: &str) -> Value {
    serde_json::from_str::<Value>(FIXTURE).unwrap()[name].take()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

fn assert_close(value: f64, expected: &Value, tolerance: f64) {
    let expected = expected.as_f64().unwrap();
    assert!((value - expected).abs() <= tolerance, "{value} instead of {expected}");
}

#[test]
fn mcnemar_and_holm_are_statsmodels() {
    for case in fixture("mcnemar").as_array().unwrap() {
        let result = mcnemar(case["only_first"].as_u64().unwrap(), case["only_second"].as_u64().unwrap());
        assert_close(result.p, &case["p"], 1e-12);
        assert_eq!(result.exact, case["exact"].as_bool().unwrap());
    }
    let case = fixture("holm");
    let adjusted = holm(&numbers(&case["p"]));
    for (value, expected) in adjusted.iter().zip(case["adjusted"].as_array().unwrap()) {
        assert_close(*value, expected, 1e-12);
    }
    assert_eq!(holm(&[]), [] as [f64; 0]);
}

#[test]
fn wilcoxon_is_scipys() {
    for case in fixture("wilcoxon").as_array().unwrap() {
        let result = wilcoxon(&numbers(&case["first"]), &numbers(&case["second"])).unwrap();
        assert_eq!(result.pairs as u64, case["pairs"].as_u64().unwrap());
        assert_close(result.statistic, &case["statistic"], 1e-9);
        assert_close(result.p, &case["p"], 1e-10);
    }
}

#[test]
fn friedman_and_nemenyi_are_scipys() {
    for case in fixture("friedman").as_array().unwrap() {
        let scores: Vec<Vec<f64>> = case["scores"].as_array().unwrap().iter().map(numbers).collect();
        let (blocks, arms) = (scores.len() as f64, scores[0].len());
        let result = friedman(&scores, 0.05).unwrap();
        assert_close(result.statistic, &case["statistic"], 1e-9);
        assert_close(result.p, &case["p"], 1e-10);
        assert_close(result.critical_difference, &case["critical_difference"], 1e-6);
        for (value, expected) in result.mean_ranks.iter().zip(case["mean_ranks"].as_array().unwrap()) {
            assert_close(*value, expected, 1e-12);
        }
        // Nemenyi's p-value of each pair, which the critical difference stands for.
        let k = arms as f64;
        for one in 0..arms {
            for other in 0..one {
                let difference = (result.mean_ranks[one] - result.mean_ranks[other]).abs();
                let range = difference / (k * (k + 1.0) / (6.0 * blocks)).sqrt() * 2f64.sqrt();
                assert_close(1.0 - studentized_range(range, arms), &case["nemenyi"][one][other], 1e-3);
            }
        }
    }
    for case in fixture("studentized_range").as_array().unwrap() {
        let value = studentized_range(case[0].as_f64().unwrap(), case[1].as_u64().unwrap() as usize);
        assert_close(value, &case[2], 1e-7);
    }
}

#[test]
fn a_bootstrap_interval_is_scipys_but_for_the_draws() {
    for case in fixture("bootstrap").as_array().unwrap() {
        let values = numbers(&case["values"]);
        let mean = |counts: &[u32]| {
            let sum: f64 = counts.iter().zip(&values).map(|(&count, value)| f64::from(count) * value).sum();
            vec![sum / values.len() as f64]
        };
        let resamples = case["resamples"].as_u64().unwrap() as usize;
        let interval = bootstrap(values.len(), resamples, 0.95, 1, mean)[0];
        let width = case["high"].as_f64().unwrap() - case["low"].as_f64().unwrap();
        assert_close(interval.low, &case["low"], 0.03 * width);
        assert_close(interval.high, &case["high"], 0.03 * width);
    }
}
