//! Runs the model of a bundle: token ids and sentence ids in, logits out.
//!
//! An [`Engine`] is immutable and shared between threads; what it writes to is the caller's [`EngineScratch`], one for
//! each thread. A [`Program`] runs on the arena: planned buffers, kernels for this processor, and neither an allocation, a
//! lock, a system call nor a panic while it runs. An ONNX graph is lowered to a program where that is possible, and
//! otherwise runs on [tract](https://github.com/sonos/tract), which is the reference.

use core::fmt;
use std::sync::Arc;

use zeroize::Zeroize;

use crate::kernels::Kernels;
#[cfg(feature = "tract")]
use crate::lower::{Graph, LowerError};
use crate::program::{ALIGNMENT, Plan, Pooled, Program};

pub use self::limits::Limits;
pub(crate) use self::scrub::Reference;
pub use self::scrub::{Scrub, ScrubError, Scrubbed};
pub use self::stop::{Cancel, Stop};
pub use crate::program::Shape;

mod arena;
mod exchange;
mod limits;
mod pair;
mod prepared;
mod scrub;
mod stop;
#[cfg(feature = "tract")]
mod tract;

/// A model that is ready to run.
pub struct Engine {
    runner: Runner,
    shape: Shape,
    kernels: Vec<String>,
    origin: Origin,
    reference: Option<Reference>,
    #[cfg(feature = "tract")]
    not_lowered: Option<LowerError>,
}

/// Which engine runs a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum EngineChoice {
    /// The arena if the bundle has a program or its graph can be lowered to one, otherwise tract.
    #[default]
    Auto,
    /// The arena or none.
    Arena,
    /// tract or none.
    Tract,
}

/// Where an engine's model comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A stored program whose weights are used where they lie.
    InPlace,
    /// A stored program whose weights were copied.
    Copied,
    /// A program that was lowered from an ONNX graph.
    Lowered,
    /// An ONNX graph.
    Graph,
}

enum Runner {
    Arena(Arc<arena::Arena>),
    #[cfg(feature = "tract")]
    Tract(tract::Graph),
}

impl Engine {
    /// Runs a program, with `kernels` or the fastest that this processor has, and tries it once on its shortest input.
    ///
    /// # Errors
    ///
    /// [`EngineError`] when the processor does not have the kernels, or the program needs more than [`Limits::new`] allows.
    pub fn from_program(program: Program, kernels: Option<Kernels>) -> Result<Self, EngineError> {
        Self::from_stored(program, kernels, &Limits::new(), None)
    }

    /// `reference` is what the weights must stay; otherwise it is what they are now.
    pub(crate) fn from_stored(
        program: Program,
        kernels: Option<Kernels>,
        limits: &Limits,
        reference: Option<Reference>,
    ) -> Result<Self, EngineError> {
        let origin = if program.weights_in_place() { Origin::InPlace } else { Origin::Copied };
        Self::on_arena(program, kernels, origin, limits, reference)
    }

    /// Reads an ONNX model: lowers it to a program if that is possible and `choice` allows it, otherwise optimises it for
    /// tract. [`not_lowered`](Self::not_lowered) says why it is tract.
    ///
    /// On tract the model is run once on its shortest and once on its longest input, so that a graph that cannot take them
    /// fails here and not at the first long text.
    ///
    /// # Errors
    ///
    /// [`EngineError`] when the model cannot be read or run, or gives other logits than `shape` says.
    #[cfg(feature = "tract")]
    pub fn from_onnx(
        model: &[u8],
        shape: Shape,
        choice: EngineChoice,
        kernels: Option<Kernels>,
    ) -> Result<Self, EngineError> {
        Self::from_graph(model, shape, choice, kernels, &Limits::new())
    }

    #[cfg(feature = "tract")]
    pub(crate) fn from_graph(
        model: &[u8],
        shape: Shape,
        choice: EngineChoice,
        kernels: Option<Kernels>,
        limits: &Limits,
    ) -> Result<Self, EngineError> {
        let graph = match Graph::read(model, shape.max_tokens) {
            Ok(graph) => graph,
            Err(cause) if choice == EngineChoice::Arena => return Err(EngineError::Lower(LowerError::Graph(cause))),
            Err(cause) => return Err(EngineError::Model(GraphError(cause))),
        };
        let not_lowered = match choice {
            EngineChoice::Tract => None,
            EngineChoice::Auto | EngineChoice::Arena => match graph.lower(shape) {
                Ok(program) => return Self::on_arena(program, kernels, Origin::Lowered, limits, None),
                Err(error) if choice == EngineChoice::Arena => return Err(EngineError::Lower(error)),
                Err(error) => Some(error),
            },
        };
        let graph = tract::Graph::new(graph, limits)?;
        let kernels = graph.kernels().to_vec();
        let engine =
            Self { runner: Runner::Tract(graph), shape, kernels, origin: Origin::Graph, reference: None, not_lowered };
        engine.tried(&[SHORTEST, shape.max_tokens])
    }

    fn on_arena(
        program: Program,
        kernels: Option<Kernels>,
        origin: Origin,
        limits: &Limits,
        reference: Option<Reference>,
    ) -> Result<Self, EngineError> {
        limits.check(&program)?;
        let reference = reference.unwrap_or_else(|| Reference::of_weights(program.weights().bytes()));
        let kernels = kernels.unwrap_or_else(Kernels::detect);
        let shape = program.shape();
        let arena = arena::Arena::new(program, kernels, limits)?;
        let reference = reference.with_prepared(arena.prepared().bytes());
        let engine = Self {
            runner: Runner::Arena(Arc::new(arena)),
            shape,
            kernels: vec![kernels.name().into()],
            origin,
            reference: Some(reference),
            #[cfg(feature = "tract")]
            not_lowered: None,
        };
        // The program has been checked as a whole: one short run, so that opening a bundle stays short.
        engine.tried(&[SHORTEST])
    }

    /// Bytes of a scratch that [`Engine::scratch_in`] takes: all memory that a run writes to, but on tract what tract
    /// allocates.
    pub fn memory_required(&self) -> usize {
        // Wherever the memory lies, a multiple of 64 is in the first 64 bytes.
        self.arena_len() + ALIGNMENT
    }

    /// Memory for one thread's runs.
    pub fn scratch(&self) -> EngineScratch<'static> {
        self.scratch_of(Memory::Owned(vec![0; self.memory_required()]))
    }

    /// As [`scratch`](Self::scratch), for a machine that may not have the memory.
    ///
    /// # Errors
    ///
    /// [`EngineError::OutOfMemory`].
    pub fn try_scratch(&self) -> Result<EngineScratch<'static>, EngineError> {
        let bytes = self.memory_required();
        let mut memory = Vec::new();
        memory.try_reserve_exact(bytes).map_err(|_| EngineError::OutOfMemory { bytes })?;
        memory.resize(bytes, 0);
        Ok(self.scratch_of(Memory::Owned(memory)))
    }

    /// As [`try_scratch`](Self::try_scratch), with a second thread that computes half of every text of at least
    /// [`TWO_THREADS_FROM`](Self::TWO_THREADS_FROM) tokens: the same bits, sooner where a second core is free. The thread lives as
    /// long as the scratch, inherits what the calling thread has of the scheduler (its cores among it), and sleeps between
    /// texts that do not follow each other at once. Shorter texts, and engines whose model it cannot halve (tract, and
    /// attention whose heads are no multiple of 16 wide), run on the calling thread alone:
    /// [`has_second_thread`](EngineScratch::has_second_thread).
    ///
    /// With it a run still allocates nothing, but may call the system: to wake the second thread, and to let others run when the
    /// second core is not free.
    ///
    /// # Errors
    ///
    /// [`EngineError::OutOfMemory`], [`EngineError::Thread`].
    pub fn try_scratch_with_second_thread(&self) -> Result<EngineScratch<'static>, EngineError> {
        let mut scratch = self.try_scratch()?;
        if let Some(arena) = self.halved() {
            scratch.pair = Some(pair::Pair::start(Arc::clone(arena), self.try_scratch()?)?);
        }
        Ok(scratch)
    }

    /// Tokens of the shortest text that a second thread shares.
    pub const TWO_THREADS_FROM: usize = 16;

    /// Bytes that a second thread takes beside the scratch, without its stack; 0 when there would be none.
    pub fn memory_required_of_second_thread(&self) -> usize {
        self.halved().map_or(0, |arena| self.memory_required() + pair::Pair::memory_required(arena))
    }

    /// The arena, if two threads can share its texts.
    fn halved(&self) -> Option<&Arc<arena::Arena>> {
        match &self.runner {
            Runner::Arena(arena) => Some(arena).filter(|arena| arena.can_be_halved()),
            #[cfg(feature = "tract")]
            Runner::Tract(_) => None,
        }
    }

    /// One thread's runs in the caller's memory.
    ///
    /// # Errors
    ///
    /// [`ScratchTooSmall`] when `memory` is shorter than [`Engine::memory_required`].
    pub fn scratch_in<'m>(&self, memory: &'m mut [u8]) -> Result<EngineScratch<'m>, ScratchTooSmall> {
        let required = self.memory_required();
        if memory.len() < required {
            return Err(ScratchTooSmall { required, given: memory.len() });
        }
        Ok(self.scratch_of(Memory::Borrowed(memory)))
    }

    /// A scratch in the first bytes of `memory`, and the bytes behind it, which begin at a multiple of 4. It takes as few as it
    /// can: [`Engine::memory_required`] at most. `None` when there are too few.
    pub(crate) fn split_scratch<'m>(&self, memory: &'m mut [u8]) -> Option<(EngineScratch<'m>, &'m mut [u8])> {
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        let (memory, rest) = memory.split_at_mut_checked(start.checked_add(self.arena_len())?)?;
        Some((self.scratch_of(Memory::Borrowed(memory)), rest))
    }

    /// Runs the model on one text: `ids` and `sentence_ids` have one entry a token, the special tokens included; a
    /// sentence id is -1 for a token of no sentence.
    ///
    /// # Errors
    ///
    /// [`RunError`] when the input or the scratch does not fit the model, or the scratch's [`Stop`] was due between two
    /// steps. It says nothing of the input.
    pub fn run<'s>(
        &self,
        scratch: &'s mut EngineScratch<'_>,
        ids: &[u32],
        sentence_ids: &[i32],
    ) -> Result<Logits<'s>, RunError> {
        self.run_in(scratch, ids, sentence_ids)?;
        Ok(scratch.logits())
    }

    /// Name and version of what runs the model.
    pub fn name(&self) -> &'static str {
        match &self.runner {
            Runner::Arena(_) => "arena",
            #[cfg(feature = "tract")]
            Runner::Tract(_) => tract::NAME,
        }
    }

    /// Names of the matrix kernels that were chosen for this processor.
    pub fn kernels(&self) -> &[String] {
        &self.kernels
    }

    /// The program, if the engine runs one.
    pub fn program(&self) -> Option<&Program> {
        match &self.runner {
            Runner::Arena(arena) => Some(arena.program()),
            #[cfg(feature = "tract")]
            Runner::Tract(_) => None,
        }
    }

    /// Where the model comes from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Why the model runs on tract although the arena would have been taken.
    #[cfg(feature = "tract")]
    pub fn not_lowered(&self) -> Option<&LowerError> {
        self.not_lowered.as_ref()
    }

    /// Width of the pooled vector that a run leaves; `None` when the engine does not keep it.
    pub(crate) fn pooled_width(&self) -> Option<usize> {
        self.layout().pooled.map(|pooled| pooled.width)
    }

    /// Whether the scratch is laid out as this engine's own.
    pub(crate) fn takes(&self, scratch: &EngineScratch<'_>) -> bool {
        let second_is_of_this = match (&scratch.pair, &self.runner) {
            (None, _) => true,
            (Some(pair), Runner::Arena(arena)) => pair.is_of(arena),
            #[cfg(feature = "tract")]
            (Some(_), Runner::Tract(_)) => false,
        };
        scratch.layout == self.layout()
            && scratch.plan.as_ref() == self.program().map(Program::plan)
            && second_is_of_this
    }

    fn scratch_of<'m>(&self, memory: Memory<'m>) -> EngineScratch<'m> {
        let plan = self.program().map(|program| program.plan().clone());
        EngineScratch { memory, layout: self.layout(), plan, used: None, stop: Stop::new(), pair: None }
    }

    fn layout(&self) -> Layout {
        let Shape { labels, max_sentences, .. } = self.shape;
        let [sentences, document] = match &self.runner {
            Runner::Arena(arena) => arena.program().plan().logits().map(|buffer| buffer.start),
            #[cfg(feature = "tract")]
            Runner::Tract(_) => [0, 4 * max_sentences * labels],
        };
        let pooled = self.program().and_then(|program| program.plan().pooled());
        Layout {
            sentences: (sentences, max_sentences * labels),
            document: (document, labels),
            pooled,
            len: self.arena_len(),
        }
    }

    /// Bytes at a multiple of 64.
    fn arena_len(&self) -> usize {
        match &self.runner {
            Runner::Arena(arena) => arena.program().memory_required(),
            #[cfg(feature = "tract")]
            Runner::Tract(_) => 4 * (self.shape.max_sentences + 1) * self.shape.labels,
        }
    }

    fn run_in(&self, scratch: &mut EngineScratch<'_>, ids: &[u32], sentence_ids: &[i32]) -> Result<(), RunError> {
        let fits =
            self.takes(scratch) && ids.len() == sentence_ids.len() && (1..=self.shape.max_tokens).contains(&ids.len());
        if scratch.stop.is_due() {
            return Err(RunError::Stopped);
        }
        if !fits {
            return Err(RunError::Failed);
        }
        scratch.uses(ids.len(), arena::used_sentences(self.shape, sentence_ids));
        let (memory, stop, pair) = scratch.arena_mut().ok_or(RunError::Failed)?;
        match &self.runner {
            Runner::Arena(arena) => match pair.filter(|_| ids.len() >= Self::TWO_THREADS_FROM) {
                Some(pair) => pair.run(memory, stop, ids, sentence_ids),
                None => arena.run(memory, stop, ids, sentence_ids),
            },
            #[cfg(feature = "tract")]
            // The cause is dropped: tract's errors may show the values of tensors, which come from the text.
            Runner::Tract(graph) => self.run_graph(graph, memory, ids, sentence_ids).map_err(|_| RunError::Failed),
        }
    }

    #[cfg(feature = "tract")]
    fn run_graph(
        &self,
        graph: &tract::Graph,
        memory: &mut [u8],
        ids: &[u32],
        sentence_ids: &[i32],
    ) -> Result<(), GraphError> {
        let Shape { labels, max_sentences, .. } = self.shape;
        let small = || GraphError("the scratch is too small".into());
        let logits: &mut [f32] = bytemuck::try_cast_slice_mut(memory).map_err(|_| small())?;
        let (sentences, rest) = logits.split_at_mut_checked(max_sentences * labels).ok_or_else(small)?;
        graph.run(ids, sentence_ids, sentences, rest.get_mut(..labels).ok_or_else(small)?)
    }

    /// Runs inputs of these lengths, or the longest if that is shorter.
    fn tried(self, lengths: &[usize]) -> Result<Self, EngineError> {
        let mut scratch = self.try_scratch()?;
        for &tokens in lengths {
            self.try_run(&mut scratch, tokens.min(self.shape.max_tokens))?;
        }
        Ok(self)
    }

    /// Runs an input without text: the highest token id, and every sentence id as far as the tokens reach.
    fn try_run(&self, scratch: &mut EngineScratch<'_>, tokens: usize) -> Result<(), EngineError> {
        let ids = vec![u32::try_from(self.shape.vocabulary.saturating_sub(1)).unwrap_or(u32::MAX); tokens];
        let last = i32::try_from(self.shape.max_sentences).unwrap_or(i32::MAX) - 1;
        let mut sentence_ids: Vec<i32> = (-1..).map(|id: i32| id.min(last)).take(tokens).collect();
        if let Some(last) = sentence_ids.last_mut() {
            *last = -1;
        }
        let failed = |error| EngineError::Input { tokens, error };
        #[cfg(feature = "tract")]
        if let Runner::Tract(graph) = &self.runner {
            scratch.uses(tokens, self.shape.max_sentences);
            let memory = scratch.arena_mut().map(|(memory, ..)| memory).unwrap_or_default();
            return self.run_graph(graph, memory, &ids, &sentence_ids).map_err(failed);
        }
        self.run_in(scratch, &ids, &sentence_ids).map_err(|error| failed(GraphError(error.to_string())))
    }
}

/// Shows the shape, not the weights.
impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("name", &self.name())
            .field("kernels", &self.kernels)
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

/// Memory of one thread's runs: of its own, or the caller's.
///
/// When it is dropped, what its runs have written is overwritten with zeros.
pub struct EngineScratch<'m> {
    memory: Memory<'m>,
    layout: Layout,
    /// `None` on tract.
    plan: Option<Arc<Plan>>,
    /// Most tokens and most sentences of a run since the memory was overwritten; `None` when there was none.
    used: Option<(usize, usize)>,
    stop: Stop,
    pair: Option<pair::Pair>,
}

/// Where the logits lie, in an arena of `len` bytes: first byte and number of each.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Layout {
    sentences: (usize, usize),
    document: (usize, usize),
    /// What the head has averaged; `None` on tract.
    pooled: Option<Pooled>,
    len: usize,
}

enum Memory<'m> {
    Owned(Vec<u8>),
    Borrowed(&'m mut [u8]),
}

impl EngineScratch<'_> {
    /// Overwrites all that the runs since the last time have left: the more, the longer the longest text was.
    pub fn zeroize(&mut self) {
        let Some((tokens, sentences)) = self.used.take() else { return };
        if let Some(pair) = &mut self.pair {
            pair.zeroize();
        }
        let plan = self.plan.clone();
        let arena = self.arena_mut().map(|(arena, ..)| arena).unwrap_or_default();
        match plan {
            Some(plan) => {
                for range in plan.written(tokens, sentences) {
                    arena.get_mut(range).unwrap_or_default().zeroize();
                }
            }
            None => arena.zeroize(),
        }
    }

    /// Whether a second thread computes half of longer texts.
    pub fn has_second_thread(&self) -> bool {
        self.pair.is_some()
    }

    /// When runs must end early, from now on. Nothing of it is kept by [`zeroize`](Self::zeroize) or changed by a run.
    pub fn set_stop(&mut self, stop: Stop) {
        self.stop = stop;
    }

    /// The memory itself. A run reads nothing that it has not written, so whatever is put here changes no result; it is the
    /// caller's to overwrite.
    pub fn memory_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Owned(bytes) => bytes,
            Memory::Borrowed(bytes) => bytes,
        }
    }

    /// Says before a run what it may write.
    fn uses(&mut self, tokens: usize, sentences: usize) {
        let (most_tokens, most_sentences) = self.used.unwrap_or_default();
        self.used = Some((tokens.max(most_tokens), sentences.max(most_sentences)));
    }

    /// The logits of the last run.
    pub(crate) fn logits(&self) -> Logits<'_> {
        Logits { sentences: self.floats(self.layout.sentences), document: self.floats(self.layout.document) }
    }

    /// The mean of the last hidden states over all tokens of the last run that belong to one of its `sentences`, `[hidden]`;
    /// `None` when the engine does not keep it.
    pub(crate) fn pooled(&self, sentences: usize) -> Option<&[f32]> {
        let Pooled { start, stride, width } = self.layout.pooled?;
        let pooled = self.floats((start + 4 * sentences * stride, width));
        (pooled.len() == width).then_some(pooled)
    }

    /// `count` floats of the arena from byte `start`; none when they do not lie in it.
    fn floats(&self, (start, count): (usize, usize)) -> &[f32] {
        let bytes = match &self.memory {
            Memory::Owned(bytes) => bytes,
            Memory::Borrowed(bytes) => &**bytes,
        };
        let arena = bytes.get(bytes.as_ptr().align_offset(ALIGNMENT)..).unwrap_or_default();
        let bytes = arena.get(start..start + 4 * count).unwrap_or_default();
        bytemuck::try_cast_slice(bytes).unwrap_or_default()
    }

    /// At a multiple of 64.
    fn arena_mut(&mut self) -> Option<(&mut [u8], &Stop, Option<&mut pair::Pair>)> {
        let len = self.layout.len;
        let bytes = match &mut self.memory {
            Memory::Owned(bytes) => bytes.as_mut_slice(),
            Memory::Borrowed(bytes) => bytes,
        };
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        Some((bytes.get_mut(start..start.checked_add(len)?)?, &self.stop, self.pair.as_mut()))
    }
}

impl Drop for EngineScratch<'_> {
    fn drop(&mut self) {
        self.zeroize();
    }
}

/// Shows no numbers, because they come from the text.
impl fmt::Debug for EngineScratch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineScratch").finish_non_exhaustive()
    }
}

/// The caller's memory is too small for a scratch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScratchTooSmall {
    /// Bytes that `memory_required` asks for.
    pub required: usize,
    /// Bytes that were given.
    pub given: usize,
}

impl fmt::Display for ScratchTooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the scratch needs {} bytes, {} were given; give what `memory_required` says",
            self.required, self.given
        )
    }
}

impl core::error::Error for ScratchTooSmall {}

/// What one run gives.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Logits<'s> {
    /// `[max_sentences, labels]`, row by row; -1e9 for a sentence without tokens.
    pub sentences: &'s [f32],
    /// `[labels]`.
    pub document: &'s [f32],
}

/// Shows no numbers, because they come from the text.
impl fmt::Debug for Logits<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logits").finish_non_exhaustive()
    }
}

/// A model cannot be run.
#[derive(Debug)]
#[non_exhaustive]
pub enum EngineError {
    /// The model cannot be read, or has operators or types that the engine does not know.
    Model(GraphError),
    /// The model fails on an input that the manifest allows, or gives logits of another shape than the manifest says.
    Input {
        /// Tokens of the input.
        tokens: usize,
        /// The cause.
        error: GraphError,
    },
    /// The processor does not have these kernels.
    Kernels(Kernels),
    /// The model could take more memory than the limits allow.
    Memory {
        /// Bytes that a scratch would take, or what kernels find of the weights.
        required: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// A text could take more arithmetic than the limits allow.
    MultiplyAdds {
        /// Multiply-adds of the longest text.
        required: u64,
        /// Multiply-adds allowed.
        max: u64,
    },
    /// The system does not give the memory.
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// The system does not give a second thread.
    Thread(std::io::ErrorKind),
    /// The arena is asked for, and the model cannot be lowered.
    #[cfg(feature = "tract")]
    Lower(LowerError),
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(GraphError(cause)) => {
                write!(f, "the bundle's graph cannot be read ({cause}); export the model again")
            }
            Self::Input { tokens, error: GraphError(cause) } => {
                write!(f, "the bundle's graph fails on {tokens} tokens ({cause}); export the model again")
            }
            #[cfg(feature = "tract")]
            Self::Lower(error) => write!(f, "the bundle's graph does not run on the arena: {error}"),
            Self::Memory { required, max } => write!(
                f,
                "the model takes {required} bytes beside its weights, {max} are allowed; raise max_memory if you trust the bundle"
            ),
            Self::MultiplyAdds { required, max } => write!(
                f,
                "the model takes {required} multiply-adds for its longest text, {max} are allowed; raise \
                 max_multiply_adds if you trust the bundle"
            ),
            Self::OutOfMemory { bytes } => {
                write!(f, "the system does not give {bytes} bytes; free memory, or take a smaller model")
            }
            Self::Thread(cause) => {
                write!(
                    f,
                    "the system does not give a second thread ({cause}); label with one, or raise the limit of threads"
                )
            }
            Self::Kernels(kernels) => {
                write!(f, "this processor does not have the kernels `{kernels}`; let the engine choose")
            }
        }
    }
}

impl core::error::Error for EngineError {}

/// What the library below says of a graph. It is made before any text is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphError(String);

/// The engine gives no logits for an input. It says no more, so that nothing of the text can get out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunError {
    /// The input or the scratch does not fit the model.
    #[default]
    Failed,
    /// The scratch's [`Stop`] was due.
    Stopped,
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Failed => "the engine failed on the text; check the bundle with `kdh verify`",
            Self::Stopped => "the text's time was up before its labels were found; allow more, or give a shorter text",
        })
    }
}

impl core::error::Error for RunError {}

/// `[CLS]`, one token of text, `[SEP]`.
const SHORTEST: usize = 3;
