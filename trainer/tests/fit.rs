//! Fine-tuning as a whole, on a tiny encoder and texts of our own.

#![expect(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kdh_format::student::{Head, Provenance};
use kdh_runtime::dataset::{Document, DocumentSentence};
use kdh_trainer::data::{Boundaries, Encoder};
use kdh_trainer::encoder::Precision;
use kdh_trainer::fit::{FitInput, FitOptions, FitOutput, FitReport, LabelName, Selection, fit};
use kdh_trainer::model::Classifier;
use kdh_trainer::predict::Predictions;
use tch::{Device, Tensor};

const WORDS: [&str; 20] = [
    "fever", "cough", "pain", "rash", "ward", "nurse", "pulse", "normal", "stable", "night", "left", "right", "mild",
    "acute", "chest", "skin", "the", "and", "with", "no",
];

/// A weights folder: the tiny BERT fixture with a vocabulary of our words.
fn weights(root: &Path) -> PathBuf {
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
fn documents(count: usize, offset: usize) -> Vec<Document> {
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

fn labels() -> Vec<LabelName> {
    [("I", "infection"), ("S", "skin")].map(|(code, name)| LabelName { code: code.into(), name: name.into() }).into()
}

fn options() -> FitOptions {
    FitOptions {
        epochs: 4,
        batch_size: 8,
        max_tokens: 40,
        max_sentences: 8,
        learning_rate: 5e-3,
        head_factor: 10.0,
        layer_decay: 0.9,
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

struct Case {
    _generator: MutexGuard<'static, ()>,
    root: tempfile::TempDir,
    weights: PathBuf,
    train: Vec<Document>,
    dev: Vec<Document>,
}

impl Case {
    fn new() -> Self {
        let generator = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
        tch::set_num_threads(1);
        let root = tempfile::tempdir().unwrap();
        let weights = weights(root.path());
        Self { _generator: generator, root, weights, train: documents(120, 0), dev: documents(60, 1000) }
    }

    fn run(&self, name: &str, options: &FitOptions, stop_after: Option<usize>) -> anyhow::Result<FitReport> {
        let labels = labels();
        let input = FitInput {
            weights: &self.weights,
            train: &self.train,
            dev: &self.dev,
            labels: &labels,
            provenance: Provenance::default(),
            name: "tiny".into(),
        };
        let output =
            FitOutput { folder: self.root.path().join(name), checkpoint_every: 4, stop_after, progress_bar: false };
        fit(&input, options, &output, Device::Cpu)
    }

    fn error(&self, options: &FitOptions) -> String {
        format!("{:#}", self.run("refused", options, None).unwrap_err())
    }
}

#[test]
fn a_student_learns_and_says_where() {
    let case = Case::new();
    let report = case.run("run", &FitOptions { epochs: 30, patience: 30, ..options() }, None).unwrap();
    assert!(report.finished);
    assert_eq!(report.steps, 30 * 15);

    let (model, card) = Classifier::read(&report.student, Device::Cpu).unwrap();
    let vocabulary = fs::read(report.student.join("vocab.txt")).unwrap();
    let codes = vec!["I".to_owned(), "S".to_owned()];
    let mut encoder = Encoder::new(&vocabulary, &card.tokenizer, codes, 40, 8, Boundaries::Corpus).unwrap();
    let unseen = encoder.encode_all(&documents(100, 5000)).unwrap();
    let predictions = Predictions::of(&model, &unseen, 8, Precision::F32, Device::Cpu, |_| ());
    let thresholds: Vec<f32> = card.labels.iter().map(|label| label.threshold).collect();
    let metrics = predictions.metrics(&["I", "S"], &thresholds).unwrap();
    assert!(metrics.micro_f1 > 0.95, "{metrics}");

    // The dev predictions are those of the student that was kept.
    let mut written = Predictions::default();
    let codes = vec!["I".to_owned(), "S".to_owned()];
    written.append(&case.root.path().join("run/dev-predictions.jsonl"), &codes).unwrap();
    let dev = encoder.encode_all(&case.dev).unwrap();
    let again = Predictions::of(&model, &dev, 8, Precision::F32, Device::Cpu, |_| ());
    assert_eq!(written.ids, again.ids);
    for (one, other) in written.logits.iter().zip(&again.logits) {
        assert!((one - other).abs() < 1e-5);
    }

    // A finished run has nothing left to do.
    assert_eq!(
        case.run("run", &FitOptions { epochs: 30, patience: 30, ..options() }, None).unwrap().steps,
        report.steps
    );
}

#[test]
fn a_killed_run_goes_on_with_the_same_bits() {
    let case = Case::new();
    case.run("whole", &options(), None).unwrap();
    // Stops in the middle of an epoch, at its end, and between checkpoints.
    for stop_after in [6, 9, 15, 1] {
        let report = case.run("pieces", &options(), Some(stop_after)).unwrap();
        assert!(!report.finished);
    }
    assert!(case.run("pieces", &options(), None).unwrap().finished);
    let read = |name: &str| {
        let path = case.root.path().join(name).join("best/model.safetensors");
        Tensor::read_safetensors(path).unwrap().into_iter().collect::<HashMap<String, Tensor>>()
    };
    let pieces = read("pieces");
    for (name, tensor) in read("whole") {
        assert!(tensor.equal(&pieces[&name]), "{name} differs");
    }
    let steps = |name: &str| {
        let log = fs::read_to_string(case.root.path().join(name).join("metrics.jsonl")).unwrap();
        log.lines().filter(|line| line.contains(r#""event":"step""#)).count()
    };
    assert_eq!(steps("pieces"), 60);
    assert_eq!(steps("whole"), 60);
}

#[test]
fn a_run_goes_on_only_with_what_it_was_started_with() {
    let case = Case::new();
    case.run("run", &options(), Some(3)).unwrap();
    let error = case.run("run", &FitOptions { seed: 4, ..options() }, None).unwrap_err().to_string();
    assert!(error.contains("other options or data"), "{error}");
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_names_the_checkpoint() {
    let case = Case::new();
    let wild = FitOptions { learning_rate: 1e30, warm_up: 0.0, ..options() };
    let error = case.error(&wild);
    assert!(error.contains("at step") && error.contains("checkpoint"), "{error}");
}

#[test]
fn input_that_does_not_fit_is_refused_before_training() {
    let mut case = Case::new();
    let long = FitOptions { max_tokens: 97, ..options() };
    assert!(case.error(&long).contains("3 to 96"));
    assert!(case.error(&FitOptions { dropout: 1.0, ..options() }).contains("--dropout"));

    case.train[7].labels.push("X".into());
    let error = case.error(&options());
    assert!(error.contains("training data") && error.contains("document 7") && error.contains("\"X\""), "{error}");

    case.train.clear();
    assert!(case.error(&options()).contains("empty"));
    fs::remove_file(case.weights.join("vocab.txt")).unwrap();
    case.train = documents(5, 0);
    assert!(case.error(&options()).contains("vocab.txt"));
}

#[test]
fn the_mean_head_trains_without_sentences() {
    let mut case = Case::new();
    for document in case.train.iter_mut().chain(&mut case.dev) {
        document.sentences.clear();
    }
    let report =
        case.run("mean", &FitOptions { head: Head::Mean, epochs: 30, patience: 30, ..options() }, None).unwrap();
    assert!(report.best_score.unwrap() > 0.9, "{report:?}");
}
