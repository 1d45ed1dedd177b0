use core::fmt;

use sha2::{Digest, Sha256};

use super::Engine;

/// How far the weights in memory have been checked; see [`Engine::scrub`].
#[derive(Clone, Debug, Default)]
pub struct Scrub {
    pass: Option<Pass>,
    passes: u64,
}

/// One pass over the weights.
#[derive(Clone)]
struct Pass {
    expected: [u8; 32],
    hasher: Sha256,
    at: usize,
}

/// What one call has checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Scrubbed {
    /// Bytes of this pass that have been read.
    pub at: usize,
    /// Bytes of a pass.
    pub total: usize,
    /// Whole passes since [`Scrub::new`], all of them without damage.
    pub passes: u64,
}

impl Engine {
    /// Reads the next `max_bytes` (at least one) of the weights where they lie in memory. At the end of a pass their
    /// SHA-256 must be right: for a stored program the one that the bundle's section table has, otherwise that of the
    /// weights as the engine was built. A bit that has flipped since is found at the end of the pass that reads it.
    ///
    /// Call it between texts with as many bytes as there is time for. It neither allocates nor calls the system.
    ///
    /// # Errors
    ///
    /// [`ScrubError::Damaged`]: drop the labeler and open the bundle again. [`ScrubError::Unreadable`] when tract holds the
    /// weights.
    pub fn scrub(&self, scrub: &mut Scrub, max_bytes: usize) -> Result<Scrubbed, ScrubError> {
        let (Some(program), Some(reference)) = (self.program(), &self.reference) else {
            return Err(ScrubError::Unreadable);
        };
        let weights = program.weights().bytes();
        // A pass over another engine's weights is given up.
        let begun = scrub.pass.take().filter(|pass| pass.expected == reference.digest && pass.at < weights.len());
        let mut pass =
            begun.unwrap_or_else(|| Pass { expected: reference.digest, hasher: reference.before.clone(), at: 0 });
        let rest = weights.get(pass.at..).unwrap_or_default();
        let bytes = rest.get(..max_bytes.max(1)).unwrap_or(rest);
        pass.hasher.update(bytes);
        pass.at += bytes.len();
        let (at, total) = (pass.at, weights.len());
        if at < total {
            scrub.pass = Some(pass);
        } else {
            if <[u8; 32]>::from(pass.hasher.finalize()) != reference.digest {
                return Err(ScrubError::Damaged);
            }
            scrub.passes += 1;
        }
        Ok(Scrubbed { at, total, passes: scrub.passes })
    }
}

impl Scrub {
    /// Nothing has been checked yet.
    pub fn new() -> Self {
        Self::default()
    }
}

/// Shows how far it is.
impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pass").field("at", &self.at).finish_non_exhaustive()
    }
}

/// Weights are not what they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScrubError {
    /// The weights in memory have changed.
    Damaged,
    /// tract holds the weights in a form of its own.
    Unreadable,
}

impl fmt::Display for ScrubError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Damaged => {
                "the model's weights have changed in memory; stop labelling and open the bundle again, and if it happens \
                 again replace the device"
            }
            Self::Unreadable => "tract holds the weights, which cannot be checked there; pack the bundle with a program",
        })
    }
}

impl core::error::Error for ScrubError {}

/// What weights must be.
pub(crate) struct Reference {
    /// Has read what the digest covers before the weights.
    before: Sha256,
    digest: [u8; 32],
}

impl Reference {
    /// Of the bytes `before` the weights, and the digest of both.
    pub(crate) fn new(before: &[u8], digest: [u8; 32]) -> Self {
        Self { before: Sha256::new_with_prefix(before), digest }
    }

    pub(super) fn of_weights(weights: &[u8]) -> Self {
        Self::new(&[], Sha256::digest(weights).into())
    }
}
