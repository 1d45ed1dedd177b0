//! The encoder's configuration, read from a Hugging Face `config.json`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Shape and constants of an encoder of the BERT family.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// Which member of the family; decides tensor names and position handling.
    pub architecture: Architecture,
    /// Width of a token state.
    pub hidden_size: i64,
    /// Number of transformer layers.
    pub layers: i64,
    /// Attention heads per layer; divides `hidden_size`.
    pub heads: i64,
    /// Width of the feed-forward layer.
    pub intermediate_size: i64,
    /// Rows of the word embedding.
    pub vocab_size: i64,
    /// Rows of the position embedding.
    pub max_positions: i64,
    /// Epsilon of every layer norm.
    pub layer_norm_eps: f64,
    /// Dropout on embeddings and on both residual branches, as the weights were pretrained with.
    pub hidden_dropout: f64,
    /// Dropout on attention probabilities, as the weights were pretrained with.
    pub attention_dropout: f64,
    /// Buckets of MPNet's relative attention bias; 0 elsewhere.
    pub relative_buckets: i64,
    /// The file as it was, so that what we save loads elsewhere.
    pub source: Value,
}

/// Members of the BERT family that differ in names and positions; the arithmetic is the same post-norm encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Devlin et al. 2019.
    Bert,
    /// Sanh et al. 2019: no token types.
    DistilBert,
    /// Song et al. 2020: relative attention bias, positions start at 2.
    MpNet,
}

impl Architecture {
    /// `model_type` of the configuration; also the prefix that task models put before tensor names.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Bert => "bert",
            Self::DistilBert => "distilbert",
            Self::MpNet => "mpnet",
        }
    }

    /// First row of the position table that a token uses.
    pub fn first_position(self) -> i64 {
        match self {
            Self::Bert | Self::DistilBert => 0,
            // MPNet inherits fairseq's convention: position = padding index (1) + 1 + index.
            Self::MpNet => 2,
        }
    }

    /// Id that fills a batch behind a short text; the mask hides it.
    pub fn pad_id(self) -> i64 {
        match self {
            Self::Bert | Self::DistilBert => 0,
            Self::MpNet => 1,
        }
    }
}

impl EncoderConfig {
    /// Reads `config.json` of a weights folder.
    ///
    /// # Errors
    /// When the file is missing, is not JSON, names another architecture or activation, or has sizes that do not fit.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let text = fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}: is this a weights folder?", path.display()))?;
        let source: Value = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))?;
        Self::parse(source).with_context(|| format!("in {}", path.display()))
    }

    /// Understands a configuration.
    ///
    /// # Errors
    /// As [`EncoderConfig::read`].
    pub fn parse(source: Value) -> Result<Self> {
        let architecture = match source.get("model_type").and_then(Value::as_str) {
            Some("bert") => Architecture::Bert,
            Some("distilbert") => Architecture::DistilBert,
            Some("mpnet") => Architecture::MpNet,
            other => bail!("model_type is {other:?}; bert, distilbert and mpnet are supported"),
        };
        let distil = architecture == Architecture::DistilBert;
        let key = |bert: &'static str, distilbert: &'static str| if distil { distilbert } else { bert };
        let integer = |name: &str| -> Result<i64> {
            let value = source.get(name).and_then(Value::as_i64).with_context(|| format!("{name} is missing"))?;
            ensure!((1..=1 << 20).contains(&value), "{name} is {value}, out of range");
            Ok(value)
        };
        let fraction = |name: &str, default: f64| source.get(name).and_then(Value::as_f64).unwrap_or(default);

        let activation = source.get(key("hidden_act", "activation")).and_then(Value::as_str).unwrap_or("gelu");
        ensure!(activation == "gelu", "activation {activation:?} is not supported, only exact \"gelu\"");
        let position_type = source.get("position_embedding_type").and_then(Value::as_str).unwrap_or("absolute");
        ensure!(position_type == "absolute", "position_embedding_type {position_type:?} is not supported");

        let config = Self {
            architecture,
            hidden_size: integer(key("hidden_size", "dim"))?,
            layers: integer(key("num_hidden_layers", "n_layers"))?,
            heads: integer(key("num_attention_heads", "n_heads"))?,
            intermediate_size: integer(key("intermediate_size", "hidden_dim"))?,
            vocab_size: integer("vocab_size")?,
            max_positions: integer("max_position_embeddings")?,
            layer_norm_eps: fraction("layer_norm_eps", 1e-12),
            hidden_dropout: fraction(key("hidden_dropout_prob", "dropout"), 0.1),
            attention_dropout: fraction(key("attention_probs_dropout_prob", "attention_dropout"), 0.1),
            relative_buckets: match architecture {
                Architecture::MpNet => integer("relative_attention_num_buckets").unwrap_or(32),
                Architecture::Bert | Architecture::DistilBert => 0,
            },
            source,
        };
        ensure!(
            config.hidden_size % config.heads == 0,
            "hidden_size {} is not a multiple of {} heads",
            config.hidden_size,
            config.heads
        );
        Ok(config)
    }

    /// Longest input, in tokens, that the position table allows.
    pub fn longest_input(&self) -> i64 {
        self.max_positions - self.architecture.first_position()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bert() -> Value {
        json!({"model_type": "bert", "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3,
               "intermediate_size": 48, "vocab_size": 99, "max_position_embeddings": 40})
    }

    #[test]
    fn reads_each_architecture() {
        let config = EncoderConfig::parse(bert()).unwrap();
        assert_eq!((config.hidden_size, config.heads, config.longest_input()), (12, 3, 40));

        let distil = EncoderConfig::parse(json!({"model_type": "distilbert", "dim": 8, "n_layers": 1, "n_heads": 2,
            "hidden_dim": 16, "vocab_size": 9, "max_position_embeddings": 20, "dropout": 0.2}))
        .unwrap();
        assert_eq!((distil.hidden_size, distil.intermediate_size, distil.hidden_dropout), (8, 16, 0.2));

        let mut mpnet = bert();
        mpnet["model_type"] = "mpnet".into();
        assert_eq!(EncoderConfig::parse(mpnet).unwrap().longest_input(), 38);
    }

    #[test]
    fn refuses_what_it_cannot_run() {
        let refused = |field: &str, value: Value| {
            let mut source = bert();
            source[field] = value;
            format!("{:#}", EncoderConfig::parse(source).unwrap_err())
        };
        assert!(refused("model_type", "gpt2".into()).contains("supported"));
        assert!(refused("hidden_act", "relu".into()).contains("relu"));
        assert!(refused("num_attention_heads", 5.into()).contains("multiple"));
        assert!(refused("vocab_size", (-1).into()).contains("vocab_size"));
        assert!(refused("hidden_size", Value::Null).contains("missing"));
    }
}
