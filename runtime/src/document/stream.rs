use core::ops::Range;

use crate::labeler::LabelError;
use crate::list::{List, Memory};
use crate::text::{Sentences, is_space, is_undecided};

/// Longest sentence, in bytes; a longer one is split.
pub(super) const MAX_SENTENCE_BYTES: usize = 8 << 10;

/// Bytes of text that are held until their sentences are certain.
pub(super) const CAPACITY: usize = 32 << 10;

/// What follows a sentence must have this many bytes, beside white space and what opens, to say that it ends there: the rules
/// look at 40 characters at most.
const LOOK_AHEAD: usize = 256;

/// Makes sentences of bytes that come in pieces.
///
/// It looks for sentences only when it is full and at the end of the text, so they depend on the text and not on its pieces.
pub(super) struct Stream<'m> {
    bytes: List<'m, u8>,
    /// Where in the text the bytes begin.
    offset: usize,
    /// Bytes of the line that are in front of them.
    line_before: usize,
}

/// A sentence, or a part of one that is too long.
pub(super) struct Piece<'t> {
    pub(super) text: &'t str,
    /// Where in the whole text it begins.
    pub(super) offset: usize,
    /// Whether the sentence goes on behind it.
    pub(super) split: bool,
}

impl<'m> Stream<'m> {
    /// In memory of [`CAPACITY`] bytes.
    pub(super) fn new(memory: Memory<'m, u8>) -> Self {
        Self { bytes: List::new(memory), offset: 0, line_before: 0 }
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.offset = 0;
        self.line_before = 0;
    }

    /// Forgets all, and overwrites the bytes.
    pub(super) fn zeroize(&mut self) {
        self.bytes.zeroize();
        self.clear();
    }

    /// Takes bytes until it is full, and says how many.
    pub(super) fn fill(&mut self, chunk: &[u8]) -> usize {
        self.bytes.extend(chunk)
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.is_full()
    }

    /// Hands out and forgets the sentences that are certain: all of them when the text ends here.
    ///
    /// Of a stream that is full twice in a row it takes 20 KiB at least once, so the work is linear in the text.
    pub(super) fn sentences(
        &mut self,
        end_of_text: bool,
        mut visit: impl FnMut(Piece<'_>) -> Result<(), LabelError>,
    ) -> Result<(), LabelError> {
        let text = match str::from_utf8(&self.bytes) {
            Ok(text) => text,
            // A character that has not come to its end.
            Err(error) if error.error_len().is_none() && !end_of_text => {
                str::from_utf8(&self.bytes[..error.valid_up_to()]).unwrap_or_default()
            }
            Err(error) => return Err(LabelError::InvalidUtf8 { byte: self.offset + error.valid_up_to() }),
        };
        let mut sentences = Sentences::after(text, self.line_before);
        let (used, line_before) = loop {
            let (start, line_before) = sentences.skip_space();
            let Some(range) = sentences.next() else { break (start, line_before) };
            let split = split(text, &range);
            if let Some(at) = split {
                sentences.cut(at);
            }
            let open = || text[sentences.position()..].trim_start_matches(is_undecided).len() < LOOK_AHEAD;
            // A short sentence at the begin of a full stream has more than 20 KiB of white space or quotes behind it.
            if split.is_none() && !end_of_text && start > 0 && open() {
                break (start, line_before);
            }
            let piece = text[range.start..sentences.position()].trim_end_matches(is_space);
            visit(Piece { text: piece, offset: self.offset + range.start, split: split.is_some() })?;
        };
        self.bytes.remove(0..used);
        self.offset += used;
        self.line_before = line_before;
        Ok(())
    }
}

/// Where a sentence that is too long is split: behind its last white space that is near enough, otherwise anywhere.
fn split(text: &str, sentence: &Range<usize>) -> Option<usize> {
    if sentence.len() <= MAX_SENTENCE_BYTES {
        return None;
    }
    let end = text.floor_char_boundary(sentence.start + MAX_SENTENCE_BYTES);
    let space = text[sentence.start..end].char_indices().rev().find(|&(_, c)| is_space(c));
    Some(space.map_or(end, |(at, c)| sentence.start + at + c.len_utf8()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The sentences of a text that comes in chunks of these lengths, over and over.
    fn pieces(text: &[u8], lengths: &[usize]) -> Result<Vec<(Range<usize>, bool)>, LabelError> {
        let mut stream = Stream::new(Memory::owned(CAPACITY));
        let mut found = Vec::new();
        let mut visit = |piece: Piece<'_>| {
            assert!(!piece.text.is_empty() && text[piece.offset..].starts_with(piece.text.as_bytes()));
            found.push((piece.offset..piece.offset + piece.text.len(), piece.split));
            Ok(())
        };
        let (mut rest, mut lengths) = (text, lengths.iter().cycle());
        while !rest.is_empty() {
            let (mut chunk, after) = rest.split_at((*lengths.next().unwrap()).min(rest.len()));
            rest = after;
            while !chunk.is_empty() {
                chunk = &chunk[stream.fill(chunk)..];
                if stream.is_full() {
                    stream.sentences(false, &mut visit)?;
                    assert!(!stream.is_full());
                }
            }
        }
        stream.sentences(true, visit)?;
        Ok(found)
    }

    fn whole(text: &str) -> Vec<(Range<usize>, bool)> {
        Sentences::new(text).map(|range| (range, false)).collect()
    }

    /// Notes with everything that the splitter treats apart, as long as several streams.
    fn notes(words: &[&str]) -> String {
        let mut text = String::new();
        while text.len() < 5 * CAPACITY {
            words.iter().for_each(|word| text.push_str(word));
        }
        text
    }

    const PARTS: [&str; 16] = [
        "The cells divided. ",
        "no vessel grew",
        "Dr. Smith gave 3.5 mg. ",
        "\n\n",
        "PLAN: rest\n",
        "\r\n",
        "1. Aspirin\n",
        " caf\u{e9} ",
        "\u{4e2d}\u{6587}\u{3002}",
        "\"Quoted?\" ",
        "            ",
        "(p < 0.05). ",
        "Short line\n",
        "\u{201c}",
        "p53 was low in a long line that goes on for more than fifty bytes\n",
        "! ",
    ];

    #[test]
    fn a_long_note_has_the_sentences_of_the_splitter() {
        let text = notes(&PARTS);
        assert_eq!(pieces(text.as_bytes(), &[usize::MAX]).unwrap(), whole(&text));
    }

    #[test]
    fn white_space_without_end_is_passed_over() {
        let text = format!("One. {}two{}Three.", " ".repeat(3 * CAPACITY), "\n".repeat(2 * CAPACITY));
        let found = pieces(text.as_bytes(), &[1000]).unwrap();
        let words: Vec<&str> = found.iter().map(|(range, _)| &text[range.clone()]).collect();
        assert_eq!(words, ["One.", "two", "Three."]);
    }

    #[test]
    fn a_sentence_without_end_is_split_between_words() {
        let text = "word ".repeat(20_000);
        let found = pieces(text.as_bytes(), &[77]).unwrap();
        assert!(found.len() > 10 && found[..found.len() - 1].iter().all(|(_, split)| *split));
        assert!(found.iter().all(|(range, _)| range.len() <= MAX_SENTENCE_BYTES));
        assert!(found.iter().all(|(range, _)| range.start % 5 == 0 && range.end % 5 == 4));
        let nothing_between: usize = found.iter().map(|(range, _)| range.len() + 1).sum();
        assert_eq!(nothing_between, text.len());
        // Without white space it is split between characters.
        let text = "\u{4e2d}".repeat(20_000);
        let found = pieces(text.as_bytes(), &[5]).unwrap();
        assert_eq!(found.iter().map(|(range, _)| range.len()).sum::<usize>(), text.len());
        assert!(found.iter().all(|(range, _)| text.get(range.clone()).is_some()));
    }

    #[test]
    fn bytes_that_are_no_text_are_refused_where_they_are() {
        for (text, byte) in [(&b"abc\xff"[..], 3), (b"caf\xc3", 3), (b"\x80", 0), (b"a \xed\xa0\x80 b", 2)] {
            assert_eq!(pieces(text, &[1]), Err(LabelError::InvalidUtf8 { byte }));
        }
        let mut long = "word. ".repeat(20_000).into_bytes();
        long[100_001] = 0xFE;
        assert_eq!(pieces(&long, &[4096]), Err(LabelError::InvalidUtf8 { byte: 100_001 }));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
        #[test]
        fn chunks_do_not_matter(
            order in prop::collection::vec(0..PARTS.len(), 40..400),
            lengths in prop::collection::vec(1_usize..9000, 1..9),
        ) {
            let parts: Vec<&str> = order.iter().map(|&part| PARTS[part]).collect();
            let text = notes(&parts);
            let found = pieces(text.as_bytes(), &lengths).unwrap();
            prop_assert_eq!(&found, &pieces(text.as_bytes(), &[usize::MAX]).unwrap());
            if found.iter().all(|(_, split)| !split) {
                prop_assert_eq!(found, whole(&text));
            }
        }

        #[test]
        fn any_unicode_keeps_its_words(text in "\\PC{0,3000}", length in 1_usize..40) {
            prop_assert_eq!(pieces(text.as_bytes(), &[length]).unwrap(), whole(&text));
        }
    }
}
