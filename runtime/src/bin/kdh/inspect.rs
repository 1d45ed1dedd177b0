//! `kdh inspect`.

use std::fmt::{Display, Write};
use std::sync::Arc;

use anyhow::Context;
use kdh_runtime::format::{Manifest, Policy, SectionKind};
use kdh_runtime::{Bundle, Labeler, LabelerOptions};
use serde::Serialize;
use serde_json::Value;

use crate::source::{self, BundleArgs, EngineArgs, EngineReport};
use crate::verify::{hex, signer_json};
use crate::{Outcome, print, print_json};

/// Show what a bundle holds and what runs it
///
/// Sections with their sizes and digests, the manifest (labels, thresholds, limits, provenance, model card, figures),
/// and on this machine the engine, its kernels and the memory that the program takes with the golden texts labelled.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    bundle: BundleArgs,
    #[command(flatten)]
    engine: EngineArgs,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let path = args.bundle.path()?;
    let shown = || path.display().to_string();
    let file = Arc::new(source::open(&path)?);
    let bundle = file.verify().with_context(shown)?;
    let manifest = bundle.manifest().with_context(shown)?;
    let golden = bundle.golden(&manifest).with_context(shown)?;
    let labeler = args.engine.labeler_of(&file, LabelerOptions::new()).with_context(shown)?;
    let mut scratch = labeler.scratch();
    for case in golden.cases() {
        labeler.label(&mut scratch, case.text).with_context(|| format!("{}: golden text", path.display()))?;
    }
    let inspection = Inspection {
        bundle: shown(),
        bytes: file.bytes().len(),
        digest: hex(&bundle.digest()),
        rollback_counter: bundle.rollback_counter(),
        trailer_bytes: bundle.trailer().len(),
        signatures: signatures(&bundle),
        signer: signer_json(labeler.signer()),
        signed_by: labeler.signer().to_string(),
        sections: sections(&bundle),
        manifest,
        decisions: decisions(&bundle, &labeler).with_context(shown)?,
        golden_texts: golden.cases().len(),
        golden_tolerance: golden.tolerance(),
        engine: EngineReport::new(&labeler),
        memory: Memory::new(&labeler),
    };
    if args.json {
        print_json(&inspection)?
    } else {
        print(&table(&inspection))?
    }
    Ok(Outcome::Done)
}

#[derive(Serialize)]
struct Inspection<'a> {
    bundle: String,
    bytes: usize,
    digest: String,
    rollback_counter: u64,
    trailer_bytes: usize,
    /// All that the bundle claims to have.
    signatures: Vec<Signature>,
    /// The trusted one.
    signer: Value,
    #[serde(skip)]
    signed_by: String,
    sections: Vec<Section>,
    manifest: Manifest<'a>,
    /// What the box makes of the logits; without a section of the bundle's, of whom `fitted_on` is none.
    decisions: Summary,
    golden_texts: usize,
    golden_tolerance: f32,
    engine: EngineReport<'a>,
    memory: Memory,
}

#[derive(Serialize)]
struct Signature {
    role: &'static str,
    key: String,
}

#[derive(Serialize)]
struct Section {
    kind: u32,
    name: &'static str,
    critical: bool,
    bytes: usize,
    sha256: String,
}

/// Memory of this process as the kernel counts it; `None` where there is no `/proc`.
#[derive(Serialize)]
pub(crate) struct Memory {
    /// What one thread's texts take.
    pub(crate) scratch_bytes: usize,
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) peak_resident_bytes: Option<u64>,
}

impl Memory {
    pub(crate) fn new(labeler: &Labeler) -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
            Some(kibibytes * 1024)
        };
        let scratch_bytes = labeler.memory_required();
        Self { scratch_bytes, resident_bytes: field("VmRSS:"), peak_resident_bytes: field("VmHWM:") }
    }
}

/// What the box makes of the logits.
#[derive(Serialize)]
struct Summary {
    calibrated: bool,
    fitted_on: Option<String>,
    author: Option<String>,
    date: Option<String>,
    documents: Option<u32>,
    out_of_distribution: bool,
    operating_points: Vec<Point>,
    figures: Vec<(String, f64)>,
}

#[derive(Serialize)]
struct Point {
    name: String,
    policy: Policy,
    figures: Vec<(String, f64, f64, f64)>,
}

fn decisions(bundle: &Bundle<'_>, labeler: &Labeler) -> anyhow::Result<Summary> {
    let decisions = bundle.decisions(&bundle.manifest()?).transpose()?;
    let figures = |name: &str| -> Vec<(String, f64, f64, f64)> {
        let points = decisions.iter().flat_map(|decisions| &decisions.points).filter(|point| point.name == name);
        let figures = points.flat_map(|point| &point.figures);
        figures.map(|figure| (figure.name.to_owned(), figure.estimate, figure.low, figure.high)).collect()
    };
    let points = labeler.operating_points();
    let points = points.map(|(name, policy)| Point { name: name.to_owned(), policy, figures: figures(name) });
    let fitted = decisions.as_ref().map(|decisions| decisions.fitted);
    let all = decisions.iter().flat_map(|decisions| &decisions.figures);
    Ok(Summary {
        calibrated: decisions.is_some(),
        fitted_on: fitted.map(|fitted| fitted.data.to_owned()),
        author: fitted.map(|fitted| fitted.author.to_owned()),
        date: fitted.map(|fitted| fitted.date.to_owned()),
        documents: fitted.map(|fitted| fitted.documents),
        out_of_distribution: decisions.as_ref().is_some_and(|decisions| decisions.out_of_distribution.is_some()),
        operating_points: points.collect(),
        figures: all.map(|figure| (figure.name.to_owned(), figure.estimate)).collect(),
    })
}

fn write_decisions(table: &mut String, decisions: &Summary) {
    match (&decisions.fitted_on, decisions.documents) {
        (Some(data), Some(documents)) => {
            let _ = writeln!(table, "\ndecisions fitted on {documents} texts: {data}");
        }
        _ => table.push_str("\nprobabilities not calibrated; the manifest's thresholds hold\n"),
    }
    for (name, value) in &decisions.figures {
        let _ = writeln!(table, "  {name:30} {value:.4}");
    }
    for point in &decisions.operating_points {
        let _ = writeln!(table, "operating point {}, {:?}", point.name, point.policy);
        for (name, estimate, low, high) in &point.figures {
            let _ = writeln!(table, "  {name:30} {estimate:.3} ({low:.3} to {high:.3})");
        }
    }
}

fn signatures(bundle: &Bundle<'_>) -> Vec<Signature> {
    let records = bundle.signatures().into_iter().flat_map(|records| records.iter());
    records.map(|record| Signature { role: record.role.name(), key: record.key.to_string() }).collect()
}

fn sections(bundle: &Bundle<'_>) -> Vec<Section> {
    let section = |section: kdh_runtime::format::Section<'_>| Section {
        kind: section.kind,
        name: SectionKind::from_number(section.kind).map_or("unknown", SectionKind::name),
        critical: section.critical,
        bytes: section.bytes.len(),
        sha256: hex(&section.sha256),
    };
    bundle.sections().map(section).collect()
}

fn table(inspection: &Inspection<'_>) -> String {
    let mut table = String::new();
    let manifest = &inspection.manifest;
    let row = |table: &mut String, name: &str, value: &dyn Display| {
        let _ = writeln!(table, "{name:18} {value}");
    };
    row(&mut table, "bundle", &inspection.bundle);
    row(&mut table, "bytes", &inspection.bytes);
    row(&mut table, "digest", &inspection.digest);
    row(&mut table, "rollback counter", &inspection.rollback_counter);
    row(&mut table, "trailer", &format!("{} bytes", inspection.trailer_bytes));
    for Signature { role, key } in &inspection.signatures {
        row(&mut table, "signature", &format!("{role} key {key}"));
    }
    row(&mut table, "signed by", &inspection.signed_by);
    table.push_str("\nsection         bytes  sha256\n");
    for Section { name, bytes, sha256, .. } in &inspection.sections {
        let _ = writeln!(table, "{name:11} {bytes:9}  {sha256}");
    }
    table.push('\n');
    row(&mut table, "name", &format!("{}, version {}", manifest.name, manifest.model_version));
    row(&mut table, "head", &format!("{:?}", manifest.head));
    row(&mut table, "longest input", &format!("{} tokens, {} sentences", manifest.max_tokens, manifest.max_sentences));
    let tokenizer = &manifest.tokenizer;
    let case = if tokenizer.lowercase { "lower case" } else { "cased" };
    row(&mut table, "tokeniser", &format!("{case}, {} {} {}", tokenizer.cls, tokenizer.sep, tokenizer.unk));
    row(&mut table, "golden texts", &format!("{}, tolerance {}", inspection.golden_texts, inspection.golden_tolerance));
    let width = manifest.labels.iter().map(|label| label.code.chars().count()).max().unwrap_or_default();
    table.push_str("\nthreshold  label\n");
    for label in &manifest.labels {
        let _ = writeln!(table, "{:9.3}  {:width$}  {}", label.threshold, label.code, label.name);
    }
    write_decisions(&mut table, &inspection.decisions);
    table.push('\n');
    let (provenance, card) = (&manifest.provenance, &manifest.card);
    for (name, text) in [
        ("description", card.description),
        ("intended use", card.intended_use),
        ("limitations", card.limitations),
        ("licence", card.licence),
        ("data", provenance.data),
        ("data licence", provenance.data_licence),
        ("weights", provenance.weights),
        ("weights licence", provenance.weights_licence),
        ("command", provenance.command),
        ("commit", provenance.commit),
    ] {
        if !text.is_empty() {
            row(&mut table, name, &text.replace('\n', "\n                   "));
        }
    }
    row(&mut table, "seed", &provenance.seed);
    if !manifest.metrics.is_empty() {
        table.push_str("\nfigures of the maker\n");
        for metric in &manifest.metrics {
            let _ = writeln!(table, "{:32} {:.4}", metric.name, metric.value);
        }
    }
    table.push('\n');
    row(&mut table, "engine", &inspection.engine.name);
    row(&mut table, "kernels", &inspection.engine.kernels.join(", "));
    row(&mut table, "model", &inspection.engine.model);
    if let Some(reason) = &inspection.engine.not_lowered {
        row(&mut table, "not the arena", reason);
    }
    let mebibytes = |bytes: Option<u64>| match bytes {
        Some(bytes) => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        None => "unknown".into(),
    };
    row(&mut table, "scratch a thread", &mebibytes(Some(inspection.memory.scratch_bytes as u64)));
    row(&mut table, "resident memory", &mebibytes(inspection.memory.resident_bytes));
    row(&mut table, "at its peak", &mebibytes(inspection.memory.peak_resident_bytes));
    table
}
