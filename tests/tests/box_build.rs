//! The build without a reader of graphs: as small as a box needs it, and the same bits.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use kdh_tests::{json, program, refused, root, succeed};

const FEATURES: [&str; 6] = ["-p", "kdh-runtime", "--no-default-features", "--features", "mmap", "--locked"];

/// Verifies
#[test]
fn the_box_build_is_small_and_gives_the_same_bits() {
    let kdh_box = build();
    let size = std::fs::metadata(&kdh_box).unwrap().len();
    assert!(size <= 1_500_000, "{size} bytes");

    let demonstration = &["--trust", "examples/keys/demonstration.trust", "--allow-test-keys"][..];
    for (bundle, whom) in
        [("models/default.kdh", demonstration), ("runtime/tests/data/tiny.kdh", &["--allow-unsigned"])]
    {
        refused(Command::new(&kdh_box).current_dir(root()).args(["--verify", bundle]), 1);
        refused(Command::new(&kdh_box).current_dir(root()).args([bundle, "README.md"]), 2);
        // The demonstration key is a test key.
        refused(Command::new(&kdh_box).current_dir(root()).args(&demonstration[..2]).args(["--verify", bundle]), 1);
        succeed(Command::new(&kdh_box).current_dir(root()).args(whom).args(["--verify", bundle]));
        for text in ["examples/abstract.txt", "README.md", "CONTRIBUTING.md"] {
            let printed = succeed(Command::new(&kdh_box).current_dir(root()).args(whom).args([bundle, text]));
            // The decimals of both are the shortest that give the same bits back.
            let found: Vec<(String, f32)> = printed
                .lines()
                .filter(|line| !line.starts_with("abstains\t"))
                .map(|line| line.split('\t').collect::<Vec<_>>())
                .map(|fields| (fields[0].to_owned(), fields[1].parse().unwrap()))
                .collect();
            let report = json(program("kdh").args(["label", "--allow-unsigned", "--bundle", bundle, text]));
            let abstains = !report["abstention"].as_array().unwrap().is_empty();
            assert_eq!(printed.starts_with("abstains\t"), abstains, "{bundle} {text}");
            let expected: Vec<(String, f32)> = report["labels"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|label| label["positive"] == true)
                .map(|label| {
                    (label["code"].as_str().unwrap().to_owned(), label["probability"].to_string().parse().unwrap())
                })
                .collect();
            assert_eq!(found, expected, "{bundle} {text}");
        }
    }
}

/// Verifies: R-016
#[test]
fn the_box_build_has_few_crates_and_no_reader_of_graphs() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root()).arg("tree").args(FEATURES).args(["-e", "normal,build", "--prefix", "none"]);
    let tree = succeed(cargo.args(["--format", "{p}"]));
    let crates: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(crates.len() <= 40, "{} crates: {crates:?}", crates.len());
    for unwanted in ["tract-core", "prost", "clap", "tokenizers"] {
        assert!(!crates.contains(unwanted), "{unwanted}");
    }
}

/// `kdh-box`, stripped, in a target folder of its own: the one of the workspace would be built again for other features.
fn build() -> PathBuf {
    let target = root().join("target/box");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root()).arg("build").args(FEATURES).args(["--release", "--quiet", "--bin", "kdh-box"]);
    succeed(cargo.env("CARGO_TARGET_DIR", &target).env("CARGO_PROFILE_RELEASE_STRIP", "true"));
    target.join("release/kdh-box")
}
