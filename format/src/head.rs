use serde::{Deserialize, Serialize};

/// How document logits come from token states.
///
/// Postcard writes the position of the variant, so variants keep their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Head {
    /// Mean token state of each sentence, one linear layer to sentence logits, and the document logit is the
    /// log-sum-exp of the sentence logits plus a bias.
    SentenceEvidence,
    /// Mean token state of the text (special tokens left out), one linear layer to document logits. Sentence logits
    /// are what the same layer says of each sentence's mean state; they carry no training of their own.
    Mean,
}
