//! Memory for requests: a fixed number of slots, made when the service starts.

use std::sync::{Mutex, PoisonError};

use kdh_runtime::format::MAX_LABELS;
use kdh_runtime::format::wire::MAX_FRAME_LEN;
use zeroize::Zeroize;

/// Memory for one request: its text, and later its answer.
#[derive(Debug, Default)]
pub struct Slot {
    text: Vec<u8>,
    answer: Vec<u8>,
}

impl Slot {
    /// Longest answer, in bytes: a report and every label that a model may have.
    pub const MAX_ANSWER_LEN: usize = (1 + MAX_LABELS) * MAX_FRAME_LEN;

    fn new(max_text_len: usize) -> Self {
        Self { text: Vec::with_capacity(max_text_len), answer: Vec::with_capacity(Self::MAX_ANSWER_LEN) }
    }

    /// The bytes of the text so far.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Appends a part of the text. `false`, and nothing appended, when it does not fit.
    pub fn push_text(&mut self, part: &[u8]) -> bool {
        let fits = part.len() <= self.text.capacity() - self.text.len();
        if fits {
            self.text.extend_from_slice(part);
        }
        fits
    }

    /// Forgets the text, and overwrites it.
    pub fn clear_text(&mut self) {
        self.text.as_mut_slice().zeroize();
        self.text.clear();
    }

    /// The encoded answer.
    pub fn answer(&self) -> &[u8] {
        &self.answer
    }

    /// The answer, to be encoded into: at most [`MAX_ANSWER_LEN`](Self::MAX_ANSWER_LEN) bytes.
    pub fn answer_mut(&mut self) -> &mut Vec<u8> {
        &mut self.answer
    }
}

/// The free slots.
#[derive(Debug)]
pub struct Pool {
    free: Mutex<Vec<Slot>>,
    capacity: usize,
}

impl Pool {
    /// `capacity` slots for texts of `max_text_len` bytes.
    pub fn new(capacity: usize, max_text_len: usize) -> Self {
        let free = Mutex::new((0..capacity).map(|_| Slot::new(max_text_len)).collect());
        Self { free, capacity }
    }

    /// A free slot, empty. `None` when all are in use.
    pub fn take(&self) -> Option<Slot> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Takes a slot back, and forgets what is in it.
    pub fn give_back(&self, mut slot: Slot) {
        slot.clear_text();
        slot.answer.clear();
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
    }

    /// Slots in use.
    pub fn held(&self) -> usize {
        self.capacity - self.free.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// All slots.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}
