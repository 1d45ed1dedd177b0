//! What the encoder takes, and vocabularies that cannot be used.

#![allow(clippy::unwrap_used, reason = "a helper of a test may panic")]

mod support;

use std::ops::Range;

use kdh_runtime::text::{Encoding, Sentence, Sentences, Tokenizer, TokenizerOptions, VocabularyError};
use proptest::prelude::*;
use support::{ids, text, unicode_vocabulary};

const OPTIONS: TokenizerOptions<'static> =
    TokenizerOptions { lowercase: true, cls: "[CLS]", sep: "[SEP]", unk: "[UNK]" };

/// Ids 5 to 8 are `a`, `b`, `##b` and `.`.
const VOCABULARY: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n##b\n.\n";

fn encode(text: &str, sentences: impl IntoIterator<Item = Range<usize>>, encoding: &mut Encoding) {
    tokenizer(VOCABULARY).unwrap().encode(text, sentences.into_iter(), encoding);
}

fn tokenizer(vocabulary: impl AsRef<[u8]>) -> Result<Tokenizer, VocabularyError> {
    Tokenizer::new(vocabulary.as_ref(), &OPTIONS)
}

fn ranges(encoding: &Encoding) -> Vec<(u32, u32)> {
    encoding.sentences().map(|Sentence { start, end }| (start, end)).collect()
}

#[test]
fn tokens_between_the_special_ones_have_sentences() {
    let mut encoding = Encoding::new(16, 4);
    let text = "Ab a. B x.";
    encode(text, Sentences::new(text), &mut encoding);
    assert_eq!(encoding.ids(), [2, 5, 7, 5, 8, 6, 1, 8, 3]);
    assert_eq!(encoding.sentence_ids(), [-1, 0, 0, 0, 0, 1, 1, 1, -1]);
    assert_eq!(ranges(&encoding), [(0, 5), (6, 10)]);
    assert_eq!((encoding.text_tokens(), encoding.kept_tokens(), encoding.unknown_tokens()), (7, 7, 1));
}

#[test]
fn an_empty_text_has_no_sentences() {
    let mut encoding = Encoding::new(16, 4);
    for text in ["", " \n", "\u{200B}", "\0"] {
        encode("a", std::iter::once(0..1), &mut encoding);
        encode(text, Sentences::new(text), &mut encoding);
        assert_eq!((encoding.ids(), encoding.sentence_ids()), ([2, 3].as_slice(), [-1, -1].as_slice()));
        assert_eq!(encoding.sentences().len(), 0);
        assert_eq!((encoding.text_tokens(), encoding.kept_tokens(), encoding.unknown_tokens()), (0, 0, 0));
    }
}

#[test]
fn a_long_text_keeps_its_first_tokens_and_their_sentences() {
    let text = "a a. b b. x x.";
    let sentences = [0..4, 5..9, 10..14];
    let mut encoding = Encoding::new(6, 4);
    encode(text, sentences.clone(), &mut encoding);
    assert_eq!(encoding.ids(), [2, 5, 5, 8, 6, 3]);
    assert_eq!(encoding.sentence_ids(), [-1, 0, 0, 0, 1, -1]);
    assert_eq!(ranges(&encoding), [(0, 4), (5, 9)]);
    assert_eq!((encoding.text_tokens(), encoding.kept_tokens(), encoding.unknown_tokens()), (9, 4, 2));

    let mut encoding = Encoding::new(0, 0);
    encode(text, sentences, &mut encoding);
    assert_eq!((encoding.ids(), encoding.kept_tokens(), encoding.sentences().len()), ([2, 3].as_slice(), 0, 0));
}

#[test]
fn sentences_past_the_last_join_it() {
    let mut encoding = Encoding::new(32, 2);
    encode("a. b. a. b.", [0..2, 3..5, 6..8, 9..11], &mut encoding);
    assert_eq!(encoding.sentence_ids(), [-1, 0, 0, 1, 1, 1, 1, 1, 1, -1]);
    assert_eq!(ranges(&encoding), [(0, 2), (3, 11)]);
}

#[test]
fn sentences_without_tokens_do_not_count() {
    let mut encoding = Encoding::new(32, 8);
    encode("a \u{200B}\u{200B} b", [0..1, 2..5, 5..8, 9..10], &mut encoding);
    assert_eq!(encoding.sentence_ids(), [-1, 0, 1, -1]);
    assert_eq!(ranges(&encoding), [(0, 1), (9, 10)]);
}

#[test]
fn tokens_outside_sentences_have_the_one_before() {
    let mut encoding = Encoding::new(32, 8);
    encode("a b a b a b", [2..3, 6..7], &mut encoding);
    assert_eq!(encoding.sentence_ids(), [-1, 0, 0, 0, 1, 1, 1, -1]);
    assert_eq!(ranges(&encoding), [(2, 3), (6, 7)]);
}

#[test]
fn sentences_that_make_no_sense_are_ignored_or_cut() {
    let mut encoding = Encoding::new(32, 8);
    let text = "a \u{E9} b";
    // A text without usable sentences is one.
    #[expect(clippy::reversed_empty_ranges, reason = "such a range is what the test is about")]
    let hostile = [3..1, 2..2, 6..9, usize::MAX - 1..usize::MAX];
    encode(text, hostile, &mut encoding);
    assert_eq!((ranges(&encoding), encoding.sentence_ids()), (vec![(0, 6)], [-1, 0, 0, 0, -1].as_slice()));
    // Inside the character, twice the same start, going back, past the end.
    encode(text, [0..3, 3..4, 2..9, 1..2, 5..usize::MAX], &mut encoding);
    assert_eq!(
        (ranges(&encoding), encoding.sentence_ids()),
        (vec![(0, 4), (2, 4), (5, 6)], [-1, 0, 1, 2, -1].as_slice())
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Verifies: R-010
    #[test]
    fn any_text_and_sentences(
        text in text(),
        sentences in proptest::collection::vec((0_usize..300, 0_usize..300), 0..20),
        max_tokens in 0_usize..40,
        max_sentences in 0_usize..6,
    ) {
        let tokenizer = tokenizer(unicode_vocabulary_once()).unwrap();
        let mut encoding = Encoding::new(max_tokens, max_sentences);
        tokenizer.encode(&text, sentences.iter().map(|&(start, end)| start..end), &mut encoding);
        let all = ids(&tokenizer, &text);
        prop_assert_eq!(encoding.text_tokens(), all.len());
        prop_assert_eq!(encoding.unknown_tokens(), all.iter().filter(|&&id| id == tokenizer.unk_id()).count());
        prop_assert_eq!(encoding.kept_tokens(), all.len().min(max_tokens.max(2) - 2));
        let kept = encoding.kept_tokens();
        prop_assert_eq!(&encoding.ids()[1..=kept], &all[..kept]);
        prop_assert_eq!(encoding.ids().len(), kept + 2);
        let own = &encoding.sentence_ids()[1..=kept];
        prop_assert_eq!(own.first().copied().unwrap_or(0), 0);
        prop_assert!(own.windows(2).all(|pair| pair[1] == pair[0] || pair[1] == pair[0] + 1));
        prop_assert_eq!(own.last().map_or(0, |&last| last as usize + 1), encoding.sentences().len());
        prop_assert!(encoding.sentences().len() <= max_sentences.max(1));
        for sentence in encoding.sentences() {
            prop_assert!(text.get(sentence.start as usize..sentence.end as usize).is_some_and(|text| !text.is_empty()));
        }
    }
}

/// A vocabulary small enough to load for every case.
fn unicode_vocabulary_once() -> &'static [u8] {
    static VOCABULARY: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
        unicode_vocabulary().lines().take(2_000).collect::<Vec<_>>().join("\n").into_bytes()
    });
    &VOCABULARY
}

#[test]
fn a_vocabulary_is_read_as_bert_reads_it() {
    // Lines end with a line feed or with both; space behind a token is not part of it; an empty line has an id; of two
    // equal tokens the last counts; `##` alone is no piece.
    let tokenizer = tokenizer("[UNK]\r\n[CLS]\n\n[SEP] \t\na\nab\u{3000}\n##\na\n##b").unwrap();
    assert_eq!(tokenizer.vocabulary_len(), 9);
    assert_eq!((tokenizer.unk_id(), tokenizer.cls_id(), tokenizer.sep_id()), (0, 1, 3));
    assert_eq!(ids(&tokenizer, "a ab abb abc # ##"), [7, 5, 5, 8, 0, 0, 0, 0]);
    assert_eq!(tokenizer.vocabulary_len(), 9);
}

#[test]
fn vocabularies_that_cannot_be_used() {
    let error = |vocabulary: &[u8]| tokenizer(vocabulary).unwrap_err();
    assert_eq!(error(b""), VocabularyError::MissingCls);
    assert_eq!(error(b"[CLS]\n[UNK]"), VocabularyError::MissingSep);
    assert_eq!(error(b"[CLS]\n[SEP]"), VocabularyError::MissingUnk);
    assert_eq!(error(b"[CLS]\n[SEP]\n\xFF\n[UNK]"), VocabularyError::NotUtf8 { line: 3 });
    assert_eq!(error(&[b"[CLS]\n", [b'x'; 201].as_slice()].concat()), VocabularyError::TokenTooLong { line: 2 });
    assert!(tokenizer([VOCABULARY.as_bytes(), &[b'x'; 200]].concat()).is_ok());
    assert_eq!(error(&vec![b'\n'; (1 << 20) + 1]), VocabularyError::TooManyTokens);
    assert_eq!(error(&vec![b'x'; (16 << 20) + 1]), VocabularyError::TooLarge);
    for error in [error(b""), error(b"\xFF"), error(&vec![b'x'; 201])] {
        assert!(error.to_string().contains("vocab"), "{error}");
    }
}

#[test]
fn the_words_of_a_text_that_are_as_long_as_a_vocabulary_allows() {
    // 100 characters have pieces, 101 have none.
    let tokenizer = tokenizer("[UNK]\n[CLS]\n[SEP]\na\n##a\n\u{10FFFF}\n\u{1D15F}\n##\u{1D15F}").unwrap();
    for (unit, count) in [("a", 100), ("A\u{301}", 100), ("a\u{200B}", 100)] {
        assert_eq!(ids(&tokenizer, &unit.repeat(100)).len(), count);
        assert_eq!(ids(&tokenizer, &unit.repeat(101)), [0]);
        assert_eq!(ids(&tokenizer, &unit.repeat(1_000_000)), [0]);
    }
}
