//! Which requirement is verified by which test, and whether that test passed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde::Deserialize;

/// What a program requires of itself, as `docs/requirements.toml` has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requirements {
    /// In the order of the file.
    pub requirement: Vec<Requirement>,
}

/// One requirement.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    /// `R-` and three digits.
    pub id: String,
    /// What shall hold, in one sentence.
    pub text: String,
    /// Hazards and threats that it answers: `H-01`, `T-03`.
    pub answers: Vec<String>,
}

/// A test that says what it verifies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// Name of the function.
    pub test: String,
    /// File, relative to the repository.
    pub file: String,
}

/// What became of a test in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It ran and passed.
    Passed,
    /// It failed.
    Failed,
    /// It was ignored.
    Ignored,
}

/// The table.
#[derive(Debug)]
pub struct Traceability {
    /// One a requirement.
    pub rows: Vec<Row>,
    /// What is wrong, besides requirements without a passing test: tests that verify what is not required.
    pub errors: Vec<String>,
}

/// One requirement and its evidence.
#[derive(Debug)]
pub struct Row {
    /// Of the requirement.
    pub id: String,
    /// Of the requirement.
    pub text: String,
    /// Of the requirement.
    pub answers: Vec<String>,
    /// Tests that claim it, and what became of them; `None` when the run does not show them.
    pub tests: Vec<(Claim, Option<Verdict>)>,
}

impl Row {
    /// A test passed and none of the others failed.
    pub fn is_verified(&self) -> bool {
        let is = |wanted| self.tests.iter().any(|(_, verdict)| *verdict == Some(wanted));
        is(Verdict::Passed) && !is(Verdict::Failed)
    }
}

impl Traceability {
    /// Joins requirements, claims (`test → requirement ids`) and verdicts (by name of the test function).
    pub fn new(
        requirements: Requirements,
        claims: &BTreeMap<Claim, BTreeSet<String>>,
        verdicts: &BTreeMap<String, Verdict>,
    ) -> Self {
        let mut errors = Vec::new();
        let mut known = BTreeSet::new();
        for requirement in &requirements.requirement {
            if !known.insert(requirement.id.clone()) {
                errors.push(format!("requirement {} is there twice", requirement.id));
            }
        }
        for (claim, ids) in claims {
            for id in ids.difference(&known) {
                errors.push(format!("{} ({}) verifies {id}, which is no requirement", claim.test, claim.file));
            }
        }
        let rows = requirements.requirement.into_iter().map(|requirement| {
            let tests = claims.iter().filter(|(_, ids)| ids.contains(&requirement.id));
            let tests = tests.map(|(claim, _)| (claim.clone(), verdicts.get(&claim.test).copied()));
            Row { tests: tests.collect(), id: requirement.id, text: requirement.text, answers: requirement.answers }
        });
        Self { rows: rows.collect(), errors }
    }

    /// Requirements without a passing test.
    pub fn unverified(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| !row.is_verified())
    }

    /// The table in Markdown.
    pub fn markdown(&self) -> String {
        let mut page =
            String::from("# Traceability\n\n| requirement | answers | verified by | result |\n|---|---|---|---|\n");
        for row in &self.rows {
            let tests: Vec<String> = row
                .tests
                .iter()
                .map(|(claim, verdict)| {
                    let verdict = match verdict {
                        Some(Verdict::Passed) => "passed",
                        Some(Verdict::Failed) => "FAILED",
                        Some(Verdict::Ignored) => "ignored",
                        None => "did not run",
                    };
                    format!("`{}` in {} ({verdict})", claim.test, claim.file)
                })
                .collect();
            let result = if row.is_verified() { "verified" } else { "**not verified**" };
            // Writing to a string does not fail.
            let _ = writeln!(
                page,
                "| **{}** {} | {} | {} | {result} |",
                row.id,
                row.text,
                row.answers.join(", "),
                tests.join("<br>")
            );
        }
        page
    }
}

/// Claims of all `.rs` files below a folder, hidden folders, `target` and `third_party` left out: lines `/// Verifies: R-001, R-002` in
/// front of a function.
///
/// # Errors
/// When a file or folder cannot be read.
pub fn claims(root: &Path) -> std::io::Result<BTreeMap<Claim, BTreeSet<String>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_symlink() || name.starts_with('.') || ["target", "third_party", "runs", "data"].contains(&&*name)
            {
                // A folder `data` below a crate's tests holds no sources.
            } else if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".rs") {
                let file = path.strip_prefix(root).unwrap_or(&path).display().to_string();
                claims_in(&fs::read_to_string(&path)?, &file, &mut found);
            }
        }
    }
    Ok(found)
}

fn claims_in(source: &str, file: &str, found: &mut BTreeMap<Claim, BTreeSet<String>>) {
    let mut ids = BTreeSet::new();
    for line in source.lines().map(str::trim) {
        if let Some(list) = line.strip_prefix("/// Verifies:") {
            ids.extend(list.trim().trim_end_matches('.').split(',').map(|id| id.trim().to_owned()));
        } else if let Some(name) = line.strip_prefix("fn ").and_then(|rest| rest.split(['(', '<']).next())
            && !ids.is_empty()
        {
            found.insert(Claim { test: name.to_owned(), file: file.to_owned() }, std::mem::take(&mut ids));
        }
    }
}

/// Verdicts in the output of `cargo test`, by the name of the function. When functions of one name differ, the worst
/// counts.
pub fn verdicts(log: &str) -> BTreeMap<String, Verdict> {
    let mut found: BTreeMap<String, Verdict> = BTreeMap::new();
    for line in log.lines() {
        // A test that starts itself as another process has lines of several runs on one: the last is its own.
        let Some((path, rest)) = line.starts_with("test ").then(|| line.rsplit_once(" ... ")).flatten() else {
            continue;
        };
        let path = path.rsplit("test ").next().unwrap_or(path);
        let verdict = match rest.split_whitespace().next() {
            Some("ok") => Verdict::Passed,
            Some("FAILED") => Verdict::Failed,
            Some("ignored" | "ignored,") => Verdict::Ignored,
            _ => continue,
        };
        // `should_panic` tests are shown as `name - should panic`.
        let name = path.split(" - ").next().unwrap_or(path).rsplit("::").next().unwrap_or(path);
        let worst =
            |verdict: &Verdict| [Verdict::Passed, Verdict::Ignored, Verdict::Failed].iter().position(|v| v == verdict);
        let entry = found.entry(name.to_owned()).or_insert(verdict);
        if worst(&verdict) > worst(entry) {
            *entry = verdict;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(log: &str) -> Traceability {
        let requirements = "[[requirement]]\nid = 'R-001'\ntext = 'a'\nanswers = ['H-01']\n\
                            [[requirement]]\nid = 'R-002'\ntext = 'b'\nanswers = []\n";
        let mut found = BTreeMap::new();
        let source = "/// Says no.\n/// Verifies: R-001\n#[test]\nfn one() {}\n/// Verifies: R-001, R-002.\n#[test]\nfn two() {}\nfn none() {}\n";
        claims_in(source, "a.rs", &mut found);
        Traceability::new(toml::from_str(requirements).unwrap(), &found, &verdicts(log))
    }

    fn unverified(log: &str) -> Vec<String> {
        table(log).unverified().map(|row| row.id.clone()).collect()
    }

    #[test]
    fn a_requirement_needs_a_test_that_passed_and_none_that_failed() {
        assert!(unverified("test one ... ok\ntest a::two ... ok\n").is_empty());
        assert_eq!(unverified("test one ... ok\n"), ["R-002"]);
        assert_eq!(unverified("test one ... ok\ntest a::two ... ignored, slow\n"), ["R-002"]);
        assert_eq!(unverified("test one ... ok\ntest a::two ... FAILED\n"), ["R-001", "R-002"]);
        assert_eq!(unverified(""), ["R-001", "R-002"]);
        assert_eq!(unverified("test one ... ok\ntest two ... ok\ntest b::two ... FAILED\n"), ["R-001", "R-002"]);
    }

    #[test]
    fn the_last_of_several_runs_on_a_line_counts() {
        assert_eq!(verdicts("test one ... test one ... ok")["one"], Verdict::Passed);
        assert_eq!(verdicts("test one ... test one ... FAILED")["one"], Verdict::Failed);
        assert_eq!(verdicts("test one - should panic ... ok")["one"], Verdict::Passed);
    }

    #[test]
    fn a_claim_without_a_requirement_is_an_error() {
        let mut found = BTreeMap::new();
        claims_in("/// Verifies: R-009\nfn one() {}\n", "a.rs", &mut found);
        let table = Traceability::new(Requirements { requirement: Vec::new() }, &found, &BTreeMap::new());
        assert_eq!(table.errors.len(), 1);
        assert!(table.errors[0].contains("R-009"));
    }

    #[test]
    fn the_table_shows_everything() {
        let page = table("test one ... ok\ntest two ... ok\n").markdown();
        assert!(
            page.contains("| **R-001** a | H-01 | `one` in a.rs (passed)<br>`two` in a.rs (passed) | verified |"),
            "{page}"
        );
    }
}
