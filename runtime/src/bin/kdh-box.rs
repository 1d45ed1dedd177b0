//! `kdh-box`: the smallest program that labels texts, for a box that ships a bundle with a stored program.
//!
//! Built without default features it has no reader of graphs, no parser of arguments and nothing that opens a socket:
//! `cargo build --release -p kdh-runtime --no-default-features --features mmap --bin kdh-box`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use kdh_runtime::{BundleFile, DocumentOptions, Labeler, LabelerOptions, Report, Trust};

const USAGE: &str = "\
Gives a clinical text its labels, offline.

  kdh-box [WHOM] BUNDLE.kdh [TEXT]      label a UTF-8 file, or standard input, of any length
  kdh-box [WHOM] --verify BUNDLE.kdh    label the golden texts of the bundle and compare
  kdh-box [WHOM] --logits BUNDLE.kdh    print the bits of the golden texts' logits, to compare two machines

WHOM says whose bundles are taken; without it none is:
  --trust FILE         those that a key of this trust file has signed
  --allow-test-keys    test keys in it count, too; not for devices in use
  --allow-unsigned     any bundle; for development

Prints one line for each label that is given: code, probability, threshold, and the byte ranges of the sentences
that carry it, the strongest first. When the model does not know, one line instead: the word abstains
and the reasons. Exit code 0: done; 1: the check failed; 2: bad usage or bad input.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|text| text.to_string_lossy().into_owned()).collect();
    let mut texts: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let options = match options(&mut texts) {
        Ok(options) => options,
        Err(error) => return finish(Err(error), ExitCode::from(2)),
    };
    let result = match texts[..] {
        ["--help" | "-h"] => Ok(USAGE.into()),
        ["--verify", bundle] => return verify(bundle, &options),
        ["--logits", bundle] => logits(bundle, &options),
        [bundle] if !bundle.starts_with('-') => label(bundle, None, &options),
        [bundle, text] if !bundle.starts_with('-') => label(bundle, Some(text), &options),
        _ => Err(USAGE.into()),
    };
    finish(result, ExitCode::from(2))
}

/// Takes the arguments off that say whose bundles are taken.
fn options(arguments: &mut Vec<&str>) -> Result<LabelerOptions> {
    let mut trust = Trust::new();
    if let Some(at) = arguments.iter().position(|&argument| argument == "--trust") {
        let path = *arguments.get(at + 1).ok_or("--trust needs a file")?;
        trust = Trust::parse(&std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?)?;
        arguments.drain(at..at + 2);
    }
    let mut flag = |name: &str| {
        let found = arguments.iter().position(|&argument| argument == name);
        found.map(|at| arguments.remove(at)).is_some()
    };
    if flag("--allow-test-keys") {
        trust = trust.allow_test_keys();
    }
    if flag("--allow-unsigned") {
        trust = trust.allow_unsigned();
    }
    Ok(LabelerOptions::new().trust(trust))
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn label(bundle: &str, path: Option<&str>, options: &LabelerOptions) -> Result<String> {
    let labeler = Labeler::from_file(BundleFile::open(bundle)?, options)?;
    let mut scratch = labeler.document_scratch();
    let mut document = labeler.document(&mut scratch, &DocumentOptions::new())?;
    // The text is never held as a whole.
    let mut input: Box<dyn Read> = match path {
        Some(path) => Box::new(File::open(path)?),
        None => Box::new(io::stdin().lock()),
    };
    let mut bytes = [0; 4096];
    loop {
        match input.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => document.push(&bytes[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(lines(&document.finish()?.report))
}

fn lines(report: &Report<'_>) -> String {
    let mut lines = String::new();
    if !report.abstention.is_empty() {
        lines = format!("abstains\t{}\n", report.abstention);
    }
    for label in report.positive() {
        lines += &format!("{}\t{}\t{}\t", label.code, label.probability, label.threshold);
        let ranges: Vec<String> =
            label.evidence.iter().map(|sentence| format!("{}..{}", sentence.start, sentence.end)).collect();
        lines += &ranges.join(",");
        lines.push('\n');
    }
    lines
}

fn verify(path: &str, options: &LabelerOptions) -> ExitCode {
    let check = || -> Result<String> {
        let file = BundleFile::open(path)?;
        let bundle = file.verify()?;
        let labeler = Labeler::from_bundle(&bundle, options)?;
        let result = labeler.self_test(&bundle)?;
        let (difference, tolerance) = (result.max_difference, result.tolerance);
        Ok(format!(
            "signed by {}\n{} golden texts, largest difference {difference} (allowed: {tolerance})\n",
            labeler.signer(),
            result.texts
        ))
    };
    finish(check(), ExitCode::from(1))
}

/// The name of the kernels, and a line for each golden text.
fn logits(path: &str, options: &LabelerOptions) -> Result<String> {
    let file = BundleFile::open(path)?;
    let bundle = file.verify()?;
    let labeler = Labeler::from_bundle(&bundle, options)?;
    let mut scratch = labeler.scratch();
    let mut lines = labeler.engine().kernels().join(" ") + "\n";
    for case in bundle.golden(&bundle.manifest()?)?.cases() {
        let report = labeler.label(&mut scratch, case.text)?;
        let bits: Vec<String> = report.labels.iter().map(|label| format!("{:08x}", label.logit.to_bits())).collect();
        lines += &(bits.join(" ") + "\n");
    }
    Ok(lines)
}

fn finish(result: Result<String>, failure: ExitCode) -> ExitCode {
    match result {
        Ok(output) => match io::stdout().write_all(output.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(2),
        },
        Err(error) => {
            // Not `eprintln`, which panics when standard error is closed.
            let _ = writeln!(io::stderr(), "error: {error}");
            failure
        }
    }
}
