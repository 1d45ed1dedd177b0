//! An encoder's `config.json`, for the three architectures.

use std::fmt;

use serde_json::Value;

/// Largest value of any size in a configuration; keeps products of two sizes far from overflow.
const MAX_SIZE: u64 = 1 << 20;

/// A BERT-family architecture; they differ in tensor names, positions and the relative attention bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Architecture {
    /// BERT (Devlin et al. 2019): `model_type` `bert`.
    Bert,
    /// DistilBERT (Sanh et al. 2019): `model_type` `distilbert`.
    DistilBert,
    /// MPNet (Song et al. 2020): `model_type` `mpnet`.
    MpNet,
}

/// Sizes of an encoder, under one set of names.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct EncoderConfig {
    /// Which family's tensor names and positions.
    pub architecture: Architecture,
    /// Width of a token state.
    pub hidden_size: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Attention heads; divides `hidden_size`.
    pub heads: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Rows of the position table in the file.
    pub position_rows: usize,
    /// Longest input, in tokens: what the position table serves, or fewer.
    pub max_tokens: usize,
    /// Rows of the token type table; only BERT has one.
    pub type_rows: usize,
    /// Added to the variance in every layer normalisation.
    pub layer_norm_epsilon: f32,
    /// Buckets of MPNet's relative attention bias.
    pub relative_buckets: usize,
}

/// MPNet's positions begin after its padding id, which the architecture fixes at 1.
pub(crate) const MPNET_FIRST_POSITION: usize = 2;

impl EncoderConfig {
    /// Reads a Hugging Face `config.json`.
    ///
    /// # Errors
    /// When the architecture, the activation or the kind of position embedding is not one of those that the exporter
    /// writes, or when a size is missing, zero or absurd.
    pub fn from_json(config: &Value) -> Result<Self, ConfigError> {
        let architecture = match text(config, "model_type")? {
            "bert" => Architecture::Bert,
            "distilbert" => Architecture::DistilBert,
            "mpnet" => Architecture::MpNet,
            other => return Err(ConfigError::Architecture(other.to_owned())),
        };
        let distil = architecture == Architecture::DistilBert;
        let activation = text(config, if distil { "activation" } else { "hidden_act" })?;
        if activation != "gelu" {
            return Err(ConfigError::Activation(activation.to_owned()));
        }
        if let Some(kind) = config.get("position_embedding_type").and_then(Value::as_str)
            && kind != "absolute"
        {
            return Err(ConfigError::PositionEmbedding(kind.to_owned()));
        }
        let named = |general: &'static str, distil_bert: &'static str| if distil { distil_bert } else { general };
        let hidden_size = size(config, named("hidden_size", "dim"))?;
        let heads = size(config, named("num_attention_heads", "n_heads"))?;
        if hidden_size % heads != 0 {
            return Err(ConfigError::Heads { hidden_size, heads });
        }
        let position_rows = size(config, "max_position_embeddings")?;
        let first_position = if architecture == Architecture::MpNet { MPNET_FIRST_POSITION } else { 0 };
        let max_tokens = position_rows.saturating_sub(first_position);
        if max_tokens == 0 {
            return Err(ConfigError::Size("max_position_embeddings"));
        }
        Ok(Self {
            architecture,
            hidden_size,
            layers: size(config, named("num_hidden_layers", "n_layers"))?,
            heads,
            intermediate_size: size(config, named("intermediate_size", "hidden_dim"))?,
            position_rows,
            max_tokens,
            type_rows: match architecture {
                Architecture::Bert => size_or(config, "type_vocab_size", 2)?,
                _ => 0,
            },
            layer_norm_epsilon: epsilon(config)?,
            relative_buckets: match architecture {
                Architecture::MpNet => relative_buckets(config)?,
                _ => 0,
            },
        })
    }
}

/// Why a configuration cannot be exported.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// `model_type` is not one that the exporter writes.
    Architecture(String),
    /// The activation is not the exact GELU.
    Activation(String),
    /// The position embedding is not a table of absolute positions.
    PositionEmbedding(String),
    /// A field is missing or not text.
    Text(&'static str),
    /// A size is missing, zero or larger than 2^20.
    Size(&'static str),
    /// MPNet's relative attention has fewer than 4 buckets, or an odd number.
    RelativeBuckets(usize),
    /// `layer_norm_eps` is not a small positive number.
    Epsilon,
    /// The hidden size is not a multiple of the number of heads.
    Heads {
        /// The hidden size.
        hidden_size: usize,
        /// The number of heads.
        heads: usize,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Architecture(name) => {
                write!(f, "the architecture `{name}` cannot be exported; use bert, distilbert or mpnet")
            }
            Self::Activation(name) => {
                write!(f, "the activation `{name}` cannot be exported; use `gelu` (the exact one, with erf)")
            }
            Self::PositionEmbedding(kind) => {
                write!(f, "the position embedding `{kind}` cannot be exported; use `absolute`")
            }
            Self::Text(field) => write!(f, "`{field}` is missing or not text"),
            Self::Size(field) => write!(f, "`{field}` is missing or not a whole number from 1 to {MAX_SIZE}"),
            Self::RelativeBuckets(buckets) => {
                write!(f, "`relative_attention_num_buckets` is {buckets}; it must be even and at least 4")
            }
            Self::Epsilon => f.write_str("`layer_norm_eps` is not a number above 0 and below 1"),
            Self::Heads { hidden_size, heads } => {
                write!(f, "the hidden size {hidden_size} is not a multiple of the {heads} attention heads")
            }
        }
    }
}

impl std::error::Error for ConfigError {}

fn text<'a>(config: &'a Value, field: &'static str) -> Result<&'a str, ConfigError> {
    config.get(field).and_then(Value::as_str).ok_or(ConfigError::Text(field))
}

fn size(config: &Value, field: &'static str) -> Result<usize, ConfigError> {
    let value = config.get(field).and_then(Value::as_u64).filter(|value| (1..=MAX_SIZE).contains(value));
    value.and_then(|value| usize::try_from(value).ok()).ok_or(ConfigError::Size(field))
}

fn size_or(config: &Value, field: &'static str, default: usize) -> Result<usize, ConfigError> {
    if config.get(field).is_none() { Ok(default) } else { size(config, field) }
}

fn relative_buckets(config: &Value) -> Result<usize, ConfigError> {
    let buckets = size_or(config, "relative_attention_num_buckets", 32)?;
    // Two directions, each with a bucket for exact and one for logarithmic distances.
    if buckets < 4 || buckets % 2 != 0 { Err(ConfigError::RelativeBuckets(buckets)) } else { Ok(buckets) }
}

fn epsilon(config: &Value) -> Result<f32, ConfigError> {
    // The default of all three architectures; DistilBERT's is fixed and not in its configuration.
    let value = match config.get("layer_norm_eps") {
        None => 1e-12,
        Some(value) => value.as_f64().ok_or(ConfigError::Epsilon)?,
    };
    if value > 0.0 && value < 1.0 { Ok(value as f32) } else { Err(ConfigError::Epsilon) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bert() -> Value {
        json!({
            "model_type": "bert", "hidden_act": "gelu", "hidden_size": 8, "num_attention_heads": 2,
            "num_hidden_layers": 1, "intermediate_size": 16, "max_position_embeddings": 10, "type_vocab_size": 2,
            "layer_norm_eps": 1e-12
        })
    }

    fn changed(field: &str, value: Value) -> Result<EncoderConfig, ConfigError> {
        let mut config = bert();
        config[field] = value;
        EncoderConfig::from_json(&config)
    }

    #[test]
    fn reads_the_sizes() {
        let config = EncoderConfig::from_json(&bert()).unwrap();
        assert_eq!((config.hidden_size, config.heads, config.max_tokens, config.type_rows), (8, 2, 10, 2));
    }

    #[test]
    fn mpnet_loses_two_positions() {
        assert_eq!(changed("model_type", json!("mpnet")).unwrap().max_tokens, 8);
    }

    #[test]
    fn refuses_by_name() {
        assert_eq!(changed("model_type", json!("t5")), Err(ConfigError::Architecture("t5".into())));
        assert_eq!(changed("hidden_act", json!("gelu_new")), Err(ConfigError::Activation("gelu_new".into())));
        assert_eq!(changed("hidden_act", json!(null)), Err(ConfigError::Text("hidden_act")));
        assert_eq!(
            changed("position_embedding_type", json!("relative_key")),
            Err(ConfigError::PositionEmbedding("relative_key".into()))
        );
        assert_eq!(changed("num_attention_heads", json!(3)), Err(ConfigError::Heads { hidden_size: 8, heads: 3 }));
    }

    #[test]
    fn refuses_absurd_sizes() {
        for bad in [json!(0), json!(-1), json!(1.5), json!(u64::MAX), json!("8"), json!(null)] {
            assert_eq!(changed("hidden_size", bad), Err(ConfigError::Size("hidden_size")));
        }
        let mut mpnet = bert();
        mpnet["model_type"] = json!("mpnet");
        mpnet["relative_attention_num_buckets"] = json!(1);
        assert_eq!(EncoderConfig::from_json(&mpnet), Err(ConfigError::RelativeBuckets(1)));
        assert_eq!(changed("layer_norm_eps", json!(0)), Err(ConfigError::Epsilon));
    }
}
