//! The classifier: an encoder and a multi-label head.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use kdh_format::student::{Head, STUDENT_CARD_FILE, StudentCard};
use tch::{Device, IndexOp, Kind, Tensor};

use crate::config::EncoderConfig;
use crate::data::Batch;
use crate::encoder::{Encoder, NamedTensors, Parameter, Pass, Tensors};

/// Logit of a sentence that has no tokens: its share of a log-sum-exp is zero.
pub const ABSENT_LOGIT: f64 = -1e9;

/// An encoder with a multi-label head that says which sentences carry a label.
#[derive(Debug)]
pub struct Classifier {
    encoder: Encoder,
    weight: Tensor,
    bias: Tensor,
    /// Of sentence evidence only: the mean head's linear layer already has a bias of its own.
    document_bias: Option<Tensor>,
}

/// What a classifier says of a batch.
#[derive(Debug)]
pub struct Logits {
    /// f32 `[batch, sentences, labels]`; [`ABSENT_LOGIT`] where a text has no such sentence.
    pub sentences: Tensor,
    /// f32 `[batch, labels]`.
    pub documents: Tensor,
}

impl Classifier {
    /// Reads a folder of pretrained weights and puts a fresh head on it, or the folder's own head when it is a student
    /// folder with as many labels.
    ///
    /// The fresh head is zero but for its bias, which is the log-odds of each label among sentences (or documents, for
    /// the mean head): the first predictions are the base rates.
    ///
    /// # Errors
    /// When a file is missing or does not fit.
    pub fn from_pretrained(folder: &Path, head: Head, base_rates: &[f64], device: Device) -> Result<Self> {
        let (encoder, mut tensors) = read_encoder(folder, device)?;
        if tensors.contains("classifier.weight") {
            return Self::with_head(encoder, head, base_rates.len() as i64, &mut tensors);
        }
        let labels = base_rates.len() as i64;
        let log_odds: Vec<f32> = base_rates
            .iter()
            .map(|rate| {
                let rate = rate.clamp(1e-4, 1.0 - 1e-4);
                (rate / (1.0 - rate)).ln() as f32
            })
            .collect();
        let options = (Kind::Float, device);
        Ok(Self {
            weight: Tensor::zeros([labels, encoder.config().hidden_size], options).set_requires_grad(true),
            bias: Tensor::from_slice(&log_odds).to_device(device).set_requires_grad(true),
            document_bias: has_document_bias(head).then(|| Tensor::zeros([labels], options).set_requires_grad(true)),
            encoder,
        })
    }

    /// Reads a student folder that [`Classifier::write`] wrote.
    ///
    /// # Errors
    /// When a file is missing or does not fit.
    pub fn read(folder: &Path, device: Device) -> Result<(Self, StudentCard)> {
        let card = read_card(folder)?;
        let (encoder, mut tensors) = read_encoder(folder, device)?;
        let model = Self::with_head(encoder, card.head, card.labels.len() as i64, &mut tensors)?;
        Ok((model, card))
    }

    fn with_head(encoder: Encoder, head: Head, labels: i64, tensors: &mut Tensors) -> Result<Self> {
        Ok(Self {
            weight: tensors.take("classifier.weight", &[labels, encoder.config().hidden_size])?,
            bias: tensors.take("classifier.bias", &[labels])?,
            document_bias: has_document_bias(head).then(|| tensors.take("document_bias", &[labels])).transpose()?,
            encoder,
        })
    }

    /// The encoder.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Every trainable tensor, in a fixed order; the head's come last.
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut all = self.encoder.parameters();
        let depth = self.encoder.config().layers as usize + 1;
        let linear = [("classifier.weight", &self.weight), ("classifier.bias", &self.bias)];
        for (name, tensor) in linear.into_iter().chain(self.document_bias.iter().map(|bias| ("document_bias", bias))) {
            all.push(Parameter { name: name.to_owned(), tensor: tensor.shallow_clone(), depth });
        }
        all
    }

    /// Sentence and document logits of a batch.
    pub fn forward(&self, batch: &Batch, pass: Pass) -> Logits {
        let states = self.encoder.forward(&batch.ids, &batch.mask, pass);
        self.classify(&states, batch, pass)
    }

    /// The head alone: `states` are token states, f32 `[batch, tokens, hidden_size]`.
    pub fn classify(&self, states: &Tensor, batch: &Batch, pass: Pass) -> Logits {
        // [batch, sentences, tokens]: 1 where the token belongs to the sentence.
        let index = Tensor::arange(batch.sentences, (Kind::Int64, states.device())).view([1, -1, 1]);
        let member = batch.sentence_ids.unsqueeze(1).eq_tensor(&index).to_kind(Kind::Float);
        let counts = member.sum_dim_intlist(-1, true, Kind::Float);
        let means = member.matmul(states) / counts.clamp_min(1.0);
        let means = if pass.hidden_dropout > 0.0 { means.dropout(pass.hidden_dropout, true) } else { means };
        let absent = counts.eq(0.0);
        let sentences = means.linear(&self.weight, Some(&self.bias)).masked_fill(&absent, ABSENT_LOGIT);
        let documents = match &self.document_bias {
            Some(bias) => sentences.logsumexp(1, false) + bias,
            None => {
                let tokens = counts.sum_dim_intlist(1, false, Kind::Float).clamp_min(1.0);
                let mean = (&means * &counts).sum_dim_intlist(1, false, Kind::Float) / tokens;
                mean.linear(&self.weight, Some(&self.bias))
            }
        };
        Logits { sentences, documents }
    }

    /// Writes a student folder: weights, configuration, vocabulary and card. The folder appears whole or not at all.
    ///
    /// # Errors
    /// When a file cannot be written, as on a full disk; what was in the folder before is then untouched.
    pub fn write(&self, folder: &Path, vocabulary: &[u8], card: &StudentCard) -> Result<()> {
        let draft = folder.with_extension("draft");
        if draft.exists() {
            fs::remove_dir_all(&draft)?;
        }
        fs::create_dir_all(&draft).with_context(|| format!("cannot create {}", draft.display()))?;
        let named: NamedTensors = self
            .parameters()
            .into_iter()
            .map(|parameter| (parameter.name, parameter.tensor.detach().to_device(Device::Cpu)))
            .collect();
        Tensor::write_safetensors(&named, draft.join("model.safetensors")).context("cannot write the weights")?;
        let config = serde_json::to_string_pretty(&self.encoder.config().source)?;
        fs::write(draft.join("config.json"), config).context("cannot write config.json")?;
        fs::write(draft.join("vocab.txt"), vocabulary).context("cannot write vocab.txt")?;
        fs::write(draft.join(STUDENT_CARD_FILE), serde_json::to_string_pretty(card)?)
            .with_context(|| format!("cannot write {STUDENT_CARD_FILE}"))?;
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::rename(&draft, folder).with_context(|| format!("cannot move {} into place", draft.display()))
    }
}

/// Reads the card of a student folder.
///
/// # Errors
/// When it is missing or not understood.
pub fn read_card(folder: &Path) -> Result<StudentCard> {
    let path = folder.join(STUDENT_CARD_FILE);
    let text = fs::read_to_string(&path).with_context(|| {
        format!("cannot read {}: is this a student folder that `kdh-train fit` wrote?", path.display())
    })?;
    serde_json::from_str(&text).with_context(|| format!("{} is not a student card", path.display()))
}

/// Reads the encoder of a weights folder, and what else its file holds.
///
/// # Errors
/// When a file is missing or does not fit.
pub fn read_encoder(folder: &Path, device: Device) -> Result<(Encoder, Tensors)> {
    let config = EncoderConfig::read(folder)?;
    let (safe, pickled) = (folder.join("model.safetensors"), folder.join("pytorch_model.bin"));
    let path = if safe.is_file() { safe } else { pickled };
    anyhow::ensure!(
        path.is_file(),
        "{} has no weights: a weights folder holds config.json, vocab.txt and model.safetensors (or pytorch_model.bin)",
        folder.display()
    );
    let named = match path.extension().is_some_and(|extension| extension == "safetensors") {
        true => Tensor::read_safetensors(&path),
        // libtorch's own reader of pickles, which builds tensors and runs nothing.
        false => Tensor::loadz_multi(&path),
    };
    let named: NamedTensors = named.with_context(|| format!("cannot read {}", path.display()))?;
    let mut tensors = Tensors::new(named, config.architecture, device);
    let encoder = Encoder::from_tensors(config, &mut tensors).with_context(|| format!("in {}", path.display()))?;
    Ok((encoder, tensors))
}

fn has_document_bias(head: Head) -> bool {
    head != Head::Mean
}

/// Rows of a `[batch, …]` tensor as vectors, for reading results back.
pub fn rows(tensor: &Tensor) -> Vec<Vec<f32>> {
    (0..tensor.size()[0])
        .map(|row| {
            let flat = tensor.i(row).to_kind(Kind::Float).to_device(Device::Cpu).contiguous().view(-1);
            let mut values = vec![0.0; flat.numel()];
            let count = values.len();
            flat.copy_data(&mut values, count);
            values
        })
        .collect()
}
