use core::ops::Range;

use crate::kernels::Attention;

use super::{ALIGNMENT, Epilogue, LANES, Panels, Products, ProgramError, Rows, Shape, Step};

/// Where every buffer of a run lies in the arena, for any number of tokens up to the maximum.
///
/// Two buffers share bytes only when no step needs both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    rows: Vec<RowsPlace>,
    /// Work space of each step but the head.
    work: Vec<Place>,
    /// Sums, numbers of tokens and logits of the head.
    head: [Place; 3],
    logits: [Place; 2],
    /// All of them, by their first byte.
    places: Vec<Place>,
    pooled: Option<Pooled>,
    arena_len: usize,
}

/// The head's means where its sums were, which no later step overwrites: of each sentence, then of the whole document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pooled {
    /// First byte of the first sentence's mean.
    pub(crate) start: usize,
    /// Floats from one mean to the next.
    pub(crate) stride: usize,
    /// Floats of a mean.
    pub(crate) width: usize,
}

/// Bytes of the arena; `start` is a multiple of 64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Buffer {
    pub(crate) start: usize,
    pub(crate) len: usize,
}

/// A buffer of which every text takes as much as it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    start: usize,
    size: Size,
}

/// What a buffer's length depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    /// Bytes of a token.
    Tokens(usize),
    /// Bytes of a row of a block.
    Block(usize),
    /// Products and width of an attention's heads.
    Attention(Products, usize),
    /// Bytes of a sentence, and of the document behind them.
    Sentences(usize),
    /// Bytes whatever the text.
    Fixed(usize),
}

/// A [`RowsPlan`] before there is a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct RowsPlace {
    width: usize,
    floats: Option<Place>,
    head: Option<usize>,
    integers: Option<Place>,
    scales: Option<Place>,
}

/// The forms in which one [`Rows`] of a text is stored: those that are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RowsPlan {
    /// Values of a row, without padding.
    pub(crate) width: usize,
    /// `f32 [T][stride]`, padded with zeros to a multiple of 16 values.
    pub(crate) floats: Option<Buffer>,
    /// Width of the heads, of floats that only an attention reads: they lie head by head, `f32 [width / head][T][head]` for a
    /// text of `T` tokens, so that what the attention reads of a head is one piece of memory.
    pub(crate) head: Option<usize>,
    /// `[T][stride]` bytes in the form that the kernel family multiplies, padded to a multiple of 64.
    pub(crate) integers: Option<Buffer>,
    /// `f32 [T]`: what an integer of each row stands for.
    pub(crate) scales: Option<Buffer>,
}

/// Rows of one block: what a linear layer computes of all its outputs before the next block, so that they stay in the
/// second-level cache until the epilogue has read them.
pub(crate) const BLOCK: usize = 48;

impl Plan {
    pub(super) fn new(shape: &Shape, widths: &[u32], steps: &[Step]) -> Result<Self, ProgramError> {
        let mut uses: Vec<Use> = widths.iter().map(|_| Use::default()).collect();
        for (index, step) in steps.iter().enumerate() {
            match *step {
                Step::Embed { output, .. } => uses[output.index()] = Use::floats(index),
                Step::Linear { input, linear, epilogue, output } => {
                    uses[output.index()] = match epilogue {
                        Epilogue::ResidualNorm { .. } => Use::floats(index),
                        Epilogue::None | Epilogue::Gelu => Use::nothing(index),
                    };
                    match linear.panels {
                        Panels::I8 { .. } => uses[input.index()].integers = Some(index),
                        Panels::F32 { .. } => uses[input.index()].read_rows(index),
                    }
                    if let Epilogue::ResidualNorm { residual, .. } = epilogue {
                        uses[residual.index()].read_rows(index);
                    }
                }
                Step::Attention { input, output, heads, .. } => {
                    uses[output.index()] = Use::floats(index);
                    uses[input.index()].read_heads(index, widths[output.index()] as usize / heads as usize);
                }
                Step::Head { input, .. } => uses[input.index()].read_rows(index),
            }
        }

        let mut planner = Planner::default();
        let mut places = Vec::new();
        let mut place = |size: Size, steps: Range<usize>| {
            let start = planner.place(size.bytes(shape.max_tokens, shape.max_sentences), steps).start;
            places.push(Place { start, size });
            Place { start, size }
        };
        let rows = widths.iter().zip(&uses).map(|(&width, of)| {
            let width = width as usize;
            let mut place =
                |last: Option<usize>, bytes: usize| last.map(|last| place(Size::Tokens(bytes), of.first..last + 1));
            RowsPlace {
                width,
                floats: place(of.floats, 4 * float_stride(width)),
                head: of.heads(),
                integers: place(of.integers, integer_stride(width)),
                scales: place(of.integers, 4),
            }
        });
        let rows: Vec<RowsPlace> = rows.collect();
        let width = |of: Rows| rows.get(of.index()).map_or(0, |rows| rows.width);
        let work = steps.iter().enumerate().map(|(index, step)| place(work_size(step, width), index..index + 1));
        let work: Vec<Place> = work.collect();
        let last = steps.len() - 1..steps.len();
        let states = match steps.last() {
            Some(&Step::Head { input, .. }) => Some(width(input)),
            _ => None,
        };
        let head = [states.map_or(0, float_stride), 1, float_stride(shape.labels)];
        let head = head.map(|floats| place(Size::Sentences(4 * floats), last.clone()));
        let logits = [shape.max_sentences * shape.labels, shape.labels];
        let logits = logits.map(|floats| place(Size::Fixed(4 * floats), last.clone()));
        places.sort_by_key(|place| place.start);
        places.dedup();
        // The arena must be addressable on every target, with room for its alignment.
        if planner.len > (isize::MAX as usize) / 2 {
            return Err(ProgramError::OutOfRange("memory"));
        }
        let [sums, ..] = head;
        let pooled = states.map(|width| Pooled { start: sums.start, stride: float_stride(width), width });
        Ok(Self { rows, work, head, logits, places, pooled, arena_len: planner.len })
    }

    /// Bytes of the arena, a multiple of 64.
    pub(crate) fn arena_len(&self) -> usize {
        self.arena_len
    }

    /// Where the rows of a text of so many tokens lie. Here and below a step gets no byte that [`written`](Self::written) of the
    /// same text leaves out.
    pub(crate) fn rows(&self, rows: Rows, tokens: usize) -> RowsPlan {
        let RowsPlace { width, floats, head, integers, scales } =
            self.rows.get(rows.index()).copied().unwrap_or_default();
        let of_text = |place: Option<Place>| place.map(|place| place.buffer(tokens, 0));
        RowsPlan { width, floats: of_text(floats), head, integers: of_text(integers), scales: of_text(scales) }
    }

    /// Work space of a step but the head.
    pub(crate) fn work(&self, step: usize, tokens: usize) -> Buffer {
        self.work.get(step).map(|place| place.buffer(tokens, 0)).unwrap_or_default()
    }

    /// Work space of the head, for so many sentences and the document behind them: `f32 [stride]` of sums, a number of tokens,
    /// and `f32 [stride]` of logits, each.
    pub(crate) fn head(&self, sentences: usize) -> [Buffer; 3] {
        self.head.map(|place| place.buffer(0, sentences))
    }

    /// All bytes that texts of so many tokens and sentences at most can have written, in ascending order and each once.
    pub(crate) fn written(&self, tokens: usize, sentences: usize) -> impl Iterator<Item = Range<usize>> {
        let mut end = 0;
        let ranges = self.places.iter().map(move |place| {
            let Range { start, end: own } = place.buffer(tokens, sentences).range();
            let rest = start.max(end)..own;
            end = end.max(own);
            rest
        });
        ranges.filter(|range| !range.is_empty())
    }

    /// Where the head leaves its means; `None` without a head at the end.
    pub(crate) fn pooled(&self) -> Option<Pooled> {
        self.pooled
    }

    /// `f32 [max_sentences, labels]`, and `f32 [labels]`; left untouched after the last step.
    pub(crate) fn logits(&self) -> [Buffer; 2] {
        self.logits.map(|place| place.buffer(0, 0))
    }
}

impl Buffer {
    pub(crate) fn range(self) -> Range<usize> {
        self.start..self.start + self.len
    }
}

impl Place {
    fn buffer(self, tokens: usize, sentences: usize) -> Buffer {
        Buffer { start: self.start, len: self.size.bytes(tokens, sentences) }
    }
}

impl Size {
    fn bytes(self, tokens: usize, sentences: usize) -> usize {
        match self {
            Self::Tokens(bytes) => bytes * tokens,
            Self::Block(bytes) => bytes * tokens.min(BLOCK),
            Self::Attention(Products::F32, head) => 4 * Attention::work_len_f32(tokens, head),
            Self::Attention(Products::Int8, head) => 4 * Attention::work_len_i8(tokens, head),
            Self::Sentences(bytes) => bytes * (sentences + 1),
            Self::Fixed(bytes) => bytes,
        }
    }
}

/// Values from one row of floats to the next.
pub(crate) fn float_stride(width: usize) -> usize {
    round_up(width, LANES)
}

/// Bytes from one row of integers to the next.
pub(crate) fn integer_stride(width: usize) -> usize {
    round_up(width, ALIGNMENT)
}

pub(crate) fn round_up(value: usize, multiple: usize) -> usize {
    value.next_multiple_of(multiple)
}

/// What a step needs for itself.
fn work_size(step: &Step, width: impl Fn(Rows) -> usize) -> Size {
    match *step {
        // Rows of a block before the layer normalisation, and before they are rounded.
        Step::Embed { output, .. } | Step::Linear { output, .. } => Size::Block(4 * float_stride(width(output))),
        Step::Attention { output, heads, products, .. } => Size::Attention(products, width(output) / heads as usize),
        // It has places of its own.
        Step::Head { .. } => Size::Fixed(0),
    }
}

/// Steps in which a [`Rows`] lives.
#[derive(Clone, Copy, Default)]
struct Use {
    first: usize,
    /// Last step that reads the floats; `None` when none does.
    floats: Option<usize>,
    /// Last step that reads the integers; `None` when none does.
    integers: Option<usize>,
    /// Width of the heads of the last attention that reads the floats.
    head: Option<usize>,
    /// Whether whoever reads or writes the floats can do so head by head.
    by_head: bool,
}

impl Use {
    /// Rows that are stored as floats, because their step works on them there.
    fn floats(step: usize) -> Self {
        Self { first: step, floats: Some(step), ..Self::default() }
    }

    /// Rows that are stored as they are read.
    fn nothing(step: usize) -> Self {
        Self { first: step, by_head: true, ..Self::default() }
    }

    fn read_rows(&mut self, step: usize) {
        self.floats = Some(step);
        self.by_head = false;
    }

    fn read_heads(&mut self, step: usize, width: usize) {
        self.floats = Some(step);
        self.by_head &= self.head.is_none_or(|head| head == width);
        self.head = Some(width);
    }

    /// Width of the heads, if the floats lie head by head: whole panels of the linear layer that writes them.
    fn heads(&self) -> Option<usize> {
        self.head.filter(|head| self.by_head && self.integers.is_none() && head % LANES == 0)
    }
}

#[derive(Default)]
struct Planner {
    placed: Vec<(Buffer, Range<usize>)>,
    len: usize,
}

impl Planner {
    /// The lowest place that is free in all of `steps`.
    fn place(&mut self, bytes: usize, steps: Range<usize>) -> Buffer {
        let len = round_up(bytes, ALIGNMENT);
        let overlaps = |other: &Range<usize>| other.start < steps.end && steps.start < other.end;
        let mut taken: Vec<Buffer> =
            self.placed.iter().filter(|(_, other)| overlaps(other)).map(|&(buffer, _)| buffer).collect();
        taken.sort_unstable_by_key(|buffer| buffer.start);
        let mut start = 0;
        for other in taken {
            if start + len <= other.start {
                break;
            }
            start = start.max(other.start + other.len);
        }
        let buffer = Buffer { start, len };
        self.placed.push((buffer, steps));
        self.len = self.len.max(start + len);
        buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_one_step_never_overlap() {
        let mut planner = Planner::default();
        for index in 0..200_usize {
            planner.place(1 + index * 37 % 500, index / 3..index / 3 + 1 + index % 7);
        }
        for (a, (buffer, steps)) in planner.placed.iter().enumerate() {
            assert!(buffer.start % ALIGNMENT == 0 && buffer.start + buffer.len <= planner.len);
            for (other, others) in &planner.placed[..a] {
                let apart = buffer.start + buffer.len <= other.start || other.start + other.len <= buffer.start;
                assert!(apart || steps.end <= others.start || others.end <= steps.start);
            }
        }
    }

    #[test]
    fn dead_buffers_are_used_again() {
        let mut planner = Planner::default();
        assert_eq!(planner.place(100, 0..2), Buffer { start: 0, len: 128 });
        assert_eq!(planner.place(64, 1..4), Buffer { start: 128, len: 64 });
        assert_eq!(planner.place(64, 2..3), Buffer { start: 0, len: 64 });
        assert_eq!(planner.len, 192);
    }

    #[test]
    fn only_an_attentions_rows_lie_head_by_head() {
        let mut rows = Use::nothing(1);
        rows.read_heads(2, 32);
        assert_eq!((rows.heads(), rows.floats), (Some(32), Some(2)));
        rows.read_heads(3, 32);
        assert_eq!((rows.heads(), rows.floats), (Some(32), Some(3)));
        for change in [
            |rows: &mut Use| rows.read_rows(4),
            |rows: &mut Use| rows.read_heads(4, 16),
            |rows: &mut Use| rows.integers = Some(4),
        ] {
            let mut rows = rows;
            change(&mut rows);
            assert_eq!(rows.heads(), None);
        }
        let mut narrow = Use::nothing(1);
        narrow.read_heads(2, 24);
        assert_eq!(narrow.heads(), None);
        let mut worked_on = Use::floats(1);
        worked_on.read_heads(2, 32);
        assert_eq!(worked_on.heads(), None);
    }
}
