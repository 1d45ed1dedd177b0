//! Texts of any length: the same whatever their pieces, nothing cut, and what the windows say by hand.
#![cfg(feature = "tract")]

#[cfg(test)]
mod bundles;

#[cfg(test)]
mod tests {
    use std::ops::{ControlFlow, Range};

    use kdh_format::SectionKind;
    use kdh_runtime::text::{Sentences, Tokenizer, TokenizerOptions};
    use kdh_runtime::{
        Abstention, Aggregation, Bundle, DocumentOptions, DocumentReport, LabelError, Labeler, LabelerOptions,
        MAX_EVIDENCE,
    };
    use proptest::prelude::*;

    use crate::bundles::{Parts, TINY};

    fn labeler() -> Labeler {
        Labeler::from_bundle(&Bundle::parse(TINY).unwrap(), &LabelerOptions::new().allow_unsigned()).unwrap()
    }

    fn tokenizer() -> Tokenizer {
        let bundle = Bundle::parse(TINY).unwrap();
        let manifest = bundle.manifest().unwrap();
        let spec = &manifest.tokenizer;
        let options = TokenizerOptions { lowercase: spec.lowercase, cls: spec.cls, sep: spec.sep, unk: spec.unk };
        Tokenizer::new(bundle.section(SectionKind::Vocabulary).unwrap(), &options).unwrap()
    }

    fn tokens(tokenizer: &Tokenizer, text: &str) -> usize {
        let mut tokens = 0;
        tokenizer.tokenize(text, |_| {
            tokens += 1;
            ControlFlow::Continue(())
        });
        tokens
    }

    fn in_chunks<'l>(
        labeler: &'l Labeler,
        options: &DocumentOptions,
        text: &str,
        lengths: &[usize],
    ) -> Result<DocumentReport<'l>, LabelError> {
        let mut scratch = labeler.document_scratch();
        let mut document = labeler.document(&mut scratch, options).unwrap();
        let (mut rest, mut lengths) = (text.as_bytes(), lengths.iter().cycle());
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at((*lengths.next().unwrap()).min(rest.len()));
            document.push(chunk)?;
            rest = after;
        }
        document.finish()
    }

    fn whole<'l>(labeler: &'l Labeler, options: &DocumentOptions, text: &str) -> DocumentReport<'l> {
        labeler.label_document(&mut labeler.document_scratch(), options, text).unwrap()
    }

    /// The windows without overlap: sentences, as long as they fit.
    fn windows(text: &str, max_tokens: usize, max_sentences: usize) -> Vec<Range<usize>> {
        let tokenizer = tokenizer();
        let mut windows: Vec<(Range<usize>, usize, usize)> = Vec::new();
        for sentence in Sentences::new(text) {
            let more = tokens(&tokenizer, &text[sentence.clone()]);
            assert!(more <= max_tokens);
            match windows.last_mut() {
                Some((range, tokens, count)) if *tokens + more <= max_tokens && *count < max_sentences => {
                    (range.end, *tokens, *count) = (sentence.end, *tokens + more, *count + 1);
                }
                _ => windows.push((sentence, more, 1)),
            }
        }
        windows.into_iter().map(|(range, _, _)| range).collect()
    }

    const NOTE: &str = "The cells divided slowly. No vessel grew into the tumour! Caf\u{e9}-au-lait spots were seen; \
                        TNF-\u{3b1} was low.\nPLAN: rest, and no more of it.\n\n1. Aspirin 100 mg\n2. Nothing else. ";

    /// Verifies: R-020
    #[test]
    fn a_text_of_one_window_is_what_label_says() {
        let labeler = labeler();
        let mut scratch = labeler.scratch();
        for end in (1..NOTE.len()).filter(|&end| NOTE.is_char_boundary(end)) {
            let expected = labeler.label(&mut scratch, &NOTE[..end]).unwrap();
            assert!(!expected.truncated());
            for aggregation in [Aggregation::Head, Aggregation::Max, Aggregation::NoisyOr] {
                let found = whole(&labeler, &DocumentOptions::new().aggregation(aggregation), &NOTE[..end]);
                assert_eq!((found.windows, found.splits, found.bytes), (1, 0, end));
                assert_eq!(found.report, expected);
            }
        }
    }

    /// Without overlap the log-sum-exp over all sentences is the log-sum-exp of the windows' document logits: each has the
    /// bias once.
    #[test]
    fn windows_are_aggregated_as_by_hand() {
        let (labeler, text) = (labeler(), NOTE.repeat(7));
        let bundle = Bundle::parse(TINY).unwrap();
        let manifest = bundle.manifest().unwrap();
        let ranges = windows(&text, manifest.max_tokens as usize - 2, manifest.max_sentences as usize);
        assert!(ranges.len() > 3, "{ranges:?}");
        let mut scratch = labeler.scratch();
        let mut logits: Vec<Vec<f64>> = Vec::new();
        for range in &ranges {
            let report = labeler.label(&mut scratch, &text[range.clone()]).unwrap();
            logits.push(report.labels.iter().map(|label| f64::from(label.logit)).collect());
        }
        let found = |aggregation| {
            let options = DocumentOptions::new().overlap_tokens(0).aggregation(aggregation);
            let found = whole(&labeler, &options, &text);
            assert_eq!((found.windows, found.splits), (ranges.len(), 0));
            assert_eq!(found.report.sentences, Sentences::new(&text).count());
            found
        };
        let (head, max, or) = (found(Aggregation::Head), found(Aggregation::Max), found(Aggregation::NoisyOr));
        for label in 0..labeler.codes().len() {
            let column = || logits.iter().map(|row| row[label]);
            let near = |found: &DocumentReport<'_>, expected: f64| {
                let logit = f64::from(found.report.labels[label].logit);
                assert!((logit - expected).abs() < 1e-3, "{logit} {expected}");
            };
            near(&head, column().map(f64::exp).sum::<f64>().ln());
            near(&max, column().fold(f64::NEG_INFINITY, f64::max));
            let absent: f64 = column().map(|logit| 1.0 / (1.0 + logit.exp())).product();
            near(&or, ((1.0 - absent) / absent).ln());
        }
    }

    #[test]
    fn the_mean_head_is_the_mean_over_all_tokens() {
        let mut parts = Parts::of_tiny();
        parts.manifest.head = kdh_format::Head::Mean;
        let bytes = parts.bytes();
        let labeler =
            Labeler::from_bundle(&Bundle::parse(&bytes).unwrap(), &LabelerOptions::new().allow_unsigned()).unwrap();
        let text = "the cells divided. ".repeat(200);
        let found = whole(&labeler, &DocumentOptions::new(), &text);
        assert!(found.windows > 3);
        // Every sentence is the same but for its place, so the mean lies among their logits.
        for label in found.report.positive() {
            assert!(label.logit <= label.evidence[0].logit);
        }
    }

    /// Verifies
    #[test]
    fn evidence_comes_from_all_windows() {
        let (labeler, text) = (labeler(), NOTE.repeat(40));
        let found = whole(&labeler, &DocumentOptions::new(), &text);
        assert!(found.windows > 20 && found.report.dropped_tokens() == 0);
        assert_eq!(found.report.text_tokens, tokens(&tokenizer(), &text));
        let sentences: Vec<Range<usize>> = Sentences::new(&text).collect();
        assert_eq!(found.report.sentences, sentences.len());
        let mut last = 0;
        assert!(
            found.report.positive().next().is_some(),
            "the tiny model gives this text no label; choose another text"
        );
        for label in found.report.positive() {
            assert!((1..=MAX_EVIDENCE).contains(&label.evidence.len()));
            assert!(label.evidence.iter().map(|sentence| sentence.share).sum::<f32>() <= 1.0001);
            for sentence in &label.evidence {
                let range = sentence.start as usize..sentence.end as usize;
                assert!(sentences.contains(&range), "{range:?}");
                last = last.max(range.end);
            }
        }
        assert!(last > text.len() / 20, "evidence from the first window only: {last}");
    }

    #[test]
    fn overlap_gives_context_and_counts_no_sentence_twice() {
        let (labeler, text) = (labeler(), NOTE.repeat(12));
        let count = Sentences::new(&text).count();
        let mut reports = Vec::new();
        let mut windows = 0;
        for overlap in [0, 10, 30, 47, usize::MAX] {
            let found = whole(&labeler, &DocumentOptions::new().overlap_tokens(overlap), &text);
            assert!(found.windows >= windows, "{overlap}: {} {windows}", found.windows);
            windows = found.windows;
            assert_eq!((found.report.sentences, found.report.dropped_tokens()), (count, 0));
            assert_eq!(found.report.text_tokens, tokens(&tokenizer(), &text));
            reports.push(found.report);
        }
        assert_eq!(reports[3], reports[4]);
        assert_ne!(reports[0], reports[3]);
    }

    /// Verifies
    #[test]
    fn sentences_longer_than_a_window_lose_nothing() {
        let labeler = labeler();
        for text in ["cells divided ".repeat(900), "a.b.c-d".repeat(900), "\u{4e2d}\u{6587}".repeat(3000)] {
            let found = whole(&labeler, &DocumentOptions::new(), &text);
            assert!(found.splits > 3 && found.windows > 3 && found.report.dropped_tokens() == 0);
            assert_eq!(found.report.text_tokens, tokens(&tokenizer(), &text));
            for label in found.report.positive() {
                let ranges = label.evidence.iter().map(|sentence| sentence.start as usize..sentence.end as usize);
                assert!(ranges.into_iter().all(|range| text.get(range).is_some_and(|part| !part.is_empty())));
            }
        }
    }

    #[test]
    fn labels_in_memory_of_the_caller() {
        let (labeler, text) = (labeler(), NOTE.repeat(20));
        let required = labeler.document_memory_required();
        let expected = whole(&labeler, &DocumentOptions::new(), &text);
        assert!(expected.windows > 8);
        // Wherever the memory begins, and whatever lies in it; not one byte more is written.
        let mut memory = vec![0xff; required + 66];
        for start in 0..=65 {
            let (memory, behind) = memory[start..].split_at_mut(required);
            memory.fill(start as u8 ^ 0xff);
            let mut scratch = labeler.document_scratch_in(memory).unwrap();
            let found = labeler.label_document(&mut scratch, &DocumentOptions::new(), &text).unwrap();
            assert_eq!(found, expected, "{start}");
            drop(scratch);
            assert!(behind.iter().all(|&byte| byte == 0xff));
        }
        for given in [0, 1, required / 2, required - 1] {
            let error = labeler.document_scratch_in(&mut memory[..given]).unwrap_err();
            assert_eq!((error.required, error.given), (required, given));
        }
    }

    /// Verifies: R-009
    #[test]
    fn refuses_what_is_no_text() {
        let labeler = labeler();
        let mut scratch = labeler.document_scratch();
        let options = DocumentOptions::new();
        for text in [&b""[..], b" \n\t ", b"\xe2\x80\x8b"] {
            let mut document = labeler.document(&mut scratch, &options).unwrap();
            document.push(text).unwrap();
            let found = document.finish().unwrap();
            assert_eq!((found.report.abstention, found.windows), (Abstention::EMPTY, 0));
        }
        let mut document = labeler.document(&mut scratch, &options).unwrap();
        document.push(b"The cells divided. caf\xe9 ").unwrap();
        assert_eq!(document.finish().unwrap_err(), LabelError::InvalidUtf8 { byte: 22 });
        // An error stays.
        let mut document = labeler.document(&mut scratch, &options).unwrap();
        let error = document.push(&[0xFF; 70_000]).unwrap_err();
        assert_eq!(document.push(b"cells"), Err(error));
        assert_eq!(document.finish().unwrap_err(), error);
        // The scratch is as good as new, and only for its model.
        assert_eq!(whole(&labeler, &options, NOTE), labeler.label_document(&mut scratch, &options, NOTE).unwrap());
        let mut parts = Parts::of_tiny();
        parts.manifest.max_tokens -= 1;
        let bytes = parts.bytes();
        let other =
            Labeler::from_bundle(&Bundle::parse(&bytes).unwrap(), &LabelerOptions::new().allow_unsigned()).unwrap();
        assert_eq!(other.document(&mut scratch, &options).unwrap_err(), LabelError::ForeignScratch);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
        /// Verifies: R-020
        #[test]
        fn chunks_do_not_matter(
            text in "(\\PC{0,40}|[a-z ]{5,60}|[A-Z][a-z ]{3,30}[.!?] |\n{1,3}|[0-9]\\. ){1,80}",
            repeat in 1_usize..40,
            lengths in prop::collection::vec(1_usize..700, 1..6),
            overlap in 0_usize..60,
        ) {
            let labeler = labeler();
            let text = text.repeat(repeat);
            let options = DocumentOptions::new().overlap_tokens(overlap);
            let expected = in_chunks(&labeler, &options, &text, &[usize::MAX]);
            let found = in_chunks(&labeler, &options, &text, &lengths);
            prop_assert_eq!(&found, &expected);
            prop_assert_eq!(&found, &in_chunks(&labeler, &options, &text, &[1]));
            if let Ok(found) = found {
                prop_assert_eq!(found.report.dropped_tokens(), 0);
                prop_assert_eq!(found.bytes, text.len());
                for label in found.report.positive() {
                    for sentence in &label.evidence {
                        prop_assert!(text.get(sentence.start as usize..sentence.end as usize).is_some());
                    }
                }
            }
        }
    }
}
