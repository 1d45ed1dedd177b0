//! `kdh-train baseline`.

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use kdh_runtime::dataset::Document;
use kdh_runtime::metrics::thresholds::{Policy, choose};
use kdh_trainer::data::{label_codes, read, read_labels};
use kdh_trainer::linear::{LinearModel, LinearOptions, cross_fitted};

/// Fits the linear baseline (TF-IDF of words and pairs, one logistic regression a label) and scores it.
///
/// The threshold is chosen on the training documents by cross-validation, so the scores are honest. With --logits it
/// writes predictions that `distill --teacher-logits` takes: documents of the training data are predicted by models
/// that were fitted without them. A second or two.
#[derive(Args)]
pub(crate) struct Baseline {
    /// Training documents, JSON Lines.
    #[arg(long)]
    train: PathBuf,
    /// Labels in the order of the logits: a JSON list of {"code", "name"}. All labels of the data, sorted, when not
    /// given.
    #[arg(long)]
    labels: Option<PathBuf>,
    /// Labelled documents to score, JSON Lines.
    dev: PathBuf,
    /// Write predictions of the training documents and of --transfer to this file, JSON Lines.
    #[arg(long, value_name = "FILE")]
    logits: Option<PathBuf>,
    /// More documents for --logits, whose labels are not read. May be given several times.
    #[arg(long, requires = "logits")]
    transfer: Vec<PathBuf>,
    /// Write predictions of the scored documents to this file, JSON Lines.
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,
    /// Folds of the cross-validation.
    #[arg(long, default_value_t = 5)]
    folds: usize,
    #[command(flatten)]
    options: LinearOptions,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Baseline {
    pub(crate) fn run(self) -> Result<()> {
        ensure!(self.folds >= 2, "--folds must be at least 2");
        let (train, dev) = (read(&self.train)?, read(&self.dev)?);
        let codes: Vec<String> = match &self.labels {
            Some(path) => read_labels(path)?.into_iter().map(|label| label.code).collect(),
            None => label_codes(&train),
        };
        let model = LinearModel::fit(&train, &codes, self.options)?;
        let mut held_out = cross_fitted(&train, &codes, self.options, self.folds)?;
        let thresholds = choose(&held_out.truth, &held_out.probabilities(), codes.len(), Policy::Global)?;

        let predictions = model.predict(&dev, &codes)?;
        let names: Vec<&str> = codes.iter().map(String::as_str).collect();
        let metrics = predictions.metrics(&names, &thresholds)?;
        if let Some(path) = &self.predictions {
            predictions.write(path, &codes)?;
        }
        if let Some(path) = &self.logits {
            let known: HashSet<&str> = train.iter().map(|document| document.id.as_str()).collect();
            for file in &self.transfer {
                let blind = |document: Document| Document { labels: Vec::new(), ..document };
                let others: Vec<Document> = read(file)?
                    .into_iter()
                    .filter(|document| !known.contains(document.id.as_str()))
                    .map(blind)
                    .collect();
                held_out.extend(model.predict(&others, &codes)?);
            }
            held_out.write(path, &codes)?;
        }
        if self.json {
            println!("{}", serde_json::to_string_pretty(&metrics)?);
        } else {
            println!("{metrics}");
        }
        Ok(())
    }
}
