//! The linear baseline: TF-IDF of words and word pairs, one logistic regression a label.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result, ensure};
use argmin::core::{CostFunction, Executor, Gradient, State};
use argmin::solver::linesearch::MoreThuenteLineSearch;
use argmin::solver::quasinewton::LBFGS;
use kdh_runtime::dataset::Document;
use serde::{Deserialize, Serialize};

use crate::data::{Fold, document_flags, split};
use crate::predict::{Predictions, SentenceLogits};

/// A linear classifier over words: what any encoder has to beat, and a member of ensembles whose errors are of another
/// kind.
#[derive(Debug)]
pub struct LinearModel {
    terms: Terms,
    /// One row of weights a label.
    weights: Vec<Vec<f64>>,
    intercepts: Vec<f64>,
}

/// Options of the linear model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct LinearOptions {
    /// Inverse strength of the L2 penalty.
    #[arg(long = "inverse-penalty", value_name = "C", default_value_t = 10.0)]
    pub inverse_penalty: f64,
    /// Leave out terms that occur in fewer documents.
    #[arg(long, default_value_t = 2)]
    pub min_documents: usize,
}

impl Default for LinearOptions {
    fn default() -> Self {
        Self { inverse_penalty: 10.0, min_documents: 2 }
    }
}

impl LinearModel {
    /// Fits the model: for every label, L2-penalised logistic regression with documents weighted so that those with
    /// and those without the label count the same in all, minimised by L-BFGS.
    ///
    /// A label that all documents or none have gets no weights, only its smoothed log-odds.
    ///
    /// # Errors
    /// When there are no documents, a label is not one of `codes`, or the options are out of range.
    pub fn fit(documents: &[Document], codes: &[String], options: LinearOptions) -> Result<Self> {
        ensure!(!documents.is_empty(), "there are no documents");
        ensure!(
            options.inverse_penalty > 0.0 && options.inverse_penalty.is_finite(),
            "--inverse-penalty must be positive"
        );
        let terms = Terms::of(documents, options.min_documents);
        let rows: Vec<Row> = documents.iter().map(|document| terms.row(&document.text)).collect();
        let truth = document_flags(documents, codes)?;
        let mut model = Self { weights: Vec::new(), intercepts: Vec::new(), terms };
        for label in 0..codes.len() {
            let has: Vec<bool> = truth.iter().map(|flags| flags[label]).collect();
            let (weights, intercept) = regress(&rows, &has, model.terms.idf.len(), options.inverse_penalty)?;
            model.weights.push(weights);
            model.intercepts.push(intercept);
        }
        Ok(model)
    }

    /// Log-odds of every label for one text.
    pub fn logits(&self, text: &str) -> Vec<f32> {
        let row = self.terms.row(text);
        self.weights
            .iter()
            .zip(&self.intercepts)
            .map(|(weights, intercept)| (dot(&row, weights) + intercept) as f32)
            .collect()
    }

    /// Predictions for documents, with their own labels as the truth. There are no sentence logits.
    ///
    /// # Errors
    /// When a label is not one of `codes`.
    pub fn predict(&self, documents: &[Document], codes: &[String]) -> Result<Predictions> {
        Ok(Predictions {
            ids: documents.iter().map(|document| document.id.clone()).collect(),
            truth: document_flags(documents, codes)?.concat(),
            logits: documents.iter().flat_map(|document| self.logits(&document.text)).collect(),
            sentences: vec![SentenceLogits::default(); documents.len()],
        })
    }
}

/// Predictions for the training documents themselves, each by a model that was fitted without it.
///
/// That is what a student may learn from: what a model says of documents that it has seen is nearly their labels again.
///
/// # Errors
/// As [`LinearModel::fit`], and when there are fewer documents than folds.
pub fn cross_fitted(
    documents: &[Document],
    codes: &[String],
    options: LinearOptions,
    folds: usize,
) -> Result<Predictions> {
    let mut all = Predictions::default();
    for part in 1..=folds {
        let fold: Fold = format!("{part}/{folds}").parse()?;
        let (train, held_out) = split(documents, fold)?;
        all.extend(LinearModel::fit(&train, codes, options)?.predict(&held_out, codes)?);
    }
    Ok(all)
}

/// Terms and their inverse document frequencies.
#[derive(Debug)]
struct Terms {
    index: HashMap<String, usize>,
    idf: Vec<f64>,
}

/// Terms of a text and their weights, of Euclidean length 1, or without any.
type Row = Vec<(usize, f64)>;

impl Terms {
    fn of(documents: &[Document], min_documents: usize) -> Self {
        let mut counts: HashMap<String, usize> = HashMap::new();
        for document in documents {
            let seen: HashSet<String> = terms(&document.text).into_iter().collect();
            for term in seen {
                *counts.entry(term).or_default() += 1;
            }
        }
        let mut kept: Vec<(String, usize)> =
            counts.into_iter().filter(|(_, count)| *count >= min_documents.max(1)).collect();
        // A map's order differs from run to run; sums of floats must not.
        kept.sort();
        let total = documents.len() as f64;
        let idf = kept.iter().map(|(_, count)| ((1.0 + total) / (1.0 + *count as f64)).ln() + 1.0).collect();
        let index = kept.into_iter().enumerate().map(|(place, (term, _))| (term, place)).collect();
        Self { index, idf }
    }

    /// Sublinear frequency times inverse document frequency, scaled to length 1.
    fn row(&self, text: &str) -> Row {
        let mut counts: HashMap<usize, usize> = HashMap::new();
        for term in terms(text) {
            if let Some(&place) = self.index.get(&term) {
                *counts.entry(place).or_default() += 1;
            }
        }
        let mut row: Row =
            counts.into_iter().map(|(place, count)| (place, (1.0 + (count as f64).ln()) * self.idf[place])).collect();
        row.sort_by_key(|&(place, _)| place);
        let length = row.iter().map(|(_, value)| value * value).sum::<f64>().sqrt();
        row.iter_mut().for_each(|(_, value)| *value /= length);
        row
    }
}

/// Words of two characters and more, in lower case, and pairs of neighbours.
fn terms(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let words: Vec<&str> = text
        .split(|character: char| !(character.is_alphanumeric() || character == '_'))
        .filter(|word| word.chars().nth(1).is_some())
        .collect();
    let pairs = words.windows(2).map(|pair| pair.join(" "));
    words.iter().map(|word| (*word).to_owned()).chain(pairs).collect()
}

/// Weights and intercept of one label.
fn regress(rows: &[Row], has: &[bool], width: usize, inverse_penalty: f64) -> Result<(Vec<f64>, f64)> {
    let positive = has.iter().filter(|flag| **flag).count();
    let negative = has.len() - positive;
    if positive == 0 || negative == 0 {
        return Ok((vec![0.0; width], ((positive as f64 + 0.5) / (negative as f64 + 0.5)).ln()));
    }
    let balanced = |count: usize| inverse_penalty * has.len() as f64 / (2.0 * count as f64);
    let costs = has.iter().map(|&flag| balanced(if flag { positive } else { negative })).collect();
    let problem = Regression { rows, has, costs };
    let solver = LBFGS::new(MoreThuenteLineSearch::new(), 10).with_tolerance_grad(1e-5)?.with_tolerance_cost(1e-12)?;
    let start = vec![0.0; width + 1];
    let result = Executor::new(problem, solver).configure(|state| state.param(start).max_iters(500)).run()?;
    let mut best = result.state().get_best_param().cloned().context("logistic regression found no minimum")?;
    let intercept = best.pop().unwrap_or_default();
    Ok((best, intercept))
}

/// `|w|^2 / 2 + sum of cost_i * ln(1 + exp(-y_i (w x_i + b)))`; the parameters are `w` and, last, `b`.
struct Regression<'a> {
    rows: &'a [Row],
    has: &'a [bool],
    costs: Vec<f64>,
}

impl Regression<'_> {
    /// For every document its cost and its margin `y (w x + b)`, with the sign `y`.
    fn margins(&self, parameters: &[f64]) -> impl Iterator<Item = (&Row, f64, f64, f64)> {
        let (weights, intercept) = parameters.split_at(parameters.len() - 1);
        self.rows.iter().zip(self.has).zip(&self.costs).map(move |((row, &has), &cost)| {
            let sign = if has { 1.0 } else { -1.0 };
            (row, cost, sign, sign * (dot(row, weights) + intercept[0]))
        })
    }
}

impl CostFunction for Regression<'_> {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, parameters: &Vec<f64>) -> Result<f64, argmin::core::Error> {
        let penalty: f64 = parameters.iter().rev().skip(1).map(|weight| weight * weight).sum::<f64>() / 2.0;
        // ln(1 + e^-m) without overflow.
        let loss = |margin: f64| (-margin).max(0.0) + (-margin.abs()).exp().ln_1p();
        Ok(penalty + self.margins(parameters).map(|(_, cost, _, margin)| cost * loss(margin)).sum::<f64>())
    }
}

impl Gradient for Regression<'_> {
    type Param = Vec<f64>;
    type Gradient = Vec<f64>;

    fn gradient(&self, parameters: &Vec<f64>) -> Result<Vec<f64>, argmin::core::Error> {
        let last = parameters.len() - 1;
        let mut gradient = parameters.clone();
        gradient[last] = 0.0;
        for (row, cost, sign, margin) in self.margins(parameters) {
            let slope = -sign * cost / (1.0 + margin.exp());
            row.iter().for_each(|&(place, value)| gradient[place] += slope * value);
            gradient[last] += slope;
        }
        Ok(gradient)
    }
}

fn dot(row: &Row, weights: &[f64]) -> f64 {
    row.iter().map(|&(place, value)| value * weights[place]).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Fixture {
        train: Vec<(String, Vec<String>)>,
        test: Vec<String>,
        codes: Vec<String>,
        /// scikit-learn's decision function for the test texts.
        logits: Vec<Vec<f32>>,
        terms: usize,
    }

    fn document(id: usize, text: &str, labels: &[String]) -> Document {
        Document { id: id.to_string(), text: text.into(), labels: labels.into(), sentences: Vec::new() }
    }

    fn fixture() -> (Fixture, Vec<Document>) {
        let fixture: Fixture = serde_json::from_str(include_str!("../tests/data/linear.json")).unwrap();
        let train = fixture.train.iter().enumerate().map(|(id, (text, labels))| document(id, text, labels)).collect();
        (fixture, train)
    }

    #[test]
    fn logits_are_those_of_scikit_learn() {
        let (fixture, train) = fixture();
        let model = LinearModel::fit(&train, &fixture.codes, LinearOptions::default()).unwrap();
        assert_eq!(model.terms.idf.len(), fixture.terms);
        for (text, expected) in fixture.test.iter().zip(&fixture.logits) {
            for (logit, expected) in model.logits(text).iter().zip(expected) {
                assert!((logit - expected).abs() < 2e-3, "{logit} {expected}");
            }
        }
    }

    #[test]
    fn a_label_without_examples_keeps_its_place() {
        let (fixture, train) = fixture();
        let codes: Vec<String> = fixture.codes.iter().cloned().chain(["never".to_owned()]).collect();
        let model = LinearModel::fit(&train, &codes, LinearOptions::default()).unwrap();
        let logits = model.logits("");
        assert_eq!(logits.len(), codes.len());
        assert!(logits[codes.len() - 1] < -3.0, "{logits:?}");
        let error = LinearModel::fit(&train, &codes[1..], LinearOptions::default()).unwrap_err().to_string();
        assert!(error.contains("is not one of"), "{error}");
        assert!(LinearModel::fit(&[], &codes, LinearOptions::default()).is_err());
    }

    #[test]
    fn cross_fitted_predictions_do_not_know_the_answer() {
        let (fixture, train) = fixture();
        let options = LinearOptions::default();
        let own = LinearModel::fit(&train, &fixture.codes, options).unwrap().predict(&train, &fixture.codes).unwrap();
        let fitted = cross_fitted(&train, &fixture.codes, options, 4).unwrap();
        assert_eq!(fitted.ids.len(), train.len());
        assert!(fitted.loss() > own.loss(), "{} {}", fitted.loss(), own.loss());
        let first: Vec<usize> = (0..train.len()).filter(|index| index % 4 == 0).collect();
        assert_eq!(fitted.ids[..first.len()], first.iter().map(|id| id.to_string()).collect::<Vec<_>>());
    }
}
