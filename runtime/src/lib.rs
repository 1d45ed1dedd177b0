//! Offline multi-label classification of clinical texts: a text goes in, the labels that a bundle's model knows come
//! out, each with the sentences that caused it.
//!
//! ```
//! use kdh_runtime::{Bundle, Labeler, LabelerOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # const BUNDLE: &[u8] = include_bytes!("../tests/data/tiny.kdh");
//! let bundle = Bundle::parse(BUNDLE)?; // or BundleFile::open(path)?.verify()?
//! // A device says whose bundles it takes instead: `LabelerOptions::new().trust(Trust::parse(include_str!("maker.trust"))?)`.
//! let labeler = Labeler::from_bundle(&bundle, &LabelerOptions::new().allow_unsigned())?;
//! let mut scratch = labeler.scratch(); // one for each thread
//!
//! let text = "The cells divided. No vessel grew.";
//! let report = labeler.label(&mut scratch, text)?;
//! for label in report.positive() {
//!     let best = label.evidence[0];
//!     println!("{} {:.2}: {}", label.code, label.probability, &text[best.start as usize..best.end as usize]);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Labeler::label`] shows the model the first tokens of a text that has more than the model takes, and says so.
//! [`Labeler::document`] shows it all of a text of any length, which may come in pieces.
//!
//! # Texts are secrets
//!
//! A text may be a clinical note. No error, no `Debug` and no log of this crate holds any of it: a [`Report`] names byte
//! ranges. Token ids and logits of the last text stay in the [`Scratch`] until the next one, [`Scratch::zeroize`], or its
//! drop, which overwrites them. tract does not overwrite what it frees: on tract, token ids may stay in the heap.
//!
//! # Features
//!
//! - `tract` (default) reads ONNX graphs: lowers them to a program, or runs them. Without it a bundle must hold a stored
//!   program.
//! - `mmap` (default) maps a bundle's file instead of reading it.
//! - `capi`: the C ABI that `include/kdh.h` declares.
//! - `eval`: metrics over labelled data, the reader of such data, and timing.
//! - `cli` (default): the `kdh` program.
//!
//! # What a bundle can do to its host
//!
//! Every length in a bundle is bounded before it is used and every byte is checked against its digest. A graph whose
//! digest is right may still have been made by someone who means harm. What a program may take for a text is bounded
//! ([`engine::Limits`]), of a graph that is given to tract by an estimate. So a labeler takes no bundle unless a key that [`Trust`] names has signed it, or the caller's code says
//! [`allow_unsigned`](LabelerOptions::allow_unsigned).

/// The README's Rust compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

#[cfg(feature = "eval")]
pub mod atomic_file;
pub mod audit;
#[cfg(feature = "eval")]
pub mod benchmark;
#[cfg(feature = "capi")]
pub mod capi;
#[cfg(feature = "eval")]
pub mod dataset;
mod decision;
mod document;
pub mod engine;
#[cfg(feature = "eval")]
pub mod evaluation;
mod file;
#[cfg(feature = "eval")]
pub mod fitting;
mod kernels;
mod labeler;
mod list;
mod lock;
#[cfg(feature = "tract")]
pub mod lower;
#[cfg(feature = "mmap")]
mod map;
#[cfg(feature = "eval")]
pub mod metrics;
#[cfg(feature = "eval")]
pub mod output;
pub mod program;
mod report;
mod self_test;
pub mod store;
pub mod text;

pub use decision::{Abstention, OperatingPoint, OutOfDistributionScore};
pub use document::{Aggregation, DocumentOptions, DocumentReport, DocumentScratch, DocumentSession};
pub use engine::{EngineChoice, ScratchTooSmall};
pub use file::{BundleFile, OpenError};
pub use kdh_format::{self as format, Bundle, BundleError, Signer, Trust, TrustError, Untrusted};
pub use kernels::{Kernels, UnknownKernels};
#[cfg(feature = "tract")]
pub use labeler::lower_bundle;
pub use labeler::{BuildError, LabelError, Labeler, LabelerOptions, Overflow, Scratch};
pub use report::{Evidence, LabelReport, MAX_EVIDENCE, Report};
pub use self_test::{ARITHMETIC, SelfTest, SelfTestError};
