use core::ops::{Deref, DerefMut};

use bytemuck::Pod;
use zeroize::Zeroize;

/// A list of bounded length that never allocates: in memory of its own, or in the caller's.
pub(super) struct List<'m, T> {
    memory: Memory<'m, T>,
    len: usize,
}

/// As many values as a list may get.
pub(super) enum Memory<'m, T> {
    Owned(Box<[T]>),
    Borrowed(&'m mut [T]),
}

impl<'m, T: Pod> List<'m, T> {
    /// An empty list.
    pub(super) fn new(memory: Memory<'m, T>) -> Self {
        Self { memory, len: 0 }
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Empties the list and overwrites its memory.
    pub(super) fn zeroize(&mut self) {
        self.len = 0;
        bytemuck::cast_slice_mut::<T, u8>(self.memory.values_mut()).zeroize();
    }

    /// Adds a value; a full list stays as it is.
    pub(super) fn push(&mut self, value: T) {
        if let Some(place) = self.memory.values_mut().get_mut(self.len) {
            *place = value;
            self.len += 1;
        }
    }
}

impl<'m, T: Pod> Memory<'m, T> {
    pub(super) fn owned(len: usize) -> Self {
        Self::Owned(vec![T::zeroed(); len].into())
    }

    /// `None` when the bytes do not lie as `T` must.
    pub(super) fn borrowed(bytes: &'m mut [u8]) -> Option<Self> {
        bytemuck::try_cast_slice_mut(bytes).ok().map(Self::Borrowed)
    }

    fn values(&self) -> &[T] {
        match self {
            Self::Owned(values) => values,
            Self::Borrowed(values) => values,
        }
    }

    fn values_mut(&mut self) -> &mut [T] {
        match self {
            Self::Owned(values) => values,
            Self::Borrowed(values) => values,
        }
    }
}

impl<T: Pod> Deref for List<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.memory.values().get(..self.len).unwrap_or_default()
    }
}

impl<T: Pod> DerefMut for List<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.memory.values_mut().get_mut(..self.len).unwrap_or_default()
    }
}
