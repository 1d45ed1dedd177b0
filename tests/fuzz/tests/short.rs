//! A short run of every target: the corpus, what once was a finding, and some mutations.

use kdh_fuzz::{Damage, Options, Progress, TARGETS, damage, root, run};

/// Verifies: R-108
#[test]
fn no_target_finds_anything() {
    let mut total = 0;
    for target in TARGETS {
        let options = Options { iterations: target.short, threads: 2, seed: 7, trace: None };
        let report = run(target, &options, &Progress::default()).unwrap();
        println!(
            "{}: {} inputs in {:?}, {} taken, {} outcomes, slowest {:?}",
            target.name, report.inputs, report.elapsed, report.accepted, report.outcomes, report.slowest
        );
        let places: Vec<&str> = report.findings.iter().map(|finding| finding.place.as_str()).collect();
        assert!(places.is_empty(), "{}: {places:?}; `kdh-fuzz run --target {0}` keeps the inputs", target.name);
        // A target whose inputs are all refused, or all taken, tests little.
        assert!(report.outcomes >= 2 && report.accepted > 0, "{}: {} outcomes", target.name, report.outcomes);
        total += report.inputs;
    }
    println!("{total} inputs");
}

#[test]
fn a_target_finds_what_is_wrong() {
    // The same seed gives the same inputs, and each thread its own.
    let target = TARGETS.iter().find(|target| target.name == "dataset").unwrap();
    let options = Options { iterations: 2_000, threads: 2, seed: 3, trace: None };
    let [first, second] = [(); 2].map(|()| run(target, &options, &Progress::default()).unwrap());
    assert_eq!((first.accepted, first.outcomes), (second.accepted, second.outcomes));
    let other = run(target, &Options { seed: 4, ..options }, &Progress::default()).unwrap();
    assert_ne!(first.accepted, other.accepted);
}

#[test]
fn a_damaged_bundle_is_refused() {
    let small = std::fs::read(root().join("format/tests/golden/v1.kdh")).unwrap();
    let counts = damage(&small, Damage::Everywhere, 0, || ());
    assert_eq!((counts.refused, counts.taken, counts.panicked), (9 * small.len() as u64, 0, 0));

    let default = std::fs::read(root().join("models/default.kdh")).unwrap();
    let counts = damage(&default, Damage::Random(100), 5, || ());
    assert_eq!((counts.refused, counts.taken, counts.panicked), (200, 0, 0));
}
