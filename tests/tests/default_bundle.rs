//! The bundle that ships, as a site would accept it: on documents that it was not trained on.

use kdh_tests::{corpora, json, program, root, succeed};

/// Verifies: R-017
#[test]
fn the_default_bundle_is_what_its_card_says() {
    let dev = corpora().join("hoc/dev.jsonl");
    let found = json(program("kdh").args(["eval", "--bundle", "models/default.kdh"]).arg(dev));
    let micro_f1 = found["micro_f1"].as_f64().unwrap();
    assert!(micro_f1 >= 0.80, "micro-F1 on dev is {micro_f1}");
    // The vocabulary is pruned: on dev it must spell what the whole one spells, which leaves at most a few symbols.
    let unknown = found["unknown_token_rate"].as_f64().unwrap();
    assert!(unknown < 1e-3, "{unknown} of the tokens are unknown");

    let size = std::fs::metadata(root().join("models/default.kdh")).unwrap().len();
    assert!(size <= 16_000_000, "{size} bytes");
}

#[test]
fn the_default_bundle_verifies_and_labels_the_example() {
    succeed(program("kdh").arg("verify"));
    let labelled = json(program("kdh").args(["label", "examples/abstract.txt"]));
    let given: Vec<&str> = labelled["labels"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|label| label["positive"] == true)
        .map(|label| label["code"].as_str().unwrap())
        .collect();
    // The text is about cell death and angiogenesis, and says that invasion is not affected.
    assert!(given.contains(&"CD") && given.contains(&"A"), "{given:?}");
}
