//! Sequential distillation: a student first imitates its teacher, then learns the labels beside it.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use kdh_runtime::dataset::Document;
use serde::{Deserialize, Serialize};
use tch::Device;

use crate::data::{Example, TeacherLogits};
use crate::fit::{FitInput, FitOptions, FitOutput, FitReport, defaults, train};
use crate::objective::{SoftLoss, SoftTargets};
use crate::predict::Predictions;
use crate::states::{StateOptions, TeacherStates};

/// Everything that decides the result of a distillation, but for the data, the weights and the teacher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct DistillOptions {
    /// How the student's answers are compared with the teacher's.
    #[arg(long, value_enum, default_value_t = SoftLoss::BernoulliKd)]
    pub soft_loss: SoftLoss,
    /// Softens both sides' probabilities; the loss is multiplied by its square.
    #[arg(long, default_value_t = 2.0)]
    pub temperature: f64,
    /// Weight of the teacher in the second stage, 0 to 1; the labels have the rest.
    #[arg(long, default_value_t = 0.5)]
    pub alpha: f64,
    /// Epochs of the first stage, in which there is only the teacher; 0 leaves the stage out.
    #[arg(long, default_value_t = 2)]
    pub imitation_epochs: usize,
    /// Peak learning rate of the encoder in the first stage; that of the second stage when not given.
    #[arg(long)]
    pub imitation_learning_rate: Option<f64>,
    /// Terms that compare token states, in the first stage.
    #[command(flatten)]
    #[serde(flatten)]
    pub states: StateOptions,
    /// The second stage, and what both have in common.
    #[command(flatten)]
    #[serde(flatten)]
    pub fit: FitOptions,
}

/// The defaults of the command line.
impl Default for DistillOptions {
    fn default() -> Self {
        defaults()
    }
}

impl DistillOptions {
    /// Checks what can be checked without data.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(self.temperature > 0.0 && self.temperature.is_finite(), "--temperature must be positive");
        ensure!((0.0..=1.0).contains(&self.alpha), "--alpha must be from 0 to 1");
        if let Some(rate) = self.imitation_learning_rate {
            ensure!(rate > 0.0 && rate.is_finite(), "--imitation-learning-rate must be positive");
        }
        self.states.check()?;
        ensure!(
            !self.states.any() || self.imitation_epochs > 0,
            "terms of token states belong to the first stage: give --imitation-epochs"
        );
        Ok(())
    }
}

/// What a distillation works on.
#[derive(Debug)]
pub struct DistillInput<'a> {
    /// Data, labels and the student's first weights.
    pub fit: FitInput<'a>,
    /// The teacher's logits for every training and transfer document.
    pub teacher: &'a Predictions,
    /// Documents that only the teacher labels. They take part in the first stage.
    pub transfer: &'a [Document],
    /// The teacher's token states for the same documents, where a term needs them.
    pub states: Option<&'a TeacherStates>,
}

/// How a distillation ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DistillReport {
    /// The first stage; its folder is `imitation` in that of the run.
    pub imitation: Option<FitReport>,
    /// The second stage, whose student is the result. `None` when the first was stopped early.
    pub supervised: Option<FitReport>,
}

/// Distils a teacher into a student, or goes on with a run that was killed.
///
/// The first stage ("imitation") has the loss of the teacher alone, over training and transfer documents. The second
/// starts from the student of the first and has `alpha · soft + (1 - alpha) · hard` over the training documents
/// (arXiv 2505.07162, sequential training). Each stage is a run as [`fit`](crate::fit::fit) makes it, with its own
/// checkpoints, log and best epoch.
///
/// # Errors
/// When the input does not fit together, which is found before any training, or as [`fit`](crate::fit::fit).
pub fn distill(
    input: &DistillInput<'_>,
    options: &DistillOptions,
    output: &FitOutput,
    device: Device,
) -> Result<DistillReport> {
    check(input, options)?;
    let stage = |alpha, transfer, states| Teaching {
        states,
        predictions: input.teacher,
        transfer,
        soft: SoftTargets { kind: options.soft_loss, temperature: options.temperature, alpha },
    };
    let mut report = DistillReport { imitation: None, supervised: None };
    let first_folder = output.folder.join("imitation");
    let mut stop_after = output.stop_after;
    if options.imitation_epochs > 0 {
        let first = FitOptions {
            epochs: options.imitation_epochs,
            patience: options.imitation_epochs,
            learning_rate: options.imitation_learning_rate.unwrap_or(options.fit.learning_rate),
            ..options.fit.clone()
        };
        let output = FitOutput { folder: first_folder.clone(), ..output.clone() };
        let states = input.states.filter(|_| options.states.any()).map(|states| (states, options.states));
        if output.progress_bar {
            eprintln!("first stage: the teacher alone");
        }
        let done = train(&input.fit, &first, Some(&stage(1.0, input.transfer, states)), &output, device)?;
        stop_after = stop_after.map(|limit| limit.saturating_sub(done.steps_taken));
        let go_on = done.finished && stop_after != Some(0);
        report.imitation = Some(done);
        if !go_on {
            return Ok(report);
        }
        if output.progress_bar {
            eprintln!("second stage: teacher and labels");
        }
    }
    let best = first_folder.join("best");
    let fit = FitInput {
        weights: if options.imitation_epochs > 0 { &best } else { input.fit.weights },
        provenance: input.fit.provenance.clone(),
        name: input.fit.name.clone(),
        ..input.fit
    };
    let output = FitOutput { stop_after, ..output.clone() };
    report.supervised = Some(train(&fit, &options.fit, Some(&stage(options.alpha, &[], None)), &output, device)?);
    Ok(report)
}

/// What a teacher brings to one run.
#[derive(Debug)]
pub(crate) struct Teaching<'a> {
    pub(crate) predictions: &'a Predictions,
    pub(crate) transfer: &'a [Document],
    pub(crate) soft: SoftTargets,
    pub(crate) states: Option<(&'a TeacherStates, StateOptions)>,
}

impl Teaching<'_> {
    /// Gives every example the teacher's logits for it; sentences are matched by where they begin.
    pub(crate) fn attach(&self, examples: &mut [Example], labels: usize) -> Result<()> {
        let at: HashMap<&str, usize> =
            self.predictions.ids.iter().enumerate().map(|(row, id)| (id.as_str(), row)).collect();
        for example in examples {
            let Some(&row) = at.get(example.id.as_str()) else {
                bail!("the teacher has no logits for document {}", example.id);
            };
            let document = self.predictions.logits[row * labels..(row + 1) * labels].to_vec();
            let theirs = &self.predictions.sentences[row];
            let rows: HashMap<u32, &[f32]> =
                theirs.starts.iter().copied().zip(theirs.logits.chunks_exact(labels)).collect();
            let sentences: Vec<Option<Vec<f32>>> =
                example.sentence_starts.iter().map(|start| rows.get(start).map(|row| row.to_vec())).collect();
            ensure!(
                theirs.starts.is_empty() || sentences.is_empty() || sentences.iter().any(Option::is_some),
                "document {}: none of its sentences begins where one of the teacher's does; use the same --boundaries",
                example.id
            );
            example.teacher = Some(TeacherLogits { document, sentences });
        }
        Ok(())
    }
}

fn check(input: &DistillInput<'_>, options: &DistillOptions) -> Result<()> {
    options.check()?;
    ensure!(
        !options.states.any() || input.states.is_some(),
        "terms of token states need the teacher itself (--teacher), its logits are not enough"
    );
    let teacher = input.teacher;
    ensure!(
        teacher.logits.len() == teacher.ids.len() * input.fit.labels.len()
            && teacher.sentences.len() == teacher.ids.len(),
        "the teacher's logits are not for {} labels",
        input.fit.labels.len()
    );
    if let Some(logit) = teacher.logits.iter().find(|logit| !logit.is_finite()) {
        bail!("the teacher has a logit that is {logit}");
    }
    let known: HashMap<&str, ()> = teacher.ids.iter().map(|id| (id.as_str(), ())).collect();
    ensure!(known.len() == teacher.ids.len(), "the teacher has several rows of logits for one document");
    let training: HashMap<&str, ()> = input.fit.train.iter().map(|document| (document.id.as_str(), ())).collect();
    for document in input.fit.train.iter().chain(input.transfer) {
        ensure!(
            known.contains_key(document.id.as_str()),
            "the teacher has no logits for document {}: run it over the training and the transfer documents",
            document.id
        );
    }
    for document in input.transfer {
        ensure!(
            !training.contains_key(document.id.as_str()),
            "document {} is a training and a transfer document: leave it out of one",
            document.id
        );
    }
    Ok(())
}

/// Reads prediction files of several teachers and takes the mean of their logits.
///
/// Labels in the files are dropped: some teachers were run on documents whose labels are known, some on texts alone.
///
/// # Errors
/// When a file cannot be read, or the members are not over the same documents.
pub fn ensemble(members: &[&Path], codes: &[String]) -> Result<Predictions> {
    let read = |path: &&Path| {
        let mut predictions = Predictions::default();
        predictions.append(path, codes).with_context(|| format!("in the teacher's logits {}", path.display()))?;
        predictions.truth.fill(false);
        Ok(predictions)
    };
    Predictions::mean(&members.iter().map(read).collect::<Result<Vec<_>>>()?)
}
