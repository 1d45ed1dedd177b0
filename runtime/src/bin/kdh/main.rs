//! `kdh`: labels texts with a bundle, and measures and checks bundles.

use std::alloc::System;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

mod audit;
mod batch;
mod bench;
mod eval;
mod html;
mod inspect;
mod label;
mod recalibrate;
mod source;
mod store;
mod texts;
mod verify;
mod watch;

/// The system's allocator, which counts for `kdh bench`.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Gives clinical texts their labels, offline.
///
/// A bundle (.kdh) holds the model. Without --bundle it is the file that KDH_BUNDLE names, or models/default.kdh in the
/// current folder.
///
/// No bundle is used that nobody trusted has signed. --trust, or the file that KDH_TRUST names, says whose are: it has a line
/// for each key, as `kdh-export keygen` writes them. Without either, the demonstration key of this repository counts, which
/// signs the default bundle and is published, so that it proves nothing; every command then says so.
///
/// Results go to standard output, everything else to standard error; no text that was read ever goes to standard error.
/// Exit code 0: done; 1: a check failed; 2: bad usage or bad input.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Label(label::Args),
    Watch(watch::Args),
    Eval(eval::Args),
    Bench(bench::Args),
    Inspect(inspect::Args),
    Recalibrate(recalibrate::Args),
    Verify(verify::Args),
    Store(store::Args),
    Audit(audit::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Label(args) => label::run(&args),
        Command::Watch(args) => watch::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Recalibrate(args) => recalibrate::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Store(args) => store::run(&args),
        Command::Audit(args) => audit::run(&args),
    };
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::CheckFailed) => ExitCode::FAILURE,
        // Who reads the output has seen enough: `kdh label ... | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Not `eprintln`, which panics when standard error is closed.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// How a command ends that could do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    CheckFailed,
}

/// Writes a result to standard output.
fn print(result: &str) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(result.as_bytes())?;
    output.flush()?;
    Ok(())
}

/// Writes a result as JSON to standard output.
fn print_json(result: &impl serde::Serialize) -> anyhow::Result<()> {
    print(&(serde_json::to_string_pretty(result)? + "\n"))
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
