//! Labels a text with a bundle that is part of the program: no file, no network, nothing to install beside it.

use std::io::{self, Read};
use std::process::ExitCode;

use kdh_runtime::{Bundle, Labeler, LabelerOptions, Trust};

/// The bundle, in the program's read-only data.
static BUNDLE: &[u8] = include_bytes!("../../../models/default.kdh");

/// Whose bundles are taken. A device has its maker's trust file here, and no `allow_test_keys` below.
static TRUST: &str = include_str!("../../../examples/keys/demonstration.trust");

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    // Once, when the device starts.
    let bundle = Bundle::parse(BUNDLE)?;
    let trust = Trust::parse(TRUST)?.allow_test_keys();
    let labeler = Labeler::from_bundle(&bundle, &LabelerOptions::new().trust(trust))?;
    labeler.self_test(&bundle)?;
    let mut scratch = labeler.scratch();

    // For each text.
    let mut text = String::new();
    io::stdin().take(LabelerOptions::DEFAULT_MAX_TEXT_BYTES as u64 + 1).read_to_string(&mut text)?;
    let report = labeler.label(&mut scratch, &text)?;
    for label in report.positive() {
        println!("{}\t{}\t{:.3}", label.code, label.name, label.probability);
        for sentence in &label.evidence {
            println!("\tbytes {}..{}\t{:.0} %", sentence.start, sentence.end, 100.0 * sentence.share);
        }
    }
    Ok(())
}
