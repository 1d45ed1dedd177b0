//! The same ids as the `tokenizers` crate.

mod support;

use std::ops::ControlFlow;
use std::sync::LazyLock;

use proptest::prelude::*;
use support::{Pair, corpora, fetched_vocabularies, text, unicode_vocabulary, vocabulary};

/// Verifies: R-012
#[test]
fn every_document_of_the_corpora() {
    let documents = corpora();
    let mut vocabularies = fetched_vocabularies();
    vocabularies.push(vocabulary(&documents));
    for vocabulary in vocabularies {
        for lowercase in [true, false] {
            let pair = Pair::new(&vocabulary, lowercase);
            for document in &documents {
                pair.check(&document.text);
            }
        }
    }
}

static UNICODE: LazyLock<[Pair; 2]> = LazyLock::new(|| {
    let vocabulary = unicode_vocabulary();
    [true, false].map(|lowercase| Pair::new(&vocabulary, lowercase))
});

/// Verifies: R-012
#[test]
fn every_character_in_context_in_lower_case() {
    every_character_in_context(&UNICODE[0]);
}

#[test]
fn every_character_in_context_in_its_case() {
    every_character_in_context(&UNICODE[1]);
}

fn every_character_in_context(pair: &Pair) {
    let contexts = |c: char| match c {
        // U+1D16D and U+302E stay, with the combining classes 226 and 224.
        ..'\u{30000}' => format!("{c}\na{c}b {c}\u{301} \u{1D16D}{c}\u{302E} {c}a \u{302E}{c}{c} A{c}A"),
        // Private use, variation selectors, and nothing assigned.
        _ => format!("{c} a{c}b {c}\u{301}"),
    };
    let characters: Vec<char> = ('\0'..=char::MAX).collect();
    // A call of the oracle costs more than its text.
    for characters in characters.chunks(8) {
        let together = characters.iter().map(|&c| contexts(c)).collect::<Vec<_>>().join(" ");
        if pair.ids(&together) != pair.expected(&together) {
            for &c in characters {
                pair.check(&contexts(c));
            }
            pair.check(&together);
        }
    }
    // Alone, where a text begins and ends.
    for &c in &characters[..0x3_0000] {
        pair.check(c.encode_utf8(&mut [0; 4]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Verifies: R-012
    #[test]
    fn any_text(text in text()) {
        for pair in &*UNICODE {
            pair.check(&text);
        }
    }

    /// Verifies: R-010
    #[test]
    fn tokens_are_in_order_and_on_character_boundaries(text in text()) {
        for pair in &*UNICODE {
            let mut last = 0;
            pair.tokenizer.tokenize(&text, |token| {
                assert!(last <= token.start && token.start < token.end, "{text:?}");
                assert!(text.get(token.start..token.end).is_some(), "{text:?}");
                last = token.start;
                ControlFlow::Continue(())
            });
        }
    }
}
