//! What `fit` and `distill` have in common: data, labels, provenance, where a run goes.

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use kdh_format::student::Provenance;
use kdh_runtime::dataset::Document;
use kdh_trainer::data::{label_codes, read};
use kdh_trainer::fit::{FitInput, FitOutput, LabelName};

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
    #[arg(long, value_parser = parse_fold, conflicts_with = "dev")]
    fold: Option<(usize, usize)>,
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
            Some(path) => {
                let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
                serde_json::from_str(&text)
                    .with_context(|| format!("{} is not a list of {{\"code\", \"name\"}}", path.display()))?
            }
            None => {
                label_codes(&all).into_iter().map(|code| LabelName { name: code.clone(), code }).collect::<Vec<_>>()
            }
        };
        let (train, dev) = match (&self.dev, self.fold) {
            (Some(path), _) => (all, read(path)?),
            (None, Some(fold)) => split(all, fold)?,
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
                weights: folder_name(&self.weights),
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

fn folder_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// Every K-th document, so that a fold does not depend on the order in which a corpus lists its topics.
fn split(all: Vec<Document>, (part, parts): (usize, usize)) -> Result<(Vec<Document>, Vec<Document>)> {
    ensure!(all.len() >= parts, "{} documents cannot make {parts} folds", all.len());
    let (dev, train): (Vec<_>, Vec<_>) = all.into_iter().enumerate().partition(|(index, _)| index % parts == part - 1);
    let documents = |list: Vec<(usize, Document)>| list.into_iter().map(|(_, document)| document).collect();
    Ok((documents(train), documents(dev)))
}

fn parse_fold(text: &str) -> Result<(usize, usize), String> {
    text.split_once('/')
        .and_then(|(part, parts)| Some((part.parse().ok()?, parts.parse().ok()?)))
        .filter(|&(part, parts): &(usize, usize)| parts >= 2 && (1..=parts).contains(&part))
        .ok_or_else(|| "a fold is I/K with K at least 2 and I from 1 to K, as in 2/5".to_owned())
}
