//! `kdh-train predict`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use kdh_trainer::data::{Boundaries, read};
use kdh_trainer::encoder::Precision;
use kdh_trainer::model::read_card;
use kdh_trainer::teacher::{TeacherOptions, run_teacher};

use crate::Machine;
use crate::run::teacher_bar;

/// Writes what a trained model says of documents and of their sentences: logits and ids, no text and no labels.
///
/// Such a file teaches students (`distill --teacher-logits`, and the file of `pso`) where the model itself is not at
/// hand. The documents' own labels are not read, so any text will do.
#[derive(Args)]
pub(crate) struct Predict {
    /// Folder of the model, as `fit` writes to OUT/best.
    #[arg(long)]
    student: PathBuf,
    /// Documents, JSON Lines.
    #[arg(required = true)]
    data: Vec<PathBuf>,
    /// File for the logits, JSON Lines.
    #[arg(long, short)]
    out: PathBuf,
    /// Round the logits to so many decimals.
    #[arg(long)]
    decimals: Option<u8>,
    /// Whose sentence boundaries to use: those that students will be trained with.
    #[arg(long, value_enum, default_value_t = Boundaries::Corpus)]
    boundaries: Boundaries,
    /// Arithmetic of the linear layers; bf16 needs a processor that multiplies it, as the default looks.
    #[arg(long, value_enum, default_value_t = Precision::fastest())]
    precision: Precision,
    /// Documents a pass.
    #[arg(long, default_value_t = 16)]
    batch_size: usize,
    #[command(flatten)]
    machine: Machine,
}

impl Predict {
    pub(crate) fn run(self) -> Result<()> {
        let device = self.machine.device()?;
        let codes: Vec<String> = read_card(&self.student)?.labels.into_iter().map(|label| label.code).collect();
        let mut documents = Vec::new();
        for path in &self.data {
            documents.extend(read(path)?);
        }
        let options =
            TeacherOptions { boundaries: self.boundaries, precision: self.precision, batch_size: self.batch_size };
        let bar = teacher_bar(documents.len());
        let done = |count: usize| bar.set_position(count as u64);
        let mut predictions = run_teacher(&self.student, &documents, options, device, done)?;
        bar.finish_and_clear();
        if let Some(decimals) = self.decimals {
            predictions.round(decimals);
        }
        predictions.write(&self.out, &codes)?;
        eprintln!("{} documents: {}", documents.len(), self.out.display());
        Ok(())
    }
}
