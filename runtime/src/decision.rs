//! What logits mean: calibrated probabilities, the thresholds of an operating point, and when to abstain.

use std::collections::TryReserveError;

use kdh_format::{Bundle, Calibration, Decisions, Limits, Manifest, Policy, SectionKind};

pub use abstention::Abstention;

use crate::engine::EngineError;
use crate::labeler::BuildError;
use crate::report::sigmoid;
use out_of_distribution::Detector;
#[cfg(feature = "eval")]
pub(crate) use out_of_distribution::residual;

mod abstention;
mod out_of_distribution;

/// Thresholds for one purpose, by [`Labeler::operating_point`](crate::Labeler::operating_point): a number in the bundle's
/// list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperatingPoint(usize);

/// A text's score as one that is not of the model's kind.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct OutOfDistributionScore {
    /// ViM (Wang et al. 2022): the higher, the stranger.
    pub score: f32,
    /// The report abstains when the score is above this.
    pub threshold: f32,
}

/// A bundle's decisions, owned. Without a decisions section: uncalibrated probabilities and the manifest's thresholds.
pub(crate) struct Decision {
    calibration: Vec<Calibration>,
    points: Vec<Point>,
    limits: Option<Limits>,
    detector: Option<Detector>,
    calibrated: bool,
}

struct Point {
    name: String,
    policy: Policy,
    thresholds: Vec<f32>,
}

/// Name of the only operating point of a bundle without a decisions section.
const MANIFEST_POINT: &str = "manifest";

impl Decision {
    pub(crate) fn new(bundle: &Bundle<'_>, manifest: &Manifest<'_>) -> Result<Self, BuildError> {
        match bundle.decisions(manifest).transpose().map_err(BuildError::Decisions)? {
            Some(decisions) => {
                let bytes = bundle.section(SectionKind::Decisions).map_or(0, <[u8]>::len);
                Self::of_section(&decisions).map_err(|_| BuildError::Engine(EngineError::OutOfMemory { bytes }))
            }
            None => Ok(Self::of_manifest(manifest)),
        }
    }

    fn of_section(decisions: &Decisions<'_>) -> Result<Self, TryReserveError> {
        let points = decisions.points.iter().map(|point| Point {
            name: point.name.to_owned(),
            policy: point.policy,
            thresholds: point.labels.iter().map(|label| label.threshold).collect(),
        });
        let mut calibration = Vec::new();
        calibration.try_reserve_exact(decisions.calibration.len())?;
        calibration.extend_from_slice(&decisions.calibration);
        Ok(Self {
            calibration,
            points: points.collect(),
            limits: Some(decisions.limits),
            detector: decisions.out_of_distribution.as_ref().map(Detector::new).transpose()?,
            calibrated: true,
        })
    }

    fn of_manifest(manifest: &Manifest<'_>) -> Self {
        let thresholds = manifest.labels.iter().map(|label| label.threshold).collect();
        Self {
            calibration: manifest.labels.iter().map(|_| Calibration::Identity).collect(),
            points: vec![Point { name: MANIFEST_POINT.to_owned(), policy: Policy::Manifest, thresholds }],
            limits: None,
            detector: None,
            calibrated: false,
        }
    }

    /// Width of the pooled vector that the out-of-distribution score takes.
    pub(crate) fn pooled_width(&self) -> Option<usize> {
        self.detector.as_ref().map(Detector::width)
    }

    /// Whether the bundle says how logits become probabilities.
    pub(crate) fn calibrated(&self) -> bool {
        self.calibrated
    }

    pub(crate) fn points(&self) -> impl ExactSizeIterator<Item = (&str, Policy)> {
        self.points.iter().map(|point| (point.name.as_str(), point.policy))
    }

    pub(crate) fn point(&self, name: &str) -> Option<OperatingPoint> {
        self.points.iter().position(|point| point.name == name).map(OperatingPoint)
    }

    pub(crate) fn name(&self, point: OperatingPoint) -> &str {
        self.points.get(point.0).map_or("", |point| &point.name)
    }

    /// One a label; empty for a point of another model that this one does not have.
    pub(crate) fn thresholds(&self, point: OperatingPoint) -> &[f32] {
        self.points.get(point.0).map_or(&[], |point| &point.thresholds)
    }

    /// The probability of a label with this document logit.
    pub(crate) fn probability(&self, label: usize, logit: f32) -> f32 {
        self.calibration.get(label).map_or_else(|| sigmoid(logit), |calibration| calibrated(calibration, logit))
    }

    pub(crate) fn score(&self, pooled: Option<&[f32]>, logits: &[f32]) -> Option<OutOfDistributionScore> {
        let detector = self.detector.as_ref()?;
        Some(OutOfDistributionScore { score: detector.score(pooled?, logits)?, threshold: detector.threshold() })
    }

    pub(crate) fn abstention(
        &self,
        text_tokens: usize,
        unknown_tokens: usize,
        score: Option<OutOfDistributionScore>,
    ) -> Abstention {
        let mut reasons = Abstention::NONE;
        if let Some(Limits { min_tokens, max_unknown_rate }) = self.limits {
            if text_tokens < min_tokens as usize {
                reasons |= Abstention::TOO_SHORT;
            }
            if unknown_tokens as f32 > max_unknown_rate * text_tokens as f32 {
                reasons |= Abstention::UNKNOWN_TOKENS;
            }
        }
        if score.is_some_and(|score| score.score > score.threshold) {
            reasons |= Abstention::OUT_OF_DISTRIBUTION;
        }
        reasons
    }
}

impl OperatingPoint {
    /// The point that holds unless another is asked for.
    pub(crate) const DEFAULT: Self = Self(0);
}

/// The probability that a calibration gives a logit; it never falls when the logit rises.
pub(crate) fn calibrated(calibration: &Calibration, logit: f32) -> f32 {
    match calibration {
        Calibration::Temperature(temperature) => sigmoid(logit / temperature),
        Calibration::Platt { slope, intercept } => sigmoid(slope * logit + intercept),
        Calibration::Isotonic(knots) => between(knots, logit),
        _ => sigmoid(logit),
    }
}

/// Linear between knots, constant beyond them.
fn between(knots: &[(f32, f32)], logit: f32) -> f32 {
    let after = knots.iter().position(|knot| knot.0 > logit);
    match (after, knots) {
        (Some(0), [first, ..]) => first.1,
        (Some(after), knots) => match knots.get(after - 1..=after) {
            Some(&[low, high]) => {
                let share = (logit - low.0) / (high.0 - low.0);
                (low.1 + share * (high.1 - low.1)).clamp(low.1, high.1)
            }
            _ => f32::NAN,
        },
        (None, [.., last]) => last.1,
        (None, []) => f32::NAN,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Labeler, LabelerOptions};

    /// The pooled vector is read from where the head leaves it, and no step may reuse that place.
    #[test]
    fn the_document_is_the_mean_of_its_sentences() {
        let bundle = Bundle::parse(include_bytes!("../tests/data/tiny.kdh")).unwrap();
        let labeler = Labeler::from_bundle(&bundle, &LabelerOptions::new().allow_unsigned()).unwrap();
        let mut scratch = labeler.scratch();
        for text in ["The cells divided slowly. No vessel grew! TNF was low, and that for days.", "One sentence only."]
        {
            labeler.label(&mut scratch, text).unwrap();
            let sentences = scratch.encoding.sentences().len();
            let ids: Vec<i32> = scratch.encoding.sentence_ids().to_vec();
            let of_document = scratch.engine.pooled(sentences).unwrap();
            assert_eq!(Some(of_document.len()), labeler.engine().pooled_width());
            assert!(of_document.iter().any(|value| value.abs() > 0.01));
            for (index, value) in of_document.iter().enumerate() {
                let of_tokens = ids.iter().filter_map(|&id| usize::try_from(id).ok());
                let states: Vec<f32> =
                    of_tokens.map(|sentence| scratch.engine.pooled(sentence).unwrap()[index]).collect();
                let mean = states.iter().sum::<f32>() / states.len() as f32;
                assert!((value - mean).abs() < 1e-5, "{value} {mean}");
            }
        }
    }

    #[test]
    fn isotonic_is_linear_between_its_knots() {
        let knots = kdh_format::heapless::Vec::from_slice(&[(-2.0, 0.1), (0.0, 0.2), (4.0, 0.8)]).unwrap();
        let calibration = Calibration::Isotonic(knots);
        let near = |logit: f32, expected: f32| {
            assert!((calibrated(&calibration, logit) - expected).abs() < 1e-6, "{logit}");
        };
        [(-9.0, 0.1), (-2.0, 0.1), (-1.0, 0.15), (0.0, 0.2), (1.0, 0.35), (4.0, 0.8), (99.0, 0.8)]
            .into_iter()
            .for_each(|(logit, expected)| near(logit, expected));
        assert_eq!(calibrated(&Calibration::Temperature(2.0), 3.0), sigmoid(1.5));
        assert_eq!(calibrated(&Calibration::Platt { slope: 0.5, intercept: -1.0 }, 3.0), sigmoid(0.5));
        assert_eq!(calibrated(&Calibration::Identity, 3.0), sigmoid(3.0));
    }

    proptest! {
        #[test]
        fn calibration_never_changes_the_order(
            a in -30.0_f32..30.0,
            b in -30.0_f32..30.0,
            steps in prop::collection::vec((0.01_f32..3.0, 0.001_f32..0.06), 1..16),
        ) {
            let mut knots = kdh_format::heapless::Vec::new();
            let (mut logit, mut probability) = (-10.0, 0.0);
            for (right, up) in steps {
                (logit, probability) = (logit + right, probability + up);
                knots.push((logit, probability)).unwrap();
            }
            for calibration in [
                Calibration::Isotonic(knots),
                Calibration::Temperature(1.7),
                Calibration::Platt { slope: 0.3, intercept: 2.0 },
            ] {
                let (low, high) = (calibrated(&calibration, a.min(b)), calibrated(&calibration, a.max(b)));
                prop_assert!((0.0..=1.0).contains(&low) && low <= high && high <= 1.0);
            }
        }
    }
}
