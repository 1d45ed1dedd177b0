//! What a student learns from inside a teacher: its token states, kept in a file beside its logits.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use kdh_runtime::dataset::Document;
use serde::{Deserialize, Serialize};
use tch::{Device, IndexOp, Kind, Tensor};

use crate::data::{Batch, Encoder, Example};
use crate::encoder::{Parameter, Pass, Precision};
use crate::fit::defaults;
use crate::loss::{attention_relation, state_cosine, state_mse};
use crate::model::Classifier;
use crate::teacher::{TeacherOptions, teacher_key};

/// Weights of the terms that compare a student's last layer with the teacher's, beside the loss of logits. They take
/// part in the first stage of a distillation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct StateOptions {
    /// Weight of the cosine distance of last token states, the student's projected to the teacher's width (DistilBERT).
    #[arg(long, default_value_t = 0.0)]
    pub state_cosine: f64,
    /// Weight of the mean squared difference of last token states, the student's projected (TinyBERT).
    #[arg(long, default_value_t = 0.0)]
    pub state_mse: f64,
    /// Weight of the divergence of the last layers' query, key and value relations, their mean (MiniLMv2).
    #[arg(long, default_value_t = 0.0)]
    pub attention_relation: f64,
    /// Relation heads; must divide the width of both models.
    #[arg(long, default_value_t = 12)]
    pub relation_heads: i64,
}

/// The defaults of the command line, which are written only once, beside the options.
impl Default for StateOptions {
    fn default() -> Self {
        defaults()
    }
}

impl StateOptions {
    /// Whether any term has weight.
    pub fn any(&self) -> bool {
        self.state_cosine > 0.0 || self.state_mse > 0.0 || self.attention_relation > 0.0
    }

    /// Checks the options.
    ///
    /// # Errors
    /// When a weight is negative or not finite, or the heads are none.
    pub fn check(&self) -> Result<()> {
        for (name, weight) in [
            ("state-cosine", self.state_cosine),
            ("state-mse", self.state_mse),
            ("attention-relation", self.attention_relation),
        ] {
            ensure!(weight >= 0.0 && weight.is_finite(), "--{name} must be at least 0");
        }
        ensure!(self.relation_heads > 0, "--relation-heads must be at least 1");
        Ok(())
    }
}

/// A teacher's token states for a set of documents, f16 in one file: `[4, tokens, hidden_size]` a document, the last
/// layer's states and its queries, keys and values.
#[derive(Debug)]
pub struct TeacherStates {
    file: File,
    hidden: i64,
    entries: HashMap<String, Entry>,
    /// Token texts of the teacher's vocabulary, by id.
    vocabulary: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    /// Byte that the document's states begin at.
    offset: u64,
    /// Ids of the teacher's tokens.
    ids: Vec<u32>,
}

#[derive(Serialize, Deserialize)]
struct Index {
    hidden: i64,
    entries: HashMap<String, Entry>,
}

/// Levels that are kept of each document.
const LEVELS: i64 = 4;
const BYTES_PER_VALUE: usize = 2;

impl TeacherStates {
    /// Runs the teacher over the documents, unless their states are in `cache` already. `progress` is called with the
    /// number of documents done.
    ///
    /// A document of 356 tokens takes 2.2 MB of a 768-wide teacher.
    ///
    /// # Errors
    /// When the teacher cannot be read, or the cache cannot be written, as on a full disk.
    pub fn new(
        teacher: &Path,
        documents: &[Document],
        options: TeacherOptions,
        cache: &Path,
        device: Device,
        mut progress: impl FnMut(usize),
    ) -> Result<Self> {
        let folder = cache.join(format!("{}-states", teacher_key(teacher, documents, options)?));
        let vocabulary = fs::read(teacher.join("vocab.txt")).context("cannot read the teacher's vocab.txt")?;
        if !folder.is_dir() {
            let draft = folder.with_extension("draft");
            if draft.exists() {
                fs::remove_dir_all(&draft)?;
            }
            fs::create_dir_all(&draft).with_context(|| format!("cannot create {}", draft.display()))?;
            write(teacher, &vocabulary, documents, options, &draft, device, &mut progress)?;
            fs::rename(&draft, &folder).with_context(|| format!("cannot move {} into place", draft.display()))?;
        }
        let index = fs::read(folder.join(INDEX)).with_context(|| format!("cannot read {}", folder.display()))?;
        let Index { hidden, entries } = serde_json::from_slice(&index).context("the teacher's states are damaged")?;
        let file = File::open(folder.join(STATES)).with_context(|| format!("cannot read {}", folder.display()))?;
        Ok(Self { file, hidden, entries, vocabulary: tokens(&vocabulary) })
    }

    /// Checks that every example has states, token for token.
    ///
    /// # Errors
    /// When a document is missing, or teacher and student cut it into other tokens.
    pub(crate) fn check(&self, examples: &[Example], student_vocabulary: &[u8]) -> Result<()> {
        let student = tokens(student_vocabulary);
        for example in examples {
            let entry = self.entry(example)?;
            // The first and the last token are the architectures' own special ones.
            let inner = |length: usize| 1..length.saturating_sub(1);
            let ours = example.ids[inner(example.ids.len())].iter().map(|&id| student.get(id as usize));
            let theirs = entry.ids[inner(entry.ids.len())].iter().map(|&id| self.vocabulary.get(id as usize));
            ensure!(
                ours.eq(theirs),
                "document {}: the tokens of teacher and student do not line up ({} and {} tokens), which comparing their \
                 states needs; use one vocabulary and one --max-tokens for both, or leave the state terms out",
                example.id,
                entry.ids.len(),
                example.ids.len()
            );
        }
        Ok(())
    }

    /// States of a batch: last states, queries, keys, values, each f32 `[batch, tokens, hidden_size]`.
    fn batch(&self, examples: &[&Example], tokens: i64, device: Device) -> Result<[Tensor; 4]> {
        let shape = [LEVELS, examples.len() as i64, tokens, self.hidden];
        let all = Tensor::zeros(shape, (Kind::Half, Device::Cpu));
        for (row, example) in examples.iter().enumerate() {
            let entry = self.entry(example)?;
            let shape = [LEVELS, entry.ids.len() as i64, self.hidden];
            let mut bytes = vec![0; shape.iter().product::<i64>() as usize * BYTES_PER_VALUE];
            self.file.read_exact_at(&mut bytes, entry.offset).context("the teacher's states are damaged")?;
            let states = Tensor::from_data_size(&bytes, &shape, Kind::Half);
            all.i((.., row as i64, ..shape[1])).copy_(&states);
        }
        let all = all.to_device(device).to_kind(Kind::Float);
        Ok([0, 1, 2, 3].map(|level| all.i(level)))
    }

    fn entry(&self, example: &Example) -> Result<&Entry> {
        self.entries.get(&example.id).with_context(|| format!("the teacher has no states for document {}", example.id))
    }
}

/// The state terms of one run, with the projection that is trained beside the student.
#[derive(Debug)]
pub(crate) struct StateTerms<'a> {
    states: &'a TeacherStates,
    options: StateOptions,
    /// `[teacher's hidden_size, student's hidden_size]`.
    projection: Tensor,
}

impl<'a> StateTerms<'a> {
    pub(crate) fn new(
        states: &'a TeacherStates,
        options: StateOptions,
        model: &Classifier,
        seed: u64,
        device: Device,
    ) -> Result<Self> {
        let own = model.encoder().config().hidden_size;
        let heads = options.relation_heads;
        ensure!(
            options.attention_relation == 0.0 || own % heads == 0 && states.hidden % heads == 0,
            "--relation-heads {heads} does not divide {own} and {}",
            states.hidden
        );
        tch::manual_seed((seed >> 1) as i64);
        let projection = Tensor::randn([states.hidden, own], (Kind::Float, device)) / (own as f64).sqrt();
        Ok(Self { states, options, projection: projection.set_requires_grad(true) })
    }

    /// What the optimiser trains beside the student.
    pub(crate) fn parameter(&self, depth: usize) -> Parameter {
        Parameter { name: "state_projection.weight".into(), tensor: self.projection.shallow_clone(), depth }
    }

    /// The terms, weighted and added. `levels` are the student's states, the last layer's last.
    pub(crate) fn loss(
        &self,
        model: &Classifier,
        levels: &[Tensor],
        batch: &Batch,
        examples: &[&Example],
        pass: Pass,
    ) -> Result<Tensor> {
        let options = &self.options;
        let device = batch.ids.device();
        let [theirs, relations @ ..] = self.states.batch(examples, batch.ids.size()[1], device)?;
        let mut total = Tensor::zeros([], (Kind::Float, device));
        let [.., before, last] = levels else { return Ok(total) };
        if options.state_cosine > 0.0 || options.state_mse > 0.0 {
            let weights = batch.mask.to_kind(Kind::Float).unsqueeze(-1);
            let ours = last.linear::<Tensor>(&self.projection, None);
            if options.state_cosine > 0.0 {
                total += state_cosine(&ours, &theirs, &weights) * options.state_cosine;
            }
            if options.state_mse > 0.0 {
                total += state_mse(&ours, &theirs, &weights) * options.state_mse;
            }
        }
        if options.attention_relation > 0.0 {
            let layer = model.encoder().config().layers as usize - 1;
            let ours = model.encoder().queries_keys_values(layer, before, pass.precision);
            for (ours, theirs) in ours.iter().zip(&relations) {
                let divergence = attention_relation(ours, theirs, options.relation_heads, &batch.mask);
                total += divergence * (options.attention_relation / 3.0);
            }
        }
        Ok(total)
    }
}

fn write(
    teacher: &Path,
    vocabulary: &[u8],
    documents: &[Document],
    options: TeacherOptions,
    folder: &Path,
    device: Device,
    progress: &mut impl FnMut(usize),
) -> Result<()> {
    let (model, card) = Classifier::read(teacher, device)?;
    let (max_tokens, max_sentences) = (card.max_tokens as usize, card.max_sentences as usize);
    let mut encoder =
        Encoder::new(vocabulary, &card.tokenizer, Vec::new(), max_tokens, max_sentences, options.boundaries)?;
    let config = model.encoder().config();
    let pad_id = config.architecture.pad_id();
    let mut file = BufWriter::new(File::create(folder.join(STATES))?);
    let mut index = Index { hidden: config.hidden_size, entries: HashMap::new() };
    let mut offset = 0;
    for (done, document) in documents.iter().enumerate() {
        let example = encoder.encode_text(document);
        let batch = Batch::new(&[&example], pad_id, device);
        let all = tch::no_grad(|| states(&model, &batch, options.precision));
        let all = all.to_kind(Kind::Half).to_device(Device::Cpu).contiguous();
        let mut bytes = vec![0; all.numel() * BYTES_PER_VALUE];
        let count = all.numel();
        all.copy_data_u8(&mut bytes, count);
        file.write_all(&bytes).context("cannot write the teacher's states")?;
        let ids = example.ids.iter().map(|&id| id as u32).collect();
        index.entries.insert(document.id.clone(), Entry { offset, ids });
        offset += bytes.len() as u64;
        progress(done + 1);
    }
    file.into_inner().map_err(|error| error.into_error())?.sync_all().context("cannot write the teacher's states")?;
    fs::write(folder.join(INDEX), serde_json::to_vec(&index)?).context("cannot write the teacher's states")
}

/// `[4, tokens, hidden_size]` of one document.
fn states(model: &Classifier, batch: &Batch, precision: Precision) -> Tensor {
    let encoder = model.encoder();
    let mut levels = encoder.states(&batch.ids, &batch.mask, Pass::evaluation(precision));
    let last = levels.pop().unwrap_or_default();
    let before = levels.pop().unwrap_or_default();
    let [query, key, value] = encoder.queries_keys_values(levels.len(), &before, precision);
    Tensor::cat(&[last, query, key, value], 0)
}

fn tokens(vocabulary: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(vocabulary).lines().map(str::to_owned).collect()
}

const STATES: &str = "states.f16";
const INDEX: &str = "index.json";
