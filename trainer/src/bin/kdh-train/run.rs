//! What `fit` and `distill` have in common: data, labels, provenance, where a run goes.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use kdh_format::student::Provenance;
use kdh_runtime::dataset::Document;
use kdh_trainer::data::{Fold, label_codes, read, read_labels, split};
use kdh_trainer::fit::{FitInput, FitOutput, LabelName};
use kdh_trainer::model::read_card;

/// Data, labels and output of a training run.
#[derive(Args)]
pub(crate) struct Run {
    /// Folder of pretrained weights: config.json, model.safetensors, vocab.txt.
    #[arg(long)]
    pub(crate) weights: PathBuf,
    /// Training documents, JSON Lines.
    #[arg(long)]
    train: PathBuf,
    /// Documents that choose the best epoch, JSON Lines. Leave it out with --fold.
    #[arg(long, required_unless_present = "fold")]
    dev: Option<PathBuf>,
    /// Cross-validation: hold out part I of K of the training documents as dev, written I/K, from 1.
    #[arg(long, conflicts_with = "dev")]
    fold: Option<Fold>,
    /// Labels in the order of the logits: a JSON list of {"code", "name"}. All labels of the data, sorted, when not
    /// given.
    #[arg(long)]
    labels: Option<PathBuf>,
    /// Folder of the run.
    #[arg(long, short)]
    pub(crate) out: PathBuf,
    /// Name of the student.
    #[arg(long, default_value = "student")]
    name: String,
    /// What the data is, for the model card.
    #[arg(long, default_value = "")]
    data_name: String,
    /// Licence of the data, for the model card.
    #[arg(long, default_value = "")]
    data_licence: String,
    /// Licence of the weights, for the model card.
    #[arg(long, default_value = "")]
    weights_licence: String,
    /// Commit of this program, for the model card.
    #[arg(long, default_value = "")]
    commit: String,
    /// Steps between checkpoints.
    #[arg(long, default_value_t = 50)]
    checkpoint_every: usize,
    /// Print one JSON object at the end.
    #[arg(long)]
    pub(crate) json: bool,
}

/// The documents and labels of a run.
pub(crate) struct Data {
    pub(crate) train: Vec<Document>,
    pub(crate) dev: Vec<Document>,
    pub(crate) labels: Vec<LabelName>,
}

impl Run {
    /// Reads the data.
    pub(crate) fn data(&self) -> Result<Data> {
        let all = read(&self.train)?;
        let labels = match &self.labels {
            Some(path) => read_labels(path)?,
            None => {
                label_codes(&all).into_iter().map(|code| LabelName { name: code.clone(), code }).collect::<Vec<_>>()
            }
        };
        let (train, dev) = match (&self.dev, self.fold) {
            (Some(path), _) => (all, read(path)?),
            (None, Some(fold)) => split(&all, fold)?,
            (None, None) => anyhow::bail!("give --dev or --fold"),
        };
        Ok(Data { train, dev, labels })
    }

    /// What the library's functions work on. `command` and `seed` go into the student's card.
    pub(crate) fn input<'a>(&'a self, data: &'a Data, command: &str, seed: u64) -> FitInput<'a> {
        FitInput {
            weights: &self.weights,
            train: &data.train,
            dev: &data.dev,
            labels: &data.labels,
            provenance: Provenance {
                data: self.data_name.clone(),
                data_licence: self.data_licence.clone(),
                weights: origin(&self.weights),
                weights_licence: self.weights_licence.clone(),
                command: command.into(),
                commit: self.commit.clone(),
                seed,
                metrics: Vec::new(),
            },
            name: self.name.clone(),
        }
    }

    /// Where the run goes, with a progress bar when there is a terminal.
    pub(crate) fn output(&self) -> FitOutput {
        FitOutput {
            folder: self.out.clone(),
            checkpoint_every: self.checkpoint_every,
            stop_after: None,
            progress_bar: std::io::stderr().is_terminal(),
        }
    }
}

/// Name of the pretrained weights: the folder's, or what a student that training goes on from says of its own.
fn origin(folder: &Path) -> String {
    match read_card(folder) {
        Ok(card) => card.provenance.weights,
        Err(_) => folder.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
    }
}

/// A bar over the documents that a teacher is run on, where there is a terminal.
pub(crate) fn teacher_bar(documents: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(documents as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} teacher {pos}/{len}  (ETA {eta_precise})") {
        bar.set_style(style);
    }
    bar
}
