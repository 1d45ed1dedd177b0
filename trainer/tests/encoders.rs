//! The encoder against the Python `transformers` package, tensor by tensor, on tiny random weights.
//!
//! `scripts/fixtures/encoders.py` makes the fixtures.

#![expect(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

use std::collections::HashMap;
use std::path::PathBuf;

use kdh_trainer::config::EncoderConfig;
use kdh_trainer::encoder::{Encoder, Pass, Precision, Tensors};
use kdh_trainer::model::read_encoder;
use tch::{Device, Kind, Tensor};

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn encoder(name: &str) -> Encoder {
    let config = EncoderConfig::read(&folder(name)).unwrap();
    let named = Tensor::read_safetensors(folder(name).join("model.safetensors")).unwrap();
    let mut tensors = Tensors::new(named, config.architecture, Device::Cpu);
    Encoder::from_tensors(config, &mut tensors).unwrap()
}

fn compare(name: &str, precision: Precision, bound: f64) {
    let expected: HashMap<String, Tensor> =
        Tensor::read_safetensors(folder(name).join("expected.safetensors")).unwrap().into_iter().collect();
    let mask = expected["mask"].to_kind(Kind::Bool);
    let states = encoder(name).states(&expected["ids"], &mask, Pass::evaluation(precision));
    assert_eq!(states.len(), 3, "embeddings and two layers");
    for (level, state) in states.iter().enumerate() {
        let real = state * mask.unsqueeze(-1).to_kind(Kind::Float);
        let difference = (&real - &expected[&format!("states.{level}")]).abs().max().double_value(&[]);
        assert!(difference < bound, "{name}, level {level}: {difference}");
    }
}

#[test]
fn bert_equals_transformers() {
    compare("bert", Precision::F32, 2e-5);
}

/// The same weights as a pickle with the norms' old names and a prefix.
#[test]
fn the_first_bert_checkpoints_are_read() {
    let old = tempfile::tempdir().unwrap();
    for file in ["config.json", "pytorch_model.bin"] {
        std::fs::copy(folder("bert").join(file), old.path().join(file)).unwrap();
    }
    let (read, _) = read_encoder(old.path(), Device::Cpu).unwrap();
    let ids = Tensor::from_slice(&[5i64, 6, 7, 8]).view([1, 4]);
    let mask = ids.ones_like().to_kind(Kind::Bool);
    let pass = Pass::evaluation(Precision::F32);
    assert!(read.forward(&ids, &mask, pass).equal(&encoder("bert").forward(&ids, &mask, pass)));
}

#[test]
fn distilbert_equals_transformers() {
    compare("distilbert", Precision::F32, 2e-5);
}

#[test]
fn mpnet_equals_transformers() {
    compare("mpnet", Precision::F32, 2e-5);
}

/// bfloat16 has 8 bits of mantissa: states of unit variance stay within a tenth.
#[test]
fn bf16_stays_near() {
    compare("bert", Precision::Bf16, 0.1);
}

#[test]
fn padding_changes_nothing() {
    let encoder = encoder("mpnet");
    let pass = Pass::evaluation(Precision::F32);
    let ids = Tensor::from_slice(&[5i64, 6, 7, 8]).view([1, 4]);
    let alone = encoder.forward(&ids, &ids.ones_like().to_kind(Kind::Bool), pass);
    let padded = Tensor::cat(&[&ids, &Tensor::ones([1, 3], (Kind::Int64, Device::Cpu))], 1);
    let mask = Tensor::from_slice(&[true, true, true, true, false, false, false]).view([1, 7]);
    let beside = encoder.forward(&padded, &mask, pass).narrow(1, 0, 4);
    assert!((alone - beside).abs().max().double_value(&[]) < 1e-5);
}

#[test]
fn a_missing_or_misshapen_tensor_is_named() {
    let config = EncoderConfig::read(&folder("bert")).unwrap();
    let read = || Tensor::read_safetensors(folder("bert").join("model.safetensors")).unwrap();
    let lost = "encoder.layer.1.output.dense.bias";
    let build = |named| {
        let mut tensors = Tensors::new(named, config.architecture, Device::Cpu);
        Encoder::from_tensors(config.clone(), &mut tensors).unwrap_err().to_string()
    };
    let without = read().into_iter().filter(|(name, _)| name != lost).collect();
    assert!(build(without).contains(lost));
    let short = read()
        .into_iter()
        .map(|(name, tensor)| if name == lost { (name, tensor.narrow(0, 0, 3)) } else { (name, tensor) })
        .collect();
    let message = build(short);
    assert!(message.contains(lost) && message.contains("[3]"), "{message}");
}
