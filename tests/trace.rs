//! `kdh-trace`: joins requirements, tests and the output of a test run to a table, and fails on a requirement without a
//! test that passed.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use kdh_tests::root;
use kdh_tests::traceability::{Traceability, claims, verdicts};

/// Which requirement is verified by which test of a run.
///
/// A test claims requirements in its documentation: `/// Verifies: R-012`. Exit code 0: every requirement has a test that
/// passed; 1: not so; 2: bad usage or input.
#[derive(Parser)]
struct Args {
    /// Requirements; docs/requirements.toml when not given
    #[arg(long, value_name = "FILE")]
    requirements: Option<PathBuf>,
    /// What `cargo test --workspace` printed
    #[arg(long, value_name = "FILE")]
    log: PathBuf,
    /// Write the table, in Markdown, to this file
    #[arg(long, value_name = "FILE.md")]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<bool, String> {
    let root = root();
    let read = |path: &PathBuf| std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()));
    let path = args.requirements.clone().unwrap_or_else(|| root.join("docs/requirements.toml"));
    let requirements = toml::from_str(&read(&path)?).map_err(|error| format!("{}: {error}", path.display()))?;
    let claims = claims(&root).map_err(|error| error.to_string())?;
    let table = Traceability::new(requirements, &claims, &verdicts(&read(&args.log)?));
    if let Some(path) = &args.out {
        std::fs::write(path, table.markdown()).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    for error in &table.errors {
        eprintln!("{error}");
    }
    for row in table.unverified() {
        eprintln!("{} has no test that passed in this run: {}", row.id, row.text);
    }
    let verified = table.rows.iter().filter(|row| row.is_verified()).count();
    println!("{verified} of {} requirements verified by {} tests", table.rows.len(), claims.len());
    Ok(verified == table.rows.len() && table.errors.is_empty())
}
