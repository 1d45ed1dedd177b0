//! The student folder's card: what the trainer hands to the exporter beside the weights.
//!
//! A student folder holds `config.json`, `model.safetensors` and `vocab.txt` as Hugging Face lays them out, and this
//! card as `kdh.json`. The encoder's tensors have the names of their architecture; the head adds
//! `classifier.weight` (`[labels, hidden_size]`), `classifier.bias` (`[labels]`) and, with sentence evidence,
//! `document_bias` (`[labels]`).

use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

pub use crate::head::Head;

/// Name of the card in a student folder.
pub const STUDENT_CARD_FILE: &str = "kdh.json";

/// Everything about a trained student that its weights do not say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudentCard {
    /// Version of this file's layout: 1.
    pub version: u32,
    /// Short name of the model, for people.
    pub name: String,
    /// How document logits come from token states.
    pub head: Head,
    /// Labels, in the order of the logits.
    pub labels: Vec<StudentLabel>,
    /// Longest input, in tokens, special tokens included.
    pub max_tokens: u32,
    /// Most sentences of one input; text beyond the last joins the last sentence.
    pub max_sentences: u32,
    /// How text becomes tokens.
    pub tokenizer: TokenizerCard,
    /// Where the weights come from.
    pub provenance: Provenance,
}

/// One label of a student.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudentLabel {
    /// Short code, as the data writes it.
    pub code: String,
    /// Name in words.
    pub name: String,
    /// The label is given when its probability is at least this, between 0 and 1.
    pub threshold: f32,
}

/// Options of the WordPiece tokeniser.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerCard {
    /// Lower-case the text and strip accents, as the uncased BERT vocabularies need.
    pub lowercase: bool,
    /// Token that opens every input: `[CLS]`, or `<s>` for MPNet.
    pub cls: String,
    /// Token that closes every input: `[SEP]`, or `</s>` for MPNet.
    pub sep: String,
    /// Token for a word that the vocabulary cannot spell: `[UNK]`.
    pub unk: String,
}

/// Where a student's weights come from; every field is for people, and copied into the bundle's manifest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Training data: name, version, documents.
    pub data: String,
    /// Licence of the training data.
    pub data_licence: String,
    /// Pretrained weights that training started from.
    pub weights: String,
    /// Licence of those weights.
    pub weights_licence: String,
    /// The command that trained the student.
    pub command: String,
    /// Commit of the trainer, if known.
    pub commit: String,
    /// Random seed.
    pub seed: u64,
    /// Measured figures, by name (`dev_micro_f1`, ...), as fractions.
    pub metrics: Vec<Metric>,
}

/// One measured figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// Name in snake case, with what it was measured on: `dev_micro_f1`.
    pub name: String,
    /// The figure.
    pub value: f64,
}
