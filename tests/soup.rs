//! The list of software of unknown provenance (IEC 62304, 3.29), as input to an integrator's file.

use std::collections::BTreeMap;

use crate::components::{Build, Component, components};

/// A table of every crate of `kdh-box`, and of those that `kdh` has beside.
///
/// # Errors
///
/// As [`components`].
pub fn write(target: &str) -> Result<String, String> {
    let small = components(Build::KdhBox, target)?;
    let all = components(Build::Kdh, target)?;
    let mut text = format!(
        "# Software of unknown provenance\n\nThe crates of `kdh-box` and of `kdh` for `{target}`, from Cargo.lock: input to \
         the SOUP list of your own file. `cargo run -p kdh-tests --bin kdh-sbom -- soup > docs/soup.md` writes this page, and \
         a test fails when it is out of date. The same program writes bills of materials (CycloneDX, SPDX) with the \
         digest of every package.\n\nWhat kdh asks of each of them is tested through kdh's own requirements \
         (`requirements.toml`); their known anomalies are in their repositories. Rust's standard library and the C \
         library of the system are SOUP too.\n"
    );
    let in_box: BTreeMap<_, _> = small.crates.iter().map(|of| ((&of.name, &of.version), of)).collect();
    let more = all.crates.iter().filter(|of| !in_box.contains_key(&(&of.name, &of.version)));
    table(&mut text, "In `kdh-box`, and in every program", small.crates.iter().filter(|of| of.linked));
    table(&mut text, "Run while `kdh-box` is built, not in it", small.crates.iter().filter(|of| !of.linked));
    table(&mut text, "In `kdh` beside those", more.clone().filter(|of| of.linked));
    table(&mut text, "Run while `kdh` is built beside those", more.filter(|of| !of.linked));
    Ok(text)
}

fn table<'c>(text: &mut String, title: &str, crates: impl Iterator<Item = &'c Component>) {
    let rows: Vec<String> = crates
        .filter(|of| !of.is_own())
        .map(|of| {
            let purpose = of.description.replace('|', "\\|");
            format!("| {} | {} | {} | {purpose} | {} |\n", of.name, of.version, of.licence, of.repository)
        })
        .collect();
    text.push_str(&format!("\n## {title} ({})\n\n| crate | version | licence | purpose | source |\n", rows.len()));
    text.push_str("|---|---|---|---|---|\n");
    text.extend(rows);
}
