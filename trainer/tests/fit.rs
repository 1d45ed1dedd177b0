//! Fine-tuning as a whole, on a tiny encoder and texts of our own.

#![expect(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

#[allow(dead_code, reason = "no test needs all of it")]
mod tiny;

use std::collections::HashMap;
use std::fs;

use kdh_format::student::Head;
use kdh_trainer::average::average;
use kdh_trainer::data::{Boundaries, Encoder};
use kdh_trainer::encoder::Precision;
use kdh_trainer::fit::{DevScores, FitInput, FitOptions, fit};
use kdh_trainer::model::Classifier;
use kdh_trainer::predict::Predictions;
use tch::{Device, Tensor};
use tiny::{Case, documents, labels, options};

fn refusal(case: &Case, options: &FitOptions) -> String {
    format!("{:#}", case.run("refused", options, None).unwrap_err())
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
fn frozen_layers_stay_as_they_are_and_a_killed_run_goes_on_with_the_same_bits() {
    let case = Case::new();
    let options = FitOptions { freeze: 1, ..options() };
    let read = |folder: &std::path::Path| {
        let tensors = Tensor::read_safetensors(folder.join("model.safetensors")).unwrap();
        tensors.into_iter().collect::<HashMap<String, Tensor>>()
    };
    let before = read(&case.weights);
    let whole = read(&case.run("whole", &options, None).unwrap().student);
    for stop_after in [6, 20] {
        assert!(!case.run("pieces", &options, Some(stop_after)).unwrap().finished);
    }
    let pieces = read(&case.run("pieces", &options, None).unwrap().student);
    for (name, tensor) in &whole {
        assert!(tensor.equal(&pieces[name]), "{name} differs");
        let below = name.starts_with("embeddings.") || name.starts_with("encoder.layer.0.");
        // A key's bias has no effect on a softmax over keys, so it may stay as it is.
        if let Some(old) = before.get(name)
            && !name.ends_with("key.bias")
        {
            assert_eq!(tensor.equal(old), below, "{name}");
        }
    }
    // Without dropout, what is kept in memory is what the whole encoder computes, to the 11 bits of f16.
    let plain = |freeze, learning_rate| FitOptions {
        freeze,
        learning_rate,
        epochs: 1,
        dropout: 0.0,
        attention_dropout: 0.0,
        ..options.clone()
    };
    let first_gradient = |name: &str| {
        let log = fs::read_to_string(case.root.path().join(name).join("metrics.jsonl")).unwrap();
        let line: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
        line["gradient_norm"].as_f64().unwrap()
    };
    case.run("frozen", &FitOptions { head_factor: 1e-9, ..plain(1, 1e-9) }, None).unwrap();
    case.run("free", &FitOptions { head_factor: 1e-9, ..plain(0, 1e-9) }, None).unwrap();
    let (frozen, free) = (first_gradient("frozen"), first_gradient("free"));
    assert!((frozen / free - 1.0).abs() < 2e-3, "{frozen} {free}");
    assert!(refusal(&case, &FitOptions { freeze: 2, ..options.clone() }).contains("leaves nothing to train"));
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
    let error = refusal(&case, &wild);
    assert!(error.contains("at step") && error.contains("checkpoint"), "{error}");
}

#[test]
fn input_that_does_not_fit_is_refused_before_training() {
    let mut case = Case::new();
    let long = FitOptions { max_tokens: 97, ..options() };
    assert!(refusal(&case, &long).contains("3 to 96"));
    assert!(refusal(&case, &FitOptions { dropout: 1.0, ..options() }).contains("--dropout"));

    case.train[7].labels.push("X".into());
    let error = refusal(&case, &options());
    assert!(error.contains("training data") && error.contains("document 7") && error.contains("\"X\""), "{error}");

    case.train.clear();
    assert!(refusal(&case, &options()).contains("empty"));
    fs::remove_file(case.weights.join("vocab.txt")).unwrap();
    case.train = documents(5, 0);
    assert!(refusal(&case, &options()).contains("vocab.txt"));
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

#[test]
fn students_of_one_trunk_average_into_one_that_is_no_worse() {
    let case = Case::new();
    let trunk = case.run("trunk", &FitOptions { epochs: 6, ..options() }, None).unwrap().student;
    let codes = ["I".to_owned(), "S".to_owned()];
    let grow = |seed| {
        let labels = labels();
        let input = FitInput { weights: &trunk, ..case.input(&labels) };
        let output = case.output(&format!("branch-{seed}"), None);
        fit(&input, &FitOptions { seed, epochs: 4, ..options() }, &output, Device::Cpu).unwrap().student
    };
    let branches = [grow(5), grow(6), grow(7)];
    let members: Vec<&std::path::Path> = branches.iter().map(std::path::PathBuf::as_path).collect();
    let mean = average(&members, Device::Cpu).unwrap();

    let read = |folder: &std::path::Path| {
        let tensors = Tensor::read_safetensors(folder.join("model.safetensors")).unwrap();
        tensors.into_iter().collect::<HashMap<String, Tensor>>()
    };
    let tensors: Vec<_> = members.iter().map(|member| read(member)).collect();
    let written = case.root.path().join("mean");
    mean.model.write(&written, &mean.vocabulary, &mean.card).unwrap();
    for (name, tensor) in read(&written) {
        let expected = (&tensors[0][&name] + &tensors[1][&name] + &tensors[2][&name]) / 3.0;
        assert!(tensor.allclose(&expected, 1e-5, 1e-7, false), "{name} is not the mean");
        assert!(name.ends_with("key.bias") || !tensor.equal(&tensors[0][&name]), "{name}: the branches do not differ");
    }

    let mut encoder =
        Encoder::new(&mean.vocabulary, &mean.card.tokenizer, codes.to_vec(), 40, 8, Boundaries::Corpus).unwrap();
    let unseen = encoder.encode_all(&documents(100, 5000)).unwrap();
    let loss = |model: &Classifier| {
        let predictions = Predictions::of(model, &unseen, 8, Precision::F32, Device::Cpu, |_| ());
        DevScores::of(&predictions, &codes).unwrap().loss
    };
    let losses = members.iter().map(|member| loss(&Classifier::read(member, Device::Cpu).unwrap().0));
    assert!(loss(&mean.model) < losses.fold(0.0, f64::max));

    // What does not belong together is refused by name.
    let refused = |folder: &std::path::Path| format!("{:#}", average(&[members[0], folder], Device::Cpu).unwrap_err());
    let card = written.join("kdh.json");
    let text = fs::read_to_string(&card).unwrap();
    fs::write(&card, text.replace("\"S\"", "\"T\"")).unwrap();
    assert!(refused(&written).contains("other labels"), "{}", refused(&written));
    fs::write(&card, text).unwrap();
    fs::write(written.join("vocab.txt"), "[PAD]\n").unwrap();
    assert!(refused(&written).contains("other tokeniser"), "{}", refused(&written));
    assert!(average(&members[..1], Device::Cpu).is_err());
}
