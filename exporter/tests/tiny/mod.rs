//! A tiny student of random weights, the same on every machine: for tests of everything that reads a student or a
//! bundle. It has learned nothing; its labels mean nothing.

#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test fixture that cannot be written fails the test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use kdh_format::student::{Head, Provenance, STUDENT_CARD_FILE, StudentCard, StudentLabel, TokenizerCard};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

pub(crate) const HIDDEN: usize = 32;
pub(crate) const INTERMEDIATE: usize = 64;
pub(crate) const HEADS: usize = 4;
pub(crate) const LAYERS: usize = 2;
pub(crate) const MAX_TOKENS: usize = 96;
pub(crate) const MAX_SENTENCES: usize = 64;
const BUCKETS: usize = 32;

/// `model_type` of the three architectures.
pub(crate) const ARCHITECTURES: [&str; 3] = ["bert", "distilbert", "mpnet"];

/// Writes a whole student folder.
pub(crate) fn write_student(folder: &Path, architecture: &str, head: Head, seed: u64) {
    fs::create_dir_all(folder).unwrap();
    let vocabulary = vocabulary(architecture);
    fs::write(folder.join("vocab.txt"), vocabulary.join("\n") + "\n").unwrap();
    write_json(&folder.join("config.json"), &config(architecture, vocabulary.len()));
    let card = card(architecture, head);
    write_json(&folder.join(STUDENT_CARD_FILE), &serde_json::to_value(&card).unwrap());
    write_tensors(&folder.join("model.safetensors"), &tensors(architecture, vocabulary.len(), card.labels.len(), seed));
}

/// The card of a tiny student.
pub(crate) fn card(architecture: &str, head: Head) -> StudentCard {
    let [cls, sep, unk] = special_tokens(architecture);
    let label = |code: &str, name: &str, threshold| StudentLabel { code: code.into(), name: name.into(), threshold };
    StudentCard {
        version: 1,
        name: "tiny".into(),
        head,
        labels: vec![label("A", "first label", 0.5), label("B", "second label", 0.4), label("C", "third label", 0.6)],
        max_tokens: MAX_TOKENS as u32,
        max_sentences: MAX_SENTENCES as u32,
        tokenizer: TokenizerCard { lowercase: true, cls: cls.into(), sep: sep.into(), unk: unk.into() },
        provenance: Provenance {
            data: "none: random weights for tests".into(),
            data_licence: "MIT OR Apache-2.0".into(),
            weights: "none".into(),
            weights_licence: "MIT OR Apache-2.0".into(),
            command: "cargo run -p kdh-exporter --example tiny-student".into(),
            ..Provenance::default()
        },
    }
}

/// Special tokens, single characters, their continuations, and words.
pub(crate) fn vocabulary(architecture: &str) -> Vec<String> {
    let [cls, sep, unk] = special_tokens(architecture);
    let pad = if architecture == "mpnet" { "<pad>" } else { "[PAD]" };
    let characters = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?()[]/%+-='\"<>&*#°µαβγδμπ中文";
    let letters = characters.chars().filter(|character| character.is_alphanumeric());
    [cls, pad, sep, unk, "[MASK]"]
        .into_iter()
        .map(String::from)
        .chain(characters.chars().map(String::from))
        .chain(letters.map(|letter| format!("##{letter}")))
        .chain(include_str!("words.txt").lines().filter(|word| word.chars().count() > 1).map(String::from))
        .collect()
}

/// Random weights by name; the names carry the architecture's prefix, as `transformers` saves a classifier.
pub(crate) fn tensors(architecture: &str, vocabulary: usize, labels: usize, seed: u64) -> Tensors {
    let mut random = Random(seed);
    let mut tensors = Tensors::new();
    let norm_parts = [("weight", 1.0, 0.2), ("bias", 0.0, 0.1)];
    let mut add = |name: &str, shape: &[usize], centre: f32, spread: f32| {
        let name = if name.starts_with("classifier") || name == "document_bias" {
            name.to_owned()
        } else {
            format!("{architecture}.{name}")
        };
        let values = (0..shape.iter().product()).map(|_| centre + spread * random.next()).collect();
        tensors.insert(name, (shape.to_vec(), values));
    };
    add("embeddings.word_embeddings.weight", &[vocabulary, HIDDEN], 0.0, 1.0);
    add("embeddings.position_embeddings.weight", &[position_rows(architecture), HIDDEN], 0.0, 0.3);
    if architecture == "bert" {
        add("embeddings.token_type_embeddings.weight", &[2, HIDDEN], 0.0, 0.3);
    }
    if architecture == "mpnet" {
        add("encoder.relative_attention_bias.weight", &[BUCKETS, HEADS], 0.0, 1.0);
    }
    for (part, centre, spread) in norm_parts {
        add(&format!("embeddings.LayerNorm.{part}"), &[HIDDEN], centre, spread);
    }
    for index in 0..LAYERS {
        let (layer, linears, norms) = layer_names(architecture, index);
        let shapes = [[HIDDEN, HIDDEN]; 4].into_iter().chain([[INTERMEDIATE, HIDDEN], [HIDDEN, INTERMEDIATE]]);
        for (name, shape) in linears.into_iter().zip(shapes) {
            add(&format!("{layer}.{name}.weight"), &shape, 0.0, 0.3);
            add(&format!("{layer}.{name}.bias"), &shape[..1], 0.0, 0.1);
        }
        for name in norms {
            for (part, centre, spread) in norm_parts {
                add(&format!("{layer}.{name}.{part}"), &[HIDDEN], centre, spread);
            }
        }
    }
    add("classifier.weight", &[labels, HIDDEN], 0.0, 0.5);
    add("classifier.bias", &[labels], 0.0, 0.5);
    add("document_bias", &[labels], 0.0, 0.5);
    tensors
}

/// Shape and values of each tensor, by name.
pub(crate) type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Writes tensors as a safetensors file of `f32`.
pub(crate) fn write_tensors(path: &Path, tensors: &Tensors) {
    let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| (name, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect()))
        .collect();
    let views = bytes
        .iter()
        .map(|(name, shape, bytes)| (name.as_str(), TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Writes JSON for people.
pub(crate) fn write_json(path: &Path, value: &serde_json::Value) {
    fs::write(path, serde_json::to_string_pretty(value).unwrap() + "\n").unwrap();
}

/// Token and sentence ids of an input of `tokens` tokens, the specials included; sentences of five tokens.
pub(crate) fn input(tokens: usize, vocabulary: usize, seed: u64) -> (Vec<u32>, Vec<i32>) {
    let mut random = Random(seed);
    let ids = (0..tokens).map(|_| random.bits() as u32 % vocabulary as u32).collect();
    let special = |index: usize| index == 0 || index + 1 == tokens;
    let sentences = (0..tokens).map(|index| if special(index) { -1 } else { (index as i32 - 1) / 5 }).collect();
    (ids, sentences)
}

fn config(architecture: &str, vocabulary: usize) -> serde_json::Value {
    let positions = position_rows(architecture);
    if architecture == "distilbert" {
        return json!({
            "model_type": architecture, "activation": "gelu", "dim": HIDDEN, "n_heads": HEADS, "n_layers": LAYERS,
            "hidden_dim": INTERMEDIATE, "max_position_embeddings": positions, "vocab_size": vocabulary
        });
    }
    json!({
        "model_type": architecture, "hidden_act": "gelu", "hidden_size": HIDDEN, "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS, "intermediate_size": INTERMEDIATE, "max_position_embeddings": positions,
        "vocab_size": vocabulary, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
        "relative_attention_num_buckets": BUCKETS
    })
}

/// More rows than the card's longest input, so that dropping the rest is under test.
fn position_rows(architecture: &str) -> usize {
    if architecture == "mpnet" { MAX_TOKENS + 6 } else { MAX_TOKENS + 4 }
}

fn special_tokens(architecture: &str) -> [&'static str; 3] {
    if architecture == "mpnet" { ["<s>", "</s>", "[UNK]"] } else { ["[CLS]", "[SEP]", "[UNK]"] }
}

fn layer_names(architecture: &str, index: usize) -> (String, [&'static str; 6], [&'static str; 2]) {
    match architecture {
        "bert" => (
            format!("encoder.layer.{index}"),
            [
                "attention.self.query",
                "attention.self.key",
                "attention.self.value",
                "attention.output.dense",
                "intermediate.dense",
                "output.dense",
            ],
            ["attention.output.LayerNorm", "output.LayerNorm"],
        ),
        "distilbert" => (
            format!("transformer.layer.{index}"),
            ["attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2"],
            ["sa_layer_norm", "output_layer_norm"],
        ),
        "mpnet" => (
            format!("encoder.layer.{index}"),
            [
                "attention.attn.q",
                "attention.attn.k",
                "attention.attn.v",
                "attention.attn.o",
                "intermediate.dense",
                "output.dense",
            ],
            ["attention.LayerNorm", "output.LayerNorm"],
        ),
        other => panic!("no such architecture: {other}"),
    }
}

/// SplitMix64 (Steele et al. 2014): integers only, so that every machine has the same numbers.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A multiple of 2^-23 from -1 to 1.
    fn next(&mut self) -> f32 {
        ((self.bits() >> 40) as f32) / (1u32 << 23) as f32 - 1.0
    }
}
