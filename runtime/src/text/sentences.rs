use core::iter::FusedIterator;
use core::ops::Range;

use super::unicode::{Class, Entry};

/// The sentences of a text.
#[derive(Clone)]
pub struct Sentences<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Sentences<'t> {
    /// The sentences of `text`.
    pub fn new(text: &'t str) -> Self {
        Self { text, at: 0 }
    }
}

impl Iterator for Sentences<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let rest = &self.text[self.at..];
        let start = self.at + (rest.len() - rest.trim_start_matches(is_space).len());
        if start == self.text.len() {
            self.at = start;
            return None;
        }
        let bytes = self.text.as_bytes();
        let mut end = self.text.len();
        for (at, c) in self.text[start..].char_indices() {
            if is_space(c) && matches!(bytes[start + at - 1], b'.' | b'?' | b'!') {
                end = start + at;
                break;
            }
        }
        self.at = end;
        Some(start..start + self.text[start..end].trim_end_matches(is_space).len())
    }
}

impl FusedIterator for Sentences<'_> {}

fn is_space(c: char) -> bool {
    Entry::of(c).class() == Class::Space
}
