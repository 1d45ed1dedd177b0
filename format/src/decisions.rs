use core::fmt;

use heapless::Vec;
use serde::{Deserialize, Serialize};

use crate::layout::DIGEST_LEN;
use crate::manifest::{MAX_LABELS, is_name, is_prose};

/// Most operating points of a bundle.
pub const MAX_OPERATING_POINTS: usize = 8;
/// Most knots of an isotonic calibration.
pub const MAX_KNOTS: usize = 16;
/// Most figures of one list.
pub const MAX_FIGURES: usize = 16;
/// Most directions of an out-of-distribution score.
pub const MAX_DIRECTIONS: usize = 256;

const VERSION: u32 = 1;

/// What a box makes of a model's logits: calibrated probabilities, thresholds for each purpose, and when to abstain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decisions<'a> {
    /// On what they were fitted.
    #[serde(borrow)]
    pub fitted: Fitted<'a>,
    /// When a text says too little to be labelled.
    pub limits: Limits,
    /// How a document logit becomes a probability, one a label.
    pub calibration: Vec<Calibration, MAX_LABELS>,
    /// What calibration was measured to do.
    #[serde(borrow)]
    pub figures: Vec<Figure<'a>, MAX_FIGURES>,
    /// Thresholds for each purpose; the first one holds unless another is asked for.
    #[serde(borrow)]
    pub points: Vec<OperatingPoint<'a>, MAX_OPERATING_POINTS>,
    /// How texts that are not of the model's kind are known.
    #[serde(borrow)]
    pub out_of_distribution: Option<OutOfDistribution<'a>>,
}

/// Where decisions come from, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fitted<'a> {
    /// The texts: name, origin, who labelled them. Never a text itself.
    pub data: &'a str,
    /// Who fitted.
    pub author: &'a str,
    /// When, as the author says: `2026-11-24`. May be empty.
    pub date: &'a str,
    /// The command.
    pub command: &'a str,
    /// Number of texts.
    pub documents: u32,
    /// [`Bundle::digest`](crate::Bundle::digest) of the bundle that they were fitted with.
    pub bundle: [u8; DIGEST_LEN],
}

/// When a text says too little to be labelled.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// A text of fewer tokens is too short.
    pub min_tokens: u32,
    /// A text of which a larger share of tokens is unknown is not understood, 0 to 1.
    pub max_unknown_rate: f32,
}

/// How a document logit becomes a probability. Postcard writes the position of the variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Calibration {
    /// `sigmoid(logit)`.
    Identity,
    /// `sigmoid(logit / temperature)`, temperature positive (Guo et al. 2017).
    Temperature(f32),
    /// `sigmoid(slope * logit + intercept)`, slope positive (Platt 1999).
    Platt {
        /// Factor.
        slope: f32,
        /// Summand.
        intercept: f32,
    },
    /// Linear between knots (logit, probability), and the first and last probability beyond them: centred isotonic
    /// regression (Oron and Flournoy 2017). Both ascend strictly.
    Isotonic(Vec<(f32, f32), MAX_KNOTS>),
}

/// Thresholds for one purpose.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperatingPoint<'a> {
    /// Name, unique in the bundle.
    pub name: &'a str,
    /// How the thresholds were chosen.
    pub policy: Policy,
    /// One a label.
    pub labels: Vec<LabelThreshold, MAX_LABELS>,
    /// What was measured on texts that did not choose the thresholds.
    #[serde(borrow)]
    pub figures: Vec<Figure<'a>, MAX_FIGURES>,
}

/// How an operating point was chosen. Postcard writes the position of the variant.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Policy {
    /// The manifest's thresholds, taken through the calibration.
    Manifest,
    /// The highest F1.
    MaxF1,
    /// Each label's recall is at least this (expected, over samples of the same kind).
    RecallFloor(f32),
    /// Each label's precision is at least this.
    PrecisionFloor(f32),
    /// The expected share of a text's labels that is missed is at most this: conformal risk control (Angelopoulos et al.
    /// 2022).
    RiskControl(f32),
}

/// A label's threshold at one operating point.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelThreshold {
    /// The label is given when its calibrated probability is at least this, 0 to 1.
    pub threshold: f32,
    /// The label had too few positives for a threshold of its own, and has the one of all labels together.
    pub pooled: bool,
    /// Measured precision.
    pub precision: Interval,
    /// Measured recall.
    pub recall: Interval,
}

/// An estimate between 0 and 1 with its 95 % confidence interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The estimate.
    pub estimate: f32,
    /// Lower end.
    pub low: f32,
    /// Upper end.
    pub high: f32,
}

/// A measured figure with its 95 % confidence interval; a figure without one has it equal to the estimate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure<'a> {
    /// Name in snake case.
    pub name: &'a str,
    /// The estimate, finite.
    pub estimate: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// How texts that are not of the model's kind are known: virtual-logit matching (ViM, Wang et al. 2022).
///
/// `score = residual_weight * |r| - logit_weight * max(document logits)`, where `r` is the part of `pooled - mean` outside
/// the span of the directions and `pooled` the mean of the last hidden states over the tokens of all sentences. A text
/// whose score is above the threshold is not of the model's kind.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OutOfDistribution<'a> {
    /// `[hidden]`, little-endian `f32`.
    pub mean: &'a [u8],
    /// `[directions, hidden]`, little-endian `f32`, orthonormal rows.
    pub directions: &'a [u8],
    /// Factor of the residual, at least 0.
    pub residual_weight: f32,
    /// Factor of the largest logit, at least 0.
    pub logit_weight: f32,
    /// Finite.
    pub threshold: f32,
}

impl OutOfDistribution<'_> {
    /// Width of the pooled vector.
    pub fn hidden_size(&self) -> usize {
        self.mean.len() / 4
    }
}

/// Shows sizes and factors.
impl fmt::Debug for OutOfDistribution<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutOfDistribution")
            .field("hidden_size", &self.hidden_size())
            .field("residual_weight", &self.residual_weight)
            .field("logit_weight", &self.logit_weight)
            .field("threshold", &self.threshold)
            .finish_non_exhaustive()
    }
}

impl<'a> Decisions<'a> {
    /// Reads and checks a decisions section of a model with `labels` labels. Allocates nothing; the value takes up to 40
    /// KiB of stack.
    ///
    /// # Errors
    ///
    /// The first [`DecisionsError`].
    pub fn parse(bytes: &'a [u8], labels: usize) -> Result<Self, DecisionsError> {
        let malformed = |_| DecisionsError::Malformed;
        let (version, rest) = postcard::take_from_bytes(bytes).map_err(malformed)?;
        if version != VERSION {
            return Err(DecisionsError::UnsupportedVersion { found: version });
        }
        let (decisions, rest) = postcard::take_from_bytes::<Self>(rest).map_err(malformed)?;
        if !rest.is_empty() {
            return Err(DecisionsError::TrailingBytes);
        }
        decisions.check(labels)?;
        Ok(decisions)
    }

    /// Checks what a reader would refuse.
    ///
    /// # Errors
    ///
    /// The first [`DecisionsError`].
    pub fn check(&self, labels: usize) -> Result<(), DecisionsError> {
        let Fitted { data, author, date, command, .. } = self.fitted;
        if !is_prose(data) || !is_prose(command) || !is_prose(author) || !is_prose(date) {
            return Err(DecisionsError::Text);
        }
        if !unit(self.limits.max_unknown_rate) {
            return Err(DecisionsError::Limits);
        }
        if self.calibration.len() != labels {
            return Err(DecisionsError::Labels { found: self.calibration.len(), labels });
        }
        if let Some(label) = self.calibration.iter().position(|calibration| !calibration.makes_sense()) {
            return Err(DecisionsError::Calibration { label });
        }
        check_figures(&self.figures)?;
        if self.points.is_empty() {
            return Err(DecisionsError::NoPoint);
        }
        for (index, point) in self.points.iter().enumerate() {
            if !is_name(point.name) {
                return Err(DecisionsError::Text);
            }
            if self.points.iter().take(index).any(|earlier| earlier.name == point.name) {
                return Err(DecisionsError::DuplicatePoint { point: index });
            }
            if point.labels.len() != labels {
                return Err(DecisionsError::Labels { found: point.labels.len(), labels });
            }
            if !point.policy.makes_sense() || !point.labels.iter().all(LabelThreshold::makes_sense) {
                return Err(DecisionsError::Point { point: index });
            }
            check_figures(&point.figures)?;
        }
        match &self.out_of_distribution {
            Some(ood) if !ood.makes_sense() => Err(DecisionsError::OutOfDistribution),
            _ => Ok(()),
        }
    }

    /// The bytes of a decisions section.
    #[cfg(feature = "alloc")]
    pub(crate) fn to_vec(&self, labels: usize) -> Result<alloc::vec::Vec<u8>, DecisionsError> {
        self.check(labels)?;
        postcard::to_allocvec(&(VERSION, self)).map_err(|_| DecisionsError::Malformed)
    }
}

impl Calibration {
    fn makes_sense(&self) -> bool {
        let positive = |value: f32| value.is_finite() && value > 0.0;
        match self {
            Self::Identity => true,
            Self::Temperature(temperature) => positive(*temperature),
            Self::Platt { slope, intercept } => positive(*slope) && intercept.is_finite(),
            Self::Isotonic(knots) => {
                let ascends = |pair: &[(f32, f32)]| matches!(pair, [a, b] if a.0 < b.0 && a.1 < b.1);
                !knots.is_empty()
                    && knots.iter().all(|&(logit, probability)| logit.is_finite() && unit(probability))
                    && knots.windows(2).all(ascends)
            }
        }
    }
}

impl Policy {
    fn makes_sense(self) -> bool {
        match self {
            Self::Manifest | Self::MaxF1 => true,
            Self::RecallFloor(value) | Self::PrecisionFloor(value) | Self::RiskControl(value) => unit(value),
        }
    }
}

impl LabelThreshold {
    fn makes_sense(&self) -> bool {
        let sensible = |interval: Interval| {
            unit(interval.estimate) && unit(interval.low) && unit(interval.high) && interval.low <= interval.high
        };
        unit(self.threshold) && sensible(self.precision) && sensible(self.recall)
    }
}

impl OutOfDistribution<'_> {
    fn makes_sense(&self) -> bool {
        let finite = |bytes: &[u8]| {
            bytes.chunks(4).all(|chunk| chunk.try_into().is_ok_and(|value| f32::from_le_bytes(value).is_finite()))
        };
        let factor = |value: f32| value.is_finite() && value >= 0.0;
        !self.mean.is_empty()
            && self.directions.len().is_multiple_of(self.mean.len())
            && self.directions.len() / self.mean.len() <= MAX_DIRECTIONS
            && finite(self.mean)
            && finite(self.directions)
            && factor(self.residual_weight)
            && factor(self.logit_weight)
            && self.threshold.is_finite()
    }
}

/// A decisions section cannot be read, or says what makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecisionsError {
    /// The section has another version.
    UnsupportedVersion {
        /// What it says.
        found: u32,
    },
    /// Not decisions in postcard: cut off, not UTF-8, or more of something than allowed.
    Malformed,
    /// Bytes follow the decisions.
    TrailingBytes,
    /// Calibration or thresholds are not for the model's labels.
    Labels {
        /// What the section has.
        found: usize,
        /// Labels of the model.
        labels: usize,
    },
    /// A calibration is not finite, not ascending or not a probability.
    Calibration {
        /// Position of the label, counted from 0.
        label: usize,
    },
    /// No operating point.
    NoPoint,
    /// Two operating points have the same name.
    DuplicatePoint {
        /// Position of the second, counted from 0.
        point: usize,
    },
    /// A threshold, interval or policy is not between 0 and 1.
    Point {
        /// Position of the operating point, counted from 0.
        point: usize,
    },
    /// A limit makes no sense.
    Limits,
    /// The statistics of the out-of-distribution score are not finite or do not fit each other.
    OutOfDistribution,
    /// A figure is not finite.
    Figure,
    /// A text is empty where it may not be, too long, or has control characters.
    Text,
}

impl fmt::Display for DecisionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bundle's decisions ")?;
        match self {
            Self::UnsupportedVersion { found } => {
                return write!(f, "have version {found}, this program reads version {VERSION}; update the program");
            }
            Self::Malformed => f.write_str("cannot be read"),
            Self::TrailingBytes => f.write_str("have bytes behind their end"),
            Self::Labels { found, labels } => write!(f, "are for {found} labels, the model has {labels}"),
            Self::Calibration { label } => write!(f, "calibrate label {label} with values that make no sense"),
            Self::NoPoint => f.write_str("have no operating point"),
            Self::DuplicatePoint { point } => write!(f, "give operating point {point} the name of an earlier one"),
            Self::Point { point } => write!(f, "have a value in operating point {point} that is not between 0 and 1"),
            Self::Limits => f.write_str("have a limit that is not between 0 and 1"),
            Self::OutOfDistribution => f.write_str("have out-of-distribution statistics that make no sense"),
            Self::Figure => f.write_str("have a figure that is not finite, or without a name"),
            Self::Text => f.write_str("have a text that is empty, too long or has control characters"),
        }?;
        f.write_str("; calibrate the bundle again")
    }
}

impl core::error::Error for DecisionsError {}

fn check_figures(figures: &[Figure<'_>]) -> Result<(), DecisionsError> {
    let sensible = |figure: &Figure<'_>| {
        is_name(figure.name) && [figure.estimate, figure.low, figure.high].iter().all(|value| value.is_finite())
    };
    if figures.iter().all(sensible) { Ok(()) } else { Err(DecisionsError::Figure) }
}

fn unit(value: f32) -> bool {
    (0.0..=1.0).contains(&value)
}
