use core::fmt;

use super::trie::{Node, Trie};

/// Most tokens of a vocabulary.
const MAX_TOKENS: usize = 1 << 20;
/// Longest token, in bytes.
const MAX_TOKEN_BYTES: usize = 200;
/// Longest vocabulary file, in bytes: it bounds the trie.
const MAX_BYTES: usize = 16 << 20;
/// What marks a piece that continues a word.
const CONTINUATION: &[u8] = b"##";

/// The tokens of a `vocab.txt`, for longest-match search.
pub(super) struct Vocabulary {
    len: usize,
    trie: Trie,
    /// Where pieces that start a word begin in the trie.
    pub(super) start: Node,
    /// Where pieces that continue a word begin, without their `##`.
    pub(super) continuation: Node,
}

impl Vocabulary {
    pub(super) fn new(lines: &[u8]) -> Result<Self, VocabularyError> {
        if lines.len() > MAX_BYTES {
            return Err(VocabularyError::TooLarge);
        }
        let lines = lines.strip_suffix(b"\n").unwrap_or(lines);
        let (mut start, mut continuation) = (Vec::new(), Vec::new());
        let tokens = lines.split(|&byte| byte == b'\n').take(MAX_TOKENS);
        let continuations = tokens.clone().filter(|line| line.starts_with(CONTINUATION)).count();
        start.try_reserve_exact(tokens.count() - continuations).map_err(|_| VocabularyError::OutOfMemory)?;
        continuation.try_reserve_exact(continuations).map_err(|_| VocabularyError::OutOfMemory)?;
        let mut len = 0;
        for (index, line) in lines.split(|&byte| byte == b'\n').enumerate() {
            if index >= MAX_TOKENS {
                return Err(VocabularyError::TooManyTokens);
            }
            let line_number = index + 1;
            let line = core::str::from_utf8(line).map_err(|_| VocabularyError::NotUtf8 { line: line_number })?;
            let token = line.trim_end().as_bytes();
            if token.len() > MAX_TOKEN_BYTES {
                return Err(VocabularyError::TokenTooLong { line: line_number });
            }
            match token.strip_prefix(CONTINUATION) {
                Some(piece) => continuation.push((piece, index as u32)),
                None => start.push((token, index as u32)),
            }
            len = index + 1;
        }
        let mut roots = [Node::default(); 2];
        let trie = Trie::new([&mut start, &mut continuation], &mut roots).map_err(|_| VocabularyError::OutOfMemory)?;
        Ok(Self { len, trie, start: roots[0], continuation: roots[1] })
    }

    /// Number of lines; every id is below it.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The id of `token`, which starts a word.
    pub(super) fn id(&self, token: &str) -> Option<u32> {
        let (id, length) = self.longest(self.start, token.bytes())?;
        (length == token.len()).then_some(id)
    }

    /// The longest token below `root` that is a prefix of `bytes`: its id and its length in bytes.
    #[inline]
    pub(super) fn longest(&self, root: Node, bytes: impl Iterator<Item = u8>) -> Option<(u32, usize)> {
        self.trie.longest(root, bytes)
    }

    /// Heap bytes held.
    pub(super) fn memory(&self) -> usize {
        self.trie.memory()
    }
}

/// Why a vocabulary cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum VocabularyError {
    /// The file is longer than 16 MiB.
    TooLarge,
    /// The file has more than 1,048,576 lines.
    TooManyTokens,
    /// The system does not give the memory.
    OutOfMemory,
    /// A line is not UTF-8.
    NotUtf8 {
        /// Its number, counted from 1.
        line: usize,
    },
    /// A token is longer than 200 bytes.
    TokenTooLong {
        /// Its line, counted from 1.
        line: usize,
    },
    /// The token of [`TokenizerOptions::cls`](super::TokenizerOptions::cls) is not in the vocabulary.
    MissingCls,
    /// The token of [`TokenizerOptions::sep`](super::TokenizerOptions::sep) is not in the vocabulary.
    MissingSep,
    /// The token of [`TokenizerOptions::unk`](super::TokenizerOptions::unk) is not in the vocabulary.
    MissingUnk,
}

impl fmt::Display for VocabularyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => {
                write!(f, "the vocabulary is longer than 16 MiB: is it a vocab.txt with one token a line?")
            }
            Self::TooManyTokens => write!(f, "the vocabulary has more than {MAX_TOKENS} lines: prune it"),
            Self::OutOfMemory => write!(f, "the system does not give the memory: free some, or prune the vocabulary"),
            Self::NotUtf8 { line } => {
                write!(f, "line {line} of the vocabulary is not UTF-8: is it a vocab.txt with one token a line?")
            }
            Self::TokenTooLong { line } => write!(
                f,
                "the token on line {line} of the vocabulary is longer than {MAX_TOKEN_BYTES} bytes: \
                 is it a vocab.txt with one token a line?"
            ),
            Self::MissingCls => missing(f, "classification", "cls"),
            Self::MissingSep => missing(f, "separator", "sep"),
            Self::MissingUnk => missing(f, "unknown", "unk"),
        }
    }
}

fn missing(f: &mut fmt::Formatter<'_>, what: &str, option: &str) -> fmt::Result {
    write!(f, "the vocabulary lacks the {what} token: name one of its lines in the tokenizer option `{option}`")
}

impl core::error::Error for VocabularyError {}
