//! The exported graphs give the same logits in tract, in ONNX Runtime and in a plain float64 computation of the model.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod tiny;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kdh_exporter::graph::{ABSENT, Precision, onnx};
use kdh_exporter::session::{Logits, Session};
use kdh_exporter::student::Student;
use kdh_format::student::Head;
use safetensors::SafeTensors;
use serde_json::{Value, json};

/// Largest difference of f32 logits.
const F32_BOUND: f32 = 1e-5;
/// Largest difference of int8 logits where all engines have the same integers.
const INT8_BOUND: f32 = 1e-5;
/// An engine's float32 error before rounding, in units of the integers, stays below this. Only inputs whose every
/// rounding is farther from a tie have the same integers everywhere.
const TIE_MARGIN: f64 = 1e-4;
/// Where one integer flips at a tie, the logits move by the noise of int8 itself: their distance from f32.
const INT8_NOISE: f32 = 0.1;

/// Verifies: R-013
#[test]
fn f32_graph_is_the_model() {
    for (architecture, head) in students() {
        let case = Case::new(architecture, head, Precision::F32, &[2, 3, 7, 12, 31, 64, 96]);
        for (index, reference) in case.reference.iter().enumerate() {
            let reference = logits(&reference["f32"]);
            for (engine, found) in [("tract", &case.tract[index]), ("ONNX Runtime", &case.onnx_runtime[index])] {
                let difference = difference(&reference, found);
                assert!(difference < F32_BOUND, "{architecture} {head:?} {index} {engine}: {difference}");
            }
        }
    }
}

/// Verifies: R-013
#[test]
fn int8_graph_has_the_stated_integers() {
    let lengths: Vec<usize> = (0..60).map(|index| 2 + index % 4).collect();
    for (architecture, head) in students() {
        let case = Case::new(architecture, head, Precision::Int8, &lengths);
        let mut clear = 0;
        for (index, reference) in case.reference.iter().enumerate() {
            let at_tie = reference["margin"].as_f64().unwrap() < TIE_MARGIN;
            clear += usize::from(!at_tie);
            let bound = if at_tie { INT8_NOISE } else { INT8_BOUND };
            let reference = logits(&reference["int8"]);
            for (engine, found) in [("tract", &case.tract[index]), ("ONNX Runtime", &case.onnx_runtime[index])] {
                let difference = difference(&reference, found);
                assert!(difference < bound, "{architecture} {head:?} {index} {engine}: {difference}, bound {bound}");
            }
        }
        assert!(clear >= lengths.len() / 4, "{architecture} {head:?}: only {clear} inputs are clear of ties");
    }
}

#[test]
fn long_inputs_keep_int8_near_f32() {
    for (architecture, head) in students() {
        let case = Case::new(architecture, head, Precision::Int8, &[31, 64, 96]);
        for (index, reference) in case.reference.iter().enumerate() {
            for found in [&case.tract[index], &case.onnx_runtime[index]] {
                let difference = difference(&logits(&reference["f32"]), found);
                assert!(difference < INT8_NOISE, "{architecture} {head:?} {index}: {difference}");
            }
        }
    }
}

/// The trainer's fixtures hold what `transformers` computes for random encoders. With an identity for a classifier and
/// each token in a sentence of its own, the sentence logits are the token states.
#[test]
fn f32_states_are_those_of_transformers() {
    for architecture in tiny::ARCHITECTURES {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../trainer/tests/data").join(architecture);
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str| std::fs::read(source.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        std::fs::write(folder.path().join("config.json"), read("config.json")).unwrap();
        let weights = read("model.safetensors");
        let mut tensors = tiny::Tensors::new();
        for (name, tensor) in SafeTensors::deserialize(&weights).unwrap().tensors() {
            if tensor.dtype() == safetensors::Dtype::F32 {
                tensors.insert(name, (tensor.shape().to_vec(), floats(tensor.data())));
            }
        }
        let hidden = tensors["embeddings.LayerNorm.weight"].0[0];
        let tokens = tensors["embeddings.word_embeddings.weight"].0[0];
        let identity = (0..hidden * hidden).map(|index| f32::from(u8::from(index % (hidden + 1) == 0))).collect();
        tensors.insert("classifier.weight".into(), (vec![hidden, hidden], identity));
        tensors.insert("classifier.bias".into(), (vec![hidden], vec![0.0; hidden]));
        tensors.insert("document_bias".into(), (vec![hidden], vec![0.0; hidden]));
        tiny::write_tensors(&folder.path().join("model.safetensors"), &tensors);
        let mut card = tiny::card("bert", Head::SentenceEvidence);
        let label = card.labels[0].clone();
        card.labels = (0..hidden)
            .map(|index| {
                let mut label = label.clone();
                label.code = index.to_string();
                label
            })
            .collect();
        card.max_sentences = 96;
        tiny::write_json(&folder.path().join("kdh.json"), &serde_json::to_value(&card).unwrap());
        let mut vocabulary: Vec<String> = (0..tokens).map(|index| format!("token{index}")).collect();
        for (index, token) in ["[CLS]", "[SEP]", "[UNK]"].into_iter().enumerate() {
            vocabulary[index] = token.into();
        }
        std::fs::write(folder.path().join("vocab.txt"), vocabulary.join("\n")).unwrap();

        let student = Student::read(folder.path()).unwrap();
        let session = Session::new(&onnx(&student, Precision::F32)).unwrap();
        let expected = read("expected.safetensors");
        let expected = SafeTensors::deserialize(&expected).unwrap();
        let ids = expected.tensor("ids").unwrap();
        let mask = integers(expected.tensor("mask").unwrap().data());
        let states = expected.tensor(&format!("states.{}", student.encoder.layers.len())).unwrap();
        let width = ids.shape()[1];
        let mut compared = 0;
        for (row, (ids, mask)) in integers(ids.data()).chunks(width).zip(mask.chunks(width)).enumerate() {
            let length = mask.iter().sum::<i64>() as usize;
            let ids: Vec<u32> = ids[..length].iter().map(|&id| id as u32).collect();
            let sentences: Vec<i32> = (0..length as i32).collect();
            let found = session.run(&ids, &sentences).unwrap();
            let states = &floats(states.data())[row * width * hidden..][..length * hidden];
            for (found, expected) in found.sentences.iter().zip(states) {
                assert!((found - expected).abs() < F32_BOUND, "{architecture} row {row}: {found} {expected}");
                compared += 1;
            }
        }
        assert!(compared > 500, "{architecture}: {compared}");
    }
}

#[test]
fn half_precision_weights_are_read() {
    let folder = tempfile::tempdir().unwrap();
    tiny::write_student(folder.path(), "bert", Head::SentenceEvidence, 1);
    let whole = Student::read(folder.path()).unwrap();
    let tensors = tiny::tensors("bert", whole.vocabulary.len(), 3, 1);
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, (shape, values))| {
            (name, shape, values.iter().flat_map(|value| value.to_le_bytes()[2..].to_vec()).collect())
        })
        .collect();
    let views = bytes.iter().map(|(name, shape, bytes)| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::BF16, shape.clone(), bytes);
        (name.as_str(), view.unwrap())
    });
    let file = folder.path().join("model.safetensors");
    std::fs::write(file, safetensors::serialize(views, None).unwrap()).unwrap();
    let half = Student::read(folder.path()).unwrap();
    for (half, whole) in half.encoder.words.values.iter().zip(&whole.encoder.words.values) {
        assert!((half - whole).abs() <= whole.abs() / 128.0, "{half} {whole}");
    }
}

fn students() -> impl Iterator<Item = (&'static str, Head)> {
    tiny::ARCHITECTURES.into_iter().flat_map(|name| [(name, Head::SentenceEvidence), (name, Head::Mean)])
}

/// One student's graph, run three ways on inputs of the given lengths.
struct Case {
    tract: Vec<Logits>,
    onnx_runtime: Vec<Logits>,
    reference: Vec<Value>,
}

impl Case {
    fn new(architecture: &str, head: Head, precision: Precision, lengths: &[usize]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        tiny::write_student(folder.path(), architecture, head, 7);
        let student = Student::read(folder.path()).unwrap();
        let model = onnx(&student, precision);
        let file = folder.path().join("model.onnx");
        std::fs::write(&file, &model).unwrap();

        let session = Session::new(&model).unwrap();
        let inputs: Vec<(Vec<u32>, Vec<i32>)> = lengths
            .iter()
            .enumerate()
            .map(|(index, &length)| tiny::input(length, student.vocabulary.len(), index as u64))
            .collect();
        let tract = inputs.iter().map(|(ids, sentences)| session.run(ids, sentences).unwrap()).collect();
        let inputs: Value =
            inputs.iter().map(|(ids, sentences)| json!({ "ids": ids, "sentence_ids": sentences })).collect();
        let onnx_runtime = python("scripts/onnx_run.py", &file, &inputs);
        Self {
            tract,
            onnx_runtime: onnx_runtime.iter().map(logits).collect(),
            reference: python("scripts/fixtures/onnx_reference.py", folder.path(), &inputs),
        }
    }
}

/// Runs a script of the repository with one argument and JSON in and out.
fn python(script: &str, argument: &Path, input: &Value) -> Vec<Value> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let interpreter = root.join("third_party/venv/bin/python");
    assert!(interpreter.exists(), "third_party/venv is missing; run scripts/fetch-python once");
    let mut child = Command::new(interpreter)
        .arg(root.join(script))
        .arg(argument)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{script} failed");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn logits(value: &Value) -> Logits {
    let floats = |value: &Value| -> Vec<f32> {
        value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
    };
    Logits {
        sentences: value["sentences"].as_array().unwrap().iter().flat_map(floats).collect(),
        document: floats(&value["document"]),
    }
}

/// Largest difference of two results; they must agree on which sentences are absent.
fn difference(a: &Logits, b: &Logits) -> f32 {
    assert_eq!((a.sentences.len(), a.document.len()), (b.sentences.len(), b.document.len()));
    let mut largest = 0f32;
    for (a, b) in a.sentences.iter().zip(&b.sentences).chain(a.document.iter().zip(&b.document)) {
        assert_eq!(*a == ABSENT, *b == ABSENT);
        // A document without sentences lies near ABSENT, where f32 has steps of 64.
        if *a > ABSENT / 2.0 {
            largest = largest.max((a - b).abs());
        } else {
            assert!(*b <= ABSENT / 2.0);
        }
    }
    largest
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect()
}

fn integers(bytes: &[u8]) -> Vec<i64> {
    bytes.as_chunks().0.iter().map(|&value| i64::from_le_bytes(value)).collect()
}
