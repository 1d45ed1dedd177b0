//! The encoder: BERT, DistilBERT and MPNet are one post-norm transformer with other names and positions.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use tch::{Device, IndexOp, Kind, Tensor};

use crate::config::{Architecture, EncoderConfig};

/// A BERT-family encoder (Devlin et al. 2019; Sanh et al. 2019; Song et al. 2020) that can be trained.
#[derive(Debug)]
pub struct Encoder {
    config: EncoderConfig,
    word: Tensor,
    position: Tensor,
    /// Row 0 is used for every token: a text has one segment.
    token_type: Option<Tensor>,
    norm: LayerNorm,
    relative_bias: Option<Tensor>,
    layers: Vec<Layer>,
}

/// How linear layers multiply; everything between them is f32 in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats throughout.
    F32,
    /// Weights and inputs of linear layers and of attention are cast to bfloat16; master weights stay f32.
    Bf16,
}

/// What one pass needs to know beside its input.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Arithmetic of the linear layers.
    pub precision: Precision,
    /// Dropout on embeddings and residual branches; 0 in evaluation.
    pub hidden_dropout: f64,
    /// Dropout on attention probabilities; 0 in evaluation.
    pub attention_dropout: f64,
}

impl Pass {
    /// A pass without dropout.
    pub fn evaluation(precision: Precision) -> Self {
        Self { precision, hidden_dropout: 0.0, attention_dropout: 0.0 }
    }
}

/// A trainable tensor with what the optimiser and the writer need to know of it.
#[derive(Debug)]
pub struct Parameter {
    /// Name in the architecture's own scheme, as Hugging Face saves it.
    pub name: String,
    /// The tensor; shares storage with the model.
    pub tensor: Tensor,
    /// 0 for embeddings, 1 for the first layer, and so on; the head is one above the last layer.
    pub depth: usize,
}

impl Encoder {
    /// Builds the encoder from named tensors, which it removes from the map.
    ///
    /// # Errors
    /// When a tensor is missing or its shape does not fit the configuration; the text names it.
    pub fn from_tensors(config: EncoderConfig, tensors: &mut Tensors) -> Result<Self> {
        let hidden = config.hidden_size;
        let names = Names(config.architecture);
        let token_type = match config.architecture {
            Architecture::Bert => {
                let rows = config.source.get("type_vocab_size").and_then(serde_json::Value::as_i64).unwrap_or(2);
                Some(tensors.take("embeddings.token_type_embeddings.weight", &[rows, hidden])?)
            }
            Architecture::DistilBert | Architecture::MpNet => None,
        };
        let relative_bias = match config.architecture {
            Architecture::MpNet => {
                Some(tensors.take("encoder.relative_attention_bias.weight", &[config.relative_buckets, config.heads])?)
            }
            Architecture::Bert | Architecture::DistilBert => None,
        };
        let layers = (0..config.layers)
            .map(|index| Layer::from_tensors(&config, names, index, tensors))
            .collect::<Result<_>>()?;
        Ok(Self {
            word: tensors.take("embeddings.word_embeddings.weight", &[config.vocab_size, hidden])?,
            position: tensors.take("embeddings.position_embeddings.weight", &[config.max_positions, hidden])?,
            token_type,
            norm: LayerNorm::from_tensors("embeddings.LayerNorm", hidden, config.layer_norm_eps, tensors)?,
            relative_bias,
            layers,
            config,
        })
    }

    /// The configuration that the encoder was built with.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// Token states of a batch.
    ///
    /// `ids` is int64 `[batch, tokens]`, `mask` is bool `[batch, tokens]` and true for real tokens. Returns f32
    /// `[batch, tokens, hidden_size]`.
    pub fn forward(&self, ids: &Tensor, mask: &Tensor, pass: Pass) -> Tensor {
        self.states(ids, mask, pass).pop().unwrap_or_else(|| Tensor::zeros([0], (Kind::Float, ids.device())))
    }

    /// As [`Encoder::forward`], for every level: the embeddings' states first, then each layer's.
    pub fn states(&self, ids: &Tensor, mask: &Tensor, pass: Pass) -> Vec<Tensor> {
        self.states_above(0, self.embed(ids, pass), mask, pass)
    }

    /// The levels from `level` up, given that level's states: 0 is the embeddings' level, 1 the first layer's.
    pub fn states_above(&self, level: usize, states: Tensor, mask: &Tensor, pass: Pass) -> Vec<Tensor> {
        let bias = self.attention_bias(mask, states.size()[1], pass.precision);
        let mut levels = vec![states];
        for layer in self.layers.iter().skip(level) {
            let next = layer.forward(&levels[levels.len() - 1], bias.as_ref(), pass);
            levels.push(next);
        }
        levels
    }

    /// States of one level alone, without gradients.
    pub(crate) fn level(&self, level: usize, ids: &Tensor, mask: &Tensor, precision: Precision) -> Tensor {
        tch::no_grad(|| {
            let pass = Pass::evaluation(precision);
            let first = self.embed(ids, pass);
            let bias = self.attention_bias(mask, first.size()[1], precision);
            self.layers.iter().take(level).fold(first, |states, layer| layer.forward(&states, bias.as_ref(), pass))
        })
    }

    fn embed(&self, ids: &Tensor, pass: Pass) -> Tensor {
        let tokens = ids.size()[1];
        let first = self.config.architecture.first_position();
        let mut sum = Tensor::embedding(&self.word, ids, -1, false, false) + self.position.i(first..first + tokens);
        if let Some(token_type) = &self.token_type {
            sum += token_type.i(0);
        }
        dropout(self.norm.forward(&sum), pass.hidden_dropout)
    }

    /// Queries, keys and values of a layer, counted from 0, for the states that it is given: each f32
    /// `[batch, tokens, hidden_size]`, heads side by side. Empty tensors when there is no such layer.
    pub fn queries_keys_values(&self, layer: usize, input: &Tensor, precision: Precision) -> [Tensor; 3] {
        match self.layers.get(layer) {
            None => Default::default(),
            Some(layer) => [&layer.query, &layer.key, &layer.value]
                .map(|linear| linear.forward(input, precision).to_kind(Kind::Float)),
        }
    }

    /// Every trainable tensor, in a fixed order.
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut all = Vec::new();
        let mut add = |name: &str, tensor: &Tensor, depth| {
            all.push(Parameter { name: name.to_owned(), tensor: tensor.shallow_clone(), depth });
        };
        add("embeddings.word_embeddings.weight", &self.word, 0);
        add("embeddings.position_embeddings.weight", &self.position, 0);
        if let Some(token_type) = &self.token_type {
            add("embeddings.token_type_embeddings.weight", token_type, 0);
        }
        add("embeddings.LayerNorm.weight", &self.norm.weight, 0);
        add("embeddings.LayerNorm.bias", &self.norm.bias, 0);
        if let Some(bias) = &self.relative_bias {
            add("encoder.relative_attention_bias.weight", bias, 0);
        }
        let names = Names(self.config.architecture);
        for (index, layer) in self.layers.iter().enumerate() {
            for (part, linear) in layer.linears() {
                let name = names.layer(index as i64, part);
                add(&format!("{name}.weight"), &linear.weight, index + 1);
                add(&format!("{name}.bias"), &linear.bias, index + 1);
            }
            for (part, norm) in [(Part::AttentionNorm, &layer.attention_norm), (Part::OutputNorm, &layer.output_norm)] {
                let name = names.layer(index as i64, part);
                add(&format!("{name}.weight"), &norm.weight, index + 1);
                add(&format!("{name}.bias"), &norm.bias, index + 1);
            }
        }
        all
    }

    /// What is added to attention scores: 0 or a large negative for padding, plus MPNet's relative bias. `None` where
    /// there is nothing to add, because attention without a mask is faster.
    fn attention_bias(&self, mask: &Tensor, tokens: i64, precision: Precision) -> Option<Tensor> {
        let kind = precision.kind();
        let padding = (!bool::try_from(mask.all()).unwrap_or(false)).then(|| {
            let hidden = mask.logical_not().to_kind(Kind::Float) * -1e9;
            hidden.unsqueeze(1).unsqueeze(1)
        });
        let relative = self.relative_bias.as_ref().map(|table| {
            let buckets = relative_buckets(tokens, self.config.relative_buckets).to_device(mask.device());
            Tensor::embedding(table, &buckets, -1, false, false).permute([2, 0, 1]).unsqueeze(0)
        });
        match (padding, relative) {
            (None, None) => None,
            (Some(one), None) | (None, Some(one)) => Some(one.to_kind(kind)),
            (Some(padding), Some(relative)) => Some((padding + relative).to_kind(kind)),
        }
    }
}

/// Tensors and their names, as a file holds them.
pub type NamedTensors = Vec<(String, Tensor)>;

/// Named tensors read from a file, taken out one by one.
#[derive(Debug)]
pub struct Tensors(HashMap<String, Tensor>);

impl Tensors {
    /// Collects named tensors as f32 on `device`. A prefix such as `bert.` is dropped, and the norms' old names `gamma`
    /// and `beta`, which the first BERT checkpoints have, become `weight` and `bias`.
    pub fn new(named: NamedTensors, architecture: Architecture, device: Device) -> Self {
        let prefix = format!("{}.", architecture.model_type());
        Self(
            named
                .into_iter()
                .filter(|(name, _)| !name.ends_with("position_ids"))
                .map(|(name, tensor)| {
                    let name = name.strip_prefix(&prefix).unwrap_or(&name);
                    let name = name.replace("LayerNorm.gamma", "LayerNorm.weight");
                    (name.replace("LayerNorm.beta", "LayerNorm.bias"), tensor.to_kind(Kind::Float).to_device(device))
                })
                .collect(),
        )
    }

    /// Whether a tensor is there.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Takes a tensor of a known shape, ready to train.
    ///
    /// # Errors
    /// When it is missing or has another shape.
    pub fn take(&mut self, name: &str, shape: &[i64]) -> Result<Tensor> {
        let tensor = self.0.remove(name).with_context(|| format!("the weights have no tensor {name}"))?;
        ensure!(
            tensor.size() == shape,
            "tensor {name} has shape {:?}, the configuration says {shape:?}",
            tensor.size()
        );
        Ok(tensor.set_requires_grad(true))
    }
}

/// A linear layer: `weight` is `[outputs, inputs]`.
#[derive(Debug)]
struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    fn from_tensors(name: &str, outputs: i64, inputs: i64, tensors: &mut Tensors) -> Result<Self> {
        Ok(Self {
            weight: tensors.take(&format!("{name}.weight"), &[outputs, inputs])?,
            bias: tensors.take(&format!("{name}.bias"), &[outputs])?,
        })
    }

    /// The result has the precision's kind.
    fn forward(&self, input: &Tensor, precision: Precision) -> Tensor {
        let kind = precision.kind();
        input.to_kind(kind).linear(&self.weight.to_kind(kind), Some(&self.bias.to_kind(kind)))
    }
}

#[derive(Debug)]
struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    fn from_tensors(name: &str, width: i64, eps: f64, tensors: &mut Tensors) -> Result<Self> {
        Ok(Self {
            weight: tensors.take(&format!("{name}.weight"), &[width])?,
            bias: tensors.take(&format!("{name}.bias"), &[width])?,
            eps,
        })
    }

    fn forward(&self, input: &Tensor) -> Tensor {
        input.layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), self.eps, false)
    }
}

#[derive(Debug)]
struct Layer {
    heads: i64,
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    output_norm: LayerNorm,
}

impl Layer {
    fn from_tensors(config: &EncoderConfig, names: Names, index: i64, tensors: &mut Tensors) -> Result<Self> {
        let (hidden, wide, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let mut linear =
            |part, outputs, inputs| Linear::from_tensors(&names.layer(index, part), outputs, inputs, tensors);
        Ok(Self {
            heads: config.heads,
            query: linear(Part::Query, hidden, hidden)?,
            key: linear(Part::Key, hidden, hidden)?,
            value: linear(Part::Value, hidden, hidden)?,
            attention_output: linear(Part::AttentionOutput, hidden, hidden)?,
            intermediate: linear(Part::Intermediate, wide, hidden)?,
            output: linear(Part::Output, hidden, wide)?,
            attention_norm: LayerNorm::from_tensors(&names.layer(index, Part::AttentionNorm), hidden, eps, tensors)?,
            output_norm: LayerNorm::from_tensors(&names.layer(index, Part::OutputNorm), hidden, eps, tensors)?,
        })
    }

    fn linears(&self) -> [(Part, &Linear); 6] {
        [
            (Part::Query, &self.query),
            (Part::Key, &self.key),
            (Part::Value, &self.value),
            (Part::AttentionOutput, &self.attention_output),
            (Part::Intermediate, &self.intermediate),
            (Part::Output, &self.output),
        ]
    }

    fn forward(&self, input: &Tensor, bias: Option<&Tensor>, pass: Pass) -> Tensor {
        let precision = pass.precision;
        let (batch, tokens, hidden) = (input.size()[0], input.size()[1], input.size()[2]);
        let split = |linear: &Linear| {
            linear.forward(input, precision).view([batch, tokens, self.heads, hidden / self.heads]).transpose(1, 2)
        };
        let context = Tensor::scaled_dot_product_attention(
            &split(&self.query),
            &split(&self.key),
            &split(&self.value),
            bias,
            pass.attention_dropout,
            false,
            None,
            false,
        );
        let context = context.transpose(1, 2).reshape([batch, tokens, hidden]);
        let attended = self.attention_output.forward(&context, precision).to_kind(Kind::Float);
        let attended = self.attention_norm.forward(&(input + dropout(attended, pass.hidden_dropout)));

        let wide = self.intermediate.forward(&attended, precision).gelu("none");
        let output = self.output.forward(&wide, precision).to_kind(Kind::Float);
        self.output_norm.forward(&(attended + dropout(output, pass.hidden_dropout)))
    }
}

impl Precision {
    /// The faster one on this machine: [`Precision::Bf16`] where its processor multiplies bfloat16 or CUDA is there.
    ///
    /// Elsewhere libtorch multiplies bfloat16 one by one, many times slower than f32.
    pub fn fastest() -> Self {
        #[cfg(target_arch = "x86_64")]
        let native = std::arch::is_x86_feature_detected!("avx512bf16");
        #[cfg(target_arch = "aarch64")]
        let native = std::arch::is_aarch64_feature_detected!("bf16");
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let native = false;
        if native || tch::Cuda::is_available() { Self::Bf16 } else { Self::F32 }
    }

    fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
        }
    }
}

/// Tensor names of one architecture.
#[derive(Clone, Copy)]
struct Names(Architecture);

#[derive(Clone, Copy)]
enum Part {
    Query,
    Key,
    Value,
    AttentionOutput,
    AttentionNorm,
    Intermediate,
    Output,
    OutputNorm,
}

impl Names {
    fn layer(self, index: i64, part: Part) -> String {
        let name = match (self.0, part) {
            (Architecture::Bert, Part::Query) => "attention.self.query",
            (Architecture::Bert, Part::Key) => "attention.self.key",
            (Architecture::Bert, Part::Value) => "attention.self.value",
            (Architecture::Bert, Part::AttentionOutput) => "attention.output.dense",
            (Architecture::Bert, Part::AttentionNorm) => "attention.output.LayerNorm",
            (Architecture::MpNet, Part::Query) => "attention.attn.q",
            (Architecture::MpNet, Part::Key) => "attention.attn.k",
            (Architecture::MpNet, Part::Value) => "attention.attn.v",
            (Architecture::MpNet, Part::AttentionOutput) => "attention.attn.o",
            (Architecture::MpNet, Part::AttentionNorm) => "attention.LayerNorm",
            (Architecture::Bert | Architecture::MpNet, Part::Intermediate) => "intermediate.dense",
            (Architecture::Bert | Architecture::MpNet, Part::Output) => "output.dense",
            (Architecture::Bert | Architecture::MpNet, Part::OutputNorm) => "output.LayerNorm",
            (Architecture::DistilBert, Part::Query) => "attention.q_lin",
            (Architecture::DistilBert, Part::Key) => "attention.k_lin",
            (Architecture::DistilBert, Part::Value) => "attention.v_lin",
            (Architecture::DistilBert, Part::AttentionOutput) => "attention.out_lin",
            (Architecture::DistilBert, Part::AttentionNorm) => "sa_layer_norm",
            (Architecture::DistilBert, Part::Intermediate) => "ffn.lin1",
            (Architecture::DistilBert, Part::Output) => "ffn.lin2",
            (Architecture::DistilBert, Part::OutputNorm) => "output_layer_norm",
        };
        let stack = if self.0 == Architecture::DistilBert { "transformer" } else { "encoder" };
        format!("{stack}.layer.{index}.{name}")
    }
}

fn dropout(input: Tensor, probability: f64) -> Tensor {
    if probability > 0.0 { input.dropout(probability, true) } else { input }
}

/// Bucket of every pair of positions, int64 `[tokens, tokens]` (T5's scheme, Raffel et al. 2020, as MPNet uses it:
/// half of the buckets a direction, exact up to a quarter, then logarithmic to a distance of 128).
fn relative_buckets(tokens: i64, buckets: i64) -> Tensor {
    const MAX_DISTANCE: f32 = 128.0;
    let half = buckets / 2;
    let exact = half / 2;
    let bucket = |distance: i64| {
        let side = if distance > 0 { half } else { 0 };
        let distance = distance.abs();
        if distance < exact {
            return side + distance;
        }
        let scaled = (distance as f32 / exact as f32).ln() / (MAX_DISTANCE / exact as f32).ln();
        side + (exact + (scaled * (half - exact) as f32) as i64).min(half - 1)
    };
    let all: Vec<i64> = (0..tokens).flat_map(|query| (0..tokens).map(move |key| bucket(key - query))).collect();
    Tensor::from_slice(&all).view([tokens, tokens])
}
