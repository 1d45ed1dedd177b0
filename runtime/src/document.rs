use core::fmt;

use kdh_format::MAX_LABELS;

pub use self::aggregate::Aggregation;

use crate::decision::OperatingPoint;
use crate::decision::OutOfDistributionScore;
use crate::engine::{EngineScratch, ScratchTooSmall, Stop};
use crate::labeler::{Counts, LabelError, Labeler};
use crate::list::Memory;
use crate::report::{Report, evidence};
use crate::text::is_space;
use aggregate::{LabelEvidence, column};
use stream::{CAPACITY, Piece, Stream};
use window::{Window, first_part};

mod aggregate;
mod stream;
mod window;

/// Labels one text of any length, which comes in pieces: [`Labeler::document`] makes it.
///
/// The text goes through the model in windows of whole sentences, each with the last sentences of the one before it as
/// context, so that nothing is cut. Sentences and windows depend on the text alone and not on its pieces, and the memory not
/// on its length. A text that fits one window gets what [`Labeler::label`] gives it, bit by bit, if it has no sentence longer
/// than 8 KiB.
///
/// A sentence longer than 8 KiB or than a window is split between words, and a word as long as that wherever it must be;
/// [`DocumentReport::splits`] counts them.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use kdh_runtime::{Bundle, DocumentOptions, Labeler, LabelerOptions};
/// # let bundle = Bundle::parse(include_bytes!("../tests/data/tiny.kdh"))?;
/// # let labeler = Labeler::from_bundle(&bundle, &LabelerOptions::new().allow_unsigned())?;
/// let mut scratch = labeler.document_scratch(); // one for each thread
/// let mut document = labeler.document(&mut scratch, &DocumentOptions::new())?;
/// document.push(b"The cells divided slow")?;
/// document.push(b"ly. No vessel grew.")?;
/// let found = document.finish()?;
/// assert_eq!((found.windows, found.report.sentences, found.report.dropped_tokens()), (1, 2, 0));
/// # Ok(())
/// # }
/// ```
pub struct DocumentSession<'l, 's, 'm> {
    labeler: &'l Labeler,
    stream: &'s mut Stream<'m>,
    work: &'s mut Work<'m>,
    options: DocumentOptions,
    point: OperatingPoint,
    bytes: usize,
    /// Why there will be no report.
    failed: Option<LabelError>,
}

/// What a model says of a text of any length.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DocumentReport<'l> {
    /// What it says, with byte ranges of the whole text. Every token was seen: [`Report::dropped_tokens`] is 0. A part of a
    /// sentence that was split counts as a sentence.
    pub report: Report<'l>,
    /// Runs of the model.
    pub windows: usize,
    /// Places where a sentence that is too long was split.
    pub splits: usize,
    /// Bytes of the text.
    pub bytes: usize,
}

/// How a text goes through the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DocumentOptions {
    aggregation: Aggregation,
    overlap_tokens: Option<usize>,
    point: Option<OperatingPoint>,
}

impl DocumentOptions {
    /// [`Aggregation::Head`], an eighth of a window's tokens as overlap, and the labeler's operating point.
    pub fn new() -> Self {
        Self::default()
    }

    /// How the windows' logits become the document's.
    #[must_use]
    pub fn aggregation(mut self, aggregation: Aggregation) -> Self {
        self.aggregation = aggregation;
        self
    }

    /// A window begins with the last sentences of the one before it, as many as have this many tokens at most. It is at most
    /// half of what the model takes; 0 means none.
    #[must_use]
    pub fn overlap_tokens(mut self, tokens: usize) -> Self {
        self.overlap_tokens = Some(tokens);
        self
    }

    /// Another operating point than the labeler's options say: [`Labeler::operating_point`].
    #[must_use]
    pub fn operating_point(mut self, point: OperatingPoint) -> Self {
        self.point = Some(point);
        self
    }

    fn overlap(&self, capacity: usize) -> usize {
        self.overlap_tokens.unwrap_or(capacity / 8).min(capacity / 2)
    }
}

/// Memory for the documents of one thread; [`Labeler::document_scratch`] and [`Labeler::document_scratch_in`] make it. It holds
/// the end of the last document until the next one, or [`zeroize`](Self::zeroize); when it is dropped, it is overwritten with
/// zeros.
pub struct DocumentScratch<'m> {
    limits: [usize; 3],
    stream: Stream<'m>,
    work: Work<'m>,
}

impl DocumentScratch<'_> {
    /// Overwrites all that the last document has left.
    pub fn zeroize(&mut self) {
        self.stream.zeroize();
        self.work.window.zeroize();
        self.work.engine.zeroize();
        self.work.clear();
    }

    /// When documents that are labelled with this scratch must be given up, from now on: [`LabelError::DeadlineExceeded`].
    pub fn set_stop(&mut self, stop: Stop) {
        self.work.engine.set_stop(stop);
    }
}

impl Drop for DocumentScratch<'_> {
    fn drop(&mut self) {
        self.zeroize();
    }
}

impl Labeler {
    /// Begins a text of any length up to 4 GiB, which comes in pieces. Allocates nothing, and neither does what follows.
    ///
    /// # Errors
    ///
    /// [`LabelError::ForeignScratch`] when the scratch is another model's, [`LabelError::ForeignPoint`] when the options'
    /// operating point is.
    pub fn document<'l, 's, 'm>(
        &'l self,
        scratch: &'s mut DocumentScratch<'m>,
        options: &DocumentOptions,
    ) -> Result<DocumentSession<'l, 's, 'm>, LabelError> {
        if scratch.limits != self.limits() || !self.engine().takes(&scratch.work.engine) {
            return Err(LabelError::ForeignScratch);
        }
        let point = options.point.unwrap_or(self.point());
        if !self.has_point(point) {
            return Err(LabelError::ForeignPoint);
        }
        let DocumentScratch { stream, work, .. } = scratch;
        stream.clear();
        work.clear();
        Ok(DocumentSession { labeler: self, stream, work, options: *options, point, bytes: 0, failed: None })
    }

    /// Labels a text of any length up to 4 GiB that is all there.
    ///
    /// # Errors
    ///
    /// [`LabelError`], which holds nothing of the text.
    pub fn label_document(
        &self,
        scratch: &mut DocumentScratch<'_>,
        options: &DocumentOptions,
        text: &str,
    ) -> Result<DocumentReport<'_>, LabelError> {
        let mut document = self.document(scratch, options)?;
        document.push(text.as_bytes())?;
        document.finish()
    }

    /// Memory for one thread's documents.
    pub fn document_scratch(&self) -> DocumentScratch<'static> {
        let limits @ [tokens, sentences, labels] = self.limits();
        let work = Work::new(self.engine().scratch(), Window::new(tokens, sentences), labels);
        DocumentScratch { limits, stream: Stream::new(Memory::owned(CAPACITY)), work }
    }

    /// One thread's documents in the caller's memory, wherever that begins. Allocates nothing.
    ///
    /// # Errors
    ///
    /// [`ScratchTooSmall`] when `memory` is shorter than [`document_memory_required`](Self::document_memory_required).
    pub fn document_scratch_in<'m>(&self, memory: &'m mut [u8]) -> Result<DocumentScratch<'m>, ScratchTooSmall> {
        let too_small = ScratchTooSmall { required: self.document_memory_required(), given: memory.len() };
        if too_small.given < too_small.required {
            return Err(too_small);
        }
        let limits @ [tokens, sentences, labels] = self.limits();
        let (engine, rest) = self.engine().split_scratch(memory).ok_or(too_small)?;
        let (window, rest) = Window::new_in(tokens, sentences, rest).ok_or(too_small)?;
        let bytes = rest.get_mut(..CAPACITY).and_then(Memory::borrowed).ok_or(too_small)?;
        Ok(DocumentScratch { limits, stream: Stream::new(bytes), work: Work::new(engine, window, labels) })
    }

    /// Bytes that [`document_scratch`](Self::document_scratch) allocates and
    /// [`document_scratch_in`](Self::document_scratch_in) asks for: 32 KiB of text, a window, and what the engine writes to.
    /// The strongest sentences of each label lie in the [`DocumentScratch`] itself.
    pub fn document_memory_required(&self) -> usize {
        let [tokens, sentences, _] = self.limits();
        CAPACITY + Window::memory_required(tokens, sentences) + self.engine().memory_required()
    }
}

impl<'l> DocumentSession<'l, '_, '_> {
    /// Takes the next bytes of the text, which may end anywhere, also inside a character. Labels what is whole.
    ///
    /// # Errors
    ///
    /// [`LabelError`], which holds nothing of the text: the text is not UTF-8, has more than 4 GiB, or the engine failed. It may
    /// come later than with the bytes that cause it, and comes again with every further call.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), LabelError> {
        if self.failed.is_none() {
            self.failed = self.take(bytes).err();
        }
        self.failed.map_or(Ok(()), Err)
    }

    /// Ends the text.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    ///
    /// A text with nothing to label is no error: its report abstains, and no window was run.
    pub fn finish(mut self) -> Result<DocumentReport<'l>, LabelError> {
        self.push(&[])?;
        self.sentences(true)?;
        let (labeler, work) = (self.labeler, &mut *self.work);
        if work.window.has_news() {
            work.run(labeler)?;
        }
        if work.windows == 0 {
            let report = labeler.report_of_nothing(self.point);
            return Ok(DocumentReport { report, windows: 0, splits: work.splits, bytes: self.bytes });
        }
        work.finish();
        let report = if work.windows == 1 {
            work.report(labeler, self.point)
        } else {
            work.aggregated(labeler, &self.options, self.point)
        };
        Ok(DocumentReport { report, windows: work.windows, splits: work.splits, bytes: self.bytes })
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), LabelError> {
        const MAX_BYTES: usize = u32::MAX as usize;
        self.bytes = self.bytes.saturating_add(bytes.len());
        if self.bytes > MAX_BYTES {
            return Err(LabelError::TextTooLong { bytes: self.bytes, max_bytes: MAX_BYTES });
        }
        while !bytes.is_empty() {
            let taken = self.stream.fill(bytes);
            bytes = bytes.get(taken..).unwrap_or_default();
            if self.stream.is_full() {
                self.sentences(false)?;
            }
        }
        Ok(())
    }

    fn sentences(&mut self, end_of_text: bool) -> Result<(), LabelError> {
        let (labeler, work, options) = (self.labeler, &mut *self.work, &self.options);
        self.stream.sentences(end_of_text, |piece| work.add(labeler, options, piece))
    }
}

/// The window at hand, and what came of those before it.
struct Work<'m> {
    engine: EngineScratch<'m>,
    window: Window<'m>,
    labels: heapless::Vec<LabelEvidence, MAX_LABELS>,
    counts: Counts,
    windows: usize,
    splits: usize,
    /// Sum of the windows' out-of-distribution scores.
    scores: f32,
}

impl<'m> Work<'m> {
    fn new(engine: EngineScratch<'m>, window: Window<'m>, labels: usize) -> Self {
        // A manifest has no more labels.
        let labels = core::iter::repeat_n(LabelEvidence::new(), labels.min(MAX_LABELS)).collect();
        Self { engine, window, labels, counts: Counts::default(), windows: 0, splits: 0, scores: 0.0 }
    }

    fn clear(&mut self) {
        self.window.clear();
        self.labels.fill(LabelEvidence::new());
        self.counts = Counts::default();
        self.windows = 0;
        self.splits = 0;
        self.scores = 0.0;
    }

    /// Adds a sentence, in parts if it is longer than a window.
    fn add(&mut self, labeler: &Labeler, options: &DocumentOptions, piece: Piece<'_>) -> Result<(), LabelError> {
        self.splits += usize::from(piece.split);
        let capacity = self.window.capacity();
        let (mut text, mut offset) = (piece.text, piece.offset);
        while !text.is_empty() {
            let (part, tokens, split) = first_part(labeler.tokenizer(), text, capacity);
            if tokens > 0 && !self.window.fits(tokens) {
                self.run(labeler)?;
                self.slide(options.overlap(capacity), tokens);
            }
            let (part, rest) = text.split_at_checked(part.end).unwrap_or((text, ""));
            let counts = self.window.push(labeler.tokenizer(), part, offset);
            self.counts.text_tokens += counts.tokens;
            self.counts.kept_tokens += counts.kept;
            self.counts.unknown_tokens += counts.unknown;
            self.splits += usize::from(split);
            let next = rest.trim_start_matches(is_space);
            offset += text.len() - next.len();
            text = next;
        }
        Ok(())
    }

    /// Runs the model on the window.
    fn run(&mut self, labeler: &Labeler) -> Result<(), LabelError> {
        let (ids, sentence_ids) = self.window.close(labeler.tokenizer());
        let logits = labeler.engine().run(&mut self.engine, ids, sentence_ids)?;
        let (labels, sentences) = (self.labels.len(), self.window.sentences().len());
        let finite = |logits: &[f32]| logits.iter().all(|logit| logit.is_finite());
        if !finite(logits.document) || !logits.sentences.get(..sentences * labels).is_some_and(finite) {
            return Err(LabelError::NotFinite);
        }
        for (index, (label, &document)) in self.labels.iter_mut().zip(logits.document).enumerate() {
            label.window(document, column(&logits, labels, sentences, index));
        }
        if let Some(score) = labeler.score(self.engine.pooled(sentences), self.engine.logits().document) {
            self.scores += score.score;
        }
        self.windows += 1;
        Ok(())
    }

    /// Goes on to the next window.
    fn slide(&mut self, overlap: usize, needed: usize) {
        let Self { engine, window, labels, counts, .. } = self;
        let logits = engine.logits();
        window.slide(overlap, needed, |row, sentence| {
            counts.sentences += 1;
            count(labels, logits.sentences, row, &sentence);
        });
    }

    /// Counts the sentences of the last window.
    fn finish(&mut self) {
        let Self { engine, window, labels, counts, .. } = self;
        let logits = engine.logits();
        window.finish(|row, sentence| {
            counts.sentences += 1;
            count(labels, logits.sentences, row, &sentence);
        });
    }

    /// The report of the only window.
    fn report<'l>(&self, labeler: &'l Labeler, point: OperatingPoint) -> Report<'l> {
        let logits = self.engine.logits();
        let sentences = self.window.sentences();
        let of_sentences = |label| {
            let column = column(&logits, self.labels.len(), sentences.len(), label);
            evidence(sentences.clone().zip(column).map(|(sentence, logit)| (sentence.start, sentence.end, logit)))
        };
        let logit = |label| logits.document.get(label).copied().unwrap_or(f32::NAN);
        labeler.report(self.counts, self.score(labeler), point, logit, of_sentences)
    }

    /// The mean of the windows' out-of-distribution scores.
    fn score(&self, labeler: &Labeler) -> Option<OutOfDistributionScore> {
        let pooled = self.engine.pooled(self.window.sentences().len());
        let last = labeler.score(pooled, self.engine.logits().document)?;
        Some(OutOfDistributionScore { score: self.scores / self.windows.max(1) as f32, ..last })
    }

    /// The report of several windows.
    fn aggregated<'l>(&self, labeler: &'l Labeler, options: &DocumentOptions, point: OperatingPoint) -> Report<'l> {
        let of = |label: usize| self.labels.get(label);
        let logit = |label| of(label).map_or(f32::NAN, |label| label.logit(options.aggregation, labeler.head()));
        let evidence = |label| of(label).map(LabelEvidence::evidence).unwrap_or_default();
        labeler.report(self.counts, self.score(labeler), point, logit, evidence)
    }
}

/// Shows nothing of the text.
impl fmt::Debug for DocumentSession<'_, '_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DocumentSession").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Shows nothing of the last text.
impl fmt::Debug for DocumentScratch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DocumentScratch").finish_non_exhaustive()
    }
}

/// Gives every label the logit of a sentence: `row` of the window's.
fn count(labels: &mut [LabelEvidence], logits: &[f32], row: usize, sentence: &window::WindowSentence) {
    let row = logits.chunks_exact(labels.len().max(1)).nth(row).unwrap_or_default();
    labels.iter_mut().zip(row).for_each(|(label, &logit)| label.sentence(sentence, logit));
}
