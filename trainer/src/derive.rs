//! A student's first weights, made from a larger encoder's: some of its layers, or only its shape.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use tch::{Device, Kind, Tensor};

use crate::config::Architecture;
use crate::encoder::{NamedTensors, Parameter};
use crate::model::read_encoder;

/// What a student takes over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Derivation {
    /// Layers to keep, counted from 1, in ascending order; all when empty. DistilBERT keeps every second layer of BERT
    /// (Sanh et al. 2019).
    pub layers: Vec<usize>,
    /// Draw all weights anew with this seed: matrices from a normal distribution of standard deviation 0.02, as BERT
    /// starts (Devlin et al. 2019), norms at one, biases at zero.
    pub random: Option<u64>,
}

/// Writes a weights folder that `kdh-train fit` takes: model.safetensors, config.json, vocab.txt and the tokenizer's
/// options.
///
/// # Errors
/// When the source cannot be read, a layer is not there, or `out` cannot be written or exists.
pub fn derive(source: &Path, derivation: &Derivation, out: &Path) -> Result<()> {
    let (encoder, _) = read_encoder(source, Device::Cpu)?;
    let config = encoder.config();
    let depth = config.layers as usize;
    let kept: Vec<usize> = match derivation.layers.is_empty() {
        true => (1..=depth).collect(),
        false => derivation.layers.clone(),
    };
    ensure!(
        kept.is_sorted_by(|one, other| one < other) && kept.iter().all(|layer| (1..=depth).contains(layer)),
        "layers are numbers from 1 to {depth} in ascending order"
    );
    if out.exists() {
        bail!("{} is already there: choose another folder or remove it", out.display());
    }
    if let Some(seed) = derivation.random {
        tch::manual_seed((seed >> 1) as i64);
    }
    let tensors: NamedTensors = encoder
        .parameters()
        .iter()
        .filter_map(|parameter| {
            let name = match parameter.depth {
                0 => parameter.name.clone(),
                layer => {
                    let place = kept.iter().position(|&kept| kept == layer)?;
                    let from = format!(".layer.{}.", layer - 1);
                    parameter.name.replacen(&from, &format!(".layer.{place}."), 1)
                }
            };
            Some((name, if derivation.random.is_some() { fresh(parameter) } else { parameter.tensor.detach() }))
        })
        .collect();

    let mut source_config = config.source.clone();
    let key = if config.architecture == Architecture::DistilBert { "n_layers" } else { "num_hidden_layers" };
    source_config[key] = kept.len().into();
    let draft = out.with_extension("draft");
    if draft.exists() {
        fs::remove_dir_all(&draft)?;
    }
    fs::create_dir_all(&draft).with_context(|| format!("cannot create {}", draft.display()))?;
    Tensor::write_safetensors(&tensors, draft.join("model.safetensors")).context("cannot write the weights")?;
    fs::write(draft.join("config.json"), serde_json::to_string_pretty(&source_config)?)?;
    fs::copy(source.join("vocab.txt"), draft.join("vocab.txt")).context("cannot copy vocab.txt")?;
    let options = source.join("tokenizer_config.json");
    if options.is_file() {
        fs::copy(&options, draft.join("tokenizer_config.json"))?;
    }
    fs::rename(&draft, out).with_context(|| format!("cannot move {} into place", draft.display()))
}

fn fresh(parameter: &Parameter) -> Tensor {
    let (name, like) = (&parameter.name, &parameter.tensor);
    let norm = name.contains("LayerNorm") || name.contains("layer_norm");
    match (norm, name.ends_with(".bias")) {
        (_, true) => like.zeros_like(),
        (true, false) => like.ones_like(),
        (false, false) => Tensor::randn(like.size(), (Kind::Float, like.device())) * 0.02,
    }
}
