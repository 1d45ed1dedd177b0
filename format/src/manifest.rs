use core::fmt;

use heapless::Vec;
use serde::{Deserialize, Serialize};

use crate::head::Head;

/// Most labels of a model.
pub const MAX_LABELS: usize = 64;
/// Largest `max_tokens` of a manifest.
pub const MAX_TOKENS: u32 = 4096;
/// Largest `max_sentences` of a manifest.
pub const MAX_SENTENCES: u32 = 256;
/// Most figures of a manifest.
pub const MAX_METRICS: usize = 64;

/// Version of the manifest's layout. It counts on its own: the container can stay while the manifest grows.
const VERSION: u32 = 1;
/// Three tokens are `[CLS]`, one token of text, `[SEP]`.
const MIN_TOKENS: u32 = 3;
/// Longest name, version, code or token, in bytes.
const MAX_SHORT: usize = 128;
/// Longest text for people, in bytes.
const MAX_PROSE: usize = 4096;

/// What the box must know of a model, and what people must know of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest<'a> {
    /// Short name of the model.
    pub name: &'a str,
    /// Version of the model, as its maker counts.
    pub model_version: &'a str,
    /// How document logits come from token states.
    pub head: Head,
    /// Labels, in the order of the logits.
    #[serde(borrow)]
    pub labels: Vec<LabelSpec<'a>, MAX_LABELS>,
    /// Longest input, in tokens, special tokens included.
    pub max_tokens: u32,
    /// Most sentences of one input; text beyond the last joins the last sentence.
    pub max_sentences: u32,
    /// How text becomes tokens.
    #[serde(borrow)]
    pub tokenizer: TokenizerSpec<'a>,
    /// Where the weights come from.
    #[serde(borrow)]
    pub provenance: Provenance<'a>,
    /// What the model is for.
    #[serde(borrow)]
    pub card: ModelCard<'a>,
    /// Measured figures.
    #[serde(borrow)]
    pub metrics: Vec<Metric<'a>, MAX_METRICS>,
}

/// One label.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelSpec<'a> {
    /// Short code, unique in the model.
    pub code: &'a str,
    /// Name in words.
    pub name: &'a str,
    /// The label is given when its probability is at least this, between 0 and 1.
    pub threshold: f32,
}

/// Options of the WordPiece tokeniser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerSpec<'a> {
    /// Lower-case the text and strip accents.
    pub lowercase: bool,
    /// Token that opens every input: `[CLS]`, or `<s>` for MPNet.
    pub cls: &'a str,
    /// Token that closes every input: `[SEP]`, or `</s>` for MPNet.
    pub sep: &'a str,
    /// Token for a word that the vocabulary cannot spell: `[UNK]`.
    pub unk: &'a str,
}

/// Where a model comes from, for people. A text that is not known is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance<'a> {
    /// Training data: name, version, documents.
    pub data: &'a str,
    /// Licence of the training data.
    pub data_licence: &'a str,
    /// Pretrained weights that training started from.
    pub weights: &'a str,
    /// Licence of those weights.
    pub weights_licence: &'a str,
    /// The command that trained the model.
    pub command: &'a str,
    /// Commit of the trainer.
    pub commit: &'a str,
    /// Random seed.
    pub seed: u64,
}

/// The model card, for people (Mitchell et al. 2019, "Model Cards for Model Reporting"). A text may be empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelCard<'a> {
    /// What the model is.
    pub description: &'a str,
    /// What it is meant to be used for.
    pub intended_use: &'a str,
    /// What it must not be used for, and where it is known to fail.
    pub limitations: &'a str,
    /// Licence of the model.
    pub licence: &'a str,
}

/// One measured figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric<'a> {
    /// Name in snake case, with what it was measured on: `dev_micro_f1`.
    pub name: &'a str,
    /// The figure, finite.
    pub value: f64,
}

impl<'a> Manifest<'a> {
    /// Reads and checks a manifest section. Allocates nothing; texts are borrowed from `bytes`.
    ///
    /// # Errors
    ///
    /// The first [`ManifestError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ManifestError> {
        let (version, rest) = postcard::take_from_bytes(bytes).map_err(|_| ManifestError::Malformed)?;
        if version != VERSION {
            return Err(ManifestError::UnsupportedVersion { found: version });
        }
        let (manifest, rest) = postcard::take_from_bytes::<Self>(rest).map_err(|_| ManifestError::Malformed)?;
        if !rest.is_empty() {
            return Err(ManifestError::TrailingBytes);
        }
        manifest.check()?;
        Ok(manifest)
    }

    /// Checks what a reader would refuse, so that a writer need not find out by reading.
    ///
    /// # Errors
    ///
    /// The first [`ManifestError`].
    pub fn check(&self) -> Result<(), ManifestError> {
        check_short("name", self.name)?;
        check_short("model_version", self.model_version)?;
        check_labels(&self.labels)?;
        if !(MIN_TOKENS..=MAX_TOKENS).contains(&self.max_tokens) {
            return Err(ManifestError::MaxTokens { found: self.max_tokens });
        }
        if !(1..=MAX_SENTENCES).contains(&self.max_sentences) {
            return Err(ManifestError::MaxSentences { found: self.max_sentences });
        }
        check_short("tokenizer.cls", self.tokenizer.cls)?;
        check_short("tokenizer.sep", self.tokenizer.sep)?;
        check_short("tokenizer.unk", self.tokenizer.unk)?;
        check_prose("provenance.data", self.provenance.data)?;
        check_prose("provenance.data_licence", self.provenance.data_licence)?;
        check_prose("provenance.weights", self.provenance.weights)?;
        check_prose("provenance.weights_licence", self.provenance.weights_licence)?;
        check_prose("provenance.command", self.provenance.command)?;
        check_prose("provenance.commit", self.provenance.commit)?;
        check_prose("card.description", self.card.description)?;
        check_prose("card.intended_use", self.card.intended_use)?;
        check_prose("card.limitations", self.card.limitations)?;
        check_prose("card.licence", self.card.licence)?;
        for (index, metric) in self.metrics.iter().enumerate() {
            check_short("metrics.name", metric.name)?;
            if !metric.value.is_finite() {
                return Err(ManifestError::Metric { index });
            }
        }
        Ok(())
    }

    /// The bytes of a manifest section.
    #[cfg(feature = "alloc")]
    pub(crate) fn to_vec(&self) -> Result<alloc::vec::Vec<u8>, ManifestError> {
        self.check()?;
        postcard::to_allocvec(&(VERSION, self)).map_err(|_| ManifestError::Malformed)
    }
}

/// A manifest cannot be read, or says what makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ManifestError {
    /// The manifest has another version.
    UnsupportedVersion {
        /// What it says.
        found: u32,
    },
    /// Not a manifest in postcard: cut off, not UTF-8, or more labels or figures than allowed.
    Malformed,
    /// Bytes follow the manifest.
    TrailingBytes,
    /// No label.
    NoLabels,
    /// Two labels have the same code.
    DuplicateCode {
        /// Position of the second, counted from 0.
        index: usize,
    },
    /// A threshold is not between 0 and 1.
    Threshold {
        /// Position of the label, counted from 0.
        index: usize,
    },
    /// `max_tokens` is not in 3..=[`MAX_TOKENS`].
    MaxTokens {
        /// What the manifest says.
        found: u32,
    },
    /// `max_sentences` is not in 1..=[`MAX_SENTENCES`].
    MaxSentences {
        /// What the manifest says.
        found: u32,
    },
    /// A text is empty where it may not be, too long, or has control characters.
    Text {
        /// Name of the field.
        field: &'static str,
    },
    /// A figure is not finite.
    Metric {
        /// Position of the figure, counted from 0.
        index: usize,
    },
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bundle's manifest ")?;
        match self {
            Self::UnsupportedVersion { found } => {
                write!(f, "has version {found}, this program reads version {VERSION}; update the program")
            }
            Self::Malformed => f.write_str("cannot be read; pack the bundle again"),
            Self::TrailingBytes => f.write_str("has bytes behind its end; pack the bundle again"),
            Self::NoLabels => f.write_str("has no label; give the model at least one"),
            Self::DuplicateCode { index } => {
                write!(f, "gives label {index} the code of an earlier one; codes must be unique")
            }
            Self::Threshold { index } => {
                write!(f, "gives label {index} a threshold that is not between 0 and 1")
            }
            Self::MaxTokens { found } => {
                write!(f, "allows {found} tokens; {MIN_TOKENS} to {MAX_TOKENS} are possible")
            }
            Self::MaxSentences { found } => {
                write!(f, "allows {found} sentences; 1 to {MAX_SENTENCES} are possible")
            }
            Self::Text { field } => write!(
                f,
                "has a {field} that is empty, too long (at most {MAX_SHORT} bytes for names, {MAX_PROSE} for prose) or \
                 has control characters"
            ),
            Self::Metric { index } => write!(f, "has a figure (number {index}) that is not finite"),
        }
    }
}

impl core::error::Error for ManifestError {}

fn check_labels(labels: &[LabelSpec<'_>]) -> Result<(), ManifestError> {
    if labels.is_empty() {
        return Err(ManifestError::NoLabels);
    }
    for (index, label) in labels.iter().enumerate() {
        check_short("labels.code", label.code)?;
        check_short("labels.name", label.name)?;
        if !(0.0..=1.0).contains(&label.threshold) {
            return Err(ManifestError::Threshold { index });
        }
        if labels[..index].iter().any(|earlier| earlier.code == label.code) {
            return Err(ManifestError::DuplicateCode { index });
        }
    }
    Ok(())
}

/// A name: one line, not empty. Control characters would reach terminals and displays.
fn check_short(field: &'static str, text: &str) -> Result<(), ManifestError> {
    if is_name(text) { Ok(()) } else { Err(ManifestError::Text { field }) }
}

/// Prose: may be empty and may have lines.
fn check_prose(field: &'static str, text: &str) -> Result<(), ManifestError> {
    if is_prose(text) { Ok(()) } else { Err(ManifestError::Text { field }) }
}

pub(crate) fn is_name(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= MAX_SHORT && !text.chars().any(char::is_control)
}

pub(crate) fn is_prose(text: &str) -> bool {
    text.len() <= MAX_PROSE && !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t')
}
