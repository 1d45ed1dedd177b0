//! Predictions over labelled data, and what they are worth.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use kdh_runtime::metrics::{Metrics, evaluate};
use serde::{Deserialize, Serialize};
use tch::Device;

use crate::data::{Batch, Example};
use crate::encoder::{Pass, Precision};
use crate::model::{Classifier, rows};

/// Logits of a set of documents, and of their sentences where the model has them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Predictions {
    /// Document names.
    pub ids: Vec<String>,
    /// One flag a label and document, row after row.
    pub truth: Vec<bool>,
    /// One logit a label and document, row after row.
    pub logits: Vec<f32>,
    /// One entry a document; empty lists where the model has no sentence logits.
    pub sentences: Vec<SentenceLogits>,
}

/// Logits of one document's sentences.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SentenceLogits {
    /// Byte of the text that each sentence begins at: what two models' sentences are matched by.
    pub starts: Vec<u32>,
    /// One logit a sentence and label, row after row.
    pub logits: Vec<f32>,
}

impl Predictions {
    /// Runs the model over the examples, longest first, and calls `progress` with the number done after each batch.
    pub fn of(
        model: &Classifier,
        examples: &[Example],
        batch_size: usize,
        precision: Precision,
        device: Device,
        mut progress: impl FnMut(usize),
    ) -> Self {
        let pad_id = model.encoder().config().architecture.pad_id();
        let labels = examples.first().map_or(0, |example| example.labels.len());
        let mut order: Vec<usize> = (0..examples.len()).collect();
        order.sort_by_key(|&index| std::cmp::Reverse(examples[index].ids.len()));
        let mut logits = vec![0.0; examples.len() * labels];
        let mut sentences = vec![SentenceLogits::default(); examples.len()];
        let mut done = 0;
        for indices in order.chunks(batch_size) {
            let chosen: Vec<&Example> = indices.iter().map(|&index| &examples[index]).collect();
            let batch = Batch::new(&chosen, pad_id, device);
            let result = tch::no_grad(|| model.forward(&batch, Pass::evaluation(precision)));
            for (&index, row) in indices.iter().zip(rows(&result.documents)) {
                logits[index * labels..(index + 1) * labels].copy_from_slice(&row);
            }
            for (&index, mut row) in indices.iter().zip(rows(&result.sentences)) {
                let starts = examples[index].sentence_starts.clone();
                row.truncate(starts.len() * labels);
                sentences[index] = SentenceLogits { starts, logits: row };
            }
            done += indices.len();
            progress(done);
        }
        Self {
            ids: examples.iter().map(|example| example.id.clone()).collect(),
            truth: examples.iter().flat_map(|example| example.labels.iter().copied()).collect(),
            logits,
            sentences,
        }
    }

    /// The ensemble: mean logits of several models over the same documents, each model with the same weight.
    ///
    /// A sentence's logits are the mean over the models that have it, because a linear model over words has none.
    ///
    /// # Errors
    /// When there are no members, or they are not over the same documents with the same true labels. The order of the
    /// documents is that of the first member.
    pub fn mean(members: &[Self]) -> Result<Self> {
        let Some(first) = members.first() else { bail!("an ensemble needs at least one member") };
        let mut mean = first.clone();
        ensure!(!first.ids.is_empty(), "the predictions are empty");
        let labels = first.logits.len() / first.ids.len();
        let mut counts: Vec<HashMap<u32, usize>> = Vec::new();
        for (own, id) in mean.sentences.iter_mut().zip(&mean.ids) {
            ensure!(
                own.logits.len() == own.starts.len() * labels,
                "document {id}: sentence logits do not fit the labels"
            );
            counts.push(own.starts.iter().map(|&start| (start, 1)).collect());
        }
        for (number, member) in members.iter().enumerate().skip(1) {
            let at: HashMap<&str, usize> = member.ids.iter().enumerate().map(|(row, id)| (id.as_str(), row)).collect();
            ensure!(
                member.ids.len() == mean.ids.len() && member.logits.len() == mean.logits.len(),
                "member {} of the ensemble has other documents or labels than the first",
                number + 1
            );
            for (row, id) in first.ids.iter().enumerate() {
                let Some(&other) = at.get(id.as_str()) else {
                    bail!("member {} of the ensemble has no document {id}", number + 1);
                };
                let (range, from) = (row * labels..(row + 1) * labels, other * labels..(other + 1) * labels);
                ensure!(
                    member.truth[from.clone()] == mean.truth[range.clone()],
                    "document {id}: member {} of the ensemble has other true labels",
                    number + 1
                );
                add(&mut mean.logits[range], &member.logits[from]);
                let (own, theirs) = (&mut mean.sentences[row], &member.sentences[other]);
                for (start, logits) in theirs.starts.iter().zip(theirs.logits.chunks(labels)) {
                    *counts[row].entry(*start).or_default() += 1;
                    match own.starts.iter().position(|known| known == start) {
                        Some(place) => add(&mut own.logits[place * labels..(place + 1) * labels], logits),
                        None => {
                            own.starts.push(*start);
                            own.logits.extend_from_slice(logits);
                        }
                    }
                }
            }
        }
        mean.logits.iter_mut().for_each(|logit| *logit /= members.len() as f32);
        for (own, counts) in mean.sentences.iter_mut().zip(&counts) {
            for (start, logits) in own.starts.iter().zip(own.logits.chunks_mut(labels)) {
                logits.iter_mut().for_each(|logit| *logit /= counts[start] as f32);
            }
        }
        Ok(mean)
    }

    /// Rounds all logits to so many decimals, for a file that is kept: three are finer than any teacher is sure.
    pub fn round(&mut self, decimals: u8) {
        let scale = 10f32.powi(i32::from(decimals));
        let sentences = self.sentences.iter_mut().flat_map(|sentences| &mut sentences.logits);
        self.logits.iter_mut().chain(sentences).for_each(|logit| *logit = (*logit * scale).round() / scale);
    }

    /// Appends predictions of other documents.
    pub fn extend(&mut self, other: Self) {
        self.ids.extend(other.ids);
        self.truth.extend(other.truth);
        self.logits.extend(other.logits);
        self.sentences.extend(other.sentences);
    }

    /// Probabilities, row after row.
    pub fn probabilities(&self) -> Vec<f32> {
        self.logits.iter().map(|&logit| 1.0 / (1.0 + (-logit).exp())).collect()
    }

    /// All metrics at the given thresholds.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn metrics(&self, codes: &[&str], thresholds: &[f32]) -> Result<Metrics> {
        Ok(evaluate(codes, &self.truth, &self.probabilities(), thresholds)?)
    }

    /// Mean binary cross-entropy over documents and labels.
    pub fn loss(&self) -> f64 {
        let total: f64 = self
            .logits
            .iter()
            .zip(&self.truth)
            .map(|(&logit, &truth)| {
                let logit = f64::from(if truth { -logit } else { logit });
                // ln(1 + e^x) without overflow.
                logit.max(0.0) + (-logit.abs()).exp().ln_1p()
            })
            .sum();
        total / self.logits.len().max(1) as f64
    }

    /// Writes one JSON line a document: id, true labels, logits of the document and of its sentences. No text.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path, codes: &[String]) -> Result<()> {
        let mut file = BufWriter::new(File::create(path).with_context(|| format!("cannot write {}", path.display()))?);
        let rows = self.truth.chunks(codes.len()).zip(self.logits.chunks(codes.len()));
        for ((id, sentences), (truth, logits)) in self.ids.iter().zip(&self.sentences).zip(rows) {
            let labels = codes.iter().zip(truth).filter(|(_, flag)| **flag).map(|(code, _)| code.clone()).collect();
            let line = Line {
                id: id.clone(),
                codes: codes.to_vec(),
                labels,
                logits: logits.to_vec(),
                sentences: sentences.clone(),
            };
            serde_json::to_writer(&mut file, &line)?;
            file.write_all(b"\n")?;
        }
        file.flush().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads what [`Predictions::write`] wrote, and appends it.
    ///
    /// # Errors
    /// When a line is not understood or its labels are not `codes`.
    pub fn append(&mut self, path: &Path, codes: &[String]) -> Result<()> {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        for (number, line) in BufReader::new(file).lines().enumerate() {
            let place = || format!("{}, line {}", path.display(), number + 1);
            let line: Line = serde_json::from_str(&line?).with_context(place)?;
            ensure!(line.codes == codes, "{}: labels are {:?}, expected {codes:?}", place(), line.codes);
            ensure!(line.logits.len() == codes.len(), "{}: {} logits", place(), line.logits.len());
            ensure!(
                line.sentences.logits.len() == line.sentences.starts.len() * codes.len(),
                "{}: {} sentence logits for {} sentences",
                place(),
                line.sentences.logits.len(),
                line.sentences.starts.len()
            );
            self.ids.push(line.id);
            self.sentences.push(line.sentences);
            self.truth.extend(codes.iter().map(|code| line.labels.contains(code)));
            self.logits.extend(line.logits);
        }
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Line {
    id: String,
    codes: Vec<String>,
    labels: Vec<String>,
    logits: Vec<f32>,
    #[serde(default)]
    sentences: SentenceLogits,
}

fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predictions_survive_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.jsonl");
        let codes = vec!["A".to_owned(), "B".to_owned()];
        let predictions = Predictions {
            ids: vec!["1".into(), "2".into()],
            truth: vec![true, false, false, true],
            logits: vec![1.5, -2.0, 0.25, 8.0],
            sentences: vec![SentenceLogits { starts: vec![0], logits: vec![0.5, -0.5] }, SentenceLogits::default()],
        };
        predictions.write(&path, &codes).unwrap();
        let mut back = Predictions::default();
        back.append(&path, &codes).unwrap();
        assert_eq!(back, predictions);
        let wrong = vec!["A".to_owned(), "C".to_owned()];
        assert!(back.append(&path, &wrong).unwrap_err().to_string().contains("line 1"));
    }

    #[test]
    fn the_loss_is_binary_cross_entropy() {
        let predictions = Predictions {
            ids: vec!["1".into()],
            truth: vec![true, false],
            logits: vec![2.0, -100.0],
            ..Predictions::default()
        };
        let expected = (1.0 + (-2.0f64).exp()).ln() / 2.0;
        assert!((predictions.loss() - expected).abs() < 1e-9);
    }

    #[test]
    fn an_ensemble_is_the_mean_whatever_the_order() {
        let member = |ids: [&str; 2], logits: [f32; 2], sentences: [SentenceLogits; 2]| Predictions {
            ids: ids.map(str::to_owned).into(),
            truth: ids.map(|id| id == "1").into(),
            logits: logits.into(),
            sentences: sentences.into(),
        };
        let sentence = |starts: &[u32], logits: &[f32]| SentenceLogits { starts: starts.into(), logits: logits.into() };
        let none = SentenceLogits::default;
        let first = member(["1", "2"], [1.0, 2.0], [sentence(&[0, 9], &[1.0, 2.0]), none()]);
        let second = member(["2", "1"], [4.0, 3.0], [sentence(&[0], &[7.0]), sentence(&[0], &[3.0])]);
        let mean = Predictions::mean(&[first.clone(), second]).unwrap();
        assert_eq!(mean.logits, [2.0, 3.0]);
        assert_eq!(mean.sentences, [sentence(&[0, 9], &[2.0, 2.0]), sentence(&[0], &[7.0])]);
        let mut rounded = first.clone();
        rounded.logits[0] = -1.23456;
        rounded.sentences[0].logits[1] = 0.0006;
        rounded.round(3);
        assert_eq!((rounded.logits[0], rounded.sentences[0].logits[1]), (-1.235, 0.001));
        let stranger = member(["1", "3"], [0.0, 0.0], [none(), none()]);
        assert!(Predictions::mean(&[first, stranger]).unwrap_err().to_string().contains("no document 2"));
        assert!(Predictions::mean(&[]).is_err());
    }
}
