//! `kdh-train distill`.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use kdh_runtime::dataset::Document;
use kdh_trainer::data::read;
use kdh_trainer::distill::{DistillInput, DistillOptions, distill, ensemble};
use kdh_trainer::predict::Predictions;
use kdh_trainer::states::TeacherStates;
use kdh_trainer::teacher::{TeacherOptions, teacher_logits};
use tch::Device;

use crate::Machine;
use crate::run::{Run, teacher_bar};

/// Distils a teacher into a student: first the student imitates the teacher alone, then it learns from teacher and
/// labels together. A killed run goes on when the same command is given again.
///
/// The teacher is one that `fit` trained (--teacher), a file of logits that `eval --predictions` or `baseline` wrote
/// (--teacher-logits), or several of both: then the mean of their logits teaches. What a teacher says is computed once
/// and kept in a file. The result lies in OUT as that of `fit`; the first stage's in OUT/imitation.
#[derive(Args)]
pub(crate) struct Distill {
    /// Folder of a teacher, as `fit` writes it to OUT/best. May be given several times.
    #[arg(long, required_unless_present = "teacher_logits")]
    teacher: Vec<PathBuf>,
    /// File of a teacher's logits for all training and transfer documents. May be given several times.
    #[arg(long)]
    teacher_logits: Vec<PathBuf>,
    /// Documents that only the teacher labels, JSON Lines; their own labels are not read. May be given several times.
    #[arg(long)]
    transfer: Vec<PathBuf>,
    /// Folder for teachers' logits, so that other runs find them.
    #[arg(long, default_value = "runs/teacher-logits")]
    cache: PathBuf,
    #[command(flatten)]
    run: Run,
    #[command(flatten)]
    options: DistillOptions,
    #[command(flatten)]
    machine: Machine,
}

impl Distill {
    pub(crate) fn run(self) -> Result<()> {
        let device = self.machine.device()?;
        let data = self.run.data()?;
        let codes: Vec<String> = data.labels.iter().map(|label| label.code.clone()).collect();
        let mut transfer = Vec::new();
        for path in &self.transfer {
            transfer.extend(read(path)?);
        }
        let documents: Vec<Document> = data.train.iter().chain(&transfer).cloned().collect();
        let mut members = self.teacher_logits.clone();
        for teacher in &self.teacher {
            members.push(self.ask(teacher, &documents, &codes, device)?);
        }
        let states = match self.teacher.as_slice() {
            [teacher] if self.options.states.any() => Some(self.look_inside(teacher, &documents, device)?),
            [_, _, ..] if self.options.states.any() => bail!("terms of token states need exactly one --teacher"),
            _ => None,
        };
        let members: Vec<&Path> = members.iter().map(PathBuf::as_path).collect();
        let teacher: Predictions = ensemble(&members, &codes)?;

        let fit = self.run.input(&data, "kdh-train distill", self.options.fit.seed);
        let input = DistillInput { fit, teacher: &teacher, transfer: &transfer, states: states.as_ref() };
        let report = distill(&input, &self.options, &self.run.output(), device)?;
        if self.run.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
            return Ok(());
        }
        for (name, stage) in [("imitation", &report.imitation), ("supervised", &report.supervised)] {
            if let Some(stage) = stage {
                println!("{name}: {} epochs, {} steps; {}", stage.epochs, stage.steps, stage.student.display());
            }
        }
        Ok(())
    }

    /// Path of the teacher's logits, which are computed unless they are known.
    fn ask(&self, teacher: &Path, documents: &[Document], codes: &[String], device: Device) -> Result<PathBuf> {
        let bar = teacher_bar(documents.len());
        let done = |count: usize| bar.set_position(count as u64);
        let (path, _) = teacher_logits(teacher, documents, codes, self.teacher_options(), &self.cache, device, done)?;
        bar.finish_and_clear();
        Ok(path)
    }

    fn look_inside(&self, teacher: &Path, documents: &[Document], device: Device) -> Result<TeacherStates> {
        let bar = teacher_bar(documents.len());
        let done = |count: usize| bar.set_position(count as u64);
        let states = TeacherStates::new(teacher, documents, self.teacher_options(), &self.cache, device, done)?;
        bar.finish_and_clear();
        Ok(states)
    }

    fn teacher_options(&self) -> TeacherOptions {
        let fit = &self.options.fit;
        TeacherOptions { boundaries: fit.boundaries, precision: fit.precision, batch_size: fit.batch_size }
    }
}
