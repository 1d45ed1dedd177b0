//! `kdh-train fit`.

use std::fs;
use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use kdh_format::student::Provenance;
use kdh_runtime::dataset::Document;
use kdh_trainer::data::{label_codes, read};
use kdh_trainer::fit::{FitInput, FitOptions, FitOutput, LabelName, fit};

use crate::Machine;

/// Fine-tunes an encoder with a multi-label head, and goes on by itself when a run in the same folder was killed.
///
/// The best epoch's student goes to OUT/best, its dev predictions to OUT/dev-predictions.jsonl, figures to
/// OUT/metrics.jsonl.
#[derive(Args)]
pub(crate) struct Fit {
    /// Folder of pretrained weights: config.json, model.safetensors, vocab.txt.
    #[arg(long)]
    weights: PathBuf,
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
    out: PathBuf,
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
    json: bool,
    #[command(flatten)]
    options: FitOptions,
    #[command(flatten)]
    machine: Machine,
}

impl Fit {
    pub(crate) fn run(self) -> Result<()> {
        let device = self.machine.device()?;
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
        let weights_name =
            self.weights.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let input = FitInput {
            weights: &self.weights,
            train: &train,
            dev: &dev,
            labels: &labels,
            provenance: Provenance {
                data: self.data_name,
                data_licence: self.data_licence,
                weights: weights_name,
                weights_licence: self.weights_licence,
                command: "kdh-train fit".into(),
                commit: self.commit,
                seed: self.options.seed,
                metrics: Vec::new(),
            },
            name: self.name,
        };
        let output = FitOutput {
            folder: self.out,
            checkpoint_every: self.checkpoint_every,
            stop_after: None,
            progress_bar: std::io::stderr().is_terminal(),
        };
        let report = fit(&input, &self.options, &output, device)?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            println!("{} epochs, {} steps; best student: {}", report.epochs, report.steps, report.student.display());
        }
        Ok(())
    }
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
