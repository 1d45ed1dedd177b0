//! Runs the graph of a bundle: token ids and sentence ids in, logits out.
//!
//! An [`Engine`] is immutable and shared between threads; what it writes to is the caller's [`EngineScratch`], one for
//! each thread. Today every graph runs on [tract](https://github.com/sonos/tract).

use core::fmt;

pub use crate::program::Shape;

mod tract;

/// A graph that is ready to run.
pub struct Engine {
    graph: tract::Graph,
    shape: Shape,
}

impl Engine {
    /// Reads and optimises an ONNX model, and runs it once on its shortest and once on its longest input, so that a
    /// graph that cannot take them fails here and not at the first long text.
    ///
    /// # Errors
    ///
    /// [`EngineError`] when the model cannot be read or run, or gives other logits than `shape` says.
    pub fn from_onnx(model: &[u8], shape: Shape) -> Result<Self, EngineError> {
        let engine = Self { graph: tract::Graph::new(model)?, shape };
        let mut scratch = engine.scratch();
        for tokens in [SHORTEST, shape.max_tokens.max(SHORTEST)] {
            engine.try_run(&mut scratch, tokens)?;
        }
        Ok(engine)
    }

    /// Memory for one thread's runs.
    pub fn scratch(&self) -> EngineScratch {
        let Shape { labels, max_sentences, .. } = self.shape;
        EngineScratch { sentences: vec![0.0; max_sentences * labels], document: vec![0.0; labels] }
    }

    /// Runs the graph on one text: `ids` and `sentence_ids` have one entry a token, the special tokens included; a
    /// sentence id is -1 for a token of no sentence.
    ///
    /// # Errors
    ///
    /// [`RunError`] when the input or the scratch does not fit the graph. It says nothing of the input.
    pub fn run<'s>(
        &self,
        scratch: &'s mut EngineScratch,
        ids: &[u32],
        sentence_ids: &[i32],
    ) -> Result<Logits<'s>, RunError> {
        let fits = scratch.document.len() == self.shape.labels
            && scratch.sentences.len() == self.shape.labels * self.shape.max_sentences
            && ids.len() == sentence_ids.len()
            && (1..=self.shape.max_tokens).contains(&ids.len());
        if !fits {
            return Err(RunError);
        }
        // The cause is dropped: tract's errors may show the values of tensors, which come from the text.
        self.graph.run(ids, sentence_ids, &mut scratch.sentences, &mut scratch.document).map_err(|_| RunError)?;
        Ok(scratch.logits())
    }

    /// Name and version of what runs the graph.
    pub fn name(&self) -> &'static str {
        tract::NAME
    }

    /// Names of the matrix kernels that were chosen for this processor.
    pub fn kernels(&self) -> &[String] {
        self.graph.kernels()
    }

    /// Runs an input without text: the highest token id, and every sentence id as far as the tokens reach.
    fn try_run(&self, scratch: &mut EngineScratch, tokens: usize) -> Result<(), EngineError> {
        let ids = vec![u32::try_from(self.shape.vocabulary.saturating_sub(1)).unwrap_or(u32::MAX); tokens];
        let last = i32::try_from(self.shape.max_sentences).unwrap_or(i32::MAX) - 1;
        let mut sentence_ids: Vec<i32> = (-1..).map(|id: i32| id.min(last)).take(tokens).collect();
        sentence_ids[tokens - 1] = -1;
        self.graph
            .run(&ids, &sentence_ids, &mut scratch.sentences, &mut scratch.document)
            .map_err(|error| EngineError::Input { tokens, error })
    }
}

/// Shows the shape, not the weights.
impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("name", &self.name()).field("shape", &self.shape).finish_non_exhaustive()
    }
}

/// Memory of one thread's runs.
pub struct EngineScratch {
    sentences: Vec<f32>,
    document: Vec<f32>,
}

impl EngineScratch {
    /// The logits of the last run.
    pub(crate) fn logits(&self) -> Logits<'_> {
        Logits { sentences: &self.sentences, document: &self.document }
    }
}

/// Shows no numbers, because they come from the text.
impl fmt::Debug for EngineScratch {
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
    /// The model cannot be read, or has operators or types that the engine does not know.
    Model(GraphError),
    /// The model fails on an input that the manifest allows, or gives logits of another shape than the manifest says.
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
            Self::Model(GraphError(cause)) => {
                write!(f, "the bundle's graph cannot be read ({cause}); export the model again")
            }
            Self::Input { tokens, error: GraphError(cause) } => {
                write!(f, "the bundle's graph fails on {tokens} tokens ({cause}); export the model again")
            }
        }
    }
}

impl core::error::Error for EngineError {}

/// What the library below says of a graph. It is made before any text is there.
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

/// `[CLS]`, one token of text, `[SEP]`.
const SHORTEST: usize = 3;
