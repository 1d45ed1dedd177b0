//! The same ids as the `tokenizers` crate.

mod support;

use std::ops::ControlFlow;
use std::sync::LazyLock;

use proptest::prelude::*;
use support::{Pair, corpora, fetched_vocabularies, unicode_vocabulary, vocabulary};

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
        for characters in characters.chunks(64) {
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

/// Characters and pieces of text that meet every rule of the normaliser.
fn fragment() -> impl Strategy<Value = String> {
    let one_of = |texts: &'static [&'static str]| proptest::sample::select(texts).prop_map(str::to_owned);
    let range =
        |start: u32, end: u32| (start..=end).prop_map(|code| char::from_u32(code).unwrap_or('\u{FFFD}').to_string());
    prop_oneof![
        6 => "[a-zA-Z0-9]{1,12}",
        4 => "[ -~]{1,4}",
        3 => any::<char>().prop_map(String::from),
        2 => one_of(&[" ", "\n", "\t", "\r\n", "\u{A0}", "\u{85}", "\u{C}", "\0", "\u{2028}", "\u{3000}", "\u{200B}"]),
        2 => one_of(&["İ", "ı", "ẞ", "Σ", "ΟΔΟΣ", "ς", "ﬁ", "Ǆ", "Å", "\u{212B}", "≠", "\u{37E}", "\u{387}", "\u{1FEF}"]),
        2 => one_of(&["[SEP]", "[CLS]", "[UNK]", "[unk]", "##", "##a", "##[SEP]"]),
        2 => one_of(&["\u{302E}", "\u{302F}", "\u{1D15E}", "\u{1D165}", "\u{1D16D}", "\u{8D4}", "\u{1E94A}", "\u{344}"]),
        2 => range(0x300, 0x36F),
        1 => range(0xAC00, 0xD7A3),
        1 => range(0x1100, 0x11FF),
        1 => range(0x4E00, 0x9FFF),
        1 => range(0xF900, 0xFAFF),
        1 => range(0x2F800, 0x2FA1F),
        1 => range(0x370, 0x1FFF),
        1 => range(0x2000, 0x2FFF),
        1 => range(0xE000, 0xFFFF),
        1 => range(0x1F300, 0x1FAFF),
        1 => range(0xE0000, 0xE01FF),
        1 => "[a-z]{95,105}",
        1 => "[äöüéàñ]{95,105}",
    ]
}

fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(fragment(), 0..24).prop_map(|fragments| fragments.concat())
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
