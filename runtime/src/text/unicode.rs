//! What the BERT normaliser and pre-tokeniser do with one character.
//!
//! The tables pin one Unicode version in this crate: `tokenizers` mixes those of three crates and of the Rust release
//! that compiles it, and a text must give the same tokens in training and on a box, whatever compiled either. They are
//! generated from `tokenizers` itself, so they keep its quirks:
//!
//! - punctuation, marks and format characters are those of Unicode 8, decompositions those of Unicode 9;
//! - control characters that are also white space, such as form feed and U+0085, vanish instead of splitting words;
//! - the CJK block U+2B820..U+2CEAF is only handled from U+2B920 on.

mod tables;

/// What a character is to the word splitter, before NFD.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Class {
    /// Part of a word.
    Word,
    /// A word of its own.
    Punctuation,
    /// Separates words.
    Space,
    /// Removed before anything else looks at the text.
    Drop,
    /// An ideograph: a word of its own, with spaces around it.
    Cjk,
}

/// What NFD, the strip of marks and the lower-casing make of a character.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Action {
    /// Nothing.
    Keep,
    /// A mark, removed.
    Strip,
    /// A mark of combining class 0, removed; like any starter it bounds the canonical ordering.
    StripStarter,
    /// A syllable that decomposes into jamo.
    Hangul,
    /// Stays, and takes part in the canonical ordering.
    Nonstarter,
}

/// The table's answer for one character.
#[derive(Clone, Copy)]
pub(super) struct Entry(u16);

impl Entry {
    #[inline]
    pub(super) fn of(c: char) -> Self {
        let code = c as u32;
        match TABLE.index.get((code >> BLOCK_BITS) as usize) {
            Some(&block) => Self(TABLE.blocks[usize::from(block)][(code & (BLOCK - 1)) as usize]),
            None => Self::beyond_table(code),
        }
    }

    #[inline]
    pub(super) fn class(self) -> Class {
        match self.0 & CLASS_MASK {
            0 => Class::Word,
            1 => Class::Punctuation,
            2 => Class::Space,
            3 => Class::Drop,
            _ => Class::Cjk,
        }
    }

    /// What becomes of `c`, whose entry this is, in lower-cased text.
    #[inline]
    pub(super) fn fold(self, c: char) -> Fold {
        const KEEP: u16 = Action::Keep as u16;
        const STRIP: u16 = Action::Strip as u16;
        const STRIP_STARTER: u16 = Action::StripStarter as u16;
        const HANGUL: u16 = Action::Hangul as u16;
        const NONSTARTER: u16 = Action::Nonstarter as u16;
        match self.0 >> CLASS_BITS {
            KEEP => Fold::One(c),
            STRIP => Fold::Strip { starter: false },
            STRIP_STARTER => Fold::Strip { starter: true },
            HANGUL => Fold::hangul(c),
            NONSTARTER => Fold::Nonstarter(c, combining_class(c)),
            other => {
                let at = usize::from(other) - FIRST_MAPPED;
                match tables::MAPPED.get(at) {
                    Some(&(_, to)) => Fold::One(to),
                    None => Fold::Many(tables::SEQUENCES[at - tables::MAPPED.len()].1),
                }
            }
        }
    }

    const fn beyond_table(code: u32) -> Self {
        match code {
            // Tags; planes 15 and 16 are private use.
            0xE_0001 | 0xE_0020..=0xE_007F | 0xF_0000..=0xF_FFFD | 0x10_0000..=0x10_FFFD => Self(Class::Drop as u16),
            // Variation selectors.
            0xE_0100..=0xE_01EF => Self((Action::StripStarter as u16) << CLASS_BITS),
            _ => Self(0),
        }
    }
}

/// What a character becomes in lower-cased text.
pub(super) enum Fold {
    /// One starter.
    One(char),
    /// Several characters; each is a starter or has an [`Entry`] that says otherwise.
    Many(&'static [char]),
    /// The first `usize` of three jamo.
    Jamo([char; 3], usize),
    /// Nothing.
    Strip {
        /// Whether it bounds the canonical ordering.
        starter: bool,
    },
    /// Itself, ordered by its combining class.
    Nonstarter(char, u8),
}

impl Fold {
    /// The Unicode Standard, section 3.12, "Hangul Syllable Decomposition".
    fn hangul(syllable: char) -> Self {
        let index = (syllable as u32).wrapping_sub(0xAC00);
        let jamo = |base: u32, offset: u32| char::from_u32(base + offset).unwrap_or(syllable);
        let trailing = index % 28;
        Self::Jamo(
            [jamo(0x1100, index / 588), jamo(0x1161, index % 588 / 28), jamo(0x11A7, trailing)],
            if trailing == 0 { 2 } else { 3 },
        )
    }
}

fn combining_class(c: char) -> u8 {
    match tables::NONSTARTERS.binary_search_by_key(&(c as u32), |&(code, _)| code) {
        Ok(found) => tables::NONSTARTERS[found].1,
        Err(_) => 0,
    }
}

const CLASS_BITS: u32 = 3;
const CLASS_MASK: u16 = (1 << CLASS_BITS) - 1;
const FIRST_MAPPED: usize = Action::Nonstarter as usize + 1;
const FIRST_SEQUENCE: usize = FIRST_MAPPED + tables::MAPPED.len();

const BLOCK_BITS: u32 = 7;
const BLOCK: u32 = 1 << BLOCK_BITS;
/// First code point past the table.
const END: u32 = 0x2_FA80;

/// A two-stage table: most of Unicode shares a few uniform blocks.
struct Table {
    index: [u8; (END >> BLOCK_BITS) as usize],
    blocks: [[u16; BLOCK as usize]; BLOCKS],
}

/// Distinct blocks, which `Table::build` checks.
const BLOCKS: usize = 158;

static TABLE: Table = Table::build();

impl Table {
    const fn build() -> Self {
        let values = values();
        let mut table = Self { index: [0; (END >> BLOCK_BITS) as usize], blocks: [[0; BLOCK as usize]; BLOCKS] };
        // Value of a uniform block and the block.
        let mut uniform = [(0, 0); 16];
        let mut uniform_len = 0;
        let mut blocks = 0;
        let mut number = 0;
        while number < table.index.len() {
            let start = number << BLOCK_BITS;
            let first = values[start];
            let mut same = 1;
            while same < BLOCK as usize && values[start + same] == first {
                same += 1;
            }
            let mut known = 0;
            while known < uniform_len && uniform[known].0 != first {
                known += 1;
            }
            if same == BLOCK as usize && known < uniform_len {
                table.index[number] = uniform[known].1;
            } else {
                if same == BLOCK as usize {
                    uniform[uniform_len] = (first, blocks as u8);
                    uniform_len += 1;
                }
                let mut offset = 0;
                while offset < BLOCK as usize {
                    table.blocks[blocks][offset] = values[start + offset];
                    offset += 1;
                }
                table.index[number] = blocks as u8;
                blocks += 1;
            }
            number += 1;
        }
        assert!(blocks == BLOCKS, "BLOCKS is the number of distinct blocks");
        table
    }
}

const fn values() -> [u16; END as usize] {
    let mut values = [0; END as usize];
    let mut at = 0;
    while at < tables::CLASSES.len() {
        let (start, end, class) = tables::CLASSES[at];
        let mut code = start;
        while code <= end {
            values[code as usize] = class as u16;
            code += 1;
        }
        at += 1;
    }
    let mut at = 0;
    while at < tables::ACTIONS.len() {
        let (start, end, action) = tables::ACTIONS[at];
        let mut code = start;
        while code <= end {
            values[code as usize] |= (action as u16) << CLASS_BITS;
            code += 1;
        }
        at += 1;
    }
    let mut at = 0;
    while at < tables::NONSTARTERS.len() {
        values[tables::NONSTARTERS[at].0 as usize] |= (Action::Nonstarter as u16) << CLASS_BITS;
        at += 1;
    }
    let mut at = 0;
    while at < tables::MAPPED.len() {
        values[tables::MAPPED[at].0 as usize] |= ((FIRST_MAPPED + at) as u16) << CLASS_BITS;
        at += 1;
    }
    let mut at = 0;
    while at < tables::SEQUENCES.len() {
        values[tables::SEQUENCES[at].0 as usize] |= ((FIRST_SEQUENCE + at) as u16) << CLASS_BITS;
        at += 1;
    }
    values
}
