//! `kdh-sbom`: what a program is made of, for people and for tools.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use kdh_tests::components::{Build, components};
use kdh_tests::{cyclonedx, soup, spdx};

/// What a program of kdh is made of, from Cargo.lock, on standard output.
///
/// The same sources give the same bytes. The list is that of one target, because other systems take other crates.
///
/// Exit code 0: done; 2: bad usage or input.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Args {
    /// What to write
    #[arg(value_enum)]
    format: Format,
    /// Program; for a SOUP list both are in it
    #[arg(long, value_enum, default_value = "kdh-box")]
    program: Build,
    /// Target
    #[arg(long, default_value = "aarch64-unknown-linux-gnu")]
    target: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// CycloneDX 1.6, JSON
    Cyclonedx,
    /// SPDX 2.3, JSON; its time is SOURCE_DATE_EPOCH, or that of the last commit
    Spdx,
    /// A SOUP list (IEC 62304), Markdown: docs/soup.md
    Soup,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let text = match args.format {
        Format::Cyclonedx => components(args.program, &args.target).map(|tree| cyclonedx::write(&tree)),
        Format::Spdx => components(args.program, &args.target).and_then(|tree| spdx::write(&tree)),
        Format::Soup => soup::write(&args.target),
    };
    match text {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
