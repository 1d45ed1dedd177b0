//! Packs a student into the bundle that the box runs.

use std::fmt;

use kdh_format::{
    BundleWriter, GoldenCase, GoldenError, LabelSpec, Manifest, Metric, ModelCard, Provenance, SectionKind,
    TokenizerSpec, WriteError, heapless,
};
use kdh_runtime::dataset::Document;
use kdh_runtime::engine::Shape;
use kdh_runtime::lower::{LowerError, lower};
use kdh_runtime::{BuildError, Bundle, BundleError, LabelError, SelfTestError, lower_bundle};
use serde::Deserialize;

use crate::encode::TextEncoder;
use crate::golden::golden_texts;
use crate::graph::{Precision, onnx};
use crate::parity::{Bounds, Parity, ParityError, Refused};
use crate::record::record;
use crate::session::{Session, SessionError};
use crate::student::Student;

/// Smallest tolerance of the golden logits: engines sum in f32, in different orders.
const MIN_TOLERANCE: f32 = 1e-3;

/// What people write of a model that no measurement can say; a JSON file of their own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Version of the model, as its maker counts.
    pub version: String,
    /// What the model is.
    #[serde(default)]
    pub description: String,
    /// What it is meant to be used for.
    #[serde(default)]
    pub intended_use: String,
    /// What it must not be used for, and where it is known to fail.
    #[serde(default)]
    pub limitations: String,
    /// Licence of the model.
    #[serde(default)]
    pub licence: String,
    /// Counter against rollback: devices that took this one refuse lower ones.
    #[serde(default)]
    pub rollback_counter: u64,
}

/// A bundle and how it was found fit.
#[derive(Clone, Debug)]
pub struct Packed {
    /// The bundle's bytes.
    pub bundle: Vec<u8>,
    /// The int8 graph, which the bundle holds or leaves out.
    pub graph: Vec<u8>,
    /// What int8 changes.
    pub parity: Parity,
}

impl Default for Release {
    /// A model that was never released.
    fn default() -> Self {
        let empty = String::new;
        Self {
            version: "0".into(),
            description: empty(),
            intended_use: empty(),
            limitations: empty(),
            licence: empty(),
            rollback_counter: 0,
        }
    }
}

/// Exports `student` in f32 and int8, lets the parity gate judge it on `documents`, and writes the bundle: manifest,
/// vocabulary, golden vectors and the int8 graph lowered to a program; and the graph itself with `keep_graph`. `done` is called after each document.
///
/// The manifest holds the card's figures and the gate's own, named `parity_*`.
///
/// The golden tolerance is twice what int8 differs from f32 on the golden texts: two engines that round a few integers
/// to different sides of a tie differ by about as much as int8 does from f32 (see `ARITHMETIC.md`). tract gives the golden
/// logits that the program must keep within the tolerance; what the bundle then holds are the program's own, which every box
/// must find bit by bit.
///
/// # Errors
/// [`PackError::Refused`] when int8 changes more than `bounds`; otherwise as the steps have them.
pub fn pack(
    student: &Student,
    release: &Release,
    documents: &[Document],
    bounds: &Bounds,
    keep_graph: bool,
    done: impl FnMut(),
) -> Result<Packed, PackError> {
    let (f32_graph, int8_graph) = (onnx(student, Precision::F32), onnx(student, Precision::Int8));
    let parity = Parity::measure(student, &f32_graph, &int8_graph, documents, done).map_err(PackError::Parity)?;
    parity.check(bounds).map_err(PackError::Refused)?;

    let texts = golden_texts();
    let (tolerance, golden) = record_golden(student, &f32_graph, &int8_graph, &texts)?;
    let manifest = manifest(student, release, &parity)?;
    let shape = Shape {
        labels: manifest.labels.len(),
        max_sentences: manifest.max_sentences as usize,
        max_tokens: manifest.max_tokens as usize,
        vocabulary: student.vocabulary.len(),
    };
    let program = lower(&int8_graph, shape).map_err(PackError::Lower)?.to_bytes();
    let bundle = BundleWriter::new(&manifest, &int8_graph, &student.vocabulary_file(), tolerance, &golden)
        .and_then(|writer| writer.rollback_counter(release.rollback_counter).program(&program, keep_graph).finish())
        .map_err(PackError::Write)?;
    Ok(Packed { bundle: record(&bundle)?, graph: int8_graph, parity })
}

/// Writes a bundle anew with its graph lowered to a program, and the graph itself with `keep_graph`; the rest stays as it is.
/// `graph` is the one that the bundle leaves out, if it does.
///
/// # Errors
/// When the bundle cannot be read, or its graph cannot be lowered.
pub fn repack(bundle: &[u8], graph: Option<&[u8]>, keep_graph: bool) -> Result<Vec<u8>, PackError> {
    let bundle = Bundle::parse(bundle).map_err(PackError::Bundle)?;
    let program = lower_bundle(&bundle, graph).map_err(PackError::Build)?.to_bytes();
    let manifest = bundle.manifest().map_err(|error| PackError::Build(BuildError::Manifest(error)))?;
    let golden = bundle.golden(&manifest).map_err(PackError::Golden)?;
    let (tolerance, cases): (f32, Vec<GoldenCase<'_>>) = (golden.tolerance(), golden.cases().collect());
    let section = |kind| bundle.section(kind).unwrap_or_default();
    let graph = graph.unwrap_or_else(|| section(SectionKind::Onnx));
    let decisions = bundle.decisions(&manifest).transpose();
    let decisions = decisions.map_err(|error| PackError::Build(BuildError::Decisions(error)))?;
    let bytes = BundleWriter::new(&manifest, graph, section(SectionKind::Vocabulary), tolerance, &cases)
        .map(|writer| writer.rollback_counter(bundle.rollback_counter()).program(&program, keep_graph))
        .and_then(|writer| match &decisions {
            Some(decisions) => writer.decisions(decisions, manifest.labels.len()),
            None => Ok(writer),
        })
        .and_then(BundleWriter::finish)
        .map_err(PackError::Write)?;
    record(&bytes)
}

/// Why a bundle could not be packed.
#[derive(Debug)]
#[non_exhaustive]
pub enum PackError {
    /// int8 changes more than the bounds allow.
    Refused(Refused),
    /// Parity could not be measured.
    Parity(ParityError),
    /// tract refuses a graph or a golden text.
    Session(SessionError),
    /// More labels or figures than a manifest holds: what, and how many it holds.
    TooMany(&'static str, usize),
    /// The graph cannot be lowered to a program.
    Lower(LowerError),
    /// The bundle to be written anew cannot be read.
    Bundle(BundleError),
    /// Nor its golden texts.
    Golden(GoldenError),
    /// Nor its other parts, or its graph cannot be lowered.
    Build(BuildError),
    /// The lowered program computes something else than the reference.
    SelfTest(SelfTestError),
    /// A golden text gets no labels.
    Label(LabelError),
    /// The bundle cannot be written as it is.
    Write(WriteError),
}

impl fmt::Display for PackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => write!(f, "not packed: {error}"),
            Self::Parity(error) => error.fmt(f),
            Self::Session(error) => error.fmt(f),
            Self::TooMany(what, limit) => write!(f, "the student's card has too many {what}; a bundle holds {limit}"),
            Self::Lower(error) => write!(f, "the graph cannot be lowered: {error}"),
            Self::Bundle(error) => error.fmt(f),
            Self::Golden(error) => error.fmt(f),
            Self::Build(error) => error.fmt(f),
            Self::SelfTest(error) => write!(f, "the lowered program is not the graph: {error}"),
            Self::Label(error) => write!(f, "a golden text: {error}"),
            Self::Write(error) => error.fmt(f),
        }
    }
}

// `Display` already is the text of the cause, so `source` stays empty: a chain would print it twice.
impl std::error::Error for PackError {}

/// The tolerance of the document logits, and the int8 graph's logits of each text.
fn record_golden<'t>(
    student: &Student,
    f32_graph: &[u8],
    int8_graph: &[u8],
    texts: &'t [String],
) -> Result<(f32, Vec<GoldenCase<'t>>), PackError> {
    let f32_session = Session::new(f32_graph).map_err(PackError::Session)?;
    let int8_session = Session::new(int8_graph).map_err(PackError::Session)?;
    let mut encoder = TextEncoder::new(student).map_err(|error| PackError::Parity(ParityError::Vocabulary(error)))?;
    let mut difference = 0f32;
    let mut cases = Vec::new();
    for text in texts {
        let (ids, sentence_ids) = encoder.encode(text);
        let tokens = ids.len() as u32;
        let sentences = sentence_ids.iter().max().map_or(0, |&last| (last + 1) as u32);
        let exact = f32_session.run(ids, sentence_ids).map_err(PackError::Session)?.document;
        let rounded = int8_session.run(ids, sentence_ids).map_err(PackError::Session)?.document;
        difference = exact.iter().zip(&rounded).map(|(a, b)| (a - b).abs()).fold(difference, f32::max);
        let logits = fixed("labels", rounded)?;
        cases.push(GoldenCase { text, tokens, sentences, logits });
    }
    Ok(((2.0 * difference).max(MIN_TOLERANCE), cases))
}

fn manifest<'a>(student: &'a Student, release: &'a Release, parity: &Parity) -> Result<Manifest<'a>, PackError> {
    let card = &student.card;
    let labels =
        card.labels.iter().map(|label| LabelSpec { code: &label.code, name: &label.name, threshold: label.threshold });
    let measured = [
        ("parity_documents", parity.documents as f64),
        ("parity_f32_micro_f1", parity.f32_micro_f1),
        ("parity_int8_micro_f1", parity.int8_micro_f1),
        ("parity_flip_rate", parity.flip_rate),
        ("parity_max_logit_difference", parity.max_logit_difference),
    ];
    let metrics = card.provenance.metrics.iter().map(|metric| Metric { name: &metric.name, value: metric.value });
    Ok(Manifest {
        name: &card.name,
        model_version: &release.version,
        head: card.head,
        labels: fixed("labels", labels)?,
        max_tokens: card.max_tokens,
        max_sentences: card.max_sentences,
        tokenizer: TokenizerSpec {
            lowercase: card.tokenizer.lowercase,
            cls: &card.tokenizer.cls,
            sep: &card.tokenizer.sep,
            unk: &card.tokenizer.unk,
        },
        provenance: Provenance {
            data: &card.provenance.data,
            data_licence: &card.provenance.data_licence,
            weights: &card.provenance.weights,
            weights_licence: &card.provenance.weights_licence,
            command: &card.provenance.command,
            commit: &card.provenance.commit,
            seed: card.provenance.seed,
        },
        card: ModelCard {
            description: &release.description,
            intended_use: &release.intended_use,
            limitations: &release.limitations,
            licence: &release.licence,
        },
        metrics: fixed("metrics", metrics.chain(measured.map(|(name, value)| Metric { name, value })))?,
    })
}

/// Collects into the fixed capacity that the format has.
fn fixed<T, const N: usize>(
    what: &'static str,
    items: impl IntoIterator<Item = T>,
) -> Result<heapless::Vec<T, N>, PackError> {
    let mut vec = heapless::Vec::new();
    for item in items {
        vec.push(item).map_err(|_| PackError::TooMany(what, N))?;
    }
    Ok(vec)
}
