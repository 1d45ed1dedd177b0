use core::ops::Range;
use std::sync::Arc;

use super::{ALIGNMENT, ProgramError, Vector};

/// The bytes of all weights, at a multiple of 64 in memory: owned, or inside something shared, such as a mapped file.
#[derive(Clone)]
pub(crate) struct Weights(Holder);

#[derive(Clone)]
enum Holder {
    /// The bytes `start..start + len` of `memory`.
    Owned {
        memory: Arc<Vec<u8>>,
        start: usize,
        len: usize,
    },
    Shared {
        owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
        range: Range<usize>,
    },
}

impl Weights {
    pub(super) fn copied(bytes: &[u8]) -> Result<Self, ProgramError> {
        let len = bytes.len() + ALIGNMENT;
        let mut memory = Vec::new();
        memory.try_reserve_exact(len).map_err(|_| ProgramError::OutOfMemory { bytes: len })?;
        memory.resize(len, 0);
        // A `Vec` that is never resized keeps its place in memory.
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        memory[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(Self(Holder::Owned { memory: Arc::new(memory), start, len: bytes.len() }))
    }

    /// `range` must lie inside the owner's bytes.
    pub(super) fn shared(owner: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>) -> Result<Self, ProgramError> {
        let bytes = (*owner).as_ref().get(range.clone()).unwrap_or_default();
        if bytes.as_ptr().align_offset(ALIGNMENT) == 0 {
            Ok(Self(Holder::Shared { owner, range }))
        } else {
            Self::copied(bytes)
        }
    }

    /// Whether the bytes are used where they were found.
    pub(super) fn in_place(&self) -> bool {
        matches!(self.0, Holder::Shared { .. })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        let bytes = match &self.0 {
            Holder::Owned { memory, start, len } => memory.get(*start..*start + *len),
            Holder::Shared { owner, range } => (**owner).as_ref().get(range.clone()),
        };
        bytes.unwrap_or_default()
    }

    /// `None` unless `len` values lie inside the weights at `offset`, aligned.
    pub(crate) fn view<T: bytemuck::AnyBitPattern>(&self, offset: u32, len: usize) -> Option<&[T]> {
        let start = offset as usize;
        let end = len.checked_mul(size_of::<T>())?.checked_add(start)?;
        bytemuck::try_cast_slice(self.bytes().get(start..end)?).ok()
    }

    /// The vector with its padding.
    pub(crate) fn vector(&self, vector: Vector) -> Option<&[f32]> {
        self.view(vector.offset, super::round_up(vector.len as usize, super::LANES))
    }
}
