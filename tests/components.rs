//! The crates that a program is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use clap::ValueEnum;
use serde::Deserialize;

use crate::root;

/// A program and the features that it is built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(clippy::exhaustive_enums, reason = "the programs of the runtime")]
pub enum Build {
    /// The smallest program, without a reader of graphs.
    KdhBox,
    /// The program with everything.
    Kdh,
}

/// The crates of a program, the program's own first.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a list and its name")]
pub struct Components {
    /// Name of the program.
    pub program: &'static str,
    /// Target triple.
    pub target: String,
    /// In the order of names and versions, after the program's own.
    pub crates: Vec<Component>,
}

/// A crate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "what Cargo says of a crate")]
pub struct Component {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// What its author says it is for.
    pub description: String,
    /// SPDX expression.
    pub licence: String,
    /// Where its sources are kept.
    pub repository: String,
    /// SHA-256 of its package, as Cargo.lock has it; empty for kdh's own.
    pub sha256: String,
    /// Whether its code is in the program; otherwise it is run while the program is built.
    pub linked: bool,
    /// Positions in the list of what it uses itself.
    pub uses: Vec<usize>,
}

impl Component {
    /// Package URL, <https://github.com/package-url/purl-spec>.
    pub fn purl(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version)
    }

    /// Whether it is a part of kdh.
    pub fn is_own(&self) -> bool {
        self.sha256.is_empty()
    }
}

impl Build {
    fn name(self) -> &'static str {
        match self {
            Self::KdhBox => "kdh-box",
            Self::Kdh => "kdh",
        }
    }

    fn features(self) -> &'static [&'static str] {
        match self {
            Self::KdhBox => &["--no-default-features", "--features", "mmap"],
            Self::Kdh => &[],
        }
    }
}

/// Name and version.
type Name = (String, String);

/// Asks Cargo what a program is made of.
///
/// # Errors
///
/// When Cargo fails, or says what cannot be understood.
pub fn components(build: Build, target: &str) -> Result<Components, String> {
    let linked = tree(build, target, "normal,no-proc-macro")?;
    let all = tree(build, target, "normal,build")?;
    let names: BTreeSet<Name> = all.iter().map(|(_, name)| name.clone()).collect();
    let own = all.first().map(|(_, name)| name.clone()).ok_or("cargo tree printed nothing")?;
    let order: Vec<Name> = std::iter::once(own.clone()).chain(names.into_iter().filter(|name| *name != own)).collect();
    let position = |name: &Name| order.iter().position(|other| other == name);
    let mut uses = vec![BTreeSet::new(); order.len()];
    let mut path: Vec<usize> = Vec::new();
    for (depth, name) in &all {
        let Some(at) = position(name) else { continue };
        path.truncate(*depth);
        if let Some(&parent) = path.last() {
            uses[parent].insert(at);
        }
        path.push(at);
    }
    let packages = packages()?;
    let checksums = checksums()?;
    let crates = order.iter().zip(uses).map(|(name, uses)| {
        let package = packages.get(name).ok_or_else(|| format!("cargo metadata does not know {name:?}"))?;
        Ok(Component {
            name: name.0.clone(),
            version: name.1.clone(),
            description: package
                .description
                .clone()
                .unwrap_or_default()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" "),
            // The older form of "or".
            licence: package.license.clone().unwrap_or_default().replace('/', " OR "),
            repository: package.repository.clone().unwrap_or_default(),
            sha256: checksums.get(name).cloned().unwrap_or_default(),
            linked: linked.iter().any(|(_, other)| other == name),
            uses: uses.into_iter().collect(),
        })
    });
    Ok(Components { program: build.name(), target: target.to_owned(), crates: crates.collect::<Result<_, String>>()? })
}

/// Depth, and name and version, of every line of `cargo tree`.
fn tree(build: Build, target: &str, edges: &str) -> Result<Vec<(usize, Name)>, String> {
    let mut arguments = vec!["tree", "--locked", "-p", "kdh-runtime", "--target", target, "-e", edges];
    arguments.extend(build.features());
    arguments.extend(["--prefix", "depth", "--format", "|{p}"]);
    let printed = cargo(&arguments)?;
    let line = |line: &str| {
        let (depth, package) = line.split_once('|')?;
        let mut words = package.split(' ');
        let name = words.next()?.to_owned();
        Some((depth.parse().ok()?, (name, words.next()?.trim_start_matches('v').to_owned())))
    };
    printed.lines().map(|text| line(text).ok_or_else(|| format!("cargo tree printed `{text}`"))).collect()
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    description: Option<String>,
    license: Option<String>,
    repository: Option<String>,
}

fn packages() -> Result<BTreeMap<Name, Package>, String> {
    let printed = cargo(&["metadata", "--format-version", "1", "--locked"])?;
    let metadata: Metadata = serde_json::from_str(&printed).map_err(|error| format!("cargo metadata: {error}"))?;
    Ok(metadata
        .packages
        .into_iter()
        .map(|package| ((package.name.clone(), package.version.clone()), package))
        .collect())
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

fn checksums() -> Result<BTreeMap<Name, String>, String> {
    let text = std::fs::read_to_string(root().join("Cargo.lock")).map_err(|error| format!("Cargo.lock: {error}"))?;
    let lock: Lock = toml::from_str(&text).map_err(|error| format!("Cargo.lock: {error}"))?;
    Ok(lock.package.into_iter().filter_map(|locked| Some(((locked.name, locked.version), locked.checksum?))).collect())
}

fn cargo(arguments: &[&str]) -> Result<String, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).current_dir(root()).args(arguments).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
