//! The score of a point: train with its options, look at documents that it was not trained on.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use kdh_format::student::Provenance;
use kdh_runtime::dataset::Document;
use kdh_runtime::metrics::thresholds::{Policy, cross_validated_f1};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tch::Device;

use super::file::{Score, TuneFile};
use crate::data::{label_codes, read, read_labels, split};
use crate::distill::{DistillInput, distill, ensemble};
use crate::fit::{Diverged, FitInput, FitOptions, FitOutput, LabelName, fit};
use crate::hex::hex;
use crate::predict::Predictions;
use crate::pso::{Outcome, Point};

/// How much a run costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fidelity {
    /// As the file's `reduced` says.
    Reduced,
    /// All of it.
    Full,
}

/// Data and teacher of a tuning, ready to train on.
#[derive(Debug)]
pub struct Objective {
    file: TuneFile,
    labels: Vec<LabelName>,
    /// Training and scoring documents, one pair a fold.
    folds: Vec<(Vec<Document>, Vec<Document>)>,
    transfer: Vec<Document>,
    teacher: Option<Predictions>,
    device: Device,
}

impl Objective {
    /// Reads everything that the file names.
    ///
    /// # Errors
    /// When a file cannot be read or the data do not fit.
    pub fn new(file: TuneFile, device: Device) -> Result<Self> {
        let train = read(&file.data.train)?;
        let labels = match &file.data.labels {
            Some(path) => read_labels(path)?,
            None => label_codes(&train).into_iter().map(|code| LabelName { name: code.clone(), code }).collect(),
        };
        let codes: Vec<String> = labels.iter().map(|label| label.code.clone()).collect();
        let mut folds = Vec::new();
        if let Some(dev) = &file.data.dev {
            folds.push((train, read(dev)?));
        } else {
            for fold in &file.data.folds {
                folds.push(split(&train, fold.parse()?)?);
            }
        }
        let mut transfer = Vec::new();
        for path in &file.data.transfer {
            transfer.extend(read(path)?);
        }
        let members: Vec<&Path> = file.data.teacher_logits.iter().map(PathBuf::as_path).collect();
        let teacher = if members.is_empty() { None } else { Some(ensemble(&members, &codes)?) };
        Ok(Self { labels, folds, transfer, teacher, device, file })
    }

    /// The file that it was made from.
    pub fn file(&self) -> &TuneFile {
        &self.file
    }

    /// Digest of whatever decides a score beside the point: two studies with the same digest can be compared.
    ///
    /// # Errors
    /// When the weights cannot be read.
    pub fn digest(&self) -> Result<String> {
        let mut digest = Sha256::new();
        digest.update(serde_json::to_vec(&(&self.file.options, &self.file.reduced, self.file.score, &self.labels))?);
        for (train, dev) in &self.folds {
            for document in train.iter().chain(dev).chain(&self.transfer) {
                digest.update(serde_json::to_vec(&(&document.id, &document.text, &document.labels))?);
            }
        }
        if let Some(teacher) = &self.teacher {
            teacher.logits.iter().for_each(|logit| digest.update(logit.to_le_bytes()));
        }
        for name in ["config.json", "model.safetensors", "pytorch_model.bin"] {
            // A weights folder has one of the two kinds of weights.
            if let Ok(bytes) = fs::read(self.file.data.weights.join(name)) {
                digest.update(Sha256::digest(bytes));
            }
        }
        Ok(hex(&digest.finalize()))
    }

    /// Trains at a point and scores it. A run that was killed in `folder` goes on; a point whose training diverges has
    /// failed.
    ///
    /// What stays in `folder` is, for each fold, what [`fit`] leaves; at reduced fidelity without the weights.
    ///
    /// # Errors
    /// When training cannot be done at all, as on a full disk.
    pub fn evaluate(&self, point: &Point, fidelity: Fidelity, folder: &Path) -> Result<Outcome> {
        let options = self.file.options(point, fidelity == Fidelity::Reduced)?;
        let mut total = 0.0;
        for (number, (train, dev)) in self.folds.iter().enumerate() {
            let folder =
                if self.folds.len() == 1 { folder.to_owned() } else { folder.join(format!("fold-{}", number + 1)) };
            let output =
                FitOutput { folder: folder.clone(), checkpoint_every: 50, stop_after: None, progress_bar: false };
            let subset = match fidelity {
                Fidelity::Reduced => self.subset(train, &options.fit),
                Fidelity::Full => train.clone(),
            };
            let input = FitInput {
                weights: &self.file.data.weights,
                train: &subset,
                dev,
                labels: &self.labels,
                provenance: Provenance { command: "kdh-train pso".into(), ..Provenance::default() },
                name: self.file.name.clone(),
            };
            let done = match &self.teacher {
                None => fit(&input, &options.fit, &output, self.device).map(drop),
                Some(teacher) => {
                    let input = DistillInput { fit: input, teacher, transfer: &self.transfer, states: None };
                    distill(&input, &options, &output, self.device).map(drop)
                }
            };
            if let Err(error) = done {
                return if error.is::<Diverged>() { Ok(Outcome::Failed) } else { Err(error) };
            }
            total += self.score(&folder)?;
            if fidelity == Fidelity::Reduced {
                remove_weights(&folder)?;
            }
        }
        Ok(Outcome::Score(total / self.folds.len() as f64))
    }

    /// The same documents for every point: those that a seeded shuffle puts first.
    fn subset(&self, train: &[Document], options: &FitOptions) -> Vec<Document> {
        let count = ((train.len() as f64 * self.file.reduced.subset).ceil() as usize).clamp(1, train.len());
        let mut order: Vec<usize> = (0..train.len()).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(options.seed));
        order.truncate(count);
        order.sort_unstable();
        order.into_iter().map(|index| train[index].clone()).collect()
    }

    fn score(&self, folder: &Path) -> Result<f64> {
        let codes: Vec<String> = self.labels.iter().map(|label| label.code.clone()).collect();
        let mut predictions = Predictions::default();
        predictions.append(&folder.join("dev-predictions.jsonl"), &codes)?;
        match self.file.score {
            Score::MicroAuprc => {
                let codes: Vec<&str> = codes.iter().map(String::as_str).collect();
                let metrics = predictions.metrics(&codes, &vec![0.5; codes.len()])?;
                metrics.micro_auprc.context("the documents that score a point have no positive label")
            }
            Score::MicroF1 => {
                let (truth, probabilities) = (&predictions.truth, predictions.probabilities());
                ensure!(predictions.ids.len() >= 5, "micro-f1 needs at least 5 documents that score a point");
                Ok(cross_validated_f1(truth, &probabilities, codes.len(), Policy::Global, 5, 20, 1)?.micro_f1)
            }
        }
    }
}

/// A search leaves hundreds of students that nobody will use, 90 MB each, and their optimizer states.
fn remove_weights(folder: &Path) -> Result<()> {
    for folder in [folder.to_owned(), folder.join("imitation")] {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "imitation") {
                fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
    }
    Ok(())
}
