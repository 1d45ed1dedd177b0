//! `kdh verify`.

use kdh_runtime::{Bundle, BundleFile, Labeler, LabelerOptions, SelfTest};
use serde_json::json;

use crate::source::{self, BundleArgs};
use crate::{Outcome, print, print_json};

/// Check a bundle
///
/// Checks every byte of the bundle against its digests, then labels the golden texts in it and compares the logits with
/// those that the exporter recorded, within the tolerance that the bundle states. Exit code 1 when either fails.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    bundle: BundleArgs,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let path = args.bundle.path()?;
    let file = source::open(&path)?;
    let result = check(&file);
    let shown = path.display();
    match &result {
        Ok((bundle, SelfTest { texts, max_difference, tolerance, .. })) if args.json => print_json(&json!({
            "ok": true,
            "bundle": shown.to_string(),
            "digest": hex(&bundle.digest()),
            "self_test": {
                "texts": texts,
                "max_difference": max_difference,
                "tolerance": tolerance,
            },
        }))?,
        Ok((bundle, SelfTest { texts, max_difference, tolerance, .. })) => print(&format!(
            "{shown}: ok\n{texts} golden texts, largest difference of a logit {max_difference} (allowed: {tolerance})\n\
             digest {}\n",
            hex(&bundle.digest())
        ))?,
        Err(error) if args.json => {
            print_json(&json!({ "ok": false, "bundle": shown.to_string(), "error": format!("{error:#}") }))?;
        }
        Err(error) => print(&format!("{shown}: FAILED: {error:#}\n"))?,
    }
    Ok(if result.is_ok() { Outcome::Done } else { Outcome::CheckFailed })
}

fn check(file: &BundleFile) -> anyhow::Result<(Bundle<'_>, SelfTest)> {
    let bundle = file.verify()?;
    let labeler = Labeler::from_bundle(&bundle, &LabelerOptions::new())?;
    let self_test = labeler.self_test(&bundle)?;
    Ok((bundle, self_test))
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
