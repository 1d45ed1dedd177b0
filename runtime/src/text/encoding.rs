use core::fmt;
use core::ops::{ControlFlow, Range};

use super::Tokenizer;
use crate::list::{List, Memory};

/// What the encoder takes of one text: token ids and the sentence of each token.
///
/// It is scratch space, its own or in memory of the caller's: [`Tokenizer::encode`] overwrites it, and only
/// [`Encoding::new`] allocates.
///
/// Every token belongs to the sentence in which it starts. A token between two sentences belongs to the one before it,
/// a token before the first sentence to the first. A sentence that is empty, begins past the text or begins before an
/// earlier one is ignored; one that ends past the text ends with it; one that splits a character has all of it. When no
/// sentence is left, the text is one sentence.
pub struct Encoding<'m> {
    max_tokens: usize,
    max_sentences: usize,
    ids: List<'m, u32>,
    sentence_ids: List<'m, i32>,
    /// Start and end of each.
    sentences: List<'m, [u32; 2]>,
    text_tokens: usize,
    unknown_tokens: usize,
}

/// The bytes `start..end` of a text; positions past 4 GiB are given as `u32::MAX`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sentence {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// What stands in [`Encoding::sentence_ids`] for a special token.
const NO_SENTENCE: i32 = -1;

impl Encoding<'static> {
    /// Room for `max_tokens` tokens (at least the two special ones) of `max_sentences` sentences (at least one): 8 bytes
    /// for each token and each sentence.
    pub fn new(max_tokens: usize, max_sentences: usize) -> Self {
        let [tokens, sentences] = rooms(max_tokens, max_sentences);
        let (ids, sentence_ids) = (Memory::owned(tokens), Memory::owned(tokens));
        Self::of(max_tokens, max_sentences, ids, sentence_ids, Memory::owned(sentences))
    }
}

impl<'m> Encoding<'m> {
    /// As [`new`](Encoding::new), in memory of the caller's; `None` when it is smaller than
    /// [`memory_required`](Self::memory_required), or does not begin at a multiple of 4.
    pub(crate) fn new_in(max_tokens: usize, max_sentences: usize, memory: &'m mut [u8]) -> Option<Self> {
        let [tokens, sentences] = rooms(max_tokens, max_sentences);
        let (ids, memory) = memory.split_at_mut_checked(4 * tokens)?;
        let (sentence_ids, memory) = memory.split_at_mut_checked(4 * tokens)?;
        let (ids, sentence_ids) = (Memory::borrowed(ids)?, Memory::borrowed(sentence_ids)?);
        let sentences = Memory::borrowed(memory.get_mut(..8 * sentences)?)?;
        Some(Self::of(max_tokens, max_sentences, ids, sentence_ids, sentences))
    }

    fn of(
        max_tokens: usize,
        max_sentences: usize,
        ids: Memory<'m, u32>,
        sentence_ids: Memory<'m, i32>,
        sentences: Memory<'m, [u32; 2]>,
    ) -> Self {
        Self {
            max_tokens: max_tokens.max(2),
            max_sentences: max_sentences.clamp(1, i32::MAX as usize),
            ids: List::new(ids),
            sentence_ids: List::new(sentence_ids),
            sentences: List::new(sentences),
            text_tokens: 0,
            unknown_tokens: 0,
        }
    }

    /// Bytes that [`new`](Encoding::new) allocates for these limits.
    pub fn memory_required(max_tokens: usize, max_sentences: usize) -> usize {
        let [tokens, sentences] = rooms(max_tokens, max_sentences);
        8 * tokens + 8 * sentences
    }

    /// The start token, the first tokens of the text, the end token: at most `max_tokens`.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// For each of [`ids`](Self::ids) the position of its sentence in [`sentences`](Self::sentences), -1 for the two
    /// special tokens. Never decreasing between them.
    pub fn sentence_ids(&self) -> &[i32] {
        &self.sentence_ids
    }

    /// The sentences that own at least one token of [`ids`](Self::ids), in order, at most `max_sentences`: the last one
    /// stands for all from there on. The ranges are on character boundaries of the text.
    pub fn sentences(&self) -> impl ExactSizeIterator<Item = Sentence> + Clone {
        self.sentences.iter().map(|&[start, end]| Sentence { start, end })
    }

    /// Tokens of the whole text, without special tokens.
    pub fn text_tokens(&self) -> usize {
        self.text_tokens
    }

    /// Tokens of the text that are in [`ids`](Self::ids): fewer than [`text_tokens`](Self::text_tokens) when it was cut.
    pub fn kept_tokens(&self) -> usize {
        self.ids.len().saturating_sub(2)
    }

    /// Unknown tokens among [`text_tokens`](Self::text_tokens).
    pub fn unknown_tokens(&self) -> usize {
        self.unknown_tokens
    }

    /// Overwrites all that the last text has left. It is done on drop, too.
    pub fn zeroize(&mut self) {
        self.ids.zeroize();
        self.sentence_ids.zeroize();
        self.sentences.zeroize();
        self.text_tokens = 0;
        self.unknown_tokens = 0;
    }

    pub(super) fn fill(&mut self, tokenizer: &Tokenizer, text: &str, sentences: impl Iterator<Item = Range<usize>>) {
        self.ids.clear();
        self.sentence_ids.clear();
        self.sentences.clear();
        self.text_tokens = 0;
        self.unknown_tokens = 0;
        self.ids.push(tokenizer.cls_id());
        self.sentence_ids.push(NO_SENTENCE);
        let mut cursor = Cursor::new(text, sentences);
        tokenizer.tokenize(text, |token| {
            self.text_tokens += 1;
            self.unknown_tokens += usize::from(token.id == tokenizer.unk_id());
            if self.ids.len() + 1 < self.max_tokens {
                let changed = cursor.advance(token.start);
                let sentence = self.own(changed.then(|| cursor.current.clone()));
                self.ids.push(token.id);
                self.sentence_ids.push(sentence);
            }
            ControlFlow::Continue(())
        });
        self.ids.push(tokenizer.sep_id());
        self.sentence_ids.push(NO_SENTENCE);
    }

    /// The id of the sentence at hand; `next` when it is not the one of the token before.
    fn own(&mut self, next: Option<Range<usize>>) -> i32 {
        if let Some(range) = next {
            let position = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
            let (start, end) = (position(range.start), position(range.end));
            let full = self.sentences.len() == self.max_sentences;
            match self.sentences.last_mut() {
                Some([_, last]) if full => *last = end.max(*last),
                _ => self.sentences.push([start, end]),
            }
        }
        self.sentences.len() as i32 - 1
    }
}

impl Drop for Encoding<'_> {
    fn drop(&mut self) {
        self.zeroize();
    }
}

/// Leaves out the ids: they are the text.
impl fmt::Debug for Encoding<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoding")
            .field("kept_tokens", &self.kept_tokens())
            .field("text_tokens", &self.text_tokens)
            .field("unknown_tokens", &self.unknown_tokens)
            .field("sentences", &self.sentences.len())
            .finish_non_exhaustive()
    }
}

/// Most tokens and sentences: a sentence owns a token, so there are never more sentences than tokens.
fn rooms(max_tokens: usize, max_sentences: usize) -> [usize; 2] {
    let max_tokens = max_tokens.max(2);
    [max_tokens, max_sentences.clamp(1, i32::MAX as usize).min(max_tokens)]
}

/// Goes through the usable sentences of a text.
struct Cursor<'t, I> {
    text: &'t str,
    sentences: I,
    current: Range<usize>,
    next: Option<Range<usize>>,
    started: bool,
}

impl<'t, I: Iterator<Item = Range<usize>>> Cursor<'t, I> {
    fn new(text: &'t str, sentences: I) -> Self {
        let mut cursor = Self { text, sentences, current: 0..0, next: None, started: false };
        cursor.current = cursor.usable().unwrap_or(0..text.len());
        cursor.next = cursor.usable();
        cursor
    }

    /// Goes to the sentence of the byte `at`, which never decreases; whether that is another than before.
    fn advance(&mut self, at: usize) -> bool {
        let mut changed = !self.started;
        self.started = true;
        while let Some(next) = self.next.take_if(|next| next.start <= at) {
            self.current = next;
            self.next = self.usable();
            changed = true;
        }
        changed
    }

    /// The next sentence that is not empty and begins inside the text, after the current one.
    fn usable(&mut self) -> Option<Range<usize>> {
        let text = self.text;
        let after = self.next.as_ref().unwrap_or(&self.current);
        let after = if after.is_empty() { None } else { Some(after.start) };
        self.sentences.find_map(|sentence| {
            let start = text.floor_char_boundary(sentence.start);
            let end = text.ceil_char_boundary(sentence.end.min(text.len()));
            (sentence.start < sentence.end && start < end && after.is_none_or(|after| start > after))
                .then_some(start..end)
        })
    }
}
