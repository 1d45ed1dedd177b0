//! The labeler from outside: what it says, what it refuses, and that it says the same every time.
#![cfg(feature = "tract")]

#[cfg(test)]
mod bundles;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::thread;

    use kdh_runtime::engine::EngineError;
    use kdh_runtime::text::{Sentences, VocabularyError};
    use kdh_runtime::{
        Abstention, BuildError, Bundle, BundleError, BundleFile, LabelError, Labeler, LabelerOptions, OpenError,
        Overflow, Report, SelfTestError,
    };
    use proptest::prelude::*;

    use crate::bundles::{Parts, TINY, flip_in_section};

    const TEXT: &str = "The cells divided slowly. No vessel grew into the tumour! Caf\u{e9}-au-lait spots were seen; \
                        TNF-\u{3b1} was low.";

    fn labeler() -> Labeler {
        build(TINY).unwrap()
    }

    fn build(bytes: &[u8]) -> Result<Labeler, BuildError> {
        Labeler::from_bundle(&Bundle::parse(bytes).unwrap(), &LabelerOptions::new().allow_unsigned())
    }

    fn with(options: &LabelerOptions, text: &str) -> Result<(usize, usize), LabelError> {
        let labeler = Labeler::from_bundle(&Bundle::parse(TINY).unwrap(), options).unwrap();
        let report = labeler.label(&mut labeler.scratch(), text)?;
        Ok((report.kept_tokens, report.text_tokens))
    }

    fn check(report: &Report<'_>, text: &str) {
        let codes: Vec<&str> = report.labels.iter().map(|label| label.code).collect();
        assert_eq!(codes, ["A", "B", "C"]);
        assert!(report.kept_tokens <= report.text_tokens && report.unknown_tokens <= report.text_tokens);
        assert!(report.sentences >= 1 && report.sentences <= report.kept_tokens);
        for label in &report.labels {
            assert!((0.0..=1.0).contains(&label.probability));
            assert_eq!(label.positive(), label.probability >= label.threshold);
            assert_eq!(label.positive(), !label.evidence.is_empty());
            for pair in label.evidence.windows(2) {
                assert!(pair[0].logit >= pair[1].logit && pair[0].share >= pair[1].share);
            }
            for sentence in &label.evidence {
                assert!(text.get(sentence.start as usize..sentence.end as usize).is_some_and(|text| !text.is_empty()));
            }
            assert!(label.evidence.iter().map(|sentence| sentence.share).sum::<f32>() <= 1.0001);
        }
    }

    /// Verifies: R-010
    #[test]
    fn says_which_sentences_carry_a_label() {
        let labeler = labeler();
        let mut scratch = labeler.scratch();
        let report = labeler.label(&mut scratch, TEXT).unwrap();
        check(&report, TEXT);
        assert!(!report.truncated() && report.dropped_tokens() == 0);
        assert_eq!(report.sentences, Sentences::new(TEXT).count());
        let sentences: HashSet<_> = Sentences::new(TEXT).map(|range| (range.start as u32, range.end as u32)).collect();
        let evidence: Vec<_> = report.positive().flat_map(|label| &label.evidence).collect();
        assert!(!evidence.is_empty(), "the tiny model gives this text no label; choose another text");
        assert!(evidence.iter().all(|sentence| sentences.contains(&(sentence.start, sentence.end))));
    }

    #[test]
    fn shares_sum_to_one_over_few_sentences() {
        let labeler = labeler();
        let report = labeler.label(&mut labeler.scratch(), "The cells divided slowly").unwrap();
        for label in report.positive() {
            assert_eq!((label.evidence.len(), label.evidence[0].share), (1, 1.0));
            assert_eq!((label.evidence[0].start, label.evidence[0].end), (0, 24));
        }
    }

    #[test]
    fn abstains_on_texts_without_tokens() {
        let labeler = labeler();
        let mut scratch = labeler.scratch();
        for text in ["", " ", "\r\n\t", "\u{200b}\u{7}", "\u{a0}"] {
            let report = labeler.label(&mut scratch, text).unwrap();
            assert_eq!((report.abstention, report.labels.len()), (Abstention::EMPTY, 0), "{text:?}");
            assert_eq!((report.text_tokens, report.positive().count()), (0, 0));
        }
        check(&labeler.label(&mut scratch, "x").unwrap(), "x");
    }

    /// Verifies: R-008
    #[test]
    fn truncates_or_refuses_what_is_too_long() {
        let text = "1 2 3; ".repeat(100);
        let tokens = 400;
        assert_eq!(with(&LabelerOptions::new().allow_unsigned(), &text), Ok((94, tokens)));
        let refuse = LabelerOptions::new().allow_unsigned().on_overflow(Overflow::Refuse);
        assert_eq!(with(&refuse, &text), Err(LabelError::TooManyTokens { tokens, max_tokens: 94 }));
        assert_eq!(with(&refuse, "1 2 3;"), Ok((4, 4)));

        let (bytes, max_bytes) = (text.len(), text.len() - 1);
        let small = LabelerOptions::new().allow_unsigned().max_text_bytes(max_bytes);
        assert_eq!(with(&small, &text), Err(LabelError::TextTooLong { bytes, max_bytes }));
        assert_eq!(with(&small, &text[..max_bytes]), Ok((94, tokens)));
        let huge = "a ".repeat(5 << 20);
        let (bytes, max_bytes) = (huge.len(), 1 << 20);
        assert_eq!(
            with(&LabelerOptions::new().allow_unsigned(), &huge),
            Err(LabelError::TextTooLong { bytes, max_bytes })
        );
    }

    #[test]
    fn takes_sentences_from_the_caller() {
        let labeler = labeler();
        let mut scratch = labeler.scratch();
        let own = labeler.label(&mut scratch, TEXT).unwrap();
        let same = labeler.label_with_sentences(&mut scratch, TEXT, Sentences::new(TEXT)).unwrap();
        assert_eq!(own, same);
        let one = labeler.label_with_sentences(&mut scratch, TEXT, std::iter::once(0..TEXT.len())).unwrap();
        assert_eq!(one.sentences, 1);
        assert_ne!(own, one);

        let inside_e_acute = TEXT.find('\u{e9}').unwrap() + 1;
        for wrong in [
            &[(0, TEXT.len() + 1)][..],
            &[(10, 0)],
            &[(0, 20), (10, 30)],
            &[(20, 30), (0, 10)],
            &[(0, inside_e_acute)],
            &[(usize::MAX - 1, usize::MAX)],
        ] {
            let ranges = wrong.iter().map(|&(start, end)| start..end);
            let error = labeler.label_with_sentences(&mut scratch, TEXT, ranges).unwrap_err();
            assert_eq!(error, LabelError::Sentences, "{wrong:?}");
        }
    }

    /// Verifies: R-007
    #[test]
    fn threads_share_a_labeler() {
        let labeler = labeler();
        let texts: Vec<String> = (1..20).map(|words| "the cells divided. ".repeat(words)).collect();
        let label = |texts: &[String]| -> Vec<Report<'_>> {
            let mut scratch = labeler.scratch();
            texts.iter().map(|text| labeler.label(&mut scratch, text).unwrap()).collect()
        };
        let alone = label(&texts);
        thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| label(&texts))).collect();
            for thread in threads {
                assert_eq!(thread.join().unwrap(), alone);
            }
        });
    }

    /// Verifies: R-007
    #[test]
    fn says_the_same_whatever_came_before() {
        let (labeler, other) = (labeler(), labeler());
        let mut used = labeler.scratch();
        for text in ["short.", &"long words of a note. ".repeat(60), "", "\u{1f642} \u{4e2d}\u{6587}."] {
            let _ = labeler.label(&mut used, text);
        }
        let fresh = other.label(&mut other.scratch(), TEXT).unwrap();
        assert_eq!(labeler.label(&mut used, TEXT).unwrap(), fresh);
    }

    #[test]
    fn refuses_the_scratch_of_another_model() {
        let mut parts = Parts::of_tiny();
        parts.manifest.max_tokens = 48;
        let (labeler, shorter) = (labeler(), build(&parts.bytes()).unwrap());
        let foreign = Err(LabelError::ForeignScratch);
        assert_eq!(labeler.label(&mut shorter.scratch(), TEXT), foreign);
        assert_eq!(shorter.label(&mut labeler.scratch(), TEXT), foreign);
        assert!(shorter.label(&mut shorter.scratch(), TEXT).is_ok());
    }

    #[test]
    fn labels_in_memory_of_the_caller() {
        let labeler = labeler();
        let required = labeler.memory_required();
        let expected = labeler.label(&mut labeler.scratch(), TEXT).unwrap();
        // Wherever the memory begins, and whatever lies in it; not one byte more is written.
        let mut memory = vec![0xff; required + 66];
        for start in 0..=65 {
            let (memory, behind) = memory[start..].split_at_mut(required);
            memory.fill(start as u8 ^ 0xff);
            let mut scratch = labeler.scratch_in(memory).unwrap();
            assert_eq!(labeler.label(&mut scratch, TEXT).unwrap(), expected, "{start}");
            assert!(behind.iter().all(|&byte| byte == 0xff));
        }
        for given in [0, 1, required / 2, required - 1] {
            let error = labeler.scratch_in(&mut memory[..given]).unwrap_err();
            assert_eq!((error.required, error.given), (required, given));
        }
    }

    /// Verifies: R-003
    #[test]
    fn shows_no_text_in_debug() {
        let labeler = labeler();
        let mut scratch = labeler.scratch();
        let report = format!("{:?}", labeler.label(&mut scratch, "zebra stripes").unwrap());
        let engine = format!("{:?} {:?}", labeler.engine(), labeler.engine().scratch());
        for debug in [report, format!("{labeler:?} {scratch:?}"), engine] {
            assert!(!debug.contains("zebra") && !debug.contains("stripes"), "{debug}");
        }
    }

    /// Verifies: R-011
    #[test]
    fn self_test_agrees_with_the_exporter() {
        let bundle = Bundle::parse(TINY).unwrap();
        let result = labeler().self_test(&bundle).unwrap();
        assert!(result.texts > 10 && result.max_difference <= result.tolerance, "{result:?}");

        // Even an integrator's strict options take the golden text that is too long.
        let strict = LabelerOptions::new().allow_unsigned().on_overflow(Overflow::Refuse);
        assert!(Labeler::from_bundle(&bundle, &strict).unwrap().self_test(&bundle).is_ok());
    }

    /// Verifies: R-011
    #[test]
    fn self_test_finds_a_difference() {
        let mut parts = Parts::of_tiny();
        parts.golden[3].logits[1] += 1.0;
        let bytes = parts.bytes();
        let error = build(&bytes).unwrap().self_test(&Bundle::parse(&bytes).unwrap()).unwrap_err();
        assert!(matches!(error, SelfTestError::Logits { text: 3, difference, .. } if difference > 0.8), "{error}");

        let mut parts = Parts::of_tiny();
        parts.golden[2].sentences += 1;
        let bytes = parts.bytes();
        let error = build(&bytes).unwrap().self_test(&Bundle::parse(&bytes).unwrap()).unwrap_err();
        assert_eq!(error, SelfTestError::Tokens { text: 2 });

        let mut parts = Parts::of_tiny();
        parts.golden[0].text = "";
        let bytes = parts.bytes();
        let error = build(&bytes).unwrap().self_test(&Bundle::parse(&bytes).unwrap()).unwrap_err();
        assert_eq!(error, SelfTestError::Label { text: 0, error: LabelError::NoTokens });
    }

    #[test]
    fn refuses_parts_that_do_not_fit() {
        let refusal = |change: &dyn Fn(&mut Parts<'_>)| {
            let mut parts = Parts::of_tiny();
            change(&mut parts);
            build(&parts.bytes()).map(|_| ()).unwrap_err()
        };
        let model = |error| matches!(error, BuildError::Engine(EngineError::Model(_)));
        let input = |error, tokens| {
            assert!(
                matches!(&error, BuildError::Engine(EngineError::Input { tokens: t, .. }) if *t == tokens),
                "{error}"
            );
        };
        assert!(model(refusal(&|parts| parts.graph = Vec::new())));
        assert!(model(refusal(&|parts| parts.graph = b"not a graph".to_vec())));
        assert!(model(refusal(&|parts| parts.graph.truncate(parts.graph.len() / 2))));
        assert!(model(refusal(&|parts| parts.graph[..4].fill(0xff))));
        // Fewer labels, fewer sentences than the graph gives.
        input(
            refusal(&|parts| {
                parts.manifest.labels.pop();
                parts.golden.iter_mut().for_each(|case| case.logits.truncate(2));
            }),
            3,
        );
        input(refusal(&|parts| parts.manifest.max_sentences = 63), 3);
        // More tokens than the graph has positions, more words than it has embeddings.
        input(refusal(&|parts| parts.manifest.max_tokens = 200), 200);
        input(refusal(&|parts| parts.vocabulary.extend(b"extra\n")), 3);
        let missing = refusal(&|parts| parts.manifest.tokenizer.cls = "<s>");
        assert!(matches!(missing, BuildError::Vocabulary(VocabularyError::MissingCls)), "{missing}");
        assert!(matches!(refusal(&|parts| parts.vocabulary = vec![0xff]), BuildError::Vocabulary(_)));
    }

    /// A graph whose digests are right may still be nonsense: any answer is good, a panic or an endless run is not.
    ///
    /// Verifies: R-019
    #[test]
    fn survives_changed_graphs() {
        let good = Parts::of_tiny().graph;
        let mut refused = 0;
        for step in 0..60 {
            let mut parts = Parts::of_tiny();
            // Steps through the whole graph; its names and attributes are at the front.
            let index = (step * good.len() / 60 + step * step) % good.len();
            parts.graph[index] ^= 0xff;
            refused += usize::from(build(&parts.bytes()).is_err());
        }
        assert!(refused > 0);
    }

    #[test]
    fn opens_files() {
        let folder = tempfile::tempdir().unwrap();
        let open = |bytes: &[u8]| {
            let path = folder.path().join("model.kdh");
            std::fs::write(&path, bytes).unwrap();
            BundleFile::open(path)
        };
        let labels = |file: &BundleFile| file.verify().map(|bundle| bundle.manifest().unwrap().labels.len());
        assert_eq!(labels(&open(TINY).unwrap()), Ok(3));
        assert!(matches!(open(b""), Err(OpenError::Empty)));
        assert!(matches!(BundleFile::open(folder.path()), Err(OpenError::Directory)));
        let missing = BundleFile::open(folder.path().join("missing.kdh"));
        assert!(matches!(missing, Err(OpenError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound));
        #[cfg(unix)]
        assert!(matches!(BundleFile::open("/dev/null"), Err(OpenError::NotAFile)));
        assert_eq!(labels(&open(&TINY[..TINY.len() - 1]).unwrap()), Err(BundleError::Truncated));
        assert_eq!(labels(&open(&TINY[..7]).unwrap()), Err(BundleError::Truncated));
        assert_eq!(labels(&open(b"%PDF-1.7").unwrap()), Err(BundleError::NotABundle));
        let flipped = flip_in_section(1);
        assert_eq!(labels(&open(&flipped).unwrap()), Err(BundleError::SectionDigest { index: 1 }));

        let file = std::fs::File::create(folder.path().join("large.kdh")).unwrap();
        file.set_len(2 << 30).unwrap();
        assert!(matches!(BundleFile::open(folder.path().join("large.kdh")), Err(OpenError::TooLarge { .. })));
    }

    /// The labeler lives on when the file's bytes are gone.
    #[test]
    fn outlives_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.kdh");
        std::fs::write(&path, TINY).unwrap();
        let labeler = {
            let file = BundleFile::open(&path).unwrap();
            Labeler::from_bundle(&file.verify().unwrap(), &LabelerOptions::new().allow_unsigned()).unwrap()
        };
        std::fs::remove_file(path).unwrap();
        check(&labeler.label(&mut labeler.scratch(), TEXT).unwrap(), TEXT);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Verifies: R-009
        #[test]
        fn labels_any_text(text in prop_oneof![any::<String>(), "[a-z. \\n]{0,300}", "(\\PC[.!?]?\\s?){0,200}"]) {
            thread_local!(static LABELER: Labeler = labeler());
            LABELER.with(|labeler| {
                let mut scratch = labeler.scratch();
                let report = labeler.label(&mut scratch, &text).unwrap();
                if report.abstention == Abstention::EMPTY {
                    assert_eq!(report.text_tokens, 0);
                } else {
                    check(&report, &text);
                }
            });
        }
    }
}
