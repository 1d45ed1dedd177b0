//! The one place where the experiment meets the linear baseline.

use anyhow::{Context, Result, ensure};
use kdh_runtime::dataset::Document;
use serde_json::{Map, Value};

use crate::linear::{LinearModel, LinearOptions, cross_fitted};
use crate::predict::Predictions;

/// Folds of what a linear teacher says of its own training documents.
const FOLDS: usize = 5;

/// Checks the options of a linear arm.
pub(super) fn check(options: &Map<String, Value>) -> Result<LinearOptions> {
    let options: LinearOptions = serde_json::from_value(Value::Object(options.clone()))
        .context("these are not the options of the linear baseline")?;
    ensure!(options.inverse_penalty > 0.0 && options.inverse_penalty.is_finite(), "inverse_penalty must be above 0");
    Ok(options)
}

/// Fits on `train` and gives what the model says of each of `others`.
pub(super) fn fit_and_predict(
    options: &Map<String, Value>,
    train: &[Document],
    others: [&[Document]; 2],
    codes: &[String],
) -> Result<[Predictions; 2]> {
    let model = LinearModel::fit(train, codes, check(options)?)?;
    let [one, other] = others.map(|documents| model.predict(documents, codes));
    Ok([one?, other?])
}

/// What a student learns: what models say of training documents that they were fitted without.
pub(super) fn teach(options: &Map<String, Value>, train: &[Document], codes: &[String]) -> Result<Predictions> {
    cross_fitted(train, codes, check(options)?, FOLDS.min(train.len()))
}
