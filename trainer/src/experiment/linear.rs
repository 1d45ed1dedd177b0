//! The one place where the experiment meets the linear baseline (TF-IDF and logistic regression).

use anyhow::{Result, bail};
use kdh_runtime::dataset::Document;
use serde_json::{Map, Value};

use crate::predict::Predictions;

/// Checks the options of a linear arm.
pub(super) fn check(_options: &Map<String, Value>) -> Result<()> {
    bail!("this program has no linear model yet: leave the arm out, or give its predictions from elsewhere")
}

/// Fits on `train`; gives what it says of each of `others` and, by models that were fitted without them, of `train`.
pub(super) fn fit_and_predict(
    _options: &Map<String, Value>,
    _train: &[Document],
    _others: [&[Document]; 2],
    _codes: &[String],
) -> Result<(Predictions, [Predictions; 2])> {
    bail!("this program has no linear model yet")
}
