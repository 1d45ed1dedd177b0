//! Fits what a bundle makes of its model's logits to labelled texts: calibration, operating points, limits and the
//! out-of-distribution score. The model itself does not change.
//!
//! Everything is measured on documents that it was not fitted on, by repeated cross-validation with bootstrap intervals.
//! The logits are those of this runtime, int8 and all, so what is fitted is what the box sees.

use core::fmt;

use kdh_format::{
    Bundle, BundleWriter, Calibration, Decisions, Figure, Fitted, LabelThreshold, Limits, ManifestError,
    OperatingPoint, Policy, WriteError, heapless,
};
use serde::Serialize;

pub use calibration::Method;
pub use out_of_distribution::GroupResult;
pub use page::page;
pub use validation::{Estimate, MethodResult, PointResult};

use crate::dataset::{DatasetError, Document};
use crate::labeler::{LabelError, Labeler};
use crate::metrics::MetricsError;
use out_of_distribution::{Fit, Group};
use sample::{Measured, Sample};

mod calibration;
mod out_of_distribution;
mod page;
mod sample;
mod thresholds;
mod validation;

/// Fewest labelled texts that anything is fitted to.
pub const MIN_DOCUMENTS: usize = 50;
/// Fewest positives, all labels together, for a threshold by F1.
const MIN_POSITIVES: usize = 10;

/// What is fitted, and what is said of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Operating points: name and policy, the one first that holds unless another is asked for; 1 to 8.
    pub points: Vec<(String, Policy)>,
    /// Limits below which a text is not labelled.
    pub limits: Limits,
    /// Share of texts of the model's kind that may be taken for strange ones.
    pub false_abstention_rate: f64,
    /// Labels with too few positives for a threshold of their own get the one of all labels together, instead of a
    /// refusal.
    pub pool_small_labels: bool,
    /// The texts, for people: name, origin, who labelled them.
    pub data: String,
    /// Who fits, for people.
    pub author: String,
    /// When, for people.
    pub date: String,
    /// The command, for people.
    pub command: String,
    /// Counter against rollback of the new bundle; that of the old one otherwise.
    pub rollback_counter: Option<u64>,
    /// Seed of shuffles and bootstraps.
    pub seed: u64,
}

impl Default for Options {
    /// The manifest's thresholds, highest F1, recall and precision of 0.9, and at most 10 % of a text's labels missed.
    fn default() -> Self {
        let point = |name: &str, policy| (name.to_owned(), policy);
        let empty = String::new;
        Self {
            points: vec![
                point("default", Policy::Manifest),
                point("max-f1", Policy::MaxF1),
                point("recall-0.9", Policy::RecallFloor(0.9)),
                point("precision-0.9", Policy::PrecisionFloor(0.9)),
                point("risk-0.1", Policy::RiskControl(0.1)),
            ],
            limits: Limits { min_tokens: 8, max_unknown_rate: 0.2 },
            false_abstention_rate: 0.02,
            pool_small_labels: false,
            data: empty(),
            author: empty(),
            date: empty(),
            command: empty(),
            rollback_counter: None,
            seed: 1,
        }
    }
}

/// Texts that the out-of-distribution score is fitted with; their labels are not looked at.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "the three kinds of texts that a score needs")]
pub struct Strangeness<'d> {
    /// Texts of the model's kind, other than the labelled ones: the more, the better. When there are none, the bundle's
    /// statistics stay and only the threshold is set anew.
    pub reference: &'d [Document],
    /// Strange texts, in groups by what their ids have before the first `/`; they choose the score.
    pub far: &'d [Document],
    /// Texts of a neighbouring kind, on which the score is measured only.
    pub near: &'d [Document],
}

impl Strangeness<'_> {
    /// Texts that will be run.
    pub fn documents(&self) -> usize {
        self.reference.len() + self.far.len() + self.near.len()
    }
}

/// A bundle with new decisions, and what they were measured to do.
#[derive(Debug)]
#[non_exhaustive]
pub struct Refitted {
    /// The bytes of the bundle, without signatures.
    pub bundle: Vec<u8>,
    /// What was measured.
    pub result: FitResult,
}

/// What was fitted and measured.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct FitResult {
    /// Labelled texts.
    pub documents: usize,
    /// Codes of the labels.
    pub labels: Vec<String>,
    /// Texts that have each label.
    pub positives: Vec<usize>,
    /// The method with the least cross-validated log loss.
    pub method: Method,
    /// What every method was measured to do.
    pub methods: Vec<MethodResult>,
    /// What every operating point was measured to do.
    pub points: Vec<FittedPoint>,
    /// The out-of-distribution score; `None` when there is none.
    pub out_of_distribution: Option<ScoreResult>,
}

impl FitResult {
    /// The result of a method.
    pub fn of(&self, method: Method) -> Option<&MethodResult> {
        self.methods.iter().find(|result| result.method == method)
    }
}

/// An operating point.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct FittedPoint {
    /// Its name.
    pub name: String,
    /// How it was chosen.
    pub policy: Policy,
    /// What it was measured to do.
    #[serde(flatten)]
    pub measured: PointResult,
    /// Of a risk-controlled point: the risk on the other half of the documents, over random halves.
    pub risk_on_halves: Option<Estimate>,
    /// One entry a label.
    pub labels: Vec<FittedLabel>,
}

/// A label at an operating point.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct FittedLabel {
    /// Threshold on the calibrated probability.
    pub threshold: f32,
    /// It is the threshold of all labels together.
    pub pooled: bool,
    /// Measured.
    pub precision: Estimate,
    /// Measured.
    pub recall: Estimate,
}

/// The out-of-distribution score.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ScoreResult {
    /// Directions that do not count as strange.
    pub directions: usize,
    /// Factor of the residual.
    pub residual_weight: f32,
    /// Factor of the largest logit.
    pub logit_weight: f32,
    /// A text above it is strange.
    pub threshold: f32,
    /// How well each group of strange texts is known.
    pub groups: Vec<GroupResult>,
    /// What was tried: directions, factor of the residual (of equal means), lowest AUROC over the far groups.
    pub tried: Vec<(usize, f64, f64)>,
}

/// Fits decisions to `documents` and writes the bundle anew with them. `labeler` is the bundle's; `done` is called after each
/// text.
///
/// # Errors
///
/// [`FitError::TooFew`] says how many texts more are needed, unless the options pool small labels. Otherwise when a document
/// has an unknown label or cannot be labelled, or the bundle cannot be written.
pub fn refit(
    bundle: &Bundle<'_>,
    labeler: &Labeler,
    documents: &[Document],
    strangeness: &Strangeness<'_>,
    options: &Options,
    mut done: impl FnMut(),
) -> Result<Refitted, FitError> {
    let manifest = bundle.manifest().map_err(FitError::Manifest)?;
    let codes: Vec<&str> = labeler.codes().collect();
    // Before the model runs: who has too few texts should not wait to hear it.
    let truth = Sample {
        labels: codes.len(),
        logits: Vec::new(),
        truth: crate::dataset::truth(documents, &codes).map_err(FitError::Data)?,
    };
    check_size(&truth, &codes, options)?;

    let own = Measured::new(labeler, documents, &mut done)?;
    let sample = Sample { logits: own.logits.clone(), ..truth };
    let methods = Method::ALL.into_iter().map(|method| validation::method(&sample, method, options.seed));
    let methods: Vec<MethodResult> = methods.collect::<Result<_, _>>().map_err(FitError::Metrics)?;
    let best = methods.iter().min_by(|a, b| a.log_loss.total_cmp(&b.log_loss));
    let method = best.map_or(Method::Identity, |best| best.method);
    let calibration = method.fit(&sample);

    let of_manifest: Vec<f32> = manifest.labels.iter().map(|label| label.threshold).collect();
    let mut points = Vec::new();
    for (name, policy) in &options.points {
        points.push(fitted_point(name, *policy, &sample, method, &calibration, &of_manifest, options.seed)?);
    }
    let score = score(bundle, &manifest, labeler, &own, strangeness, options.false_abstention_rate, &mut done)?;
    let result = FitResult {
        documents: documents.len(),
        labels: codes.iter().map(|&code| code.to_owned()).collect(),
        positives: (0..codes.len()).map(|label| sample.positives(label)).collect(),
        method,
        methods,
        points,
        out_of_distribution: score.as_ref().map(|fit| ScoreResult {
            directions: fit.directions.len() / fit.mean.len().max(1),
            residual_weight: fit.residual_weight,
            logit_weight: fit.logit_weight,
            threshold: fit.threshold,
            groups: fit.groups.clone(),
            tried: fit.tried.clone(),
        }),
    };
    let bundle = write(bundle, &result, &calibration, score.as_ref(), options)?;
    Ok(Refitted { bundle, result })
}

fn fitted_point(
    name: &str,
    policy: Policy,
    sample: &Sample,
    method: Method,
    calibration: &[Calibration],
    manifest: &[f32],
    seed: u64,
) -> Result<FittedPoint, FitError> {
    let chosen = thresholds::choose(policy, sample, calibration, manifest, seed).map_err(FitError::Metrics)?;
    let measured = validation::point(sample, method, policy, manifest, seed).map_err(FitError::Metrics)?;
    let risk = |_| validation::risk(sample, method, policy, manifest, seed).map_err(FitError::Metrics);
    let risk_on_halves = Some(()).filter(|()| matches!(policy, Policy::RiskControl(_))).map(risk).transpose()?;
    let labels = chosen.into_iter().zip(&measured.per_label);
    let labels =
        labels.map(|((threshold, pooled), &(precision, recall))| FittedLabel { threshold, pooled, precision, recall });
    Ok(FittedPoint { name: name.to_owned(), policy, labels: labels.collect(), measured, risk_on_halves })
}

fn score(
    bundle: &Bundle<'_>,
    manifest: &kdh_format::Manifest<'_>,
    labeler: &Labeler,
    own: &Measured,
    strangeness: &Strangeness<'_>,
    rate: f64,
    mut done: impl FnMut(),
) -> Result<Option<Fit>, FitError> {
    if strangeness.reference.is_empty() {
        let before = bundle.decisions(manifest).and_then(Result::ok);
        let before = before.as_ref().and_then(|decisions| decisions.out_of_distribution.as_ref());
        return Ok(before.and_then(|before| out_of_distribution::refit(before, own, rate)));
    }
    let mut groups: Vec<(String, bool, Vec<Document>)> = Vec::new();
    for (near, documents) in [(false, strangeness.far), (true, strangeness.near)] {
        for document in documents {
            let name = if near { "near" } else { document.id.split_once('/').map_or("far", |(group, _)| group) };
            match groups.iter_mut().find(|group| group.0 == name) {
                Some(group) => group.2.push(document.clone()),
                None => groups.push((name.to_owned(), near, vec![document.clone()])),
            }
        }
    }
    let reference = Measured::new(labeler, strangeness.reference, &mut done)?;
    let mut measured = Vec::new();
    for (name, near, documents) in groups {
        measured.push(Group { name, near, measured: Measured::new(labeler, &documents, &mut done)? });
    }
    Ok(out_of_distribution::fit(&reference, own, &measured, rate))
}

fn write(
    bundle: &Bundle<'_>,
    result: &FitResult,
    calibration: &[Calibration],
    score: Option<&Fit>,
    options: &Options,
) -> Result<Vec<u8>, FitError> {
    let exact = |name, value: f64| Figure { name, estimate: value, low: value, high: value };
    let of = |method| {
        result
            .of(method)
            .map_or((0.0, 0.0, 0.0), |of| (of.calibration_error, of.log_loss, of.calibration_error_of_chance))
    };
    let (before, after) = (of(Method::Identity), of(result.method));
    let mut figures = vec![
        exact("calibration_error_before", before.0),
        exact("calibration_error_after", after.0),
        exact("calibration_error_of_chance", after.2),
        exact("log_loss_before", before.1),
        exact("log_loss_after", after.1),
    ];
    let names: Vec<String> = score
        .map(|fit| fit.groups.iter().map(|group| format!("ood_auroc_{}", group.group)).collect())
        .unwrap_or_default();
    if let Some(fit) = score {
        figures.extend(names.iter().zip(&fit.groups).map(|(name, group)| exact(name, group.auroc)));
    }
    let mut points = Vec::new();
    for point in &result.points {
        let figure = |name, of: Estimate| Figure { name, estimate: of.estimate, low: of.low, high: of.high };
        let measured = &point.measured;
        let mut figures = vec![
            figure("micro_f1", measured.micro_f1),
            figure("micro_precision", measured.micro_precision),
            figure("micro_recall", measured.micro_recall),
            figure("missed_share", measured.missed_share),
        ];
        figures.extend(point.risk_on_halves.map(|risk| figure("missed_share_on_halves", risk)));
        let labels = point.labels.iter().map(|label| LabelThreshold {
            threshold: label.threshold,
            pooled: label.pooled,
            precision: label.precision.into(),
            recall: label.recall.into(),
        });
        points.push(OperatingPoint {
            name: &point.name,
            policy: point.policy,
            labels: fixed(labels)?,
            figures: fixed(figures)?,
        });
    }
    figures.truncate(kdh_format::MAX_FIGURES);
    let decisions = Decisions {
        fitted: Fitted {
            data: &options.data,
            author: &options.author,
            date: &options.date,
            command: &options.command,
            documents: u32::try_from(result.documents).unwrap_or(u32::MAX),
            bundle: bundle.digest(),
        },
        limits: options.limits,
        calibration: fixed(calibration.iter().cloned())?,
        figures: fixed(figures)?,
        points: fixed(points)?,
        out_of_distribution: score.map(Fit::section),
    };
    let counter = options.rollback_counter.unwrap_or_else(|| bundle.rollback_counter());
    BundleWriter::of(bundle)
        .rollback_counter(counter)
        .decisions(&decisions, calibration.len())
        .and_then(BundleWriter::finish)
        .map_err(FitError::Write)
}

/// Collects into the fixed capacity that the format has.
fn fixed<T, const N: usize>(items: impl IntoIterator<Item = T>) -> Result<heapless::Vec<T, N>, FitError> {
    let mut vec = heapless::Vec::new();
    for item in items {
        vec.push(item).map_err(|_| FitError::TooMany { most: N })?;
    }
    Ok(vec)
}

fn check_size(sample: &Sample, codes: &[&str], options: &Options) -> Result<(), FitError> {
    let mut shortages = Vec::new();
    let mut need = |what: String, have: usize, needed: usize| {
        if have < needed {
            shortages.push(Shortage { what, have, needed });
        }
    };
    need("labelled texts".into(), sample.documents(), MIN_DOCUMENTS);
    for (name, policy) in &options.points {
        match *policy {
            Policy::RecallFloor(floor) | Policy::PrecisionFloor(floor) if !options.pool_small_labels => {
                for (label, code) in codes.iter().enumerate() {
                    let needed = thresholds::needed_positives(floor);
                    need(format!("texts with {code} for {name}"), sample.positives(label), needed);
                }
            }
            Policy::RiskControl(alpha) => {
                let needed = thresholds::needed_documents(alpha);
                need(format!("texts with a label for {name}"), sample.labelled(), needed);
            }
            Policy::Manifest => {}
            _ => {
                let positives = sample.truth.iter().filter(|truth| **truth).count();
                need(format!("labels in all texts for {name}"), positives, MIN_POSITIVES);
            }
        }
    }
    if shortages.is_empty() { Ok(()) } else { Err(FitError::TooFew(shortages)) }
}

/// What there is too little of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shortage {
    /// Of what, and for which operating point.
    pub what: String,
    /// How many there are.
    pub have: usize,
    /// How many there must be.
    pub needed: usize,
}

/// Decisions cannot be fitted. It never holds text of a document.
#[derive(Debug)]
#[non_exhaustive]
pub enum FitError {
    /// The sample is too small for what is asked of it.
    TooFew(Vec<Shortage>),
    /// A document has a label that the model does not have.
    Data(DatasetError),
    /// A document cannot be labelled.
    Label {
        /// The document's line, counted from 1.
        line: usize,
        /// Why.
        error: LabelError,
    },
    /// More operating points than a bundle holds.
    TooMany {
        /// What it holds.
        most: usize,
    },
    /// The manifest.
    Manifest(ManifestError),
    /// The scores cannot be computed.
    Metrics(MetricsError),
    /// The bundle cannot be written.
    Write(WriteError),
}

impl fmt::Display for FitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFew(shortages) => {
                f.write_str("the sample is too small: ")?;
                for (index, Shortage { what, have, needed }) in shortages.iter().enumerate() {
                    let more = needed.saturating_sub(*have);
                    write!(f, "{}{more} more {what} ({have} of {needed})", if index > 0 { "; " } else { "" })?;
                }
                f.write_str("; add texts, drop the operating point, or pool small labels")
            }
            Self::Data(error) => error.fmt(f),
            Self::Label { line, error } => write!(f, "line {line}: {error}"),
            Self::TooMany { most } => {
                write!(f, "a bundle holds at most {most} of these; ask for fewer operating points")
            }
            Self::Manifest(error) => error.fmt(f),
            Self::Metrics(error) => error.fmt(f),
            Self::Write(error) => error.fmt(f),
        }
    }
}

// The texts above already hold the text of the cause, so `source` stays empty: a chain would print it twice.
impl core::error::Error for FitError {}
