//! What every optimizer does: give points, take scores, keep the best.

use core::error::Error;
use core::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::space::{Point, PointError, Space};

/// An optimizer as plain data: serialised and read back it goes on with the same proposals.
pub trait Optimizer: Serialize + DeserializeOwned {
    /// The next point to evaluate.
    fn ask(&mut self) -> Ask;

    /// Takes the result of a proposal, in any order.
    ///
    /// # Errors
    /// When the evaluation is not outstanding; nothing changes then.
    fn tell(&mut self, evaluation: u64, outcome: Outcome) -> Result<(), TellError>;

    /// The best result so far; `None` before the first that did not fail.
    fn best(&self) -> Option<&Best>;

    /// How far the search is.
    fn progress(&self) -> Progress;

    /// What is searched.
    fn space(&self) -> &Space;
}

/// What decides when a search is over and which score is best.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Goal {
    /// Which scores are better.
    pub direction: Direction,
    /// Evaluations in all, failed ones included.
    pub evaluations: u64,
    /// When to stop before that; `None` for never.
    #[serde(default)]
    pub stagnation: Option<Stagnation>,
}

/// Which scores are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Small ones.
    Minimize,
    /// Large ones.
    Maximize,
}

/// Stops a search that gains nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stagnation {
    /// Results in a row without a gain.
    pub evaluations: u64,
    /// A better score counts as a gain when it is better by more than this.
    #[serde(default)]
    pub minimum_gain: f64,
}

/// What comes of asking.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// Evaluate this and tell.
    Evaluate(Proposal),
    /// Nothing before another outstanding result is told.
    Wait,
    /// The search is over and nothing is outstanding.
    Finished(StopReason),
}

/// A point to evaluate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    /// Number of the evaluation, counted from 0.
    pub evaluation: u64,
    /// Where it is in the unit cube.
    pub position: Vec<f64>,
    /// What that position means.
    pub point: Point,
}

/// Why a search is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum StopReason {
    /// All [`Goal::evaluations`] are done.
    Budget,
    /// [`Goal::stagnation`] came first.
    Stagnation,
}

/// The result of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// The score. One that is not finite counts as [`Failed`](Self::Failed).
    Score(f64),
    /// There is no score; worse than any.
    Failed,
}

impl Outcome {
    /// The score, when there is a finite one.
    pub fn score(self) -> Option<f64> {
        match self {
            Self::Score(score) if score.is_finite() => Some(score),
            _ => None,
        }
    }
}

/// The best result of a search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Which evaluation it was.
    pub evaluation: u64,
    /// Its score.
    pub score: f64,
    /// Its point.
    pub point: Point,
}

/// How far a search is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Evaluations given out.
    pub asked: u64,
    /// Evaluations whose result is in.
    pub told: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Evaluations in all.
    pub budget: u64,
}

/// Why a result is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TellError {
    /// The evaluation was never asked for, or its result is in already.
    NotOutstanding {
        /// The evaluation.
        evaluation: u64,
    },
}

impl fmt::Display for TellError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::NotOutstanding { evaluation } = self;
        write!(formatter, "evaluation {evaluation} is not outstanding; tell each evaluation once, after asking for it")
    }
}

impl Error for TellError {}

/// Why an optimizer cannot be made from its options.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum OptionsError {
    /// An option is out of its range.
    Option {
        /// Its name.
        name: &'static str,
        /// What it must be.
        must: &'static str,
    },
    /// The point to start from is not in the space.
    Start(PointError),
}

impl OptionsError {
    pub(super) fn unless(holds: bool, name: &'static str, must: &'static str) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self::Option { name, must }) }
    }
}

impl fmt::Display for OptionsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option { name, must } => write!(formatter, "the option `{name}` must be {must}"),
            Self::Start(error) => write!(formatter, "the search cannot start there: {error}"),
        }
    }
}

impl Error for OptionsError {}
