//! Runs the model of a bundle: token ids and sentence ids in, logits out.
//!
//! An [`Engine`] is immutable and shared between threads; what it writes to is the caller's [`EngineScratch`], one for
//! each thread. There are two. The *arena* runs a [`Program`] with kernels of our own, in memory that is planned before
//! it is asked for, and allocates nothing. *tract* runs any ONNX graph of the contract, allocates with every text, and is
//! the reference.

use core::fmt;
use core::ops::Range;

use crate::kernels::Kernels;
#[cfg(feature = "tract")]
use crate::lower::{LowerError, lower};
use crate::program::Program;
pub use crate::program::Shape;

mod arena;
#[cfg(feature = "tract")]
mod tract;

/// A model that is ready to run.
pub struct Engine {
    runner: Runner,
    shape: Shape,
    origin: Origin,
    #[cfg(feature = "tract")]
    not_lowered: Option<LowerError>,
}

enum Runner {
    Arena(arena::Arena),
    #[cfg(feature = "tract")]
    Tract(tract::Graph),
}

/// Which engine runs a model, and on which kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineOptions {
    choice: EngineChoice,
    kernels: Option<Kernels>,
}

/// Which engine runs a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum EngineChoice {
    /// The arena if the model has a program or can be lowered to one, otherwise tract.
    #[default]
    Auto,
    /// The arena, or none.
    Arena,
    /// tract, or none.
    Tract,
}

/// Where an engine's model comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A stored program, whose weights are used where they lie.
    InPlace,
    /// A stored program, whose weights were copied.
    Copied,
    /// A program that was lowered from an ONNX graph.
    Lowered,
    /// An ONNX graph.
    Graph,
}

impl EngineOptions {
    /// The best engine for the model, on the best kernels for the processor.
    pub fn new() -> Self {
        Self::default()
    }

    /// Which engine to use.
    #[must_use]
    pub fn engine(mut self, choice: EngineChoice) -> Self {
        self.choice = choice;
        self
    }

    /// Which kernels the arena uses. All give the same bits.
    #[must_use]
    pub fn kernels(mut self, kernels: Kernels) -> Self {
        self.kernels = Some(kernels);
        self
    }

    pub(crate) fn choice(&self) -> EngineChoice {
        self.choice
    }
}

impl Engine {
    /// Takes a program.
    ///
    /// # Errors
    ///
    /// [`EngineError::Kernels`] when the processor does not have the kernels that the options ask for;
    /// [`EngineError::NoGraph`] when they ask for tract.
    pub fn from_program(program: Program, options: EngineOptions) -> Result<Self, EngineError> {
        let origin = if program.weights().in_place() { Origin::InPlace } else { Origin::Copied };
        Self::on_arena(program, options, origin)
    }

    /// Reads an ONNX model: lowers it to a program if that is possible, otherwise optimises it for tract.
    ///
    /// On tract the model is run once on its shortest and once on its longest input, so that a graph that cannot take them
    /// fails here and not at the first long text. A program has been checked to take both.
    ///
    /// # Errors
    ///
    /// [`EngineError`] when the model cannot be read or run, or gives other logits than `shape` says.
    #[cfg(feature = "tract")]
    pub fn from_onnx(model: &[u8], shape: Shape, options: EngineOptions) -> Result<Self, EngineError> {
        let not_lowered = match options.choice {
            EngineChoice::Tract => None,
            EngineChoice::Auto | EngineChoice::Arena => match lower(model, shape) {
                Ok(program) => return Self::on_arena(program, options, Origin::Lowered),
                Err(error) if options.choice == EngineChoice::Arena => return Err(EngineError::Lower(error)),
                Err(error) => Some(error),
            },
        };
        let graph = tract::Graph::new(model)?;
        let engine = Self { runner: Runner::Tract(graph), shape, origin: Origin::Graph, not_lowered };
        let mut scratch = engine.scratch();
        for tokens in [SHORTEST, shape.max_tokens.max(SHORTEST)] {
            engine.try_run(&mut scratch, tokens)?;
        }
        Ok(engine)
    }

    fn on_arena(program: Program, options: EngineOptions, origin: Origin) -> Result<Self, EngineError> {
        if options.choice == EngineChoice::Tract {
            return Err(EngineError::NoGraph);
        }
        let shape = program.shape();
        let kernels = options.kernels.unwrap_or_else(Kernels::detect);
        let arena = arena::Arena::new(program, kernels).ok_or(EngineError::Kernels(kernels))?;
        Ok(Self {
            runner: Runner::Arena(arena),
            shape,
            origin,
            #[cfg(feature = "tract")]
            not_lowered: None,
        })
    }

    /// Bytes that [`scratch`](Self::scratch) allocates and [`scratch_in`](Self::scratch_in) needs: on the arena all that a
    /// run writes to. tract allocates more with every run.
    pub fn memory_required(&self) -> usize {
        self.layout().len + ALIGNMENT
    }

    /// Memory for one thread's runs.
    pub fn scratch(&self) -> EngineScratch<'static> {
        EngineScratch::new(Memory::Owned(vec![0; self.memory_required()]), self.layout())
    }

    /// Memory for one thread's runs, in the caller's own, of which [`memory_required`](Self::memory_required) bytes are
    /// used. `None` when there are fewer.
    pub fn scratch_in<'m>(&self, memory: &'m mut [u8]) -> Option<EngineScratch<'m>> {
        let memory = memory.get_mut(..self.memory_required())?;
        Some(EngineScratch::new(Memory::Borrowed(memory), self.layout()))
    }

    /// Runs the model on one text: `ids` and `sentence_ids` have one entry a token, the special tokens included; a
    /// sentence id is -1 for a token of no sentence.
    ///
    /// # Errors
    ///
    /// [`RunError`] when the input or the scratch does not fit the model. It says nothing of the input.
    pub fn run<'s>(
        &self,
        scratch: &'s mut EngineScratch<'_>,
        ids: &[u32],
        sentence_ids: &[i32],
    ) -> Result<Logits<'s>, RunError> {
        let fits = scratch.layout == self.layout()
            && ids.len() == sentence_ids.len()
            && (1..=self.shape.max_tokens).contains(&ids.len());
        if !fits {
            return Err(RunError);
        }
        match &self.runner {
            Runner::Arena(arena) => arena.run(scratch.bytes_mut(), ids, sentence_ids)?,
            #[cfg(feature = "tract")]
            Runner::Tract(graph) => {
                let [sentences, document] = scratch.logits_mut().ok_or(RunError)?;
                // The cause is dropped: tract's errors may show the values of tensors, which come from the text.
                graph.run(ids, sentence_ids, sentences, document).map_err(|_| RunError)?;
            }
        }
        Ok(scratch.logits())
    }

    /// Name of the engine; tract with its version.
    pub fn name(&self) -> &'static str {
        match &self.runner {
            Runner::Arena(_) => "arena",
            #[cfg(feature = "tract")]
            Runner::Tract(_) => tract::NAME,
        }
    }

    /// Names of the kernels that were chosen for this processor: on the arena a family, on tract its matrix kernels.
    pub fn kernels(&self) -> Vec<&str> {
        match &self.runner {
            Runner::Arena(arena) => vec![arena.kernels().name()],
            #[cfg(feature = "tract")]
            Runner::Tract(graph) => graph.kernels().iter().map(String::as_str).collect(),
        }
    }

    /// Where the model comes from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// The program, on the arena.
    pub fn program(&self) -> Option<&Program> {
        match &self.runner {
            Runner::Arena(arena) => Some(arena.program()),
            #[cfg(feature = "tract")]
            Runner::Tract(_) => None,
        }
    }

    /// Why the model runs on tract, if the options left the choice.
    #[cfg(feature = "tract")]
    pub fn not_lowered(&self) -> Option<&LowerError> {
        self.not_lowered.as_ref()
    }

    fn layout(&self) -> Layout {
        match &self.runner {
            Runner::Arena(arena) => {
                let program = arena.program();
                let [sentences, document] = program.plan().logits().map(|buffer| buffer.range());
                Layout { len: program.memory_required(), sentences, document }
            }
            #[cfg(feature = "tract")]
            Runner::Tract(_) => {
                let Shape { labels, max_sentences, .. } = self.shape;
                let (sentences, document) = (4 * max_sentences * labels, 4 * labels);
                let len = sentences + document;
                Layout { len, sentences: 0..sentences, document: sentences..len }
            }
        }
    }

    /// Runs an input without text: the highest token id, and every sentence id as far as the tokens reach.
    #[cfg(feature = "tract")]
    fn try_run(&self, scratch: &mut EngineScratch<'_>, tokens: usize) -> Result<(), EngineError> {
        let Runner::Tract(graph) = &self.runner else { return Ok(()) };
        let ids = vec![u32::try_from(self.shape.vocabulary.saturating_sub(1)).unwrap_or(u32::MAX); tokens];
        let last = i32::try_from(self.shape.max_sentences).unwrap_or(i32::MAX) - 1;
        let mut sentence_ids: Vec<i32> = (-1..).map(|id: i32| id.min(last)).take(tokens).collect();
        sentence_ids[tokens - 1] = -1;
        let Some([sentences, document]) = scratch.logits_mut() else { return Ok(()) };
        graph
            .run(&ids, &sentence_ids, sentences, document)
            .map_err(|error| EngineError::Input { tokens, error })
    }
}

/// Shows the shape, not the weights.
impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("name", &self.name())
            .field("kernels", &self.kernels())
            .field("origin", &self.origin)
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

/// Memory of one thread's runs.
pub struct EngineScratch<'m> {
    memory: Memory<'m>,
    /// First byte of the memory that lies at a multiple of [`ALIGNMENT`]. Neither a `Vec` that is never resized nor a
    /// borrowed slice moves.
    start: usize,
    layout: Layout,
}

enum Memory<'m> {
    Owned(Vec<u8>),
    Borrowed(&'m mut [u8]),
}

/// Which bytes are what.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Layout {
    len: usize,
    /// `f32 [max_sentences, labels]`, and perhaps padding.
    sentences: Range<usize>,
    /// `f32 [labels]`, and perhaps padding.
    document: Range<usize>,
}

impl<'m> EngineScratch<'m> {
    fn new(memory: Memory<'m>, layout: Layout) -> Self {
        let mut scratch = Self { memory, start: 0, layout };
        scratch.start = scratch.all().as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        scratch
    }

    /// The logits of the last run.
    pub(crate) fn logits(&self) -> Logits<'_> {
        let bytes = self.all().get(self.start..).unwrap_or_default();
        let floats = |range: &Range<usize>| {
            let bytes = bytes.get(range.clone()).unwrap_or_default();
            bytemuck::try_cast_slice(bytes).unwrap_or_default()
        };
        Logits { sentences: floats(&self.layout.sentences), document: floats(&self.layout.document) }
    }

    fn all(&self) -> &[u8] {
        match &self.memory {
            Memory::Owned(bytes) => bytes,
            Memory::Borrowed(bytes) => bytes,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let bytes = match &mut self.memory {
            Memory::Owned(bytes) => bytes,
            Memory::Borrowed(bytes) => &mut **bytes,
        };
        bytes.get_mut(self.start..self.start + self.layout.len).unwrap_or_default()
    }

    #[cfg(feature = "tract")]
    fn logits_mut(&mut self) -> Option<[&mut [f32]; 2]> {
        let (sentences, document) = (self.layout.sentences.clone(), self.layout.document.clone());
        let bytes = self.bytes_mut().get_disjoint_mut([sentences, document]).ok()?;
        let [sentences, document] = bytes.map(|bytes| bytemuck::try_cast_slice_mut(bytes).ok());
        Some([sentences?, document?])
    }
}

/// Shows no numbers, because they come from the text.
impl fmt::Debug for EngineScratch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineScratch").finish_non_exhaustive()
    }
}

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
    /// The processor does not have the kernels.
    Kernels(Kernels),
    /// tract is asked for, and there is no ONNX graph, or this build has no tract.
    NoGraph,
    /// The arena is asked for, and the model cannot be lowered.
    #[cfg(feature = "tract")]
    Lower(LowerError),
    /// The model cannot be read, or has operators or types that tract does not know.
    #[cfg(feature = "tract")]
    Model(GraphError),
    /// The model fails on an input that the manifest allows, or gives logits of another shape than the manifest says.
    #[cfg(feature = "tract")]
    Input {
        /// Tokens of the input.
        tokens: usize,
        /// The cause.
        error: GraphError,
    },
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernels(kernels) => {
                write!(f, "this processor does not have the kernels {kernels}; choose others, or none")
            }
            Self::NoGraph => f.write_str(
                "tract needs the ONNX graph, which the bundle may leave out, and a program that is built with tract",
            ),
            #[cfg(feature = "tract")]
            Self::Lower(error) => write!(f, "the bundle's graph does not run on the arena: {error}"),
            #[cfg(feature = "tract")]
            Self::Model(GraphError(cause)) => {
                write!(f, "the bundle's graph cannot be read ({cause}); export the model again")
            }
            #[cfg(feature = "tract")]
            Self::Input { tokens, error: GraphError(cause) } => {
                write!(f, "the bundle's graph fails on {tokens} tokens ({cause}); export the model again")
            }
        }
    }
}

impl core::error::Error for EngineError {}

/// What the library below says of a graph. It is made before any text is there.
#[cfg(feature = "tract")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphError(String);

/// The engine failed on an input. It says no more, so that nothing of the text can get out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunError;

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the engine failed on the text; check the bundle with `kdh verify`")
    }
}

impl core::error::Error for RunError {}

/// Alignment of the arena, in bytes.
const ALIGNMENT: usize = 64;
/// `[CLS]`, one token of text, `[SEP]`.
#[cfg(feature = "tract")]
const SHORTEST: usize = 3;
