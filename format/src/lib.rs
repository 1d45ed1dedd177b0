//! Byte layouts of kdh: every file and frame that crosses a boundary between a host, a box and a device.
//!
//! [`Bundle`] reads a `.kdh` file: one model with everything that a box needs to run it. Reading takes a byte slice,
//! allocates nothing and needs no `std`; `SPECIFICATION.md` in this crate's folder states the layout byte by byte. [`wire`]
//! holds the frames between a box and what stands beside it.
//!
//! ```
//! use kdh_format::{Bundle, SectionKind};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let bytes = include_bytes!("../tests/golden/v1.kdh");
//! let bundle = Bundle::parse(bytes)?;
//! let manifest = bundle.manifest()?;
//! assert_eq!(manifest.labels[0].code, "RESP");
//! assert!(bundle.section(SectionKind::Vocabulary).is_some());
//! # Ok(())
//! # }
//! ```
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;

mod audit;
mod bundle;
mod decisions;
mod golden;
mod head;
mod hex;
#[cfg(feature = "signatures")]
mod key;
mod layout;
mod manifest;
mod program;
#[cfg(feature = "signatures")]
mod signature;
#[cfg(feature = "alloc")]
pub mod student;
#[cfg(feature = "signatures")]
mod trust;
pub mod wire;
#[cfg(feature = "alloc")]
mod writer;

pub use audit::{AUDIT_HEADER_LEN, AUDIT_RECORD_LEN, AuditEntry, AuditError, AuditHead, AuditStatus, token_bucket};
pub use bundle::{Bundle, BundleError, Section, SectionKind};
pub use decisions::{
    Calibration, Decisions, DecisionsError, Figure, Fitted, Interval, LabelThreshold, Limits, MAX_DIRECTIONS,
    MAX_FIGURES, MAX_KNOTS, MAX_OPERATING_POINTS, OperatingPoint, OutOfDistribution, Policy,
};
pub use golden::{Golden, GoldenCase, GoldenCases, GoldenError, MAX_GOLDEN_CASES, MAX_GOLDEN_TEXT_LEN};
pub use head::Head;
pub use heapless;
pub use hex::Hex;
#[cfg(feature = "signatures")]
pub use key::{KeyError, KeyId, KeyRole, MAX_KEY_LABEL_LEN, PublicKey, SecretKey};
pub use layout::{
    MAX_BUNDLE_LEN, MAX_DECISIONS_LEN, MAX_GOLDEN_LEN, MAX_MANIFEST_LEN, MAX_SECTIONS, MAX_TRAILER_LEN,
    MAX_VOCABULARY_LEN,
};
pub use manifest::{
    LabelSpec, MAX_LABELS, MAX_METRICS, MAX_SENTENCES, MAX_TOKENS, Manifest, ManifestError, Metric, ModelCard,
    Provenance, TokenizerSpec,
};
pub use program::{ProgramSection, ProgramSectionError};
#[cfg(feature = "signatures")]
pub use signature::{MAX_SIGNATURES, SIGNATURE_LEN, SignatureRecord, Signatures, SignaturesError};
#[cfg(all(feature = "signatures", feature = "alloc"))]
pub use trust::sign_bundle;
#[cfg(feature = "signatures")]
pub use trust::{MAX_REVOKED_KEYS, MAX_TRUSTED_KEYS, Signer, Trust, TrustError, Untrusted};
#[cfg(feature = "alloc")]
pub use writer::{BundleWriter, WriteError};
