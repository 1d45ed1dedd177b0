//! One form of encoder for the three architectures, so that the graph is written once.
//!
//! BERT, DistilBERT and MPNet are the same computation: word embedding plus position embedding, layer normalisation,
//! then layers of multi-head attention and a feed-forward network, each followed by a residual and a layer
//! normalisation (Vaswani et al. 2017, section 3, post-norm). What differs is folded away when the weights are read:
//!
//! - BERT's token type row 0 is added to every position row, because an input has one segment;
//! - MPNet's positions begin at row 2, so the first two rows are dropped;
//! - the attention scale `1/sqrt(head size)` is multiplied into the query weights and bias;
//! - query, key and value are one linear layer of three times the width;
//! - MPNet's relative attention bias is laid out by the distance `j - i` instead of by bucket;
//! - positions beyond the student's longest input are dropped.

use std::fmt;

use kdh_format::student::Head;

use crate::config::{Architecture, EncoderConfig, MPNET_FIRST_POSITION};
use crate::weights::{TensorError, Weights};

/// A matrix of `f32`, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub columns: usize,
    /// `rows * columns` values.
    pub values: Vec<f32>,
}

/// A linear layer `y = x W^T + b`.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// `[outputs, inputs]`.
    pub weight: Matrix,
    /// `[outputs]`.
    pub bias: Vec<f32>,
}

/// A layer normalisation over the hidden size.
#[derive(Clone, Debug, PartialEq)]
pub struct Norm {
    /// `[hidden_size]`.
    pub weight: Vec<f32>,
    /// `[hidden_size]`.
    pub bias: Vec<f32>,
}

/// One transformer layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Query (scaled by `1/sqrt(head size)`), key and value: `[3 * hidden_size, hidden_size]`.
    pub query_key_value: Linear,
    /// `[hidden_size, hidden_size]`.
    pub attention_output: Linear,
    /// After the attention's residual.
    pub attention_norm: Norm,
    /// `[intermediate_size, hidden_size]`, followed by the exact GELU.
    pub intermediate: Linear,
    /// `[hidden_size, intermediate_size]`.
    pub output: Linear,
    /// After the feed-forward network's residual.
    pub output_norm: Norm,
}

/// A post-norm transformer encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoder {
    /// Attention heads.
    pub heads: usize,
    /// Added to the variance in every layer normalisation.
    pub layer_norm_epsilon: f32,
    /// `[vocabulary, hidden_size]`.
    pub words: Matrix,
    /// `[positions, hidden_size]`, the first row for the first token.
    pub positions: Matrix,
    /// After the sum of the embeddings.
    pub embedding_norm: Norm,
    /// The layers, first to last.
    pub layers: Vec<Layer>,
    /// MPNet: `[heads, 2 * positions - 1]`, added to the attention score of query `i` and key `j` from column
    /// `j - i + positions - 1`.
    pub relative_bias: Option<Matrix>,
}

/// The head's weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Classifier {
    /// `[labels, hidden_size]`.
    pub linear: Linear,
    /// `[labels]`; only sentence evidence has it.
    pub document_bias: Option<Vec<f32>>,
}

impl Encoder {
    /// Width of a token state.
    pub fn hidden_size(&self) -> usize {
        self.words.columns
    }

    /// Reads the encoder's tensors, with or without the architecture's prefix.
    ///
    /// Word embeddings beyond the `vocabulary` tokens (padding to a round number) are dropped.
    ///
    /// # Errors
    /// When a tensor is missing, has another shape than `config` says or is not finite; when the file holds fewer word
    /// embeddings than the vocabulary has tokens, or more layers than `config` says.
    pub fn read(config: &EncoderConfig, weights: &Weights<'_>, vocabulary: usize) -> Result<Self, WeightError> {
        let names = Names::of(config.architecture);
        let (prefix, hidden) = (names.prefix_in(weights), config.hidden_size);
        let name = |suffix: &str| format!("{prefix}{suffix}");

        let (rows, mut words) = weights.table(&name("embeddings.word_embeddings.weight"), hidden)?;
        if rows < vocabulary {
            return Err(WeightError::Vocabulary { tokens: vocabulary, rows });
        }
        words.truncate(vocabulary * hidden);
        if weights.contains(&name(&names.layer(config.layers, names.output_norm, "weight"))) {
            return Err(WeightError::MoreLayers(config.layers));
        }

        let layers = (0..config.layers)
            .map(|index| Layer::read(config, weights, &names, |suffix, part| name(&names.layer(index, suffix, part))))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            heads: config.heads,
            layer_norm_epsilon: config.layer_norm_epsilon,
            words: Matrix { rows: vocabulary, columns: hidden, values: words },
            positions: read_positions(config, weights, &name)?,
            embedding_norm: Norm::read(weights, |part| name(&format!("embeddings.LayerNorm.{part}")), hidden)?,
            layers,
            relative_bias: match config.architecture {
                Architecture::MpNet => Some(read_relative_bias(config, weights, &name)?),
                _ => None,
            },
        })
    }
}

impl Classifier {
    /// Reads `classifier.weight`, `classifier.bias` and, for sentence evidence, `document_bias`.
    ///
    /// # Errors
    /// When a tensor is missing, has another shape or is not finite.
    pub fn read(weights: &Weights<'_>, head: Head, labels: usize, hidden_size: usize) -> Result<Self, WeightError> {
        let linear = Linear::read(weights, |part| format!("classifier.{part}"), labels, hidden_size)?;
        let document_bias = match head {
            Head::SentenceEvidence => Some(weights.tensor("document_bias", &[labels])?),
            Head::Mean => None,
            _ => return Err(WeightError::Head),
        };
        Ok(Self { linear, document_bias })
    }
}

/// Why an encoder's or a head's weights could not be read.
#[derive(Debug)]
#[non_exhaustive]
pub enum WeightError {
    /// A tensor could not be read.
    Tensor(TensorError),
    /// There are fewer word embeddings than tokens.
    Vocabulary {
        /// Tokens in `vocab.txt`.
        tokens: usize,
        /// Rows of the table of word embeddings.
        rows: usize,
    },
    /// The file holds more layers than the configuration's number.
    MoreLayers(usize),
    /// The card's head is one that this exporter does not write.
    Head,
}

impl From<TensorError> for WeightError {
    fn from(error: TensorError) -> Self {
        Self::Tensor(error)
    }
}

impl fmt::Display for WeightError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensor(error) => error.fmt(f),
            Self::Vocabulary { tokens, rows } => {
                write!(f, "vocab.txt has {tokens} tokens, the weights only {rows} word embeddings")
            }
            Self::MoreLayers(layers) => {
                write!(f, "the configuration says {layers} layers, the weights hold more; give the right config.json")
            }
            Self::Head => f.write_str("the card's head is not known to this version of the exporter"),
        }
    }
}

impl std::error::Error for WeightError {}

/// What one architecture calls its tensors.
struct Names {
    prefix: &'static str,
    layer: &'static str,
    query: &'static str,
    key: &'static str,
    value: &'static str,
    attention_output: &'static str,
    attention_norm: &'static str,
    intermediate: &'static str,
    output: &'static str,
    output_norm: &'static str,
}

impl Names {
    fn of(architecture: Architecture) -> Self {
        match architecture {
            Architecture::Bert => Self {
                prefix: "bert.",
                layer: "encoder.layer",
                query: "attention.self.query",
                key: "attention.self.key",
                value: "attention.self.value",
                attention_output: "attention.output.dense",
                attention_norm: "attention.output.LayerNorm",
                intermediate: "intermediate.dense",
                output: "output.dense",
                output_norm: "output.LayerNorm",
            },
            Architecture::DistilBert => Self {
                prefix: "distilbert.",
                layer: "transformer.layer",
                query: "attention.q_lin",
                key: "attention.k_lin",
                value: "attention.v_lin",
                attention_output: "attention.out_lin",
                attention_norm: "sa_layer_norm",
                intermediate: "ffn.lin1",
                output: "ffn.lin2",
                output_norm: "output_layer_norm",
            },
            Architecture::MpNet => Self {
                prefix: "mpnet.",
                layer: "encoder.layer",
                query: "attention.attn.q",
                key: "attention.attn.k",
                value: "attention.attn.v",
                attention_output: "attention.attn.o",
                attention_norm: "attention.LayerNorm",
                intermediate: "intermediate.dense",
                output: "output.dense",
                output_norm: "output.LayerNorm",
            },
        }
    }

    /// The prefix, if the file's names have it.
    fn prefix_in(&self, weights: &Weights<'_>) -> &'static str {
        let prefixed = weights.contains(&format!("{}embeddings.word_embeddings.weight", self.prefix));
        if prefixed { self.prefix } else { "" }
    }

    fn layer(&self, index: usize, suffix: &str, part: &str) -> String {
        format!("{}.{index}.{suffix}.{part}", self.layer)
    }
}

impl Layer {
    fn read(
        config: &EncoderConfig,
        weights: &Weights<'_>,
        names: &Names,
        name: impl Fn(&str, &str) -> String,
    ) -> Result<Self, WeightError> {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let linear = |suffix, outputs, inputs| Linear::read(weights, |part: &str| name(suffix, part), outputs, inputs);
        let norm = |suffix| Norm::read(weights, |part: &str| name(suffix, part), hidden);

        let mut query = linear(names.query, hidden, hidden)?;
        let scale = ((hidden / config.heads) as f32).sqrt().recip();
        query.weight.values.iter_mut().chain(&mut query.bias).for_each(|value| *value *= scale);
        let (key, value) = (linear(names.key, hidden, hidden)?, linear(names.value, hidden, hidden)?);
        Ok(Self {
            query_key_value: Linear {
                weight: Matrix {
                    rows: 3 * hidden,
                    columns: hidden,
                    values: [query.weight.values, key.weight.values, value.weight.values].concat(),
                },
                bias: [query.bias, key.bias, value.bias].concat(),
            },
            attention_output: linear(names.attention_output, hidden, hidden)?,
            attention_norm: norm(names.attention_norm)?,
            intermediate: linear(names.intermediate, intermediate, hidden)?,
            output: linear(names.output, hidden, intermediate)?,
            output_norm: norm(names.output_norm)?,
        })
    }
}

impl Linear {
    fn read(
        weights: &Weights<'_>,
        name: impl Fn(&str) -> String,
        outputs: usize,
        inputs: usize,
    ) -> Result<Self, TensorError> {
        let values = weights.tensor(&name("weight"), &[outputs, inputs])?;
        let weight = Matrix { rows: outputs, columns: inputs, values };
        Ok(Self { weight, bias: weights.tensor(&name("bias"), &[outputs])? })
    }
}

impl Norm {
    fn read(weights: &Weights<'_>, name: impl Fn(&str) -> String, size: usize) -> Result<Self, TensorError> {
        Ok(Self { weight: weights.tensor(&name("weight"), &[size])?, bias: weights.tensor(&name("bias"), &[size])? })
    }
}

fn read_positions(
    config: &EncoderConfig,
    weights: &Weights<'_>,
    name: &impl Fn(&str) -> String,
) -> Result<Matrix, TensorError> {
    let hidden = config.hidden_size;
    let mut values = weights.tensor(&name("embeddings.position_embeddings.weight"), &[config.position_rows, hidden])?;
    match config.architecture {
        Architecture::Bert => {
            let types =
                weights.tensor(&name("embeddings.token_type_embeddings.weight"), &[config.type_rows, hidden])?;
            for row in values.chunks_exact_mut(hidden) {
                row.iter_mut().zip(&types).for_each(|(position, first_type)| *position += first_type);
            }
        }
        Architecture::DistilBert => {}
        Architecture::MpNet => drop(values.drain(..MPNET_FIRST_POSITION * hidden)),
    }
    values.truncate(config.max_tokens * hidden);
    Ok(Matrix { rows: config.max_tokens, columns: hidden, values })
}

fn read_relative_bias(
    config: &EncoderConfig,
    weights: &Weights<'_>,
    name: &impl Fn(&str) -> String,
) -> Result<Matrix, TensorError> {
    let (buckets, heads) = (config.relative_buckets, config.heads);
    let by_bucket = weights.tensor(&name("encoder.relative_attention_bias.weight"), &[buckets, heads])?;
    let last = config.max_tokens as i64 - 1;
    let values = (0..heads)
        .flat_map(|head| (-last..=last).map(move |distance| relative_bucket(distance, buckets) * heads + head))
        .map(|index| by_bucket[index])
        .collect();
    Ok(Matrix { rows: heads, columns: 2 * config.max_tokens - 1, values })
}

/// MPNet's bucket of the distance `j - i`: T5's bidirectional buckets (Raffel et al. 2020, section 2.1) with a maximum
/// distance of 128. Half of the buckets serve each direction; half of those hold one distance each, the others grow
/// logarithmically.
fn relative_bucket(distance: i64, buckets: usize) -> usize {
    const MAX_DISTANCE: f64 = 128.0;
    let half = buckets / 2;
    // Keys after the query have the upper half.
    let first = if distance > 0 { half } else { 0 };
    let distance = distance.unsigned_abs() as usize;
    let exact = half / 2;
    if distance < exact {
        return first + distance;
    }
    // In f32 like the training framework: the bounds of the buckets fall on powers of two, where rounding decides.
    let steps = (half - exact) as f32;
    let log = (distance as f32 / exact as f32).ln() / (MAX_DISTANCE / exact as f64).ln() as f32 * steps;
    first + (exact + log as usize).min(half - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_buckets_are_those_of_transformers() {
        // First distance of each bucket from 8 on, as `MPNetEncoder.relative_position_bucket` gives them.
        const STARTS: [i64; 8] = [8, 12, 16, 23, 32, 46, 64, 91];
        for distance in 0..512 {
            let below = STARTS.iter().filter(|&&start| start <= distance).count();
            let expected = if distance < 8 { distance as usize } else { 7 + below };
            assert_eq!(relative_bucket(-distance, 32), expected, "{distance}");
            assert_eq!(relative_bucket(distance, 32), expected + if distance > 0 { 16 } else { 0 }, "{distance}");
        }
    }
}
