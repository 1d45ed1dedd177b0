use core::fmt;
use core::ops::{ControlFlow, Range};

use super::Encoding;
use super::unicode::{Class, Entry, Fold};
use super::vocabulary::{Vocabulary, VocabularyError};
use super::word::{MAX_CHARS, Word};

/// BERT's tokeniser: its normaliser and basic tokeniser (Devlin et al., "BERT: Pre-training of Deep Bidirectional
/// Transformers for Language Understanding", 2019) and WordPiece by greedy longest match (Wu et al., "Google's Neural
/// Machine Translation System", 2016).
///
/// The ids equal those of the `tokenizers` crate with `BertNormalizer` (clean text, handle Chinese characters, strip
/// accents when lower-casing), `BertPreTokenizer` and `WordPiece` (`##`, at most 100 characters a word). A special token
/// that a text spells out, `[SEP]` say, is plain text.
///
/// A tokeniser is immutable and can be shared between threads.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    lowercase: bool,
    /// What the tokeniser does with a byte: one of the codes below, or the byte that it stands for in a word.
    bytes: [u8; 256],
    cls_id: u32,
    sep_id: u32,
    unk_id: u32,
}

const SPACE: u8 = 0;
const DROP: u8 = 1;
const PUNCTUATION: u8 = 2;
const NOT_ASCII: u8 = 3;

/// How to tokenise; a student's card states it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TokenizerOptions<'a> {
    /// Lower-case the text and strip its accents, as the uncased BERT models do.
    pub lowercase: bool,
    /// The token before a text, `[CLS]`.
    pub cls: &'a str,
    /// The token after a text, `[SEP]`.
    pub sep: &'a str,
    /// The token of a word that has no pieces, `[UNK]`.
    pub unk: &'a str,
}

/// One piece of a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token {
    /// Its line in the vocabulary, counted from 0.
    pub id: u32,
    /// First byte of the characters that the piece stands for.
    pub start: usize,
    /// One past their last byte. Pieces of one character, a Hangul syllable say, share its range, and
    /// so do marks that normalisation reorders.
    pub end: usize,
}

impl Tokenizer {
    /// A tokeniser for a `vocab.txt`: UTF-8, one token a line, the line's number (from 0) is the id.
    ///
    /// White space at the end of a line is not part of the token. As in BERT, an empty line is an id that never occurs,
    /// and of two lines with the same token the last one is its id.
    ///
    /// # Errors
    ///
    /// [`VocabularyError`]: a bound is exceeded, a line is not UTF-8, or a special token is missing.
    pub fn new(vocabulary: &[u8], options: &TokenizerOptions<'_>) -> Result<Self, VocabularyError> {
        let vocabulary = Vocabulary::new(vocabulary)?;
        let cls_id = vocabulary.id(options.cls).ok_or(VocabularyError::MissingCls)?;
        let sep_id = vocabulary.id(options.sep).ok_or(VocabularyError::MissingSep)?;
        let unk_id = vocabulary.id(options.unk).ok_or(VocabularyError::MissingUnk)?;
        let lowercase = options.lowercase;
        Ok(Self { vocabulary, lowercase, bytes: byte_table(lowercase), cls_id, sep_id, unk_id })
    }

    /// Number of lines of the vocabulary; every id is below it.
    pub fn vocabulary_len(&self) -> usize {
        self.vocabulary.len()
    }

    /// Id of the token before a text.
    pub fn cls_id(&self) -> u32 {
        self.cls_id
    }

    /// Id of the token after a text.
    pub fn sep_id(&self) -> u32 {
        self.sep_id
    }

    /// Id of the token of a word that has no pieces.
    pub fn unk_id(&self) -> u32 {
        self.unk_id
    }

    /// Heap bytes that the tokeniser holds.
    pub fn memory_usage(&self) -> usize {
        self.vocabulary.memory()
    }

    /// Calls `visit` with every token of `text` in order, without special tokens, until it breaks.
    ///
    /// Allocates nothing; linear in the length of `text`.
    pub fn tokenize(&self, text: &str, visit: impl FnMut(Token) -> ControlFlow<()>) {
        // A break is the visitor's own affair.
        let _ = Walk { tokenizer: self, text, visit, pieces: [(0, 0); MAX_CHARS] }.run();
    }

    /// Writes the ids of `text` and the sentence of each to `encoding`; `sentences` are byte ranges of `text`, as
    /// [`Sentences`](super::Sentences) finds them. See [`Encoding`] for what becomes of ranges that make no sense.
    ///
    /// Allocates nothing; linear in the length of `text`.
    pub fn encode(&self, text: &str, sentences: impl Iterator<Item = Range<usize>>, encoding: &mut Encoding<'_>) {
        encoding.fill(self, text, sentences);
    }
}

/// Leaves out the vocabulary.
impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocabulary_len", &self.vocabulary_len())
            .field("lowercase", &self.lowercase)
            .finish_non_exhaustive()
    }
}

fn byte_table(lowercase: bool) -> [u8; 256] {
    let mut table = [NOT_ASCII; 256];
    for byte in 0..=127 {
        let c = char::from(byte);
        let entry = Entry::of(c);
        table[usize::from(byte)] = match (entry.class(), entry.fold(c)) {
            (Class::Space, _) => SPACE,
            (Class::Drop, _) => DROP,
            (Class::Word, Fold::One(lower)) if lowercase => lower as u8,
            (Class::Word, _) => byte,
            _ => PUNCTUATION,
        };
    }
    table
}

/// One pass over a text.
struct Walk<'t, V> {
    tokenizer: &'t Tokenizer,
    text: &'t str,
    visit: V,
    /// Id and end, in bytes of the normalised word, of the pieces of the word at hand.
    pieces: [(u32, usize); MAX_CHARS],
}

impl<V: FnMut(Token) -> ControlFlow<()>> Walk<'_, V> {
    fn run(mut self) -> ControlFlow<()> {
        let bytes = self.text.as_bytes();
        let table = &self.tokenizer.bytes;
        let mut word = Word::new();
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match table[usize::from(byte)] {
                SPACE | DROP => at += 1,
                PUNCTUATION => {
                    self.ascii_word(at..at + 1)?;
                    at += 1;
                }
                NOT_ASCII => at = self.any_word(at, &mut word)?,
                _ => {
                    let length = bytes[at..].iter().take_while(|&&b| table[usize::from(b)] > NOT_ASCII).count();
                    let end = at + length;
                    // What does not end the word here may join or change it.
                    at = match bytes.get(end).map(|&b| table[usize::from(b)]) {
                        None | Some(SPACE | PUNCTUATION) => {
                            self.ascii_word(at..end)?;
                            end
                        }
                        _ => self.any_word(at, &mut word)?,
                    };
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// Visits the pieces of a word that is `range` of the text, ASCII without characters to drop.
    fn ascii_word(&mut self, range: Range<usize>) -> ControlFlow<()> {
        let text = &self.text.as_bytes()[range.clone()];
        let table = &self.tokenizer.bytes;
        let normalized = |&byte: &u8| match table[usize::from(byte)] {
            PUNCTUATION => byte,
            other => other,
        };
        let vocabulary = &self.tokenizer.vocabulary;
        if text.len() > MAX_CHARS {
            return self.unknown(range);
        }
        match vocabulary.longest(vocabulary.start, text.iter().map(normalized)) {
            None => return self.unknown(range),
            // Most words are one piece.
            Some((id, length)) if length == text.len() => {
                return (self.visit)(Token { id, start: range.start, end: range.end });
            }
            Some((id, length)) => self.pieces[0] = (id, length),
        }
        let mut count = 1;
        while self.pieces[count - 1].1 < text.len() {
            let at = self.pieces[count - 1].1;
            match vocabulary.longest(vocabulary.continuation, text[at..].iter().map(normalized)) {
                None => return self.unknown(range),
                Some((id, length)) => self.pieces[count] = (id, at + length),
            }
            count += 1;
        }
        let mut start = range.start;
        for &(id, end) in &self.pieces[..count] {
            let end = range.start + end;
            (self.visit)(Token { id, start, end })?;
            start = end;
        }
        ControlFlow::Continue(())
    }

    /// Visits the word that starts at `at`, if any, and what ends it, and returns where that ends.
    fn any_word(&mut self, at: usize, word: &mut Word) -> ControlFlow<(), usize> {
        for (offset, c) in self.text[at..].char_indices() {
            let origin = at + offset..at + offset + c.len_utf8();
            let end = origin.end;
            let entry = Entry::of(c);
            match entry.class() {
                Class::Drop => continue,
                Class::Space => {
                    self.flush(word)?;
                    return ControlFlow::Continue(end);
                }
                class if !self.tokenizer.lowercase => self.push(word, class, c, 0, origin)?,
                class => match entry.fold(c) {
                    // CJK is isolated before it is decomposed, punctuation after.
                    Fold::One(to) if to == c || class == Class::Cjk => self.push(word, class, to, 0, origin)?,
                    Fold::One(to) => self.push(word, Entry::of(to).class(), to, 0, origin)?,
                    Fold::Nonstarter(to, combining_class) => self.push(word, class, to, combining_class, origin)?,
                    Fold::Strip { starter } => word.strip(origin, starter),
                    Fold::Jamo(jamo, count) => {
                        for &to in &jamo[..count] {
                            self.push(word, Class::Word, to, 0, origin.clone())?;
                        }
                    }
                    Fold::Many(several) => {
                        for &to in several {
                            let entry = Entry::of(to);
                            let combining_class = match entry.fold(to) {
                                Fold::Nonstarter(_, combining_class) => combining_class,
                                _ => 0,
                            };
                            self.push(word, entry.class(), to, combining_class, origin.clone())?;
                        }
                    }
                },
            }
            if word.is_empty() {
                return ControlFlow::Continue(end);
            }
        }
        self.flush(word)?;
        ControlFlow::Continue(self.text.len())
    }

    /// Adds a normalised character to the word, or ends the word and visits the character alone.
    fn push(
        &mut self,
        word: &mut Word,
        class: Class,
        c: char,
        combining_class: u8,
        origin: Range<usize>,
    ) -> ControlFlow<()> {
        if class == Class::Word {
            word.push(c, combining_class, origin);
            return ControlFlow::Continue(());
        }
        self.flush(word)?;
        word.push(c, 0, origin);
        self.flush(word)
    }

    /// Visits the pieces of `word` and empties it.
    fn flush(&mut self, word: &mut Word) -> ControlFlow<()> {
        if word.is_empty() {
            word.clear();
            return ControlFlow::Continue(());
        }
        let range = word.origin();
        let flow = match word.normalized() {
            None => self.unknown(range),
            Some(text) => {
                let vocabulary = &self.tokenizer.vocabulary;
                let (mut count, mut at, mut root) = (0, 0, vocabulary.start);
                while at < text.len() {
                    let Some((id, length)) = vocabulary.longest(root, text[at..].iter().copied()) else { break };
                    at += length;
                    self.pieces[count] = (id, at);
                    count += 1;
                    root = vocabulary.continuation;
                }
                if at < text.len() { self.unknown(range) } else { self.visit_pieces(word, count) }
            }
        };
        word.clear();
        flow
    }

    fn visit_pieces(&mut self, word: &Word, count: usize) -> ControlFlow<()> {
        let (mut first, mut at) = (0, 0);
        for &(id, end) in &self.pieces[..count] {
            let (origin, next) = word.piece(first, end - at);
            (self.visit)(Token { id, start: origin.start, end: origin.end })?;
            (first, at) = (next, end);
        }
        ControlFlow::Continue(())
    }

    fn unknown(&mut self, range: Range<usize>) -> ControlFlow<()> {
        (self.visit)(Token { id: self.tokenizer.unk_id, start: range.start, end: range.end })
    }
}
