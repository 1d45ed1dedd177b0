use core::fmt;
use core::ops::Range;
use std::sync::Arc;

use kdh_format::{
    Bundle, BundleError, DecisionsError, Head, Manifest, ManifestError, Policy, ProgramSectionError, SectionKind,
    Signer, Trust, Untrusted,
};
use sha2::{Digest, Sha256};

use crate::decision::{Abstention, Decision, OperatingPoint, OutOfDistributionScore};
use crate::engine::{
    Engine, EngineChoice, EngineError, EngineScratch, Limits, Reference, RunError, ScratchTooSmall, Shape, Stop,
};
use crate::file::BundleFile;
use crate::kernels::Kernels;
use crate::program::{Program, ProgramError};
use crate::report::{Evidence, LabelReport, MAX_EVIDENCE, Report, evidence};
use crate::self_test::SelfTestError;
use crate::text::{Encoding, Sentences, Tokenizer, TokenizerOptions, VocabularyError};

/// Gives texts their labels.
///
/// A labeler is immutable, so threads share one; each thread brings a [`Scratch`] of its own.
pub struct Labeler {
    engine: Engine,
    tokenizer: Tokenizer,
    labels: Vec<Label>,
    head: Head,
    decision: Decision,
    point: OperatingPoint,
    max_tokens: usize,
    max_sentences: usize,
    options: LabelerOptions,
    bundle_digest: [u8; 32],
    signer: Signer,
}

impl Labeler {
    /// Takes the model, the vocabulary and the manifest out of a bundle, and copies what it needs of them.
    ///
    /// A stored program is taken as it is. Without one this is where the time goes: the graph is parsed and lowered.
    ///
    /// Here and in all other constructors no section is parsed before the options' [`Trust`] has accepted the bundle.
    ///
    /// # Errors
    ///
    /// [`BuildError`] when nobody trusted vouches for the bundle, or its parts cannot be read or do not fit each other.
    pub fn from_bundle(bundle: &Bundle<'_>, options: &LabelerOptions) -> Result<Self, BuildError> {
        Self::build(bundle, None, options, Program::parse)
    }

    /// As [`from_bundle`](Self::from_bundle), with the ONNX graph that the bundle leaves out.
    ///
    /// # Errors
    ///
    /// [`BuildError`]; [`BuildError::ForeignGraph`] when the graph is not the one that the bundle's program was lowered from.
    #[cfg(feature = "tract")]
    pub fn with_graph(bundle: &Bundle<'_>, graph: &[u8], options: &LabelerOptions) -> Result<Self, BuildError> {
        Self::build(bundle, Some(graph), options, Program::parse)
    }

    /// Verifies a bundle's file and takes the model out of it. A stored program's weights are used where they lie in the
    /// file, which stays mapped as long as the labeler lives.
    ///
    /// # Errors
    ///
    /// [`BuildError`] when the bundle is damaged, or its parts cannot be read or do not fit each other.
    pub fn from_file(file: BundleFile, options: &LabelerOptions) -> Result<Self, BuildError> {
        Self::from_shared(Arc::new(file), options)
    }

    /// As [`from_file`](Self::from_file), from the bytes of a bundle in memory: `Arc::new(include_bytes!(...).as_slice())`.
    /// Weights that do not lie at a multiple of 64 are copied.
    ///
    /// # Errors
    ///
    /// [`BuildError`] when the bundle is damaged, or its parts cannot be read or do not fit each other.
    pub fn from_shared(
        owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
        options: &LabelerOptions,
    ) -> Result<Self, BuildError> {
        let bytes = (*owner).as_ref();
        let bundle = Bundle::parse(bytes).map_err(BuildError::Bundle)?;
        Self::build(&bundle, None, options, |program| {
            // The program is a part of the bytes.
            let start = program.as_ptr().addr().wrapping_sub(bytes.as_ptr().addr());
            Program::parse_shared(owner.clone(), start..start.wrapping_add(program.len()))
        })
    }

    fn build(
        bundle: &Bundle<'_>,
        graph: Option<&[u8]>,
        options: &LabelerOptions,
        parse: impl FnOnce(&[u8]) -> Result<Program, ProgramError>,
    ) -> Result<Self, BuildError> {
        let signer = options.verify(bundle).map_err(BuildError::Untrusted)?;
        let manifest = bundle.manifest().map_err(BuildError::Manifest)?;
        let tokenizer = tokenizer(bundle, &manifest)?;
        let shape = shape(&manifest, &tokenizer);
        let (max_tokens, max_sentences) = (shape.max_tokens, shape.max_sentences);
        let engine = engine(bundle, graph, shape, options, parse)?;
        let decision = Decision::new(bundle, &manifest)?;
        if let (Some(of_decision), Some(of_engine)) = (decision.pooled_width(), engine.pooled_width())
            && of_decision != of_engine
        {
            return Err(BuildError::Decisions(DecisionsError::OutOfDistribution));
        }
        let point = match &options.operating_point {
            Some(name) => decision.point(name).ok_or(BuildError::OperatingPoint)?,
            None => OperatingPoint::DEFAULT,
        };
        let labels =
            manifest.labels.iter().map(|label| Label { code: label.code.to_owned(), name: label.name.to_owned() });
        let (labels, head, options) = (labels.collect(), manifest.head, options.clone());
        let labeler = Self {
            engine,
            tokenizer,
            labels,
            head,
            decision,
            point,
            max_tokens,
            max_sentences,
            options,
            bundle_digest: bundle.digest(),
            signer,
        };
        if labeler.options.self_test {
            labeler.self_test(bundle).map_err(BuildError::SelfTest)?;
        }
        Ok(labeler)
    }

    /// Bytes that [`scratch`](Self::scratch) allocates and [`scratch_in`](Self::scratch_in) asks for, and on the arena all
    /// memory that labelling a text takes beside the stack.
    pub fn memory_required(&self) -> usize {
        Encoding::memory_required(self.max_tokens, self.max_sentences) + self.engine.memory_required()
    }

    /// As [`scratch`](Self::scratch), for a machine that may not have the memory.
    ///
    /// # Errors
    ///
    /// [`EngineError::OutOfMemory`].
    pub fn try_scratch(&self) -> Result<Scratch<'static>, EngineError> {
        let engine = self.engine.try_scratch()?;
        Ok(Scratch { limits: self.limits(), encoding: Encoding::new(self.max_tokens, self.max_sentences), engine })
    }

    /// As [`try_scratch`](Self::try_scratch), with a second thread that computes half of every longer text:
    /// [`Engine::try_scratch_with_second_thread`]. It takes
    /// [`Engine::memory_required_of_second_thread`] more.
    ///
    /// ```
    /// # use kdh_runtime::{Bundle, Labeler, LabelerOptions};
    /// # let bundle = Bundle::parse(include_bytes!("../tests/data/tiny.kdh")).unwrap();
    /// # let labeler = Labeler::from_bundle(&bundle, &LabelerOptions::new().allow_unsigned()).unwrap();
    /// let mut scratch = labeler.try_scratch_with_second_thread()?;
    /// assert!(labeler.label(&mut scratch, "The cells divided.").is_ok());
    /// # Ok::<(), kdh_runtime::engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`EngineError::OutOfMemory`], [`EngineError::Thread`].
    pub fn try_scratch_with_second_thread(&self) -> Result<Scratch<'static>, EngineError> {
        let engine = self.engine.try_scratch_with_second_thread()?;
        Ok(Scratch { limits: self.limits(), encoding: Encoding::new(self.max_tokens, self.max_sentences), engine })
    }

    /// Memory for one thread's texts.
    pub fn scratch(&self) -> Scratch<'static> {
        Scratch {
            limits: self.limits(),
            encoding: Encoding::new(self.max_tokens, self.max_sentences),
            engine: self.engine.scratch(),
        }
    }

    /// One thread's texts in the caller's memory, wherever that begins. Allocates nothing.
    ///
    /// # Errors
    ///
    /// [`ScratchTooSmall`] when `memory` is shorter than [`memory_required`](Self::memory_required).
    pub fn scratch_in<'m>(&self, memory: &'m mut [u8]) -> Result<Scratch<'m>, ScratchTooSmall> {
        let too_small = ScratchTooSmall { required: self.memory_required(), given: memory.len() };
        if too_small.given < too_small.required {
            return Err(too_small);
        }
        let (engine, rest) = self.engine.split_scratch(memory).ok_or(too_small)?;
        let encoding = Encoding::new_in(self.max_tokens, self.max_sentences, rest).ok_or(too_small)?;
        Ok(Scratch { limits: self.limits(), encoding, engine })
    }

    /// Labels `text`, with sentences from [`Sentences`]. A text of 1 MiB, or what the options say, is the longest.
    ///
    /// The model sees the first tokens of a text that has too many; [`document`](Self::document) shows it all of them.
    ///
    /// # Errors
    ///
    /// [`LabelError`], which holds nothing of the text.
    pub fn label(&self, scratch: &mut Scratch<'_>, text: &str) -> Result<Report<'_>, LabelError> {
        self.label_at(scratch, text, self.point)
    }

    /// Labels `text` at another operating point than the options say.
    ///
    /// # Errors
    ///
    /// [`LabelError`], which holds nothing of the text. [`LabelError::ForeignPoint`] when the point is another model's.
    pub fn label_at(
        &self,
        scratch: &mut Scratch<'_>,
        text: &str,
        point: OperatingPoint,
    ) -> Result<Report<'_>, LabelError> {
        self.label_sentences_at(scratch, text, Sentences::new(text), point)
    }

    /// Labels `text`, with sentences that the caller knows better: byte ranges of `text` in ascending order.
    ///
    /// # Errors
    ///
    /// [`LabelError`], which holds nothing of the text. [`LabelError::Sentences`] when a range does not lie on
    /// characters of the text, or begins before the one in front of it ends.
    pub fn label_with_sentences(
        &self,
        scratch: &mut Scratch<'_>,
        text: &str,
        sentences: impl Iterator<Item = Range<usize>>,
    ) -> Result<Report<'_>, LabelError> {
        self.label_sentences_at(scratch, text, sentences, self.point)
    }

    fn label_sentences_at(
        &self,
        scratch: &mut Scratch<'_>,
        text: &str,
        sentences: impl Iterator<Item = Range<usize>>,
        point: OperatingPoint,
    ) -> Result<Report<'_>, LabelError> {
        if !self.has_point(point) {
            return Err(LabelError::ForeignPoint);
        }
        match self.encode(scratch, text, sentences, self.options.on_overflow) {
            Err(LabelError::NoTokens) => return Ok(self.report_of_nothing(point)),
            encoded => encoded?,
        }
        self.run(scratch)?;
        Ok(self.decide_at(scratch, point))
    }

    /// Codes of the labels, in the order of reports.
    pub fn codes(&self) -> impl ExactSizeIterator<Item = &str> {
        self.labels.iter().map(|label| label.code.as_str())
    }

    /// Names of the labels, in the order of reports.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.labels.iter().map(|label| label.name.as_str())
    }

    /// Thresholds of the labels on calibrated probabilities, in the order of reports, at the options' operating point.
    pub fn thresholds(&self) -> impl ExactSizeIterator<Item = f32> {
        self.decision.thresholds(self.point).iter().copied()
    }

    /// Names of the operating points and how their thresholds were chosen, the one first that holds unless another is asked
    /// for.
    pub fn operating_points(&self) -> impl ExactSizeIterator<Item = (&str, Policy)> {
        self.decision.points()
    }

    /// The operating point of this name, for [`label_at`](Self::label_at).
    pub fn operating_point(&self, name: &str) -> Option<OperatingPoint> {
        self.decision.point(name)
    }

    /// Who vouches for the bundle.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// The bundle's digest: [`Bundle::digest`].
    pub fn bundle_digest(&self) -> [u8; 32] {
        self.bundle_digest
    }

    /// What runs the graph.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// First step: tokens and sentences, into the scratch.
    pub(crate) fn encode(
        &self,
        scratch: &mut Scratch<'_>,
        text: &str,
        sentences: impl Iterator<Item = Range<usize>>,
        on_overflow: Overflow,
    ) -> Result<(), LabelError> {
        if scratch.limits != self.limits() || !self.engine.takes(&scratch.engine) {
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
    pub(crate) fn run(&self, scratch: &mut Scratch<'_>) -> Result<(), LabelError> {
        let Scratch { encoding, engine, .. } = scratch;
        let logits = self.engine.run(engine, encoding.ids(), encoding.sentence_ids()).map_err(LabelError::from)?;
        let labels = self.labels.len();
        let sentences = logits.sentences.get(..encoding.sentences().len() * labels);
        let finite = |logits: &[f32]| logits.iter().all(|logit| logit.is_finite());
        if finite(logits.document) && sentences.is_some_and(finite) { Ok(()) } else { Err(LabelError::NotFinite) }
    }

    /// Tokens, sentences, labels.
    pub(crate) fn limits(&self) -> [usize; 3] {
        [self.max_tokens, self.max_sentences, self.labels.len()]
    }

    /// Third step: what the logits in the scratch mean.
    #[cfg(feature = "eval")]
    pub(crate) fn decide(&self, scratch: &Scratch<'_>) -> Report<'_> {
        self.decide_at(scratch, self.point)
    }

    fn decide_at(&self, scratch: &Scratch<'_>, point: OperatingPoint) -> Report<'_> {
        let (encoding, logits) = (&scratch.encoding, scratch.engine.logits());
        let counts = Counts {
            text_tokens: encoding.text_tokens(),
            kept_tokens: encoding.kept_tokens(),
            unknown_tokens: encoding.unknown_tokens(),
            sentences: encoding.sentences().len(),
        };
        let score = self.score(scratch.engine.pooled(counts.sentences), logits.document);
        let of = |logits: &[f32], label: usize| logits.get(label).copied().unwrap_or(f32::NAN);
        let sentences = |label| {
            let rows = logits.sentences.chunks_exact(self.labels.len());
            let sentences = encoding.sentences().zip(rows);
            evidence(sentences.map(|(sentence, row)| (sentence.start, sentence.end, of(row, label))))
        };
        self.report(counts, score, point, |label| of(logits.document, label), sentences)
    }
}

impl Labeler {
    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Whether the encoded text may be more than the model takes: tokens are missing, or its last sentence may be several.
    #[cfg(feature = "eval")]
    pub(crate) fn overflows(&self, scratch: &Scratch<'_>) -> bool {
        let encoding = &scratch.encoding;
        encoding.kept_tokens() < encoding.text_tokens() || encoding.sentences().len() == self.max_sentences
    }

    pub(crate) fn head(&self) -> Head {
        self.head
    }

    /// How strange a text is, of which the engine has left this pooled vector and these document logits.
    pub(crate) fn score(&self, pooled: Option<&[f32]>, logits: &[f32]) -> Option<OutOfDistributionScore> {
        self.decision.score(pooled, logits)
    }

    /// The report of a text without tokens.
    pub(crate) fn report_of_nothing(&self, point: OperatingPoint) -> Report<'_> {
        Report::of_nothing(self.decision.name(point))
    }

    /// What counts, score, document logits and evidence mean at an operating point. `evidence` is asked only for labels whose
    /// probability reaches the threshold.
    pub(crate) fn report(
        &self,
        counts: Counts,
        score: Option<OutOfDistributionScore>,
        point: OperatingPoint,
        logit: impl Fn(usize) -> f32,
        evidence: impl Fn(usize) -> heapless::Vec<Evidence, MAX_EVIDENCE>,
    ) -> Report<'_> {
        let Counts { text_tokens, kept_tokens, unknown_tokens, sentences } = counts;
        let mut labels = heapless::Vec::new();
        for (index, (Label { code, name }, &threshold)) in
            self.labels.iter().zip(self.decision.thresholds(point)).enumerate()
        {
            let logit = logit(index);
            let probability = self.decision.probability(index, logit);
            let mut report = LabelReport { code, name, logit, probability, threshold, evidence: heapless::Vec::new() };
            if report.positive() {
                report.evidence = evidence(index);
            }
            // A manifest has at most as many labels as a report.
            let _ = labels.push(report);
        }
        let mut abstention = self.decision.abstention(text_tokens, unknown_tokens, score);
        if self.options.on_overflow == Overflow::Abstain && kept_tokens < text_tokens {
            abstention |= Abstention::TRUNCATED;
        }
        Report {
            labels,
            abstention,
            out_of_distribution: score,
            calibrated: self.decision.calibrated(),
            operating_point: self.decision.name(point),
            text_tokens,
            kept_tokens,
            unknown_tokens,
            sentences,
        }
    }

    /// Whether the operating point may be this model's.
    pub(crate) fn has_point(&self, point: OperatingPoint) -> bool {
        self.decision.thresholds(point).len() == self.labels.len()
    }

    /// The operating point of the options.
    pub(crate) fn point(&self) -> OperatingPoint {
        self.point
    }
}

/// What a text has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) text_tokens: usize,
    pub(crate) kept_tokens: usize,
    pub(crate) unknown_tokens: usize,
    pub(crate) sentences: usize,
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

/// Memory for the texts of one thread; [`Labeler::scratch`] and [`Labeler::scratch_in`] make it. It holds what came of the
/// last text until the next one, or [`zeroize`](Self::zeroize); when it is dropped, it is overwritten with zeros.
pub struct Scratch<'m> {
    /// Of the labeler that it was made for: tokens, sentences, labels.
    limits: [usize; 3],
    pub(crate) encoding: Encoding<'m>,
    pub(crate) engine: EngineScratch<'m>,
}

impl Scratch<'_> {
    /// Overwrites all that the last text has left.
    pub fn zeroize(&mut self) {
        self.encoding.zeroize();
        self.engine.zeroize();
    }

    /// Whether a second thread computes half of longer texts.
    pub fn has_second_thread(&self) -> bool {
        self.engine.has_second_thread()
    }

    /// When texts that are labelled with this scratch must be given up, from now on: [`LabelError::DeadlineExceeded`].
    ///
    /// ```
    /// # use std::time::{Duration, Instant};
    /// # use kdh_runtime::{Bundle, LabelError, Labeler, LabelerOptions, engine::Stop};
    /// # let bundle = Bundle::parse(include_bytes!("../tests/data/tiny.kdh")).unwrap();
    /// # let labeler = Labeler::from_bundle(&bundle, &LabelerOptions::new().allow_unsigned()).unwrap();
    /// let mut scratch = labeler.scratch();
    /// scratch.set_stop(Stop::new().deadline(Instant::now() + Duration::from_secs(5)));
    /// assert!(labeler.label(&mut scratch, "The cells divided.").is_ok());
    ///
    /// scratch.set_stop(Stop::new().deadline(Instant::now()));
    /// assert_eq!(labeler.label(&mut scratch, "The cells divided."), Err(LabelError::DeadlineExceeded));
    /// ```
    pub fn set_stop(&mut self, stop: Stop) {
        self.engine.set_stop(stop);
    }
}

/// Shows nothing of the last text.
impl fmt::Debug for Scratch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}

/// How a [`Labeler`] treats its bundle and texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelerOptions {
    on_overflow: Overflow,
    max_text_bytes: usize,
    engine: EngineChoice,
    kernels: Option<Kernels>,
    trust: Trust,
    limits: Limits,
    self_test: bool,
    operating_point: Option<String>,
}

impl LabelerOptions {
    /// Longest text unless [`max_text_bytes`](Self::max_text_bytes) says otherwise: 1 MiB.
    pub const DEFAULT_MAX_TEXT_BYTES: usize = 1 << 20;

    /// Trust nobody's bundle, truncate texts of too many tokens, refuse texts of more than 1 MiB.
    pub fn new() -> Self {
        Self {
            on_overflow: Overflow::Truncate,
            max_text_bytes: Self::DEFAULT_MAX_TEXT_BYTES,
            engine: EngineChoice::Auto,
            kernels: None,
            trust: Trust::new(),
            limits: Limits::new(),
            self_test: false,
            operating_point: None,
        }
    }

    /// Whose bundles are taken. Without this, and without [`allow_unsigned`](Self::allow_unsigned), none is.
    #[must_use]
    pub fn trust(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// Refuses bundles of a lower rollback counter than this, or than the trust's own minimum.
    #[must_use]
    pub fn minimum_rollback_counter(mut self, counter: u64) -> Self {
        self.trust = self.trust.minimum_rollback_counter(counter);
        self
    }

    /// Labels the bundle's golden texts while the labeler is built, and gives none when a logit is not what the exporter
    /// recorded: [`Labeler::self_test`]. Takes about as long as labelling them, some tens of texts.
    #[must_use]
    pub fn self_test(mut self, self_test: bool) -> Self {
        self.self_test = self_test;
        self
    }

    /// Who vouches for a bundle.
    pub(crate) fn verify(&self, bundle: &Bundle<'_>) -> Result<Signer, Untrusted> {
        self.trust.verify(bundle)
    }

    /// Takes bundles that nobody trusted has signed: whoever can write the file then chooses the model. For development,
    /// and for devices that protect the file by other means.
    #[must_use]
    pub fn allow_unsigned(mut self) -> Self {
        self.trust = self.trust.allow_unsigned();
        self
    }

    /// What happens to a text of more tokens than the model takes.
    #[must_use]
    pub fn on_overflow(mut self, overflow: Overflow) -> Self {
        self.on_overflow = overflow;
        self
    }

    /// Which of the bundle's operating points holds, by name; the first one otherwise.
    #[must_use]
    pub fn operating_point(mut self, name: impl Into<String>) -> Self {
        self.operating_point = Some(name.into());
        self
    }

    /// Longest text, in bytes; a longer one is refused before any work. At most 4 GiB.
    #[must_use]
    pub fn max_text_bytes(mut self, bytes: usize) -> Self {
        // Reports hold byte offsets as `u32`.
        self.max_text_bytes = bytes.min(u32::MAX as usize);
        self
    }

    /// Which engine runs the model.
    #[must_use]
    pub fn engine(mut self, engine: EngineChoice) -> Self {
        self.engine = engine;
        self
    }

    /// Which kernels the arena uses, instead of the fastest that the processor has. All give the same bits.
    #[must_use]
    pub fn kernels(mut self, kernels: Kernels) -> Self {
        self.kernels = Some(kernels);
        self
    }

    /// What a bundle's model may take for one text; a bundle that could take more is refused.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
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
    /// The model sees the first tokens, and the report abstains: [`Abstention::TRUNCATED`].
    Abstain,
}

/// A bundle does not make a labeler.
#[derive(Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// The bundle.
    Bundle(BundleError),
    /// Nobody that the options trust vouches for the bundle.
    Untrusted(Untrusted),
    /// The manifest.
    Manifest(ManifestError),
    /// What the bundle makes of the logits.
    Decisions(DecisionsError),
    /// The bundle has no operating point of the name that the options give.
    OperatingPoint,
    /// The bundle holds no ONNX graph, and its program does not do.
    NoGraph,
    /// The section of the stored program.
    ProgramSection(ProgramSectionError),
    /// The stored program.
    Program(ProgramError),
    /// The stored program was lowered from another graph.
    ForeignGraph,
    /// The stored program takes or gives something else than manifest and vocabulary say.
    Shape {
        /// Of the program.
        program: Shape,
        /// Of manifest and vocabulary.
        bundle: Shape,
    },
    /// The vocabulary.
    Vocabulary(VocabularyError),
    /// The graph, or its fit to the manifest.
    Engine(EngineError),
    /// The options ask for a self-test, and it failed.
    SelfTest(SelfTestError),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundle(error) => error.fmt(f),
            Self::Untrusted(error) => error.fmt(f),
            Self::Manifest(error) => error.fmt(f),
            Self::Decisions(error) => error.fmt(f),
            Self::OperatingPoint => {
                f.write_str("the bundle has no operating point of this name; `kdh inspect` shows those that it has")
            }
            Self::NoGraph if cfg!(feature = "tract") => f.write_str(
                "the bundle holds no ONNX graph, which tract needs; give the graph that was packed beside it, or let the \
                 engine choose",
            ),
            Self::NoGraph => f.write_str(
                "the bundle holds no stored program, and this build reads no graphs; pack it with a program",
            ),
            Self::ProgramSection(error) => error.fmt(f),
            Self::Program(error) => write!(f, "the bundle's program: {error}"),
            Self::ForeignGraph => f.write_str("the bundle's program was lowered from another graph; pack the bundle again"),
            Self::Shape { program, bundle } => {
                write!(f, "the bundle's program is for {program:?}, manifest and vocabulary say {bundle:?}; pack it again")
            }
            Self::Vocabulary(error) => write!(f, "the bundle's vocabulary: {error}"),
            Self::Engine(error) => error.fmt(f),
            Self::SelfTest(error) => error.fmt(f),
        }
    }
}

// The texts above already hold the text of the cause, so `source` stays empty: a chain would print it twice.
impl core::error::Error for BuildError {}

/// A text gets no labels. The error holds nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LabelError {
    /// The text is empty, or has nothing but white space and control characters, where a measurement needs a text. A
    /// report of such a text abstains: [`Abstention::EMPTY`].
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
    /// The bytes of a document are not UTF-8.
    InvalidUtf8 {
        /// Where the first character begins that is none.
        byte: usize,
    },
    /// A sentence that the caller gave does not lie on characters of the text, or is out of order.
    Sentences,
    /// The scratch was made by the labeler of another model.
    ForeignScratch,
    /// The scratch's [`Stop`] was due before the labels were found.
    DeadlineExceeded,
    /// The operating point is another labeler's.
    ForeignPoint,
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
            Self::InvalidUtf8 { byte } => write!(f, "not UTF-8 at byte {byte}; convert the text to UTF-8"),
            Self::Sentences => f.write_str(
                "a sentence does not lie on characters of the text or is out of order; give ascending byte ranges",
            ),
            Self::ForeignScratch => {
                f.write_str("the scratch belongs to another model; make one with this labeler's `scratch`")
            }
            Self::DeadlineExceeded => RunError::Stopped.fmt(f),
            Self::ForeignPoint => {
                f.write_str("the operating point belongs to another model; take one from this labeler")
            }
            Self::Engine(error) => error.fmt(f),
            Self::NotFinite => {
                f.write_str("the model gave a logit that is not a finite number; check the bundle with `kdh verify`")
            }
        }
    }
}

impl core::error::Error for LabelError {}

impl From<RunError> for LabelError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Stopped => Self::DeadlineExceeded,
            error => Self::Engine(error),
        }
    }
}

struct Label {
    code: String,
    name: String,
}

/// Lowers the graph of a bundle, or the one that it leaves out, to the program that it stores or may store.
///
/// # Errors
///
/// [`BuildError::NoGraph`] when there is no graph; [`BuildError::ForeignGraph`] when the bundle's program is another graph's;
/// [`BuildError`] with an [`EngineError::Lower`] when the graph cannot be lowered; otherwise when the bundle's parts cannot be
/// read.
#[cfg(feature = "tract")]
pub fn lower_bundle(bundle: &Bundle<'_>, graph: Option<&[u8]>) -> Result<Program, BuildError> {
    let manifest = bundle.manifest().map_err(BuildError::Manifest)?;
    let shape = shape(&manifest, &tokenizer(bundle, &manifest)?);
    check_digests(bundle, graph)?;
    let graph = graph.or_else(|| bundle.section(SectionKind::Onnx)).ok_or(BuildError::NoGraph)?;
    crate::lower::lower(graph, shape).map_err(|error| BuildError::Engine(EngineError::Lower(error)))
}

/// The bundle's program, if its graph and the given one are the one that it was lowered from.
fn check_digests<'b>(bundle: &Bundle<'b>, graph: Option<&[u8]>) -> Result<Option<&'b [u8]>, BuildError> {
    let Some(section) = bundle.program().transpose().map_err(BuildError::ProgramSection)? else { return Ok(None) };
    let of_bundle = bundle.sections().find(|section| section.kind == SectionKind::Onnx as u32);
    let digests = [of_bundle.map(|section| section.sha256), graph.map(|graph| Sha256::digest(graph).into())];
    if digests.into_iter().flatten().any(|digest: [u8; 32]| digest != section.onnx_sha256) {
        return Err(BuildError::ForeignGraph);
    }
    Ok(Some(section.program))
}

/// The stored program if there is one and the options allow it, otherwise the graph.
fn engine(
    bundle: &Bundle<'_>,
    graph: Option<&[u8]>,
    shape: Shape,
    options: &LabelerOptions,
    parse: impl FnOnce(&[u8]) -> Result<Program, ProgramError>,
) -> Result<Engine, BuildError> {
    let program = check_digests(bundle, graph)?;
    if let Some(program) = program.filter(|_| options.engine != EngineChoice::Tract) {
        let program = parse(program).map_err(BuildError::Program)?;
        if program.shape() != shape {
            return Err(BuildError::Shape { program: program.shape(), bundle: shape });
        }
        let reference = reference(bundle, &program);
        return Engine::from_stored(program, options.kernels, &options.limits, reference).map_err(BuildError::Engine);
    }
    #[cfg(feature = "tract")]
    if let Some(graph) = graph.or_else(|| bundle.section(SectionKind::Onnx)) {
        return Engine::from_graph(graph, shape, options.engine, options.kernels, &options.limits)
            .map_err(BuildError::Engine);
    }
    Err(BuildError::NoGraph)
}

/// What the weights of a stored program must stay: the end of a section whose digest the bundle has.
fn reference(bundle: &Bundle<'_>, program: &Program) -> Option<Reference> {
    let section = bundle.sections().find(|section| section.kind == SectionKind::Program as u32)?;
    let before = section.bytes.get(..section.bytes.len().checked_sub(program.weights_len())?)?;
    Some(Reference::new(before, section.sha256))
}

fn shape(manifest: &Manifest<'_>, tokenizer: &Tokenizer) -> Shape {
    Shape {
        labels: manifest.labels.len(),
        max_sentences: manifest.max_sentences as usize,
        max_tokens: manifest.max_tokens as usize,
        vocabulary: tokenizer.vocabulary_len(),
    }
}

fn tokenizer(bundle: &Bundle<'_>, manifest: &Manifest<'_>) -> Result<Tokenizer, BuildError> {
    let vocabulary = bundle.section(SectionKind::Vocabulary).unwrap_or_default();
    let options = TokenizerOptions {
        lowercase: manifest.tokenizer.lowercase,
        cls: manifest.tokenizer.cls,
        sep: manifest.tokenizer.sep,
        unk: manifest.tokenizer.unk,
    };
    Tokenizer::new(vocabulary, &options).map_err(BuildError::Vocabulary)
}
