//! What the tests that cross crates share.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

pub mod components;
pub mod cyclonedx;
pub mod soup;
pub mod spdx;
pub mod traceability;

/// The repository's root.
pub fn root() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    folder.parent().unwrap_or(folder).to_owned()
}

/// The published corpora beside the repository.
pub fn corpora() -> PathBuf {
    root().join("../shared/data")
}

/// A program of the workspace (`kdh`, `kdh-train`, `kdh-export`), built from the sources as they are.
///
/// # Panics
/// When it does not build: a test cannot go on.
pub fn program(name: &str) -> Command {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        // Not `build`: without the tests' dependencies Cargo would choose other features and build everything again.
        cargo.current_dir(root()).args(["test", "--workspace", "--no-run", "--quiet", "--locked"]);
        succeed(&mut cargo);
        // Tests run from TARGET/PROFILE/deps.
        let test = std::env::current_exe().unwrap_or_default();
        test.ancestors().nth(2).unwrap_or(Path::new("")).to_owned()
    });
    let mut command = Command::new(folder.join(name));
    command.current_dir(root());
    command
}

/// Runs a command that must succeed and returns what it printed.
///
/// # Panics
/// When it fails, with what it wrote to standard error.
pub fn succeed(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command that must print one JSON value.
///
/// # Panics
/// When it fails or prints something else.
pub fn json(command: &mut Command) -> serde_json::Value {
    let printed = succeed(command.arg("--json"));
    match serde_json::from_str(&printed) {
        Ok(value) => value,
        Err(error) => panic!("{command:?} did not print JSON: {error}"),
    }
}

/// Runs a command that must be refused with an exit code, and returns what it wrote to standard error.
///
/// # Panics
/// When it exits otherwise.
pub fn refused(command: &mut Command, code: i32) -> String {
    let output = run(command);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {message}");
    message
}

fn run(command: &mut Command) -> Output {
    match command.output() {
        Ok(output) => output,
        Err(error) => panic!("{command:?} does not start: {error}"),
    }
}
