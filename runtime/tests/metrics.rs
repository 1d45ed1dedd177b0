//! The metrics against scikit-learn's, recorded by `scripts/fixtures/metrics.py`.
#![cfg(feature = "eval")]

use std::collections::BTreeMap;

use kdh_runtime::metrics::{evaluate, micro_f1};
use serde_json::Value;

/// Verifies: R-015
#[test]
fn equals_scikit_learn() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("data/metrics.json")).unwrap();
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let thresholds = numbers(&case["thresholds"]);
        let truth: Vec<bool> = numbers(&case["truth"]).iter().map(|&value| value == 1.0).collect();
        let probabilities = numbers(&case["probabilities"]);
        let codes = vec!["code"; thresholds.len()];

        let metrics = evaluate(&codes, &truth, &probabilities, &thresholds).unwrap();
        assert_eq!(micro_f1(&truth, &probabilities, &thresholds).unwrap(), metrics.micro_f1, "{name}");

        let metrics = serde_json::to_value(metrics).unwrap();
        let expected: BTreeMap<String, Value> = serde_json::from_value(case["expected"].clone()).unwrap();
        assert_eq!(expected.len(), 2 + 4 * 3 + 2 * 2 + 5, "every metric is there");
        for (key, expected) in &expected {
            match key.strip_prefix("per_label_") {
                Some(metric) => {
                    let expected = expected.as_array().unwrap();
                    assert_eq!(expected.len(), codes.len());
                    for (label, expected) in expected.iter().enumerate() {
                        assert_close(&metrics["per_label"][label][metric], expected, &format!("{name}: {label} {key}"));
                    }
                }
                None => assert_close(&metrics[key], expected, &format!("{name}: {key}")),
            }
        }
    }
    assert_eq!(cases.len(), 11);
}

fn assert_close(value: &Value, expected: &Value, what: &str) {
    match (value.as_f64(), expected.as_f64()) {
        (Some(value), Some(expected)) => assert!((value - expected).abs() < 1e-9, "{what}: {value} is not {expected}"),
        _ => assert!(value.is_null() && expected.is_null(), "{what}: {value} is not {expected}"),
    }
}

/// The numbers of a list, or of a list of lists one after the other.
fn numbers(value: &Value) -> Vec<f32> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        number => number.as_f64().into_iter().map(|number| number as f32).collect(),
    }
}
