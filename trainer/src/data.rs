//! Labelled documents as tensors: tokens, sentences and labels, batched by length.

use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail, ensure};
use kdh_format::student::TokenizerCard;
use kdh_runtime::dataset::Document;
use kdh_runtime::text::{Encoding, Sentence, Sentences, Tokenizer, TokenizerOptions};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use crate::fit::LabelName;

/// One document as the model reads it.
#[derive(Clone, Debug)]
pub struct Example {
    /// The document's name in its file.
    pub id: String,
    /// Token ids, special tokens included.
    pub ids: Vec<i64>,
    /// Sentence of each token, -1 for special tokens.
    pub sentence_ids: Vec<i64>,
    /// Byte of the text that each sentence begins at, for the sentences that have a token.
    pub sentence_starts: Vec<u32>,
    /// One flag a label; all false, and meaning nothing, when the document is not [`labelled`](Self::labelled).
    pub labels: Vec<bool>,
    /// Whether the labels are known. A transfer document, which only a teacher labels, has none.
    pub labelled: bool,
    /// One flag a label for each sentence; empty when the corpus has no sentence labels.
    pub sentence_labels: Vec<Vec<bool>>,
    /// What a teacher says of it.
    pub teacher: Option<TeacherLogits>,
    /// Tokens that did not fit.
    pub dropped_tokens: usize,
}

/// A teacher's logits for one document: soft targets.
#[derive(Clone, Debug, PartialEq)]
pub struct TeacherLogits {
    /// One logit a label.
    pub document: Vec<f32>,
    /// One row of logits for each sentence of the example; `None` for a sentence that the teacher did not see.
    pub sentences: Vec<Option<Vec<f32>>>,
}

/// Where sentences begin and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Boundaries {
    /// As the box will find them, by the runtime's own splitter.
    Box,
    /// As the corpus has them; documents without any fall back to the splitter.
    Corpus,
}

/// Turns documents into examples.
#[derive(Debug)]
pub struct Encoder {
    tokenizer: Tokenizer,
    encoding: Encoding<'static>,
    codes: Vec<String>,
    boundaries: Boundaries,
}

impl Encoder {
    /// An encoder for texts of up to `max_tokens` tokens and labels `codes`, in the order of the logits.
    ///
    /// # Errors
    /// When the vocabulary is not usable.
    pub fn new(
        vocabulary: &[u8],
        card: &TokenizerCard,
        codes: Vec<String>,
        max_tokens: usize,
        max_sentences: usize,
        boundaries: Boundaries,
    ) -> Result<Self> {
        let options = TokenizerOptions { lowercase: card.lowercase, cls: &card.cls, sep: &card.sep, unk: &card.unk };
        let tokenizer = Tokenizer::new(vocabulary, &options).context("vocab.txt cannot be used")?;
        Ok(Self { tokenizer, encoding: Encoding::new(max_tokens, max_sentences), codes, boundaries })
    }

    /// Number of tokens in the vocabulary.
    pub fn vocabulary_len(&self) -> usize {
        self.tokenizer.vocabulary_len()
    }

    /// Encodes one document.
    ///
    /// A sentence has a label when it overlaps a labelled sentence of the corpus, so that sentence labels survive other
    /// boundaries than the corpus's own.
    ///
    /// # Errors
    /// When a label is unknown.
    pub fn encode(&mut self, document: &Document) -> Result<Example> {
        let labels = flags(&document.labels, &self.codes).with_context(|| format!("document {}", document.id))?;
        let mut example = self.encode_text(document);
        example.labels = labels;
        example.labelled = true;
        if !document.sentences.is_empty() {
            example.sentence_labels =
                self.sentence_flags(document).with_context(|| format!("sentences of document {}", document.id))?;
        }
        Ok(example)
    }

    /// Encodes the text of a transfer document and leaves its labels alone: they may be those of another task.
    pub fn encode_text(&mut self, document: &Document) -> Example {
        let text = &document.text;
        let encoding = &mut self.encoding;
        if self.boundaries == Boundaries::Corpus && !document.sentences.is_empty() {
            let ranges = document.sentences.iter().map(|sentence| sentence.start..sentence.end);
            self.tokenizer.encode(text, ranges, encoding);
        } else {
            self.tokenizer.encode(text, Sentences::new(text), encoding);
        }
        let ids = self.encoding.ids().iter().map(|&id| i64::from(id)).collect();
        let sentence_ids = self.encoding.sentence_ids().iter().map(|&id| i64::from(id)).collect();
        Example {
            id: document.id.clone(),
            ids,
            sentence_ids,
            sentence_starts: self.encoding.sentences().map(|sentence| sentence.start).collect(),
            labels: vec![false; self.codes.len()],
            labelled: false,
            sentence_labels: Vec::new(),
            teacher: None,
            dropped_tokens: self.encoding.text_tokens() - self.encoding.kept_tokens(),
        }
    }

    /// Encodes all documents.
    ///
    /// # Errors
    /// When there are none, or a label is unknown.
    pub fn encode_all(&mut self, documents: &[Document]) -> Result<Vec<Example>> {
        ensure!(!documents.is_empty(), "there are no documents");
        documents.iter().map(|document| self.encode(document)).collect()
    }

    /// Labels of every sentence of the encoding, which is that of `document`.
    fn sentence_flags(&self, document: &Document) -> Result<Vec<Vec<bool>>> {
        let row = |sentence: Sentence| {
            let mut merged = vec![false; self.codes.len()];
            for labelled in &document.sentences {
                if labelled.start < sentence.end as usize && (sentence.start as usize) < labelled.end {
                    for (to, from) in merged.iter_mut().zip(flags(&labelled.labels, &self.codes)?) {
                        *to |= from;
                    }
                }
            }
            Ok(merged)
        };
        self.encoding.sentences().map(row).collect()
    }
}

/// One flag a code.
fn flags(labels: &[String], codes: &[String]) -> Result<Vec<bool>> {
    if let Some(label) = labels.iter().find(|label| !codes.contains(label)) {
        bail!("label {label:?} is not one of {}", codes.join(", "));
    }
    Ok(codes.iter().map(|code| labels.contains(code)).collect())
}

/// One row of flags a document.
pub(crate) fn document_flags(documents: &[Document], codes: &[String]) -> Result<Vec<Vec<bool>>> {
    let row = |document: &Document| {
        flags(&document.labels, codes).map_err(|error| anyhow!("document {}: {error}", document.id))
    };
    documents.iter().map(row).collect()
}

/// Several examples of about the same length, padded to the longest.
#[derive(Debug)]
pub struct Batch {
    /// int64 `[batch, tokens]`.
    pub ids: Tensor,
    /// bool `[batch, tokens]`, true for real tokens.
    pub mask: Tensor,
    /// int64 `[batch, tokens]`, -1 where a token belongs to no sentence.
    pub sentence_ids: Tensor,
    /// Most sentences of any example in the batch, at least 1.
    pub sentences: i64,
    /// f32 `[batch, labels]`, 0 or 1.
    pub labels: Tensor,
    /// f32 `[batch, 1]`, 1 where the labels are known.
    pub label_weights: Tensor,
    /// f32 `[batch, sentences, labels]`, 0 or 1.
    pub sentence_labels: Tensor,
    /// f32 `[batch, sentences]`, 1 where a sentence exists and its labels are known.
    pub sentence_weights: Tensor,
    /// What a teacher says, when any example of the batch has it.
    pub teacher: Option<TeacherBatch>,
}

/// A teacher's logits for a batch.
#[derive(Debug)]
pub struct TeacherBatch {
    /// f32 `[batch, labels]`.
    pub documents: Tensor,
    /// f32 `[batch, 1]`, 1 where the teacher saw the document.
    pub document_weights: Tensor,
    /// f32 `[batch, sentences, labels]`.
    pub sentences: Tensor,
    /// f32 `[batch, sentences, 1]`, 1 where the teacher saw the sentence.
    pub sentence_weights: Tensor,
}

impl Batch {
    /// Puts examples side by side. There is at least one, and all have as many labels.
    pub fn new(examples: &[&Example], pad_id: i64, device: Device) -> Self {
        let batch = examples.len();
        let tokens = examples.iter().map(|example| example.ids.len()).max().unwrap_or(0);
        let sentences = examples.iter().map(|example| example.sentence_starts.len()).max().unwrap_or(0).max(1);
        let labels = examples.first().map_or(0, |example| example.labels.len());
        let mut ids = vec![pad_id; batch * tokens];
        let mut mask = vec![false; batch * tokens];
        let mut sentence_ids = vec![-1; batch * tokens];
        let mut truth = vec![0f32; batch * labels];
        let mut known = vec![0f32; batch];
        let mut sentence_truth = vec![0f32; batch * sentences * labels];
        let mut weights = vec![0f32; batch * sentences];
        for (row, example) in examples.iter().enumerate() {
            let start = row * tokens;
            let length = example.ids.len();
            ids[start..start + length].copy_from_slice(&example.ids);
            sentence_ids[start..start + length].copy_from_slice(&example.sentence_ids);
            mask[start..start + length].fill(true);
            known[row] = f32::from(example.labelled);
            for (label, &flag) in example.labels.iter().enumerate() {
                truth[row * labels + label] = f32::from(flag);
            }
            for (sentence, flags) in example.sentence_labels.iter().enumerate() {
                weights[row * sentences + sentence] = 1.0;
                for (label, &flag) in flags.iter().enumerate() {
                    sentence_truth[(row * sentences + sentence) * labels + label] = f32::from(flag);
                }
            }
        }
        let teacher = TeacherBatch::new(examples, sentences, labels, device);
        let [batch, tokens, sentences, labels] = [batch, tokens, sentences, labels].map(|size| size as i64);
        let on = |tensor: Tensor, shape: &[i64]| tensor.view(shape).to_device(device);
        Self {
            ids: on(Tensor::from_slice(&ids), &[batch, tokens]),
            mask: on(Tensor::from_slice(&mask), &[batch, tokens]).to_kind(Kind::Bool),
            sentence_ids: on(Tensor::from_slice(&sentence_ids), &[batch, tokens]),
            sentences,
            labels: on(Tensor::from_slice(&truth), &[batch, labels]),
            label_weights: on(Tensor::from_slice(&known), &[batch, 1]),
            sentence_labels: on(Tensor::from_slice(&sentence_truth), &[batch, sentences, labels]),
            sentence_weights: on(Tensor::from_slice(&weights), &[batch, sentences]),
            teacher,
        }
    }
}

impl TeacherBatch {
    fn new(examples: &[&Example], sentences: usize, labels: usize, device: Device) -> Option<Self> {
        if examples.iter().all(|example| example.teacher.is_none()) {
            return None;
        }
        let batch = examples.len();
        let mut documents = vec![0f32; batch * labels];
        let mut document_weights = vec![0f32; batch];
        let mut rows = vec![0f32; batch * sentences * labels];
        let mut row_weights = vec![0f32; batch * sentences];
        for (index, teacher) in
            examples.iter().enumerate().filter_map(|(row, example)| Some((row, example.teacher.as_ref()?)))
        {
            documents[index * labels..(index + 1) * labels].copy_from_slice(&teacher.document);
            document_weights[index] = 1.0;
            for (sentence, logits) in teacher.sentences.iter().enumerate() {
                if let Some(logits) = logits {
                    let row = index * sentences + sentence;
                    rows[row * labels..(row + 1) * labels].copy_from_slice(logits);
                    row_weights[row] = 1.0;
                }
            }
        }
        let [batch, sentences, labels] = [batch, sentences, labels].map(|size| size as i64);
        let on = |values: &[f32], shape: &[i64]| Tensor::from_slice(values).view(shape).to_device(device);
        Some(Self {
            documents: on(&documents, &[batch, labels]),
            document_weights: on(&document_weights, &[batch, 1]),
            sentences: on(&rows, &[batch, sentences, labels]),
            sentence_weights: on(&row_weights, &[batch, sentences, 1]),
        })
    }
}

/// The order of one epoch: indices of the examples of every batch.
///
/// Examples are shuffled, sorted by length within stretches of 16 batches, and the batches shuffled again: little
/// padding, and still random. The same seed and epoch give the same order.
pub fn epoch_order(examples: &[Example], batch_size: usize, seed: u64, epoch: usize) -> Vec<Vec<usize>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ (epoch as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut order: Vec<usize> = (0..examples.len()).collect();
    order.shuffle(&mut random);
    let mut batches: Vec<Vec<usize>> = Vec::new();
    for stretch in order.chunks_mut(batch_size * 16) {
        stretch.sort_by_key(|&index| examples[index].ids.len());
        batches.extend(stretch.chunks(batch_size).map(<[usize]>::to_vec));
    }
    batches.shuffle(&mut random);
    batches
}

/// Share of labelled examples that have each label, as the starting point of a head: among labelled sentences where
/// there are any, else among documents.
pub fn base_rates(examples: &[Example], labels: usize) -> Vec<f64> {
    let by_sentence = examples.iter().any(|example| !example.sentence_labels.is_empty());
    let mut counts = vec![0usize; labels];
    let mut total = 0;
    let mut count = |flags: &[bool]| {
        total += 1;
        for (count, &flag) in counts.iter_mut().zip(flags) {
            *count += usize::from(flag);
        }
    };
    for example in examples.iter().filter(|example| example.labelled) {
        if by_sentence {
            example.sentence_labels.iter().for_each(|flags| count(flags));
        } else {
            count(&example.labels);
        }
    }
    counts.iter().map(|&count| count as f64 / total.max(1) as f64).collect()
}

/// Every label of the documents, sorted.
pub fn label_codes(documents: &[Document]) -> Vec<String> {
    let mut codes: Vec<String> = documents.iter().flat_map(|document| document.labels.iter().cloned()).collect();
    codes.sort();
    codes.dedup();
    codes
}

/// Reads a labelled file.
///
/// # Errors
/// As the runtime's reader; the text names the file and the line.
pub fn read(path: &Path) -> Result<Vec<Document>> {
    kdh_runtime::dataset::read(path).with_context(|| format!("cannot read the data {}", path.display()))
}

/// Reads the labels of a model in the order of its logits: a JSON list of `{"code", "name"}`.
///
/// # Errors
/// When the file cannot be read or is not such a list.
pub fn read_labels(path: &Path) -> Result<Vec<LabelName>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not a list of {{\"code\", \"name\"}}", path.display()))
}

/// One part of a cross-validation, written `I/K`: part I of K is held out, I from 1 to K.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fold {
    part: usize,
    parts: usize,
}

impl FromStr for Fold {
    type Err = FoldError;

    fn from_str(text: &str) -> Result<Self, FoldError> {
        text.split_once('/')
            .and_then(|(part, parts)| Some(Self { part: part.parse().ok()?, parts: parts.parse().ok()? }))
            .filter(|fold| fold.parts >= 2 && (1..=fold.parts).contains(&fold.part))
            .ok_or(FoldError)
    }
}

/// A text is not a [`Fold`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FoldError;

impl fmt::Display for FoldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a fold is I/K with K at least 2 and I from 1 to K, as in 2/5")
    }
}

impl std::error::Error for FoldError {}

/// The documents to train on and those that are held out: every K-th, so that a fold does not depend on the order in
/// which a corpus lists its topics.
///
/// # Errors
/// When there are fewer documents than folds.
pub fn split(documents: &[Document], fold: Fold) -> Result<(Vec<Document>, Vec<Document>)> {
    ensure!(documents.len() >= fold.parts, "{} documents cannot make {} folds", documents.len(), fold.parts);
    let (held_out, train): (Vec<_>, Vec<_>) =
        documents.iter().enumerate().partition(|(index, _)| index % fold.parts == fold.part - 1);
    let owned = |list: Vec<(usize, &Document)>| list.into_iter().map(|(_, document)| document.clone()).collect();
    Ok((owned(train), owned(held_out)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(length: usize) -> Example {
        Example {
            id: length.to_string(),
            ids: vec![5; length],
            sentence_ids: vec![0; length],
            sentence_starts: vec![0],
            labels: vec![true, false],
            labelled: true,
            teacher: None,
            sentence_labels: vec![vec![false, true]],
            dropped_tokens: 0,
        }
    }

    #[test]
    fn an_epoch_holds_every_example_once_and_repeats_by_seed() {
        let examples: Vec<Example> = (1..100).map(example).collect();
        let order = epoch_order(&examples, 8, 7, 3);
        let mut all: Vec<usize> = order.concat();
        all.sort_unstable();
        assert_eq!(all, (0..99).collect::<Vec<_>>());
        assert_eq!(order, epoch_order(&examples, 8, 7, 3));
        assert_ne!(order, epoch_order(&examples, 8, 7, 4));
        assert_ne!(order, epoch_order(&examples, 8, 8, 3));
    }

    #[test]
    fn a_batch_pads_to_its_longest() {
        let (short, long) = (example(2), example(5));
        let batch = Batch::new(&[&short, &long], 9, Device::Cpu);
        assert_eq!(batch.ids.size(), [2, 5]);
        assert_eq!(i64::try_from(batch.mask.sum(Kind::Int64)).unwrap(), 7);
        assert_eq!(batch.ids.int64_value(&[0, 4]), 9);
        assert_eq!(batch.sentence_ids.int64_value(&[0, 4]), -1);
        assert_eq!(batch.sentence_labels.double_value(&[1, 0, 1]), 1.0);
    }

    #[test]
    fn base_rates_prefer_sentences() {
        assert_eq!(base_rates(&[example(1)], 2), [0.0, 1.0]);
        let mut plain = example(1);
        plain.sentence_labels.clear();
        assert_eq!(base_rates(&[plain], 2), [1.0, 0.0]);
    }

    #[test]
    fn folds_hold_every_document_out_once() {
        let document =
            |id: usize| Document { id: id.to_string(), text: String::new(), labels: vec![], sentences: vec![] };
        let documents: Vec<Document> = (0..11).map(document).collect();
        let mut held_out: Vec<String> = Vec::new();
        for fold in ["1/3", "2/3", "3/3"] {
            let (train, rest) = split(&documents, fold.parse().unwrap()).unwrap();
            assert_eq!(train.len() + rest.len(), 11);
            held_out.extend(rest.into_iter().map(|document| document.id));
        }
        held_out.sort_by_key(|id| id.parse::<usize>().unwrap());
        assert_eq!(held_out, documents.iter().map(|document| document.id.clone()).collect::<Vec<_>>());
        for bad in ["", "3", "0/3", "4/3", "1/1", "a/b"] {
            assert_eq!(bad.parse::<Fold>(), Err(FoldError), "{bad}");
        }
        assert!(split(&documents, "1/12".parse().unwrap()).is_err());
    }
}
