//! Distillation as a whole, on a tiny encoder and texts of our own.

#![expect(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

#[allow(dead_code, reason = "no test needs all of it")]
mod tiny;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use kdh_runtime::dataset::Document;
use kdh_trainer::data::Boundaries;
use kdh_trainer::derive::{Derivation, derive};
use kdh_trainer::distill::{DistillInput, DistillOptions, DistillReport, distill, ensemble};
use kdh_trainer::encoder::Precision;
use kdh_trainer::fit::FitOptions;
use kdh_trainer::objective::SoftLoss;
use kdh_trainer::predict::Predictions;
use kdh_trainer::states::{StateOptions, TeacherStates};
use kdh_trainer::teacher::{TeacherOptions, teacher_logits};
use tch::{Device, Tensor};
use tiny::{Case, documents, labels, options};

const TEACHER: TeacherOptions =
    TeacherOptions { boundaries: Boundaries::Corpus, precision: Precision::F32, batch_size: 8 };

fn distill_options() -> DistillOptions {
    DistillOptions {
        soft_loss: SoftLoss::BernoulliKd,
        temperature: 2.0,
        alpha: 0.5,
        imitation_epochs: 2,
        imitation_learning_rate: None,
        states: StateOptions::default(),
        fit: FitOptions { epochs: 2, ..options() },
    }
}

/// A teacher that has learned for some epochs, and what it says of `documents`.
fn teacher(case: &Case, documents: &[Document], epochs: usize) -> Predictions {
    let report = case.run("teacher", &FitOptions { epochs, patience: epochs, ..options() }, None).unwrap();
    let cache = case.root.path().join("cache");
    let codes = codes();
    let ask = || teacher_logits(&report.student, documents, &codes, TEACHER, &cache, Device::Cpu, |_| ()).unwrap();
    let (path, first) = ask();
    assert_eq!(first.ids.len(), documents.len());
    assert!(first.sentences.iter().all(|sentences| sentences.logits.len() == sentences.starts.len() * 2));

    // The second time the file answers, and a file of other logits would be believed: nothing is run again.
    let text = fs::read_to_string(&path).unwrap();
    let line = text.lines().next().unwrap();
    fs::write(&path, format!("{line}\n")).unwrap();
    assert_eq!(ask().1.ids.len(), 1);
    fs::write(&path, &text).unwrap();
    assert_eq!(ask().1.logits, first.logits);
    let other = TeacherOptions { boundaries: Boundaries::Box, ..TEACHER };
    let (elsewhere, _) =
        teacher_logits(&report.student, documents, &codes, other, &cache, Device::Cpu, |_| ()).unwrap();
    assert_ne!(elsewhere, path);
    first
}

fn codes() -> Vec<String> {
    vec!["I".into(), "S".into()]
}

fn run(
    case: &Case,
    name: &str,
    teacher: &Predictions,
    transfer: &[Document],
    options: &DistillOptions,
    stop_after: Option<usize>,
) -> anyhow::Result<DistillReport> {
    let labels = labels();
    let input = DistillInput { fit: case.input(&labels), teacher, transfer, states: None };
    distill(&input, options, &case.output(name, stop_after), Device::Cpu)
}

fn weights(case: &Case, name: &str) -> HashMap<String, Tensor> {
    let path = case.root.path().join(name).join("best/model.safetensors");
    Tensor::read_safetensors(path).unwrap().into_iter().collect()
}

#[test]
fn a_student_learns_from_a_teacher_alone() {
    let mut case = Case::new();
    let transfer = documents(200, 3000);
    let all: Vec<Document> = case.train.iter().chain(&transfer).cloned().collect();
    let teacher = teacher(&case, &all, 30);
    // The student's labels are all wrong, so what it learns in the first stage it has from the teacher, most of it
    // from documents without labels.
    case.train.truncate(20);
    for document in &mut case.train {
        document.labels.clear();
        document.sentences.iter_mut().for_each(|sentence| sentence.labels.clear());
    }
    let options = DistillOptions {
        imitation_epochs: 25,
        fit: FitOptions { epochs: 1, learning_rate: 1e-9, ..options() },
        imitation_learning_rate: Some(5e-3),
        ..distill_options()
    };
    let report = run(&case, "student", &teacher, &transfer, &options, None).unwrap();
    let imitation = report.imitation.unwrap();
    assert!(imitation.best_score.unwrap() > 0.9, "{imitation:?}");
    assert_eq!(imitation.steps, 25 * 220usize.div_ceil(8));
    assert_eq!(report.supervised.unwrap().steps, 3);
}

#[test]
fn a_killed_distillation_goes_on_with_the_same_bits() {
    let case = Case::new();
    let teacher = teacher(&case, &case.train, 1);
    let options = distill_options();
    run(&case, "whole", &teacher, &[], &options, None).unwrap();
    // Stops within the first stage, at its end, and within the second.
    for stop_after in [11, 19, 7] {
        let report = run(&case, "pieces", &teacher, &[], &options, Some(stop_after)).unwrap();
        assert!(report.supervised.is_none_or(|stage| !stage.finished));
    }
    let done = run(&case, "pieces", &teacher, &[], &options, None).unwrap();
    assert!(done.supervised.unwrap().finished);
    let pieces = weights(&case, "pieces");
    for (name, tensor) in weights(&case, "whole") {
        assert!(tensor.equal(&pieces[&name]), "{name} differs");
    }
    // Another teacher's logits are another run.
    let mut other = teacher.clone();
    other.logits[0] += 1.0;
    let error = format!("{:#}", run(&case, "pieces", &other, &[], &options, None).unwrap_err());
    assert!(error.contains("other options or data"), "{error}");
}

#[test]
fn what_does_not_fit_is_refused_before_training() {
    let case = Case::new();
    let teacher = teacher(&case, &case.train, 1);
    let error = |teacher: &Predictions, transfer: &[Document], options: &DistillOptions| {
        let error = run(&case, "refused", teacher, transfer, options, None).unwrap_err();
        assert!(!case.root.path().join("refused").exists());
        format!("{error:#}")
    };
    let good = distill_options();
    let temperature = DistillOptions { temperature: 0.0, ..good.clone() };
    assert!(error(&teacher, &[], &temperature).contains("--temperature"));
    assert!(error(&teacher, &[], &DistillOptions { alpha: 1.5, ..good.clone() }).contains("--alpha"));
    assert!(error(&teacher, &documents(1, 9000), &good).contains("no logits for document 9000"));
    assert!(error(&teacher, &case.train[..1], &good).contains("a training and a transfer document"));
    let mut infinite = teacher.clone();
    infinite.logits[3] = f32::NAN;
    assert!(error(&infinite, &[], &good).contains("NaN"));
    let mut narrow = teacher.clone();
    narrow.logits.pop();
    assert!(error(&narrow, &[], &good).contains("2 labels"));

    // A teacher with other labels.
    let folder = case.root.path().join("teacher/best");
    let codes = vec!["S".to_owned(), "I".to_owned()];
    let cache = case.root.path().join("cache");
    let error =
        teacher_logits(&folder, &case.train, &codes, TEACHER, &cache, Device::Cpu, |_| ()).unwrap_err().to_string();
    assert!(error.contains("I, S") && error.contains("S, I"), "{error}");

    let missing = case.root.path().join("nothing.jsonl");
    assert!(format!("{:#}", ensemble(&[&missing], &codes).unwrap_err()).contains("nothing.jsonl"));
}

#[test]
fn a_student_learns_what_a_teacher_thinks() {
    let case = Case::new();
    let logits = teacher(&case, &case.train, 6);
    let (folder, cache) = (case.root.path().join("teacher/best"), case.root.path().join("cache"));
    let mut documents_run = 0;
    let mut look = || {
        let count = |_| documents_run += 1;
        TeacherStates::new(&folder, &case.train, TEACHER, &cache, Device::Cpu, count).unwrap()
    };
    let states = look();
    drop(look());
    assert_eq!(documents_run, case.train.len(), "the second time the file answers");

    let labels = labels();
    let terms = StateOptions { state_cosine: 1.0, state_mse: 1.0, attention_relation: 3.0, relation_heads: 4 };
    let options = DistillOptions {
        imitation_epochs: 8,
        states: terms,
        fit: FitOptions { epochs: 1, dropout: 0.0, attention_dropout: 0.0, ..options() },
        ..distill_options()
    };
    let go = |name: &str, states: Option<&TeacherStates>, options: &DistillOptions, stop_after| {
        let input = DistillInput { fit: case.input(&labels), teacher: &logits, transfer: &[], states };
        distill(&input, options, &case.output(name, stop_after), Device::Cpu)
    };
    go("inside", Some(&states), &options, None).unwrap();
    let log = fs::read_to_string(case.root.path().join("inside/imitation/metrics.jsonl")).unwrap();
    let losses: Vec<f64> = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|line| line["event"] == "epoch")
        .map(|line| line["train_loss"].as_f64().unwrap())
        .collect();
    assert!(losses[7] < 0.5 * losses[0], "{losses:?}");
    // The projection goes on with the rest after a kill, and stays out of the student.
    for stop_after in [50, 100] {
        go("pieces", Some(&states), &options, Some(stop_after)).unwrap();
    }
    let pieces = weights(&case, "pieces");
    let whole = weights(&case, "inside");
    assert!(whole.iter().all(|(name, tensor)| tensor.equal(&pieces[name])));
    assert!(!whole.keys().any(|name| name.contains("projection")));

    let error = |states: Option<&TeacherStates>, options: &DistillOptions| {
        format!("{:#}", go("refused", states, options, None).unwrap_err())
    };
    assert!(error(None, &options).contains("--teacher"));
    let none = DistillOptions { imitation_epochs: 0, ..options.clone() };
    assert!(error(Some(&states), &none).contains("--imitation-epochs"));
    let odd = StateOptions { relation_heads: 5, ..terms };
    assert!(error(Some(&states), &DistillOptions { states: odd, ..options.clone() }).contains("--relation-heads 5"));
    let short = DistillOptions { fit: FitOptions { max_tokens: 10, ..options.fit.clone() }, ..options.clone() };
    assert!(error(Some(&states), &short).contains("do not line up"));
    let vocabulary = fs::read_to_string(case.weights.join("vocab.txt")).unwrap();
    // A student that has no token for a word of its teacher's.
    fs::write(case.weights.join("vocab.txt"), vocabulary.replace("fever", "fevers")).unwrap();
    assert!(error(Some(&states), &options).contains("do not line up"));
}

#[test]
fn a_student_starts_from_some_layers_of_another() {
    let mut case = Case::new();
    let read = |folder: &Path| -> HashMap<String, Tensor> {
        Tensor::read_safetensors(folder.join("model.safetensors")).unwrap().into_iter().collect()
    };
    let folder = case.root.path().join("second");
    let source = read(&case.weights);
    let value = |name: &str| format!("encoder.layer.{name}.attention.self.value.weight");

    derive(&case.weights, &Derivation { layers: vec![2], random: None }, &folder).unwrap();
    let second = read(&folder);
    assert!(second[&value("0")].equal(&source[&value("1")]));
    assert!(!second.contains_key(&value("1")));
    case.weights = folder;
    let report = case.run("run", &FitOptions { epochs: 1, ..options() }, None);
    assert!(report.unwrap().finished);
}

#[test]
fn a_student_starts_at_random() {
    let case = Case::new();
    let out = |name: &str| case.root.path().join(name);
    let read = |name: &str| -> HashMap<String, Tensor> {
        Tensor::read_safetensors(out(name).join("model.safetensors")).unwrap().into_iter().collect()
    };
    for (name, seed) in [("one", 2), ("again", 2), ("other", 4)] {
        derive(&case.weights, &Derivation { layers: vec![], random: Some(seed) }, &out(name)).unwrap();
    }
    let (one, again, other) = (read("one"), read("again"), read("other"));
    let word = "embeddings.word_embeddings.weight";
    assert!(one[word].equal(&again[word]));
    assert!(!one[word].equal(&other[word]));
    assert!((one[word].std(true).double_value(&[]) - 0.02).abs() < 0.004);
    assert_eq!(one["embeddings.LayerNorm.weight"].min().double_value(&[]), 1.0);
    let error = derive(&case.weights, &Derivation { layers: vec![3], random: None }, &out("none")).unwrap_err();
    assert!(error.to_string().contains("1 to 2"), "{error}");
    assert!(derive(&case.weights, &Derivation::default(), &out("one")).is_err());
}
