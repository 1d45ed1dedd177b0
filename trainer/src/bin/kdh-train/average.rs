//! `kdh-train average`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::ProgressBar;
use kdh_format::student::Metric;
use kdh_trainer::average::average;
use kdh_trainer::data::{Boundaries, Encoder, read};
use kdh_trainer::encoder::Precision;
use kdh_trainer::fit::DevScores;
use kdh_trainer::model::Classifier;
use kdh_trainer::predict::Predictions;
use serde_json::json;

use crate::Machine;

/// Makes one student of several: the mean of their weights.
///
/// The students must have grown from the same one, such as OUT/imitation/best of one distillation that `distill
/// --weights … --imitation-epochs 0` went on from with several seeds. The mean is scored on dev beside its members and
/// their ensemble (mean logits, which the box would pay for as often as there are members); OUT gets the mean, laid out as
/// `fit` does, whatever the scores say. Its thresholds are to be chosen: `kdh-train thresholds --student OUT/best
/// OUT/dev-predictions.jsonl`.
#[derive(Args)]
pub(crate) struct Average {
    /// Student folders, as `fit` and `distill` write them to OUT/best.
    #[arg(required = true, num_args = 2..)]
    students: Vec<PathBuf>,
    /// Folder for the mean: the student folder `best` and `dev-predictions.jsonl`. Must not exist.
    #[arg(long, short)]
    out: PathBuf,
    /// Labelled documents to score on, JSON Lines. None of the students may have been trained on them.
    #[arg(long)]
    dev: PathBuf,
    /// Whose sentence boundaries to use.
    #[arg(long, value_enum, default_value_t = Boundaries::Corpus)]
    boundaries: Boundaries,
    /// Arithmetic of the linear layers.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    precision: Precision,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: Machine,
}

impl Average {
    pub(crate) fn run(self) -> Result<()> {
        if self.out.exists() {
            bail!("{} is already there: choose another folder or remove it", self.out.display());
        }
        let device = self.machine.device()?;
        let members: Vec<&Path> = self.students.iter().map(PathBuf::as_path).collect();
        let mut mean = average(&members, device)?;
        let codes: Vec<String> = mean.card.labels.iter().map(|label| label.code.clone()).collect();
        let examples = Encoder::new(
            &mean.vocabulary,
            &mean.card.tokenizer,
            codes.clone(),
            mean.card.max_tokens as usize,
            mean.card.max_sentences as usize,
            self.boundaries,
        )?
        .encode_all(&read(&self.dev)?)?;
        let bar = ProgressBar::new((examples.len() * (members.len() + 1)) as u64);
        let predict = |model: &Classifier, number: usize| {
            let before = number * examples.len();
            Predictions::of(model, &examples, 16, self.precision, device, |done| {
                bar.set_position((before + done) as u64);
            })
        };
        let mut predictions = Vec::new();
        for (number, folder) in members.iter().enumerate() {
            predictions.push(predict(&Classifier::read(folder, device)?.0, number));
        }
        let of_mean = predict(&mean.model, members.len());
        bar.finish_and_clear();

        let scores = DevScores::of(&of_mean, &codes)?;
        for label in &mut mean.card.labels {
            label.threshold = scores.threshold;
        }
        mean.card.provenance.metrics = [("averaged_students", members.len() as f64), ("fit_dev_loss", scores.loss)]
            .into_iter()
            .chain([("fit_dev_micro_auprc", scores.micro_auprc)])
            .map(|(name, value)| Metric { name: name.into(), value })
            .collect();
        fs::create_dir_all(&self.out).with_context(|| format!("cannot create {}", self.out.display()))?;
        mean.model.write(&self.out.join("best"), &mean.vocabulary, &mean.card)?;
        of_mean.write(&self.out.join("dev-predictions.jsonl"), &codes)?;

        let mut rows = Vec::new();
        for (folder, predictions) in members.iter().zip(&predictions) {
            rows.push((folder.display().to_string(), DevScores::of(predictions, &codes)?));
        }
        rows.push(("ensemble of their logits".to_owned(), DevScores::of(&Predictions::mean(&predictions)?, &codes)?));
        rows.push(("mean of their weights".to_owned(), scores));
        if self.json {
            let rows: Vec<_> = rows.iter().map(|(name, scores)| json!({"name": name, "dev": scores})).collect();
            println!("{}", serde_json::to_string_pretty(&json!({"student": self.out, "scores": rows}))?);
            return Ok(());
        }
        for (name, scores) in &rows {
            println!(
                "micro-AUPRC {:.4}  micro-F1 {:.4} at {:.2}  loss {:.4}  {name}",
                scores.micro_auprc, scores.micro_f1, scores.threshold, scores.loss
            );
        }
        Ok(())
    }
}
