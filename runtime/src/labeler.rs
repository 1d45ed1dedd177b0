use core::fmt;
use core::ops::Range;

use kdh_format::{Bundle, Manifest, ManifestError, SectionKind};

use crate::engine::{Engine, EngineError, EngineScratch, RunError, Shape};
use crate::report::{LabelReport, Report, evidence, sigmoid};
use crate::text::{Encoding, Sentences, Tokenizer, TokenizerOptions, VocabularyError};

/// Gives texts their labels.
///
/// A labeler is immutable, so threads share one; each thread brings a [`Scratch`] of its own. It owns what it needs of
/// the bundle.
pub struct Labeler {
    engine: Engine,
    tokenizer: Tokenizer,
    labels: Vec<Label>,
    max_tokens: usize,
    max_sentences: usize,
    options: LabelerOptions,
}

impl Labeler {
    /// Takes the graph, the vocabulary and the manifest out of a bundle.
    ///
    /// This is where the time goes: the graph is optimised, and run on its shortest and its longest input.
    ///
    /// # Errors
    ///
    /// [`BuildError`] when the parts cannot be read or do not fit each other.
    pub fn from_bundle(bundle: &Bundle<'_>, options: &LabelerOptions) -> Result<Self, BuildError> {
        let manifest = bundle.manifest().map_err(BuildError::Manifest)?;
        let vocabulary = bundle.section(SectionKind::Vocabulary).unwrap_or_default();
        let graph = bundle.section(SectionKind::Onnx).ok_or(BuildError::NoGraph)?;
        let tokenizer = tokenizer(vocabulary, &manifest).map_err(BuildError::Vocabulary)?;
        let (max_tokens, max_sentences) = (manifest.max_tokens as usize, manifest.max_sentences as usize);
        let shape =
            Shape { labels: manifest.labels.len(), max_sentences, max_tokens, vocabulary: tokenizer.vocabulary_len() };
        let engine = Engine::from_onnx(graph, shape).map_err(BuildError::Engine)?;
        let labels = manifest.labels.iter().map(|label| Label {
            code: label.code.to_owned(),
            name: label.name.to_owned(),
            threshold: label.threshold,
        });
        Ok(Self { engine, tokenizer, labels: labels.collect(), max_tokens, max_sentences, options: options.clone() })
    }

    /// Memory for one thread's texts.
    pub fn scratch(&self) -> Scratch {
        Scratch {
            limits: self.limits(),
            encoding: Encoding::new(self.max_tokens, self.max_sentences),
            engine: self.engine.scratch(),
        }
    }

    /// Labels `text`, with sentences from [`Sentences`]. A text of 1 MiB, or what the options say, is the longest.
    ///
    /// # Errors
    ///
    /// [`LabelError`], which holds nothing of the text.
    pub fn label(&self, scratch: &mut Scratch, text: &str) -> Result<Report<'_>, LabelError> {
        self.label_with_sentences(scratch, text, Sentences::new(text))
    }

    /// Labels `text`, with sentences that the caller knows better: byte ranges of `text` in ascending order.
    ///
    /// # Errors
    ///
    /// [`LabelError`], which holds nothing of the text. [`LabelError::Sentences`] when a range does not lie on
    /// characters of the text, or begins before the one in front of it ends.
    pub fn label_with_sentences(
        &self,
        scratch: &mut Scratch,
        text: &str,
        sentences: impl Iterator<Item = Range<usize>>,
    ) -> Result<Report<'_>, LabelError> {
        self.encode(scratch, text, sentences, self.options.on_overflow)?;
        self.run(scratch)?;
        Ok(self.decide(scratch))
    }

    /// Codes of the labels, in the order of reports.
    pub fn codes(&self) -> impl ExactSizeIterator<Item = &str> {
        self.labels.iter().map(|label| label.code.as_str())
    }

    /// Thresholds of the labels, in the order of reports.
    pub fn thresholds(&self) -> impl ExactSizeIterator<Item = f32> {
        self.labels.iter().map(|label| label.threshold)
    }

    /// What runs the graph.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// First step: tokens and sentences, into the scratch.
    pub(crate) fn encode(
        &self,
        scratch: &mut Scratch,
        text: &str,
        sentences: impl Iterator<Item = Range<usize>>,
        on_overflow: Overflow,
    ) -> Result<(), LabelError> {
        if scratch.limits != self.limits() {
            return Err(LabelError::ForeignScratch);
        }
        let max_bytes = self.options.max_text_bytes;
        if text.len() > max_bytes {
            return Err(LabelError::TextTooLong { bytes: text.len(), max_bytes });
        }
        let (mut end, mut in_order) = (0, true);
        let sentences = sentences.map_while(|range| {
            in_order = end <= range.start && range.start <= range.end && text.get(range.clone()).is_some();
            end = range.end;
            in_order.then_some(range)
        });
        self.tokenizer.encode(text, sentences, &mut scratch.encoding);
        if !in_order {
            return Err(LabelError::Sentences);
        }
        let encoding = &scratch.encoding;
        if encoding.kept_tokens() == 0 {
            return Err(LabelError::NoTokens);
        }
        if on_overflow == Overflow::Refuse && encoding.text_tokens() > encoding.kept_tokens() {
            let max_tokens = encoding.kept_tokens();
            return Err(LabelError::TooManyTokens { tokens: encoding.text_tokens(), max_tokens });
        }
        Ok(())
    }

    /// Second step: logits, into the scratch.
    pub(crate) fn run(&self, scratch: &mut Scratch) -> Result<(), LabelError> {
        let Scratch { encoding, engine, .. } = scratch;
        let logits = self.engine.run(engine, encoding.ids(), encoding.sentence_ids()).map_err(LabelError::Engine)?;
        let labels = self.labels.len();
        let sentences = logits.sentences.get(..encoding.sentences().len() * labels);
        let finite = |logits: &[f32]| logits.iter().all(|logit| logit.is_finite());
        if finite(logits.document) && sentences.is_some_and(finite) { Ok(()) } else { Err(LabelError::NotFinite) }
    }

    fn limits(&self) -> [usize; 3] {
        [self.max_tokens, self.max_sentences, self.labels.len()]
    }

    /// Third step: what the logits in the scratch mean.
    pub(crate) fn decide(&self, scratch: &Scratch) -> Report<'_> {
        let (encoding, logits) = (&scratch.encoding, scratch.engine.logits());
        let mut labels = heapless::Vec::new();
        for (index, (label, &logit)) in self.labels.iter().zip(logits.document).enumerate() {
            let mut report = LabelReport {
                code: &label.code,
                name: &label.name,
                logit,
                probability: sigmoid(logit),
                threshold: label.threshold,
                evidence: heapless::Vec::new(),
            };
            if report.positive() {
                let rows = logits.sentences.chunks_exact(self.labels.len());
                let sentences = encoding.sentences().iter().zip(rows);
                report.evidence = evidence(sentences.map(|(sentence, row)| (sentence.start, sentence.end, row[index])));
            }
            // A manifest has at most as many labels as a report.
            let _ = labels.push(report);
        }
        Report {
            labels,
            text_tokens: encoding.text_tokens(),
            kept_tokens: encoding.kept_tokens(),
            unknown_tokens: encoding.unknown_tokens(),
            sentences: encoding.sentences().len(),
        }
    }
}

/// Shows labels and limits.
impl fmt::Debug for Labeler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Labeler")
            .field("engine", &self.engine)
            .field("labels", &self.labels.len())
            .field("max_tokens", &self.max_tokens)
            .field("max_sentences", &self.max_sentences)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Memory for the texts of one thread; [`Labeler::scratch`] makes it. It holds what came of the last text.
pub struct Scratch {
    /// Of the labeler that it was made for: tokens, sentences, labels.
    limits: [usize; 3],
    pub(crate) encoding: Encoding,
    pub(crate) engine: EngineScratch<'static>,
}

/// Shows nothing of the last text.
impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}

/// How a [`Labeler`] treats texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelerOptions {
    on_overflow: Overflow,
    max_text_bytes: usize,
}

impl LabelerOptions {
    /// Longest text unless [`max_text_bytes`](Self::max_text_bytes) says otherwise: 1 MiB.
    pub const DEFAULT_MAX_TEXT_BYTES: usize = 1 << 20;

    /// Truncate texts of too many tokens, refuse texts of more than 1 MiB.
    pub fn new() -> Self {
        Self { on_overflow: Overflow::Truncate, max_text_bytes: Self::DEFAULT_MAX_TEXT_BYTES }
    }

    /// What happens to a text of more tokens than the model takes.
    #[must_use]
    pub fn on_overflow(mut self, overflow: Overflow) -> Self {
        self.on_overflow = overflow;
        self
    }

    /// Longest text, in bytes; a longer one is refused before any work. At most 4 GiB.
    #[must_use]
    pub fn max_text_bytes(mut self, bytes: usize) -> Self {
        // Reports hold byte offsets as `u32`.
        self.max_text_bytes = bytes.min(u32::MAX as usize);
        self
    }
}

impl Default for LabelerOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// What happens to a text of more tokens than the model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// The model sees the first tokens; [`Report::truncated`] says so.
    Truncate,
    /// [`LabelError::TooManyTokens`].
    Refuse,
}

/// A bundle does not make a labeler.
#[derive(Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// The manifest.
    Manifest(ManifestError),
    /// The bundle holds no ONNX graph.
    NoGraph,
    /// The vocabulary.
    Vocabulary(VocabularyError),
    /// The graph, or its fit to the manifest.
    Engine(EngineError),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest(error) => error.fmt(f),
            Self::NoGraph => f.write_str("the bundle holds no ONNX graph, which this program needs; pack it with one"),
            Self::Vocabulary(error) => write!(f, "the bundle's vocabulary: {error}"),
            Self::Engine(error) => error.fmt(f),
        }
    }
}

// The texts above already hold the text of the cause, so `source` stays empty: a chain would print it twice.
impl core::error::Error for BuildError {}

/// A text gets no labels. The error holds nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LabelError {
    /// The text is empty, or has nothing but white space and control characters.
    NoTokens,
    /// The text has more bytes than the options allow.
    TextTooLong {
        /// Bytes of the text.
        bytes: usize,
        /// Bytes allowed.
        max_bytes: usize,
    },
    /// The text has more tokens than the model takes, and the options say [`Overflow::Refuse`].
    TooManyTokens {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens that the model takes, without the special ones.
        max_tokens: usize,
    },
    /// A sentence that the caller gave does not lie on characters of the text, or is out of order.
    Sentences,
    /// The scratch was made by the labeler of another model.
    ForeignScratch,
    /// The engine failed.
    Engine(RunError),
    /// A logit is infinite or not a number.
    NotFinite,
}

impl fmt::Display for LabelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTokens => f.write_str("the text is empty; give a text with at least one word"),
            Self::TextTooLong { bytes, max_bytes } => {
                write!(f, "the text has {bytes} bytes, {max_bytes} are allowed; split it, or raise max_text_bytes")
            }
            Self::TooManyTokens { tokens, max_tokens } => {
                write!(f, "the text has {tokens} tokens, the model takes {max_tokens}; split it, or allow truncation")
            }
            Self::Sentences => f.write_str(
                "a sentence does not lie on characters of the text or is out of order; give ascending byte ranges",
            ),
            Self::ForeignScratch => {
                f.write_str("the scratch belongs to another model; make one with this labeler's `scratch`")
            }
            Self::Engine(error) => error.fmt(f),
            Self::NotFinite => {
                f.write_str("the model gave a logit that is not a finite number; check the bundle with `kdh verify`")
            }
        }
    }
}

impl core::error::Error for LabelError {}

struct Label {
    code: String,
    name: String,
    threshold: f32,
}

fn tokenizer(vocabulary: &[u8], manifest: &Manifest<'_>) -> Result<Tokenizer, VocabularyError> {
    let options = TokenizerOptions {
        lowercase: manifest.tokenizer.lowercase,
        cls: manifest.tokenizer.cls,
        sep: manifest.tokenizer.sep,
        unk: manifest.tokenizer.unk,
    };
    Tokenizer::new(vocabulary, &options)
}
