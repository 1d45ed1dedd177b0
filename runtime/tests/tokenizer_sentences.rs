//! The sentence splitter against the corpora's own boundaries, and its promises on any text.

#![allow(clippy::unwrap_used, reason = "a helper of a test may panic")]

mod support;

use std::ops::Range;

use kdh_runtime::text::{Sentences, Tokenizer, TokenizerOptions};
use proptest::prelude::*;
use support::{corpora, corpora_named, ids, text, unicode_vocabulary};

#[test]
fn finds_the_boundaries_of_the_corpora() {
    // What is left is mostly the corpora's: a sentence tokeniser made their boundaries, and it misses those before a
    // digit or a name in lower case.
    for (name, tokenised, plain) in [("hoc", 0.993, 0.992), ("cei", 0.995, 0.994)] {
        let documents = corpora_named(name);
        let mut score = [Score::default(); 2];
        for document in &documents {
            score[0].add(&document.text, &document.sentences);
            let (text, sentences) = detokenise(&document.text, &document.sentences);
            score[1].add(&text, &sentences);
        }
        eprintln!("{name}: tokenised {}, plain {}", score[0].show(), score[1].show());
        assert!(score[0].f1() >= tokenised, "{name}, as it is: {}", score[0].show());
        assert!(score[1].f1() >= plain, "{name}, without the spaces of its tokens: {}", score[1].show());
    }
}

/// Everything that the tokeniser does not see as white space is in one sentence, and no token spans two.
fn check(tokenizers: &[Tokenizer], text: &str) {
    let mut end = 0;
    let mut tokens = [Vec::new(), Vec::new()];
    for sentence in Sentences::new(text) {
        assert!(end <= sentence.start && sentence.start < sentence.end, "{text:?}");
        assert!(text[end..sentence.start].chars().all(char::is_whitespace), "{text:?}");
        let inner = &text[sentence.clone()];
        assert!(!inner.starts_with([' ', '\n']) && !inner.ends_with([' ', '\n']), "{text:?}");
        for (tokens, tokenizer) in tokens.iter_mut().zip(tokenizers) {
            tokens.extend(ids(tokenizer, inner));
        }
        end = sentence.end;
    }
    assert!(text[end..].chars().all(char::is_whitespace), "{text:?}");
    for (tokens, tokenizer) in tokens.iter().zip(tokenizers) {
        assert!(*tokens == ids(tokenizer, text), "{text:?}");
    }
}

fn tokenizers() -> [Tokenizer; 2] {
    let vocabulary = unicode_vocabulary();
    [true, false].map(|lowercase| {
        let options = TokenizerOptions { lowercase, cls: "[CLS]", sep: "[SEP]", unk: "[UNK]" };
        Tokenizer::new(vocabulary.as_bytes(), &options).unwrap()
    })
}

#[test]
fn the_tokens_of_the_sentences_are_the_tokens_of_the_text() {
    let tokenizers = tokenizers();
    for document in corpora() {
        check(&tokenizers, &document.text);
    }
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner
        .run(&text(), |text| {
            check(&tokenizers, &text);
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_character_between_two_words_is_in_a_sentence_or_is_space() {
    let tokenizers = tokenizers();
    for c in '\0'..=char::MAX {
        check(&tokenizers, &format!("a.{c}B {c}. {c}b.{c} C"));
    }
}

/// None of these may take quadratic time, which at this length is hours.
#[test]
fn long_texts_without_sentences() {
    for (unit, at_least) in [
        (".", 1),
        ("a", 1),
        (". ", 1),
        ("a. ", 1),
        (".)", 1),
        (". )", 1),
        (". \"", 1),
        ("\n", 0),
        (" \n\u{A0}", 0),
        ("a\n", 1),
        ("A\n", 500_000),
        ("1.\n", 1),
        ("((", 1),
        (". (", 1),
        ("\u{3002}", 1),
        ("\u{200B}", 1),
        ("!\u{200B}", 1),
        ("e.g. ", 1),
        ("\u{2026}\u{301}", 1),
        ("The end. ", 1_000_000),
    ] {
        let text = unit.repeat(1_000_000);
        let count = Sentences::new(&text).count();
        assert!(count >= at_least, "{unit:?} gives {count} sentences");
    }
}

/// Boundaries inside a text: where its second and later sentences start.
#[derive(Default, Clone, Copy)]
struct Score {
    found: usize,
    missed: usize,
    wrong: usize,
}

impl Score {
    fn add(&mut self, text: &str, truth: &[Range<usize>]) {
        let truth: Vec<usize> = truth.iter().skip(1).map(|sentence| sentence.start).collect();
        let ours: Vec<usize> = Sentences::new(text).skip(1).map(|sentence| sentence.start).collect();
        let found = ours.iter().filter(|at| truth.contains(at)).count();
        self.found += found;
        self.missed += truth.len() - found;
        self.wrong += ours.len() - found;
    }

    fn precision(&self) -> f64 {
        self.found as f64 / (self.found + self.wrong) as f64
    }

    fn recall(&self) -> f64 {
        self.found as f64 / (self.found + self.missed) as f64
    }

    fn f1(&self) -> f64 {
        2.0 * self.precision() * self.recall() / (self.precision() + self.recall())
    }

    fn show(&self) -> String {
        format!("precision {:.4}, recall {:.4}, F1 {:.4}", self.precision(), self.recall(), self.f1())
    }
}

/// The text without the spaces that its tokeniser put around punctuation, and the sentences in it.
fn detokenise(text: &str, sentences: &[Range<usize>]) -> (String, Vec<Range<usize>>) {
    let mut plain = String::new();
    // New offset of every old one.
    let mut offsets = vec![0; text.len() + 1];
    for (at, c) in text.char_indices() {
        offsets[at] = plain.len();
        let rest = &text.as_bytes()[at + 1..];
        let closes = c == ' ' && matches!(rest, [b'.' | b',' | b';' | b':' | b'?' | b'!' | b')' | b']' | b'%', ..]);
        let opened = c == ' ' && plain.ends_with(['(', '[']);
        if !closes && !opened {
            plain.push(c);
        }
    }
    offsets[text.len()] = plain.len();
    let sentences = sentences.iter().map(|sentence| offsets[sentence.start]..offsets[sentence.end]).collect();
    (plain, sentences)
}
