use alloc::vec::Vec;
use core::fmt;

use sha2::{Digest, Sha256};

use crate::bundle::{Bundle, BundleError, SectionKind};
use crate::decisions::{Decisions, DecisionsError};
use crate::golden::{Golden, GoldenCase, GoldenError};
use crate::layout::{CRITICAL, DIGEST_LEN, ENDIANNESS, ENTRY_LEN, LABEL, PREAMBLE_LEN, VERSION, align};
use crate::manifest::{Manifest, ManifestError};
use crate::program::ProgramSection;

/// Writes a bundle. The same input gives the same bytes.
///
/// ```
/// use kdh_format::{Bundle, BundleWriter, GoldenCase};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let bytes = include_bytes!("../tests/golden/v1.kdh");
/// # let manifest = Bundle::parse(bytes)?.manifest()?;
/// # let graph = b"an ONNX model";
/// # let vocabulary = b"[CLS]\n[SEP]\n[UNK]\n";
/// let logits = kdh_format::heapless::Vec::from_slice(&[0.5, -1.5])?;
/// let golden = [GoldenCase { text: "Lungs are clear.", tokens: 6, sentences: 1, logits }];
/// let bytes = BundleWriter::new(&manifest, graph, vocabulary, 0.05, &golden)?.rollback_counter(3).finish()?;
/// assert_eq!(Bundle::parse(&bytes)?.rollback_counter(), 3);
/// # Ok(())
/// # }
/// ```
pub struct BundleWriter {
    sections: Vec<(SectionKind, Vec<u8>)>,
    rollback_counter: u64,
}

impl BundleWriter {
    /// Takes the sections: the manifest, the graph (an ONNX `ModelProto`), the vocabulary (`vocab.txt`: one token a
    /// line) and the golden texts with the tolerance on their document logits.
    ///
    /// Neither graph nor vocabulary is parsed here.
    ///
    /// # Errors
    ///
    /// When a reader would refuse the manifest or the golden texts.
    pub fn new(
        manifest: &Manifest<'_>,
        graph: &[u8],
        vocabulary: &[u8],
        tolerance: f32,
        golden: &[GoldenCase<'_>],
    ) -> Result<Self, WriteError> {
        let golden = Golden::to_vec(None, tolerance, golden, manifest.labels.len()).map_err(WriteError::Golden)?;
        let sections = alloc::vec![
            (SectionKind::Manifest, manifest.to_vec().map_err(WriteError::Manifest)?),
            (SectionKind::Onnx, graph.to_vec()),
            (SectionKind::Vocabulary, vocabulary.to_vec()),
            (SectionKind::Golden, golden),
        ];
        Ok(Self { sections, rollback_counter: 0 })
    }

    /// Sets the counter against rollback, which is 0 otherwise.
    #[must_use]
    pub fn rollback_counter(mut self, counter: u64) -> Self {
        self.rollback_counter = counter;
        self
    }

    /// Adds `program`, which the runtime has lowered the graph to; with `keep_graph` off the bundle leaves the graph out and
    /// holds its digest only.
    #[must_use]
    pub fn program(mut self, program: &[u8], keep_graph: bool) -> Self {
        let graph = self.sections.iter().find(|(kind, _)| *kind == SectionKind::Onnx);
        let onnx_sha256 = graph.map_or([0; DIGEST_LEN], |(_, graph)| Sha256::digest(graph).into());
        self.sections.retain(|(kind, _)| *kind != SectionKind::Program && (keep_graph || *kind != SectionKind::Onnx));
        self.sections.push((SectionKind::Program, ProgramSection { onnx_sha256, program }.to_vec()));
        self
    }

    /// Takes a bundle apart: the same sections, those of unknown kinds left out, and the same rollback counter. What follows
    /// the content, signatures, is not taken: they would be of another bundle.
    pub fn of(bundle: &Bundle<'_>) -> Self {
        let sections = bundle
            .sections()
            .filter_map(|section| Some((SectionKind::from_number(section.kind)?, section.bytes.to_vec())))
            .collect();
        Self { sections, rollback_counter: bundle.rollback_counter() }
    }

    /// Replaces the golden texts by ones whose logits, of `labels` labels, must come out bit by bit where the runtime computes in
    /// this version of its arithmetic, and within the tolerance elsewhere.
    ///
    /// # Errors
    ///
    /// When a reader would refuse them.
    pub fn golden(
        mut self,
        arithmetic: u32,
        tolerance: f32,
        cases: &[GoldenCase<'_>],
        labels: usize,
    ) -> Result<Self, WriteError> {
        let bytes = Golden::to_vec(Some(arithmetic), tolerance, cases, labels).map_err(WriteError::Golden)?;
        for (kind, section) in &mut self.sections {
            if *kind == SectionKind::Golden {
                section.clone_from(&bytes);
            }
        }
        Ok(self)
    }

    /// Adds what the box makes of the logits of `labels` labels, in place of what was there.
    ///
    /// # Errors
    ///
    /// When a reader would refuse it.
    pub fn decisions(mut self, decisions: &Decisions<'_>, labels: usize) -> Result<Self, WriteError> {
        let bytes = decisions.to_vec(labels).map_err(WriteError::Decisions)?;
        self.sections.retain(|(kind, _)| *kind != SectionKind::Decisions);
        self.sections.push((SectionKind::Decisions, bytes));
        Ok(self)
    }

    /// The bytes of the bundle.
    ///
    /// # Errors
    ///
    /// [`WriteError::Bundle`] when a reader would refuse them: a section or the whole is too long.
    pub fn finish(self) -> Result<Vec<u8>, WriteError> {
        let header_len = PREAMBLE_LEN + self.sections.len() * ENTRY_LEN;
        let too_long = WriteError::Bundle(BundleError::TooLong);
        let mut table = Vec::with_capacity(header_len - PREAMBLE_LEN);
        let mut end = header_len + DIGEST_LEN;
        for (kind, bytes) in &self.sections {
            let offset = align(end).ok_or_else(|| too_long.clone())?;
            end = offset.checked_add(bytes.len()).ok_or_else(|| too_long.clone())?;
            table.extend((*kind as u32).to_le_bytes());
            let has_graph = self.sections.iter().any(|(kind, _)| *kind == SectionKind::Onnx);
            let critical = match kind {
                // Beside the graph, a reader may pass over a program that it does not know.
                SectionKind::Program if has_graph => 0,
                // Without it the manifest's thresholds hold.
                SectionKind::Decisions => 0,
                _ => CRITICAL,
            };
            table.extend(critical.to_le_bytes());
            table.extend((offset as u64).to_le_bytes());
            table.extend((bytes.len() as u64).to_le_bytes());
            table.extend(0_u64.to_le_bytes());
            table.extend(Sha256::digest(bytes));
        }

        let mut bundle = Vec::with_capacity(end);
        bundle.extend(LABEL);
        bundle.extend(ENDIANNESS.to_le_bytes());
        bundle.extend(VERSION.to_le_bytes());
        bundle.extend((self.sections.len() as u32).to_le_bytes());
        bundle.extend(0_u32.to_le_bytes());
        bundle.extend((end as u64).to_le_bytes());
        bundle.extend(self.rollback_counter.to_le_bytes());
        bundle.resize(PREAMBLE_LEN, 0);
        bundle.extend(table);
        let digest = Sha256::digest(&bundle);
        bundle.extend(digest);
        for (_, bytes) in &self.sections {
            bundle.resize(align(bundle.len()).ok_or_else(|| too_long.clone())?, 0);
            bundle.extend(bytes);
        }
        Bundle::parse(&bundle).map_err(WriteError::Bundle)?;
        Ok(bundle)
    }
}

/// Shows sizes, not content.
impl fmt::Debug for BundleWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.sections.iter().map(|(kind, bytes)| (kind, bytes.len()))).finish()
    }
}

/// A bundle cannot be written because no reader would accept it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteError {
    /// The manifest.
    Manifest(ManifestError),
    /// The golden texts.
    Golden(GoldenError),
    /// What the box makes of the logits.
    Decisions(DecisionsError),
    /// The whole.
    Bundle(BundleError),
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest(error) => error.fmt(f),
            Self::Golden(error) => error.fmt(f),
            Self::Decisions(error) => error.fmt(f),
            Self::Bundle(error) => error.fmt(f),
        }
    }
}

// `Display` already is the text of the cause, so `source` stays empty: a chain would print it twice.
impl core::error::Error for WriteError {}
