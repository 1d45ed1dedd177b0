//! `kdh-train eval`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use indicatif::ProgressBar;
use kdh_trainer::data::{Boundaries, Encoder, read};
use kdh_trainer::encoder::Precision;
use kdh_trainer::model::Classifier;
use kdh_trainer::predict::Predictions;

use crate::Machine;

/// Scores a student folder on labelled data, in floating point; `kdh eval` scores the bundle made from it.
#[derive(Args)]
pub(crate) struct Eval {
    /// Student folder, as `fit` writes to OUT/best.
    #[arg(long)]
    student: PathBuf,
    /// Labelled documents, JSON Lines.
    data: PathBuf,
    /// Whose sentence boundaries to use.
    #[arg(long, value_enum, default_value_t = Boundaries::Box)]
    boundaries: Boundaries,
    /// Arithmetic of the linear layers.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    precision: Precision,
    /// One threshold for every label instead of the card's.
    #[arg(long)]
    threshold: Option<f32>,
    /// Write the logits of every document to a file, JSON Lines.
    #[arg(long)]
    predictions: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: Machine,
}

impl Eval {
    pub(crate) fn run(self) -> Result<()> {
        let device = self.machine.device()?;
        let (model, card) = Classifier::read(&self.student, device)?;
        let codes: Vec<String> = card.labels.iter().map(|label| label.code.clone()).collect();
        let vocabulary = fs::read(self.student.join("vocab.txt")).context("cannot read vocab.txt")?;
        let mut encoder = Encoder::new(
            &vocabulary,
            &card.tokenizer,
            codes.clone(),
            card.max_tokens as usize,
            card.max_sentences as usize,
            self.boundaries,
        )?;
        let examples = encoder.encode_all(&read(&self.data)?)?;
        let bar = ProgressBar::new(examples.len() as u64);
        let predictions =
            Predictions::of(&model, &examples, 16, self.precision, device, |done| bar.set_position(done as u64));
        bar.finish_and_clear();
        if let Some(path) = &self.predictions {
            predictions.write(path, &codes)?;
        }
        let thresholds: Vec<f32> = card.labels.iter().map(|label| self.threshold.unwrap_or(label.threshold)).collect();
        let codes: Vec<&str> = codes.iter().map(String::as_str).collect();
        let metrics = predictions.metrics(&codes, &thresholds)?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&metrics)?);
        } else {
            println!("{metrics}");
        }
        let cut = examples.iter().filter(|example| example.dropped_tokens > 0).count();
        if cut > 0 {
            eprintln!("note: {cut} of {} documents were cut at {} tokens", examples.len(), card.max_tokens);
        }
        Ok(())
    }
}
