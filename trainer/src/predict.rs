//! Predictions over labelled data, and what they are worth.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use kdh_runtime::metrics::{Metrics, evaluate};
use serde::{Deserialize, Serialize};
use tch::Device;

use crate::data::{Batch, Example};
use crate::encoder::{Pass, Precision};
use crate::model::{Classifier, rows};

/// Document logits of a labelled set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Predictions {
    /// Document names.
    pub ids: Vec<String>,
    /// One flag a label and document, row after row.
    pub truth: Vec<bool>,
    /// One logit a label and document, row after row.
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
        let mut done = 0;
        for indices in order.chunks(batch_size) {
            let chosen: Vec<&Example> = indices.iter().map(|&index| &examples[index]).collect();
            let batch = Batch::new(&chosen, pad_id, device);
            let result = tch::no_grad(|| model.forward(&batch, Pass::evaluation(precision)));
            for (&index, row) in indices.iter().zip(rows(&result.documents)) {
                logits[index * labels..(index + 1) * labels].copy_from_slice(&row);
            }
            done += indices.len();
            progress(done);
        }
        Self {
            ids: examples.iter().map(|example| example.id.clone()).collect(),
            truth: examples.iter().flat_map(|example| example.labels.iter().copied()).collect(),
            logits,
        }
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

    /// Writes one JSON line a document: id, true labels, logits. No text.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path, codes: &[String]) -> Result<()> {
        let mut file = BufWriter::new(File::create(path).with_context(|| format!("cannot write {}", path.display()))?);
        let rows = self.truth.chunks(codes.len()).zip(self.logits.chunks(codes.len()));
        for (id, (truth, logits)) in self.ids.iter().zip(rows) {
            let labels = codes.iter().zip(truth).filter(|(_, flag)| **flag).map(|(code, _)| code.clone()).collect();
            let line = Line { id: id.clone(), codes: codes.to_vec(), labels, logits: logits.to_vec() };
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
            self.ids.push(line.id);
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
        let predictions = Predictions { ids: vec!["1".into()], truth: vec![true, false], logits: vec![2.0, -100.0] };
        let expected = (1.0 + (-2.0f64).exp()).ln() / 2.0;
        assert!((predictions.loss() - expected).abs() < 1e-9);
    }
}
