use core::ops::Range;

use zeroize::Zeroize;

/// Longest word that has pieces, in normalised characters.
pub(super) const MAX_CHARS: usize = 100;

/// A word on its way through the normaliser: its characters in canonical order, and the bytes of the text that each
/// comes from.
pub(super) struct Word {
    chars: [char; MAX_CHARS],
    /// Canonical combining class of each character.
    classes: [u8; MAX_CHARS],
    origins: [(usize, usize); MAX_CHARS],
    /// Characters held.
    len: usize,
    /// First character that canonical ordering may still move.
    run: usize,
    /// Whether there were more than [`MAX_CHARS`].
    overflow: bool,
    start: usize,
    end: usize,
    utf8: [u8; 4 * MAX_CHARS],
}

impl Word {
    pub(super) fn new() -> Self {
        Self {
            chars: ['\0'; MAX_CHARS],
            classes: [0; MAX_CHARS],
            origins: [(0, 0); MAX_CHARS],
            len: 0,
            run: 0,
            overflow: false,
            start: 0,
            end: 0,
            utf8: [0; 4 * MAX_CHARS],
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
        self.run = 0;
        self.overflow = false;
    }

    /// Adds `c`, in canonical order: a character of combining class above 0 goes before those that follow the last
    /// starter and have a higher class.
    pub(super) fn push(&mut self, c: char, combining_class: u8, origin: Range<usize>) {
        if self.len == 0 {
            self.start = origin.start;
        }
        self.end = origin.end;
        if self.len == MAX_CHARS {
            self.overflow = true;
            return;
        }
        let mut at = self.len;
        if combining_class == 0 {
            self.run = self.len + 1;
        } else {
            while at > self.run && self.classes[at - 1] > combining_class {
                at -= 1;
            }
        }
        self.len += 1;
        self.chars[at..self.len].rotate_right(1);
        self.classes[at..self.len].rotate_right(1);
        self.origins[at..self.len].rotate_right(1);
        self.chars[at] = c;
        self.classes[at] = combining_class;
        self.origins[at] = (origin.start, origin.end);
        if at + 1 < self.len {
            // Characters that changed places share their origins, so that pieces stay in the order of the text.
            let moved = &mut self.origins[at..self.len];
            let start = moved.iter().map(|origin| origin.0).min().unwrap_or(origin.start);
            moved.fill((start, origin.end));
        }
    }

    /// Takes note of a mark that is not part of the word; a `starter` bounds the canonical ordering.
    pub(super) fn strip(&mut self, mark: Range<usize>, starter: bool) {
        if self.len == 0 {
            return;
        }
        self.end = mark.end;
        self.origins[self.len - 1].1 = mark.end;
        if starter {
            self.run = self.len;
        }
    }

    /// The bytes of the text that the word comes from.
    pub(super) fn origin(&self) -> Range<usize> {
        self.start..self.end
    }

    /// The word in UTF-8, or nothing if it is too long.
    pub(super) fn normalized(&mut self) -> Option<&[u8]> {
        let mut end = 0;
        for &c in &self.chars[..self.len] {
            end += c.encode_utf8(&mut self.utf8[end..]).len();
        }
        (!self.overflow).then_some(&self.utf8[..end])
    }

    /// Where the piece of `length` bytes that starts with character number `first` comes from, and the number of the
    /// first character after it.
    pub(super) fn piece(&self, first: usize, length: usize) -> (Range<usize>, usize) {
        let (mut next, mut bytes) = (first, 0);
        let (mut start, mut end) = (usize::MAX, 0);
        while bytes < length && next < self.len {
            start = start.min(self.origins[next].0);
            end = end.max(self.origins[next].1);
            bytes += self.chars[next].len_utf8();
            next += 1;
        }
        (start.min(end)..end, next)
    }
}

/// A word is a part of the text, and the stack that it lies on is used by others.
impl Drop for Word {
    fn drop(&mut self) {
        self.chars.zeroize();
        self.utf8.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_marks_by_their_class_and_keeps_equal_ones() {
        let mut word = Word::new();
        for (index, (c, class)) in
            [('a', 0), ('x', 9), ('y', 5), ('z', 9), ('w', 5), ('b', 0), ('v', 1)].iter().enumerate()
        {
            word.push(*c, *class, index..index + 1);
        }
        assert_eq!(word.normalized(), Some(b"aywxzbv".as_slice()));
        assert_eq!(word.piece(0, 1), (0..1, 1));
        assert_eq!(word.piece(1, 2), (1..5, 3));
        assert_eq!(word.piece(3, 2), (1..5, 5));
        assert_eq!(word.origin(), 0..7);
    }

    #[test]
    fn a_stripped_starter_bounds_the_order() {
        let mut word = Word::new();
        word.push('a', 0, 0..1);
        word.push('x', 9, 1..2);
        word.strip(2..3, true);
        word.push('y', 5, 3..4);
        assert_eq!(word.normalized(), Some(b"axy".as_slice()));
        assert_eq!(word.piece(1, 1), (1..3, 2));
    }

    #[test]
    fn is_nothing_past_its_capacity() {
        let mut word = Word::new();
        for at in 0..=MAX_CHARS {
            assert!(word.normalized().is_some());
            word.push('\u{10FFFF}', 0, 4 * at..4 * at + 4);
        }
        assert_eq!(word.normalized(), None);
        assert_eq!(word.origin(), 0..4 * (MAX_CHARS + 1));
    }
}
