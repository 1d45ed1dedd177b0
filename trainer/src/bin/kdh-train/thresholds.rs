//! `kdh-train thresholds`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use kdh_format::student::{Metric, STUDENT_CARD_FILE};
use kdh_runtime::metrics::thresholds::{Policy, choose, select};
use kdh_trainer::model::read_card;
use kdh_trainer::predict::Predictions;

/// Chooses a threshold for every label and writes them into a student's card, with their cross-validated micro-F1.
///
/// Give it predictions on documents that the model behind them was not trained on: dev predictions of `fit`, or, better
/// because there are more of them, the held-out predictions of every fold (`fit --fold 1/5` … `5/5`). The policy is the
/// one with the best cross-validated micro-F1, unless --policy names it: one threshold for all labels, one per label,
/// or one per label that is drawn to the common one the more the rarer the label is.
#[derive(Args)]
pub(crate) struct Thresholds {
    /// Student folder whose card is rewritten.
    #[arg(long)]
    student: PathBuf,
    /// Prediction files, as `fit` (dev-predictions.jsonl) and `eval --predictions` write them.
    #[arg(required = true)]
    predictions: Vec<PathBuf>,
    /// Use this policy whatever cross-validation says.
    #[arg(long, value_parser = parse_policy)]
    policy: Option<Policy>,
    /// Folds of the cross-validation.
    #[arg(long, default_value_t = 5)]
    folds: usize,
    /// Repeats of the cross-validation with other folds.
    #[arg(long, default_value_t = 20)]
    repeats: usize,
    /// Seed of the folds.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only print what would be chosen.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Thresholds {
    pub(crate) fn run(self) -> Result<()> {
        let mut card = read_card(&self.student)?;
        let codes: Vec<String> = card.labels.iter().map(|label| label.code.clone()).collect();
        let mut predictions = Predictions::default();
        for path in &self.predictions {
            predictions.append(path, &codes)?;
        }
        let mut ids = predictions.ids.clone();
        ids.sort();
        ids.dedup();
        ensure!(ids.len() == predictions.ids.len(), "some documents are in the predictions more than once");

        let (truth, probabilities) = (&predictions.truth, &predictions.probabilities());
        let labels = codes.len();
        let selection = select(truth, probabilities, labels, self.folds, self.repeats, self.seed)?;
        let scores = selection.cross_validated;
        let (policy, thresholds) = match self.policy {
            None => (selection.policy, selection.thresholds),
            Some(policy) => (policy, choose(truth, probabilities, labels, policy)?),
        };

        for (label, &threshold) in card.labels.iter_mut().zip(&thresholds) {
            label.threshold = threshold;
        }
        // The honest figure: thresholds that were chosen on other documents than those that they decide.
        const FIGURE: &str = "thresholds_cross_validated_micro_f1";
        let chosen = scores.iter().find(|(candidate, _)| *candidate == policy).map(|(_, score)| score.micro_f1);
        card.provenance.metrics.retain(|metric| metric.name != FIGURE);
        card.provenance.metrics.extend(chosen.map(|value| Metric { name: FIGURE.into(), value }));
        if !self.dry_run {
            let path = self.student.join(STUDENT_CARD_FILE);
            let draft = path.with_extension("draft");
            fs::write(&draft, serde_json::to_string_pretty(&card)?)
                .with_context(|| format!("cannot write {}", draft.display()))?;
            fs::rename(draft, &path).with_context(|| format!("cannot replace {}", path.display()))?;
        }
        if self.json {
            let named: serde_json::Map<String, serde_json::Value> =
                codes.iter().zip(&thresholds).map(|(code, threshold)| (code.clone(), (*threshold).into())).collect();
            let result = serde_json::json!({"documents": predictions.ids.len(), "policy": policy,
                "thresholds": named, "cross_validated": scores});
            println!("{}", serde_json::to_string_pretty(&result)?);
            return Ok(());
        }
        println!("{} documents, {} folds x {} repeats", predictions.ids.len(), self.folds, self.repeats);
        for (candidate, score) in &scores {
            let mark = if *candidate == policy { "*" } else { " " };
            println!(
                "{mark} {:<18} micro-F1 {:.4} ± {:.4}  macro-F1 {:.4}",
                name(*candidate)?,
                score.micro_f1,
                score.micro_f1_std,
                score.macro_f1
            );
        }
        for (code, threshold) in codes.iter().zip(&thresholds) {
            println!("  {code:<12} {threshold:.4}");
        }
        Ok(())
    }
}

fn name(policy: Policy) -> Result<String> {
    Ok(serde_json::to_value(policy)?.as_str().unwrap_or_default().to_owned())
}

fn parse_policy(text: &str) -> Result<Policy, String> {
    serde_json::from_value(text.replace('-', "_").into())
        .map_err(|_| "the policy is global, per-label or per-label-shrunk".to_owned())
}
