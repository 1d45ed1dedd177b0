//! Turns texts into a student's inputs, with the runtime's own tokeniser and sentence splitter.

use std::fmt;

use kdh_runtime::text::{Encoding, Sentences, Tokenizer, TokenizerOptions, VocabularyError};

use crate::student::Student;

/// A student's tokeniser with room for one text.
pub struct TextEncoder {
    tokenizer: Tokenizer,
    encoding: Encoding<'static>,
}

/// How a vocabulary spells texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spelling {
    /// Runs of characters between white space.
    pub words: usize,
    /// Tokens, without the special ones.
    pub tokens: usize,
    /// Tokens that stand for a word that the vocabulary cannot spell.
    pub unknown: usize,
}

impl TextEncoder {
    /// Takes the student's vocabulary, tokeniser options and limits.
    ///
    /// # Errors
    /// When the runtime refuses the vocabulary.
    pub fn new(student: &Student) -> Result<Self, VocabularyError> {
        let card = &student.card;
        let options = TokenizerOptions {
            lowercase: card.tokenizer.lowercase,
            cls: &card.tokenizer.cls,
            sep: &card.tokenizer.sep,
            unk: &card.tokenizer.unk,
        };
        Ok(Self {
            tokenizer: Tokenizer::new(&student.vocabulary_file(), &options)?,
            encoding: Encoding::new(card.max_tokens as usize, card.max_sentences as usize),
        })
    }

    /// Token ids and sentence ids of `text`, as the box computes them.
    pub fn encode(&mut self, text: &str) -> (&[u32], &[i32]) {
        self.tokenizer.encode(text, Sentences::new(text), &mut self.encoding);
        (self.encoding.ids(), self.encoding.sentence_ids())
    }

    /// Calls `token` with each token's id, the special ones left out, however long the text is.
    pub fn for_each_token(&self, text: &str, mut token: impl FnMut(u32)) {
        self.tokenizer.tokenize(text, |found| {
            token(found.id);
            std::ops::ControlFlow::Continue(())
        });
    }

    /// How the vocabulary spells `texts`.
    pub fn spelling<'t>(&self, texts: impl IntoIterator<Item = &'t str>) -> Spelling {
        let mut spelling = Spelling::default();
        for text in texts {
            spelling.words += text.split_whitespace().count();
            self.for_each_token(text, |id| {
                spelling.tokens += 1;
                spelling.unknown += usize::from(id == self.tokenizer.unk_id());
            });
        }
        spelling
    }
}

impl Spelling {
    /// Tokens for each word; 0 without words.
    pub fn tokens_per_word(&self) -> f64 {
        ratio(self.tokens, self.words)
    }

    /// Share of the tokens that are unknown; 0 without tokens.
    pub fn unknown_rate(&self) -> f64 {
        ratio(self.unknown, self.tokens)
    }
}

impl fmt::Debug for TextEncoder {
    /// Leaves out the encoded text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextEncoder").finish_non_exhaustive()
    }
}

pub(crate) fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
