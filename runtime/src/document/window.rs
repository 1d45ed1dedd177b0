use core::ops::{ControlFlow, Range};

use crate::list::{List, Memory};
use crate::text::{Token, Tokenizer, is_space};

/// The tokens of whole sentences, as many as the model takes.
pub(super) struct Window<'m> {
    max_tokens: usize,
    max_sentences: usize,
    ids: List<'m, u32>,
    sentence_ids: List<'m, i32>,
    /// Start, end and tokens of each.
    sentences: List<'m, [u32; 3]>,
    /// Sentences at the begin that a window before has counted.
    counted: usize,
    /// Sentences at the begin that a window before has seen.
    seen: usize,
}

/// A sentence in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WindowSentence {
    /// First byte of the sentence in the text.
    pub(super) start: u32,
    /// One past its last byte.
    pub(super) end: u32,
    /// Its tokens.
    pub(super) tokens: u32,
}

/// The two special tokens.
const SPECIAL: usize = 2;

impl<'m> Window<'m> {
    /// Room for what the model takes.
    pub(super) fn new(max_tokens: usize, max_sentences: usize) -> Self {
        let [tokens, sentences] = rooms(max_tokens, max_sentences);
        let (ids, sentence_ids) = (Memory::owned(tokens), Memory::owned(tokens));
        Self::of([tokens, sentences], ids, sentence_ids, Memory::owned(sentences))
    }

    /// As [`new`](Self::new), in memory of the caller's, and the bytes behind it; `None` when it is smaller than
    /// [`memory_required`](Self::memory_required), or does not begin at a multiple of 4.
    pub(super) fn new_in(
        max_tokens: usize,
        max_sentences: usize,
        memory: &'m mut [u8],
    ) -> Option<(Self, &'m mut [u8])> {
        let [tokens, sentences] = rooms(max_tokens, max_sentences);
        let (ids, memory) = memory.split_at_mut_checked(4 * tokens)?;
        let (sentence_ids, memory) = memory.split_at_mut_checked(4 * tokens)?;
        let (of_sentences, rest) = memory.split_at_mut_checked(size_of::<[u32; 3]>() * sentences)?;
        let (ids, sentence_ids) = (Memory::borrowed(ids)?, Memory::borrowed(sentence_ids)?);
        Some((Self::of([tokens, sentences], ids, sentence_ids, Memory::borrowed(of_sentences)?), rest))
    }

    fn of(
        [max_tokens, max_sentences]: [usize; 2],
        ids: Memory<'m, u32>,
        sentence_ids: Memory<'m, i32>,
        sentences: Memory<'m, [u32; 3]>,
    ) -> Self {
        Self {
            max_tokens,
            max_sentences,
            ids: List::new(ids),
            sentence_ids: List::new(sentence_ids),
            sentences: List::new(sentences),
            counted: 0,
            seen: 0,
        }
    }

    /// Bytes that [`new`](Self::new) allocates.
    pub(super) fn memory_required(max_tokens: usize, max_sentences: usize) -> usize {
        let [tokens, sentences] = rooms(max_tokens, max_sentences);
        8 * tokens + size_of::<[u32; 3]>() * sentences
    }

    pub(super) fn clear(&mut self) {
        self.ids.clear();
        self.sentence_ids.clear();
        self.sentences.clear();
        self.counted = 0;
        self.seen = 0;
    }

    /// Forgets all, and overwrites the tokens.
    pub(super) fn zeroize(&mut self) {
        self.ids.zeroize();
        self.sentence_ids.zeroize();
        self.sentences.zeroize();
        self.clear();
    }

    /// Most tokens of text that fit.
    pub(super) fn capacity(&self) -> usize {
        self.max_tokens - SPECIAL
    }

    /// Whether a sentence of so many tokens fits behind those that are there.
    pub(super) fn fits(&self, tokens: usize) -> bool {
        self.tokens() + tokens <= self.capacity() && self.sentences.len() < self.max_sentences
    }

    /// Whether there is a sentence that no window before has seen.
    pub(super) fn has_news(&self) -> bool {
        self.sentences.len() > self.seen
    }

    /// Adds a sentence, `text` from the byte `offset` of the whole text on, as far as its tokens fit. Gives its tokens and
    /// how many of those stand for words that the vocabulary cannot spell.
    pub(super) fn push(&mut self, tokenizer: &Tokenizer, text: &str, offset: usize) -> Counts {
        self.open(tokenizer);
        let id = self.sentences.len() as i32;
        let mut counts = Counts::default();
        tokenizer.tokenize(text, |token| {
            counts.tokens += 1;
            counts.unknown += usize::from(token.id == tokenizer.unk_id());
            if self.tokens() < self.max_tokens - SPECIAL {
                counts.kept += 1;
                self.ids.push(token.id);
                self.sentence_ids.push(id);
            }
            ControlFlow::Continue(())
        });
        if counts.kept > 0 {
            let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
            let (start, end) = (place(offset), place(offset.saturating_add(text.len())));
            self.sentences.push([start, end, counts.kept as u32]);
        }
        counts
    }

    /// Ends the tokens and gives them, with the sentence of each, for the model.
    pub(super) fn close(&mut self, tokenizer: &Tokenizer) -> (&[u32], &[i32]) {
        self.open(tokenizer);
        self.ids.push(tokenizer.sep_id());
        self.sentence_ids.push(-1);
        (&self.ids, &self.sentence_ids)
    }

    pub(super) fn sentences(&self) -> impl DoubleEndedIterator<Item = WindowSentence> + ExactSizeIterator + Clone {
        self.sentences.iter().map(|&[start, end, tokens]| WindowSentence { start, end, tokens })
    }

    /// Goes on to the next window, which begins with the last sentences of this one: as many as have `overlap` tokens at
    /// most and leave room for a sentence of `needed` tokens. Calls `count` with the sentences that this window counts.
    ///
    /// A sentence of both windows is counted in the one in which the fewer tokens beside it are more (the "max context" of
    /// the sliding windows in Devlin et al. 2019, `run_squad.py`).
    pub(super) fn slide(&mut self, overlap: usize, needed: usize, count: impl FnMut(usize, WindowSentence)) {
        let room = overlap.min(self.capacity().saturating_sub(needed));
        let mut kept_tokens = 0;
        let last = self.sentences().rev().take(self.max_sentences - 1);
        let kept = last
            .take_while(|sentence| {
                kept_tokens += sentence.tokens as usize;
                kept_tokens <= room
            })
            .count();
        let first = self.sentences.len() - kept;
        let of = |tokens: u32| tokens as usize;
        let dropped: usize = self.sentences().take(first).map(|sentence| of(sentence.tokens)).sum();
        let all: usize = self.sentences().skip(first).map(|sentence| of(sentence.tokens)).sum();
        // Tokens in front of a sentence in the next window, and behind it in this one.
        let mut front = 0;
        let here = self.sentences().skip(first).take_while(|sentence| {
            let behind = all - front - of(sentence.tokens);
            let more = behind >= front;
            front += of(sentence.tokens);
            more
        });
        let counted = first + here.count();
        self.count(counted, count);

        self.sentences.remove(0..first);
        self.counted = counted - first;
        self.seen = kept;
        // Behind the start token, and without the end token.
        self.ids.remove(1..1 + dropped);
        self.sentence_ids.remove(1..1 + dropped);
        self.ids.truncate(1 + all);
        self.sentence_ids.truncate(1 + all);
        self.sentence_ids.iter_mut().skip(1).for_each(|id| *id -= first as i32);
    }

    /// Calls `count` with the sentences that no window has counted: this one is the last.
    pub(super) fn finish(&mut self, count: impl FnMut(usize, WindowSentence)) {
        self.count(self.sentences.len(), count);
    }

    fn count(&mut self, end: usize, mut count: impl FnMut(usize, WindowSentence)) {
        let sentences = self.sentences().enumerate().take(end).skip(self.counted);
        sentences.for_each(|(index, sentence)| count(index, sentence));
    }

    /// Begins with the start token.
    fn open(&mut self, tokenizer: &Tokenizer) {
        if self.ids.is_empty() {
            self.ids.push(tokenizer.cls_id());
            self.sentence_ids.push(-1);
        }
    }

    fn tokens(&self) -> usize {
        self.ids.len().saturating_sub(1)
    }
}

/// Most tokens and sentences of a window.
fn rooms(max_tokens: usize, max_sentences: usize) -> [usize; 2] {
    let max_tokens = max_tokens.max(SPECIAL + 1);
    [max_tokens, max_sentences.clamp(1, max_tokens)]
}

/// Tokens of a sentence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) tokens: usize,
    /// Those that are in the window.
    pub(super) kept: usize,
    pub(super) unknown: usize,
}

/// The first part of `text` that has at most `capacity` tokens, its tokens, and whether it is not all of `text`: up to the
/// last white space between two tokens, and to the last token when there is none.
pub(super) fn first_part(tokenizer: &Tokenizer, text: &str, capacity: usize) -> (Range<usize>, usize, bool) {
    let (mut tokens, mut end_of_last, mut cut) = (0, 0, None);
    let mut over = None;
    tokenizer.tokenize(text, |Token { start, end, .. }| {
        if tokens > 0 && text.get(end_of_last..start).is_some_and(|between| between.contains(is_space)) {
            cut = Some((end_of_last, tokens));
        }
        if tokens == capacity {
            over = Some(start);
            return ControlFlow::Break(());
        }
        tokens += 1;
        end_of_last = end;
        ControlFlow::Continue(())
    });
    let Some(over) = over else { return (0..text.len(), tokens, false) };
    let (end, tokens) = cut.unwrap_or((over, tokens));
    // Pieces of one character share its bytes.
    let end = if end == 0 { text.ceil_char_boundary(1) } else { end };
    (0..end, tokens, true)
}
