use core::fmt;

use sha2::{Digest, Sha256};

use super::{Engine, Runner};

/// How far the weights in memory have been checked; see [`Engine::scrub`].
#[derive(Clone, Debug, Default)]
pub struct Scrub {
    pass: Option<Pass>,
    passes: u64,
}

/// One pass over the weights and what was prepared of them.
#[derive(Clone)]
struct Pass {
    expected: [u8; 32],
    weights: Sha256,
    prepared: Sha256,
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
    /// weights as the engine was built. Behind the weights a pass reads what the kernels found of them when the engine was built
    /// (AVX2's: a hundredth more). A bit that has flipped since is found at the end of the pass that reads it.
    ///
    /// Call it between texts with as many bytes as there is time for. It neither allocates nor calls the system.
    ///
    /// # Errors
    ///
    /// [`ScrubError::Damaged`]: drop the labeler and open the bundle again. [`ScrubError::Unreadable`] when tract holds the
    /// weights.
    pub fn scrub(&self, scrub: &mut Scrub, max_bytes: usize) -> Result<Scrubbed, ScrubError> {
        let (arena, reference) = match (&self.runner, &self.reference) {
            (Runner::Arena(arena), Some(reference)) => (arena, reference),
            _ => return Err(ScrubError::Unreadable),
        };
        let (weights, prepared) = (arena.program().weights().bytes(), arena.prepared().bytes());
        let total = weights.len() + prepared.len();
        // A pass over another engine's weights is given up.
        let begun = scrub.pass.take().filter(|pass| pass.expected == reference.digest && pass.at < total);
        let mut pass = begun.unwrap_or_else(|| Pass {
            expected: reference.digest,
            weights: reference.before.clone(),
            prepared: Sha256::new(),
            at: 0,
        });
        let at = total.min(pass.at.saturating_add(max_bytes.max(1)));
        let part = |of: &[u8], offset: usize| {
            let [from, to] = [pass.at, at].map(|at| at.saturating_sub(offset).min(of.len()));
            from..to
        };
        let (of_weights, of_prepared) = (part(weights, 0), part(prepared, weights.len()));
        pass.weights.update(weights.get(of_weights).unwrap_or_default());
        pass.prepared.update(prepared.get(of_prepared).unwrap_or_default());
        pass.at = at;
        if at < total {
            scrub.pass = Some(pass);
        } else {
            let found = [pass.weights, pass.prepared].map(|hasher| <[u8; 32]>::from(hasher.finalize()));
            if found != [reference.digest, reference.prepared] {
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
    /// The weights in memory have changed, or what the kernels found of them.
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
    /// Of what was prepared.
    prepared: [u8; 32],
}

impl Reference {
    /// Of the bytes `before` the weights, and the digest of both.
    pub(crate) fn new(before: &[u8], digest: [u8; 32]) -> Self {
        Self { before: Sha256::new_with_prefix(before), digest, prepared: digest_of(&[]) }
    }

    pub(super) fn of_weights(weights: &[u8]) -> Self {
        Self::new(&[], digest_of(weights))
    }

    /// With the digest of what the kernels found of the weights.
    pub(super) fn with_prepared(self, prepared: &[u8]) -> Self {
        Self { prepared: digest_of(prepared), ..self }
    }
}

fn digest_of(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Scrub, ScrubError};
    use crate::engine::{Engine, Runner, Shape};
    use crate::kernels::Kernels;
    use crate::program::{Document, Epilogue, Program, ProgramBuilder};

    /// A linear layer of int8 between an embedding and a head.
    fn program() -> Program {
        let shape = Shape { labels: 1, max_sentences: 1, max_tokens: 4, vocabulary: 2 };
        let mut builder = ProgramBuilder::new(shape);
        let words = builder.table_i8(2, 16, &[3; 32], &[0.5; 2]).unwrap();
        let positions = builder.table_f32(4, 16, &[0.25; 64]).unwrap();
        let norm = builder.norm(&[1.0; 16], &[0.0; 16], 1e-5).unwrap();
        let linear = builder.linear_i8(32, 16, &[7; 512], &[0.1; 32], &[0.0; 32]).unwrap();
        let classifier = builder.linear_f32(1, 32, &[0.5; 32], &[0.0]).unwrap();
        let input = builder.embed(words, positions, norm);
        let wide = builder.linear(input, linear, Epilogue::Gelu);
        builder.head(wide, classifier, Document::Mean);
        builder.finish().unwrap()
    }

    fn flip(engine: &mut Engine, bit: usize) {
        let Runner::Arena(arena) = &mut engine.runner else { panic!("a program runs on the arena") };
        Arc::get_mut(arena).unwrap().prepared_mut().words_mut()[bit / 64] ^= 1 << (bit % 64);
    }

    #[test]
    fn a_bit_that_flips_in_what_was_prepared_is_found() {
        for kernels in Kernels::ALL.into_iter().filter(|kernels| kernels.is_available()) {
            let mut engine = Engine::from_program(program(), Some(kernels)).unwrap();
            let weights = engine.program().unwrap().weights_len();
            let total = engine.scrub(&mut Scrub::new(), 1).unwrap().total;
            // Two panels of 16 starts and a word for each half.
            let prepared = if kernels == Kernels::Avx2 { 2 * (64 + 16) } else { 0 };
            assert_eq!(total, weights + prepared, "{kernels}");
            for bit in (0..8 * prepared).step_by(37) {
                flip(&mut engine, bit);
                assert_eq!(engine.scrub(&mut Scrub::new(), total), Err(ScrubError::Damaged), "{kernels}, bit {bit}");
                flip(&mut engine, bit);
            }
            // In parts of any length it is one pass.
            let mut scrub = Scrub::new();
            while engine.scrub(&mut scrub, 97).unwrap().passes == 0 {}
        }
    }
}
