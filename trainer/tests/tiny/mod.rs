//! A tiny encoder and texts of our own, on which training takes a second.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kdh_format::student::{Head, Provenance};
use kdh_runtime::dataset::{Document, DocumentSentence};
use kdh_trainer::data::Boundaries;
use kdh_trainer::encoder::Precision;
use kdh_trainer::fit::{FitInput, FitOptions, FitOutput, FitReport, LabelName, Selection, fit};
use tch::{Device, Tensor};

const WORDS: [&str; 20] = [
    "fever", "cough", "pain", "rash", "ward", "nurse", "pulse", "normal", "stable", "night", "left", "right", "mild",
    "acute", "chest", "skin", "the", "and", "with", "no",
];

/// A weights folder: the tiny BERT fixture with a vocabulary of our words.
pub(crate) fn weights(root: &Path) -> PathBuf {
    let folder = root.join("weights");
    fs::create_dir(&folder).unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bert");
    fs::copy(fixture.join("config.json"), folder.join("config.json")).unwrap();
    // The fixture's norms are random, to be compared with; to learn they must start as norms do.
    let tensors: Vec<(String, Tensor)> = Tensor::read_safetensors(fixture.join("model.safetensors"))
        .unwrap()
        .into_iter()
        .map(|(name, tensor)| match name.rsplit_once("LayerNorm.") {
            Some((_, "weight")) => (name, tensor.ones_like()),
            Some(_) => (name, tensor.zeros_like()),
            None => (name, tensor),
        })
        .collect();
    Tensor::write_safetensors(&tensors, folder.join("model.safetensors")).unwrap();
    let specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "."];
    let vocabulary: Vec<&str> = specials.into_iter().chain(WORDS).collect();
    fs::write(folder.join("vocab.txt"), vocabulary.join("\n")).unwrap();
    folder
}

/// Texts of three sentences; label I belongs to sentences with "fever", label S to those with "rash".
pub(crate) fn documents(count: usize, offset: usize) -> Vec<Document> {
    (offset..offset + count)
        .map(|seed| {
            let mut state = seed as u64 + 1;
            let mut next = |limit: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as usize % limit
            };
            let mut document =
                Document { id: seed.to_string(), text: String::new(), labels: Vec::new(), sentences: Vec::new() };
            for _ in 0..3 {
                let words: Vec<&str> = (0..5).map(|_| WORDS[next(WORDS.len())]).collect();
                let mut labels = Vec::new();
                for (word, code) in [("fever", "I"), ("rash", "S")] {
                    if words.contains(&word) {
                        labels.push(code.to_owned());
                    }
                }
                if !document.text.is_empty() {
                    document.text.push(' ');
                }
                let start = document.text.len();
                document.text.push_str(&words.join(" "));
                document.text.push_str(" .");
                for label in &labels {
                    if !document.labels.contains(label) {
                        document.labels.push(label.clone());
                    }
                }
                document.sentences.push(DocumentSentence { start, end: document.text.len(), labels });
            }
            document
        })
        .collect()
}

pub(crate) fn labels() -> Vec<LabelName> {
    [("I", "infection"), ("S", "skin")].map(|(code, name)| LabelName { code: code.into(), name: name.into() }).into()
}

pub(crate) fn options() -> FitOptions {
    FitOptions {
        epochs: 4,
        batch_size: 8,
        max_tokens: 40,
        max_sentences: 8,
        learning_rate: 5e-3,
        head_factor: 10.0,
        layer_decay: 0.9,
        freeze: 0,
        warm_up: 0.1,
        weight_decay: 0.01,
        clip: 1.0,
        dropout: 0.1,
        attention_dropout: 0.1,
        sentence_weight: 2.0,
        head: Head::SentenceEvidence,
        boundaries: Boundaries::Corpus,
        precision: Precision::F32,
        seed: 3,
        select: Selection::MicroAuprc,
        patience: 10,
    }
}

/// libtorch's random generator belongs to the process, so one run at a time.
static GENERATOR: Mutex<()> = Mutex::new(());

pub(crate) struct Case {
    _generator: MutexGuard<'static, ()>,
    pub(crate) root: tempfile::TempDir,
    pub(crate) weights: PathBuf,
    pub(crate) train: Vec<Document>,
    pub(crate) dev: Vec<Document>,
}

impl Case {
    pub(crate) fn new() -> Self {
        let generator = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
        tch::set_num_threads(1);
        let root = tempfile::tempdir().unwrap();
        let weights = weights(root.path());
        Self { _generator: generator, root, weights, train: documents(120, 0), dev: documents(60, 1000) }
    }

    pub(crate) fn run(&self, name: &str, options: &FitOptions, stop_after: Option<usize>) -> anyhow::Result<FitReport> {
        fit(&self.input(&labels()), options, &self.output(name, stop_after), Device::Cpu)
    }

    pub(crate) fn input<'a>(&'a self, labels: &'a [LabelName]) -> FitInput<'a> {
        FitInput {
            weights: &self.weights,
            train: &self.train,
            dev: &self.dev,
            labels,
            provenance: Provenance::default(),
            name: "tiny".into(),
        }
    }

    pub(crate) fn output(&self, name: &str, stop_after: Option<usize>) -> FitOutput {
        FitOutput { folder: self.root.path().join(name), checkpoint_every: 4, stop_after, progress_bar: false }
    }
}
