use core::fmt;

use kdh_format::{Bundle, GoldenError, ManifestError};

use crate::labeler::{LabelError, Labeler, Overflow};
use crate::text::Sentences;

/// What [`Labeler::self_test`] found: the machine computes what the exporter's machine computed.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct SelfTest {
    /// Golden texts labelled.
    pub texts: usize,
    /// Largest absolute difference of a document logit.
    pub max_difference: f32,
    /// The difference that is allowed: 0 when `exact`, otherwise what the bundle says.
    pub tolerance: f32,
    /// The exporter recorded the logits in the arithmetic that runs here, so every bit must be the same.
    pub exact: bool,
}

/// Version of the arithmetic of programs on the arena: raised when the same program gives other bits. All kernels give the
/// same.
pub const ARITHMETIC: u32 = 1;

impl Labeler {
    /// Labels the golden texts of `bundle`, which the labeler was built from, and compares what comes out with what the
    /// exporter recorded: tokens, sentences and document logits.
    ///
    /// Logits that were recorded on the arena must come out bit by bit on the arena, whatever its kernels; on tract, or when
    /// another engine recorded them, within the bundle's tolerance. [`LabelerOptions::self_test`](crate::LabelerOptions::self_test)
    /// makes this a part of building a labeler.
    ///
    /// # Errors
    ///
    /// [`SelfTestError`] names the first text that differs.
    pub fn self_test(&self, bundle: &Bundle<'_>) -> Result<SelfTest, SelfTestError> {
        let manifest = bundle.manifest().map_err(SelfTestError::Manifest)?;
        let golden = bundle.golden(&manifest).map_err(SelfTestError::Golden)?;
        let exact = self.engine().program().is_some() && golden.arithmetic() == Some(ARITHMETIC);
        let tolerance = if exact { 0.0 } else { golden.tolerance() };
        let mut scratch = self.scratch();
        let mut max_difference = 0_f32;
        for (text, case) in golden.cases().enumerate() {
            let failed = |error| SelfTestError::Label { text, error };
            self.encode(&mut scratch, case.text, Sentences::new(case.text), Overflow::Truncate).map_err(failed)?;
            let counts = [scratch.encoding.ids().len(), scratch.encoding.sentences().len()];
            if counts != [case.tokens as usize, case.sentences as usize] {
                return Err(SelfTestError::Tokens { text });
            }
            self.run(&mut scratch).map_err(failed)?;
            let logits = scratch.engine.logits().document;
            let difference = logits.iter().zip(&case.logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let same_bits = || logits.iter().zip(&case.logits).all(|(a, b)| a.to_bits() == b.to_bits());
            if logits.len() != case.logits.len() || difference > tolerance || exact && !same_bits() {
                return Err(SelfTestError::Logits { text, difference, tolerance });
            }
            max_difference = max_difference.max(difference);
        }
        Ok(SelfTest { texts: golden.cases().len(), max_difference, tolerance, exact })
    }
}

/// The machine does not compute what the exporter computed.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum SelfTestError {
    /// The manifest cannot be read.
    Manifest(ManifestError),
    /// The golden texts cannot be read.
    Golden(GoldenError),
    /// A golden text gets no labels.
    Label {
        /// Position of the text, counted from 0.
        text: usize,
        /// Why.
        error: LabelError,
    },
    /// A golden text has other tokens or sentences.
    Tokens {
        /// Position of the text, counted from 0.
        text: usize,
    },
    /// A golden text has other logits.
    Logits {
        /// Position of the text, counted from 0.
        text: usize,
        /// Largest absolute difference of its logits.
        difference: f32,
        /// The difference that the bundle allows.
        tolerance: f32,
    },
}

impl fmt::Display for SelfTestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest(error) => error.fmt(f),
            Self::Golden(error) => error.fmt(f),
            Self::Label { text, error } => write!(f, "golden text {text}: {error}"),
            Self::Tokens { text } => write!(
                f,
                "golden text {text} has other tokens or sentences than the exporter recorded; export the bundle with \
                 this version of kdh"
            ),
            Self::Logits { text, difference, tolerance } => write!(
                f,
                "a logit of golden text {text} is {difference} away from what the exporter recorded, {tolerance} is \
                 allowed; do not use this bundle on this machine"
            ),
        }
    }
}

impl core::error::Error for SelfTestError {}
