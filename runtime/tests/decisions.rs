//! What a bundle's decisions make of the logits: calibration, operating points, abstention.
#![cfg(feature = "tract")]

#[cfg(test)]
mod bundles;

#[cfg(test)]
mod tests {
    use kdh_format::{
        BundleWriter, Calibration, Decisions, DecisionsError, Fitted, Interval, LabelThreshold, Limits, OperatingPoint,
        OutOfDistribution, Policy, SectionKind, heapless,
    };
    use kdh_runtime::{
        Abstention, BuildError, Bundle, DocumentOptions, EngineChoice, LabelError, Labeler, LabelerOptions, Overflow,
        Report,
    };

    use crate::bundles::TINY;

    const TEXT: &str = "The cells divided slowly. No vessel grew into the tumour! TNF was low.";
    /// Width of the tiny encoder's pooled vector.
    const HIDDEN: usize = 32;

    fn decisions<'a>(mean: &'a [u8], threshold: f32) -> Decisions<'a> {
        let whole = Interval { estimate: 1.0, low: 1.0, high: 1.0 };
        let point = |name, thresholds: [f32; 3]| OperatingPoint {
            name,
            policy: Policy::MaxF1,
            labels: thresholds
                .into_iter()
                .map(|threshold| LabelThreshold { threshold, pooled: false, precision: whole, recall: whole })
                .collect(),
            figures: heapless::Vec::new(),
        };
        Decisions {
            fitted: Fitted { data: "none", author: "", date: "", command: "", documents: 0, bundle: [0; 32] },
            limits: Limits { min_tokens: 4, max_unknown_rate: 0.5 },
            calibration: heapless::Vec::from_slice(&[
                Calibration::Identity,
                Calibration::Temperature(2.0),
                Calibration::Platt { slope: 0.5, intercept: 1.0 },
            ])
            .unwrap(),
            figures: heapless::Vec::new(),
            points: heapless::Vec::from_slice(&[point("all", [0.0; 3]), point("none", [1.0; 3])]).unwrap(),
            out_of_distribution: Some(OutOfDistribution {
                mean,
                directions: &[],
                residual_weight: 1.0,
                logit_weight: 0.0,
                threshold,
            }),
        }
    }

    fn bytes_of(decisions: &Decisions<'_>) -> Vec<u8> {
        BundleWriter::of(&Bundle::parse(TINY).unwrap()).decisions(decisions, 3).unwrap().finish().unwrap()
    }

    fn build(decisions: &Decisions<'_>, options: &LabelerOptions) -> Result<Labeler, BuildError> {
        Labeler::from_bundle(&Bundle::parse(&bytes_of(decisions)).unwrap(), options)
    }

    fn label<'l>(labeler: &'l Labeler, text: &str) -> Report<'l> {
        labeler.label(&mut labeler.scratch(), text).unwrap()
    }

    /// Verifies: R-050
    #[test]
    fn probabilities_are_calibrated_and_logits_are_not() {
        let mean = [0; 4 * HIDDEN];
        let plain =
            Labeler::from_bundle(&Bundle::parse(TINY).unwrap(), &LabelerOptions::new().allow_unsigned()).unwrap();
        let calibrated = build(&decisions(&mean, 1e9), &LabelerOptions::new().allow_unsigned()).unwrap();
        let (plain, calibrated) = (label(&plain, TEXT), label(&calibrated, TEXT));
        assert!(!plain.calibrated && calibrated.calibrated);
        assert_eq!((plain.operating_point, calibrated.operating_point), ("manifest", "all"));
        let sigmoid = |logit: f32| 1.0 / (1.0 + (-logit).exp());
        let expected: [fn(f32) -> f32; 3] = [|logit| logit, |logit| logit / 2.0, |logit| 0.5 * logit + 1.0];
        for ((before, after), expected) in plain.labels.iter().zip(&calibrated.labels).zip(expected) {
            assert_eq!(before.logit, after.logit);
            assert_eq!(before.probability, sigmoid(before.logit));
            assert_eq!(after.probability, sigmoid(expected(before.logit)));
        }
    }

    /// Verifies: R-050
    #[test]
    fn operating_points_are_switched_by_option_and_by_call() {
        let mean = [0; 4 * HIDDEN];
        let decisions = decisions(&mean, 1e9);
        let labeler = build(&decisions, &LabelerOptions::new().allow_unsigned()).unwrap();
        let names: Vec<(&str, Policy)> = labeler.operating_points().collect();
        assert_eq!(names, [("all", Policy::MaxF1), ("none", Policy::MaxF1)]);
        let mut scratch = labeler.scratch();
        assert_eq!(labeler.label(&mut scratch, TEXT).unwrap().positive().count(), 3);
        let none = labeler.operating_point("none").unwrap();
        let report = labeler.label_at(&mut scratch, TEXT, none).unwrap();
        assert_eq!((report.operating_point, report.positive().count()), ("none", 0));
        assert_eq!(labeler.label(&mut scratch, TEXT).unwrap().positive().count(), 3);
        assert_eq!(labeler.operating_point("nowhere"), None);

        let by_option = build(&decisions, &LabelerOptions::new().allow_unsigned().operating_point("none")).unwrap();
        assert_eq!(label(&by_option, TEXT), report);
        assert_eq!(by_option.thresholds().collect::<Vec<f32>>(), [1.0; 3]);
        let unknown =
            build(&decisions, &LabelerOptions::new().allow_unsigned().operating_point("nowhere")).unwrap_err();
        assert!(matches!(unknown, BuildError::OperatingPoint));
        let plain =
            Labeler::from_bundle(&Bundle::parse(TINY).unwrap(), &LabelerOptions::new().allow_unsigned()).unwrap();
        assert_eq!(plain.label_at(&mut plain.scratch(), TEXT, none), Err(LabelError::ForeignPoint));
        // And of a text in windows.
        let (long, at_none) = (TEXT.repeat(20), DocumentOptions::new().operating_point(none));
        let label_long = |labeler: &Labeler, options: &DocumentOptions| {
            let found = labeler.label_document(&mut labeler.document_scratch(), options, &long)?;
            assert!(found.windows > 1);
            Ok((found.report.operating_point.to_owned(), found.report.positive().count()))
        };
        assert_eq!(label_long(&labeler, &DocumentOptions::new()), Ok(("all".to_owned(), 3)));
        assert_eq!(label_long(&labeler, &at_none), Ok(("none".to_owned(), 0)));
        assert_eq!(label_long(&plain, &at_none), Err(LabelError::ForeignPoint));
    }

    /// Verifies: R-051
    #[test]
    fn abstains_and_says_why() {
        let mean = [0; 4 * HIDDEN];
        let labeler =
            build(&decisions(&mean, 1e9), &LabelerOptions::new().allow_unsigned().on_overflow(Overflow::Abstain))
                .unwrap();
        for (text, reasons) in [
            (TEXT, Abstention::NONE),
            ("", Abstention::EMPTY),
            ("Cells.", Abstention::TOO_SHORT),
            ("\u{2603} \u{2603} \u{2603} cells.", Abstention::UNKNOWN_TOKENS),
            ("\u{2603} \u{2603}", Abstention::TOO_SHORT | Abstention::UNKNOWN_TOKENS),
            (&"1 2 3; ".repeat(100), Abstention::TRUNCATED),
        ] {
            let report = label(&labeler, text);
            assert_eq!(report.abstention, reasons, "{} of {} tokens", report.unknown_tokens, report.text_tokens);
            // The point gives every label; a model that abstains gives none.
            assert_eq!(report.positive().count(), if reasons.is_empty() { 3 } else { 0 });
        }
        let truncating = build(&decisions(&mean, 1e9), &LabelerOptions::new().allow_unsigned()).unwrap();
        let report = label(&truncating, &"1 2 3; ".repeat(100));
        assert!(report.truncated() && report.abstention.is_empty());
    }

    /// Verifies: R-051
    #[test]
    fn scores_what_is_strange() {
        let mean = [0; 4 * HIDDEN];
        let score = |mean: &[u8], text: &str| {
            let labeler = build(&decisions(mean, 1e9), &LabelerOptions::new().allow_unsigned()).unwrap();
            label(&labeler, text).out_of_distribution.unwrap().score
        };
        let far = score(&mean, TEXT);
        assert!(far > 0.0 && far.is_finite());
        let labeler = build(&decisions(&mean, far * 0.99), &LabelerOptions::new().allow_unsigned()).unwrap();
        assert_eq!(label(&labeler, TEXT).abstention, Abstention::OUT_OF_DISTRIBUTION);
        let labeler = build(&decisions(&mean, far), &LabelerOptions::new().allow_unsigned()).unwrap();
        assert_eq!(label(&labeler, TEXT).abstention, Abstention::NONE);
        // tract does not keep the pooled vector, and the width must fit.
        let tract = build(&decisions(&mean, -1.0), &LabelerOptions::new().allow_unsigned().engine(EngineChoice::Tract))
            .unwrap();
        let report = label(&tract, TEXT);
        assert_eq!((report.out_of_distribution, report.abstention), (None, Abstention::NONE));
        let narrow = build(&decisions(&mean[4..], -1.0), &LabelerOptions::new().allow_unsigned()).unwrap_err();
        assert!(matches!(narrow, BuildError::Decisions(DecisionsError::OutOfDistribution)), "{narrow}");
    }

    /// Verifies: R-050
    #[test]
    fn refuses_decisions_of_another_model() {
        let mean = [0; 4 * HIDDEN];
        let mut other = decisions(&mean, 1e9);
        other.calibration.pop();
        other.points.iter_mut().for_each(|point| {
            point.labels.pop();
        });
        let bytes = BundleWriter::of(&Bundle::parse(TINY).unwrap()).decisions(&other, 2).unwrap().finish().unwrap();
        let bundle = Bundle::parse(&bytes).unwrap();
        assert!(bundle.section(SectionKind::Decisions).is_some());
        let error = Labeler::from_bundle(&bundle, &LabelerOptions::new().allow_unsigned()).unwrap_err();
        assert!(matches!(error, BuildError::Decisions(DecisionsError::Labels { found: 2, labels: 3 })), "{error}");
    }
}
