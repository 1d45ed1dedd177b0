use core::ops::{Deref, DerefMut, Range};

use bytemuck::Pod;
use zeroize::Zeroize;

/// A list of bounded length that never allocates: in memory of its own, or in the caller's.
pub(crate) struct List<'m, T> {
    memory: Memory<'m, T>,
    len: usize,
}

/// As many values as a list may get.
pub(crate) enum Memory<'m, T> {
    Owned(Box<[T]>),
    Borrowed(&'m mut [T]),
}

impl<'m, T: Pod> List<'m, T> {
    /// An empty list.
    pub(crate) fn new(memory: Memory<'m, T>) -> Self {
        Self { memory, len: 0 }
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    /// Empties the list and overwrites its memory.
    pub(crate) fn zeroize(&mut self) {
        self.len = 0;
        bytemuck::cast_slice_mut::<T, u8>(self.memory.values_mut()).zeroize();
    }

    /// Adds a value; a full list stays as it is.
    pub(crate) fn push(&mut self, value: T) {
        if let Some(place) = self.memory.values_mut().get_mut(self.len) {
            *place = value;
            self.len += 1;
        }
    }

    /// Adds the first values, as many as there is room for, and says how many.
    pub(crate) fn extend(&mut self, values: &[T]) -> usize {
        let room = self.memory.values_mut().get_mut(self.len..).unwrap_or_default();
        let added = room.len().min(values.len());
        room.iter_mut().zip(values).for_each(|(place, value)| *place = *value);
        self.len += added;
        added
    }

    /// Takes out the values of a range, as far as the list has them.
    pub(crate) fn remove(&mut self, range: Range<usize>) {
        let (start, end) = (range.start.min(self.len), range.end.min(self.len));
        if start < end {
            // Both are within the list, which is within its memory.
            self.memory.values_mut().copy_within(end..self.len, start);
            self.len -= end - start;
        }
    }

    /// Keeps the first `len` values at most.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Whether nothing more fits.
    pub(crate) fn is_full(&self) -> bool {
        self.len == self.memory.values().len()
    }
}

impl<'m, T: Pod> Memory<'m, T> {
    pub(crate) fn owned(len: usize) -> Self {
        Self::Owned(vec![T::zeroed(); len].into())
    }

    /// `None` when the bytes do not lie as `T` must.
    pub(crate) fn borrowed(bytes: &'m mut [u8]) -> Option<Self> {
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
