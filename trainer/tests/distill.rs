//! Distillation as a whole, on a tiny encoder and texts of our own.

#![expect(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

#[allow(dead_code, reason = "no test needs all of it")]
mod tiny;

use std::collections::HashMap;
use std::fs;

use kdh_runtime::dataset::Document;
use kdh_trainer::data::Boundaries;
use kdh_trainer::distill::{DistillInput, DistillOptions, DistillReport, distill, ensemble};
use kdh_trainer::encoder::Precision;
use kdh_trainer::fit::FitOptions;
use kdh_trainer::objective::SoftLoss;
use kdh_trainer::predict::Predictions;
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
    let input = DistillInput { fit: case.input(&labels), teacher, transfer };
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
