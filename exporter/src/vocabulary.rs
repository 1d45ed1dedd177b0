//! Prunes a student's vocabulary to what its texts need.

use std::fmt;

use kdh_runtime::text::VocabularyError;

use crate::encode::TextEncoder;
use crate::student::Student;

/// Keeps `size` tokens of the student's vocabulary, and the word embeddings that belong to them.
///
/// Kept are all special tokens, every single character and `##character` (so that any word of known characters can
/// still be spelled), then the tokens that occur in `texts`, the most frequent first, then what is left in the
/// vocabulary's own order. The kept tokens stay in their order. A text whose tokens are all kept is tokenised as
/// before, because WordPiece takes the longest match and no token is added.
///
/// # Errors
/// When `size` is smaller than the tokens that are always kept, or larger than the vocabulary.
pub fn prune<'t>(
    student: &mut Student,
    size: usize,
    texts: impl IntoIterator<Item = &'t str>,
) -> Result<Pruned, PruneError> {
    let from = student.vocabulary.len();
    if size > from {
        return Err(PruneError::TooLarge { size, vocabulary: from });
    }
    let encoder = TextEncoder::new(student).map_err(PruneError::Vocabulary)?;
    let mut counts = vec![0u64; from];
    for text in texts {
        encoder.for_each_token(text, |id| counts[id as usize] += 1);
    }

    let always: Vec<bool> = student.vocabulary.iter().map(|token| is_always_kept(student, token)).collect();
    let fixed = always.iter().filter(|&&kept| kept).count();
    if size < fixed {
        return Err(PruneError::TooSmall { size, fixed });
    }
    let mut order: Vec<usize> = (0..from).collect();
    // Stable: tokens of equal count, the unseen ones among them, stay in the vocabulary's order.
    order.sort_by_key(|&id| (!always[id], std::cmp::Reverse(counts[id])));
    let dropped_seen = order[size..].iter().filter(|&&id| counts[id] > 0).count();
    let mut kept = order;
    kept.truncate(size);
    kept.sort_unstable();

    let columns = student.encoder.words.columns;
    let words = &mut student.encoder.words;
    words.values = kept.iter().flat_map(|&id| &words.values[id * columns..][..columns]).copied().collect();
    words.rows = size;
    student.vocabulary = kept.iter().map(|&id| std::mem::take(&mut student.vocabulary[id])).collect();
    Ok(Pruned { from, to: size, always: fixed, dropped_seen })
}

/// What pruning did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// Tokens before.
    pub from: usize,
    /// Tokens after.
    pub to: usize,
    /// Special tokens and single characters among them.
    pub always: usize,
    /// Tokens that occur in the texts and found no room.
    pub dropped_seen: usize,
}

/// Why a vocabulary cannot be pruned.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PruneError {
    /// Fewer tokens are asked for than must be kept.
    TooSmall {
        /// Tokens asked for.
        size: usize,
        /// Special tokens and single characters.
        fixed: usize,
    },
    /// More tokens are asked for than there are.
    TooLarge {
        /// Tokens asked for.
        size: usize,
        /// Tokens in the vocabulary.
        vocabulary: usize,
    },
    /// The runtime refuses the vocabulary.
    Vocabulary(VocabularyError),
}

impl fmt::Display for PruneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall { size, fixed } => write!(
                f,
                "a vocabulary of {size} tokens has no room for the {fixed} special tokens and single characters, which \
                 are always kept; ask for more"
            ),
            Self::TooLarge { size, vocabulary } => {
                write!(f, "the vocabulary has {vocabulary} tokens, fewer than the {size} asked for")
            }
            Self::Vocabulary(error) => write!(f, "vocab.txt: {error}"),
        }
    }
}

impl std::error::Error for PruneError {}

fn is_always_kept(student: &Student, token: &str) -> bool {
    let special = &student.card.tokenizer;
    let bracketed = |open: char, close: char| token.len() > 2 && token.starts_with(open) && token.ends_with(close);
    let one = |text: &str| text.chars().count() == 1;
    [&special.cls, &special.sep, &special.unk].into_iter().any(|special| special == token)
        || (bracketed('[', ']') && !token.starts_with("[unused"))
        || bracketed('<', '>')
        || one(token)
        || token.strip_prefix("##").is_some_and(one)
}
