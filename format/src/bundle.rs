use core::fmt;

use sha2::{Digest, Sha256};

use crate::decisions::{Decisions, DecisionsError};
use crate::golden::{Golden, GoldenError};
use crate::layout::{
    CRITICAL, DIGEST_LEN, ENDIANNESS, ENTRY_LEN, LABEL, MAX_BUNDLE_LEN, MAX_DECISIONS_LEN, MAX_GOLDEN_LEN,
    MAX_MANIFEST_LEN, MAX_SECTIONS, MAX_TRAILER_LEN, MAX_VOCABULARY_LEN, PREAMBLE_LEN, VERSION, align,
};
use crate::manifest::{Manifest, ManifestError};
use crate::program::{ProgramSection, ProgramSectionError};

/// A model and everything that a box needs to run it, read from the bytes of a `.kdh` file.
///
/// A value of this type has passed every check of the container: label, version, bounds, the header's digest and the
/// digest of every section. What the sections say is read by [`manifest`](Self::manifest) and [`golden`](Self::golden).
///
/// The digests find damage, not malice: whoever can write the file can write its digests. [`Trust`](crate::Trust) finds who
/// vouches for it: signatures bind [`signed_bytes`](Self::signed_bytes), and with them every byte of the content.
#[derive(Clone, Copy)]
pub struct Bundle<'a> {
    bytes: &'a [u8],
    table: &'a [u8],
    content_len: usize,
    rollback_counter: u64,
}

impl<'a> Bundle<'a> {
    /// Reads and checks the bytes of a whole `.kdh` file. Allocates nothing.
    ///
    /// # Errors
    ///
    /// The first [`BundleError`]. Every byte in front of the trailer is covered: one that is changed is an error.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BundleError> {
        let preamble = Preamble::parse(bytes)?;
        let header_len = PREAMBLE_LEN + preamble.section_count * ENTRY_LEN;
        let header = bytes.get(..header_len).ok_or(BundleError::Truncated)?;
        let digest = bytes.get(header_len..header_len + DIGEST_LEN).ok_or(BundleError::Truncated)?;
        let content_len = usize::try_from(preamble.content_len).map_err(|_| BundleError::TooLong)?;
        if content_len > MAX_BUNDLE_LEN {
            return Err(BundleError::TooLong);
        }
        if bytes.len() < content_len {
            return Err(BundleError::Truncated);
        }
        if bytes.len() - content_len > MAX_TRAILER_LEN {
            return Err(BundleError::TrailerTooLong);
        }
        if sha256(header) != *digest {
            return Err(BundleError::HeaderDigest);
        }

        let bundle =
            Self { bytes, table: &header[PREAMBLE_LEN..], content_len, rollback_counter: preamble.rollback_counter };
        bundle.check_table()?;
        bundle.check_coverage(header_len + DIGEST_LEN)?;
        for (index, section) in bundle.sections().enumerate() {
            if sha256(section.bytes) != section.sha256 {
                return Err(BundleError::SectionDigest { index });
            }
        }
        Ok(bundle)
    }

    /// The bytes of the section of this kind, if there is one.
    pub fn section(&self, kind: SectionKind) -> Option<&'a [u8]> {
        self.sections().find(|section| section.kind == kind as u32).map(|section| section.bytes)
    }

    /// Every section in order of the file, those of unknown kinds too.
    pub fn sections(&self) -> impl ExactSizeIterator<Item = Section<'a>> + use<'a> {
        let bytes = self.bytes;
        self.table.chunks_exact(ENTRY_LEN).map(move |entry| {
            let entry = Entry::parse(entry);
            // `check_coverage` has found every range inside the file before a `Bundle` is handed out.
            let section = entry.range().and_then(|range| bytes.get(range)).unwrap_or_default();
            Section { kind: entry.kind, critical: entry.flags & CRITICAL != 0, sha256: entry.sha256, bytes: section }
        })
    }

    /// Reads and checks the manifest.
    ///
    /// # Errors
    ///
    /// [`ManifestError`] when the section does not hold a manifest of version 1 whose values make sense.
    pub fn manifest(&self) -> Result<Manifest<'a>, ManifestError> {
        Manifest::parse(self.section(SectionKind::Manifest).unwrap_or_default())
    }

    /// Reads the header of the program section; `None` when the bundle has no program.
    ///
    /// # Errors
    ///
    /// [`ProgramSectionError`] when the section is not one of version 1.
    pub fn program(&self) -> Option<Result<ProgramSection<'a>, ProgramSectionError>> {
        self.section(SectionKind::Program).map(ProgramSection::parse)
    }

    /// Reads and checks the golden texts, whose logits must be those of `manifest`'s labels.
    ///
    /// # Errors
    ///
    /// [`GoldenError`] when the section does not hold golden texts of version 1.
    pub fn golden(&self, manifest: &Manifest<'_>) -> Result<Golden<'a>, GoldenError> {
        Golden::parse(self.section(SectionKind::Golden).unwrap_or_default(), manifest.labels.len())
    }

    /// Reads and checks what the box makes of the logits, which must be for `manifest`'s labels; `None` when the bundle does
    /// not say.
    ///
    /// # Errors
    ///
    /// [`DecisionsError`] when the section does not hold decisions of version 1.
    pub fn decisions(&self, manifest: &Manifest<'_>) -> Option<Result<Decisions<'a>, DecisionsError>> {
        self.section(SectionKind::Decisions).map(|bytes| Decisions::parse(bytes, manifest.labels.len()))
    }

    /// Counter against rollback: a later release of the same model has a higher one. A [`Trust`](crate::Trust) has a minimum.
    pub fn rollback_counter(&self) -> u64 {
        self.rollback_counter
    }

    /// The bytes that signatures cover: preamble and section table. They bind every section by its digest.
    pub fn signed_bytes(&self) -> &'a [u8] {
        &self.bytes[..PREAMBLE_LEN + self.table.len()]
    }

    /// SHA-256 of [`signed_bytes`](Self::signed_bytes). It identifies the bundle: two files with the same digest hold
    /// the same model.
    pub fn digest(&self) -> [u8; 32] {
        sha256(self.signed_bytes())
    }

    /// Everything in front of the trailer.
    pub fn content(&self) -> &'a [u8] {
        &self.bytes[..self.content_len]
    }

    /// The signature records in the trailer, not verified.
    ///
    /// # Errors
    ///
    /// [`SignaturesError`](crate::SignaturesError) when the trailer holds something else.
    #[cfg(feature = "signatures")]
    pub fn signatures(&self) -> Result<crate::Signatures<'a>, crate::SignaturesError> {
        crate::Signatures::parse(self.trailer())
    }

    /// What follows the content: empty, or records of at most [`MAX_TRAILER_LEN`] bytes that no digest covers.
    pub fn trailer(&self) -> &'a [u8] {
        &self.bytes[self.content_len..]
    }

    fn entries(&self) -> impl Iterator<Item = (usize, Entry)> + use<'a> {
        self.table.chunks_exact(ENTRY_LEN).map(Entry::parse).enumerate()
    }

    /// Checks kinds, flags, reserved fields and lengths.
    fn check_table(&self) -> Result<(), BundleError> {
        let mut has_model = false;
        for (index, entry) in self.entries() {
            if entry.reserved != 0 || entry.flags & !CRITICAL != 0 {
                return Err(BundleError::Reserved);
            }
            if self.entries().take(index).any(|(_, earlier)| earlier.kind == entry.kind) {
                return Err(BundleError::DuplicateSection { kind: entry.kind });
            }
            let kind = SectionKind::from_number(entry.kind);
            if entry.flags & CRITICAL != 0 && kind.is_none() {
                return Err(BundleError::UnknownCriticalSection { kind: entry.kind });
            }
            let max_len = kind.map_or(MAX_BUNDLE_LEN, SectionKind::max_len);
            if entry.len > max_len as u64 {
                return Err(BundleError::SectionTooLong { kind: entry.kind });
            }
            has_model |= matches!(kind, Some(SectionKind::Onnx | SectionKind::Program));
        }
        for kind in [SectionKind::Manifest, SectionKind::Vocabulary, SectionKind::Golden] {
            if !self.entries().any(|(_, entry)| entry.kind == kind as u32) {
                return Err(BundleError::MissingSection { kind });
            }
        }
        if has_model { Ok(()) } else { Err(BundleError::MissingSection { kind: SectionKind::Onnx }) }
    }

    /// Checks that sections follow each other with nothing but zero padding between, from `end` of the header's digest
    /// to the end of the content.
    fn check_coverage(&self, header_end: usize) -> Result<(), BundleError> {
        let mut end = header_end;
        for (index, entry) in self.entries() {
            let misplaced = BundleError::SectionPlace { index };
            let range = entry.range().ok_or(misplaced.clone())?;
            if align(end) != Some(range.start) || range.end > self.content_len {
                return Err(misplaced);
            }
            // A padding beyond the content would begin a section there, which the line above refuses.
            if self.bytes[end..range.start].iter().any(|&byte| byte != 0) {
                return Err(BundleError::Padding { index });
            }
            end = range.end;
        }
        if end == self.content_len { Ok(()) } else { Err(BundleError::ContentLength) }
    }
}

/// Shows sizes, not content.
impl fmt::Debug for Bundle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle")
            .field("content_len", &self.content_len)
            .field("sections", &self.sections().len())
            .field("trailer_len", &self.trailer().len())
            .finish()
    }
}

/// One section of a bundle.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Section<'a> {
    /// Number of the section's kind; [`SectionKind::from_number`] names the known ones.
    pub kind: u32,
    /// A reader that does not know the kind refuses the bundle.
    pub critical: bool,
    /// SHA-256 of `bytes`, checked.
    pub sha256: [u8; 32],
    /// The content.
    pub bytes: &'a [u8],
}

/// Shows the size, not the content.
impl fmt::Debug for Section<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Section")
            .field("kind", &self.kind)
            .field("critical", &self.critical)
            .field("len", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum SectionKind {
    /// A [`Manifest`]. Mandatory.
    Manifest = 1,
    /// The graph, an ONNX `ModelProto`. Mandatory unless there is a [`Program`](Self::Program).
    Onnx = 2,
    /// `vocab.txt`: one token a line, the line number is the token's id. Mandatory.
    Vocabulary = 3,
    /// Texts with their logits: [`Golden`]. Mandatory.
    Golden = 4,
    /// The graph, lowered for the box: [`ProgramSection`](crate::ProgramSection). Mandatory unless there is an
    /// [`Onnx`](Self::Onnx).
    Program = 5,
    /// What the box makes of the logits: [`Decisions`]. A reader that passes over it decides with the manifest's
    /// thresholds on uncalibrated probabilities, for which they were chosen.
    Decisions = 6,
}

impl SectionKind {
    /// The kind with this number, if this version of the crate has a name for it.
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Manifest, Self::Onnx, Self::Vocabulary, Self::Golden, Self::Program, Self::Decisions]
            .into_iter()
            .find(|&kind| kind as u32 == number)
    }

    /// The kind's name in small letters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Onnx => "onnx",
            Self::Vocabulary => "vocabulary",
            Self::Golden => "golden",
            Self::Program => "program",
            Self::Decisions => "decisions",
        }
    }

    fn max_len(self) -> usize {
        match self {
            Self::Manifest => MAX_MANIFEST_LEN,
            Self::Vocabulary => MAX_VOCABULARY_LEN,
            Self::Golden => MAX_GOLDEN_LEN,
            Self::Decisions => MAX_DECISIONS_LEN,
            Self::Onnx | Self::Program => MAX_BUNDLE_LEN,
        }
    }
}

/// The bytes are not a bundle that this version reads.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BundleError {
    /// No bytes at all.
    Empty,
    /// The bytes do not begin with a bundle's label.
    NotABundle,
    /// The endianness marker is not the one of a little-endian file.
    Endianness,
    /// A later version of the format, or a damaged version field.
    UnsupportedVersion {
        /// What the file says.
        found: u32,
    },
    /// A reserved field or flag is set.
    Reserved,
    /// No section, or more than [`MAX_SECTIONS`].
    SectionCount {
        /// What the file says.
        found: u32,
    },
    /// The file ends before the content that it announces.
    Truncated,
    /// The file announces more than [`MAX_BUNDLE_LEN`].
    TooLong,
    /// More than [`MAX_TRAILER_LEN`] bytes follow the content.
    TrailerTooLong,
    /// The digest of preamble and section table is wrong.
    HeaderDigest,
    /// Two sections have the same kind.
    DuplicateSection {
        /// Number of the kind.
        kind: u32,
    },
    /// A section must be understood and is not.
    UnknownCriticalSection {
        /// Number of the kind.
        kind: u32,
    },
    /// A section is longer than its kind allows.
    SectionTooLong {
        /// Number of the kind.
        kind: u32,
    },
    /// A mandatory section is not there.
    MissingSection {
        /// The kind.
        kind: SectionKind,
    },
    /// A section does not begin where the one in front of it ends, or ends behind the content.
    SectionPlace {
        /// Position in the table, counted from 0.
        index: usize,
    },
    /// A byte of the padding in front of a section is not zero.
    Padding {
        /// Position of the section in the table, counted from 0.
        index: usize,
    },
    /// The content is longer than its sections.
    ContentLength,
    /// The digest of a section is wrong.
    SectionDigest {
        /// Position in the table, counted from 0.
        index: usize,
    },
}

impl fmt::Display for BundleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the bundle is empty; copy it again"),
            Self::NotABundle => f.write_str("this is not a kdh bundle; give a .kdh file"),
            Self::Endianness => f.write_str("the bundle's endianness marker is wrong; copy the file again"),
            Self::UnsupportedVersion { found } => write!(
                f,
                "the bundle has format version {found}, this program reads version {VERSION}; update the program, or \
                 copy the file again"
            ),
            Self::Reserved => {
                f.write_str("the bundle sets a reserved field; it was written for another version, or is damaged")
            }
            Self::SectionCount { found } => {
                write!(f, "the bundle announces {found} sections, 1 to {MAX_SECTIONS} are allowed; copy the file again")
            }
            Self::Truncated => f.write_str("the bundle is cut off; copy the file again"),
            Self::TooLong => {
                write!(f, "the bundle announces more than {} MiB; copy the file again", MAX_BUNDLE_LEN >> 20)
            }
            Self::TrailerTooLong => {
                write!(f, "more than {MAX_TRAILER_LEN} bytes follow the bundle's content; copy the file again")
            }
            Self::HeaderDigest => f.write_str("the bundle's header is damaged (wrong digest); copy the file again"),
            Self::DuplicateSection { kind } => write!(f, "the bundle has two sections of kind {kind}; pack it again"),
            Self::UnknownCriticalSection { kind } => {
                write!(f, "the bundle needs section kind {kind}, which this program does not know; update the program")
            }
            Self::SectionTooLong { kind } => {
                write!(f, "the bundle's section of kind {kind} is longer than allowed; pack it again")
            }
            Self::MissingSection { kind } => write!(f, "the bundle has no {} section; pack it again", kind.name()),
            Self::SectionPlace { index } => write!(f, "section {index} of the bundle is out of place; pack it again"),
            Self::Padding { index } => {
                write!(f, "the padding in front of section {index} is not zero; copy the file again")
            }
            Self::ContentLength => f.write_str("the bundle is longer than its sections; copy the file again"),
            Self::SectionDigest { index } => {
                write!(f, "section {index} of the bundle is damaged (wrong digest); copy the file again")
            }
        }
    }
}

impl core::error::Error for BundleError {}

/// The first 64 bytes.
struct Preamble {
    section_count: usize,
    content_len: u64,
    rollback_counter: u64,
}

impl Preamble {
    fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        if bytes.is_empty() {
            return Err(BundleError::Empty);
        }
        let label_len = bytes.len().min(LABEL.len());
        if bytes[..label_len] != LABEL[..label_len] {
            return Err(BundleError::NotABundle);
        }
        let bytes = bytes.get(..PREAMBLE_LEN).ok_or(BundleError::Truncated)?;
        if u32_at(bytes, 16) != ENDIANNESS {
            return Err(BundleError::Endianness);
        }
        let version = u32_at(bytes, 20);
        if version != VERSION {
            return Err(BundleError::UnsupportedVersion { found: version });
        }
        let section_count = u32_at(bytes, 24);
        let flags = u32_at(bytes, 28);
        if flags != 0 || bytes[48..].iter().any(|&byte| byte != 0) {
            return Err(BundleError::Reserved);
        }
        match usize::try_from(section_count) {
            Ok(section_count @ 1..=MAX_SECTIONS) => {
                Ok(Self { section_count, content_len: u64_at(bytes, 32), rollback_counter: u64_at(bytes, 40) })
            }
            _ => Err(BundleError::SectionCount { found: section_count }),
        }
    }
}

/// 64 bytes of the section table.
struct Entry {
    kind: u32,
    flags: u32,
    offset: u64,
    len: u64,
    reserved: u64,
    sha256: [u8; DIGEST_LEN],
}

impl Entry {
    /// Reads an entry of exactly [`ENTRY_LEN`] bytes.
    fn parse(bytes: &[u8]) -> Self {
        Self {
            kind: u32_at(bytes, 0),
            flags: u32_at(bytes, 4),
            offset: u64_at(bytes, 8),
            len: u64_at(bytes, 16),
            reserved: u64_at(bytes, 24),
            sha256: array_at(bytes, 32),
        }
    }

    fn range(&self) -> Option<core::ops::Range<usize>> {
        let start = usize::try_from(self.offset).ok()?;
        let end = start.checked_add(usize::try_from(self.len).ok()?)?;
        Some(start..end)
    }
}

fn sha256(bytes: &[u8]) -> [u8; DIGEST_LEN] {
    Sha256::digest(bytes).into()
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, offset))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, offset))
}

fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[offset..offset + N]);
    array
}
