//! The same ids as the `tokenizers` crate.

mod support;

use std::ops::ControlFlow;
use std::sync::LazyLock;

use proptest::prelude::*;
use support::{Pair, corpora, fetched_vocabularies, text, unicode_vocabulary, vocabulary};

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

#[test]
fn every_character_in_context() {
    // U+1D16D and U+302E stay, with the combining classes 226 and 224.
    let contexts = |c: char| format!("{c}\na{c}b {c}\u{301} \u{1D16D}{c}\u{302E} {c}a \u{302E}{c}{c} A{c}A");
    let characters: Vec<char> = ('\0'..=char::MAX).collect();
    for pair in &*UNICODE {
        // A call of the oracle costs more than its text.
        for characters in characters.chunks(4) {
            let together = characters.iter().map(|&c| contexts(c)).collect::<Vec<_>>().join(" ");
            if pair.ids(&together) != pair.expected(&together) {
                for &c in characters {
                    pair.check(&contexts(c));
                }
                pair.check(&together);
            }
        }
        for &c in &characters[..0x3000] {
            pair.check(&c.to_string());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text(text in text()) {
        for pair in &*UNICODE {
            pair.check(&text);
        }
    }

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
