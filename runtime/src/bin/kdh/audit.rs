//! `kdh audit`, and the option `--audit`.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use anyhow::{Context, anyhow, bail};
use clap::Subcommand;
use kdh_runtime::audit::{self, AuditLog, AuditOptions, TrailError};
use kdh_runtime::benchmark::Sorted;
use kdh_runtime::engine::Scrub;
use kdh_runtime::format::{AuditEntry, AuditHead};
use kdh_runtime::{LabelError, Labeler, LabelerOptions};
use serde_json::{Value, json};

use crate::source::{self, BundleArgs, EngineArgs};
use crate::texts::Labelled;
use crate::verify::hex;
use crate::{Outcome, print, print_json};

/// Verify, export or measure the trail of what the box did
///
/// `kdh label --audit DIR`, with --jsonl too, and `kdh watch --audit DIR` append a record for each text: when, which bundle, which labels, how many tokens (to a power of
/// two), how long, how it ended. No text, no digest of a text, no name. Each record is bound to the one before it, so that one
/// that was changed, removed or moved is found. `format/AUDIT.md` states the bytes.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    /// Print the result as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Verify every record; exit code 1 when the trail was changed
    ///
    /// Prints the head, NUMBER:DIGEST. Keep it elsewhere: given back with --head later, it also finds records that were removed
    /// from the end, and a trail that was written anew.
    Verify {
        /// Folder of the trail
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Head that was kept elsewhere, which the chain must pass through
        #[arg(long, value_name = "NUMBER:DIGEST")]
        head: Option<AuditHead>,
    },
    /// Verify the trail and print its records as CSV, or JSON Lines with --json; exit code 1 when the trail was changed
    Export {
        /// Folder of the trail
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Measure what trust costs: each golden text labelled without a trail, with one, and with all there is, in turn
    ///
    /// All there is: the trail, a part of the weights read and compared after each text, and the scratch overwritten. Rates are of
    /// each text's shortest time; `throughput_ratio_all_rounds_...` set the time of the texts of a round against that with what is
    /// done after each of them, waits for the disk included.
    /// `throughput_ratio_with_waits` adds the mean time of an append to the shortest ones, with all waits for the disk: on a busy
    /// machine that is too low rather than too high. Signature and self-test cost nothing once a bundle is open.
    Measure {
        /// Folder to write a trail to, on the disk that the device uses
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Rounds of each kind
        #[arg(long, value_name = "N", default_value = "20", value_parser = clap::value_parser!(u32).range(3..=10_000))]
        rounds: u32,
        /// Bytes of the weights that are read after each text; at 64 KiB, those of the default bundle every 250 texts
        #[arg(long, value_name = "BYTES", default_value = "65536")]
        scrub: usize,
        #[command(flatten)]
        bundle: BundleArgs,
        #[command(flatten)]
        engine: EngineArgs,
    },
}

/// The option of commands that label.
#[derive(clap::Args)]
pub(crate) struct AuditArgs {
    /// Append a record of each text to the audit trail in this folder, which is made if it is not there, before its result is
    /// given; see `kdh audit --help`
    #[arg(long, value_name = "DIR")]
    audit: Option<PathBuf>,
}

impl AuditArgs {
    /// The trail that the user asks for. What is said of a repair goes to standard error.
    pub(crate) fn open(&self) -> anyhow::Result<Option<AuditLog>> {
        self.audit.as_deref().map(open).transpose()
    }

    /// As `open`, of a trail that must not lie in one of these folders, where its files would be taken for others.
    pub(crate) fn open_beside(&self, folders: &[&Path]) -> anyhow::Result<Option<AuditLog>> {
        if let Some(own) = self.audit.as_ref().and_then(|own| fs::canonicalize(own).ok()) {
            for folder in folders {
                if fs::canonicalize(folder)? == own {
                    bail!("the audit trail needs a folder of its own");
                }
            }
        }
        self.open()
    }
}

/// Labels a text and says what is to be recorded of it.
pub(crate) fn timed<'l>(
    labeler: &'l Labeler,
    label: impl FnOnce() -> anyhow::Result<Labelled<'l>>,
) -> (anyhow::Result<Labelled<'l>>, AuditEntry) {
    let (time, start) = (SystemTime::now(), Instant::now());
    let result = label();
    let duration = start.elapsed();
    // A text that could not even be read as one is refused, too.
    let refused = |error: &anyhow::Error| *error.downcast_ref().unwrap_or(&LabelError::NoTokens);
    let entry =
        audit::entry(labeler, result.as_ref().map(|labelled| &labelled.report).map_err(refused), time, duration);
    (result, entry)
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    match &args.command {
        Command::Verify { folder, head } => verify(folder, *head, args.json),
        Command::Export { folder } => export(folder, args.json),
        Command::Measure { folder, rounds, scrub, bundle, engine } => {
            measure(folder, *rounds, *scrub, bundle, engine, args.json)
        }
    }
}

fn open(folder: &Path) -> anyhow::Result<AuditLog> {
    let log = AuditLog::open(folder, AuditOptions::default()).with_context(|| folder.display().to_string())?;
    if let Some(bytes) = log.repaired() {
        let _ = writeln!(
            io::stderr(),
            "note: the audit trail ended in a cut-off record of {bytes} bytes, which was removed; the trail says so"
        );
    }
    Ok(log)
}

fn verify(folder: &Path, head: Option<AuditHead>, json: bool) -> anyhow::Result<Outcome> {
    let verified = match audit::verify(folder, head, |_, _| {}) {
        Ok(verified) => verified,
        Err(error) => return failed(folder, error, json),
    };
    if json {
        print_json(&json!({
            "ok": true, "first": verified.first, "records": verified.head.sequence - verified.first,
            "head": verified.head.to_string(), "files": verified.files, "torn_bytes": verified.torn_bytes,
            "repairs": verified.repairs,
        }))?;
    } else {
        let mut text = format!(
            "{}: ok\n{} records from number {}, {} files, {} repairs\nhead {}\n",
            folder.display(),
            verified.head.sequence - verified.first,
            verified.first,
            verified.files,
            verified.repairs,
            verified.head
        );
        if verified.torn_bytes > 0 {
            let _ =
                writeln!(text, "{} bytes of a cut-off record at the end, as a crash leaves them", verified.torn_bytes);
        }
        print(&text)?;
    }
    Ok(Outcome::Done)
}

fn export(folder: &Path, json: bool) -> anyhow::Result<Outcome> {
    let mut text = String::new();
    if !json {
        text.push_str("sequence,time_ms,bundle,status,labels,token_bucket,duration_us\n");
    }
    let result = audit::verify(folder, None, |sequence, entry| {
        let AuditEntry { time_ms, labels, token_bucket, duration_us, .. } = *entry;
        let (status, bundle) = (entry.status.name(), hex(&entry.bundle_digest));
        let _ = if json {
            let line = json!({
                "sequence": sequence, "time_ms": time_ms, "bundle": bundle, "status": status,
                "labels": (0..64).filter(|bit| labels >> bit & 1 == 1).collect::<Vec<u32>>(),
                "token_bucket": token_bucket, "duration_us": duration_us,
            });
            writeln!(text, "{line}")
        } else {
            writeln!(text, "{sequence},{time_ms},{bundle},{status},{labels:#x},{token_bucket},{duration_us}")
        };
    });
    // Nothing of a trail that was changed looks like a good record.
    match result {
        Ok(_) => print(&text).map(|()| Outcome::Done),
        Err(error) => failed(folder, error, json),
    }
}

fn failed(folder: &Path, error: TrailError, json: bool) -> anyhow::Result<Outcome> {
    if matches!(error, TrailError::Io(_)) {
        return Err(error).with_context(|| folder.display().to_string());
    }
    if json {
        print_json(&json!({ "ok": false, "error": error.to_string() }))?;
    } else {
        print(&format!("{}: FAILED: {error}\n", folder.display()))?;
    }
    Ok(Outcome::CheckFailed)
}

/// What a text is labelled with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum With {
    Nothing,
    Trail,
    Everything,
}

fn measure(
    folder: &Path,
    rounds: u32,
    scrub_bytes: usize,
    bundle: &BundleArgs,
    engine: &EngineArgs,
    json: bool,
) -> anyhow::Result<Outcome> {
    let path = bundle.path()?;
    let shown = || path.display().to_string();
    let file = std::sync::Arc::new(source::open(&path)?);
    let labeler = engine.labeler_of(&file, LabelerOptions::new()).with_context(shown)?;
    let bundle = file.verify().with_context(shown)?;
    let manifest = bundle.manifest().with_context(shown)?;
    let golden = bundle.golden(&manifest).with_context(shown)?;
    let texts: Vec<&str> = golden.cases().map(|case| case.text).collect();
    let mut scratch = labeler.scratch();
    let mut log = open(folder)?;
    let mut scrub = Scrub::new();
    let can_scrub = labeler.engine().program().is_some();
    // Seconds of the text alone, of its record, and of the rest.
    let mut label = |text: &str, with: With| -> anyhow::Result<[f64; 3]> {
        let (time, start) = (SystemTime::now(), Instant::now());
        let result = labeler.label(&mut scratch, text);
        let labelled = start.elapsed();
        if with != With::Nothing {
            let report = result.as_ref().map_err(|&error| error);
            log.append(&audit::entry(&labeler, report, time, labelled))?;
        }
        let recorded = start.elapsed();
        result?;
        if with == With::Everything {
            if can_scrub {
                labeler.engine().scrub(&mut scrub, scrub_bytes)?;
            }
            scratch.zeroize();
        }
        Ok([labelled, recorded - labelled, start.elapsed() - recorded].map(|part| part.as_secs_f64()))
    };
    // Shortest seconds of each text, with each: what else the machine does only adds.
    let mut shortest = vec![[f64::INFINITY; 3]; texts.len()];
    let (mut appends, mut rests, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let mut of_round = [0.0; 2];
        for (text, shortest) in texts.iter().zip(&mut shortest) {
            // Who comes later has what the first has warmed: they take turns.
            let mut order = [With::Nothing, With::Trail, With::Everything];
            order.rotate_left(round as usize % 3);
            for with in order {
                let parts = label(text, with)?;
                let whole = parts.iter().sum::<f64>();
                if with == With::Everything {
                    of_round = [of_round[0] + parts[0], of_round[1] + whole];
                    rests.push(parts[2]);
                }
                shortest[with as usize] = shortest[with as usize].min(whole);
                if with != With::Nothing {
                    appends.push(parts[1]);
                }
            }
        }
        ratios.push(of_round[0] / of_round[1]);
    }
    let sum = |with: With| shortest.iter().map(|text| text[with as usize]).sum::<f64>();
    let (off, on, all) = (sum(With::Nothing), sum(With::Trail), sum(With::Everything));
    let count = texts.len() as f64;
    // With the waits for the disk, which the shortest times leave out.
    let mean = appends.iter().sum::<f64>() / appends.len() as f64;
    let ratios = Sorted::new(ratios);
    let none = || anyhow!("no text");
    let median = Sorted::new(appends).percentile(500).ok_or_else(none)?;
    let result = json!({
        "rounds": rounds, "texts": texts.len(), "records": log.head().sequence,
        "scrub_bytes": if can_scrub { scrub_bytes } else { 0 },
        "texts_per_second_off": count / off, "texts_per_second_on": count / on, "texts_per_second_all": count / all,
        "append_median_us": median * 1e6, "append_mean_us": mean * 1e6,
        "scrub_and_overwrite_median_us": Sorted::new(rests).percentile(500).ok_or_else(none)? * 1e6,
        "throughput_ratio": off / on, "throughput_ratio_with_waits": off / (off + count * mean),
        "throughput_ratio_all": off / all,
        "throughput_ratio_all_rounds_min": ratios.percentile(0).ok_or_else(none)?,
        "throughput_ratio_all_rounds_median": ratios.percentile(500).ok_or_else(none)?,
    });
    if json {
        print_json(&result)?;
    } else {
        let mut text = String::new();
        for (name, value) in result.as_object().into_iter().flatten() {
            let _ = match value {
                Value::Number(number) if number.is_f64() => {
                    writeln!(text, "{name:36} {:.4}", number.as_f64().unwrap_or(0.0))
                }
                value => writeln!(text, "{name:36} {value}"),
            };
        }
        print(&text)?;
    }
    Ok(Outcome::Done)
}
