use core::fmt;
use core::iter::FusedIterator;

use heapless::Vec;
use serde::{Deserialize, Serialize};

use crate::manifest::MAX_LABELS;

/// Most golden texts of a bundle.
pub const MAX_GOLDEN_CASES: u32 = 256;
/// Longest golden text, in bytes.
pub const MAX_GOLDEN_TEXT_LEN: usize = 64 << 10;

/// Logits of no particular arithmetic.
const VERSION_1: u32 = 1;
/// Says whose arithmetic gave the logits.
const VERSION_2: u32 = 2;

/// Texts whose logits the exporter recorded, so that a box can test itself against the exporter.
#[derive(Clone, Debug)]
pub struct Golden<'a> {
    arithmetic: Option<u32>,
    tolerance: f32,
    cases: GoldenCases<'a>,
}

/// One golden text and what the exporter computed of it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct GoldenCase<'a> {
    /// The text, written for this purpose.
    pub text: &'a str,
    /// Tokens that the encoder sees, special tokens included.
    pub tokens: u32,
    /// Sentences that own at least one of those tokens.
    pub sentences: u32,
    /// Document logits, one a label, finite.
    pub logits: Vec<f32, MAX_LABELS>,
}

impl<'a> Golden<'a> {
    /// Reads and checks a golden section, whose cases have `labels` logits each. Allocates nothing.
    ///
    /// # Errors
    ///
    /// The first [`GoldenError`].
    pub fn parse(bytes: &'a [u8], labels: usize) -> Result<Self, GoldenError> {
        let malformed = |_| GoldenError::Malformed;
        let (version, rest) = postcard::take_from_bytes::<u32>(bytes).map_err(malformed)?;
        let (arithmetic, rest) = match version {
            VERSION_1 => (None, rest),
            VERSION_2 => {
                let (arithmetic, rest) = postcard::take_from_bytes::<u32>(rest).map_err(malformed)?;
                (Some(arithmetic), rest)
            }
            found => return Err(GoldenError::UnsupportedVersion { found }),
        };
        let ((tolerance, count), rest) = postcard::take_from_bytes::<(f32, u32)>(rest).map_err(malformed)?;
        check_tolerance(tolerance)?;
        check_count(count)?;
        let mut unread = rest;
        for index in 0..count {
            let (case, rest) = postcard::take_from_bytes::<GoldenCase<'_>>(unread).map_err(malformed)?;
            check_case(index, &case, labels)?;
            unread = rest;
        }
        if !unread.is_empty() {
            return Err(GoldenError::TrailingBytes);
        }
        Ok(Self { arithmetic, tolerance, cases: GoldenCases { unread: rest, left: count } })
    }

    /// Version of the arithmetic that gave the recorded logits, which the same arithmetic must give again bit by bit; `None`
    /// when the section does not say.
    pub fn arithmetic(&self) -> Option<u32> {
        self.arithmetic
    }

    /// How far a document logit of the box may lie from the recorded one, as an absolute difference.
    pub fn tolerance(&self) -> f32 {
        self.tolerance
    }

    /// The cases, in order.
    pub fn cases(&self) -> GoldenCases<'a> {
        self.cases.clone()
    }

    /// The bytes of a golden section.
    #[cfg(feature = "alloc")]
    pub(crate) fn to_vec(
        arithmetic: Option<u32>,
        tolerance: f32,
        cases: &[GoldenCase<'_>],
        labels: usize,
    ) -> Result<alloc::vec::Vec<u8>, GoldenError> {
        check_tolerance(tolerance)?;
        let count = u32::try_from(cases.len()).unwrap_or(u32::MAX);
        check_count(count)?;
        let malformed = |_| GoldenError::Malformed;
        let mut bytes = match arithmetic {
            None => postcard::to_allocvec(&(VERSION_1, tolerance, count)),
            Some(arithmetic) => postcard::to_allocvec(&(VERSION_2, arithmetic, tolerance, count)),
        }
        .map_err(malformed)?;
        for (index, case) in (0..).zip(cases) {
            check_case(index, case, labels)?;
            bytes = postcard::to_extend(case, bytes).map_err(malformed)?;
        }
        Ok(bytes)
    }
}

/// Leaves out the text.
impl fmt::Debug for GoldenCase<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GoldenCase")
            .field("text_len", &self.text.len())
            .field("tokens", &self.tokens)
            .field("sentences", &self.sentences)
            .field("logits", &self.logits)
            .finish()
    }
}

/// Iterator over the cases of a [`Golden`].
#[derive(Clone)]
pub struct GoldenCases<'a> {
    unread: &'a [u8],
    left: u32,
}

impl<'a> Iterator for GoldenCases<'a> {
    type Item = GoldenCase<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        // `Golden::parse` has read every case once, so this does not fail.
        let (case, rest) = postcard::take_from_bytes(self.unread).ok()?;
        self.unread = rest;
        Some(case)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for GoldenCases<'_> {}
impl FusedIterator for GoldenCases<'_> {}

/// Shows how many cases are left.
impl fmt::Debug for GoldenCases<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GoldenCases").field("left", &self.left).finish_non_exhaustive()
    }
}

/// A golden section cannot be read, or says what makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GoldenError {
    /// The section has another version.
    UnsupportedVersion {
        /// What it says.
        found: u32,
    },
    /// Not postcard of this layout: cut off, not UTF-8, or more logits than [`MAX_LABELS`].
    Malformed,
    /// Bytes follow the last case.
    TrailingBytes,
    /// The tolerance is not a positive finite number.
    Tolerance,
    /// No case, or more than [`MAX_GOLDEN_CASES`].
    Count {
        /// What the section says.
        found: u32,
    },
    /// A text is longer than [`MAX_GOLDEN_TEXT_LEN`].
    TextTooLong {
        /// Position of the case, counted from 0.
        index: u32,
    },
    /// The logits of a case are not one a label, or not finite.
    Logits {
        /// Position of the case, counted from 0.
        index: u32,
    },
}

impl fmt::Display for GoldenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bundle's golden section ")?;
        match self {
            Self::UnsupportedVersion { found } => {
                write!(f, "has version {found}, this program reads versions 1 and 2; update the program")
            }
            Self::Malformed => f.write_str("cannot be read; pack the bundle again"),
            Self::TrailingBytes => f.write_str("has bytes behind its end; pack the bundle again"),
            Self::Tolerance => f.write_str("has a tolerance that is not a positive number"),
            Self::Count { found } => write!(f, "has {found} texts; 1 to {MAX_GOLDEN_CASES} are possible"),
            Self::TextTooLong { index } => {
                write!(f, "has a text (number {index}) of more than {MAX_GOLDEN_TEXT_LEN} bytes")
            }
            Self::Logits { index } => write!(f, "does not give text {index} one finite logit a label"),
        }
    }
}

impl core::error::Error for GoldenError {}

fn check_tolerance(tolerance: f32) -> Result<(), GoldenError> {
    if tolerance.is_finite() && tolerance > 0.0 { Ok(()) } else { Err(GoldenError::Tolerance) }
}

fn check_count(count: u32) -> Result<(), GoldenError> {
    if (1..=MAX_GOLDEN_CASES).contains(&count) { Ok(()) } else { Err(GoldenError::Count { found: count }) }
}

fn check_case(index: u32, case: &GoldenCase<'_>, labels: usize) -> Result<(), GoldenError> {
    if case.text.len() > MAX_GOLDEN_TEXT_LEN {
        return Err(GoldenError::TextTooLong { index });
    }
    if case.logits.len() != labels || case.logits.iter().any(|logit| !logit.is_finite()) {
        return Err(GoldenError::Logits { index });
    }
    Ok(())
}
