//! `kdh verify`.

use anyhow::{anyhow, bail};
use kdh_runtime::format::Hex;
use kdh_runtime::{Bundle, BundleFile, Labeler, LabelerOptions, SelfTest, Signer};
use serde_json::{Value, json};

use crate::source::{self, BundleArgs, EngineArgs, EngineReport};
use crate::{Outcome, print, print_json};

/// Check a bundle
///
/// Checks every byte of the bundle against its digests, who has signed it, and its rollback counter, then labels the golden texts in it and compares the logits with
/// those that the exporter recorded: every bit where the bundle says that it was recorded in this arithmetic, otherwise within
/// its tolerance. Exit code 1 when one of them fails.
///
/// With --cross-check the ONNX graph, in the bundle or given with --onnx, is lowered again, and must give the stored
/// program byte by byte.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    bundle: BundleArgs,
    #[command(flatten)]
    engine: EngineArgs,
    /// Lower the graph again and compare it with the stored program
    #[arg(long)]
    cross_check: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let path = args.bundle.path()?;
    let file = source::open(&path)?;
    let result = check(&file, args);
    let shown = path.display();
    match &result {
        Ok((bundle, labeler, SelfTest { texts, max_difference, tolerance, exact, .. })) if args.json => {
            print_json(&json!({
                "ok": true,
                "bundle": shown.to_string(),
                "digest": hex(&bundle.digest()),
                "rollback_counter": bundle.rollback_counter(),
                "signer": signer_json(labeler.signer()),
                "self_test": {
                    "texts": texts,
                    "max_difference": max_difference,
                    "tolerance": tolerance,
                    "exact": exact,
                },
                "cross_checked": args.cross_check,
                "engine": EngineReport::new(labeler),
            }))?
        }
        Ok((bundle, labeler, SelfTest { texts, max_difference, tolerance, exact, .. })) => print(&format!(
            "{shown}: ok\n{texts} golden texts, {}\n{}signed by {}\ndigest {}\n{}\n",
            if *exact {
                "every bit of their logits as recorded".into()
            } else {
                format!("largest difference of a logit {max_difference} (allowed: {tolerance})")
            },
            if args.cross_check { "the graph lowers to the stored program\n" } else { "" },
            labeler.signer(),
            hex(&bundle.digest()),
            EngineReport::new(labeler)
        ))?,
        Err(error) if args.json => {
            print_json(&json!({ "ok": false, "bundle": shown.to_string(), "error": format!("{error:#}") }))?;
        }
        Err(error) => print(&format!("{shown}: FAILED: {error:#}\n"))?,
    }
    Ok(if result.is_ok() { Outcome::Done } else { Outcome::CheckFailed })
}

fn check<'f>(file: &'f BundleFile, args: &Args) -> anyhow::Result<(Bundle<'f>, Labeler, SelfTest)> {
    let bundle = file.verify()?;
    let (options, graph) = (args.engine.options(LabelerOptions::new())?, args.engine.graph()?);
    let labeler = match &graph {
        None => Labeler::from_bundle(&bundle, &options)?,
        Some(graph) => source::with_graph(&bundle, graph, &options)?,
    };
    source::note_signer(labeler.signer());
    let self_test = labeler.self_test(&bundle)?;
    if args.cross_check {
        let stored = bundle.program().transpose()?.ok_or_else(|| anyhow!("the bundle stores no program to check"))?;
        #[cfg(feature = "tract")]
        let same = kdh_runtime::lower_bundle(&bundle, graph.as_deref())?.to_bytes() == stored.program;
        #[cfg(feature = "tract")]
        if !same {
            bail!("the graph lowers to another program than the stored one; pack the bundle with this version of kdh");
        }
        #[cfg(not(feature = "tract"))]
        {
            let _ = stored;
            bail!("{}", source::NO_GRAPHS);
        }
    }
    Ok((bundle, labeler, self_test))
}

/// `null` when nobody that is trusted has signed.
pub(crate) fn signer_json(signer: &Signer) -> Value {
    match signer {
        Signer::Key { role, id, label, .. } => {
            json!({ "role": role.name(), "key": id.to_string(), "label": label.as_str() })
        }
        _ => Value::Null,
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    Hex(bytes).to_string()
}
