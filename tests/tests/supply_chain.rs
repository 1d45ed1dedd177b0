//! What kdh is made of is written down, the same every time, and no newer than the Rust that is promised.

#![allow(clippy::unwrap_used, reason = "a helper of a test may panic")]

use std::process::Command;

use kdh_tests::components::{Build, components};
use kdh_tests::{cyclonedx, root, soup, spdx, succeed};
use serde_json::Value;

const TARGET: &str = "aarch64-unknown-linux-gnu";

/// Verifies: R-109
#[test]
fn the_soup_list_is_that_of_the_lock_file() {
    let kept = std::fs::read_to_string(root().join("docs/soup.md")).unwrap();
    let made = soup::write(TARGET).unwrap();
    assert!(kept == made, "write it anew: cargo run -p kdh-tests --bin kdh-sbom -- soup > docs/soup.md");
}

/// Verifies: R-109
#[test]
fn bills_of_materials_name_every_crate_once() {
    for build in [Build::KdhBox, Build::Kdh] {
        let tree = components(build, TARGET).unwrap();
        assert_eq!(tree, components(build, TARGET).unwrap());
        assert!(tree.crates.len() > 20 && tree.crates[0].name == "kdh-runtime");
        let sha2 = tree.crates.iter().find(|of| of.name == "sha2").unwrap();
        assert!(sha2.linked && sha2.sha256.len() == 64 && sha2.uses.iter().any(|&at| tree.crates[at].name == "digest"));
        assert!(tree.crates.iter().any(|of| of.name == "syn" && !of.linked), "syn runs at build time only");
        for of in &tree.crates {
            assert!(!of.licence.is_empty(), "{} has no licence", of.name);
            assert_eq!(of.is_own(), of.name.starts_with("kdh-"), "{}", of.name);
        }

        let text = cyclonedx::write(&tree);
        assert_eq!(text, cyclonedx::write(&tree));
        let bill: Value = serde_json::from_str(&text).unwrap();
        let listed = bill["components"].as_array().unwrap();
        assert_eq!(listed.len(), tree.crates.len() - 1);
        let known = |reference: &Value| tree.crates.iter().any(|of| of.purl() == reference.as_str().unwrap());
        for entry in bill["dependencies"].as_array().unwrap() {
            assert!(known(&entry["ref"]) && entry["dependsOn"].as_array().unwrap().iter().all(known));
        }

        let bill: Value = serde_json::from_str(&spdx::write(&tree).unwrap()).unwrap();
        let ids: Vec<&Value> = bill["packages"].as_array().unwrap().iter().map(|package| &package["SPDXID"]).collect();
        assert_eq!(ids.len(), tree.crates.len());
        assert!(ids.iter().enumerate().all(|(at, id)| !ids[..at].contains(id)), "an id twice");
        for relation in bill["relationships"].as_array().unwrap() {
            assert!(ids.contains(&&relation["relatedSpdxElement"]));
        }
    }
}

/// Every crate builds with the Rust that the workspace promises, which is the one that the tests run with.
#[test]
fn the_promised_rust_is_enough() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root()).args(["metadata", "--format-version", "1", "--locked"]);
    let metadata: Value = serde_json::from_str(&succeed(&mut cargo)).unwrap();
    let version = |text: &str| -> Vec<u32> { text.split('.').take(2).map(|part| part.parse().unwrap()).collect() };
    let packages = metadata["packages"].as_array().unwrap();
    let own = packages.iter().find(|package| package["name"] == "kdh-runtime").unwrap();
    let promised = version(own["rust_version"].as_str().unwrap());
    let newer: Vec<&Value> = packages
        .iter()
        .filter(|package| package["rust_version"].as_str().is_some_and(|needed| version(needed) > promised))
        .map(|package| &package["name"])
        .collect();
    assert!(
        newer.is_empty(),
        "{newer:?} need a newer Rust than {promised:?}: raise `rust-version`, or take older ones"
    );
    let compiler = succeed(Command::new("rustc").arg("--version"));
    assert!(version(compiler.split(' ').nth(1).unwrap()) >= promised, "{compiler}");
}
