//! One cell: train or read, choose thresholds on the inner part, score.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kdh_format::student::Provenance;
use kdh_runtime::dataset::Document;
use kdh_runtime::metrics::thresholds::{Policy, choose, select as select_policy};
use serde_json::Value;
use tch::Device;

use super::file::ArmKind;
use super::linear;
use super::plan::{Cell, Plan, select};
use super::result::{CellResult, Epoch};
use crate::data::Encoder;
use crate::distill::{DistillInput, DistillOptions, distill};
use crate::fit::{FitInput, FitOutput, fit};
use crate::model::Classifier;
use crate::predict::Predictions;

/// File of a finished cell, written last.
pub(super) const RECORD: &str = "cell.json";
/// What the cell says of the scored documents.
pub(super) const SCORED: &str = "scored.jsonl";
/// What it says of the documents that chose the thresholds.
const INNER: &str = "inner.jsonl";
/// What it says of the training documents, for its students.
pub(super) const TRAIN: &str = "train.jsonl";

/// Runs a cell, or goes on with it, and leaves its files in `folder`. `folder_of` tells where another cell has its.
pub(super) fn run_cell(
    plan: &Plan,
    cell: &Cell,
    folder: &Path,
    folder_of: &dyn Fn(&Cell) -> PathBuf,
    progress_bar: bool,
    device: Device,
) -> Result<CellResult> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let (data, arm) = (&plan.data[cell.data], plan.arm(cell));
    let codes = &data.codes;
    let [train, inner, scored] = plan.documents(cell);
    let mut result = unfinished(plan, cell);
    let run = folder.join("run");
    let [said_scored, said_inner] = match arm.kind {
        ArmKind::Predictions => plan.given(cell)?.into(),
        ArmKind::Linear => {
            if cell.teaches {
                linear::teach(&arm.options, &train, codes)?.write(&folder.join(TRAIN), codes)?;
            }
            linear::fit_and_predict(&arm.options, &train, [&scored, &inner], codes)?
        }
        ArmKind::Fit | ArmKind::Distill => {
            let options = plan.file.options(arm, cell.seed)?;
            let training = Training { plan, cell, folder: &run, options: &options, progress_bar, device };
            result.cut_documents = training.run(&train, &inner, folder_of)?;
            result.epochs = epochs(&run)?;
            let (model, card) = Classifier::read(&run.join("best"), device)?;
            let vocabulary = fs::read(run.join("best/vocab.txt")).context("cannot read vocab.txt")?;
            let mut encoder = Encoder::new(
                &vocabulary,
                &card.tokenizer,
                codes.clone(),
                options.fit.max_tokens,
                options.fit.max_sentences,
                options.fit.boundaries,
            )?;
            let mut ask = |documents: &[Document]| -> Result<Predictions> {
                let examples = encoder.encode_all(documents)?;
                let (batch_size, precision) = (options.fit.batch_size, options.fit.precision);
                Ok(Predictions::of(&model, &examples, batch_size, precision, device, |_| ()))
            };
            if cell.teaches {
                ask(&train)?.write(&folder.join(TRAIN), codes)?;
            }
            [ask(&scored)?, ask(&inner)?]
        }
    };

    (result.policy, result.thresholds) = match arm.fixed_thresholds.as_slice() {
        [] => {
            let (policy, thresholds) = thresholds(&said_inner, codes.len(), plan.file.thresholds)?;
            (Some(policy), thresholds)
        }
        [one] => (None, vec![*one; codes.len()]),
        all => (None, all.to_vec()),
    };
    let names: Vec<&str> = codes.iter().map(String::as_str).collect();
    result.metrics = Some(said_scored.metrics(&names, &result.thresholds)?);
    said_scored.write(&folder.join(SCORED), codes)?;
    said_inner.write(&folder.join(INNER), codes)?;
    let draft = folder.join("cell.draft");
    fs::write(&draft, serde_json::to_vec_pretty(&result)?)
        .and_then(|()| fs::rename(&draft, folder.join(RECORD)))
        .with_context(|| format!("cannot write {}", folder.join(RECORD).display()))?;
    Ok(result)
}

/// A result without anything that has to be found out.
pub(super) fn unfinished(plan: &Plan, cell: &Cell) -> CellResult {
    CellResult {
        data: plan.data[cell.data].source.name.clone(),
        arm: plan.arm(cell).name.clone(),
        seed: cell.seed,
        fold: cell.fold + 1,
        key: cell.key.clone(),
        error: None,
        cut_documents: 0,
        policy: None,
        thresholds: Vec::new(),
        metrics: None,
        epochs: Vec::new(),
    }
}

/// A fit or a distillation.
struct Training<'a> {
    plan: &'a Plan,
    cell: &'a Cell,
    folder: &'a Path,
    options: &'a DistillOptions,
    progress_bar: bool,
    device: Device,
}

impl Training<'_> {
    /// Number of training documents that were cut.
    fn run(&self, train: &[Document], inner: &[Document], folder_of: &dyn Fn(&Cell) -> PathBuf) -> Result<usize> {
        let Self { plan, cell, options, device, .. } = *self;
        let (data, arm) = (&plan.data[cell.data], plan.arm(cell));
        let input = FitInput {
            weights: arm.weights.as_deref().context("the arm has no weights")?,
            train,
            dev: inner,
            labels: &data.labels,
            provenance: Provenance { command: "kdh-train experiment".into(), ..Provenance::default() },
            name: arm.name.clone(),
        };
        let output = FitOutput {
            folder: self.folder.to_owned(),
            checkpoint_every: 50,
            stop_after: None,
            progress_bar: self.progress_bar,
        };
        if arm.kind == ArmKind::Fit {
            return Ok(fit(&input, &options.fit, &output, device)?.cut_documents);
        }
        let mut transfer = Vec::new();
        for path in &arm.transfer {
            transfer.extend(crate::data::read(path)?);
        }
        let taught: Vec<Document> = train.iter().chain(&transfer).cloned().collect();
        let mut members = plan.teacher_files(cell, &taught)?;
        for &teacher in &cell.teachers {
            let path = folder_of(&plan.cells[teacher]).join(TRAIN);
            let mut said = Predictions::default();
            said.append(&path, &data.codes)?;
            members.push(select(&said, &taught, &data.codes)?);
        }
        let teacher = Predictions::mean(&members)?;
        let input = DistillInput { fit: input, teacher: &teacher, transfer: &transfer, states: None };
        let report = distill(&input, options, &output, device)?;
        Ok(report.supervised.map_or(0, |stage| stage.cut_documents))
    }
}

/// Thresholds chosen on documents that are not scored.
fn thresholds(inner: &Predictions, labels: usize, policy: Option<Policy>) -> Result<(Policy, Vec<f32>)> {
    const FOLDS: usize = 5;
    const REPEATS: usize = 10;
    let (truth, probabilities) = (&inner.truth, &inner.probabilities());
    if policy.is_none() && inner.ids.len() >= 2 * FOLDS {
        let selection = select_policy(truth, probabilities, labels, FOLDS, REPEATS, 1)?;
        return Ok((selection.policy, selection.thresholds));
    }
    // Too few documents to choose between policies: the stiffest.
    let policy = policy.unwrap_or(Policy::Global);
    Ok((policy, choose(truth, probabilities, labels, policy)?))
}

/// What the logs of a run's stages say of every epoch.
fn epochs(run: &Path) -> Result<Vec<Epoch>> {
    let mut epochs = Vec::new();
    for (stage, path) in [(1, run.join("imitation/metrics.jsonl")), (2, run.join("metrics.jsonl"))] {
        // A fit has no first stage.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).with_context(|| format!("in {}", path.display()))?;
            if line["event"] == "epoch" {
                let number = |value: &Value| value.as_f64().unwrap_or_default();
                epochs.push(Epoch {
                    stage,
                    epoch: line["epoch"].as_u64().unwrap_or(0),
                    train_loss: number(&line["train_loss"]),
                    inner_loss: number(&line["dev"]["loss"]),
                    inner_micro_auprc: number(&line["dev"]["micro_auprc"]),
                    best: line["best"] == true,
                });
            }
        }
    }
    Ok(epochs)
}
